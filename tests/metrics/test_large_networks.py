"""Synchformer and ImageBind: published names at full size; what they compute, narrow, against peers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    ASTConfig,
    ASTModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function
from typer.testing import CliRunner

from kinetophone.cli import app
from kinetophone.errors import RequestError
from kinetophone.media import Clip
from kinetophone.metrics.features import Extractor
from kinetophone.metrics.kinds.binding import bound_clip
from kinetophone.metrics.kinds.desync import OFFSETS_S, desync
from kinetophone.metrics.networks import convert, load
from kinetophone.metrics.networks.imagebind import ImageBind
from kinetophone.metrics.networks.synchformer import Synchformer, log_mel

Shapes = dict[str, tuple[int, ...]]


def linear(name: str, out: int, width: int) -> Shapes:
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def packed_attention(name: str, width: int, out: str = "out_proj") -> Shapes:
    packed = {f"{name}.in_proj_weight": (3 * width, width), f"{name}.in_proj_bias": (3 * width,)}
    return packed | linear(f"{name}.{out}", width, width)


def synchformer_shapes(d: int = 768) -> Shapes:
    """The published state dict, what is not used here too."""
    v, a, t = "vfeat_extractor", "afeat_extractor", "transformer"
    shapes: Shapes = {
        f"{v}.cls_token": (1, 1, d),
        f"{v}.pos_embed": (1, 197, d),
        f"{v}.temp_embed": (1, 8, d),
        f"{v}.patch_embed.proj.weight": (d, 3, 16, 16),
        f"{v}.patch_embed.proj.bias": (d,),
        f"{v}.patch_embed_3d.proj.weight": (d, 3, 2, 16, 16),
        f"{v}.patch_embed_3d.proj.bias": (d,),
        f"{a}.ast.embeddings.cls_token": (1, 1, d),
        f"{a}.ast.embeddings.distillation_token": (1, 1, d),
        f"{a}.ast.embeddings.position_embeddings": (1, 74, d),
        f"{a}.ast.embeddings.patch_embeddings.projection.weight": (d, 1, 16, 16),
        f"{a}.ast.embeddings.patch_embeddings.projection.bias": (d,),
        f"{t}.OFF_tok": (1, 1, d),
        f"{t}.MOD_tok": (1, 1, d),
        f"{t}.pos_emb_cfg.pos_emb": (1, 198, d),
    }
    for block in range(12):
        at = f"{v}.blocks.{block}"
        shapes |= norm(f"{at}.norm1", d) | norm(f"{at}.norm2", d) | norm(f"{at}.norm3", d)
        for attention in ("attn", "timeattn"):
            shapes |= linear(f"{at}.{attention}.qkv", 3 * d, d) | linear(f"{at}.{attention}.proj", d, d)
        shapes |= linear(f"{at}.mlp.fc1", 4 * d, d) | linear(f"{at}.mlp.fc2", d, 4 * d)
        at = f"{a}.ast.encoder.layer.{block}"
        shapes |= norm(f"{at}.layernorm_before", d) | norm(f"{at}.layernorm_after", d)
        for part in ("query", "key", "value"):
            shapes |= linear(f"{at}.attention.attention.{part}", d, d)
        shapes |= linear(f"{at}.attention.output.dense", d, d)
        shapes |= linear(f"{at}.intermediate.dense", 4 * d, d) | linear(f"{at}.output.dense", d, 4 * d)
    for at in (f"{v}.spatial_attn_agg", f"{a}.freq_attn_agg"):
        shapes |= {f"{at}.cls_token": (1, 1, d)} | packed_attention(f"{at}.self_attn", d)
        shapes |= linear(f"{at}.linear1", 4 * d, d) | linear(f"{at}.linear2", d, 4 * d)
        shapes |= norm(f"{at}.norm1", d) | norm(f"{at}.norm2", d)
    shapes |= norm(f"{v}.norm", d) | norm(f"{a}.ast.layernorm", d)
    shapes |= linear("vproj", d, d) | linear("aproj", d, d)
    for block in range(3):
        at = f"{t}.blocks.{block}"
        shapes |= norm(f"{at}.ln1", d) | norm(f"{at}.ln2", d)
        for part in ("key", "query", "value", "proj"):
            shapes |= linear(f"{at}.attn.{part}", d, d)
        shapes |= linear(f"{at}.mlp.0", 4 * d, d) | linear(f"{at}.mlp.2", d, 4 * d)
    shapes |= norm(f"{t}.vis_in_lnorm", d) | norm(f"{t}.aud_in_lnorm", d) | norm(f"{t}.ln_f", d)
    return shapes | linear(f"{t}.off_head", 21, d)


def imagebind_shapes() -> Shapes:
    """The published state dict, with one tensor of each kind that is not used here."""
    stem, trunk, head = "modality_preprocessors", "modality_trunks", "modality_heads"
    shapes: Shapes = {
        f"{stem}.vision.cls_token": (1, 1, 1280),
        f"{stem}.vision.rgbt_stem.proj.1.weight": (1280, 3, 2, 14, 14),
        f"{stem}.vision.pos_embedding_helper.pos_embed": (1, 257, 1280),
        f"{stem}.text.token_embedding.weight": (49408, 1024),
        f"{stem}.text.pos_embed": (1, 77, 1024),
        f"{stem}.text.mask": (77, 77),
        f"{stem}.audio.cls_token": (1, 1, 768),
        f"{stem}.audio.rgbt_stem.proj.weight": (768, 1, 16, 16),
        f"{stem}.audio.pos_embedding_helper.pos_embed": (1, 229, 768),
        f"{stem}.depth.cls_token": (1, 1, 384),
        f"{trunk}.imu.blocks.0.attn.bias_k": (1, 1, 512),
        f"{head}.thermal.2.weight": (1024, 768),
        f"{head}.vision.2.weight": (1024, 1280),
        f"{head}.text.proj.1.weight": (1024, 1024),
        f"{head}.audio.2.weight": (1024, 768),
        "modality_postprocessors.text.1.log_logit_scale": (),
        "modality_postprocessors.audio.1.log_logit_scale": (),
    }
    shapes |= norm(f"{stem}.audio.rgbt_stem.norm_layer", 768)
    shapes |= norm(f"{trunk}.vision.pre_transformer_layer.0", 1280)
    shapes |= (
        norm(f"{head}.vision.0", 1280) | norm(f"{head}.text.proj.0", 1024) | norm(f"{head}.audio.0", 768)
    )
    for name, width, depth in (("vision", 1280, 32), ("text", 1024, 24), ("audio", 768, 12)):
        for block in range(depth):
            at = f"{trunk}.{name}.blocks.{block}"
            shapes |= packed_attention(f"{at}.attn", width)
            if name == "audio":
                shapes |= {f"{at}.attn.bias_{part}": (1, 1, width) for part in "kv"}
            shapes |= norm(f"{at}.norm_1", width) | norm(f"{at}.norm_2", width)
            shapes |= linear(f"{at}.mlp.fc1", 4 * width, width) | linear(f"{at}.mlp.fc2", width, 4 * width)
    return shapes


@pytest.mark.parametrize(
    ("name", "shapes", "parameters"),
    [
        ("synchformer", synchformer_shapes(), 236_869_653),
        ("imagebind", imagebind_shapes(), 1_073_097_728),
    ],
)
def test_published_names_and_shapes_at_full_size(
    name: str, shapes: Shapes, parameters: int, tmp_path: Path
) -> None:
    network = load.empty_network(name)
    assert sum(p.numel() for p in network.parameters()) == parameters
    # Of one number each, so that the file is small and the shapes are the published ones.
    state = {f"module.{key}": torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    selected = type(network).select({key.removeprefix("module."): x for key, x in state.items()})
    assert {key: tuple(x.shape) for key, x in network.state_dict().items()} == {
        key: tuple(x.shape) for key, x in selected.items()
    }
    dropped = next(key for key in state if "blocks.3" in key or "layer.3" in key)
    del state[dropped]
    torch.save({"model": state}, tmp_path / "weights.pth")
    with pytest.raises(RequestError, match=f"lacks 1 tensors: {dropped.removeprefix('module.')}$"):
        convert.convert_metric(
            name, tmp_path / "weights.pth", tmp_path / "out.safetensors", allow_pickle=True
        )


def seeded(network: nn.Module) -> nn.Module:
    """Weights large enough that each matters, and small enough that nothing saturates."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return network.eval()


def heads_of(x: Tensor, heads: int) -> Tensor:
    return x.reshape(*x.shape[:-1], heads, -1).transpose(-2, -3)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """By the formula, (L, D)."""
    q, k, v = (heads_of(x, heads) for x in (query, key, value))
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    return (weights @ v).transpose(-2, -3).flatten(-2)


def affine(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def normed(state: dict[str, Tensor], name: str, x: Tensor, eps: float) -> Tensor:
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + eps).sqrt()
    return x * state[f"{name}.weight"] + state[f"{name}.bias"]


def pooled_by_hand(state: dict[str, Tensor], at: str, x: Tensor, heads: int) -> Tensor:
    """(L, D) to (D,)."""
    x = torch.cat([state[f"{at}.cls_token"][0], x])
    inner = normed(state, f"{at}.norm1", x, 1e-6)
    packed = F.linear(inner, state[f"{at}.self_attn.in_proj_weight"], state[f"{at}.self_attn.in_proj_bias"])
    x = x + affine(state, f"{at}.self_attn.out_proj", attend(*packed.chunk(3, -1), heads))
    inner = normed(state, f"{at}.norm2", x, 1e-6)
    return (x + affine(state, f"{at}.linear2", F.gelu(affine(state, f"{at}.linear1", inner))))[0]


def divided_by_hand(state: dict[str, Tensor], at: str, x: Tensor, groups: list[Tensor]) -> Tensor:
    """Attention of (L, D) in ``groups`` of tokens, each with the first; the first with all."""
    query, key, value = affine(state, f"{at}.qkv", x).chunk(3, -1)
    out = torch.zeros_like(x)
    out[:1] = attend(query[:1], key, value, 3)
    for group in groups:
        seen = torch.cat([torch.tensor([0]), group])
        out[group] = attend(query[group], key[seen], value[seen], 3)
    return affine(state, f"{at}.proj", out)


def motionformer_by_hand(state: dict[str, Tensor], frames: Tensor) -> Tensor:
    """Frames (3, 16, 224, 224) to (8, D)."""
    tokens = [
        F.conv3d(
            frames[None, :, 2 * t : 2 * t + 2],
            state["patch_embed_3d.proj.weight"],
            state["patch_embed_3d.proj.bias"],
            stride=(2, 16, 16),
        )[0]
        .flatten(1)
        .T
        + state["pos_embed"][0, 1:]
        + state["temp_embed"][0, t]
        for t in range(8)
    ]
    x = torch.cat([state["cls_token"][0] + state["pos_embed"][0, :1], *tokens])
    number = 1 + torch.arange(8 * 196).reshape(8, 196)
    for block in range(2):
        at = f"blocks.{block}"
        inner = normed(state, f"{at}.norm3", x, 1e-6)
        x = x + divided_by_hand(state, f"{at}.timeattn", inner, list(number.T))
        inner = normed(state, f"{at}.norm1", x, 1e-6)
        x = x + divided_by_hand(state, f"{at}.attn", inner, list(number))
        inner = normed(state, f"{at}.norm2", x, 1e-6)
        x = x + affine(state, f"{at}.mlp.fc2", F.gelu(affine(state, f"{at}.mlp.fc1", inner)))
    x = normed(state, "norm", x, 1e-6)
    return torch.stack([pooled_by_hand(state, "spatial_attn_agg", x[row], 3) for row in number])


def test_synchformer_sees_as_the_formulas_say() -> None:
    network = seeded(Synchformer(192, 2))
    frames = torch.rand((2, 3, 16, 224, 224), generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        found = network.vfeat_extractor(frames)  # type: ignore[operator]
        state = network.vfeat_extractor.state_dict()  # type: ignore[union-attr]
        expected = torch.stack([motionformer_by_hand(state, one) for one in frames])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert found.std(1).mean() > 1e-3  # not the same at all times


def test_synchformer_hears_as_the_spectrogram_transformer_of_transformers() -> None:
    network = seeded(Synchformer(192, 2))
    config = ASTConfig(
        hidden_size=192, num_hidden_layers=2, num_attention_heads=3, intermediate_size=768, max_length=66
    )
    peer = ASTModel(config).eval()
    ours = network.afeat_extractor.ast.state_dict()  # type: ignore[union-attr]
    # Their names have changed since; both are in the order of the layers.
    theirs = [key for key in peer.state_dict() if not key.startswith("embeddings")]
    for key in theirs:
        name = key
        for new, old in (
            ("layers.", "encoder.layer."),
            ("attention.q_proj", "attention.attention.query"),
            ("attention.k_proj", "attention.attention.key"),
            ("attention.v_proj", "attention.attention.value"),
            ("attention.o_proj", "attention.output.dense"),
            ("mlp.fc1", "intermediate.dense"),
            ("mlp.fc2", "output.dense"),
        ):
            name = name.replace(new, old)
        peer.state_dict()[key].copy_(ours[name])
    for key in peer.state_dict():
        if key.startswith("embeddings"):
            peer.state_dict()[key].copy_(ours[key])
    sound = torch.randn((2, 10240), generator=torch.Generator().manual_seed(1)) * 0.1
    mel = log_mel(sound)
    with torch.no_grad():
        found = network.afeat_extractor.ast(mel)  # type: ignore[union-attr, operator]
        expected = peer(mel).last_hidden_state
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        pooled = network.afeat_extractor(mel)  # type: ignore[operator]
        state = network.afeat_extractor.state_dict()  # type: ignore[union-attr]
        one = expected[1, 2:].reshape(12, 6, 192)
        by_hand = [pooled_by_hand(state, "freq_attn_agg", one[:, step], 3) for step in range(6)]
    torch.testing.assert_close(pooled[1], torch.stack(by_hand), atol=1e-4, rtol=1e-4)


def test_the_spectrogram_of_synchformer() -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 10240)
    filters = mel_filter_bank(513, 128, 0.0, 8000.0, 16_000, norm=None, mel_scale="htk")
    mel = spectrogram(
        sound, window_function(400, "hann"), 400, 160, fft_length=1024, power=2.0, mel_filters=filters
    )
    expected = np.pad(np.log(mel + 1e-6), [(0, 0), (0, 1)])  # 65 windows of the 66
    expected = (expected + 4.2677393) / (2 * 4.5689974)
    found = log_mel(torch.from_numpy(sound.astype(np.float32))[None])[0].numpy()
    np.testing.assert_allclose(found, expected.T, atol=2e-4)


def test_synchformer_tells_offsets_from_all_segments() -> None:
    network = seeded(Synchformer(192, 1))
    state = network.transformer.state_dict()  # type: ignore[union-attr]
    generator = torch.Generator().manual_seed(1)
    seen, heard = (torch.randn((1, n, 192), generator=generator) for n in (112, 84))
    x = torch.cat(
        [
            state["OFF_tok"][0],
            normed(state, "vis_in_lnorm", seen[0], 1e-5),
            state["MOD_tok"][0],
            normed(state, "aud_in_lnorm", heard[0], 1e-5),
        ]
    )
    x = x + state["pos_emb_cfg.pos_emb"][0]
    for block in range(3):
        at = f"blocks.{block}"
        inner = normed(state, f"{at}.ln1", x, 1e-5)
        parts = [affine(state, f"{at}.attn.{name}", inner) for name in ("query", "key", "value")]
        x = x + affine(state, f"{at}.attn.proj", attend(*parts, 2))
        inner = normed(state, f"{at}.ln2", x, 1e-5)
        x = x + affine(state, f"{at}.mlp.2", F.gelu(affine(state, f"{at}.mlp.0", inner)))
    expected = affine(state, "off_head", normed(state, "ln_f", x[:1], 1e-5))
    with torch.no_grad():
        found = network.transformer(seen, heard)  # type: ignore[operator]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def narrow_imagebind() -> nn.Module:
    return seeded(ImageBind((64, 2, 4), (48, 2, 3), (32, 2, 2), 24))


def clip_layers(state: dict[str, Tensor], trunk: str, peer: nn.Module, layers: str) -> None:
    """Copies the blocks of one of our transformers into those of a CLIP."""
    theirs = peer.state_dict()
    names = {"layer_norm1": "norm_1", "layer_norm2": "norm_2", "self_attn.out_proj": "attn.out_proj"}
    names |= {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    for block in range(2):
        ours = f"{trunk}.blocks.{block}"
        for new, old in names.items():
            for kind in ("weight", "bias"):
                theirs[f"{layers}.{block}.{new}.{kind}"].copy_(state[f"{ours}.{old}.{kind}"])
        for kind in ("weight", "bias"):
            packed = state[f"{ours}.attn.in_proj_{kind}"].chunk(3)
            for part, x in zip("qkv", packed, strict=True):
                theirs[f"{layers}.{block}.self_attn.{part}_proj.{kind}"].copy_(x)


def test_imagebind_sees_as_a_clip_does() -> None:
    network = narrow_imagebind()
    state = network.state_dict()
    config = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=224,
        patch_size=14,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
        projection_dim=24,
    )
    peer = CLIPVisionModelWithProjection(config).eval()
    theirs = peer.state_dict()
    stem, at = "modality_preprocessors.vision", "vision_model"
    theirs[f"{at}.embeddings.class_embedding"].copy_(state[f"{stem}.cls_token"][0, 0])
    # A frame twice: what two frames weigh, added.
    weight = state[f"{stem}.rgbt_stem.proj.1.weight"].sum(2)
    theirs[f"{at}.embeddings.patch_embedding.weight"].copy_(weight)
    theirs[f"{at}.embeddings.position_embedding.weight"].copy_(
        state[f"{stem}.pos_embedding_helper.pos_embed"][0]
    )
    for kind in ("weight", "bias"):
        theirs[f"{at}.pre_layrnorm.{kind}"].copy_(
            state[f"modality_trunks.vision.pre_transformer_layer.0.{kind}"]
        )
        theirs[f"{at}.post_layernorm.{kind}"].copy_(state[f"modality_heads.vision.0.{kind}"])
    theirs["visual_projection.weight"].copy_(state["modality_heads.vision.2.weight"])
    clip_layers(state, "modality_trunks.vision", peer, f"{at}.encoder.layers")
    frames = torch.rand((1, 5, 3, 224, 224), generator=torch.Generator().manual_seed(1))
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    with torch.no_grad():
        expected = peer(((frames - mean) / std)[0]).image_embeds
        expected = F.normalize(expected, dim=-1).mean(0, keepdim=True)
        # Five pairs, of frames that are half of the clip apart.
        found = network.frames(torch.cat([frames, frames], dim=1))  # type: ignore[operator]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_imagebind_reads_as_a_clip_does() -> None:
    network = narrow_imagebind()
    state = network.state_dict()
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=48,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=3,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
        projection_dim=24,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=1,
    )
    peer = CLIPTextModelWithProjection(config).eval()
    theirs = peer.state_dict()
    stem, at = "modality_preprocessors.text", "text_model"
    theirs[f"{at}.embeddings.token_embedding.weight"].copy_(state[f"{stem}.token_embedding.weight"])
    theirs[f"{at}.embeddings.position_embedding.weight"].copy_(state[f"{stem}.pos_embed"][0])
    for kind in ("weight", "bias"):
        theirs[f"{at}.final_layer_norm.{kind}"].copy_(state[f"modality_heads.text.proj.0.{kind}"])
    theirs["text_projection.weight"].copy_(state["modality_heads.text.proj.1.weight"])
    clip_layers(state, "modality_trunks.text", peer, f"{at}.encoder.layers")
    tokens = torch.full((3, 77), 49407)
    tokens[:, 0] = 49406
    for row, length in enumerate((1, 5, 75)):
        words = torch.randint(0, 49406, (length,), generator=torch.Generator().manual_seed(row))
        tokens[row, 1 : 1 + length] = words
    with torch.no_grad():
        found = network.texts(tokens)  # type: ignore[operator]
        expected = peer(tokens).text_embeds
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_imagebind_hears_as_the_formulas_say(recwarn: pytest.WarningsRecorder) -> None:
    network = narrow_imagebind()
    state = network.state_dict()
    sound = np.random.default_rng(1).normal(0, 0.1, 32_000).astype(np.float32)
    # Kaldi's filter bank: windows without their mean, each sample less 0.97 of the one before.
    windows = np.lib.stride_tricks.sliding_window_view(sound.astype(np.float64), 400)[::160].copy()
    windows -= windows.mean(1, keepdims=True)
    windows = np.concatenate([windows[:, :1] * (1 - 0.97), windows[:, 1:] - 0.97 * windows[:, :-1]], axis=1)
    power = np.abs(np.fft.rfft(windows * window_function(400, "hann", periodic=False), 512)) ** 2
    mel = 1127 * np.log(1 + np.linspace(0, 8000, 257) / 700)[:, None]
    edges = np.linspace(1127 * np.log(1 + 20 / 700), 1127 * np.log(1 + 8000 / 700), 130)
    up = (mel - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - mel) / (edges[2:] - edges[1:-1])
    logs = np.log(np.maximum(power @ np.clip(np.minimum(up, down), 0, None), 1.192092955078125e-07))
    logs = np.pad(logs, [(0, 204 - len(logs)), (0, 0)])
    spectrum = torch.from_numpy(((logs + 4.268) / 9.138).T.astype(np.float32))
    stem, trunk = "modality_preprocessors.audio", "modality_trunks.audio"
    patches = F.conv2d(spectrum[None, None], state[f"{stem}.rgbt_stem.proj.weight"], stride=10)[0]
    x = normed(state, f"{stem}.rgbt_stem.norm_layer", patches.flatten(1).T, 1e-5)
    x = torch.cat([state[f"{stem}.cls_token"][0], x]) + state[f"{stem}.pos_embedding_helper.pos_embed"][0]
    for block in range(2):
        at = f"{trunk}.blocks.{block}"
        inner = normed(state, f"{at}.norm_1", x, 1e-6)
        packed = F.linear(inner, state[f"{at}.attn.in_proj_weight"], state[f"{at}.attn.in_proj_bias"])
        query, key, value = packed.chunk(3, -1)
        key = torch.cat([key, state[f"{at}.attn.bias_k"][0]])
        value = torch.cat([value, state[f"{at}.attn.bias_v"][0]])
        x = x + affine(state, f"{at}.attn.out_proj", attend(query, key, value, 2))
        inner = normed(state, f"{at}.norm_2", x, 1e-6)
        x = x + affine(state, f"{at}.mlp.fc2", F.gelu(affine(state, f"{at}.mlp.fc1", inner)))
    expected = F.linear(
        normed(state, "modality_heads.audio.0", x[:1], 1e-6), state["modality_heads.audio.2.weight"]
    )
    with torch.no_grad():
        found = network.sound(torch.from_numpy(sound)[None])  # type: ignore[operator]
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)
    assert not [warning for warning in recwarn if "mel filter" in str(warning.message)]


NARROW = {
    "synchformer": lambda: Synchformer(192, 1),
    "imagebind": lambda: ImageBind((64, 1, 4), (48, 1, 3), (32, 1, 2), 24),
}


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The conversion and the loading of networks that are small enough for a test."""

    def empty(network: str) -> nn.Module:
        with torch.device("meta"):
            return NARROW[network]().eval()

    monkeypatch.setattr(convert, "empty_network", empty)
    monkeypatch.setattr(load, "empty_network", empty)


def converted(name: str, folder: Path, out: str) -> Path:
    whole = seeded(NARROW[name]()).state_dict()
    torch.save({"module." + key: x for key, x in whole.items()}, folder / f"{name}.pth")
    arguments = ["convert", "metric", name, str(folder / f"{name}.pth"), "-o", str(folder / out)]
    result = CliRunner().invoke(app, [*arguments, "--allow-pickle"])
    assert (result.exit_code, result.stdout.strip()) == (0, str(folder / out)), result.output
    made = load_file(folder / out)
    assert made.keys() == whole.keys()
    assert all(torch.equal(made[key], x) for key, x in whole.items())
    return folder / out


def sounding_clip(seconds: int = 6) -> Clip:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (8 * seconds, 32, 40, 3), dtype=np.uint8)
    return Clip(frames, 8, rng.normal(0, 0.1, 16_000 * seconds).astype(np.float32), 16_000)


@pytest.mark.usefixtures("narrow")
def test_synchformer_is_converted_and_tells_offsets(tmp_path: Path) -> None:
    file = converted("synchformer", tmp_path, "synchformer.safetensors")
    Extractor(synchformer=str(file)).check()  # without consent to anything
    found = desync(sounding_clip(), str(file))
    assert found.shape == (2, 1)
    assert set(found[:, 0].tolist()) <= set(np.float32(OFFSETS_S).tolist())


@pytest.mark.usefixtures("narrow")
def test_imagebind_is_converted_and_binds(tmp_path: Path) -> None:
    folder = tmp_path / "imagebind"
    folder.mkdir()
    file = converted("imagebind", folder, "model.safetensors")
    (folder / "imagebind.pth").rename(folder / "model.pt")  # what is converted comes first
    Extractor(imagebind=str(folder)).check()
    found = bound_clip(sounding_clip(3), str(folder), "imagebind")
    for name in ("imagebind_sound", "imagebind_frames"):
        assert found[name].shape == (1, 24)
        np.testing.assert_allclose(np.linalg.norm(found[name]), 1, atol=1e-5)
    file.unlink()
    with pytest.raises(
        RequestError, match=r"convert metric imagebind .* -o model\.safetensors --allow-pickle"
    ):
        Extractor(imagebind=str(folder), allow_torchscript=True).check()

"""Networks of the measures: from where, in which format, and with whose consent they are loaded."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    ClapAudioConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextConfig,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
)
from typer.testing import CliRunner

import standin_hub
import tiny
from kinetophone.cli import app
from kinetophone.errors import RequestError
from kinetophone.hub.weights import file_format
from kinetophone.media import Clip
from kinetophone.metrics.features import Extractor
from kinetophone.metrics.kinds.clap import clap_audio
from kinetophone.metrics.kinds.clip import clip_frames
from kinetophone.metrics.kinds.fad import vggish_features, vggish_log_mel
from kinetophone.metrics.kinds.fvd import i3d_features
from kinetophone.metrics.networks.convert import convert_metric
from kinetophone.metrics.networks.load import empty_network, load
from kinetophone.metrics.networks.transformer import _model_and_processor, text_features
from standin_hub import Elsewhere

CONSENT = r"TorchScript, which can run code: if you trust its source, add --allow-torchscript, in Python"
CLIP = Clip(np.zeros((8, 32, 32, 3), np.uint8), 8, np.zeros(8000, np.float32), 8000)


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


@pytest.fixture
def script(tmp_path: Path) -> Path:
    torch.jit.script(Twice()).save(tmp_path / "script.pt")
    return tmp_path / "script.pt"


def test_torchscript_is_loaded_only_with_consent(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.delattr(torch.jit, "load")  # nor is anything of it loaded to find out what it is
        with pytest.raises(RequestError, match=f"^'{script}' is {CONSENT}"):
            load(str(script), "languagebind")
    assert load(str(script), "languagebind", allow_torchscript=True)(torch.ones(1)).item() == 2
    # Consent is not remembered.
    with pytest.raises(RequestError, match=CONSENT):
        load(str(script), "languagebind")


@pytest.mark.parametrize("name", ["i3d", "vggish", "synchformer", "imagebind", "languagebind"])
def test_every_torchscript_network_needs_consent(name: str, script: Path) -> None:
    named = script
    if name.endswith("bind"):
        script.rename(script.with_name("model.pt"))
        named = script.parent
    with pytest.raises(RequestError, match=CONSENT) as caught:
        Extractor(**{name: str(named)}).check()
    assert len(str(caught.value).splitlines()) == 1


def test_all_refusals_come_at_once(script: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        Extractor(i3d=str(script), vggish=str(tmp_path / "none.pt"), clap=str(tmp_path)).check()
    assert len(caught.value.problems) == 3


def test_formats_are_told_by_their_content(script: Path, tmp_path: Path) -> None:
    tensors = {"x": torch.ones(1)}
    torch.save(tensors, tmp_path / "new")
    torch.save(tensors, tmp_path / "old", _use_new_zipfile_serialization=False)
    save_file(tensors, tmp_path / "safe")
    (tmp_path / "empty").touch()
    (tmp_path / "page").write_text("<html>Sign in to download</html>")
    (tmp_path / "cut").write_bytes(script.read_bytes()[:200])
    expected = {"new": "pickle", "old": "pickle", "safe": "safetensors", "script.pt": "torchscript"}
    expected |= dict.fromkeys(["empty", "page", "cut"])
    assert {name: file_format(tmp_path / name) for name in expected} == expected


@pytest.mark.parametrize("kind", ["new", "old", "safe", "page"])
def test_weights_where_torchscript_is_wanted(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    tensors = {"x": torch.ones(1)}
    if kind == "safe":
        save_file(tensors, file)
    elif kind == "page":
        file.write_text("<html>Sign in to download</html>")
    else:
        torch.save(tensors, file, _use_new_zipfile_serialization=kind == "new")
    found = {"safe": "is safetensors, weights", "page": "is not TorchScript"}.get(kind, "is a pickled state")
    with pytest.raises(RequestError, match=found) as caught:
        Extractor(languagebind=str(tmp_path), allow_torchscript=True).check()
    assert len(str(caught.value).splitlines()) == 1


# Run in a process that knows the stand-in for the Hub alone.
ON_THE_HUB = """
import sys
from typer.testing import CliRunner
from kinetophone.cli import app
for line in sys.argv[1:]:
    options = line.split()
    result = CliRunner().invoke(app, ["evaluate", "clips", "--metrics", "desync", *options])
    print(result.exit_code, result.stderr.strip().replace(chr(10), " | "))
"""


def test_what_the_hub_has_is_loaded_by_consent_and_torchscript_at_a_commit(
    script: Path, elsewhere: Elsewhere
) -> None:
    home = elsewhere.root / "some" / "networks"
    home.mkdir(parents=True)
    script.rename(home / "sync.pt")
    torch.save({"x": torch.ones(1)}, home / "state.pth")
    for name in ("refused.pt", "misnamed.safetensors"):
        shutil.copy(home / "sync.pt", home / name)
    save_file(i3d_state(), home / "i3d.safetensors", metadata={"network": "i3d"})
    pickled(clap_folder(elsewhere.root / "some" / "clap"))
    at = f"@{standin_hub.COMMIT}/"
    consent = "--allow-torchscript"
    lines = [
        f"--synchformer some/networks/refused.pt {consent}",
        f"--synchformer some/networks@main/refused.pt {consent}",
        f"--synchformer some/networks@{standin_hub.COMMIT[:10]}/refused.pt {consent}",
        f"--synchformer some/networks{at}refused.pt",
        "--synchformer some/networks/refused.pt",
        f"--synchformer some/networks@{'f' * 40}/sync.pt {consent}",
        f"--synchformer some/networks{at}state.pth {consent}",
        f"--synchformer some/networks{at}sync.pt {consent}",
        f"--synchformer some/networks/misnamed.safetensors {consent}",
        "--metrics fvd --reference clips --i3d some/networks/i3d.safetensors",
        "--metrics clap --reference clips --clap some/clap",
        f"--metrics clap --reference clips --clap some/clap@{standin_hub.COMMIT} --allow-pickle",
    ]
    with elsewhere.online() as (_, asked):
        found = elsewhere.run(ON_THE_HUB, *lines)
    assert "sync.pt" in asked
    assert "refused.pt" not in asked  # nothing is fetched without consent
    pin = "written 'some/networks@COMMIT/refused.pt' (40 hexadecimal digits"
    whys = (
        "it names no commit",
        "names 'main', which is no commit",
        "names '0123456789', which is no commit",
    )
    for line, why in zip(found[:3], whys, strict=True):
        assert line.startswith("2 error: ")
        assert why in line
        assert pin in line
        assert "|" not in line
    assert f"'some/networks{at}refused.pt' may be TorchScript, which can run code" in found[3]
    assert "|" not in found[3]
    assert found[4].count("error:") == 2  # pin and consent
    assert f"'some/networks' has no revision '{'f' * 40}' on the Hub" in found[5]
    assert "is a pickled state dict" in found[6]
    assert "'clips' is not a folder" in found[7]  # the network was loaded
    assert "it names no commit" in found[8]
    assert "'clips' is not a folder" in found[9]  # safetensors run no code
    assert "'some/clap', for some parts, has only pickled weights (pytorch_model.bin)" in found[10]
    assert "'clips' is not a folder" in found[11]


def clap_folder(folder: Path) -> Path:
    text = {"vocab_size": len(tiny.WORDS), "hidden_size": 16, "intermediate_size": 16}
    audio = {
        "spec_size": 64, "num_mel_bins": 32, "patch_size": 4, "patch_stride": [4, 4], "window_size": 4,
        "patch_embeds_hidden_size": 16, "depths": [1, 1], "num_attention_heads": [2, 2],
        "num_hidden_layers": 2, "hidden_size": 32, "projection_dim": 8,
    }  # fmt: skip
    config = ClapConfig(
        text_config=ClapTextConfig(
            **text, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=12, pad_token_id=2
        ).to_dict(),
        audio_config=ClapAudioConfig(**audio).to_dict(),
        projection_dim=8,
    )
    ClapModel(config).save_pretrained(folder)
    ClapFeatureExtractor(
        feature_size=32, sampling_rate=48_000, max_length_s=1, truncation="rand_trunc"
    ).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def clip_folder(folder: Path) -> Path:
    shared = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = CLIPTextConfig(
        vocab_size=len(tiny.WORDS), max_position_embeddings=8,
        bos_token_id=0, eos_token_id=1, pad_token_id=2, **shared,
    )  # fmt: skip
    seen = CLIPVisionConfig(image_size=16, patch_size=8, **shared)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=seen.to_dict(), projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    size = {"height": 16, "width": 16}
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=size).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def pickled(folder: Path) -> Path:
    """The same folder with its weights in a pickle."""
    safe = folder / "model.safetensors"
    torch.save(load_file(safe), folder / "pytorch_model.bin")
    safe.unlink()
    return folder


def features(kind: str, folder: Path, **consent: Any) -> np.ndarray:
    if kind == "clap":
        return clap_audio(CLIP, str(folder), **consent)
    return clip_frames(CLIP.video, str(folder), **consent)


@pytest.mark.parametrize(("kind", "make"), [("clap", clap_folder), ("clip", clip_folder)])
def test_clap_and_clip_are_safetensors_unless_agreed_otherwise(kind: str, make: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    safe = make(tmp_path / "safe")
    Extractor(**{kind: str(safe)}).check()
    expected = features(kind, safe)
    assert np.linalg.norm(expected, axis=-1) == pytest.approx(np.ones(len(expected)), abs=1e-5)
    assert text_features(["a metal bowl"], str(safe)).shape == (1, 8)
    pickle = pickled(shutil.copytree(safe, tmp_path / "pickle"))
    with pytest.raises(
        RequestError, match=r"has only pickled weights \(pytorch_model\.bin\).*--allow-pickle"
    ):
        Extractor(**{kind: str(pickle)}).check()
    Extractor(**{kind: str(pickle), "allow_pickle": True}).check()
    np.testing.assert_allclose(features(kind, pickle, allow_pickle=True), expected, atol=1e-6)


def test_a_model_of_another_kind_or_without_words_is_refused(tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "clip")
    with pytest.raises(RequestError, match=r"^'.*clip' is a CLIPModel; it must be a CLAP model$"):
        Extractor(clap=str(folder)).check()
    wordless = shutil.copytree(folder, tmp_path / "wordless")
    (wordless / "tokenizer.json").unlink()
    with pytest.raises(RequestError, match=r"^'.*wordless' has no tokenizer"):
        Extractor(clip=str(wordless)).check()
    (folder / "model.safetensors").write_bytes(b"cut")
    _model_and_processor.cache_clear()
    with pytest.raises(RequestError, match=r"^.*clip/model\.safetensors is damaged") as caught:
        Extractor(clip=str(folder)).check()
    assert len(str(caught.value).splitlines()) == 1


def test_the_command_passes_consent_on(script: Path, tmp_path: Path) -> None:
    def refusal(*options: str) -> str:
        result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "no"), *options])
        assert result.exit_code == 2
        return result.stderr

    folder = pickled(clip_folder(tmp_path / "clip"))
    captions = tmp_path / "captions.csv"
    captions.write_text("file,caption\n0.mp4,a bowl\n")
    clip = ["--metrics", "clip", "--clip", str(folder), "--captions", str(captions)]
    desync = ["--metrics", "desync", "--synchformer", str(script)]
    assert "--allow-pickle" in refusal(*clip)
    assert "no' is not a folder" in refusal(*clip, "--allow-pickle")
    assert "--allow-torchscript" in refusal(*desync)
    assert "no' is not a folder" in refusal(*desync, "--allow-torchscript")


# The published state dicts: names, and shapes of weights.
VGGISH = {
    "features.0": (64, 1, 3, 3),
    "features.3": (128, 64, 3, 3),
    "features.6": (256, 128, 3, 3),
    "features.8": (256, 256, 3, 3),
    "features.11": (512, 256, 3, 3),
    "features.13": (512, 512, 3, 3),
    "embeddings.0": (4096, 12288),
    "embeddings.2": (4096, 4096),
    "embeddings.4": (128, 4096),
}
INCEPTION = {
    "3b": (192, 64, 96, 128, 16, 32, 32),
    "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}


def vggish_state() -> dict[str, Tensor]:
    """Seeded weights under the published names, of a size that keeps what passes through them in range."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in VGGISH.items():
        scale = (3 / np.prod(shape[1:])) ** 0.5
        # Rows repeat: 72 million random numbers would take most of the test's time.
        rows = min(shape[0], 64)
        weight = scale * (2 * torch.rand((rows, *shape[1:]), generator=generator) - 1)
        state[f"{name}.weight"] = weight.repeat(shape[0] // rows, *[1] * (len(shape) - 1))
        state[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)
    return state


def i3d_state(*, counters: bool = False) -> dict[str, Tensor]:
    shapes = {"Conv3d_1a_7x7": (64, 3, 7), "Conv3d_2b_1x1": (64, 64, 1), "Conv3d_2c_3x3": (192, 64, 3)}
    for block, (channels, b0, b1a, b1b, b2a, b2b, b3b) in INCEPTION.items():
        for branch, shape in {
            "b0": (b0, channels, 1), "b1a": (b1a, channels, 1), "b1b": (b1b, b1a, 3),
            "b2a": (b2a, channels, 1), "b2b": (b2b, b2a, 3), "b3b": (b3b, channels, 1),
        }.items():  # fmt: skip
            shapes[f"Mixed_{block}.{branch}"] = shape
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, (rows, columns, kernel) in shapes.items():
        scale = (2 / (columns * kernel**3)) ** 0.5
        kernels = (rows, columns, kernel, kernel, kernel)
        state[f"{name}.conv3d.weight"] = scale * torch.randn(kernels, generator=generator)
        state[f"{name}.bn.weight"] = 0.5 + torch.rand(rows, generator=generator)
        state[f"{name}.bn.bias"] = 0.1 * torch.randn(rows, generator=generator)
        state[f"{name}.bn.running_mean"] = 0.1 * torch.randn(rows, generator=generator)
        state[f"{name}.bn.running_var"] = 1 + torch.rand(rows, generator=generator)
        if counters:
            state[f"{name}.bn.num_batches_tracked"] = torch.tensor(1)
    state["logits.conv3d.weight"] = 0.03 * torch.randn((400, 1024, 1, 1, 1), generator=generator)
    state["logits.conv3d.bias"] = 0.1 * torch.randn(400, generator=generator)
    return state


def vggish_by_hand(state: dict[str, Tensor], x: Tensor) -> Tensor:
    for number in (0, 3, 6, 8, 11, 13):
        weight, bias = state[f"features.{number}.weight"], state[f"features.{number}.bias"]
        x = F.relu(F.conv2d(x, weight, bias, padding=1))
        if number not in (6, 11):
            x = F.max_pool2d(x, 2)
    x = x.movedim(1, 3).reshape(len(x), -1)
    for number in (0, 2, 4):
        x = F.linear(x, state[f"embeddings.{number}.weight"], state[f"embeddings.{number}.bias"])
        x = F.relu(x) if number < 4 else x
    return x


def i3d_by_hand(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """TensorFlow's operations: SAME padding, of pooling with minus infinity, and moments by the formula."""

    def padded(x: Tensor, kernel: list[int], stride: list[int], value: float) -> Tensor:
        sides = []
        for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
            total = max(k - s if size % s == 0 else k - size % s, 0)
            sides.append((total // 2, total - total // 2))
        return F.pad(x, [side for pair in reversed(sides) for side in pair], value=value)

    def unit(name: str, x: Tensor, stride: int = 1) -> Tensor:
        def column(kind: str) -> Tensor:
            return state[f"{name}.bn.{kind}"][:, None, None, None]

        weight = state[f"{name}.conv3d.weight"]
        x = F.conv3d(padded(x, list(weight.shape[2:]), [stride] * 3, 0.0), weight, stride=stride)
        x = (x - column("running_mean")) / (column("running_var") + 0.001).sqrt()
        return (x * column("weight") + column("bias")).clamp(min=0)

    def pool(x: Tensor, kernel: list[int], stride: list[int]) -> Tensor:
        return F.max_pool3d(padded(x, kernel, stride, -torch.inf), kernel, stride)

    x = unit("Conv3d_1a_7x7", x, 2)
    x = unit("Conv3d_2c_3x3", unit("Conv3d_2b_1x1", pool(x, [1, 3, 3], [1, 2, 2])))
    before = {"3b": ([1, 3, 3], [1, 2, 2]), "4b": ([3, 3, 3], [2, 2, 2]), "5b": ([2, 2, 2], [2, 2, 2])}
    for block in INCEPTION:
        x = pool(x, *before[block]) if block in before else x
        at = f"Mixed_{block}"
        branches = [
            unit(f"{at}.b0", x),
            unit(f"{at}.b1b", unit(f"{at}.b1a", x)),
            unit(f"{at}.b2b", unit(f"{at}.b2a", x)),
            unit(f"{at}.b3b", pool(x, [3, 3, 3], [1, 1, 1])),
        ]
        x = torch.cat(branches, 1)
    x = F.avg_pool3d(x, (2, 7, 7), 1)
    return F.conv3d(x, state["logits.conv3d.weight"], state["logits.conv3d.bias"]).flatten(2).mean(2)


@pytest.mark.parametrize(("name", "parameters"), [("vggish", 72_141_184), ("i3d", 12_697_264)])
def test_the_networks_have_their_published_size(name: str, parameters: int) -> None:
    network = empty_network(name)
    assert sum(p.numel() for p in network.parameters()) == parameters
    state = vggish_state() if name == "vggish" else i3d_state()
    assert {n: x.shape for n, x in network.state_dict().items()} == {n: x.shape for n, x in state.items()}


def convert_command(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["convert", "metric", *map(str, arguments)])
    return result.exit_code, result.output


def test_vggish_is_converted_and_heard(tmp_path: Path) -> None:
    state = {name: x.half() for name, x in vggish_state().items()}
    torch.save(state, tmp_path / "vggish-10086976.pth", _use_new_zipfile_serialization=False)
    out = tmp_path / "made" / "vggish.safetensors"
    code, printed = convert_command("vggish", tmp_path / "vggish-10086976.pth", "-o", out, "--allow-pickle")
    assert (code, printed.strip()) == (0, str(out))
    assert [path.name for path in out.parent.iterdir()] == ["vggish.safetensors"]
    tone = (0.5 * np.sin(np.arange(3 * 16_000) * 0.4)).astype(np.float32)
    clip = Clip(np.zeros((24, 8, 8, 3), np.uint8), 8, tone, 16_000)
    Extractor(vggish=str(out)).check()  # without consent to anything
    found = vggish_features(clip, str(out))
    mel = vggish_log_mel(tone)
    assert found.shape == (3, 128)
    with torch.no_grad():
        whole = {name: x.float() for name, x in state.items()}
        expected = vggish_by_hand(whole, torch.from_numpy(mel[:288].reshape(3, 1, 96, 64)))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    assert (found < 0).any()  # the layer before any activation
    out.unlink()  # these are large
    (tmp_path / "vggish-10086976.pth").unlink()


def test_i3d_is_converted_and_sees(tmp_path: Path) -> None:
    state = i3d_state()
    trained = {f"module.{name}": x for name, x in i3d_state(counters=True).items()}
    torch.save({"state_dict": trained}, tmp_path / "rgb_imagenet.pt")
    out = tmp_path / "i3d.safetensors"
    convert_metric("i3d", tmp_path / "rgb_imagenet.pt", out, allow_pickle=True)
    assert out.stat().st_mode == (tmp_path / "rgb_imagenet.pt").stat().st_mode
    network = load(str(out), "i3d")
    frames = torch.rand((1, 3, 9, 193, 200), generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        found, expected = network(frames), i3d_by_hand(state, frames)
    assert found.shape == (1, 400)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert found.std() > 0.1
    assert i3d_features(np.zeros((16, 32, 32, 3), np.uint8), str(out))["fvd"].shape == (1, 400)


def test_weights_of_another_network_are_listed_by_name_and_shape(tmp_path: Path) -> None:
    state = i3d_state()
    del state["logits.conv3d.bias"]
    state["stranger"] = torch.zeros(1)
    state["Mixed_3b.b0.bn.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "i3d.pt")
    code, printed = convert_command(
        "i3d", tmp_path / "i3d.pt", "-o", tmp_path / "o.safetensors", "--allow-pickle"
    )
    lacks, surplus, shape = printed.strip().splitlines()
    assert code == 2
    assert "lacks 1 tensors: logits.conv3d.bias" in lacks
    assert "has in addition 1 tensors: stranger" in surplus
    assert "has in another shape 1 tensors: Mixed_3b.b0.bn.bias (3,), expected (64,)" in shape
    assert not (tmp_path / "o.safetensors").exists()


def test_what_cannot_be_converted_is_refused_in_a_line(script: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.safetensors"
    torch.save(i3d_state(), tmp_path / "i3d.pt")
    refused = {
        ("vggish", tmp_path / "none.pth", "-o", out): "there is no file",
        ("i3d", tmp_path / "i3d.pt", "-o", out): "has only pickled weights .*--allow-pickle",
        (
            "i3d",
            tmp_path / "i3d.pt",
            "-o",
            tmp_path / "o.pt",
        ): "will be safetensors: name it '.*/o.safetensors'",
        ("i3d", script, "-o", out, "--allow-pickle"): "is TorchScript, .*--i3d .* --allow-torchscript",
        ("clap", script, "-o", out): "'clap' needs no conversion: give evaluate --clap",
        ("languagebind", script, "-o", out): "'languagebind' is not defined here: export it to TorchScript",
        ("vgg", script, "-o", out): "'vgg' is unknown; choose from i3d, vggish, synchformer, imagebind",
    }
    for arguments, why in refused.items():
        code, printed = convert_command(*arguments)
        assert code == 2
        assert re.fullmatch(f"error: .*{why}.*", printed.strip()), printed
    assert not out.exists()


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"features.0.weight": Trap()}, tmp_path / "vggish.pth")
    out = tmp_path / "o.safetensors"
    code, printed = convert_command("vggish", tmp_path / "vggish.pth", "-o", out, "--allow-pickle")
    assert code == 2
    assert "is damaged or holds more than tensors" in printed
    assert not (tmp_path / "sprung").exists()


def test_a_state_dict_where_a_network_is_wanted_names_the_remedy(tmp_path: Path) -> None:
    pickled, safe = tmp_path / "vggish.pth", tmp_path / "vggish.safetensors"
    small = {"features.0.bias": torch.zeros(64)}
    torch.save(small, pickled)
    save_file(small, safe)
    for file in (pickled, safe):
        with pytest.raises(
            RequestError, match=f"kinetophone convert metric vggish {file} -o vggish.safetens"
        ) as caught:
            Extractor(vggish=str(file)).check()
        assert len(str(caught.value).splitlines()) == 1
    save_file(small, safe, metadata={"network": "i3d"})
    with pytest.raises(RequestError, match="has the weights of i3d, but vggish is needed"):
        Extractor(vggish=str(safe)).check()
    save_file(small, safe, metadata={"network": "vggish"})
    with pytest.raises(RequestError, match="lacks 17 tensors"):
        Extractor(vggish=str(safe)).check()

"""Synchformer (Iashin et al. 2024, "Synchformer: Efficient Synchronization from Sparse Cues").

Segments of 0.64 s go through a video transformer with divided space-time attention (Motionformer, Patrick et
al. 2021) and an audio spectrogram transformer (AST, Gong et al. 2021). Each gives features along time, from
which a third transformer predicts the offset between audio and video.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

OFFSETS = 21  # evenly spaced from -2 to 2 s
_SEGMENTS, _FRAMES, _SIDE = 14, 16, 224
_TUBE, _PATCH = 2, 16  # frames and pixels of a visual token
_RATE, _MELS, _MEL_FRAMES = 16_000, 128, 66
_MEL_STRIDE = 10  # stride of the overlapping spectrogram patches
_MEAN, _SCALE = -4.2677393, 2 * 4.5689974  # statistics of AudioSet's spectrograms
_STEPS_SEEN = _FRAMES // _TUBE
_PATCHES = (_SIDE // _PATCH) ** 2
_STEPS_HEARD = (_MEL_FRAMES - _PATCH) // _MEL_STRIDE + 1
_BANDS = (_MELS - _PATCH) // _MEL_STRIDE + 1
_TOKENS = 2 + _SEGMENTS * (_STEPS_SEEN + _STEPS_HEARD)


class Synchformer(nn.Module):
    """Maps frames (N, 14, 16, 3, 224, 224) in [-1, 1] and audio (N, 14, 10240) at 16 kHz to logits (N, 21).

    Parameters have the names of the published weights (``synchformer_state_dict.pth``).

    Args:
        width: Channels of all transformers.
        depth: Number of blocks of the two segment transformers.
    """

    def __init__(self, width: int = 768, depth: int = 12) -> None:
        super().__init__()
        self.vfeat_extractor = _Motionformer(width, depth)
        self.afeat_extractor = _AudioFeatures(width, depth)
        self.vproj = nn.Linear(width, width)
        self.aproj = nn.Linear(width, width)
        self.transformer = _GlobalTransformer(width)

    def forward(self, frames: Tensor, sound: Tensor) -> Tensor:
        number = len(frames)
        seen = self.vfeat_extractor(frames.flatten(0, 1).transpose(1, 2))
        heard = self.afeat_extractor(log_mel(sound.flatten(0, 1)))
        seen = self.vproj(seen).reshape(number, _SEGMENTS * _STEPS_SEEN, -1)
        heard = self.aproj(heard).reshape(number, _SEGMENTS * _STEPS_HEARD, -1)
        return self.transformer(seen, heard)

    @staticmethod
    def select(tensors: dict[str, Any]) -> dict[str, Any]:
        """Select the weights used here from a state dict: those for single-frame patches are dropped."""
        unused = "vfeat_extractor.patch_embed."
        return {name: x for name, x in tensors.items() if not name.startswith(unused)}


def log_mel(sound: Tensor) -> Tensor:
    """The network's normalised spectrogram, (N, 66, 128), of audio (N, 10240) at 16 kHz.

    Power spectra of 25 ms periodic Hann windows every 10 ms, the first of which is centred on the first
    sample. 128 triangular filters, evenly spaced on the HTK mel scale from 0 to 8000 Hz. Then ln(x + 1e-6).
    """
    window = torch.hann_window(400)
    spectrum = torch.stft(sound, 1024, 160, 400, window, pad_mode="reflect", return_complex=True)
    mel = _mel_filters() @ spectrum.abs().square()
    logs = torch.log(mel + 1e-6)
    # Padded before normalisation, as in training.
    padded = F.pad(logs, (0, _MEL_FRAMES - logs.shape[-1]))
    return ((padded - _MEAN) / _SCALE).transpose(1, 2)


@lru_cache(maxsize=1)
def _mel_filters() -> Tensor:
    from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(513, _MELS, 0.0, _RATE / 2, _RATE, norm=None, mel_scale="htk")
    return torch.from_numpy(filters).float().T


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Multi-head attention of (N, L, D)."""
    parts = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value)]
    return F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)


class _Pooled(nn.TransformerEncoderLayer):
    """One transformer block over (N, L, D) and a class token, whose output (N, D) it returns."""

    def __init__(self, width: int) -> None:
        super().__init__(
            width,
            _heads(width),
            4 * width,
            0.0,
            "gelu",
            layer_norm_eps=1e-6,
            batch_first=True,
            norm_first=True,
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        token = self.cls_token.expand(len(x), -1, -1)
        return super().forward(torch.cat([token, x], dim=1))[:, 0]


def _heads(width: int) -> int:
    return width // 64


class _Motionformer(nn.Module):
    """Maps frames (N, 3, 16, 224, 224) to features (N, 8, D), one for two frames."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + _PATCHES, width))
        self.temp_embed = nn.Parameter(torch.zeros(1, _STEPS_SEEN, width))
        size = (_TUBE, _PATCH, _PATCH)
        self.patch_embed_3d = nn.ModuleDict({"proj": nn.Conv3d(3, width, size, stride=size)})
        self.blocks = nn.ModuleList(_DividedBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.spatial_attn_agg = _Pooled(width)

    def forward(self, frames: Tensor) -> Tensor:
        # Tokens are ordered by time, then by position.
        tokens = self.patch_embed_3d["proj"](frames).flatten(2).transpose(1, 2)
        places = self.pos_embed[:, 1:].repeat(1, _STEPS_SEEN, 1)
        tokens = tokens + places + self.temp_embed.repeat_interleave(_PATCHES, dim=1)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(frames), -1, -1)
        x = torch.cat([first, tokens], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x[:, 1:]).reshape(len(frames) * _STEPS_SEEN, _PATCHES, -1)
        return self.spatial_attn_agg(x).reshape(len(frames), _STEPS_SEEN, -1)


class _DividedBlock(nn.Module):
    """Attention along time, then within a frame, then an MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width, eps=1e-6) for _ in range(3))
        self.attn = _DividedAttention(width)
        self.timeattn = _DividedAttention(width)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.timeattn(self.norm3(x), along_time=True)
        x = x + self.attn(self.norm1(x), along_time=False)
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class _DividedAttention(nn.Module):
    """Tokens attend to the same position, or to the same frame, and to the first token; the first to all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = _heads(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, along_time: bool) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1)
        )

        def groups(x: Tensor) -> Tensor:
            """Group (N, H, 1 + T * P, D), without the first token, for attention: (N, H, P, T, D)."""
            x = x[:, :, 1:].unflatten(2, (_STEPS_SEEN, _PATCHES))
            return x.transpose(2, 3) if along_time else x

        def with_first(x: Tensor) -> Tensor:
            grouped = groups(x)
            first = x[:, :, :1, None].expand(-1, -1, grouped.shape[2], -1, -1)
            return torch.cat([first, grouped], dim=3)

        first = F.scaled_dot_product_attention(query[:, :, :1], key, value)
        rest = F.scaled_dot_product_attention(groups(query), with_first(key), with_first(value))
        rest = (rest.transpose(2, 3) if along_time else rest).flatten(2, 3)
        return self.proj(torch.cat([first, rest], dim=2).transpose(1, 2).flatten(2))


class _AudioFeatures(nn.Module):
    """Maps spectrograms (N, 66, 128) to features (N, 6, D)."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.ast = _SpectrogramTransformer(width, depth)
        self.freq_attn_agg = _Pooled(width)

    def forward(self, mel: Tensor) -> Tensor:
        # Drop the two class tokens; the others are ordered by frequency, then by time.
        x = self.ast(mel)[:, 2:].unflatten(1, (_BANDS, _STEPS_HEARD)).transpose(1, 2)
        return self.freq_attn_agg(x.flatten(0, 1)).unflatten(0, (len(mel), _STEPS_HEARD))


class _SpectrogramTransformer(nn.Module):
    """Maps spectrograms (N, 66, 128) to tokens (N, 2 + 12 * 6, D)."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embeddings = _SpectrogramEmbeddings(width)
        self.encoder = nn.ModuleDict({"layer": nn.Sequential(*(_AudioBlock(width) for _ in range(depth)))})
        self.layernorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, mel: Tensor) -> Tensor:
        return self.layernorm(self.encoder["layer"](self.embeddings(mel)))


class _SpectrogramEmbeddings(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.distillation_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 2 + _BANDS * _STEPS_HEARD, width))
        projection = nn.Conv2d(1, width, _PATCH, stride=_MEL_STRIDE)
        self.patch_embeddings = nn.ModuleDict({"projection": projection})

    def forward(self, mel: Tensor) -> Tensor:
        patches = self.patch_embeddings["projection"](mel.transpose(1, 2)[:, None]).flatten(2)
        whole = torch.cat([self.cls_token, self.distillation_token], dim=1).expand(len(mel), -1, -1)
        return torch.cat([whole, patches.transpose(1, 2)], dim=1) + self.position_embeddings


class _AudioBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = _AudioAttention(width)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, 4 * width)})
        self.output = nn.ModuleDict({"dense": nn.Linear(4 * width, width)})
        self.layernorm_before = nn.LayerNorm(width, eps=1e-12)
        self.layernorm_after = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.layernorm_before(x))
        hidden = F.gelu(self.intermediate["dense"](self.layernorm_after(x)))
        return x + self.output["dense"](hidden)


class _AudioAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = _heads(width)
        self.attention = nn.ModuleDict({n: nn.Linear(width, width) for n in ("query", "key", "value")})
        self.output = nn.ModuleDict({"dense": nn.Linear(width, width)})

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (self.attention[name](x) for name in ("query", "key", "value"))
        return self.output["dense"](_attend(query, key, value, self.heads))


class _GlobalTransformer(nn.Module):
    """Maps features of video (N, 112, D) and audio (N, 84, D) to logits (N, 21)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vis_in_lnorm = nn.LayerNorm(width)
        self.aud_in_lnorm = nn.LayerNorm(width)
        self.OFF_tok = nn.Parameter(torch.zeros(1, 1, width))
        self.MOD_tok = nn.Parameter(torch.zeros(1, 1, width))
        positions = nn.Parameter(torch.zeros(1, _TOKENS, width))
        self.pos_emb_cfg = nn.ParameterDict({"pos_emb": positions})
        self.blocks = nn.Sequential(*(_GlobalBlock(width) for _ in range(3)))
        self.ln_f = nn.LayerNorm(width)
        self.off_head = nn.Linear(width, OFFSETS)

    def forward(self, seen: Tensor, heard: Tensor) -> Tensor:
        number = len(seen)
        offset, between = (token.expand(number, -1, -1) for token in (self.OFF_tok, self.MOD_tok))
        x = torch.cat([offset, self.vis_in_lnorm(seen), between, self.aud_in_lnorm(heard)], dim=1)
        x = self.blocks(x + self.pos_emb_cfg["pos_emb"])
        return self.off_head(self.ln_f(x[:, 0]))


class _GlobalBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // 96
        self.ln1 = nn.LayerNorm(width)
        self.ln2 = nn.LayerNorm(width)
        names = ("key", "query", "value", "proj")
        self.attn = nn.ModuleDict({name: nn.Linear(width, width) for name in names})
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.ln1(x)
        query, key, value = (self.attn[name](normed) for name in ("query", "key", "value"))
        x = x + self.attn["proj"](_attend(query, key, value, self.heads))
        return x + self.mlp(self.ln2(x))

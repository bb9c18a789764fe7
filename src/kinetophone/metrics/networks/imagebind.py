"""ImageBind (Girdhar et al. 2023, "ImageBind: One Embedding Space To Bind Them All"): image, audio, text.

Each modality has a transformer; their embeddings share one space. The other modalities (depth, thermal, IMU)
are not defined here.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SIDE, _PATCH, _PAIR = 224, 14, 2
_MELS, _MEL_FRAMES, _MEL_PATCH, _MEL_STRIDE = 128, 204, 16, 10
_WORDS, _CONTEXT = 49_408, 77
_RATE = 16_000
# Statistics of CLIP's images and of AudioSet's spectrograms.
_VIDEO_MEAN, _VIDEO_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_MEL_MEAN, _MEL_STD = -4.268, 9.138

# Width, blocks and heads of a transformer.
Size = tuple[int, int, int]


class ImageBind(nn.Module):
    """Embeddings of audio, frames and texts, (N, 1024) each; see :mod:`kinetophone.metrics.kinds.binding`.

    Parameters have the names of the published weights (``imagebind_huge.pth``).

    Args:
        vision, text, audio: Sizes of the three transformers.
        embedding: Channels of the shared space.
    """

    audio_samples, frame_count, side = 2 * _RATE, 10, _SIDE

    def __init__(
        self,
        vision: Size = (1280, 32, 16),
        text: Size = (1024, 24, 16),
        audio: Size = (768, 12, 12),
        embedding: int = 1024,
    ) -> None:
        super().__init__()
        stems = {"vision": _Vision(vision[0]), "text": _Text(text[0]), "audio": _Audio(audio[0])}
        self.modality_preprocessors = nn.ModuleDict(stems)
        self.modality_trunks = nn.ModuleDict(
            {
                "vision": _Trunk(*vision, normed_first=True),
                "text": _Trunk(*text),
                "audio": _Trunk(*audio, bias_kv=True),
            }
        )

        def head(width: int) -> list[nn.Module]:
            return [nn.LayerNorm(width, eps=1e-6), nn.Linear(width, embedding, bias=False)]

        def of_first(width: int) -> nn.Sequential:
            norm, linear = head(width)
            return nn.Sequential(norm, nn.Identity(), linear)  # the names of the published weights

        of_last = nn.ModuleDict({"proj": nn.Sequential(*head(text[0]))})
        self.modality_heads = nn.ModuleDict(
            {"vision": of_first(vision[0]), "text": of_last, "audio": of_first(audio[0])}
        )

    def sound(self, waveforms: Tensor) -> Tensor:
        """Embeddings (N, D) of audio (N, 32000) at 16 kHz."""
        extract = _mel_extractor()
        mel = extract(list(waveforms.numpy()), sampling_rate=_RATE, return_tensors="pt")["input_values"]
        return self._of_first("audio", mel.transpose(1, 2)[:, None])

    def frames(self, frames: Tensor) -> Tensor:
        """Embeddings (N, D) of frames (N, 10, 3, 224, 224) in [0, 1].

        The network takes pairs of frames. Its authors read five pairs per clip, with two seconds between the
        frames of a pair. Here they are half of the clip apart, which is the same for a clip of four seconds.
        """
        mean, std = (torch.tensor(x)[:, None, None] for x in (_VIDEO_MEAN, _VIDEO_STD))
        early, late = ((frames - mean) / std).chunk(2, dim=1)
        pairs = torch.stack([early, late], dim=3).flatten(0, 1)  # (N * 5, 3, 2, 224, 224)
        found = F.normalize(self._of_first("vision", pairs), dim=-1)
        return found.unflatten(0, (len(frames), -1)).mean(1)

    def texts(self, tokens: Tensor) -> Tensor:
        """Embeddings (N, D) of texts, given as tokens of CLIP's tokenizer, int64 (N, 77)."""
        x = self.modality_preprocessors["text"](tokens)
        mask = torch.full((_CONTEXT, _CONTEXT), -torch.inf).triu(1)
        x = self.modality_trunks["text"](x, mask)
        # The end-of-text token has the highest id.
        ends = x[torch.arange(len(x)), tokens.argmax(-1)]
        return self.modality_heads["text"]["proj"](ends)  # type: ignore[index]

    def _of_first(self, name: str, x: Tensor) -> Tensor:
        x = self.modality_trunks[name](self.modality_preprocessors[name](x))
        return self.modality_heads[name](x[:, 0])

    @staticmethod
    def select(tensors: dict[str, Any]) -> dict[str, Any]:
        """Select the weights used here from a state dict: other modalities and temperatures are dropped."""
        kept = tuple(
            f"modality_{part}.{name}."
            for part in ("preprocessors", "trunks", "heads")
            for name in ("vision", "text", "audio")
        )
        return {
            name: x for name, x in tensors.items() if name.startswith(kept) and not name.endswith("text.mask")
        }


@lru_cache(maxsize=1)
def _mel_extractor() -> Any:
    from transformers import ASTFeatureExtractor

    with warnings.catch_warnings():
        # The lowest mel filters are narrower than a frequency bin, as they were in training.
        warnings.filterwarnings("ignore", "At least one mel filter")
        # The extractor divides by twice the standard deviation.
        return ASTFeatureExtractor(max_length=_MEL_FRAMES, mean=_MEL_MEAN, std=_MEL_STD / 2)


class _Vision(nn.Module):
    """Maps pairs of frames (N, 3, 2, 224, 224) to tokens (N, 1 + 256, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        size = (_PAIR, _PATCH, _PATCH)
        patches = nn.Conv3d(3, width, size, stride=size, bias=False)
        self.rgbt_stem = nn.ModuleDict({"proj": nn.Sequential(nn.Identity(), patches)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        positions = nn.Parameter(torch.zeros(1, 1 + (_SIDE // _PATCH) ** 2, width))
        self.pos_embedding_helper = nn.ParameterDict({"pos_embed": positions})

    def forward(self, pairs: Tensor) -> Tensor:
        x = self.rgbt_stem["proj"](pairs).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        return x + self.pos_embedding_helper["pos_embed"]


class _Audio(nn.Module):
    """Maps spectrograms (N, 1, 128, 204) to tokens (N, 1 + 12 * 19, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        patches = nn.Conv2d(1, width, _MEL_PATCH, stride=_MEL_STRIDE, bias=False)
        self.rgbt_stem = nn.ModuleDict({"proj": patches, "norm_layer": nn.LayerNorm(width)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        high, long = ((size - _MEL_PATCH) // _MEL_STRIDE + 1 for size in (_MELS, _MEL_FRAMES))
        positions = nn.Parameter(torch.zeros(1, 1 + high * long, width))
        self.pos_embedding_helper = nn.ParameterDict({"pos_embed": positions})

    def forward(self, mel: Tensor) -> Tensor:
        x = self.rgbt_stem["norm_layer"](self.rgbt_stem["proj"](mel).flatten(2).transpose(1, 2))
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        return x + self.pos_embedding_helper["pos_embed"]


class _Text(nn.Module):
    """Maps token ids (N, 77) to tokens (N, 77, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(_WORDS, width)
        self.pos_embed = nn.Parameter(torch.zeros(1, _CONTEXT, width))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.token_embedding(tokens) + self.pos_embed


class _Trunk(nn.Module):
    """A pre-norm transformer over tokens (N, L, D)."""

    def __init__(
        self, width: int, depth: int, heads: int, *, normed_first: bool = False, bias_kv: bool = False
    ) -> None:
        super().__init__()
        first = nn.LayerNorm(width, eps=1e-6) if normed_first else nn.Identity()
        self.pre_transformer_layer = nn.Sequential(first)
        self.blocks = nn.ModuleList(_Block(width, heads, bias_kv) for _ in range(depth))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.pre_transformer_layer(x)
        for block in self.blocks:
            x = block(x, mask)
        return x


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, bias_kv: bool) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn = nn.MultiheadAttention(width, heads, add_bias_kv=bias_kv, batch_first=True)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        normed = self.norm_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm_2(x))))

"""Common part of the U-Net video bases: CLIP text, and an image autoencoder that codes each frame separately.

Shapes: frames uint8 (B, T, H, W, 3); latents float (B, C, T, h, w), scaled; text states (B, S, D).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from kinetophone.bases.base import Base
from kinetophone.bases.computing import (
    decode_latents,
    encode_latents,
    execution_device,
    spatial_factor,
    tokenize,
)
from kinetophone.bases.protocol import Denoiser, Times
from kinetophone.bases.unet import VideoUNet
from kinetophone.diffusion.process import Discrete
from kinetophone.hub.components import DDPM

_PIXELS_AT_ONCE = 32 * 64 * 64  # in the autoencoder at once: 32 frames of 64 × 64, or 2 of 256 × 256


@dataclass
class VideoBase(Base):
    """A frozen video model with its text encoder and autoencoder.

    ``reference`` says where the model came from, so that a coupling can be saved without its bases.
    """

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    reference: dict[str, Any] = field(default_factory=dict)

    FPS: ClassVar[int] = 8
    COMPONENTS: ClassVar[dict[str, tuple[str, ...]]] = {
        "unet": (),
        "vae": ("AutoencoderKL", "AutoencoderDC"),
        "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
        "tokenizer": (),
        "scheduler": (DDPM,),
    }

    def denoiser(self) -> Denoiser:
        """The U-Net with its noise process."""
        return VideoUNet(self.unet, Discrete.from_scheduler(self.scheduler))

    def latent_times(self, steps: int, fps: float | Fraction) -> Times:
        """Start and end of each of ``steps`` latent steps; each is one frame at ``fps`` frames a second."""
        return Times.even(steps, float(fps))

    @property
    def factor(self) -> int:
        """Pixels per latent position along each side."""
        return spatial_factor(self.vae)

    @property
    def multiple(self) -> int:
        """Height and width in pixels must be multiples of this, for the autoencoder and the U-Net."""
        return self.factor * int(2 ** (len(self.unet.config.block_out_channels) - 1))

    def stills(self, latents: Tensor, count: int) -> np.ndarray:
        """Decode at most ``count`` evenly spaced frames of ``latents``, uint8 (B, count, H, W, 3)."""
        length = latents.shape[2]
        shown = torch.linspace(0, length - 1, min(count, length)).round().long().to(latents.device)
        return self.decode(latents.index_select(2, shown))

    @property
    def max_frames(self) -> int | None:
        """Maximal number of frames, that of the temporal position embeddings; None without embeddings."""
        return getattr(self.unet.config, "motion_max_seq_length", None)

    @property
    def frame_step(self) -> int:
        """The number of frames must be 1 plus a multiple of this."""
        return 1

    def latent_length(self, frames: int) -> int:
        """Number of latent steps of a clip of ``frames`` frames: one per frame."""
        return frames

    def frame_length(self, latents: int) -> int:
        """Number of frames in ``latents`` latent steps."""
        return latents

    def latent_shape(self, frames: int, size: int) -> tuple[int, int, int, int]:
        """Latent shape (C, T, h, w) of ``frames`` square frames with ``size`` pixels a side."""
        return (self.unet.config.in_channels, frames, size // self.factor, size // self.factor)

    @torch.no_grad()
    def encode_prompt(self, prompts: list[str], seconds: float | None = None) -> Tensor:
        """CLIP hidden states (B, S, D) of ``prompts``; ``seconds`` is ignored."""
        tokens = tokenize(self.tokenizer, prompts, execution_device(self.text_encoder))
        if not getattr(self.text_encoder.config, "use_attention_mask", False):
            del tokens["attention_mask"]  # as in Stable Diffusion, whose text model sees padding
        return self.text_encoder(**tokens).last_hidden_state

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Latents (B, C, T, h, w) of uint8 frames (B, T, H, W, 3)."""
        b, t, height, width, _ = frames.shape
        device = execution_device(self.vae)
        parts = [
            encode_latents(self.vae, part.to(device).permute(0, 3, 1, 2).float().div(127.5).sub(1))
            for part in frames.flatten(0, 1).split(_at_once(height * width))
        ]
        return torch.cat(parts).unflatten(0, (b, t)).transpose(1, 2)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Decode latents (B, C, T, h, w) to frames, uint8 (B, T, H, W, 3)."""
        b, _, t, h, w = latents.shape
        parts = [
            decode_latents(self.vae, part).clamp(-1, 1).add(1).mul(127.5).round().byte().cpu()
            for part in latents.transpose(1, 2).flatten(0, 1).split(_at_once(h * w * self.factor**2))
        ]
        return torch.cat(parts).permute(0, 2, 3, 1).unflatten(0, (b, t)).numpy()


def _at_once(pixels: int) -> int:
    """Number of frames of ``pixels`` pixels that go through the autoencoder at once."""
    return max(1, _PIXELS_AT_ONCE // pixels)

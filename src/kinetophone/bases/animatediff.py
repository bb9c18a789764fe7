"""AnimateDiff: a latent image diffusion model with motion modules (``UNetMotionModel``) and CLIP text.

Shapes: frames uint8 (B, T, H, W, 3); latents float (B, C, T, h, w), scaled; text states (B, S, D).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kinetophone.bases.components import (
    decode_latents,
    encode_latents,
    load_components,
    save_component,
    tokenize,
)


@dataclass
class AnimateDiff:
    """The frozen video model and what turns text and frames into its inputs and back."""

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> AnimateDiff:
        """Load a folder in diffusers layout; raises ValueError where a component is missing."""
        return cls(**load_components(folder, [field.name for field in fields(cls)]))

    def to(self, device: torch.device | str) -> AnimateDiff:
        """Move every network to ``device``."""
        for module in (self.unet, self.vae, self.text_encoder):
            module.to(device)
        return self

    def save_pretrained(self, folder: Path | str, dtype: torch.dtype = torch.float32) -> None:
        """Write every component in diffusers layout, networks as ``dtype``."""
        for field in fields(self):
            save_component(getattr(self, field.name), Path(folder) / field.name, dtype)

    @property
    def factor(self) -> int:
        """Pixels per latent position along one side."""
        widths = (
            getattr(self.vae.config, "block_out_channels", None) or self.vae.config.encoder_block_out_channels
        )
        return int(2 ** (len(widths) - 1))

    def latent_shape(self, frames: int, size: int) -> tuple[int, int, int, int]:
        """Shape (C, T, h, w) of a clip of ``frames`` frames of ``size`` pixels a side."""
        return (self.unet.config.in_channels, frames, size // self.factor, size // self.factor)

    @torch.no_grad()
    def encode_prompt(self, prompts: list[str]) -> Tensor:
        """CLIP hidden states (B, S, D) of ``prompts``."""
        tokens = tokenize(self.tokenizer, prompts, self.text_encoder.device)
        return self.text_encoder(input_ids=tokens["input_ids"]).last_hidden_state

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Latents of uint8 frames (B, T, H, W, 3)."""
        b, t = frames.shape[:2]
        x = frames.flatten(0, 1).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        z = encode_latents(self.vae, x.to(next(self.vae.parameters()).device))
        return z.unflatten(0, (b, t)).transpose(1, 2)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Frames, uint8 (B, T, H, W, 3), of latents (B, C, T, h, w)."""
        b, _, t = latents.shape[:3]
        x = decode_latents(self.vae, latents.transpose(1, 2).flatten(0, 1))
        frames = x.float().clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1)
        return frames.unflatten(0, (b, t)).cpu().numpy()

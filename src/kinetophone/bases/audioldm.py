"""AudioLDM: latent diffusion on log-mel spectrograms, CLAP text as class labels, a HiFi-GAN vocoder.

Shapes: waveform float (B, N) in [-1, 1] at 16 kHz; latents float (B, C, L, M), time first, scaled;
text (B, D).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kinetophone.bases.components import (
    decode_latents,
    encode_latents,
    load_components,
    save_component,
    tokenize,
)
from kinetophone.media.mel import HOP, MEL_BINS, log_mel


@dataclass
class AudioLDM:
    """The frozen audio model and what turns text and sound into its inputs and back."""

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    vocoder: Any

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> AudioLDM:
        """Load a folder in diffusers layout; raises ValueError where a component is missing."""
        return cls(**load_components(folder, [field.name for field in fields(cls)]))

    def to(self, device: torch.device | str) -> AudioLDM:
        """Move every network to ``device``."""
        for module in (self.unet, self.vae, self.text_encoder, self.vocoder):
            module.to(device)
        return self

    def save_pretrained(self, folder: Path | str, dtype: torch.dtype = torch.float32) -> None:
        """Write every component in diffusers layout, networks as ``dtype``."""
        for field in fields(self):
            save_component(getattr(self, field.name), Path(folder) / field.name, dtype)

    @property
    def factor(self) -> int:
        """Mel frames (and mel bins) per latent position."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def latent_shape(self, samples: int) -> tuple[int, int, int]:
        """Shape (C, L, M) for ``samples`` samples of sound: L is rounded up to the U-Net's own multiple."""
        length = -(-samples // (HOP * self.factor))
        multiple = 2 ** (len(self.unet.config.block_out_channels) - 1)
        return (self.unet.config.in_channels, -(-length // multiple) * multiple, MEL_BINS // self.factor)

    @torch.no_grad()
    def encode_prompt(self, prompts: list[str]) -> Tensor:
        """L2-normalised CLAP text embeddings (B, D) of ``prompts``."""
        tokens = tokenize(self.tokenizer, prompts, self.text_encoder.device)
        return F.normalize(self.text_encoder(**tokens).text_embeds, dim=-1)

    @torch.no_grad()
    def encode_mel(self, mel: Tensor) -> Tensor:
        """Latents of log-mel (B, frames, 64); zero positions are appended up to the U-Net's multiple."""
        z = encode_latents(self.vae, mel[:, None].to(next(self.vae.parameters()).device))
        length = self.latent_shape(mel.shape[1] * HOP)[1]
        return F.pad(z, (0, 0, 0, length - z.shape[2]))

    def encode(self, waveform: Tensor) -> Tensor:
        """Latents of sound (B, N)."""
        return self.encode_mel(log_mel(waveform))

    @torch.no_grad()
    def decode_mel(self, latents: Tensor) -> Tensor:
        """Log-mel (B, frames, 64) of latents."""
        return decode_latents(self.vae, latents)[:, 0]

    @torch.no_grad()
    def decode(self, latents: Tensor, samples: int) -> np.ndarray:
        """Sound of ``latents``: float32 (B, samples) in [-1, 1]."""
        mel = self.decode_mel(latents)
        waveform = torch.cat([self.vocoder(part) for part in mel.split(8)])
        if waveform.shape[1] < samples:
            raise ValueError(f"latents of {waveform.shape[1]} samples cannot give {samples}")
        return waveform[:, :samples].float().clamp(-1, 1).cpu().numpy()

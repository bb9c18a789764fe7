"""What is already there: a whole track, or a stretch of it, that sampling must keep.

Shape legend: B batch; audio latents (B, C, L, M), video latents (B, C, T, H, W).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kinetophone.diffusion.process import Level, Process


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """Clean latents of one modality, and where along time they hold.

    Args:
        latents: clean latents of the whole clip; what lies outside of ``keep`` is ignored.
        keep: bool, (L,) or (T,).
        clean: False for a track that never enters clean, but always at the clock's noise level.
    """

    latents: Tensor
    keep: Tensor
    clean: bool = True

    @classmethod
    def all_of(cls, latents: Tensor) -> Given:
        """The whole track."""
        return cls(latents, torch.ones(latents.shape[2], dtype=torch.bool))

    @property
    def complete(self) -> bool:
        """Whether nothing is left to sample: the modality then enters clean, at its cleanest level."""
        return self.clean and bool(self.keep.all())

    def hold(self, x: Tensor, noise: Tensor, process: Process, level: Level) -> Tensor:
        """``x`` at a noise level with the kept part put in, noised to that level with its own ``noise``."""
        return self._where(process.noised(self.latents.to(x), noise, level), x)

    def settle(self, x: Tensor) -> Tensor:
        """``x``, an estimate of the clean latents, with the kept part put in."""
        return self._where(self.latents.to(x), x)

    def _where(self, kept: Tensor, x: Tensor) -> Tensor:
        keep = self.keep.to(x.device).view(-1, *[1] * (x.dim() - 3))
        return torch.where(keep, kept, x)

"""Known latents of a modality, complete or in part, that sampling must keep.

Shape legend: B batch; audio latents (B, C, L, M), video latents (B, C, T, H, W).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kinetophone.diffusion.process import Level, Process


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """Known clean latents of one modality, and a mask along time.

    Args:
        latents: clean latents of the entire clip; values outside ``keep`` are ignored.
        keep: bool mask, (L,) or (T,).
        clean: whether a complete track enters clean; if False, it is noised to the level of each step.
    """

    latents: Tensor
    keep: Tensor
    clean: bool = True

    @classmethod
    def all_of(cls, latents: Tensor) -> Given:
        """Keep the entire track."""
        return cls(latents, torch.ones(latents.shape[2], dtype=torch.bool))

    @property
    def complete(self) -> bool:
        """Whether the modality needs no sampling: it then enters clean, at its lowest trained noise level."""
        return self.clean and bool(self.keep.all())

    def hold(self, x: Tensor, noise: Tensor, process: Process, level: Level) -> Tensor:
        """Replace the kept part of ``x`` by the known latents, noised with ``noise`` to ``level``."""
        return self._where(process.noised(self.latents.to(x), noise, level), x)

    def settle(self, x: Tensor) -> Tensor:
        """Replace the kept part of ``x``, an estimate of the clean latents, by the known latents."""
        return self._where(self.latents.to(x), x)

    def _where(self, kept: Tensor, x: Tensor) -> Tensor:
        keep = self.keep.to(x.device).view(-1, *[1] * (x.dim() - 3))
        return torch.where(keep, kept, x)

"""The times of a latent's steps, and which step of one modality holds at a moment of the other.

A latent's step k begins at k / rate seconds, also where it lies behind the end of the clip and only pads the
latent to a multiple that its network needs. The published implementation spreads one modality's steps evenly
over the other's instead, padding included, which shifts everything but the beginning: of 4 s of sound at 25
latents a second, padded from 100 to 104, the last of 32 frames reads what is heard 0.125 s later. Its weights
expect that; others are better off with true times.

Shape legend: T' steps of a feature, S rows of a site's map along time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Alignment = Literal["seconds", "stretched"]
ALIGNMENTS = ("seconds", "stretched")
# A step may begin at the very moment that another does, but for rounding.
_SAME_S = 1e-6


@dataclass(frozen=True, slots=True)
class SiteTimes:
    """Beginnings in seconds, and the step length, of a site's rows and of the feature's steps."""

    rows: Tensor  # (S,)
    row_s: float
    steps: Tensor  # (T',)
    step_s: float

    def held(self) -> Tensor:
        """For each row, the index of the feature's step that holds at its beginning, int64 (S,)."""
        return (torch.searchsorted(self.steps, self.rows + _SAME_S, right=True) - 1).clamp(min=0)


def at_site(
    rows: int,
    latents: int,
    rate: float,
    steps: int,
    other_latents: int,
    other_rate: float,
    device: torch.device,
) -> SiteTimes:
    """The times at a site.

    Args:
        rows: length of the site's map along time, the latent's or less where the network halves it.
        latents: length of its modality's latent, padding included.
        rate: latents per second of its modality.
        steps: length of the feature, made from the other modality.
        other_latents: length of the other modality's latent, padding included.
        other_rate: latents per second of the other modality.
        device: where the tensors are to be.
    """
    row_s = -(-latents // rows) / rate  # networks halve with a stride: ratios are whole
    step_s = -(-other_latents // steps) / other_rate
    return SiteTimes(
        torch.arange(rows, device=device) * row_s, row_s, torch.arange(steps, device=device) * step_s, step_s
    )

"""Alignment in time: which step of one modality's feature applies at a moment of the other modality.

A feature is a series with times. Each step has a start and an end in seconds of the clip. That includes steps
after the end of the clip, which only pad a latent to a multiple that its network needs.

The published implementation instead spreads the steps of one modality evenly over those of the other, padding
included. This shifts everything but the beginning. Example: 4 s of audio at 25 latents a second are padded
from 100 to 104 latents. The last of 32 video frames then reads audio that is 0.125 s later. The published
weights expect this shift. Newly trained couplings are better off with the true times.

Shape legend: T' steps of a feature, R steps of a site along time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kinetophone.bases.protocol import Times

Alignment = Literal["seconds", "stretched"]
ALIGNMENTS = ("seconds", "stretched")
# Tolerance for steps of both modalities that begin at the same moment up to rounding.
_SAME_S = 1e-6


@dataclass(frozen=True, slots=True)
class SiteTimes:
    """Times of a site's steps, ``rows`` (R,), and of the feature's steps, ``steps`` (T',)."""

    rows: Times
    steps: Times

    @classmethod
    def of(cls, own: Times, rows: int, other: Times, steps: int) -> SiteTimes:
        """The times of a site and of a feature, derived from those of the two latents.

        Args:
            own: times of the latent steps of the site's own modality.
            rows: number of the site's steps; fewer than those of the latent if the network halves time.
            other: times of the latent steps of the other modality.
            steps: number of steps of the feature that is made from the other modality.
        """
        return cls(own.of(rows), other.of(steps))

    def held(self, device: torch.device, count: int = 1) -> Tensor:
        """For each row, the indices of the feature steps that apply in it, int64 (R·count,).

        A feature step applies until the next one begins. With ``count`` 1 it is the step at the start of the
        row. Otherwise the row is divided into ``count`` equal parts, and each index is the step at the middle
        of a part.
        """
        moments = self.rows.starts
        if count > 1:
            share = (torch.arange(count, dtype=torch.float64) + 0.5) / count
            moments = (moments[:, None] + share * (self.rows.ends - moments)[:, None]).flatten()
        last_begun = torch.searchsorted(self.steps.starts, moments + _SAME_S, right=True) - 1
        return last_begun.clamp(min=0).to(device)

    def middles(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Midpoints of the rows (R,) and of the feature's steps (T',), float32, in seconds."""
        rows, steps = ((t.starts + t.ends) / 2 for t in (self.rows, self.steps))
        return rows.float().to(device), steps.float().to(device)

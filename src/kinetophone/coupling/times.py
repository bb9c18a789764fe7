"""Which step of one modality holds at a moment of the other.

A feature is a series with times: each step begins and ends at a second of the clip, also where it lies behind
the clip's end and only pads a latent to a multiple that its network needs. The published implementation
spreads one modality's steps evenly over the other's instead, padding included, which shifts everything but
the beginning: of 4 s of sound at 25 latents a second, padded from 100 to 104, the last of 32 frames reads
what is heard 0.125 s later. Its weights expect that; others are better off with true times.

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
# A step may begin at the very moment that another does, but for rounding.
_SAME_S = 1e-6


@dataclass(frozen=True, slots=True)
class SiteTimes:
    """Times of a site's steps (R,) and of the feature's (T',)."""

    rows: Times
    steps: Times

    @classmethod
    def of(cls, own: Times, rows: int, other: Times, steps: int) -> SiteTimes:
        """At a site of ``rows`` steps, of a feature of ``steps``: both are the latents' or made from them.

        Args:
            own: times of the site's own modality's latents.
            rows: length of the site along time, the latent's or less where the network halves it.
            other: times of the other modality's latents.
            steps: length of the feature made from them.
        """
        return cls(own.of(rows), other.of(steps))

    def held(self, device: torch.device, count: int = 1) -> Tensor:
        """For each row, the indices of the feature's steps that hold in it, int64 (R·count,).

        One is that at the row's beginning; several are those in the middles of as many parts of it.
        """
        moments = self.rows.starts
        if count > 1:
            share = (torch.arange(count, dtype=torch.float64) + 0.5) / count
            moments = (moments[:, None] + share * (self.rows.ends - moments)[:, None]).flatten()
        last_begun = torch.searchsorted(self.steps.starts, moments + _SAME_S, right=True) - 1
        return last_begun.clamp(min=0).to(device)

    def middles(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Middles of the rows and of the feature's steps, float32, in seconds."""
        rows, steps = ((t.starts + t.ends) / 2 for t in (self.rows, self.steps))
        return rows.float().to(device), steps.float().to(device)

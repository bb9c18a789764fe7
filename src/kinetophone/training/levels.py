"""Errors of the bases without coupling at each noise level, used to weight the coupling's loss.

The error of the predicted noise falls by two orders of magnitude from clean to noisy, and the timing of
events is decided at the noisy levels. In a plain mean those levels hardly count. Dividing by the base's own
error makes each level count by the relative reduction that the coupling achieves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from kinetophone.av import AV, MODALITIES
from kinetophone.diffusion.process import Process

LEVELS = 12  # number of levels measured, evenly spaced over the trained range
BATCH = 4
Predict = Callable[[AV[Tensor], AV[Tensor], AV[Any]], AV[Tensor]]
"""``predict(latents, levels, text)``: the output of each base alone."""


@dataclass(frozen=True)
class LevelErrors:
    """Mean squared errors of a base's estimates of ε at increasing noise levels, both arrays (K,)."""

    levels: np.ndarray
    errors: np.ndarray

    def at(self, level: Tensor) -> Tensor:
        """The error at levels (B,), float32 on the CPU, interpolated log-linearly."""
        found = np.exp(np.interp(level.cpu().numpy(), self.levels, np.log(self.errors)))
        return torch.from_numpy(found).float()


@torch.no_grad()
def base_errors(
    predict: Predict, clean: AV[Tensor], text: AV[Any], processes: AV[Process]
) -> AV[LevelErrors]:
    """Measure the mean squared error of each base's estimate of ε over its trained noise levels.

    Args:
        predict: The bases without coupling.
        clean: Clean latents (N, …); the same noise (seed 0) is added at every level.
        text: Text conditioning of the bases, (N, …).
        processes: The bases' diffusion processes.

    Returns:
        The errors of each base at ``LEVELS`` levels.
    """
    generator = torch.Generator().manual_seed(0)
    noise = clean.map(lambda x: torch.randn(x.shape, generator=generator).to(x.device))
    levels: AV[np.ndarray] = processes.map(lambda p: np.linspace(p.least, p.most, LEVELS))
    parts = [slice(start, start + BATCH) for start in range(0, len(clean.audio), BATCH)]
    errors = AV(audio=np.zeros(LEVELS), video=np.zeros(LEVELS))
    for row in range(LEVELS):
        for part in parts:
            x, e = (pair.map(lambda tensor, part=part: tensor[part]) for pair in (clean, noise))
            level = x.map(lambda z, own, k=row: torch.full((len(z),), own[k], dtype=torch.float64), levels)
            noisy: AV[Tensor] = processes.map(lambda process, *of: process.noised(*of), x, e, level)
            told = text.map(lambda z, part=part: tree_map(lambda tensor: tensor[part], z))
            output = predict(noisy, level, told)
            eps: AV[Tensor] = processes.map(lambda process, *of: process.split(*of)[1], noisy, output, level)
            for modality in MODALITIES:
                wrong = (getattr(eps, modality).float() - getattr(e, modality)).square().flatten(1).mean(1)
                getattr(errors, modality)[row] += float(wrong.sum()) / len(clean.audio)
    return levels.map(LevelErrors, errors)

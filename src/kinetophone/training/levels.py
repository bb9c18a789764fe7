"""Errors of the bases without coupling at each noise level, used to weight the coupling's loss.

The error of the predicted noise falls by orders of magnitude from clean to noisy, and the timing of events is
decided at the noisy levels. In a plain mean those levels hardly count. Dividing by the base's own error makes
each level count by the relative reduction that the coupling achieves. That ratio is the same for the errors
of ε, x0 and v, so the loss does not depend on what a network predicts, nor on its process.
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

LEVELS = 12  # number of levels measured, evenly spaced in angle over the trained range
BATCH = 4
Predict = Callable[[AV[Tensor], AV[Tensor], AV[Any]], AV[Tensor]]
"""``predict(latents, levels, text)``: the output of each base alone."""


@dataclass(frozen=True)
class LevelErrors:
    """Mean squared errors of a base's estimates of v at rising noise, both arrays (K,).

    Attributes:
        angles: Signal-to-noise ratios, see ``Process.angle``.
        errors: Errors there. Unlike those of ε and x0, they vanish at neither end of the range.
    """

    angles: np.ndarray
    errors: np.ndarray

    def weight(self, process: Process, level: Tensor) -> Tensor:
        """Weights (B,) that turn squared errors of the output at ``level`` (B,) into shares of the base's.

        Errors between the measured levels are interpolated log-linearly. Float32, on the CPU.
        """
        own = np.exp(np.interp(process.angle(level).cpu().numpy(), self.angles, np.log(self.errors)))
        return (process.velocity_error_scale(level).cpu() / torch.from_numpy(own)).float()


@torch.no_grad()
def base_errors(
    predict: Predict, clean: AV[Tensor], text: AV[Any], processes: AV[Process]
) -> AV[LevelErrors]:
    """Measure the mean squared error of each base's own estimates over its trained noise levels.

    Args:
        predict: The bases without coupling.
        clean: Clean latents (N, …); the same noise (seed 0) is added at every level.
        text: Text conditioning of the bases, (N, …).
        processes: The bases' noise processes.

    Returns:
        The errors of each base at ``LEVELS`` levels.
    """
    generator = torch.Generator().manual_seed(0)
    noise = clean.map(lambda x: torch.randn(x.shape, generator=generator).to(x.device))
    levels: AV[Tensor] = processes.map(_measured_levels)
    parts = [slice(start, start + BATCH) for start in range(0, len(clean.audio), BATCH)]
    errors = AV(audio=np.zeros(LEVELS), video=np.zeros(LEVELS))
    for row in range(LEVELS):
        for part in parts:
            x, e = (pair.map(lambda tensor, part=part: tensor[part]) for pair in (clean, noise))
            level = x.map(lambda z, own, k=row: own[k].expand(len(z)), levels)
            noisy: AV[Tensor] = processes.map(lambda process, *of: process.noised(*of), x, e, level)
            told = text.map(lambda z, part=part: tree_map(lambda tensor: tensor[part], z))
            output = predict(noisy, level, told)
            target: AV[Tensor] = processes.map(lambda process, *of: process.target(*of), x, e, level)
            for modality in MODALITIES:
                wrong = getattr(output, modality).float() - getattr(target, modality)
                total = float(wrong.square().flatten(1).mean(1).sum())
                getattr(errors, modality)[row] += total / len(clean.audio)
    return processes.map(
        lambda process, own, wrong: LevelErrors(
            process.angle(own).numpy(), wrong * process.velocity_error_scale(own).numpy()
        ),
        levels,
        errors,
    )


def _measured_levels(process: Process) -> Tensor:
    """Levels (K,), float64, evenly spaced in angle."""
    first, last = (float(process.angle(end)) for end in (process.least, process.most))
    return torch.from_numpy(process.level_at(np.linspace(first, last, LEVELS)))

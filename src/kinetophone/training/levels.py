"""How wrong the bases are by themselves at each noise level: what a coupling's gain there is measured by.

The error of predicted noise falls by two orders of magnitude from clean to noisy, and it is where it is
smallest that things are placed in time. In a plain mean these levels count for nothing; divided by the base's
own error each level counts by the share of it that the coupling takes away.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from kinetophone.av import AV, MODALITIES
from kinetophone.diffusion.clocks import T_MAX
from kinetophone.diffusion.process import NoiseSchedule, add_noise

LEVELS = 12  # measured, evenly over the timesteps
BATCH = 4
Predict = Callable[[AV[Tensor], AV[Tensor], AV[Tensor]], AV[Tensor]]
"""``predict(latents, timesteps, text)``: noise predicted by each base alone."""


@torch.no_grad()
def base_errors(
    predict: Predict, clean: AV[Tensor], text: AV[Tensor], schedules: AV[NoiseSchedule]
) -> AV[Tensor]:
    """Mean squared error of each base's predicted noise at every trained timestep.

    Args:
        predict: the bases, coupling off.
        clean: latents (N, …) of some clips; the same noise (seed 0) is added at every level.
        text: their texts (N, …).
        schedules: noise schedule of each modality.

    Returns:
        float32 (T_MAX,) each, on the CPU: measured at a dozen timesteps, log-linear between them.
    """
    generator = torch.Generator().manual_seed(0)
    noise = clean.map(lambda x: torch.randn(x.shape, generator=generator).to(x.device))
    timesteps = np.linspace(0, T_MAX - 1, LEVELS).round().astype(int)
    parts = [slice(start, start + BATCH) for start in range(0, len(clean.audio), BATCH)]
    errors = AV(audio=np.zeros(LEVELS), video=np.zeros(LEVELS))
    for row, t in enumerate(timesteps.tolist()):
        alphas = schedules.map(lambda schedule, t=t: schedule.alpha(torch.tensor(t)))
        for part in parts:
            x, e = (pair.map(lambda tensor, part=part: tensor[part]) for pair in (clean, noise))
            timestep = x.map(lambda z, t=t: torch.full((len(z),), t, device=z.device))
            eps = predict(x.map(add_noise, e, alphas), timestep, text.map(lambda z, part=part: z[part]))
            for modality in MODALITIES:
                wrong = (getattr(eps, modality).float() - getattr(e, modality)).square().flatten(1).mean(1)
                getattr(errors, modality)[row] += float(wrong.sum()) / len(clean.audio)
    return errors.map(lambda found: _between(timesteps, found))


def _between(timesteps: np.ndarray, errors: np.ndarray) -> Tensor:
    return torch.from_numpy(np.exp(np.interp(np.arange(T_MAX), timesteps, np.log(errors)))).float()

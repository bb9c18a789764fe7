"""DDIM (arXiv 2010.02502) with η = 0 on an arbitrary grid of timesteps, as pure functions.

diffusers' own scheduler finds a step's previous timestep by subtracting a constant, which is wrong on an
adjusted (non-uniform) grid; here a step goes to whatever timestep the caller names next.

ᾱ (``alpha``) is the share of signal power at a timestep: x_t = √ᾱ x_0 + √(1 - ᾱ) ε. It is a number for a
whole batch or a tensor (B,) with one value per sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

END = -1  # the "timestep" after the last: a clean sample


@dataclass(frozen=True, slots=True)
class NoiseSchedule:
    """ᾱ of every trained timestep, and of the end of sampling.

    Args:
        alphas_cumprod: ᾱ_t, float64 (T,), falling.
        final_alpha_cumprod: ᾱ at :data:`END`.
    """

    alphas_cumprod: Tensor
    final_alpha_cumprod: float

    @classmethod
    def from_scheduler(cls, scheduler: Any, final_alpha_cumprod: float | None = 1.0) -> NoiseSchedule:
        """The schedule of a diffusers scheduler.

        Args:
            scheduler: any scheduler whose configuration DDIMScheduler understands.
            final_alpha_cumprod: ᾱ at the end; 1 removes all the noise. None keeps to the scheduler's
                ``set_alpha_to_one``: where that is false, as in the published setting, ᾱ_0 (the noise of
                timestep 0 stays).

        Returns:
            The schedule.

        Raises:
            ValueError: if the scheduler does not predict noise, or clips its clean estimate.
        """
        # Only DDIM's own default is to clip: a scheduler that does not know the option does not.
        clip = scheduler.config.get("clip_sample", False)
        config = DDIMScheduler.from_config(scheduler.config, clip_sample=clip).config
        if config.prediction_type != "epsilon":
            raise ValueError(f"prediction_type is {config.prediction_type!r}; only 'epsilon' is supported")
        for option in ("clip_sample", "thresholding"):
            if config[option]:
                raise ValueError(
                    f"{option} is set in the scheduler, which latents do not allow: set it to false"
                )
        ddim = DDIMScheduler.from_config(config)
        final = float(ddim.final_alpha_cumprod) if final_alpha_cumprod is None else final_alpha_cumprod
        return cls(ddim.alphas_cumprod.double(), final)

    def alpha(self, timesteps: Tensor) -> Tensor:
        """ᾱ at integer timesteps of any shape; :data:`END` is allowed. float64, on the schedule's device."""
        timesteps = timesteps.to(self.alphas_cumprod.device)
        known = self.alphas_cumprod[timesteps.clamp(min=0)]
        return torch.where(timesteps < 0, self.final_alpha_cumprod, known)


def add_noise(x0: Tensor, noise: Tensor, alpha: float | Tensor) -> Tensor:
    """Noisy sample x_t = √ᾱ x_0 + √(1 - ᾱ) ε, in the shape (B, …) of ``x0``."""
    signal, sigma = _roots(alpha, x0)
    return signal * x0 + sigma * noise


def clean_estimate(x: Tensor, noise: Tensor, alpha: float | Tensor) -> Tensor:
    """Estimate of the clean sample, x_0 = (x_t - √(1 - ᾱ) ε) / √ᾱ (eq. 9), in the shape (B, …) of ``x``."""
    signal, sigma = _roots(alpha, x)
    return (x - sigma * noise) / signal


def step(x0_hat: Tensor, noise: Tensor, alpha_next: float | Tensor) -> Tensor:
    """The sample at the grid's next, cleaner timestep (eq. 12, η = 0): the noise is kept, not redrawn."""
    return add_noise(x0_hat, noise, alpha_next)


def _roots(alpha: float | Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """√ᾱ and √(1 - ᾱ) as ``x`` is, shaped to broadcast over (B, …).

    Taken in float64, so that 1 - ᾱ keeps its digits near 1, and not on the device, which may not have it.
    """
    alpha = torch.as_tensor(alpha, dtype=torch.float64)
    if alpha.dim():
        alpha = alpha.reshape(-1, *[1] * (x.dim() - 1))
    return alpha.sqrt().to(x.dtype).to(x.device), (1 - alpha).sqrt().to(x.dtype).to(x.device)

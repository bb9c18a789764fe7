"""How one step of sampling is made from the clean estimate, on any grid: DDIM, and DPM-Solver++(2M).

Both go from x = a x_0 + b ε to x' = a' x_0 + b' ε with a = √ᾱ, b = √(1 - ᾱ). DDIM with η = 0 (arXiv
2010.02502) takes the estimate of this step alone: first order. DPM-Solver++(2M) (arXiv 2211.01095) carries on
the change from the estimate before, in half the log SNR: second order, at the same cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from kinetophone.diffusion.process import step as to_next
from kinetophone.diffusion.settings import Stepper

Step = Callable[[Tensor, Tensor, Tensor, float, float], Tensor]
"""``step(x, x0_hat, noise, alpha, alpha_next)`` -> the sample at ᾱ ``alpha_next``, in the shape of ``x``."""


def ddim(x: Tensor, x0_hat: Tensor, noise: Tensor, alpha: float, alpha_next: float) -> Tensor:
    """The noise is kept, not drawn anew."""
    return to_next(x0_hat, noise, alpha_next)


class DPMSolver2M:
    """Of one modality in one run: it remembers the estimate of the step before."""

    def __init__(self) -> None:
        self._before: tuple[Tensor, float] | None = None  # the clean estimate, and how far that step went

    def __call__(self, x: Tensor, x0_hat: Tensor, noise: Tensor, alpha: float, alpha_next: float) -> Tensor:
        before, self._before = self._before, None
        # To the clean end there is no finite distance; a clock that stands still goes none.
        distance = 0.0 if alpha_next >= 1 or alpha >= 1 else half_log_snr(alpha_next) - half_log_snr(alpha)
        if distance <= 0:
            return ddim(x, x0_hat, noise, alpha, alpha_next)
        self._before = (x0_hat, distance)
        if before is None:
            return ddim(x, x0_hat, noise, alpha, alpha_next)
        last, last_distance = before
        ahead = x0_hat + distance / (2 * last_distance) * (x0_hat - last)
        kept = math.sqrt((1 - alpha_next) / (1 - alpha))
        return kept * x + (math.sqrt(alpha_next) - kept * math.sqrt(alpha)) * ahead


STEPPERS: dict[Stepper, Callable[[], Step]] = {"ddim": lambda: ddim, "dpmpp_2m": DPMSolver2M}


def half_log_snr(alpha: float) -> float:
    """ln(a / b) at a share of signal power ᾱ between 0 and 1."""
    return 0.5 * (math.log(alpha) - math.log1p(-alpha))

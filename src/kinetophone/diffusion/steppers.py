"""Update rules of a sampling step, for any path of levels.

All of them go from x = a x0 + b ε to x' = a' x0 + b' ε. "ddim" is first order and uses only the estimates of
this step: DDIM with η = 0 (arXiv 2010.02502), which is an Euler step for rectified flow. "dpmpp_2m" is
DPM-Solver++(2M) (arXiv 2211.01095): it extrapolates linearly from the previous estimate in half the log SNR,
which is second order at the same cost. "unipc" is UniPC of order 2 (arXiv 2302.04867): it takes the same
step, and corrects it when the next estimate is known, which is third order, again at the same cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from kinetophone.diffusion.process import Process

Step = Callable[[Process, Tensor, Tensor, Tensor, float, float], Tensor]
"""``step(process, x, x0_hat, noise, level, next_level)`` -> latents at the next level, shaped like ``x``."""


def ddim(
    process: Process, x: Tensor, x0_hat: Tensor, noise: Tensor, level: float, next_level: float
) -> Tensor:
    """DDIM with η = 0: the estimated noise is kept, and no new noise is drawn."""
    return process.noised(x0_hat, noise, next_level)


class DPMSolver2M:
    """DPM-Solver++(2M) for one modality in one run; stores the estimate of the previous step."""

    def __init__(self) -> None:
        self._before: tuple[Tensor, float] | None = None  # clean estimate and step size

    def __call__(
        self, process: Process, x: Tensor, x0_hat: Tensor, noise: Tensor, level: float, next_level: float
    ) -> Tensor:
        before, self._before = self._before, None
        (a, b), (a_next, b_next) = (tuple(map(float, process.coefficients(u))) for u in (level, next_level))
        # Steps from pure noise or to level 0 are infinite; a clock that stands still has step size 0.
        finite = min(a, b, a_next, b_next) > 0
        distance = float(process.log_snr(next_level) - process.log_snr(level)) / 2 if finite else 0.0
        if distance <= 0:
            return ddim(process, x, x0_hat, noise, level, next_level)
        self._before = (x0_hat, distance)
        if before is None:
            return ddim(process, x, x0_hat, noise, level, next_level)
        last, last_distance = before
        ahead = x0_hat + distance / (2 * last_distance) * (x0_hat - last)
        kept = b_next / b
        return kept * x + (a_next - kept * a) * ahead


class UniPC:
    """UniPC of order 2, with B(h) = exp(h) - 1 ("bh2"), for one modality in one run.

    It stores the last two estimates, and the latents that it started the last step from.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[Tensor, float]] = []  # clean estimates and half log SNRs, newest first
        self._from: tuple[Tensor, float] | None = None  # corrected latents at the newest, and b there

    def __call__(
        self, process: Process, x: Tensor, x0_hat: Tensor, noise: Tensor, level: float, next_level: float
    ) -> Tensor:
        (a, b), (a_next, b_next) = (tuple(map(float, process.coefficients(u))) for u in (level, next_level))
        # As for DPM-Solver++: infinite steps and clocks that stand still.
        finite = min(a, b, a_next, b_next) > 0
        here = float(process.log_snr(level)) / 2 if finite else 0.0
        ahead = float(process.log_snr(next_level)) / 2 if finite else 0.0
        if ahead <= here:
            self._seen, self._from = [], None
            return ddim(process, x, x0_hat, noise, level, next_level)
        if self._from is not None:
            x = self._moved(a, b, here, x0_hat)
        self._seen = [(x0_hat, here), *self._seen[:1]]
        self._from = (x, b)
        return self._moved(a_next, b_next, ahead)

    def _moved(self, a: float, b: float, to: float, x0_hat: Tensor | None = None) -> Tensor:
        """Latents at the half log SNR ``to``; corrected if their clean estimate is known already."""
        assert self._from is not None
        start, b_start = self._from
        (newest, at), *older = self._seen
        h = to - at
        slopes = [(older[0][0] - newest) * (h / (older[0][1] - at))] if older else []
        if x0_hat is None:
            change = 0.5 * slopes[0] if older else 0.0
        elif not older:
            change = 0.5 * (x0_hat - newest)
        else:
            grown = math.expm1(-h)
            once = -grown / h - 1
            first, second = once / grown, (once / -h - 0.5) * 2 / grown
            weight = (first - second) / (1 - (older[0][1] - at) / h)
            change = weight * slopes[0] + (first - weight) * (x0_hat - newest)
        return b / b_start * start - a * math.expm1(-h) * (newest + change)


STEPPERS: dict[str, Callable[[], Step]] = {"ddim": lambda: ddim, "dpmpp_2m": DPMSolver2M, "unipc": UniPC}

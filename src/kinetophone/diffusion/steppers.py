"""How one step of sampling is made from the estimates, on any path of levels: one entry a stepper.

All go from x = a x0 + b ε to x' = a' x0 + b' ε. "ddim" takes the estimates of this step alone: first order,
DDIM with η = 0 (arXiv 2010.02502), for a flow Euler's step. DPM-Solver++(2M) (arXiv 2211.01095) carries on
the change from the estimate before, in half the log SNR: second order, at the same cost.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from kinetophone.diffusion.process import Process

Step = Callable[[Process, Tensor, Tensor, Tensor, float, float], Tensor]
"""``step(process, x, x0_hat, noise, level, next_level)`` -> the sample at the next level, shaped as ``x``."""


def ddim(
    process: Process, x: Tensor, x0_hat: Tensor, noise: Tensor, level: float, next_level: float
) -> Tensor:
    """The noise is kept, not drawn anew."""
    return process.noised(x0_hat, noise, next_level)


class DPMSolver2M:
    """Of one modality in one run: it remembers the estimate of the step before."""

    def __init__(self) -> None:
        self._before: tuple[Tensor, float] | None = None  # the clean estimate, and how far that step went

    def __call__(
        self, process: Process, x: Tensor, x0_hat: Tensor, noise: Tensor, level: float, next_level: float
    ) -> Tensor:
        before, self._before = self._before, None
        (a, b), (a_next, b_next) = (tuple(map(float, process.coefficients(u))) for u in (level, next_level))
        # From pure noise and to the clean end it is infinite; a clock that stands still goes none.
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


STEPPERS: dict[str, Callable[[], Step]] = {"ddim": lambda: ddim, "dpmpp_2m": DPMSolver2M}

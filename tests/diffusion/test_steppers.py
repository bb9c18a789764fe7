"""Steppers in a world whose noise is known exactly: they arrive, and at their order."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from kinetophone.diffusion.process import clean_estimate
from kinetophone.diffusion.settings import STEPPER_NAMES
from kinetophone.diffusion.steppers import STEPPERS, half_log_snr

MEAN, DEVIATION = 0.7, 0.4


def alpha_at(half: float) -> float:
    return 1 / (1 + math.exp(-2 * half))


def exact_noise(x: Tensor, alpha: float) -> Tensor:
    """E[ε | x] where x_0 is Gaussian."""
    variance = alpha * DEVIATION**2 + 1 - alpha
    return math.sqrt(1 - alpha) * (x - math.sqrt(alpha) * MEAN) / variance


def exact_end(x: Tensor, alpha: float, end: float) -> Tensor:
    """Where the probability flow leads."""
    spread, spread_end = (math.sqrt(a * DEVIATION**2 + 1 - a) for a in (alpha, end))
    return math.sqrt(end) * MEAN + (x - math.sqrt(alpha) * MEAN) * spread_end / spread


def run(name: str, x: Tensor, alphas: list[float]) -> Tensor:
    step = STEPPERS[name]()
    for alpha, following in itertools.pairwise(alphas):
        noise = exact_noise(x, alpha)
        x = step(x, clean_estimate(x, noise, alpha), noise, alpha, following)
    return x


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpmpp_2m", 2)])
def test_errors_fall_at_the_order_of_the_stepper(name: str, order: int) -> None:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    errors = []
    for steps in (20, 40, 80):
        alphas = [alpha_at(h) for h in np.linspace(-3, 3, steps + 1)]
        errors.append(float((run(name, x, alphas) - exact_end(x, alphas[0], alphas[-1])).abs().max()))
    measured = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(abs(m - order) < 0.25 for m in measured), measured


def test_a_step_equals_that_of_diffusers() -> None:
    scheduler = DPMSolverMultistepScheduler(
        beta_schedule="scaled_linear", solver_order=2, lower_order_final=False, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(12)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 8, 8, generator=generator, dtype=torch.float64)
    ours, step = x.clone(), STEPPERS["dpmpp_2m"]()
    alphas = [float(1 / (1 + s**2)) for s in scheduler.sigmas.double()]
    for k, t in enumerate(scheduler.timesteps):
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        x = scheduler.step(noise, t, x).prev_sample
        ours = step(ours, clean_estimate(ours, noise, alphas[k]), noise, alphas[k], min(alphas[k + 1], 1.0))
        torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", list(STEPPERS))
def test_the_last_step_removes_all_the_noise_and_a_clock_may_stand_still(name: str) -> None:
    x, x0_hat, noise = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(1))
    step = STEPPERS[name]()
    step(x, x0_hat, noise, 0.2, 0.5)
    torch.testing.assert_close(step(x, x0_hat, noise, 0.5, 0.5), 0.5**0.5 * (x0_hat + noise))
    torch.testing.assert_close(step(x, x0_hat, noise, 0.5, 1.0), x0_hat)
    torch.testing.assert_close(step(x, x0_hat, noise, 1.0, 1.0), x0_hat)


def test_half_the_log_snr_is_zero_where_signal_and_noise_are_equal() -> None:
    assert half_log_snr(0.5) == 0
    assert math.isclose(half_log_snr(0.9), -half_log_snr(0.1))


def test_the_names_that_are_checked_before_anything_is_loaded_are_those_that_there_are() -> None:
    assert tuple(STEPPERS) == STEPPER_NAMES

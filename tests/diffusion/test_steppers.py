"""Steppers in a world whose noise is known exactly: they arrive, and at their order, on every process."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor

from kinetophone.diffusion.process import Cosine, Discrete, Flow, Process
from kinetophone.diffusion.settings import STEPPER_NAMES
from kinetophone.diffusion.steppers import STEPPERS

MEAN, DEVIATION = 0.7, 0.4


def exact_noise(x: Tensor, process: Process, level: float) -> Tensor:
    """E[ε | x] where x0 is Gaussian."""
    a, b = map(float, process.coefficients(level))
    return b * (x - a * MEAN) / (a**2 * DEVIATION**2 + b**2)


def exact_end(x: Tensor, process: Process, level: float, end: float) -> Tensor:
    """Where the probability flow leads."""
    (a, b), (a_end, b_end) = (tuple(map(float, process.coefficients(u))) for u in (level, end))
    spread, spread_end = (math.sqrt(p**2 * DEVIATION**2 + q**2) for p, q in ((a, b), (a_end, b_end)))
    return a_end * MEAN + (x - a * MEAN) * spread_end / spread


def run(name: str, process: Process, x: Tensor, levels: list[float]) -> Tensor:
    step = STEPPERS[name]()
    for level, following in itertools.pairwise(levels):
        noise = exact_noise(x, process, level)
        a, b = map(float, process.coefficients(level))
        x = step(process, x, (x - b * noise) / a, noise, level, following)
    return x


def levels_of(process: Process, steps: int) -> list[float]:
    """Evenly in the log SNR, from 6 to -6."""
    table = process.log_snr_table()
    return list(np.interp(np.linspace(-6, 6, steps + 1), table[1][::-1], table[0][::-1]))


@pytest.mark.parametrize("process", [Cosine(), Flow(), Flow(shift=5.0)])
@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpmpp_2m", 2), ("unipc", 3)])
def test_errors_fall_at_the_order_of_the_stepper(process: Process, name: str, order: int) -> None:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    errors = []
    for steps in (20, 40, 80):
        levels = levels_of(process, steps)
        error = run(name, process, x, levels) - exact_end(x, process, levels[0], levels[-1])
        errors.append(float(error.abs().max()))
    measured = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(abs(m - order) < 0.3 for m in measured), measured


@pytest.mark.parametrize(
    ("name", "kind"), [("dpmpp_2m", DPMSolverMultistepScheduler), ("unipc", UniPCMultistepScheduler)]
)
def test_a_step_equals_that_of_diffusers(name: str, kind: Any) -> None:
    scheduler = kind(beta_schedule="scaled_linear", solver_order=2, timestep_spacing="trailing")
    scheduler.set_timesteps(12)
    process = Discrete.from_scheduler(DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 8, 8, generator=generator, dtype=torch.float64)
    ours, step = x.clone(), STEPPERS[name]()
    levels = [process.level(int(t)) for t in scheduler.timesteps] + [0.0]
    for t, (level, following) in zip(scheduler.timesteps, itertools.pairwise(levels), strict=True):
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        x = scheduler.step(noise, t, x).prev_sample
        ours = step(process, ours, process.split(ours, noise, level)[0], noise, level, following)
        torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("process", [Cosine(), Flow()])
@pytest.mark.parametrize("name", list(STEPPERS))
def test_the_last_step_removes_all_the_noise_and_a_clock_may_stand_still(name: str, process: Process) -> None:
    x, x0_hat, noise = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(1))
    step = STEPPERS[name]()
    step(process, x, x0_hat, noise, 0.9, 0.5)
    here = process.noised(x0_hat, noise, 0.5)
    torch.testing.assert_close(step(process, x, x0_hat, noise, 0.5, 0.5), here)
    torch.testing.assert_close(step(process, x, x0_hat, noise, 0.5, 0.0), x0_hat)
    torch.testing.assert_close(step(process, x, x0_hat, noise, 0.0, 0.0), x0_hat)


@pytest.mark.parametrize("name", list(STEPPERS))
def test_a_step_from_pure_noise_is_finite(name: str) -> None:
    x = torch.randn(2, 4)
    step, flow = STEPPERS[name](), Flow()
    made = step(flow, x, 0.3 * x, x, 1.0, 0.9)
    torch.testing.assert_close(made, flow.noised(0.3 * x, x, 0.9))
    assert step(flow, made, 0.3 * x, x, 0.9, 0.8).isfinite().all()


def test_the_names_that_are_checked_before_anything_is_loaded_are_those_that_there_are() -> None:
    assert tuple(STEPPERS) == STEPPER_NAMES

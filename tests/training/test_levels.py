"""The loss of a denoiser does not depend on what it predicts, nor on its noise process."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from kinetophone.av import AV
from kinetophone.diffusion.process import Cosine, Discrete, Flow, Process
from kinetophone.training.diffusion import min_snr, noise_loss
from kinetophone.training.levels import LevelErrors, base_errors

SPREAD = 0.4  # standard deviation of the data of a world in which the best denoiser is known
SHAPE = (64, 3, 5)


def discrete(output: str) -> Discrete:
    prediction = {"epsilon": "epsilon", "v": "v_prediction"}[output]
    return Discrete.from_scheduler(DDIMScheduler(clip_sample=False, prediction_type=prediction))


def world(seed: int = 0, count: int = SHAPE[0]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clean = SPREAD * torch.randn((count, *SHAPE[1:]), generator=generator, dtype=torch.float64)
    return clean, torch.randn((count, *SHAPE[1:]), generator=generator, dtype=torch.float64)


def output(process: Process, x: Tensor, level: Tensor, skill: float = 1.0) -> Tensor:
    """What a network says that estimates x0 by ``skill`` times the best linear estimate."""
    a, b = (c.view(-1, 1, 1).to(x) for c in process.coefficients(level))
    x0 = skill * a * SPREAD**2 / (a**2 * SPREAD**2 + b**2) * x
    return process.target(x0, (x - a * x0) / b, level)


def loss_of(process: Process, level: Tensor, weight: Tensor, skill: float = 1.0) -> float:
    clean, noise = world(1, len(level))
    x = process.noised(clean, noise, level)
    return float(noise_loss(output(process, x, level, skill), process.target(clean, noise, level), weight))


def at_angles(process: Process, angles: Tensor) -> Tensor:
    return torch.from_numpy(process.level_at(angles.numpy()))


def measured(process: Process) -> LevelErrors:
    clean, _ = world(0, 32)
    found = base_errors(
        lambda x, levels, text: AV(output(process, x.audio, levels.audio), x.video),
        AV.both(clean),
        AV.both(torch.zeros(32)),
        AV(process, Cosine(least=0.1, most=0.9)),
    )
    return found.audio


def test_the_plain_loss_is_that_of_the_noise_for_every_process() -> None:
    angles = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    clean, noise = world(1, 3)
    for process in (discrete("epsilon"), discrete("v"), Cosine(), Flow(shift=3.0)):
        level = at_angles(process, angles)
        x = process.noised(clean, noise, level)
        said = output(process, x, level, 0.7)
        wrong = (process.split(x, said, level)[1] - noise).square().mean()
        scale = process.noise_error_scale(level) * min_snr(process, level, math.inf)
        assert loss_of(process, level, scale, 0.7) == pytest.approx(float(wrong), rel=1e-5)


@pytest.mark.parametrize("relative", [False, True])
def test_a_denoiser_has_one_loss_whether_it_predicts_noise_v_or_a_flow(relative: bool) -> None:
    angles = torch.linspace(0.1, 0.95, 40, dtype=torch.float64)
    losses = []
    # A flow has other latents at the same signal-to-noise ratio, scaled; the denoiser is the same.
    for process in (discrete("epsilon"), discrete("v"), Cosine(), Flow(shift=3.0, least=0.05, most=0.99)):
        level = at_angles(process, angles)
        weight = measured(process).weight(process, level) if relative else process.noise_error_scale(level)
        losses.append(loss_of(process, level, weight, 0.7))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)  # of one process
    # Of unlike processes: their own levels are rounded to timesteps, and their errors measured elsewhere.
    assert losses[2:] == pytest.approx(losses[:1] * 2, rel=0.01)


@pytest.mark.parametrize(
    "process", [discrete("epsilon"), discrete("v"), Cosine(), Cosine(0.1855, 0.9987), Flow(), Flow(shift=5.0)]
)
def test_the_base_itself_scores_one_at_every_level_up_to_both_ends(process: Process) -> None:
    errors = measured(process)
    assert np.isfinite(errors.errors).all()
    assert (errors.errors > 0).all()
    for u in (process.least, 0.3, 0.7, process.most):
        level = torch.full((2000,), min(max(u, process.least + 1e-9), process.most), dtype=torch.float64)
        weight = errors.weight(process, level)
        assert torch.isfinite(weight).all()
        assert loss_of(process, level, weight) == pytest.approx(1, abs=0.1)


def test_weights_of_nearly_clean_levels_are_limited_and_finite_at_the_ends() -> None:
    levels = torch.tensor([0.0, 0.1, 0.9, 1.0], dtype=torch.float64)
    for gamma in (5.0, math.inf):
        weights = min_snr(Flow(), levels, gamma)
        assert torch.isfinite(weights).all()
        assert weights[2:].tolist() == [1.0, 1.0]
    assert min_snr(Flow(), levels, 5.0)[1] < 0.1

"""DDIM on arbitrary grids: inverse of adding noise, and diffusers' own scheduler where that is right."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler

from kinetophone.diffusion.process import END, NoiseSchedule, add_noise, clean_estimate, step
from kinetophone.reference import settings as reference
from no_float64 import NoFloat64

SCHEDULER = reference.schedulers().video


def test_the_clean_estimate_undoes_the_noise() -> None:
    schedule = NoiseSchedule.from_scheduler(SCHEDULER)
    x0, noise = torch.randn(3, 4, 2), torch.randn(3, 4, 2)
    for timesteps in (torch.tensor(500), torch.tensor([0, 400, 999])):
        alpha = schedule.alpha(timesteps)
        x = add_noise(x0, noise, alpha)
        torch.testing.assert_close(clean_estimate(x, noise, alpha), x0, atol=1e-4, rtol=1e-4)


def test_noise_is_added_as_diffusers_adds_it() -> None:
    schedule = NoiseSchedule.from_scheduler(SCHEDULER)
    x0, noise, timesteps = torch.randn(3, 4), torch.randn(3, 4), torch.tensor([1, 500, 998])
    expected = SCHEDULER.add_noise(x0, noise, timesteps)
    torch.testing.assert_close(add_noise(x0, noise, schedule.alpha(timesteps)), expected)


@pytest.mark.parametrize("final", [None, 1.0])
def test_a_step_on_a_uniform_grid_is_that_of_diffusers(final: float | None) -> None:
    reference = DDIMScheduler.from_config(
        SCHEDULER.config, timestep_spacing="leading", steps_offset=0, set_alpha_to_one=final == 1
    )
    reference.set_timesteps(10)
    schedule = NoiseSchedule.from_scheduler(reference, final)
    grid = [*reference.timesteps.tolist(), END]
    x, noise = torch.randn(2, 4), torch.randn(2, 4)
    for t, following in pairwise(grid):
        expected = reference.step(noise, t, x)
        x0_hat = clean_estimate(x, noise, schedule.alpha(torch.tensor(t)))
        x = step(x0_hat, noise, schedule.alpha(torch.tensor(following)))
        torch.testing.assert_close(x0_hat, expected.pred_original_sample)
        torch.testing.assert_close(x, expected.prev_sample)


def test_the_end_is_clean_unless_the_scheduler_is_asked() -> None:
    assert NoiseSchedule.from_scheduler(SCHEDULER).alpha(torch.tensor(END)) == 1
    published = NoiseSchedule.from_scheduler(SCHEDULER, None)
    assert published.alpha(torch.tensor(END)) == published.alpha(torch.tensor(0)) < 1


def test_what_is_not_supported_is_an_error() -> None:
    with pytest.raises(ValueError, match="prediction_type is 'v_prediction'; only 'epsilon' is supported"):
        NoiseSchedule.from_scheduler(DDIMScheduler(prediction_type="v_prediction", clip_sample=False))
    with pytest.raises(ValueError, match="clip_sample is set in the scheduler"):
        NoiseSchedule.from_scheduler(DDIMScheduler())


def test_nothing_on_the_device_needs_double_precision() -> None:
    schedule = NoiseSchedule.from_scheduler(SCHEDULER)
    with NoFloat64():
        x, noise = torch.empty(2, 3, device="meta"), torch.empty(2, 3, device="meta")
        alpha = schedule.alpha(torch.tensor([3, 500]))
        x = step(clean_estimate(add_noise(x, noise, alpha), noise, alpha), noise, 1.0)
    assert (x.device.type, x.dtype) == ("meta", torch.float32)

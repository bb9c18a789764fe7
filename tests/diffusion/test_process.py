"""Noise processes: the estimates that an output splits into, and the steps of diffusers' own schedulers."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from kinetophone.diffusion.process import CLEAN, Cosine, Discrete, Flow, Process
from kinetophone.reference import settings as reference
from no_float64 import NoFloat64

SCHEDULER = reference.schedulers().video
DDPM = Discrete.from_scheduler(SCHEDULER)
V = Discrete.from_scheduler(DDIMScheduler(prediction_type="v_prediction", clip_sample=False))
PROCESSES: list[Process] = [DDPM, V, Cosine(least=0.1855, most=0.9987), Flow(shift=3.0)]


@pytest.mark.parametrize("process", PROCESSES)
def test_the_right_output_splits_into_what_was_mixed(process: Process) -> None:
    x0, noise = torch.randn(2, 3, 4, 2, dtype=torch.float64)
    for level in (torch.tensor(0.5), torch.tensor([0.2, 0.4, 0.99])):
        x = process.noised(x0, noise, level)
        x0_hat, noise_hat = process.split(x, process.target(x0, noise, level), level)
        torch.testing.assert_close(x0_hat, x0)
        torch.testing.assert_close(noise_hat, noise)


@pytest.mark.parametrize("process", PROCESSES)
@given(count=st.integers(1, 300), bend=st.floats(0.2, 5))
def test_snapped_levels_fall_from_the_noisiest_to_what_is_trained(
    process: Process, count: int, bend: float
) -> None:
    levels = process.snapped((np.arange(1, count + 1) / count) ** bend)
    assert levels[0] == process.most
    assert levels[-1] >= process.least
    assert (np.diff(levels) <= 0).all()
    if isinstance(process, Discrete):
        assert (np.diff(levels) < 0).all()


@pytest.mark.parametrize("process", PROCESSES)
def test_levels_are_drawn_over_the_trained_range(process: Process) -> None:
    drawn = process.draw(4000, torch.Generator().manual_seed(0))
    assert drawn.dtype == torch.float64
    assert process.least <= drawn.min() < drawn.max() <= process.most
    noisier = process.draw(4000, torch.Generator().manual_seed(0), power=0.5)
    assert noisier.mean() > drawn.mean() + 0.05


@pytest.mark.parametrize("process", PROCESSES)
def test_the_log_snr_falls_with_the_level(process: Process) -> None:
    levels, log_snr = process.log_snr_table()
    assert (np.diff(levels) > 0).all()
    assert (np.diff(log_snr) < 0).all()
    torch.testing.assert_close(process.log_snr(torch.from_numpy(levels)), torch.from_numpy(log_snr))


def test_noise_is_added_as_diffusers_adds_it() -> None:
    x0, noise, timesteps = torch.randn(3, 4), torch.randn(3, 4), torch.tensor([1, 500, 998])
    expected = SCHEDULER.add_noise(x0, noise, timesteps)
    torch.testing.assert_close(DDPM.noised(x0, noise, DDPM.level(timesteps)), expected)


@given(st.integers(-1, 999))
def test_a_timestep_is_its_level_and_back(timestep: int) -> None:
    assert int(DDPM.timestep(DDPM.level(timestep))) == timestep
    assert int(DDPM.network_time(torch.tensor([DDPM.level(timestep)]))) == max(0, timestep)


@pytest.mark.parametrize("final", [None, 1.0])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_step_on_a_uniform_grid_is_that_of_diffusers(final: float | None, prediction: str) -> None:
    theirs = DDIMScheduler.from_config(
        SCHEDULER.config, timestep_spacing="leading", steps_offset=0, set_alpha_to_one=final == 1,
        prediction_type=prediction,
    )  # fmt: skip
    theirs.set_timesteps(10)
    process = Discrete.from_scheduler(theirs, final)
    x, output = torch.randn(2, 4), torch.randn(2, 4)
    for t, following in pairwise([*theirs.timesteps.tolist(), -1]):
        expected = theirs.step(output, t, x)
        x0_hat, noise = process.split(x, output, process.level(t))
        x = process.noised(x0_hat, noise, process.level(following))
        torch.testing.assert_close(x0_hat, expected.pred_original_sample)
        torch.testing.assert_close(x, expected.prev_sample)


def test_a_step_of_a_flow_is_that_of_diffusers() -> None:
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(8)
    flow = Flow(shift=3.0)
    levels = [float(s / (3.0 - 2.0 * s)) for s in theirs.sigmas.double()]  # the shift undone
    torch.testing.assert_close(flow.network_time(torch.tensor(levels[:-1])).float(), theirs.timesteps)
    x = torch.randn(2, 4)
    for t, (level, following) in zip(theirs.timesteps, pairwise(levels), strict=True):
        output = torch.randn(2, 4)
        expected = theirs.step(output, t, x).prev_sample
        x = flow.noised(*flow.split(x, output, level), following)
        torch.testing.assert_close(x, expected, atol=1e-5, rtol=1e-5)


def test_stable_audios_noise_is_the_cosine_process() -> None:
    # EDM noise with σ_data = 1: the network sees x / √(1 + σ²), and the angle as its time.
    sigmas = torch.tensor([0.3, 1.0, 20.0, 500.0], dtype=torch.float64)
    level = torch.atan(sigmas) * (2 / math.pi)
    a, b = Cosine().coefficients(level)
    torch.testing.assert_close(a, 1 / (1 + sigmas**2).sqrt())
    torch.testing.assert_close(b, sigmas / (1 + sigmas**2).sqrt())
    assert level[0] == pytest.approx(0.1855, abs=1e-4)
    assert level[-1] == pytest.approx(0.9987, abs=1e-4)
    assert Cosine().log_snr(level)[[0, -1]].tolist() == pytest.approx([2.41, -12.43], abs=0.01)


def test_the_end_is_clean_unless_the_scheduler_is_asked() -> None:
    assert DDPM.coefficients(CLEAN) == (1, 0)
    published = Discrete.from_scheduler(SCHEDULER, None)
    assert published.coefficients(CLEAN) == published.coefficients(published.least)
    assert published.coefficients(CLEAN)[1] > 0


def test_what_is_not_supported_is_an_error() -> None:
    with pytest.raises(ValueError, match="prediction_type is 'sample'; it must be epsilon or v_prediction"):
        Discrete.from_scheduler(DDIMScheduler(prediction_type="sample", clip_sample=False))
    with pytest.raises(ValueError, match="clip_sample is set in the scheduler"):
        Discrete.from_scheduler(DDIMScheduler())


@pytest.mark.parametrize("process", PROCESSES)
def test_nothing_on_the_device_needs_double_precision(process: Process) -> None:
    with NoFloat64():
        x, noise = torch.empty(2, 3, device="meta"), torch.empty(2, 3, device="meta")
        level = torch.tensor([0.2, 0.5], dtype=torch.float64)
        x0, eps = process.split(process.noised(x, noise, level), noise, level)
        x = process.noised(x0, eps, CLEAN)
    assert (x.device.type, x.dtype) == ("meta", torch.float32)

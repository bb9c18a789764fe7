"""The two clocks: laws of the adjustment, and grids a sampler can rely on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

from kinetophone.av import AV
from kinetophone.diffusion.clocks import T_MAX, local_grids, local_times, log_snr_of, snr_grids
from kinetophone.errors import UserError
from kinetophone.reference import settings as reference

SCHEDULERS = reference.schedulers()
gammas = st.floats(0.1, 10)


@given(t=st.floats(0, T_MAX))
def test_gamma_1_is_no_adjustment(t: float) -> None:
    assert local_times(t, 1) == AV.both(pytest.approx(t))


@given(t=st.floats(0, T_MAX), gamma=gammas)
def test_video_time_is_the_gamma_power_of_audio_time(t: float, gamma: float) -> None:
    local = local_times(t, gamma)
    assert local.video / T_MAX == pytest.approx((local.audio / T_MAX) ** gamma)
    assert math.sqrt((local.audio / T_MAX) ** (math.sqrt(gamma) * 2)) == pytest.approx(t / T_MAX)
    if gamma > 1:
        assert local.video <= t <= local.audio + 1e-9


def test_times_of_tensors_and_arrays() -> None:
    for times in (np.array([0.0, 250.0, 1000.0]), torch.tensor([0.0, 250.0, 1000.0])):
        local = local_times(times, 4)
        assert type(local.audio) is type(times)
        assert [float(t) for t in local.audio] == [0, 500, 1000]
        assert [float(t) for t in local.video] == [0, 62.5, 1000]


@given(steps=st.integers(1, T_MAX), gamma=gammas)
def test_trailing_grids_start_at_the_top_and_fall_strictly(steps: int, gamma: float) -> None:
    grids = local_grids(SCHEDULERS, steps, gamma)
    for grid in (grids.audio, grids.video):
        assert grid.dtype == torch.int64
        assert len(grid) == steps
        assert grid[0] == T_MAX - 1
        assert grid[-1] >= 0
        assert (grid.diff() < 0).all()


@given(steps=st.integers(1, 200), gamma=gammas)
def test_reference_grids_never_rise(steps: int, gamma: float) -> None:
    grids = local_grids(SCHEDULERS, steps, gamma, spacing="reference")
    for grid in (grids.audio, grids.video):
        assert len(grid) == steps
        assert grid.min() >= 0
        assert grid.max() < T_MAX
        assert (grid.diff() <= 0).all()


def test_gamma_1_grids_are_the_schedulers_own_or_trailing() -> None:
    for modality in ("audio", "video"):
        scheduler = getattr(SCHEDULERS, modality)
        scheduler.set_timesteps(25)
        own = getattr(local_grids(SCHEDULERS, 25, 1, spacing="reference"), modality)
        assert torch.equal(own, scheduler.timesteps)
        trailing = DDIMScheduler(timestep_spacing="trailing")
        trailing.set_timesteps(25)
        assert torch.equal(getattr(local_grids(SCHEDULERS, 25, 1), modality), trailing.timesteps)


def test_the_schedulers_are_left_alone() -> None:
    schedulers = reference.schedulers()
    before = schedulers.audio.timesteps.clone()
    local_grids(schedulers, 7, 1.5, spacing="reference")
    assert torch.equal(schedulers.audio.timesteps, before)


@pytest.mark.parametrize("gamma", [0, -1.5, math.nan, math.inf])
def test_gamma_must_be_positive(gamma: float) -> None:
    with pytest.raises(UserError, match=f"gamma is {gamma}: timestep adjustment needs a positive"):
        local_times(500.0, gamma)


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_steps_must_be_possible(steps: int) -> None:
    with pytest.raises(UserError, match=f"steps is {steps}: choose 1 to 1000"):
        local_grids(SCHEDULERS, steps)


def test_unknown_spacing_and_other_clocks() -> None:
    with pytest.raises(UserError, match="spacing is 'linspace', not 'trailing' or 'reference'"):
        local_grids(SCHEDULERS, 4, spacing="linspace")  # type: ignore[arg-type]
    short = AV(audio=DDIMScheduler(num_train_timesteps=100), video=SCHEDULERS.video)
    with pytest.raises(ValueError, match="audio scheduler has num_train_timesteps 100"):
        local_grids(short, 4)


def matching_gamma(t_audio: int) -> float | None:
    """γ that makes both equally noisy at a time of the sound; None where the picture is never so noisy."""
    log_snr = SCHEDULERS.map(log_snr_of)
    wanted = log_snr.audio[t_audio]
    if wanted < log_snr.video[-1]:
        return None
    t_video = np.interp(wanted, log_snr.video[::-1], np.arange(T_MAX)[::-1])
    return math.log(t_video / T_MAX) / math.log(t_audio / T_MAX)


def test_what_gamma_would_match_the_published_schedules() -> None:
    for t_audio in (50, 100, 200, 300):
        assert 0.87 < matching_gamma(t_audio) < 0.925
    expected = {500: 0.86, 700: 0.67, 850: 0.12}
    assert {t: round(matching_gamma(t), 2) for t in expected} == expected
    assert matching_gamma(862) is not None
    assert matching_gamma(865) is None


@given(steps=st.integers(1, T_MAX), offset=st.floats(-20, 20))
def test_snr_grids_start_at_the_top_and_fall_strictly(steps: int, offset: float) -> None:
    grids = snr_grids(SCHEDULERS, steps, offset)
    for grid in (grids.audio, grids.video):
        assert len(grid) == steps
        assert grid[0] == T_MAX - 1
        assert grid[-1] >= 0
        assert (grid.diff() < 0).all()


@pytest.mark.parametrize("offset", [-1.0, 0.0, 1.5])
def test_snr_grids_keep_their_offset_where_both_schedules_reach(offset: float) -> None:
    grids, log_snr = snr_grids(SCHEDULERS, 25, offset), SCHEDULERS.map(log_snr_of)
    found = log_snr.video[grids.video] - log_snr.audio[grids.audio]
    both = (grids.audio < 850) & (grids.video < 950) & (grids.audio > 60) & (grids.video > 60)
    assert both.sum() > 15
    assert found[both] == pytest.approx(np.full(int(both.sum()), offset), abs=0.05)


def test_an_offset_must_be_finite() -> None:
    with pytest.raises(UserError, match="the offset of log SNR is inf: it must be finite"):
        snr_grids(SCHEDULERS, 25, math.inf)

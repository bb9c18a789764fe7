"""The two clocks: laws of the adjustment, and paths that a sampler can rely on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

from kinetophone.av import AV
from kinetophone.diffusion.clocks import (
    MOST_STEPS,
    exponents,
    offset_path,
    path_of,
    power_path,
    reference_path,
    table_path,
)
from kinetophone.diffusion.process import Cosine, Discrete, Flow, Process
from kinetophone.diffusion.settings import CLOCKS, PUBLISHED_DEFAULTS, Settings
from kinetophone.errors import UserError
from kinetophone.reference import settings as reference

SCHEDULERS = reference.schedulers()
PROCESSES: AV[Process] = SCHEDULERS.map(Discrete.from_scheduler)
FLOWS: AV[Process] = AV(audio=Cosine(least=0.1855, most=0.9987), video=Flow(shift=3.0))
gammas = st.floats(0.1, 10)


def timesteps(path: AV[torch.Tensor]) -> AV[torch.Tensor]:
    return path.map(lambda levels: (1000 * levels).round().long() - 1)


@given(gamma=gammas)
def test_the_video_level_is_the_gamma_power_of_the_audio_level(gamma: float) -> None:
    found = exponents(gamma)
    assert found.video / found.audio == pytest.approx(gamma)
    assert found.audio * found.video == pytest.approx(1)


@given(steps=st.integers(1, 300), gamma=gammas)
def test_continuous_processes_follow_the_power_exactly(steps: int, gamma: float) -> None:
    path = power_path(AV.both(Flow()), steps, gamma)
    torch.testing.assert_close(path.video, path.audio**gamma)
    assert path.audio[0] == path.video[0] == 1


@given(steps=st.integers(1, MOST_STEPS), gamma=gammas)
def test_paths_start_at_the_top_and_fall_strictly(steps: int, gamma: float) -> None:
    path = power_path(PROCESSES, steps, gamma)
    for grid in (timesteps(path).audio, timesteps(path).video):
        assert len(grid) == steps
        assert grid[0] == 999
        assert grid[-1] >= 0
        assert (grid.diff() < 0).all()


@given(steps=st.integers(1, 200), gamma=gammas)
def test_reference_grids_never_rise(steps: int, gamma: float) -> None:
    grids = timesteps(reference_path(PROCESSES, steps, gamma))
    for grid in (grids.audio, grids.video):
        assert len(grid) == steps
        assert grid.min() >= 0
        assert grid.max() < 1000
        assert (grid.diff() <= 0).all()


def test_gamma_1_paths_are_the_schedulers_own_or_trailing() -> None:
    for modality in ("audio", "video"):
        scheduler = getattr(SCHEDULERS, modality)
        scheduler.set_timesteps(25)
        own = getattr(timesteps(reference_path(PROCESSES, 25, 1)), modality)
        assert torch.equal(own, scheduler.timesteps)
        trailing = DDIMScheduler(timestep_spacing="trailing")
        trailing.set_timesteps(25)
        assert torch.equal(getattr(timesteps(power_path(PROCESSES, 25, 1)), modality), trailing.timesteps)


def test_a_process_of_another_length_has_paths_too() -> None:
    short = Discrete.from_scheduler(DDIMScheduler(num_train_timesteps=100, clip_sample=False))
    path = power_path(AV(audio=short, video=PROCESSES.video), 4, 1)
    assert short.timestep(path.audio).tolist() == [99, 74, 49, 24]


def test_the_schedulers_are_left_alone() -> None:
    schedulers = reference.schedulers()
    before = schedulers.audio.timesteps.clone()
    reference_path(schedulers.map(Discrete.from_scheduler), 7, 1.5)
    assert torch.equal(schedulers.audio.timesteps, before)


def test_the_reference_needs_schedulers() -> None:
    with pytest.raises(UserError, match="sampling 'reference' needs bases with a diffusers scheduler"):
        reference_path(FLOWS, 7, 1.5)


@pytest.mark.parametrize("gamma", [0, -1.5, math.nan, math.inf])
def test_gamma_must_be_positive(gamma: float) -> None:
    with pytest.raises(UserError, match=f"gamma is {gamma}: timestep adjustment needs a positive"):
        power_path(PROCESSES, 4, gamma)


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_steps_must_be_possible(steps: int) -> None:
    with pytest.raises(UserError, match=f"steps is {steps}: choose 1 to 1000"):
        power_path(PROCESSES, steps)


def matching_gamma(t_audio: int) -> float | None:
    """γ that makes both equally noisy at a time of the audio; None where the video is never so noisy."""
    log_snr = PROCESSES.map(lambda process: process.log_snr_table()[1])
    wanted = log_snr.audio[t_audio]
    if wanted < log_snr.video[-1]:
        return None
    t_video = np.interp(wanted, log_snr.video[::-1], np.arange(1000)[::-1])
    return math.log(t_video / 1000) / math.log(t_audio / 1000)


def test_what_gamma_would_match_the_published_schedules() -> None:
    for t_audio in (50, 100, 200, 300):
        assert 0.87 < matching_gamma(t_audio) < 0.925
    expected = {500: 0.86, 700: 0.67, 850: 0.12}
    assert {t: round(matching_gamma(t), 2) for t in expected} == expected
    assert matching_gamma(862) is not None
    assert matching_gamma(865) is None


@given(steps=st.integers(1, MOST_STEPS), offset=st.floats(-20, 20))
def test_offset_paths_start_at_the_top_and_fall_strictly(steps: int, offset: float) -> None:
    grids = timesteps(offset_path(PROCESSES, steps, offset))
    for grid in (grids.audio, grids.video):
        assert len(grid) == steps
        assert grid[0] == 999
        assert grid[-1] >= 0
        assert (grid.diff() < 0).all()


@pytest.mark.parametrize("offset", [-2.77, 0.0, 1.5])
@pytest.mark.parametrize("processes", [PROCESSES, FLOWS])
def test_offset_paths_keep_their_offset_where_both_processes_reach(
    processes: AV[Process], offset: float
) -> None:
    path = offset_path(processes, 25, offset)
    log_snr = processes.map(lambda process, levels: process.log_snr(levels), path)
    inner = (path.audio < 0.85) & (path.video < 0.95) & (path.audio > 0.2) & (path.video > 0.06)
    assert inner.sum() >= 10
    found = (log_snr.video - log_snr.audio)[inner]
    assert found.tolist() == pytest.approx([offset] * len(found), abs=0.05)


@pytest.mark.parametrize(("clock", "shift", "offset"), [("h3", 3.0, -2.7725887), ("equal-shifts", 12.0, 0.0)])
def test_named_clocks_are_the_shifts_of_two_flows_on_one_schedule(
    clock: str, shift: float, offset: float
) -> None:
    assert CLOCKS[clock] == pytest.approx(offset)
    shifted: AV[Process] = AV(audio=Flow(shift=shift), video=Flow(shift=12.0))
    on_one = power_path(shifted, 25, gamma=1.0)
    assert torch.equal(on_one.audio, on_one.video)
    log_snr = shifted.map(lambda process, levels: process.log_snr(levels), on_one)
    # The first step is from pure noise, where both are -∞.
    difference = (log_snr.video - log_snr.audio)[1:]
    torch.testing.assert_close(difference, torch.full_like(difference, CLOCKS[clock]))
    # On bases whose own shifts are equal, the clock makes the same difference.
    settings = Settings.of({**PUBLISHED_DEFAULTS, "steps": 25, "clock": clock})
    path = path_of(AV.both(Flow(shift=5.0)), settings)
    log_snr = path.map(Flow(shift=5.0).log_snr)
    inner = (path.audio < 0.95) & (path.video < 0.95) & (path.audio > 0.05) & (path.video > 0.05)
    assert inner.sum() > 10
    torch.testing.assert_close(
        (log_snr.video - log_snr.audio)[inner],
        torch.full((int(inner.sum()),), CLOCKS[clock], dtype=torch.float64),
        atol=0.02,
        rtol=0,
    )


def test_an_offset_must_be_finite() -> None:
    with pytest.raises(UserError, match="the offset of log SNR is inf: it must be finite"):
        offset_path(PROCESSES, 25, math.inf)


def test_a_table_is_passed_evenly_and_straight() -> None:
    path = table_path(AV.both(Flow()), 4, [(1, 1), (0.5, 0.9), (0, 0)])
    assert path.audio.tolist() == pytest.approx([1, 0.75, 0.5, 0.25])
    assert path.video.tolist() == pytest.approx([1, 0.95, 0.9, 0.45])
    even = table_path(PROCESSES, 10, [(1, 1), (0, 0)])
    assert torch.equal(even.audio, power_path(PROCESSES, 10, 1).audio)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([(1, 1)], "two or more pairs"),
        ([1, 0], "two or more pairs"),
        ([(1, 1), (math.nan, 0)], "two or more pairs"),
        ([(1, 1), (0.5, 1.1), (0, 0)], "must fall"),
        ([(0.9, 1), (0, 0)], "must fall"),
    ],
)
def test_a_table_must_fall_from_noise_to_clean(table: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        table_path(PROCESSES, 4, table)  # type: ignore[arg-type]

"""Laws of the clip's time."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinetophone.media import ClipTime, as_fps
from kinetophone.media.timing import ExactRate

RATES = st.one_of(
    st.integers(1, 120).map(Fraction),
    st.sampled_from([Fraction(24000, 1001), Fraction(30000, 1001), Fraction(43, 2), Fraction(25, 2)]),
    st.fractions(Fraction(1, 2), 240, max_denominator=1001),
)
TIMES = st.builds(
    ClipTime, RATES, st.integers(1, 5000), st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000])
)


@given(TIMES)
def test_sound_is_as_long_as_picture_to_half_a_sample(time: ClipTime) -> None:
    assert abs(Fraction(time.samples, time.sample_rate) - time.duration) <= Fraction(1, 2 * time.sample_rate)


@given(TIMES, st.data())
def test_frames_share_out_the_samples_without_gap(time: ClipTime, data: st.DataObject) -> None:
    frame = data.draw(st.integers(0, time.frames - 1))
    share = time.sample_at(frame + 1) - time.sample_at(frame)
    assert abs(share - time.sample_rate / time.fps) < 1
    assert time.sample_at(0) == 0
    assert time.sample_at(time.frames) == time.samples


@given(RATES, st.integers(1, 5000))
def test_length_in_seconds_leads_back_to_the_frames(fps: Fraction, frames: int) -> None:
    time = ClipTime(fps, frames)
    assert ClipTime.from_seconds(time.duration, fps) == time
    assert ClipTime.from_seconds(time.duration_s, fps) == time


@given(RATES, st.floats(0.01, 100))
def test_nearest_is_within_half_a_frame(fps: Fraction, seconds: float) -> None:
    time = ClipTime.from_seconds(seconds, fps, nearest=True)
    assert time.frames == 1 or abs(time.duration - Fraction(seconds)) <= 1 / (2 * fps)


@pytest.mark.parametrize(
    ("given_rate", "exact"),
    [
        (8, Fraction(8)),
        (8.0, Fraction(8)),
        (21.5, Fraction(43, 2)),
        (29.97002997002997, Fraction(30000, 1001)),
        (29.97, Fraction(2997, 100)),
        ("30000/1001", Fraction(30000, 1001)),
        (np.float32(12.5), Fraction(25, 2)),
        (np.int64(24), Fraction(24)),
        (Fraction(30000, 1001), Fraction(30000, 1001)),
    ],
)
def test_as_fps_is_exact(given_rate: object, exact: Fraction) -> None:
    assert as_fps(given_rate) == exact


@pytest.mark.parametrize("fps", [0, -8, float("nan"), float("inf"), "fast", None, "1/0"])
def test_as_fps_refuses_what_is_no_rate(fps: object) -> None:
    with pytest.raises(ValueError, match=r"fps is .*above 0"):
        as_fps(fps)


def test_a_length_that_is_no_whole_number_of_frames_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"1\.3 s at 8 fps is 10\.400 frames; 10 frames last 1\.25 s"):
        ClipTime.from_seconds(1.3, 8)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_seconds_must_be_above_zero(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"seconds is .*finite number above 0"):
        ClipTime.from_seconds(seconds, 8)


@pytest.mark.parametrize(
    ("field", "value"), [("frames", 0), ("frames", 1.5), ("frames", True), ("sample_rate", 0)]
)
def test_counts_must_be_whole_and_at_least_one(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field} is {value}"):
        ClipTime(**{"fps": 8, "frames": 8, "sample_rate": 16000, field: value})


def test_a_time_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        ClipTime(8, 32).frames = 3  # type: ignore[misc]


def test_the_usual_clip() -> None:
    time = ClipTime.from_seconds(4, 8)
    assert (time.frames, time.samples, time.duration_s, time.frame_s) == (32, 64_000, 4.0, 0.125)
    assert time.frame_time_s(3) == 0.375


@given(RATES)
def test_a_rate_for_other_libraries_is_a_float_and_keeps_the_fraction(exact: Fraction) -> None:
    rate = ExactRate(exact)
    assert isinstance(rate, float)
    assert float(rate) == float(exact)
    assert Fraction(rate) == as_fps(rate) == exact
    assert exact == rate == exact
    assert (exact != rate, rate != exact) == (False, False)
    assert rate == float(exact)
    assert rate != exact + 1
    assert hash(rate) == hash(exact)
    assert str(rate) == str(exact)
    for same in (copy.deepcopy(rate), pickle.loads(pickle.dumps(rate)), ExactRate(rate)):
        assert as_fps(same) == exact


def test_a_rate_of_a_large_denominator_is_kept() -> None:
    exact = Fraction(1_234_567, 50_001)  # as phones with a rate that varies write it
    assert as_fps(ExactRate(exact)) == exact

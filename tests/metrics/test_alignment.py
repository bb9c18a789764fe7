"""The published measure against its stored results, and the laws of event matching."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinetophone.media import Clip
from kinetophone.metrics.alignment import (
    LEAST_FLOW_2025,
    EventScore,
    audio_peaks,
    av_align_2023,
    av_align_2025,
    av_align_svg,
    event_f1,
    flow_curve,
    video_peaks,
)

TIMES = st.lists(st.floats(0, 4, allow_nan=False), max_size=5)


def test_scores_of_real_clips_follow_from_their_stored_peaks(real_clips: Path) -> None:
    stored = json.loads((real_clips / "av_align.json").read_text())
    clips = {name: clip for name, clip in stored.items() if "svg" in clip}
    assert len(clips) == 12
    for name, clip in clips.items():
        score = av_align_svg(clip["audio_peaks_s"], clip["video_peaks_s"], clip["fps"])
        assert score == pytest.approx(clip["svg"], abs=1e-6), name
        score = av_align_2023(clip["audio_peaks_s"], clip["video_peaks_s"], clip["fps"])
        assert score == pytest.approx(clip["tempotokens-2023"], abs=1e-6), name
        late = video_peaks(clip["flow"], clip["fps"], least_flow=LEAST_FLOW_2025)
        assert late == pytest.approx(clip["video_peaks_2025_s"], abs=1e-6), name
        score = av_align_2025(clip["audio_peaks_s"], clip["video_peaks_2025_s"], clip["fps"])
        assert score == pytest.approx(clip["tempotokens-2025"], abs=1e-6), name
        peaks = video_peaks(clip["flow"], clip["fps"])
        assert peaks == pytest.approx(clip["video_peaks_s"], abs=1e-6), name


def test_a_real_clip_decoded_here_scores_as_stored(real_clips: Path) -> None:
    from kinetophone.media.read import read_clip

    stored = json.loads((real_clips / "av_align.json").read_text())["dog_bark_puppy"]
    clip = read_clip(real_clips / "dog_bark_puppy.mp4")
    frames = slice(0, 24)  # the flow of the whole clip takes seconds
    assert flow_curve(clip.video[frames]) == pytest.approx(stored["flow"][frames], abs=0.02)
    assert audio_peaks(clip.audio, clip.sample_rate) == pytest.approx(stored["audio_peaks_s"], abs=0.03)


@pytest.mark.slow
def test_all_real_clips_decoded_here_score_as_stored(real_clips: Path) -> None:
    from kinetophone.media.read import read_clip

    stored = json.loads((real_clips / "av_align.json").read_text())
    differences = []
    for path in sorted(real_clips.glob("*.mp4")):
        clip = read_clip(path)
        peaks = video_peaks(flow_curve(clip.video), clip.fps)
        score = av_align_svg(audio_peaks(clip.audio, clip.sample_rate), peaks, clip.fps)
        differences.append(abs(score - stored[path.stem]["svg"]))
    assert np.mean(differences) < 0.03


def test_formula_on_a_case_worked_by_hand() -> None:
    # Two of three onsets are less than a frame from a peak, two of four peaks from an onset:
    # p = 2/3, r = 1/2, p r / (p + r - p r) = (1/3) / (5/6) = 0.4.
    assert av_align_svg([0.5, 1.0, 3.0], [0.6, 1.0, 1.5, 2.0], 8) == pytest.approx(0.4)


def test_2023_counts_one_picture_peak_many_times() -> None:
    # Both sound peaks lie on the one picture peak: 2 / (2 + 1 - 2) = 2.
    assert av_align_2023([1.0, 1.01], [1.0], 8) == 2.0
    # Two of three sound peaks match: 2 / (3 + 4 - 2) = 0.4.
    assert av_align_2023([0.5, 1.0, 3.0], [0.6, 1.0, 1.5, 2.0], 8) == pytest.approx(0.4)


def test_2025_matches_each_peak_once_and_the_earliest_first() -> None:
    assert av_align_2025([1.0, 1.01], [1.0], 8) == pytest.approx(1 / 2)  # 1 / (2 + 1 - 1)
    # 1.00 takes 0.95, the first that is near, and leaves 1.05 to 1.10: 2 / (2 + 2 - 2).
    assert av_align_2025([1.1, 1.0], [1.05, 0.95], 8) == 1.0
    # 0.98 takes 0.90 and leaves 1.11 to 1.00.
    assert av_align_2025([0.98, 1.0], [0.9, 1.11], 8) == 1.0
    assert av_align_2025([1.0, 1.2], [1.1], 8) == pytest.approx(1 / 2)


def test_2025_leaves_low_flow_out() -> None:
    assert video_peaks([0, 0.09, 0, 0.1, 0], 1, least_flow=LEAST_FLOW_2025).tolist() == [3.0]


def test_empty_lists_score_zero_by_every_formula() -> None:
    for formula in (av_align_2023, av_align_2025):
        assert formula([], [1.0], 8) == formula([1.0], [], 8) == formula([], [], 8) == 0.0


@given(TIMES, TIMES)
def test_one_to_one_never_exceeds_one(audio: list[float], video: list[float]) -> None:
    assert 0 <= av_align_2025(audio, video, 8) <= 1


def test_the_published_tolerance_is_exclusive() -> None:
    assert av_align_svg([1.0], [1.125], 8) == 0.0
    assert av_align_svg([1.0], [1.124], 8) == 1.0


@given(TIMES, TIMES)
def test_av_align_is_symmetric_and_a_share(audio: list[float], video: list[float]) -> None:
    score = av_align_svg(audio, video, 8)
    assert 0 <= score <= 1
    assert score == pytest.approx(av_align_svg(video, audio, 8))
    if audio:
        assert av_align_svg(audio, audio, 8) == 1.0


def test_nothing_to_align_is_zero() -> None:
    assert av_align_svg([], [1.0], 8) == av_align_svg([1.0], [], 8) == av_align_svg([], [], 8) == 0.0


def test_chance_level_is_as_high_as_known() -> None:
    # Random onsets and random flow peaks at 8 fps over 4 s: 0.20, 0.33, 0.46 for 1, 2, 4 onsets a second.
    rng = np.random.default_rng(0)
    for per_second, expected in ((1, 0.20), (2, 0.33), (4, 0.46)):
        scores = [
            av_align_svg(rng.uniform(0, 4, 4 * per_second), video_peaks(rng.random(32), 8), 8)
            for _ in range(400)
        ]
        assert np.mean(scores) == pytest.approx(expected, abs=0.03)


def brute_force_hits(predicted: list[float], true: list[float], tolerance_s: float) -> int:
    few, many = sorted([predicted, true], key=len)
    return max(
        sum(abs(a - b) <= tolerance_s + 1e-9 for a, b in zip(few, order, strict=False))
        for order in itertools.permutations(many, len(few))
    )


@given(TIMES, TIMES, st.sampled_from([0.05, 0.125, 0.5]))
def test_matching_is_the_largest_there_is(
    predicted: list[float], true: list[float], tolerance_s: float
) -> None:
    score = event_f1(predicted, true, tolerance_s)
    assert score.hits == brute_force_hits(predicted, true, tolerance_s)
    assert 0 <= score.f1 <= 1


@given(TIMES, TIMES)
def test_f1_is_symmetric_and_its_precision_the_others_recall(one: list[float], other: list[float]) -> None:
    forth, back = event_f1(one, other, 0.125), event_f1(other, one, 0.125)
    assert (forth.f1, forth.precision, forth.recall) == (back.f1, back.recall, back.precision)


def test_one_event_matches_once() -> None:
    score = event_f1([1.0, 1.05, 1.1], [1.05], 0.125)
    assert (score.hits, score.precision, score.recall, score.f1) == (1, pytest.approx(1 / 3), 1.0, 0.5)


def test_the_event_tolerance_is_inclusive() -> None:
    assert event_f1([0.125], [0.25], 0.125).hits == 1
    assert event_f1([0.1], [0.3], 0.2).hits == 1


def test_empty_lists() -> None:
    assert event_f1([], [], 0.1).f1 == 1.0
    assert event_f1([1.0], [], 0.1).f1 == event_f1([], [1.0], 0.1).f1 == 0.0
    assert (event_f1([1.0], [], 0.1).recall, event_f1([], [1.0], 0.1).precision) == (0.0, 0.0)


def test_scores_pool() -> None:
    assert EventScore(1, 2, 3) + EventScore(2, 2, 2) == EventScore(3, 4, 5)


@pytest.mark.parametrize("tolerance_s", [-0.1, float("nan"), float("inf")])
def test_bad_tolerance(tolerance_s: float) -> None:
    with pytest.raises(ValueError, match=r"tolerance_s is .*finite and at least 0"):
        event_f1([1.0], [1.0], tolerance_s)


def test_flow_sees_motion_where_it_is(make_struck_clip: Callable[..., Clip]) -> None:
    flow = flow_curve(make_struck_clip([1.0, 2.5], size=64).video)
    assert len(flow) == 32
    assert flow[0] == flow[1]
    assert set(np.argsort(flow)[-2:]) == {8, 20}
    assert video_peaks(flow, 8) == pytest.approx([1.0, 2.5])


def test_the_fast_flow_of_large_frames_has_the_same_peaks_and_unit(
    make_jolted_clip: Callable[..., Clip], make_struck_clip: Callable[..., Clip]
) -> None:
    large = make_jolted_clip([1.0, 2.5]).video
    exact, fast = flow_curve(large), flow_curve(large, exact=False)
    assert video_peaks(fast, 8) == pytest.approx([1.0, 2.5])
    assert fast[[8, 20]] == pytest.approx(exact[[8, 20]], rel=0.3)  # pixels of the frames given
    small = make_struck_clip([1.0, 2.5], size=64).video
    assert (flow_curve(small, exact=False) == flow_curve(small)).all()


def test_video_peaks_are_strict() -> None:
    assert video_peaks([0, 1, 1, 0, 2, 0, 3], 1).tolist() == [4.0]
    assert video_peaks([1, 2], 8).tolist() == []


@pytest.mark.parametrize("samples", [0, 1, 10, 1000, 16_000])
def test_silence_and_scraps_of_sound_have_no_peaks_and_no_warnings(samples: int) -> None:
    assert audio_peaks(np.zeros(samples, np.float32), 16_000).tolist() == []
    assert np.isfinite(audio_peaks(np.full(samples, 0.1, np.float32), 16_000)).all()


def test_stillness_has_no_flow() -> None:
    still = np.full((3, 16, 16, 3), 90, np.uint8)
    assert flow_curve(still).tolist() == [0.0, 0.0, 0.0]
    assert flow_curve(still[:1]).tolist() == [0.0]


def test_onsets_are_found(make_struck_clip: Callable[..., Clip]) -> None:
    clip = make_struck_clip([1.0, 2.5])
    found = audio_peaks(clip.audio, clip.sample_rate)
    assert event_f1(found, [1.0, 2.5], 0.06).recall == 1.0

"""Our detectors, on synthetic clips with known events."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from kinetophone.media import Clip
from kinetophone.media.onsets import onsets_from_audio
from kinetophone.metrics.alignment import event_f1, flow_curve
from kinetophone.metrics.detectors import strikes_from_flow, strikes_from_video

MakeClip = Callable[..., Clip]
STRIKES_S = [0.5, 1.25, 2.0, 3.25]


def test_strikes_are_found_in_the_picture(make_struck_clip: MakeClip) -> None:
    clip = make_struck_clip(STRIKES_S, size=64)
    assert strikes_from_video(clip.video, clip.fps) == pytest.approx(STRIKES_S)


@pytest.mark.parametrize("sample_rate", [8000, 16_000, 44_100])
def test_onsets_are_found_in_the_sound(make_struck_clip: MakeClip, sample_rate: int) -> None:
    clip = make_struck_clip(STRIKES_S, sample_rate=sample_rate)
    found = onsets_from_audio(clip.audio, sample_rate)
    assert found == pytest.approx(STRIKES_S, abs=0.03)


def test_strikes_near_the_ends_are_heard_and_the_cut_through_the_last_is_none(
    make_struck_clip: MakeClip,
) -> None:
    clip = make_struck_clip([0.08, 3.9])
    assert onsets_from_audio(clip.audio, 16_000) == pytest.approx([0.08, 3.9], abs=0.03)


def test_a_sound_that_is_there_from_the_start_has_no_onset() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 32_000).astype(np.float32)
    ring = np.arange(16_000) / 16_000
    noise[16_000:] += np.float32(0.8) * np.exp(-10 * ring) * np.sin(5000 * ring)
    assert onsets_from_audio(noise.astype(np.float32), 16_000) == pytest.approx([1.0], abs=0.03)


def test_soft_and_loud_strikes_count_alike(make_struck_clip: MakeClip) -> None:
    clip = make_struck_clip([2.5])
    audio = clip.audio + 0.1 * np.roll(clip.audio, -24_000)
    assert onsets_from_audio(audio, 16_000) == pytest.approx([1.0, 2.5], abs=0.03)


def test_noise_under_the_gate_is_no_event() -> None:
    noise = np.random.default_rng(0).normal(0, 1e-4, 32_000).astype(np.float32)
    assert onsets_from_audio(noise, 16_000).tolist() == []


@pytest.mark.parametrize("samples", [0, 1, 10, 700, 16_000])
def test_silence_and_scraps_are_safe(samples: int) -> None:
    assert onsets_from_audio(np.zeros(samples, np.float32), 16_000).tolist() == []
    assert np.isfinite(onsets_from_audio(np.full(samples, 0.2, np.float32), 16_000)).all()


@pytest.mark.parametrize("frames", [1, 2, 3, 20])
def test_a_still_picture_has_no_strike(frames: int) -> None:
    still = np.full((frames, 32, 32, 3), 90, np.uint8)
    assert strikes_from_video(still, 8).tolist() == []


def test_a_steady_pan_changes_nothing(make_struck_clip: MakeClip) -> None:
    flow = flow_curve(make_struck_clip(STRIKES_S, size=64).video)
    plain = strikes_from_flow(flow, 8, width_px=64)
    assert strikes_from_flow(flow + 0.5 * np.median(flow[flow > 0]), 8, width_px=64) == pytest.approx(plain)


def test_a_burst_of_two_frames_is_one_strike_at_its_first() -> None:
    flow = np.zeros(16)
    flow[4:8] = [2.0, 2.4, 0.8, 0.3]
    assert strikes_from_flow(flow, 8, width_px=64) == pytest.approx([0.5])


def test_ripples_after_a_burst_are_none() -> None:
    flow = np.zeros(24)
    flow[4:9] = [6.0, 3.0, 3.5, 1.0, 0.3]
    flow[14:16] = [5.0, 1.0]
    assert strikes_from_flow(flow, 8, width_px=64) == pytest.approx([0.5, 1.75])


def test_unknown_parameters_are_errors() -> None:
    with pytest.raises(TypeError, match="prominense"):
        strikes_from_video(np.zeros((3, 8, 8, 3), np.uint8), 8, prominense=1)


@pytest.mark.parametrize("size", [64, 128])
def test_the_procedural_clips_are_read_right(size: int) -> None:
    """The promise every later number rests on; ``kinetophone evaluate`` checks it on a whole split."""
    hits = pytest.importorskip("kinetophone.hits")
    scores = []
    for index in range(6):
        clip = hits.make_clip("val", index, size)
        true = clip.events()["strikes_s"]
        strikes = strikes_from_video(clip.video, hits.FPS)
        onsets = onsets_from_audio(clip.audio, hits.SAMPLE_RATE)
        scores.append([event_f1(strikes, true, 1 / hits.FPS).f1, event_f1(onsets, true, 1 / hits.FPS).f1])
    video, audio = np.mean(scores, axis=0)
    assert video >= 0.9
    assert audio >= 0.95

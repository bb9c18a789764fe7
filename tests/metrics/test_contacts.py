"""The contact detector and the synchrony of curves, on clips with known answers and on real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from kinetophone import hits
from kinetophone.media import Clip
from kinetophone.media.onsets import onset_strength, onsets_from_audio
from kinetophone.metrics.alignment import event_f1
from kinetophone.metrics.contacts import EARLY_FRAMES, adapted, contact_curve, contacts_from_curve
from kinetophone.metrics.synchrony import find_lag, lag_evidence, synchrony

FPS = 30
BOUNCES = (20, 45, 70)


def ball(bounces: tuple[int, ...] = BOUNCES, frames: int = 90, pan_px: float = 0.0) -> np.ndarray:
    """A ball that falls, hits the ground at each bounce and rises again, before a textured wall."""
    rng = np.random.default_rng(0)
    wall = cv2.GaussianBlur(rng.integers(60, 200, (128, 400, 3), dtype=np.uint8), (0, 0), 2)
    times = np.arange(frames)
    nearest = np.array([min(abs(frame - bounce) for bounce in bounces) for frame in times])
    height = 80 * (1 - np.maximum(0, 1 - nearest / 12) ** 1.2)
    clip = []
    for frame in times:
        left = round(pan_px * frame)
        picture = wall[:, left : left + 160].copy()
        cv2.circle(picture, (80, round(110 - height[frame])), 10, (250, 250, 60), -1)
        clip.append(picture)
    return np.stack(clip)


@pytest.mark.parametrize("pan_px", [0.0, 2.0])
def test_a_bounce_is_seen_and_the_top_of_the_flight_is_not(pan_px: float) -> None:
    found = contacts_from_curve(contact_curve(ball(pan_px=pan_px)), FPS)
    score = event_f1(found, np.array(BOUNCES) / FPS, 1 / FPS)
    assert score.recall == 1.0
    assert score.precision > 0.7


def test_copied_frames_are_no_events() -> None:
    # Every fifth frame twice, as when 24 frames are shown as 30.
    frames = ball()
    order = np.sort(np.concatenate([np.arange(len(frames)), np.arange(0, len(frames), 4)]))
    curve = contact_curve(frames[order])
    copies = 1 + np.flatnonzero(order[1:] == order[:-1])
    # But where the picture hardly moves at all, at the top of the flight, a copy is not told from a frame.
    assert np.count_nonzero(curve[copies]) <= 2
    bounces = np.searchsorted(order, BOUNCES) / FPS
    assert event_f1(contacts_from_curve(curve, FPS), bounces, 1 / FPS).recall == 1.0


@pytest.mark.parametrize("frames", [1, 2, 3, 20])
def test_a_still_picture_has_no_contact(frames: int) -> None:
    curve = contact_curve(np.full((frames, 48, 32, 3), 90, np.uint8))
    assert curve.tolist() == [0.0] * frames
    assert contacts_from_curve(curve, 8).tolist() == []


def test_noise_in_a_still_picture_is_not_blown_up() -> None:
    rng = np.random.default_rng(0)
    still = np.full((24, 64, 64, 3), 90, np.uint8)
    still[:, 10, 10] += rng.integers(0, 2, (24, 1), dtype=np.uint8)
    assert contact_curve(still).max() < 1


def test_the_procedural_clips_are_read_right() -> None:
    """The parameters were chosen on the train split; this is another."""
    scores = []
    for index in range(8):
        clip = hits.make_clip("val", index)
        found = contacts_from_curve(contact_curve(clip.video), hits.FPS)
        scores.append(event_f1(found, clip.events()["strikes_s"], 1 / hits.FPS).f1)
    assert np.mean(scores) > 0.95


def test_delays_are_recovered_and_the_scores_fall() -> None:
    """Sound late by -250 to 250 ms: the lag of the set follows within 20 ms."""
    clips = [hits.make_clip("val", index) for index in range(10)]
    curves = [contact_curve(clip.video) for clip in clips]
    seen = [contacts_from_curve(curve, hits.FPS) for curve in curves]
    synchronies, f1 = {}, {}
    for delay_s in (-0.25, -0.1, -0.05, 0.0, 0.05, 0.1, 0.25):
        shift = round(delay_s * hits.SAMPLE_RATE)
        sounds = [np.roll(clip.audio, shift) for clip in clips]
        strengths = [onset_strength(sound, hits.SAMPLE_RATE) for sound in sounds]
        pairs = list(zip(curves, strengths, strict=True))
        lag = find_lag(np.sum([lag_evidence(a, hits.FPS, b) for a, b in pairs], axis=0))
        assert lag is not None
        assert lag.lag_s == pytest.approx(delay_s, abs=0.02)
        synchronies[delay_s] = np.mean([synchrony(a, hits.FPS, b) for a, b in pairs])
        heard = [onsets_from_audio(sound, hits.SAMPLE_RATE) for sound in sounds]
        f1[delay_s] = np.mean([event_f1(a, b, 0.1).f1 for a, b in zip(heard, seen, strict=True)])
    assert synchronies[0.0] > 0.5
    assert max(synchronies[0.25], synchronies[-0.25]) < synchronies[0.0] / 2
    assert f1[0.0] > 0.9
    assert f1[0.0] > max(f1[0.1], f1[-0.1]) > max(f1[0.25], f1[-0.25])
    assert max(f1[0.25], f1[-0.25]) < 0.2


def test_flat_and_short_curves_have_no_lag() -> None:
    assert find_lag(lag_evidence(np.zeros(32), 8, np.ones(400))) is None
    assert find_lag(lag_evidence([1.0], 8, [1.0])) is None
    assert lag_evidence(np.ones(4), 8, np.arange(50.0)).tolist() == [0.0] * 61


def test_late_sound_has_a_positive_lag() -> None:
    contact, strength = np.zeros(100), np.zeros(400)
    contact[[25, 60]] = 1.0
    strength[[112, 252]] = 1.0
    lag = find_lag(lag_evidence(contact, 25, strength))
    assert lag is not None
    assert lag.lag_s == pytest.approx(0.12, abs=0.011)
    assert lag.interval.low == pytest.approx(0.12)


def test_a_lag_that_little_speaks_for_is_near_zero_and_uncertain() -> None:
    """Strong evidence moves the lag and narrows its interval; weak evidence does neither."""
    evidence = np.zeros(61)
    evidence[50] = 0.5
    weak, strong = find_lag(evidence), find_lag(100 * evidence)
    assert weak is not None
    assert strong is not None
    assert abs(weak.lag_s) < 0.02
    assert weak.interval.high - weak.interval.low > 0.3
    assert strong.lag_s == pytest.approx(0.2)
    assert strong.interval.low == strong.interval.high == pytest.approx(0.2)


def test_an_adapted_curve_keeps_what_is_new() -> None:
    curve = np.array([0.0, 3.0, 5.0, 5.0, 4.0, 0.0, 0.0, 0.0, 8.0, 0.0])
    new = adapted(curve, 10)
    # Before the clip the memory is its mean, 2.5, which fades by exp(-0.1 / 0.4) a frame.
    assert new[:5] == pytest.approx([0.0, 3.0 - 2.5 * np.exp(-0.1 / 0.4), 2.0, 0.0, 0.0])
    # The last value of 5 was five frames ago; its memory has faded in all but the first of them.
    assert new[8] == pytest.approx(8.0 - max(5.0 * np.exp(-0.4 / 0.4), 4.0 * np.exp(-0.3 / 0.4)))
    assert contacts_from_curve(curve, 10) == pytest.approx([0.2 + EARLY_FRAMES / 10, 0.8 + EARLY_FRAMES / 10])


@pytest.mark.slow
def test_real_clips_in_sync_stand_above_shuffled_ones(real_clips: Path) -> None:
    from kinetophone.media.read import read_clip

    clips = {path.stem: read_clip(path) for path in sorted(real_clips.glob("*.mp4"))}
    curves = {name: contact_curve(clip.video) for name, clip in clips.items()}
    lags = {}
    for name, clip in clips.items():
        strength = onset_strength(clip.audio, clip.sample_rate)
        lag = find_lag(lag_evidence(curves[name], clip.fps, strength))
        assert lag is not None
        lags[name] = lag.lag_s * float(clip.fps)
    late = lags.pop("hammer_spoon_audio_late") / 24
    assert 0.05 < late < 0.18
    assert max(map(abs, lags.values())) <= 1.5
    lags["hammer_spoon_audio_late"] = late
    heard = {name: onsets_from_audio(clips[name].audio, clips[name].sample_rate) for name in lags}
    scores = np.array(
        [
            [
                event_f1(heard[a], contacts_from_curve(curves[v], clips[v].fps), 1 / float(clips[v].fps)).f1
                for a in lags
            ]
            for v in lags
        ]
    )
    paired = float(np.diag(scores).mean())
    shuffled = float((scores.sum() - np.trace(scores)) / (len(lags) * (len(lags) - 1)))
    assert paired - shuffled >= 0.2


def test_doubled_onsets_halve_the_precision(make_struck_clip: Callable[..., Clip]) -> None:
    clip = make_struck_clip([1.0, 2.5], size=64)
    doubled = clip.audio + 0.8 * np.roll(clip.audio, 8000)
    once, twice = (
        event_f1(onsets_from_audio(np.clip(audio, -1, 1), 16_000), [1.0, 2.5], 0.1)
        for audio in (clip.audio, doubled)
    )
    assert (once.precision, once.recall) == (1.0, 1.0)
    assert (twice.precision, twice.recall) == (0.5, 1.0)

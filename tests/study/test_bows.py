"""The second procedural domain: deterministic, disjoint, and its truth is seen and heard."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinetophone.hits.write import write_split
from kinetophone.media import Clip
from kinetophone.metrics.control import shuffled_control
from kinetophone.metrics.sources import read_truth
from kinetophone.study.bows import CURVE_RATE, FPS, FRAMES, SAMPLE_RATE, SECONDS, make_clip, make_scene
from kinetophone.study.bows.scene import INSTRUMENTS, REACH
from kinetophone.study.bows.video import BOW_LENGTH
from kinetophone.study.sustained import correlation, loudness_curve, motion_curve

COUNT = 12


@pytest.fixture(scope="module")
def clips():
    return [make_clip("val", i) for i in range(COUNT)]


def as_clip(clip):
    return Clip(video=clip.video, fps=FPS, audio=clip.audio, sample_rate=SAMPLE_RATE)


def between_frames(curve):
    """Mean of a curve of CURVE_RATE between each frame and the one before."""
    edges = np.round(np.arange(FRAMES) * CURVE_RATE / FPS).astype(int)
    return np.array([curve[a:b].mean() for a, b in pairwise(edges)])


def test_a_clip_is_a_function_of_split_and_index():
    one, again = make_clip("val", 3), make_clip("val", 3)
    np.testing.assert_array_equal(one.video, again.video)
    np.testing.assert_array_equal(one.audio, again.audio)
    assert one.events() == again.events()


def test_splits_and_indices_differ():
    scenes = [make_scene(split, i)[0] for split in ("train", "val", "test") for i in range(20)]
    assert len({s.strokes for s in scenes}) == len(scenes)


@pytest.mark.parametrize("size", [64, 128])
def test_clips_are_of_the_kind_of_hits(size):
    clip = make_clip("train", 0, size)
    assert clip.video.shape == (FRAMES, size, size, 3)
    assert clip.video.dtype == np.uint8
    assert clip.audio.shape == (SAMPLE_RATE * SECONDS,)
    assert clip.audio.dtype == np.float32
    assert 0.1 < np.abs(clip.audio).max() <= 1
    with pytest.raises(ValueError, match="size must be a multiple of 8, at least 32 pixels, got 20"):
        make_clip("train", 0, 20)


@settings(max_examples=60)
@given(st.integers(0, 10_000))
def test_strokes_are_in_the_clip_one_after_another(index):
    scene, caption = make_scene("train", index)
    ends = [0.0, *(s.end_s for s in scene.strokes)]
    assert scene.strokes
    assert all(s.start_s >= end for s, end in zip(scene.strokes, ends, strict=False))
    assert all(s.end_s - s.start_s >= 0.39 for s in scene.strokes)
    assert ends[-1] <= SECONDS - 0.19
    assert scene.instrument in caption
    assert scene.instrument in INSTRUMENTS
    speed = scene.speed()
    assert len(speed) == SECONDS * CURVE_RATE
    assert 0.2 < speed.max() <= 1
    # The bow is over the string at all times, and moves as fast as the curve says.
    places = np.array([scene.bow_x(t) for t in np.arange(0, SECONDS + 1e-9, 1 / FPS)])
    assert np.abs(places - scene.string_x).max() < BOW_LENGTH / 2 + 0.2
    np.testing.assert_allclose(
        np.diff(places)[: FRAMES - 1], REACH / FPS * between_frames(scene.velocity()), atol=0.01
    )


def test_the_truth_is_heard(clips):
    found = [correlation(loudness_curve(as_clip(c)), between_frames(c.scene.speed())) for c in clips]
    assert np.mean(found) > 0.95
    assert min(found) > 0.9


def test_the_truth_is_seen(clips):
    found = [correlation(motion_curve(as_clip(c)), between_frames(c.scene.speed())) for c in clips]
    assert np.mean(found) > 0.93
    assert min(found) > 0.8


def test_sound_and_picture_belong_together_and_others_do_not(clips):
    played = [as_clip(clip) for clip in clips]
    heard, seen = [loudness_curve(clip) for clip in played], [motion_curve(clip) for clip in played]
    control = shuffled_control(correlation, heard, seen, 0)
    assert control.value > 0.9
    assert control.shuffled is not None
    assert control.above_interval is not None
    assert control.shuffled < 0.35
    assert control.above_interval.low > 0.5


def test_the_finger_is_heard_as_the_pitch(clips):
    for clip in clips[:4]:
        scene = clip.scene
        stroke = max(scene.strokes, key=lambda s: s.end_s - s.start_s)
        time_s = (stroke.start_s + stroke.end_s) / 2
        middle = round(time_s * SAMPLE_RATE)
        part = clip.audio[middle - 2048 : middle + 2048] * np.hanning(4096)
        spectrum = np.abs(np.fft.rfft(part, 1 << 16))
        hertz = np.fft.rfftfreq(1 << 16, 1 / SAMPLE_RATE)
        expected = scene.open_hz * 2 ** (scene.finger(time_s) / 12)
        # The harmonics' common pitch, within a third of a semitone.
        near = expected * 2 ** (np.linspace(-1, 1, 201) / 12)
        power = [sum(np.interp(k * f, hertz, spectrum) for k in range(1, 7)) for f in near]
        assert near[int(np.argmax(power))] == pytest.approx(expected, rel=0.02)


def test_a_faster_bow_is_louder_and_brighter(clips):
    loud = np.concatenate([loudness_curve(as_clip(c)) for c in clips])
    speed = np.concatenate([between_frames(c.scene.speed()) for c in clips])
    assert loud[speed < 0.02].mean() < 0.1 * loud[speed > 0.5].mean()

    def centroid(clip, fast):
        curve = np.repeat(clip.scene.speed(), SAMPLE_RATE // CURVE_RATE)
        part = clip.audio[curve > 0.55] if fast else clip.audio[(curve > 0.1) & (curve < 0.35)]
        spectrum = np.abs(np.fft.rfft(part)) ** 2
        return (np.fft.rfftfreq(len(part), 1 / SAMPLE_RATE) * spectrum).sum() / spectrum.sum()

    both = [c for c in clips if c.scene.speed().max() > 0.7]
    assert np.mean([centroid(c, True) > centroid(c, False) for c in both]) > 0.7


def test_a_split_is_written(tmp_path):
    write_split("val", 2, tmp_path, 32, "bows")
    events = json.loads((tmp_path / "events.json").read_text())["clips"]
    assert list(events) == ["00000.mp4", "00001.mp4"]
    assert len(events["00000.mp4"]["speed"]) == SECONDS * CURVE_RATE
    assert len(events["00000.mp4"]["onsets_s"]) == len(events["00000.mp4"]["offsets_s"])
    assert (tmp_path / "00001.mp4").stat().st_size > 1000
    truth = read_truth(tmp_path / "events.json")
    assert truth["00001.mp4"] == events["00001.mp4"]["onsets_s"]


def test_curves_that_do_not_vary_correlate_with_nothing():
    assert correlation(np.ones(5), np.arange(5.0)) == 0
    assert correlation(np.arange(5.0), 3 * np.arange(6.0) + 1) == pytest.approx(1)

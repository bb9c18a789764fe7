"""The procedural set: deterministic, disjoint, well aligned, and written as files others can read."""

import csv
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinetophone.hits import FPS, FRAMES, MATERIALS, SAMPLE_RATE, TOOLS, make_clip, make_scene
from kinetophone.hits.scene import SECONDS, TEMPI
from kinetophone.hits.video import impact, lift_angle
from kinetophone.hits.write import write_split
from kinetophone.media import Clip
from kinetophone.media.read import read_clip
from kinetophone.metrics.evaluate import evaluate


def test_a_clip_is_a_function_of_split_and_index():
    one, again = make_clip("val", 3), make_clip("val", 3)
    np.testing.assert_array_equal(one.video, again.video)
    np.testing.assert_array_equal(one.audio, again.audio)
    assert one.events() == again.events()


def test_splits_and_indices_differ():
    scenes = [make_scene(split, i)[0] for split in ("train", "val", "test") for i in range(20)]
    assert len({s.strikes for s in scenes}) == len(scenes)


@pytest.mark.parametrize("size", [64, 128])
def test_shapes_and_ranges(size):
    clip = make_clip("train", 0, size)
    assert clip.video.shape == (FRAMES, size, size, 3)
    assert clip.video.dtype == np.uint8
    assert clip.audio.shape == (SAMPLE_RATE * SECONDS,)
    assert clip.audio.dtype == np.float32
    assert 0.01 < np.abs(clip.audio).max() <= 1


def test_both_sizes_show_the_same_scene():
    small, large = (make_clip("train", 5, size).video.astype(np.float32) for size in (64, 128))
    halved = large.reshape(FRAMES, 64, 2, 64, 2, 3).mean((2, 4))
    assert np.abs(halved - small).mean() < 6


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_strikes_are_in_the_clip_apart_and_of_bounded_force(index):
    scene, caption = make_scene("train", index)
    times = [s.time_s for s in scene.strikes]
    assert min(times) >= 0.3
    assert max(times) <= SECONDS - 0.25
    assert all(gap >= 0.9 * TEMPI["fast"][0] for gap in np.diff(times))
    assert all(0.3 <= s.force <= 1 for s in scene.strikes)
    assert scene.tool in caption
    assert scene.noun in caption
    assert scene.material in MATERIALS
    assert scene.tool in TOOLS


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_the_tool_is_on_the_object_at_each_strike_and_above_it_otherwise(index):
    scene, _ = make_scene("val", index)
    for strike in scene.strikes:
        assert lift_angle(scene, strike.time_s) < 1e-6
        assert lift_angle(scene, strike.time_s - 0.09) > 0.1
    assert all(lift_angle(scene, t) >= 0 for t in np.linspace(0, SECONDS, 200))


def test_the_mark_of_a_contact_is_strongest_in_its_own_frame():
    scene, _ = make_scene("val", 1)
    first = round(scene.strikes[0].time_s * FPS)
    assert impact(scene, first - 1) == 0
    assert impact(scene, first) == scene.strikes[0].force > impact(scene, first + 1) > 0


def test_a_harder_strike_is_louder():
    def level(loudness):
        peaks = []
        for i in range(200):
            scene, _ = make_scene("train", i)
            if scene.loudness == loudness and scene.material == "drum":
                peaks.append(np.abs(make_clip("train", i, 32).audio).max())
        return np.median(peaks)

    assert level("hard") > 1.5 * level("soft")


def test_truth_is_aligned():
    clips = [make_clip("val", i) for i in range(24)]
    made = [Clip(video=c.video, fps=FPS, audio=c.audio, sample_rate=SAMPLE_RATE) for c in clips]
    truth = {str(i): c.events()["strikes_s"] for i, c in enumerate(clips)}
    report = evaluate(made, truth=truth, workers=1)
    assert report.metrics["av_align_svg"].value >= 0.8
    assert report.metrics["av_align_svg"].shuffled <= 0.35
    assert report.detectors["audio_f1"].value >= 0.95
    assert report.detectors["video_f1"].value >= 0.95


def test_written_files_hold_what_was_made(tmp_path):
    write_split("val", 2, tmp_path / "val", 64)
    events = json.loads((tmp_path / "val" / "events.json").read_text())["clips"]
    with (tmp_path / "val" / "captions.csv").open() as file:
        captions = {row["file"]: row["caption"] for row in csv.DictReader(file)}
    for i, name in enumerate(("00000.mp4", "00001.mp4")):
        clip = make_clip("val", i)
        assert events[name]["strikes_s"] == pytest.approx([s.time_s for s in clip.scene.strikes], abs=1e-3)
        assert captions[name] == clip.caption
        read = read_clip(tmp_path / "val" / name)
        assert read.video.shape == clip.video.shape
        assert np.abs(read.video.astype(int) - clip.video).mean() < 8


def test_bad_requests_say_what_is_possible():
    with pytest.raises(ValueError, match="unknown split 'dev': choose one of train, val, test"):
        make_clip("dev", 0)
    with pytest.raises(ValueError, match="multiple of 8"):
        make_clip("val", 0, 50)
    with pytest.raises(ValueError, match="index must be 0 or more"):
        make_clip("val", -1)

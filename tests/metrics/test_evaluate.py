"""Evaluation of sets of clips, in memory and from files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kinetophone.errors import MediaError
from kinetophone.media import Clip
from kinetophone.metrics.evaluate import (
    ClipEvents,
    Unscored,
    detect_one,
    evaluate,
    find_clips,
    read_truth,
    score,
)
from kinetophone.metrics.kept import Kept
from kinetophone.metrics.sources import read

MakeClip = Callable[..., Clip]
STRIKES_S = [[0.5, 2.0], [1.0, 2.75, 3.5], [1.5], [0.75, 3.0]]


@pytest.fixture
def clips(make_struck_clip: MakeClip) -> list[Clip]:
    return [make_struck_clip(strikes, size=64) for strikes in STRIKES_S]


def test_clips_in_sync_score_high_and_shuffled_ones_low(clips: list[Clip]) -> None:
    truth = {str(index): strikes for index, strikes in enumerate(STRIKES_S)}
    report = evaluate(clips, truth=truth)
    assert (report.clips, report.unscored, report.fps, report.shuffles) == (4, (), {"8": 4}, 20)
    for name in ("event_f1", "event_precision", "event_recall"):
        metric = report.metrics[name]
        assert metric.value > 0.95
        assert metric.shuffled is not None
        assert metric.shuffled < 0.4
        assert metric.n == 4
        assert metric.interval.low <= metric.value <= metric.interval.high
    assert report.metrics["av_align_svg"].value > report.metrics["av_align_svg"].shuffled
    assert report.detectors["audio_f1"].value == report.detectors["video_f1"].value == 1.0
    assert [row["name"] for row in report.rows] == ["0", "1", "2", "3"]
    assert json.loads(json.dumps(report.to_dict()))["metrics"]["event_f1"]["n"] == 4


def test_same_seed_same_report(clips: list[Clip]) -> None:
    assert evaluate(clips, seed=3) == evaluate(clips, seed=3)


def test_late_sound_scores_nothing(make_struck_clip: MakeClip) -> None:
    clip = make_struck_clip([1.0, 2.0], size=64)
    late = Clip(clip.video, clip.fps, np.roll(clip.audio, 6400), clip.sample_rate)
    assert evaluate([late]).metrics["event_f1"].value == 0.0


def test_one_clip_has_no_control(clips: list[Clip]) -> None:
    metric = evaluate(clips[:1]).metrics["event_f1"]
    assert (metric.value, metric.shuffled, metric.above) == (1.0, None, None)


def test_what_cannot_be_scored_is_listed_with_the_reason(
    tmp_path: Path, clips: list[Clip], make_struck_clip: MakeClip
) -> None:
    still = Clip(
        np.zeros((32, 32, 32, 3), np.uint8), make_struck_clip([]).fps, make_struck_clip([]).audio * 5, 16_000
    )
    (tmp_path / "broken.mp4").write_bytes(b"not a film")
    good = clips[0].save(tmp_path / "good.mp4")
    report = evaluate([good, tmp_path / "broken.mp4", still, tmp_path / "gone.mp4"])
    assert report.clips == 4
    assert [row["name"] for row in report.rows] == ["good.mp4"]
    reasons = {item.name: item.reason for item in report.unscored}
    assert "cannot be read as media" in reasons["broken.mp4"]
    assert "neither an onset in the audio nor a strike" in reasons["2"]
    assert "does not exist" in reasons["gone.mp4"]


def test_nothing_scored_is_a_report_all_the_same(tmp_path: Path) -> None:
    report = evaluate([tmp_path / "gone.mp4"])
    assert (report.metrics, report.detectors, report.rows, report.fps) == ({}, {}, (), {})


def test_silence_and_single_frames_are_listed_and_not_scored_zero(make_struck_clip: MakeClip) -> None:
    clip = make_struck_clip([1.0, 2.0], size=64)
    mute = Clip(clip.video, clip.fps, np.zeros_like(clip.audio), clip.sample_rate)
    still = Clip(clip.video[:1], clip.fps, clip.audio[:2000], clip.sample_rate)
    report = evaluate([clip, mute, still])
    assert [item.name for item in report.unscored] == ["1", "2"]
    assert "the audio is silent" in report.unscored[0].reason
    assert "a single frame" in report.unscored[1].reason
    assert report.metrics["event_f1"].n == 1


def test_worker_processes_give_what_one_gives(tmp_path: Path, clips: list[Clip]) -> None:
    paths = [clip.save(tmp_path / f"{index}.mp4") for index, clip in enumerate(clips[:2])]
    assert evaluate(paths, workers=2) == evaluate(paths, workers=1)


def test_large_frames_of_a_file_are_shrunk_unless_the_published_size_is_asked_for(
    tmp_path: Path, make_jolted_clip: MakeClip
) -> None:
    path = make_jolted_clip([1.0, 2.5]).save(tmp_path / "a.mp4")
    fast, exact = detect_one(path), detect_one(path, exact=True)
    assert isinstance(fast, ClipEvents)
    assert isinstance(exact, ClipEvents)
    assert fast.strikes_s == exact.strikes_s == (1.0, 2.5)
    assert fast.contacts_s == exact.contacts_s
    assert fast.flow[8] == pytest.approx(exact.flow[8], rel=0.3)  # both in pixels of the file
    assert exact.flow == detect_one(read(path), "a.mp4", exact=True).flow
    assert fast.flow != exact.flow


def test_a_shuffled_pair_of_nothing_with_nothing_is_no_sync() -> None:
    mute = ClipEvents("mute", 8.0, (), (), (), (1.0,))
    still = ClipEvents("still", 8.0, (), (), (1.0,), ())
    shuffled = score([mute, still]).metrics["event_f1"].shuffled
    # Of the two shuffled pairs one is a silence with a still picture (0), the other a match (1).
    assert shuffled == 0.5


def test_truth_of_other_clips_is_ignored(clips: list[Clip]) -> None:
    report = evaluate(clips[:2], truth={"1": STRIKES_S[1], "elsewhere.mp4": [0.1]})
    assert report.detectors["audio_f1"].n == 1


def test_workers_below_one() -> None:
    with pytest.raises(ValueError, match="workers is 0; it must be at least 1"):
        evaluate(["a.mp4"], workers=0)


def test_find_clips(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="is not a folder"):
        find_clips(tmp_path / "nowhere")
    with pytest.raises(MediaError, match=r"has no clips; looked for \.mp4"):
        find_clips(tmp_path)
    for name in ("b.mp4", "a.MOV", "captions.csv"):
        (tmp_path / name).touch()
    assert [path.name for path in find_clips(tmp_path)] == ["a.MOV", "b.mp4"]


def test_read_truth(tmp_path: Path) -> None:
    path = tmp_path / "events.json"
    with pytest.raises(FileNotFoundError, match=r"events\.json' does not exist"):
        read_truth(path)
    path.write_text('{"clips": {"0000.mp4": {"strikes_s": [0.5, 1], "material": "metal"}}}')
    assert read_truth(path) == {"0000.mp4": [0.5, 1.0]}
    for text in ("[]", "{", '{"clips": {"a": {}}}', '{"clips": []}'):
        path.write_text(text)
        with pytest.raises(MediaError, match="is not an event list"):
            read_truth(path)


def test_a_killed_evaluation_goes_on_where_it_was(tmp_path: Path, clips: list[Clip]) -> None:
    """The command, killed when it has read two of four clips; the result is that of one that was not."""
    for index, clip in enumerate(clips):
        clip.save(tmp_path / "clips" / f"{index}.mp4")
    resumed = tmp_path / "resumed.json"
    kept = tmp_path / ".resumed.json.clips.jsonl"
    command = [
        sys.executable,
        "-m",
        "kinetophone",
        "evaluate",
        str(tmp_path / "clips"),
        "--workers",
        "1",
        "--json",
    ]
    with subprocess.Popen([*command, str(resumed)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        while not kept.exists() or kept.read_text().count("\n") < 4:  # two for each clip
            assert run.poll() is None, run.stderr
        run.kill()
    kept.write_bytes(kept.read_bytes() + b'{"key": "cut o')
    there = [json.loads(line)["name"] for line in kept.read_text().splitlines()[:4] if line]
    for name in there:  # they are not read again: what cannot be decoded has the same size and time
        path = tmp_path / "clips" / name
        state = path.stat()
        path.write_bytes(bytes(state.st_size))
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    done = subprocess.run([*command, str(resumed)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for index, clip in enumerate(clips):
        clip.save(tmp_path / "clips" / f"{index}.mp4")
    report = evaluate([tmp_path / "clips" / f"{index}.mp4" for index in range(4)])
    assert json.loads(resumed.read_text())["clips"] == json.loads(json.dumps(report.to_dict()))
    assert not kept.exists()


def test_what_is_kept_is_found_again_only_for_the_same_file_networks_and_settings(tmp_path: Path) -> None:
    path, clip = tmp_path / "kept.jsonl", tmp_path / "a.mp4"
    clip.write_bytes(b"one")
    features = {"clap": np.arange(6, dtype=np.float32).reshape(2, 3) / 7, "i3d": np.zeros((0, 0), np.float32)}
    events = ClipEvents("a.mp4", 8.0, (0.1,), (), (0.5, 1.0), (), flow=(0.25,), features=features)
    kept = Kept(path)
    made_by = kept.key(clip, kept.settings(len, {"clap": "weights"}))
    kept.add(made_by, events)
    kept.add("other", Unscored("b.mp4", "silent"))
    again = Kept(path)
    assert again.get(made_by) == events
    assert again.get("other") == Unscored("b.mp4", "silent")
    for name, array in again.get(made_by).features.items():
        np.testing.assert_array_equal(array, features[name])
    others = [
        kept.key(clip, kept.settings(sum, {"clap": "weights"})),
        kept.key(clip, kept.settings(len, {"clap": "others"})),
    ]
    (tmp_path / "a.wav").write_bytes(b"sound of its own")
    others.append(kept.key(clip, kept.settings(len, {"clap": "weights"})))
    assert len({made_by, *others}) == 4
    assert all(again.get(key) is None for key in others)

"""A video with other audio: its packets stay as they are, and the audio starts and ends with it."""

from __future__ import annotations

import resource
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from kinetophone.bundle.spec import BundleSpec
from kinetophone.errors import is_full
from kinetophone.media.read import Audio, read_clip, read_video
from kinetophone.media.remux import can_copy_video, replace_audio, video_span
from kinetophone.media.write import write_wav
from kinetophone.tasks.common.silent import read_silent, save_with_audio, shown
from videos import rotate, write_video

RATE = 16_000


def packets(path: Path) -> list[tuple[Fraction, bytes]]:
    with av.open(str(path)) as file:
        return sorted((p.pts * p.time_base, bytes(p)) for p in file.demux(file.streams.video[0]) if p.size)


def clicks(seconds: float, every_s: float = 0.25) -> np.ndarray:
    """A click of 5 ms at each multiple of ``every_s``."""
    audio = np.zeros(round(seconds * RATE), np.float32)
    for start in np.arange(0, seconds - 0.01, every_s):
        audio[round(start * RATE) :][:80] = 0.8
    return audio


def onsets(audio: np.ndarray, rate: int) -> list[float]:
    loud = np.abs(audio) > 0.3
    return [float(i) / rate for i in np.flatnonzero(loud) if not loud[max(0, i - rate // 10) : i].any()]


def late(path: Path, seconds: float) -> Path:
    """A copy of a file whose video starts ``seconds`` after the file."""
    target = path.with_stem(f"{path.stem}-late")
    with av.open(str(path)) as file, av.open(str(target), "w") as made:
        copies = {s.index: made.add_stream_from_template(s) for s in file.streams}
        for packet in file.demux():
            if packet.size:
                if packet.stream.type == "video":
                    packet.pts += round(seconds / packet.time_base)
                    packet.dts += round(seconds / packet.time_base)
                packet.stream = copies[packet.stream.index]
                made.mux(packet)
    return target


VARIABLE = [0, 0.03, 0.1, 0.5, 0.55, 0.9, 1.2]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sources")
    made = {name: root / f"{name}.mp4" for name in ("plain", "variable", "turned", "silent", "odd")}
    write_video(made["plain"], fps=30, seconds=2)
    write_video(made["variable"], times=VARIABLE, seconds=1.25)
    write_video(made["turned"], size=(96, 64))
    rotate(made["turned"])
    write_video(made["silent"], fps=Fraction(30_000, 1001), sound=None)
    write_video(made["odd"], size=(71, 53))
    return made | {"late": late(made["plain"], 0.5)}


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize("name", ["plain", "variable", "turned", "silent", "odd", "late"])
def test_pictures_keep_their_packets_and_times(sources, tmp_path, name, suffix):
    source, target = sources[name], tmp_path / f"made{suffix}"
    span = video_span(source)
    assert can_copy_video(source, target)
    audio = clicks(float(span.duration_s))
    replace_audio(source, target, Audio(audio, RATE, float(span.start_s)))
    before, after = packets(source), packets(target)
    assert [data for _, data in before] == [data for _, data in after]
    begin = after[0][0] - before[0][0]
    assert max(abs(b - a - begin) for (a, _), (b, _) in zip(before, after, strict=True)) < 0.001
    made = read_clip(target)
    assert made.video.shape == read_video(source).frames.shape  # a turned video, too, is shown as it was
    assert made.sample_rate == RATE
    heard = onsets(made.audio, RATE)
    expected = np.arange(0, float(span.duration_s) - 0.01, 0.25)
    assert len(heard) == len(expected)
    assert np.abs(np.array(heard) - expected).max() < 0.004


def test_the_span_is_that_of_the_frames(sources):
    assert float(video_span(sources["plain"]).duration_s) == pytest.approx(2, abs=2e-3)
    assert float(video_span(sources["late"]).start_s) == pytest.approx(0.5, abs=1e-3)
    assert float(video_span(sources["variable"]).duration_s) > VARIABLE[-1]


def test_what_a_container_does_not_take_is_not_copied(sources, tmp_path):
    assert not can_copy_video(sources["plain"], tmp_path / "a.webm")
    spec = BundleSpec.read("hits")
    silent = read_silent(sources["plain"], tmp_path / "a.webm", spec)
    assert silent.refused
    assert silent.video.frames.shape == (60, 64, 64, 3)
    section = read_silent(sources["plain"], tmp_path / "a.mp4", spec, (0.5, 1.5))
    assert not section.refused
    assert section.span is None
    assert section.video.frames.shape == (30, 64, 64, 3)


def test_an_image_has_no_span(tmp_path):
    from PIL import Image

    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    assert video_span(tmp_path / "a.png") is None


@pytest.mark.parametrize("name", ["plain", "variable", "late"])
def test_few_small_frames_cover_the_whole_video(sources, tmp_path, name):
    spec = BundleSpec.read("hits")
    silent = read_silent(sources[name], tmp_path / "a.mp4", spec)
    assert silent.video.frames.shape[1:] == (spec.size, spec.size, 3)
    assert silent.video.fps == spec.fps
    length = len(silent.video.frames) / spec.fps
    assert silent.span.duration_s <= length < silent.span.duration_s + 1 / spec.fps


def test_hidden_frames_before_an_edit_are_not_shown_by_a_copy(sources, tmp_path):
    """An edit list that starts within a group of pictures makes a copy impossible."""
    cut = tmp_path / "cut.mp4"
    content = bytearray(sources["plain"].read_bytes())
    at = content.index(b"elst")  # version, flags, count, then duration, media time, rate of the first entry
    media_time = int.from_bytes(content[at + 16 : at + 20], "big")
    content[at + 16 : at + 20] = (media_time + 8 * 512).to_bytes(4, "big")
    cut.write_bytes(content)
    assert len(read_video(cut).frames) < 60
    silent = read_silent(cut, tmp_path / "a.mp4", BundleSpec.read("hits"))
    assert silent.refused


def test_audio_alone_is_as_long_as_the_video(sources, tmp_path, make_struck_clip):
    silent = read_silent(sources["silent"], tmp_path / "a.wav", BundleSpec.read("hits"))
    made = make_struck_clip([0.5])
    save_with_audio(made, silent, tmp_path / "a.wav")
    with av.open(str(tmp_path / "a.wav")) as file:
        assert file.streams.audio[0].duration == round(silent.span.duration_s * made.sample_rate)


def test_a_sheet_shows_the_frames_of_the_file(sources, tmp_path):
    silent = read_silent(sources["turned"], tmp_path / "a.mp4", BundleSpec.read("hits"))
    heard = write_wav(clicks(float(silent.span.duration_s)), RATE, tmp_path / "heard.wav")
    clip = shown(silent, heard)
    assert clip.video.shape[1:] == (96, 64, 3)
    assert clip.fps == silent.video.fps


def test_a_full_disk_is_not_the_fault_of_the_source(sources, tmp_path):
    """The largest size of a file stands in for the room on a disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as told:
            replace_audio(sources["plain"], tmp_path / "a.mp4", Audio(clicks(2), RATE))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert is_full(told.value)
    assert not list(tmp_path.iterdir())

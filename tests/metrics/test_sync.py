"""The lag of one file: measured, told from 0 or not, and mended without encoding again."""

from dataclasses import replace

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from kinetophone.cli import app
from kinetophone.hits import sixteen
from kinetophone.media import Clip
from kinetophone.media.read import read_clip
from kinetophone.media.remux import shift_audio
from kinetophone.metrics.sync import measure_file


def packets(path, kind):
    with av.open(str(path)) as file:
        stream = getattr(file.streams, kind)[0]
        return [bytes(packet) for packet in file.demux(stream) if packet.size]


def audio_shift(path, other):
    """Seconds by which the audio of ``other`` is later than that of ``path``."""
    one, two = (read_clip(p).mono for p in (path, other))
    rate = read_clip(path).sample_rate
    length = min(len(one), len(two))
    spectrum = np.fft.rfft(two[:length], 2 * length) * np.conj(np.fft.rfft(one[:length], 2 * length))
    best = int(np.argmax(np.fft.irfft(spectrum)))
    return (best if best < length else best - 2 * length) / rate


@pytest.fixture(scope="module")
def clip():
    made = next(c for c in (sixteen.make_clip("val", i) for i in range(40)) if len(c.scene.strikes) == 4)
    return Clip(video=made.video, fps=16, audio=made.audio, sample_rate=24_000)


def delayed(clip, seconds):
    count = round(seconds * clip.sample_rate)
    audio = np.zeros_like(clip.audio)
    if count >= 0:
        audio[count:] = clip.audio[: len(clip.audio) - count]
    else:
        audio[:count] = clip.audio[-count:]
    return replace(clip, audio=audio)


@pytest.mark.parametrize("late_s", [-0.35, -0.15, 0.0, 0.15, 0.35])
def test_known_delays_are_found_within_their_interval(clip, late_s, tmp_path):
    path = delayed(clip, late_s).save(tmp_path / "clip.mp4")
    found = measure_file(path)
    assert found.lag.lag_s == pytest.approx(late_s, abs=0.04)
    assert found.lag.interval.low <= late_s <= found.lag.interval.high
    assert found.certain == (late_s != 0)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("seconds", [-0.2, 0.2])
def test_streams_are_copied_with_the_audio_shifted(clip, suffix, seconds, tmp_path):
    source = clip.save(tmp_path / "source.mp4")
    target = shift_audio(source, tmp_path / f"target{suffix}", seconds)
    assert packets(target, "video") == packets(source, "video")
    copied = packets(target, "audio")
    assert copied == packets(source, "audio")[-len(copied) :]
    assert audio_shift(source, target) == pytest.approx(seconds, abs=0.002)


def test_the_command_tells_the_lag_and_mends_it(clip, tmp_path):
    run, late = CliRunner(), delayed(clip, 0.3).save(tmp_path / "late.mp4")
    fixed, strip = tmp_path / "fixed.mp4", tmp_path / "strip.svg"
    result = run.invoke(
        app, ["sync", str(late), "--max-lag", "0.1", "--fix", str(fixed), "--strip", str(strip)]
    )
    assert result.exit_code == 3, result.output
    assert "ms late" in result.output
    assert strip.read_text().startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    result = run.invoke(app, ["sync", str(fixed), "--max-lag", "0.1", "--fix", str(tmp_path / "again.mp4")])
    assert result.exit_code == 0, result.output
    assert "can't be told from 0; nothing was written" in result.output
    assert not (tmp_path / "again.mp4").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-lag", "-1"], "max-lag is -1"),
        (["--strip", "strip.png"], "the picture is an .svg file"),
        (["--fix", "out.gif"], "streams can be copied into .mp4"),
        (["--fix", "missing/of/clip.mp4"], None),
    ],
)
def test_bad_options_are_named_before_anything_is_read(options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["sync", "no-such-file.mp4", *options])
    assert result.exit_code == 2
    assert (said or "'no-such-file.mp4' does not exist") in result.output


def test_a_silent_file_is_not_measured(clip, tmp_path):
    path = replace(clip, audio=np.zeros_like(clip.audio)).save(tmp_path / "silent.mp4")
    result = CliRunner().invoke(app, ["sync", str(path)])
    assert result.exit_code == 2
    assert "cannot be measured" in result.output

"""The commands on files as people have them: what comes out, and how they refuse what cannot be used."""

from __future__ import annotations

import functools
import re
import sys
import wave
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner

from kinetophone import Kinetophone, hits
from kinetophone.cli import app
from kinetophone.cli import make as cli_make
from kinetophone.media.clip import Clip, as_channels
from kinetophone.media.read import read_audio, read_clip, read_video
from kinetophone.media.remux import video_span
from kinetophone.media.write import write_wav
from videos import write_difficult, write_video

SIZE = 32


@dataclass(frozen=True, eq=False)
class VideoFile:
    """What FFmpeg finds: frames (T, H, W, 3), sound (channels, N), and the N that the container states."""

    fps: Fraction
    frames: np.ndarray
    rotation: int
    sample_rate: int
    sound: np.ndarray
    samples: int


def video_file(path: Path) -> VideoFile:
    with av.open(str(path)) as file:
        assert [stream.type for stream in file.streams] == ["video", "audio"]
        video, audio = file.streams.video[0], file.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        shown = list(file.decode(video))
        file.seek(0)
        heard = [frame.to_ndarray() for frame in file.decode(audio)]
        assert video.average_rate is not None
        assert audio.duration is not None
        assert audio.time_base is not None
        return VideoFile(
            fps=video.average_rate,
            frames=np.stack([frame.to_ndarray(format="rgb24") for frame in shown]),
            rotation=shown[0].rotation,
            sample_rate=audio.rate,
            sound=np.concatenate(heard, axis=1),
            samples=round(audio.duration * audio.time_base * audio.rate),
        )


def assert_whole(found: VideoFile, *, channels: int = 1) -> None:
    """Sound exactly as long as the picture, of so many channels, finite, and nothing left to be turned."""
    assert abs(found.samples - len(found.frames) / found.fps * found.sample_rate) <= Fraction(1, 2)
    assert found.sound.shape[0] == channels
    assert 0 <= found.sound.shape[1] - found.samples < 1024  # AAC's last frame
    assert np.isfinite(found.sound).all()
    assert found.rotation == 0


def psnr_db(shown: np.ndarray, truth: np.ndarray) -> float:
    # Frame by frame: a film of full size would be gigabytes of floats.
    error = np.mean([np.mean((a.astype(np.float32) - b) ** 2) for a, b in zip(shown, truth, strict=True)])
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def kinetophone(*arguments: object) -> None:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output


@pytest.fixture
def loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_make, "load_pipeline", load_once)


load_once = functools.cache(cli_make.load_pipeline)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    pipe = Kinetophone.from_bases(
        video=models / "animatediff", audio=models / "audioldm", device="cpu", frames=8, size=SIZE
    )
    pipe.save_pretrained(folder / "bundle")
    return folder / "bundle"


@pytest.fixture
def command(bundle: Path, loaded_once: None, tmp_path: Path) -> Callable[..., Path]:
    """Runs a command, one step, and gives the file it wrote."""

    def run(name: str, file: Path, *options: object, output: str = "out.mp4") -> Path:
        written = tmp_path / output
        one = ("--steps", 1, "--device", "cpu", "--bundle", bundle)
        kinetophone(name, file, "a drumstick hits a metal bowl", "-o", written, *one, *options)
        return written

    return run


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_difficult(folder)
    write_video(folder / "rate_21p5.mp4", fps=Fraction(43, 2), seconds=1.0)
    write_video(folder / "ntsc.mp4", fps=Fraction(24_000, 1001), seconds=1.0)
    tone = np.sin(np.arange(30_000, dtype=np.float32) / 9)
    write_wav(0.5 * tone, 8_000, folder / "mono_8k.wav")
    write_wav(np.stack([0.5 * tone, -0.2 * tone], axis=1), 44_100, folder / "stereo_44k.wav")
    write_wav(np.stack([0.5 * tone, 0.1 * tone], axis=1), 11_000, folder / "stereo_11k.wav")
    write_wav(np.zeros(0, np.float32), 16_000, folder / "nothing.wav")
    image = np.zeros((37, 51, 3), np.uint8)
    image[:18] = (250, 40, 30)
    PIL.Image.fromarray(image).save(folder / "first.png")
    (folder / "text.png").write_text("no image")
    return folder


@pytest.mark.parametrize(
    "name",
    ["stereo_44k.mp4", "odd_size.mp4", "variable_rate.mp4", "turned.mp4", "no_sound.mp4", "ntsc.mp4"],
)
def test_a_whole_picture_stays_as_it_is_and_gets_sound(
    command: Callable[..., Path], files: Path, name: str
) -> None:
    written = command("sound", files / name)
    given, found = read_video(files / name), read_clip(written)
    assert (found.fps, found.sample_rate) == (given.fps, 16_000)
    np.testing.assert_array_equal(found.video, given.frames)
    span = video_span(files / name)
    assert span is not None
    assert abs(video_file(written).samples - span.duration_s * 16_000) <= Fraction(1, 2)


@pytest.mark.parametrize(
    ("name", "fps", "frames", "size"),
    [
        ("stereo_44k.mp4", 8, 10, (64, 64)),
        ("odd_size.mp4", 8, 10, (54, 72)),
        ("variable_rate.mp4", None, None, (64, 64)),
        ("turned.mp4", 8, 10, (96, 64)),
        ("no_sound.mp4", 8, 10, (64, 64)),
        ("rate_21p5.mp4", 21.5, 22, (64, 64)),
        ("ntsc.mp4", 24 / 1.001, 24, (64, 64)),
    ],
)
def test_a_section_keeps_its_frames_and_gets_sound(
    command: Callable[..., Path], files: Path, name: str, fps: float, frames: int, size: tuple[int, int]
) -> None:
    given, found = read_video(files / name), video_file(command("sound", files / name, "--to", 100))
    assert_whole(found)
    assert found.sample_rate == 16_000
    assert (found.fps, len(found.frames)) == (given.fps, len(given.frames))
    if fps:
        assert (float(found.fps), len(found.frames)) == (pytest.approx(fps, rel=1e-3), frames)
    else:  # evenly spaced now, and as long as before
        assert abs(len(found.frames) / found.fps - Fraction(5, 4)) < 1 / found.fps
    assert found.frames.shape[1:3] == size
    height, width = given.frames.shape[1:3]
    assert psnr_db(found.frames[:, :height, :width], given.frames) > 25
    # An odd side is filled up with what is next to it.
    np.testing.assert_allclose(found.frames[:, -1].astype(int), found.frames[:, -2], atol=12)
    corner = found.frames[0, size[0] // 8, size[1] * 7 // 8].astype(int)
    assert (corner[0] > 200) == (name == "turned.mp4")  # the red edge, at the left before, is at the top


@pytest.mark.parametrize(
    ("name", "rate", "channels"),
    [
        ("stereo_44k.mp4", 44_100, 2),
        ("stereo_44k.wav", 44_100, 2),
        ("mono_8k.wav", 8_000, 1),
        ("stereo_11k.wav", 11_025, 2),  # the next rate that AAC has
        ("variable_rate.mp4", 16_000, 1),
    ],
)
def test_a_sound_is_kept_and_gets_a_picture(
    command: Callable[..., Path], files: Path, name: str, rate: int, channels: int
) -> None:
    given = read_audio(files / name, mono=False)
    found = video_file(command("picture", files / name))
    assert_whole(found, channels=channels)
    assert (found.fps, found.sample_rate, found.frames.shape[1:]) == (8, rate, (SIZE, SIZE, 3))
    late_s = len(found.frames) / found.fps - Fraction(len(given.waveform), given.sample_rate)
    assert 0 <= late_s < 1 / found.fps
    tracks = given.waveform.reshape(len(given.waveform), channels)
    for heard, track in zip(found.sound, tracks.T, strict=True):
        if given.sample_rate == rate:
            assert np.corrcoef(heard[: len(track)], track)[0, 1] > 0.98
        assert np.std(heard[: found.samples - rate // 8]) == pytest.approx(np.std(track), rel=0.1)


def test_a_sound_written_as_wav_is_the_sound(command: Callable[..., Path], files: Path) -> None:
    with (
        wave.open(str(files / "stereo_11k.wav")) as given,
        wave.open(str(command("picture", files / "stereo_11k.wav", output="out.wav"))) as found,
    ):
        assert found.getparams()[:3] == given.getparams()[:3]
        sound = given.readframes(given.getnframes())
        assert found.readframes(given.getnframes()) == sound
        assert not any(found.readframes(found.getnframes()))


@pytest.mark.parametrize(
    "name", ["stereo_44k.mp4", "odd_size.mp4", "variable_rate.mp4", "turned.mp4", "rate_21p5.mp4"]
)
def test_any_clip_is_continued_at_the_model_s_size_and_rates(
    command: Callable[..., Path], files: Path, name: str
) -> None:
    found = video_file(command("extend", files / name, "--seconds", 2))
    assert_whole(found, channels=2 if "stereo" in name else 1)
    assert (found.fps, found.sample_rate, found.frames.shape) == (8, 16_000, (16, SIZE, SIZE, 3))


@pytest.mark.parametrize("name", ["first.png", "odd_size.mp4", "turned.mp4"])
def test_any_image_or_film_begins_a_clip(
    command: Callable[..., Path], files: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("kinetophone.media.read.read_video", lambda *given: pytest.fail("reads the film"))
        found = video_file(command("animate", files / name))
    assert_whole(found)
    assert (found.fps, found.sample_rate, found.frames.shape) == (8, 16_000, (8, SIZE, SIZE, 3))
    shown = read_video(files / name, size=(SIZE, SIZE)).frames[0]
    assert psnr_db(found.frames[0], shown) > 20


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("sound", "mono_8k.wav", "has no video stream; give a file with video"),
        ("sound", "empty.mp4", r"is empty \(0 bytes\)"),
        ("sound", "text.mp4", "it is corrupt, not a media file"),
        ("sound", "cut_off.mp4", "it is corrupt, not a media file"),
        ("sound", "gone.mp4", "does not exist"),
        ("sound", ".", "is a folder; name a media file"),
        ("picture", "no_sound.mp4", "has no audio stream; give a file with audio"),
        ("picture", "first.png", "has no audio stream; give a file with audio"),
        ("picture", "nothing.wav", "has an audio stream without samples"),
        ("picture", "text.mp4", "it is corrupt, not a media file"),
        ("extend", "no_sound.mp4", "has no audio stream; give a file with audio"),
        ("extend", "mono_8k.wav", "has no video stream; give a file with video"),
        ("extend", "cut_off.mp4", "it is corrupt, not a media file"),
        ("animate", "text.png", "it is corrupt, not a media file"),
        ("animate", "mono_8k.wav", "has no video stream; give a file with video"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line_before_a_model_is_loaded(
    bundle: Path,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    file: str,
    message: str,
) -> None:
    monkeypatch.setitem(sys.modules, "kinetophone.pipeline", None)
    more = ["--seconds", "2"] if name == "extend" else []
    options = ["-o", str(tmp_path / "out.mp4"), "--bundle", str(bundle), *more]
    done = CliRunner().invoke(app, [name, str(files / file), "a drum", *options])
    assert done.exit_code == 2, done.output
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert re.match(rf"error: '.*' .*{message}", lines[0]), lines[0]
    assert not list(tmp_path.iterdir())


def test_a_gif_that_would_be_too_fast_is_refused_before_a_model_is_loaded(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "fast.mp4", fps=Fraction(60), seconds=0.5)
    monkeypatch.setitem(sys.modules, "kinetophone.pipeline", None)
    options = ["-o", str(tmp_path / "out.gif"), "--bundle", str(bundle)]
    done = CliRunner().invoke(app, ["sound", str(tmp_path / "fast.mp4"), "a drum", *options])
    assert done.exit_code == 2
    assert "error: a GIF plays at most 50 fps, the clip has 60.0375; write an .mp4" in done.stderr


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first second of a clip that fits the tiny model."""
    made = hits.make_clip("test", 0, size=SIZE)
    clip = Clip(video=made.video[8:16], fps=Fraction(8), audio=made.audio[16_000:32_000], sample_rate=16_000)
    return clip.save(tmp_path_factory.mktemp("begun") / "begun.mp4")


def test_a_continuation_as_wav_keeps_every_sample(command: Callable[..., Path], begun: Path) -> None:
    written = command("extend", begun, "--seconds", 2, output="out.wav")
    with wave.open(str(written)) as file:
        assert file.getparams()[:4] == (1, 2, 16_000, 32_000)
        found = np.frombuffer(file.readframes(16_000), "<i2")
    np.testing.assert_array_equal(found, np.round(read_clip(begun).audio * 32_768))


def test_a_continuation_keeps_the_channels_that_it_is_given(
    command: Callable[..., Path], begun: Path, tmp_path: Path
) -> None:
    mono = read_clip(begun)
    given = replace(mono, audio=np.stack([mono.audio, -0.5 * mono.audio], axis=1))
    written = command("extend", given.save(tmp_path / "given.mov"), "--seconds", 2, output="out.wav")
    kept = read_clip(tmp_path / "given.mov", mono=False).audio
    found = read_audio(written, mono=False).waveform
    assert found.shape == (32_000, 2)
    np.testing.assert_allclose(found[:16_000], kept, atol=1 / 32_000)


def luma(frames: np.ndarray) -> np.ndarray:
    """Brightness (BT.601): what H.264 keeps in full, where it halves the colours' size."""
    return frames @ np.array([0.299, 0.587, 0.114])


def test_a_continuation_as_mp4_loses_only_what_the_codecs_do(
    command: Callable[..., Path], begun: Path
) -> None:
    given, found = read_clip(begun), video_file(command("extend", begun, "--seconds", 2))
    kept = zip(luma(found.frames[:8]), luma(given.video), strict=True)
    assert min(psnr_db(*pair) for pair in kept) >= 40
    assert np.corrcoef(found.sound[0, :16_000], given.audio)[0, 1] > 0.99


REAL = sorted(path.name for path in (Path(__file__).parents[2] / "shared" / "clips").glob("*.mp4"))


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_a_real_clip_gets_sound_and_gets_a_picture(
    real_clips: Path, tmp_path: Path, loaded_once: None, name: str
) -> None:
    """By the bundle that ships, one step; prints what came out, for ``pytest -s``."""
    path, out = real_clips / name, tmp_path / "out.mp4"
    options = ("a drumstick hits a drum", "-o", out, "--steps", 1, "--device", "cpu")
    shown, heard = read_video(path), read_audio(path, mono=False)
    kinetophone("sound", path, *options)
    dubbed = video_file(out)
    assert_whole(dubbed)
    assert (dubbed.fps, dubbed.sample_rate, len(dubbed.frames)) == (shown.fps, 16_000, len(shown.frames))
    height, width = shown.frames.shape[1:3]
    assert dubbed.frames.shape[1:3] == (height + height % 2, width + width % 2)
    loss_db = psnr_db(dubbed.frames[:, :height, :width], shown.frames)
    assert loss_db > 35

    kinetophone("picture", path, *options)
    drawn = video_file(out)
    channels = 1 if heard.waveform.ndim == 1 else heard.waveform.shape[1]
    assert_whole(drawn, channels=channels)
    assert (drawn.fps, drawn.sample_rate, drawn.frames.shape[1:]) == (8, heard.sample_rate, (64, 64, 3))
    late_s = len(drawn.frames) / drawn.fps - Fraction(len(heard.waveform), heard.sample_rate)
    assert 0 <= late_s < Fraction(1, 8)
    kept = drawn.sound[:, : len(heard.waveform)].mean(axis=0)
    alike = np.corrcoef(kept, as_channels(heard.waveform, 1))[0, 1]
    assert alike > 0.98
    print(
        f"\n| {path.stem} | {float(shown.fps):.4g} fps, {width}x{height}, {len(shown.frames)} frames, "
        f"{len(heard.waveform)} samples, {heard.sample_rate} Hz x {channels} "
        f"| {len(dubbed.frames)} frames, {dubbed.samples} samples, {loss_db:.1f} dB "
        f"| {len(drawn.frames)} frames, {drawn.samples} samples, {alike:.4f} |"
    )


# What the commands take and give beside.


@pytest.mark.parametrize(
    ("suffix", "codecs"), [(".mov", ["h264", "aac"]), (".webm", ["vp9", "opus"]), (".mp4", ["h264", "aac"])]
)
def test_every_film_format_holds_both(
    command: Callable[..., Path], files: Path, suffix: str, codecs: list[str]
) -> None:
    made = command("sound", files / "ntsc.mp4", output=f"a{suffix}")
    with av.open(str(made)) as file:
        assert [stream.codec_context.name for stream in file.streams] == codecs
    clip, own = read_clip(made), read_video(files / "ntsc.mp4")
    assert len(clip.video) == len(own.frames)
    assert float(clip.fps) == pytest.approx(24_000 / 1001, rel=1e-3)
    assert psnr_db(clip.video, own.frames) > 25


@pytest.mark.parametrize("name", ["take-12:30.mp4", "http:x.webm", "%03d.mov", "a[1].gif", "né 太鼓.wav"])
def test_names_that_look_like_protocols_can_be_written(
    command: Callable[..., Path], files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli_make, "load_pipeline", load_once)
    made = command("sound", files / "odd_size.mp4", output=name)
    assert made.stat().st_size > 100
    Path("12:00").mkdir()
    clip = read_clip(files / "odd_size.mp4")
    assert clip.save(Path("12:00") / name).stat().st_size > 100  # relative, and the folder's name, too
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_stretch_of_a_video_with_its_own_sound(command: Callable[..., Path], tmp_path: Path) -> None:
    source = tmp_path / "long.mkv"
    rate, fps = 48_000, 10
    with av.open(str(source), "w") as file:
        video = file.add_stream("libx264", rate=fps, options={"crf": "4"})
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        audio = file.add_stream("flac", rate=rate, layout="stereo")
        for index in range(40):
            grey = np.full((32, 32, 3), 6 * index, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            file.mux(video.encode(frame))
        file.mux(video.encode())
        clicks = np.zeros((4 * rate, 2), np.float32)
        clicks[round(1.5 * rate), 0], clicks[round(3.5 * rate), 1] = 0.9, 0.9
        frame = av.AudioFrame.from_ndarray(clicks.reshape(1, -1), format="flt", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for part in av.AudioResampler(audio.format, "stereo", rate).resample(frame):
            file.mux(audio.encode(part))
        file.mux(audio.encode())
    plain = read_clip(command("sound", source, "--from", 1, "--to", 3.25, output="plain.wav.mp4"))
    assert (len(plain.video), plain.fps) == (23, 10)
    np.testing.assert_allclose(plain.video[:, 16, 16, 1], 6 * np.arange(10, 33), atol=4)
    made = command("sound", source, "--from", 1, "--to", 3.2, "--keep-original", 1, output="mixed.wav")
    sound = read_audio(made, mono=False)
    assert (sound.sample_rate, sound.waveform.ndim) == (rate, 2)
    left, right = np.abs(sound.waveform - sound.waveform[:, ::-1]).T
    assert len(left) == round(2.2 * rate)
    assert int(left.argmax()) == round(0.5 * rate)  # the click of the left channel alone
    assert np.abs(sound.waveform).max() <= 1
    silent = command("sound", source, "--to", 1, "--keep-original", 0, output="silent.wav")
    assert read_audio(silent, mono=False).waveform.ndim == 2
    assert right.max() == left.max()


def test_several_videos_with_the_model_loaded_once(
    bundle: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []

    def counted(*arguments: object, **options: object) -> Kinetophone:
        loads.append(1)
        return load_once(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(cli_make, "load_pipeline", counted)
    out = tmp_path / "out"
    common = ["-o", str(out), "--steps", "1", "--device", "cpu", "--bundle", str(bundle)]
    some = [str(files / name) for name in ("odd_size.mp4", "text.mp4", "stereo_44k.mp4")]
    done = CliRunner().invoke(app, ["sound", *some, "a drum", *common])
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "text.mp4' cannot be read as media" in done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["odd_size.mp4", "stereo_44k.mp4"]
    assert len(loads) == 1
    for videos, why in (
        ([some[0], some[0]], "would both be written to"),
        ([some[0], some[2]], r"is one file, for 2 videos; name a folder"),
    ):
        folder = tmp_path / ("one.mp4" if "one file" in why else "o")
        refused = CliRunner().invoke(app, ["sound", *videos, "a drum", *common[2:], "-o", str(folder)])
        assert (refused.exit_code, bool(re.search(why, refused.stderr))) == (2, True), refused.stderr
    inside = CliRunner().invoke(app, ["sound", some[0], "a drum", *common[2:], "-o", str(files)])
    assert "would be overwritten; name another folder" in inside.stderr


@pytest.mark.parametrize(
    ("count", "suffix", "layout"),
    [(6, ".mp4", "5.1"), (8, ".mov", "7.1"), (6, ".webm", "5.1"), (3, ".mp4", None), (16, ".wav", None)],
)
def test_all_channels_of_a_sound_are_kept(
    command: Callable[..., Path], tmp_path: Path, count: int, suffix: str, layout: str | None
) -> None:
    rate = 48_000
    tones = [np.sin(2 * np.pi * (60 + 20 * c) * np.arange(rate) / rate) for c in range(count)]
    write_wav(0.3 * np.stack(tones, 1).astype(np.float32), rate, tmp_path / "in.wav")
    sound = read_audio(command("picture", tmp_path / "in.wav", output=f"out{suffix}"), mono=False)
    assert sound.waveform.shape[1] == count
    if layout is not None:
        assert sound.layout == layout
    found = np.abs(np.fft.rfft(sound.waveform[4000 : 4000 + rate // 2], axis=0)).argmax(0) * 2
    lowest = found >= 120  # a codec may leave the bass channel little else
    np.testing.assert_allclose(found[lowest], np.array([60 + 20 * c for c in range(count)])[lowest], atol=4)


def test_channels_that_do_not_fit_are_said(bundle: Path, loaded_once: None, tmp_path: Path) -> None:
    write_wav(np.full((16_000, 16), 0.1, np.float32), 16_000, tmp_path / "in.wav")
    arguments = ["picture", tmp_path / "in.wav", "a drum", "-o", tmp_path / "out.mp4", "--steps", 1]
    done = CliRunner().invoke(app, [*map(str, arguments), "--device", "cpu", "--bundle", str(bundle)])
    assert done.exit_code == 0
    assert ".mp4 cannot store 16 channels: they are written as mono" in done.stderr
    assert read_audio(tmp_path / "out.mp4", mono=False).waveform.ndim == 1


def test_a_track_is_chosen_by_number(command: Callable[..., Path], tmp_path: Path) -> None:
    source = tmp_path / "two.mkv"
    with av.open(str(source), "w") as file:
        streams = [file.add_stream("flac", rate=8000, layout="mono") for _ in range(2)]
        for stream, level in zip(streams, (0.0, 0.5), strict=True):
            stream.disposition = 0
            wave_ = (level * 32767 * np.sin(np.arange(8000) / 9)).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(wave_, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 8000, 0, Fraction(1, 8000)
            file.mux(stream.encode(frame))
            file.mux(stream.encode())
    loud = [
        np.abs(read_audio(command("picture", source, "--audio-track", n, output=f"{n}.wav")).waveform).max()
        for n in (1, 2)
    ]
    assert loud[0] == 0
    assert loud[1] > 0.4


def test_a_sound_without_a_picture(loaded_once: None, tmp_path: Path) -> None:
    def made(name: str, *more: object) -> np.ndarray:
        path = tmp_path / name
        kinetophone("generate", "a drum", "-o", path, "--steps", 2, "--only", "audio", *more)
        return read_audio(path).waveform if path.exists() else np.zeros(0)

    first = made("a.wav")
    assert len(first) == 4 * 16_000
    assert np.abs(first).max() > 0.01
    assert np.array_equal(first, made("b.wav"))
    made("c.wav", "--count", 2)
    assert np.array_equal(first, read_audio(tmp_path / "c-0.wav").waveform)
    assert not np.array_equal(first, read_audio(tmp_path / "c-1.wav").waveform)
    refused = CliRunner().invoke(app, ["generate", "a", "-o", str(tmp_path / "a.mp4"), "--only", "audio"])
    assert "--only audio writes a .wav" in refused.stderr


def test_only_names_of_files_are_on_stdout(
    bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = [str(tmp_path / f"a-{n}.mp4") for n in range(3)]
    command = ["generate", "a drum", "-o", str(tmp_path / "a.mp4"), "--count", "3", "--batch-size", "2"]
    app([*command, "--steps", "1", "--device", "cpu", "--bundle", str(bundle)], standalone_mode=False)
    shown = capfd.readouterr()  # of the process, not of Python alone
    assert shown.out.splitlines() == made
    assert "denoising" in shown.err


def test_words_that_a_bundle_has_never_seen_are_one_line(bundle: Path, files: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "a.wav")
    command = ["generate", "a dog hits a bowl, a cat", "-o", out, "--count", "2", "--batch-size", "1"]
    done = CliRunner().invoke(app, [*command, "--steps", "1", "--device", "cpu", "--bundle", str(bundle)])
    assert done.exit_code == 0, done.output
    said = [line for line in done.stderr.splitlines() if "warning" in line.lower()]
    assert said == [f"warning: bundle '{bundle}' has never seen these words of the prompt: dog, cat"]

"""Real files, written and read back."""

from __future__ import annotations

import wave
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from kinetophone.errors import MediaError
from kinetophone.files import replacing
from kinetophone.media import Clip, ClipTime
from kinetophone.media.container import Budget
from kinetophone.media.read import read_audio, read_clip, read_image, read_video, resample_audio
from kinetophone.media.stills import Images
from kinetophone.media.write import video_writer, write_wav

MakeClip = Callable[..., Clip]


def raw_counts(path: Path) -> tuple[int, int]:
    """Frames and samples as any ffmpeg-based reader decodes them, without our own trimming."""
    with av.open(str(path)) as file:
        frames = sum(1 for _ in file.decode(video=0))
    with av.open(str(path)) as file:
        samples = sum(frame.samples for frame in file.decode(audio=0))
    return frames, samples


@pytest.mark.parametrize(
    ("fps", "frames", "sample_rate"),
    [
        (8, 32, 16_000),
        (Fraction(30000, 1001), 37, 16_000),
        (21.5, 10, 44_100),
        (8, 1, 16_000),
        (25, 3, 22_050),
    ],
)
def test_mp4_keeps_lengths_colours_and_sound(
    tmp_path: Path, make_struck_clip: MakeClip, fps: float, frames: int, sample_rate: int
) -> None:
    clip = make_struck_clip([0.05], fps=fps, frames=frames, sample_rate=sample_rate)
    path = clip.save(tmp_path / "clip.mp4")
    decoded_frames, decoded_samples = raw_counts(path)
    assert decoded_frames == frames
    assert 0 <= decoded_samples - clip.time.samples < 1024
    again = read_clip(path)
    assert again.time == clip.time
    difference = again.video.astype(int) - clip.video
    assert np.abs(difference.mean(axis=(0, 1, 2))).max() < 1.0  # no colour cast
    assert again.video.astype(float).std() == pytest.approx(clip.video.std(), rel=0.1)
    # In time to the sample: the sound correlates best with itself at lag 0.
    lags = range(-40, 41)
    middle = slice(50, len(clip.audio) - 50)
    match = [float(np.dot(np.roll(again.audio, -lag)[middle], clip.audio[middle])) for lag in lags]
    assert abs(lags[int(np.argmax(match))]) <= 1
    assert np.abs(again.audio - clip.audio)[middle].max() < 0.1


def test_mp4_has_the_codecs_players_expect(tmp_path: Path, make_struck_clip: MakeClip) -> None:
    path = make_struck_clip([1.0]).save(tmp_path / "deep" / "er" / "clip.MP4")
    with av.open(str(path)) as file:
        video, audio = file.streams.video[0], file.streams.audio[0]
        assert (video.codec_context.name, video.pix_fmt) == ("h264", "yuv420p")
        assert (video.start_time, audio.start_time) == (0, 0)
        assert video.duration * video.time_base == 4
        assert (audio.codec_context.name, audio.rate, audio.channels) == ("aac", 16_000, 1)


@pytest.mark.parametrize(("suffix", "codec", "rate"), [(".mp4", "aac", 44_100), (".webm", "opus", 48_000)])
def test_stereo_stays_stereo(
    tmp_path: Path, make_struck_clip: MakeClip, suffix: str, codec: str, rate: int
) -> None:
    mono = make_struck_clip([0.3], sample_rate=44_100, frames=8)
    clip = replace(mono, audio=np.stack([mono.audio, np.zeros_like(mono.audio)], axis=1))
    path = clip.save(tmp_path / f"clip{suffix}")
    with av.open(str(path)) as file:
        stream = file.streams.audio[0]
        assert (stream.codec_context.name, stream.rate, stream.channels) == (codec, rate, 2)
    again = read_clip(path, mono=False)
    assert again.layout == "stereo"
    assert np.corrcoef(resample_audio(clip.audio, 44_100, rate)[:, 0], again.audio[:, 0])[0, 1] > 0.98
    assert np.abs(again.audio[:, 1]).max() < 0.01
    assert np.abs(read_clip(path).audio - again.mono).max() < 1e-6
    with wave.open(str(clip.save(tmp_path / "clip.wav"))) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (2, 44_100, 44_100)
    # In parts, as a long clip is written.
    half = len(clip.audio) // 2
    with video_writer(tmp_path / "parts.mp4") as add:
        add(replace(clip, video=clip.video[:4], audio=clip.audio[:half]))
        add(replace(clip, video=clip.video[4:], audio=clip.audio[half:]))
    if suffix == ".mp4":
        assert np.array_equal(read_clip(tmp_path / "parts.mp4", mono=False).audio, again.audio)


def test_wav_keeps_every_sample_to_16_bits(tmp_path: Path, make_struck_clip: MakeClip) -> None:
    clip = make_struck_clip([1.0])
    path = clip.save(tmp_path / "clip.wav")
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16_000)
    sound = read_audio(path)
    assert sound.sample_rate == 16_000
    assert len(sound.waveform) == len(clip.audio)
    assert np.abs(sound.waveform - clip.audio).max() < 1 / 32_000


def test_gif_keeps_time(tmp_path: Path, make_struck_clip: MakeClip) -> None:
    clip = make_struck_clip([1.0, 2.0, 3.0], fps=8)
    with Image.open(clip.save(tmp_path / "clip.gif")) as image:
        duration_ms = 0
        for index in range(image.n_frames):  # frames that do not change are merged into longer ones
            image.seek(index)
            duration_ms += image.info["duration"]
    assert duration_ms == 4000


def test_png_is_a_sheet(tmp_path: Path, make_struck_clip: MakeClip) -> None:
    with Image.open(make_struck_clip([1.0, 2.5]).save(tmp_path / "clip.png")) as image:
        assert image.width == 1600
        assert image.height > 500


@pytest.mark.parametrize("frames", [1, 3, 100])
def test_sheet_draws_any_number_of_frames(tmp_path: Path, make_struck_clip: MakeClip, frames: int) -> None:
    path = make_struck_clip([], frames=frames).sheet(tmp_path / "sheet.png", title="still", onsets_s=[0.06])
    assert path.stat().st_size > 1000


def test_sheet_must_be_png(tmp_path: Path, make_struck_clip: MakeClip) -> None:
    with pytest.raises(MediaError, match=r"sheet\.jpg' is not a \.png"):
        make_struck_clip([]).sheet(tmp_path / "sheet.jpg")


@pytest.mark.parametrize(("name", "found"), [("clip.avi", r"the suffix '\.avi'"), ("clip", "no suffix")])
def test_unknown_suffix(tmp_path: Path, make_struck_clip: MakeClip, name: str, found: str) -> None:
    with pytest.raises(
        MediaError, match=rf"{found}; a clip can be written as \.mp4, \.mov, \.webm, \.wav, \.gif, \.png"
    ):
        make_struck_clip([]).save(tmp_path / name)


def test_an_odd_size_gets_one_more_row_and_column(tmp_path: Path, make_struck_clip: MakeClip) -> None:
    clip = make_struck_clip([1.0], size=33)
    read = read_clip(clip.save(tmp_path / "clip.mp4"))
    assert read.video.shape == (32, 34, 34, 3)
    even = np.pad(clip.video, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")
    like = read_clip(Clip(even, clip.fps, clip.audio).save(tmp_path / "even.mp4"))
    # The encoder's threads may decide a level or two differently when a machine is busy.
    assert np.abs(read.video.astype(int) - like.video).mean() < 1


@pytest.mark.parametrize(("rate", "written"), [(10_000, 11_025), (192_000, 96_000)])
def test_a_sample_rate_that_aac_lacks_becomes_the_next(
    tmp_path: Path, make_struck_clip: MakeClip, rate: int, written: int
) -> None:
    clip = make_struck_clip([1.0], sample_rate=rate)
    read = read_clip(clip.save(tmp_path / "clip.mp4"))
    assert (read.sample_rate, len(read.audio)) == (written, 4 * written)
    assert abs(int(np.argmax(np.abs(read.audio) > 0.05)) / written - 1.0) < 0.003
    with (
        pytest.raises(MediaError, match=f"AAC has no sample rate {rate} Hz; it has"),
        video_writer(tmp_path / "parts.mp4") as add,
    ):
        add(clip)


def test_a_wav_that_was_read_is_written_as_it_was(tmp_path: Path) -> None:
    every = np.arange(-32_768, 32_768, dtype="<i2")
    given = write_wav(every.astype(np.float32) / 32_768, 16_000, tmp_path / "a.wav").read_bytes()
    assert given.endswith(every.tobytes())
    assert (
        write_wav(read_audio(tmp_path / "a.wav").waveform, 16_000, tmp_path / "b.wav").read_bytes() == given
    )


def test_gif_cannot_be_faster_than_browsers_play(tmp_path: Path, make_struck_clip: MakeClip) -> None:
    with pytest.raises(MediaError, match="at most 50 fps, the clip has 60"):
        make_struck_clip([], fps=60).save(tmp_path / "clip.gif")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    path.write_text("old")

    def fail_half_way() -> None:
        with replacing(path) as partial:
            Path(partial).write_text("half")
            raise RuntimeError("disk gone")

    with pytest.raises(RuntimeError, match="disk gone"):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_not_overwritten(tmp_path: Path, make_struck_clip: MakeClip) -> None:
    (tmp_path / "clip.mp4").mkdir()
    with pytest.raises(IsADirectoryError, match=r"clip\.mp4' is a folder; name a file in it"):
        make_struck_clip([]).save(tmp_path / "clip.mp4")


def test_reading_resamples(tmp_path: Path, make_struck_clip: MakeClip) -> None:
    clip = make_struck_clip([1.0], fps=24, frames=48, size=32, sample_rate=44_100)
    path = clip.save(tmp_path / "clip.mp4")
    read = read_clip(path, fps=8, size=(16, 24), sample_rate=16_000)
    assert read.time == ClipTime(8, 16, 16_000)
    assert read.video.shape == (16, 16, 24, 3)
    # The strike is still where it was: frame 8 of 16, sample 16,000.
    changes = np.abs(np.diff(read.video.astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert int(changes.argmax()) + 1 == 8
    assert abs(int(np.argmax(np.abs(read.audio) > 0.05)) - 16_000) < 40
    faster = read_video(path, fps=60)
    assert len(faster.frames) == 120


def write_raw(
    path: Path, *, frames: int = 8, rate: int = 44_100, sound: np.ndarray | None = None, late_s: float = 0.0
) -> None:
    """A file as others make them: lossless sound (channels, N), which may start late and overshoot."""
    with av.open(str(path), "w") as file:
        video = file.add_stream("mpeg4", rate=8) if frames else None
        audio = (
            None
            if sound is None
            else file.add_stream("pcm_f32le", rate=rate, layout=["mono", "stereo"][len(sound) - 1])
        )
        if video is not None:
            video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
            for index in range(frames):
                picture = av.VideoFrame.from_ndarray(
                    np.full((32, 32, 3), 20 * index, np.uint8), format="rgb24"
                )
                picture.pts, picture.time_base = index, Fraction(1, 8)
                file.mux(video.encode(picture))
            file.mux(video.encode(None))
        if audio is not None:
            layout = audio.layout.name
            piece = av.AudioFrame.from_ndarray(
                sound.T.reshape(1, -1).astype(np.float32), format="flt", layout=layout
            )
            piece.sample_rate, piece.pts, piece.time_base = rate, round(late_s * rate), Fraction(1, rate)
            file.mux(audio.encode(piece))
            file.mux(audio.encode(None))


def test_stereo_is_averaged_and_overshoot_divided_by_its_peak(tmp_path: Path) -> None:
    sound = np.zeros((2, 44_100))
    sound[0, 1000], sound[1, 1000] = 2.0, 1.0  # mean 1.5
    sound[0, 2000] = 1.5  # mean 0.75
    write_raw(tmp_path / "loud.mkv", sound=sound)
    clip = read_clip(tmp_path / "loud.mkv")
    assert clip.audio[1000] == pytest.approx(1.0)
    assert clip.audio[2000] == pytest.approx(0.5)


def test_sound_that_starts_late_stays_late(tmp_path: Path) -> None:
    sound = np.zeros((1, 22_050))
    sound[0, 0] = 0.5
    write_raw(tmp_path / "late.mkv", sound=sound, late_s=0.25)
    clip = read_clip(tmp_path / "late.mkv")
    assert len(clip.audio) == 44_100
    assert abs(int(np.argmax(clip.audio)) - 11_025) <= 44  # Matroska counts in milliseconds


@pytest.mark.parametrize("seconds", [0.5, 1.5])
def test_sound_is_cut_or_padded_to_the_picture(tmp_path: Path, seconds: float) -> None:
    write_raw(tmp_path / "clip.mkv", sound=np.full((1, round(44_100 * seconds)), 0.25))
    clip = read_clip(tmp_path / "clip.mkv")
    assert len(clip.audio) == 44_100
    assert clip.audio[20_000] == pytest.approx(0.25)
    assert clip.audio[-1] == pytest.approx(0.25 if seconds > 1 else 0.0)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4' does not exist"):
        read_clip(tmp_path / "nowhere.mp4")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="is a folder; name a media file"):
        read_clip(tmp_path)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(MediaError, match=r"empty\.mp4' is empty \(0 bytes\)"):
        read_clip(tmp_path / "empty.mp4")


def test_corrupt_file(tmp_path: Path, make_struck_clip: MakeClip) -> None:
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(MediaError, match=r"noise\.mp4' cannot be read as media"):
        read_clip(tmp_path / "noise.mp4")
    whole = make_struck_clip([1.0]).save(tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 8])
    with pytest.raises(MediaError, match=r"cut\.mp4'"):
        read_clip(tmp_path / "cut.mp4")


def test_no_picture(tmp_path: Path) -> None:
    write_wav(np.zeros(100, np.float32), 16_000, tmp_path / "sound.wav")
    with pytest.raises(MediaError, match=r"sound\.wav' has no video stream"):
        read_clip(tmp_path / "sound.wav")


def test_no_sound(tmp_path: Path) -> None:
    write_raw(tmp_path / "silent.mkv")
    with pytest.raises(MediaError, match=r"silent\.mkv' has no audio stream"):
        read_clip(tmp_path / "silent.mkv")
    assert len(read_video(tmp_path / "silent.mkv").frames) == 8


def test_an_image_is_read_without_the_film_behind_it(
    tmp_path: Path, make_struck_clip: MakeClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_struck_clip([]).save(tmp_path / "film.mp4")
    whole, decoded = read_video(path), counted_frames(monkeypatch)
    np.testing.assert_array_equal(read_image(path), whole.frames[0])
    assert len(decoded) == 1


def counted_frames(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by one with each frame that is decoded from now on."""
    decoded: list[int] = []
    frames = Images.frames

    def counted(images: Images) -> Iterator[Any]:
        for frame in frames(images):
            decoded.append(1)
            yield frame

    monkeypatch.setattr(Images, "frames", counted)
    return decoded


def test_a_file_that_says_it_is_too_long_is_refused_before_it_is_decoded(
    tmp_path: Path, make_struck_clip: MakeClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_struck_clip([], fps=8, frames=80)
    video_file, sound = clip.save(tmp_path / "long.mp4"), clip.save(tmp_path / "long.wav")
    decoded = counted_frames(monkeypatch)
    for read, path in ((read_video, video_file), (read_audio, sound), (read_clip, video_file)):
        with pytest.raises(MediaError, match=rf"{path.name}' lasts 10 s or more; at most 4 s can be used"):
            read(path, longest_s=4)
    assert not decoded
    assert read_clip(video_file, longest_s=10).time.frames == 80


def test_a_file_that_says_nothing_is_refused_when_too_much_is_decoded(
    tmp_path: Path, make_struck_clip: MakeClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_struck_clip([], fps=8, frames=80)
    video_file, sound = clip.save(tmp_path / "long.mp4"), clip.save(tmp_path / "long.wav")
    monkeypatch.setattr(Budget, "check_stated", lambda *given: None)
    decoded = counted_frames(monkeypatch)
    with pytest.raises(MediaError, match="lasts 5 s or more; at most 4 s can be used at once"):
        read_video(video_file, longest_s=4)
    assert len(decoded) == 5 * 8 + 2
    with pytest.raises(MediaError, match="lasts 5 s or more"):
        read_audio(sound, longest_s=4)


def test_real_clips_keep_their_rates(real_clips: Path) -> None:
    clip = read_clip(real_clips / "kick_drum_21p5fps.mp4", size=(32, 32))
    assert clip.fps == Fraction(43, 2)
    assert len(clip.video) == 216
    assert np.abs(clip.audio).max() <= 1.0

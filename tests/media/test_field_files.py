"""Files as people have them: holes in the sound, several streams, turned or squashed pictures, channels.

What is right is known from how each file is made: quarters of four colours, clicks at given moments.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from kinetophone.errors import MediaError
from kinetophone.media import container
from kinetophone.media.read import read_audio, read_clip, read_image, read_video

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (235, 235, 235)}
UPRIGHT = ["red", "green", "blue", "white"]
CLICKS_S = (0.5, 1.25, 2.0, 2.75, 3.5)


def quarters(height: int = 48, width: int = 64) -> np.ndarray:
    """Red and green above blue and white."""
    image = np.zeros((height, width, 3), np.uint8)
    h, w = height // 2, width // 2
    image[:h, :w], image[:h, w:], image[h:, :w], image[h:, w:] = COLOURS.values()
    return image


def seen(image: np.ndarray) -> list[str]:
    """The colours of the four quarters, in the order of ``quarters``."""
    h, w = image.shape[:2]
    found = []
    for y, x in ((h // 4, w // 4), (h // 4, 3 * w // 4), (3 * h // 4, w // 4), (3 * h // 4, 3 * w // 4)):
        pixel = image[y - 1 : y + 2, x - 1 : x + 2].mean((0, 1))
        found.append(min(COLOURS, key=lambda name: float(np.abs(np.array(COLOURS[name]) - pixel).sum())))
    return found


def clicks(rate: int, seconds: float = 4.0, at: Sequence[float] = CLICKS_S) -> np.ndarray:
    sound = np.zeros(round(seconds * rate), np.float32)
    for time in at:
        start = round(time * rate)
        sound[start : start + rate // 100] = 0.8 * np.sin(np.arange(rate // 100) * 2 * np.pi * 1000 / rate)
    return sound


def heard(sound: np.ndarray, rate: int) -> list[float]:
    """The moments at which something begins after silence, in seconds."""
    loud = np.flatnonzero(np.abs(sound) > 0.2) / rate
    return [float(t) for i, t in enumerate(loud) if i == 0 or t - loud[i - 1] > 0.2]


class VideoFile:
    """A file that is written packet by packet, so that some can be left out.

    Args:
        path: the file; its suffix chooses the container.
        codec: of the sound.
    """

    def __init__(self, path: Path, codec: str = "aac") -> None:
        self.file = av.open(str(path), "w")
        self.codec = codec
        self._writers: list[Callable[[], None]] = []

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *raised: object) -> None:
        for write in self._writers:  # when all streams are there
            write()
        self.file.close()

    def picture(
        self, image: np.ndarray, frames: int, fps: int = 30, *, start_s: float = 0, **settings: Any
    ) -> Any:
        """``image`` for so many frames; returns the stream."""
        stream = self.file.add_stream("libx264", rate=fps)
        stream.height, stream.width = image.shape[:2]
        stream.pix_fmt = "yuv420p"
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)

        def write() -> None:
            for index in range(frames):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
                frame.pts, frame.time_base = index + round(fps * start_s), Fraction(1, fps)
                self.file.mux(stream.encode(frame))
            self.file.mux(stream.encode())

        self._writers.append(write)
        return stream

    def sound(
        self,
        channels: np.ndarray,
        rate: int,
        layout: str,
        *,
        start_s: float = 0,
        without: tuple[float, float] = (0, 0),
    ) -> Any:
        """``channels`` (N, C); packets that begin within ``without``, in seconds, are lost."""
        stream = self.file.add_stream(self.codec, rate=rate, layout=layout)

        def write() -> None:
            packed = np.ascontiguousarray(channels, np.float32).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, round(rate * start_s), Fraction(1, rate)
            resampler = av.AudioResampler(format=stream.format, layout=layout, rate=rate)
            packets = [p for part in resampler.resample(frame) for p in stream.encode(part)]
            for packet in packets + stream.encode():
                time = None if packet.pts is None else float(packet.pts * packet.time_base)
                if time is None or not without[0] <= time < without[1]:
                    self.file.mux(packet)

        self._writers.append(write)
        return stream


# Time


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".ts"])
def test_sound_with_a_hole_stays_where_its_times_say(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"hole{suffix}"
    with VideoFile(path) as video_file:
        video_file.picture(quarters(), 120)
        video_file.sound(clicks(48_000)[:, None], 48_000, "mono", without=(1.5, 2.5))
    clip = read_clip(path)
    assert clip.duration_s == 4
    np.testing.assert_allclose(heard(clip.audio, 48_000), [0.5, 1.25, 2.75, 3.5], atol=0.004)
    assert np.abs(clip.audio[int(1.6 * 48_000) : int(2.4 * 48_000)]).max() < 1e-3


def test_a_single_lost_packet_is_silence(tmp_path: Path) -> None:
    path = tmp_path / "lost.mkv"
    with VideoFile(path) as video_file:
        video_file.picture(quarters(), 120)
        video_file.sound(clicks(48_000)[:, None], 48_000, "mono", without=(1.61, 1.631))
    clip = read_clip(path)
    np.testing.assert_allclose(heard(clip.audio, 48_000), CLICKS_S, atol=0.004)


def transport_stream(path: Path, parts: Sequence[tuple[int, str, tuple[int, int]]]) -> None:
    """Two seconds each, one after another, as a broadcast changes: sample rate, layout, size of frames."""
    whole = b""
    for number, (rate, layout, size) in enumerate(parts):
        part = path.with_name(f"part{number}.ts")
        count = av.AudioLayout(layout).nb_channels
        sound = np.repeat(clicks(rate, 2.0, (0.5, 1.5))[:, None], count, 1)
        with VideoFile(part) as video_file:
            video_file.picture(quarters(*size), 60, start_s=2 * number)
            video_file.sound(sound, rate, layout, start_s=2 * number)
        whole += part.read_bytes()
    path.write_bytes(whole)


@pytest.mark.parametrize(
    "second", [(44_100, "stereo"), (48_000, "mono"), (22_050, "mono"), (48_000, "5.1")], ids=str
)
def test_sound_that_changes_its_format_goes_on(tmp_path: Path, second: tuple[int, str]) -> None:
    path = tmp_path / "change.ts"
    transport_stream(path, [(44_100, "mono", (48, 64)), (*second, (48, 64))])
    sound = read_audio(path)
    assert (sound.sample_rate, sound.waveform.ndim) == (44_100, 1)
    np.testing.assert_allclose(
        heard(sound.waveform, 44_100), [0.5, 1.5, 2.5, 3.5], atol=0.05
    )  # and AAC's delay
    peaks = [np.abs(sound.waveform[round(44_100 * t) - 4000 :][:8000]).max() for t in (1.5, 2.5)]
    assert peaks[1] == pytest.approx(peaks[0], rel=0.35)


def test_a_picture_that_changes_its_size_keeps_the_first(tmp_path: Path) -> None:
    path = tmp_path / "size.ts"
    transport_stream(path, [(44_100, "mono", (48, 64)), (44_100, "mono", (96, 160))])
    picture = read_video(path)
    assert picture.frames.shape[1:] == (48, 64, 3)
    assert seen(picture.frames[0]) == seen(picture.frames[-1]) == UPRIGHT


def test_sound_longer_than_the_picture_or_earlier_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "late.mkv"
    with VideoFile(path, "flac") as video_file:
        video_file.picture(quarters(), 30)
        video_file.sound(clicks(48_000, 3.0, (0.5, 2.0))[:, None], 48_000, "mono")
    clip = read_clip(path)
    assert (clip.duration_s, heard(clip.audio, 48_000)) == (1.0, [pytest.approx(0.5, abs=0.001)])


# Streams


def test_the_default_stream_is_read_or_the_largest(tmp_path: Path) -> None:
    path = tmp_path / "two.mkv"
    tone = clicks(48_000, 1.0, (0.25,))[:, None]
    with VideoFile(path, "flac") as video_file:
        streams = [
            video_file.picture(quarters(24, 32)[::-1], 8, 8),
            video_file.picture(quarters(48, 64), 8, 8),
            video_file.sound(np.zeros_like(tone), 48_000, "mono"),
            video_file.sound(np.repeat(tone, 2, 1), 48_000, "stereo"),
        ]
        for stream in streams:
            stream.disposition = 0
    clip = read_clip(path)
    assert clip.video.shape[1:] == (48, 64, 3)
    assert heard(clip.audio, 48_000) == [pytest.approx(0.25, abs=0.001)]
    assert np.abs(read_clip(path, audio_track=1).audio).max() == 0
    assert read_audio(path, audio_track=2, mono=False).waveform.ndim == 2
    for track in (0, 3):
        with pytest.raises(MediaError, match=rf"has no audio track {track}; it has 2, counted from 1"):
            read_audio(path, audio_track=track)


def test_the_default_stream_comes_before_a_larger_one(tmp_path: Path) -> None:
    path = tmp_path / "default.mkv"
    from av.stream import Disposition

    tone = clicks(48_000, 1.0, (0.25,))[:, None]
    with VideoFile(path, "flac") as video_file:
        video_file.sound(np.zeros((48_000, 2), np.float32), 48_000, "stereo").disposition = 0
        video_file.sound(tone, 48_000, "mono").disposition = Disposition.default
    assert heard(read_audio(path).waveform, 48_000) == [pytest.approx(0.25, abs=0.001)]


@pytest.mark.parametrize("suffix", [".mp3", ".mp4", ".flac"])
def test_a_song_with_a_cover_has_no_picture(tmp_path: Path, suffix: str) -> None:
    from av.stream import Disposition

    Image.fromarray(quarters()).save(tmp_path / "cover.jpg")
    codec = {".mp3": "libmp3lame", ".mp4": "aac", ".flac": "flac"}[suffix]
    path = tmp_path / f"song{suffix}"
    with VideoFile(path, codec) as video_file, av.open(str(tmp_path / "cover.jpg")) as cover:
        video = video_file.file.add_stream_from_template(cover.streams.video[0])
        video.disposition = Disposition.attached_pic
        packets = [packet for packet in cover.demux(video=0) if packet.size]
        video_file.sound(clicks(48_000, 1.0, (0.25,))[:, None], 48_000, "mono")
        for packet in packets:
            packet.stream = video
            video_file.file.mux(packet)
    with pytest.raises(MediaError, match="has cover art, but no video stream"):
        read_video(path)
    assert heard(read_audio(path).waveform, 48_000) == [pytest.approx(0.25, abs=0.03)]


def test_names_that_look_like_protocols_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("12:30.mkv", "http:x.mkv", "concat:a.mkv|b.mkv", "%03d.mkv", "a[1]*?.mkv"):
        with VideoFile(tmp_path / "made.mkv", "flac") as video_file:
            video_file.picture(quarters(), 8, 8)
            video_file.sound(clicks(8000, 1.0, (0.25,))[:, None], 8000, "mono")
        (tmp_path / "made.mkv").rename(tmp_path / name)
        assert len(read_clip(name).video) == 8
    Image.fromarray(quarters()).save(tmp_path / "1.png")
    (tmp_path / "1.png").rename(tmp_path / "take:1.png")
    assert seen(read_image("take:1.png")) == UPRIGHT


# Geometry


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif", ".heic"])
def test_every_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned{suffix}"
    image = Image.fromarray(quarters())
    image.save(path, exif=exif.tobytes(), quality=95)
    image.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image))
    found = read_image(path)
    assert found.shape == expected.shape
    assert seen(found) == seen(expected)


# Rows of the display matrix: what it does to the upright picture.
MATRICES = {
    "as it is": ((1, 0, 0, 1), lambda x: x),
    "mirrored": ((-1, 0, 0, 1), lambda x: x[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda x: x[::-1]),
    "half a turn": ((-1, 0, 0, -1), lambda x: x[::-1, ::-1]),
    "to the right": ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),
    "to the left": ((0, -1, 1, 0), lambda x: np.rot90(x, 1)),
    "transposed": ((0, 1, 1, 0), lambda x: x.transpose(1, 0, 2)),
    "transversed": ((0, -1, -1, 0), lambda x: np.rot90(x, 2).transpose(1, 0, 2)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_every_display_matrix(tmp_path: Path, name: str) -> None:
    (a, b, c, d), change = MATRICES[name]
    path = tmp_path / "turned.mp4"
    with VideoFile(path) as video_file:
        video_file.picture(quarters(), 4, 8)
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44
    one = 65536
    matrix = np.array([a * one, b * one, 0, c * one, d * one, 0, 0, 0, 0x40000000], ">i4")
    content[at : at + 36] = matrix.tobytes()
    path.write_bytes(content)
    found, expected = read_video(path).frames[0], change(quarters())
    assert found.shape == expected.shape
    assert seen(found) == seen(expected)


@pytest.mark.parametrize(
    ("aspect", "size"), [("64:45", (576, 1024)), ("8:9", (576, 640)), ("1:1", (576, 720))]
)
def test_pixels_that_are_not_square_become_so(tmp_path: Path, aspect: str, size: tuple[int, int]) -> None:
    path = tmp_path / "wide.mkv"
    with VideoFile(path) as video_file:
        ratio = Fraction(*map(int, aspect.split(":")))
        video_file.picture(quarters(576, 720), 2, 8, sample_aspect_ratio=ratio)
    picture = read_video(path)
    assert picture.frames.shape[1:3] == size
    assert seen(picture.frames[0]) == UPRIGHT
    # Before it is cut to another shape, too.
    small = read_video(path, size=(36, 64)).frames[0]
    edge = np.abs(np.diff(small[9].astype(int), axis=0)).sum(1).argmax()
    assert abs(edge - 31.5) <= 1


def test_a_tiled_image_is_read_whole() -> None:
    """2 x 2 tiles of 256 pixels, as phones write HEIC; made by avifenc --grid 2x2."""
    path = Path(__file__).parents[1] / "golden" / "tiles.avif"
    for image in (read_image(path), read_video(path).frames[0]):
        assert image.shape == (512, 512, 3)
        assert seen(image) == UPRIGHT


def test_an_animated_image_is_its_first_frame(tmp_path: Path) -> None:
    first, other = Image.fromarray(quarters()), Image.fromarray(quarters()[::-1].copy())
    for suffix in (".webp", ".gif", ".png", ".avif"):
        path = tmp_path / f"moving{suffix}"
        first.save(path, save_all=True, append_images=[other] * 3, duration=100)
        assert seen(read_image(path)) == UPRIGHT


# Colour


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".gif", ".mkv"])
def test_what_is_transparent_lies_over_black(tmp_path: Path, suffix: str) -> None:
    hidden = np.zeros((48, 64, 4), np.uint8)
    hidden[..., 0] = 250  # red, which is seen on the right only
    hidden[:, 32:, 3] = 255
    path = tmp_path / f"seen{suffix}"
    if suffix == ".mkv":
        with av.open(str(path), "w") as file:
            stream = file.add_stream("ffv1", rate=8)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "bgra"
            frame = av.VideoFrame.from_ndarray(hidden, format="rgba")
            file.mux(stream.encode(frame.reformat(format="bgra")))
            file.mux(stream.encode())
        image = read_video(path).frames[0]
    else:
        Image.fromarray(hidden).save(path, lossless=True)
        image = read_image(path)
    assert image[:, :31].max() <= 4
    assert image[:, 33:, 0].min() >= 240


def pq(nits: np.ndarray) -> np.ndarray:
    """Signal of SMPTE ST 2084."""
    y = (nits / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


def hlg(light: np.ndarray) -> np.ndarray:
    """Signal of ARIB STD-B67 for scene light, 0 to 1."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(light <= 1 / 12, np.sqrt(3 * light), a * np.log(np.maximum(12 * light - b, 1e-9)) + c)


@pytest.mark.parametrize("transfer", ["pq", "hlg"])
def test_hdr_is_shown_as_sdr(tmp_path: Path, transfer: str) -> None:
    # Black, grey, reference white, and a light four times as bright.
    signal = pq(np.array([0, 20, 203, 812.0])) if transfer == "pq" else np.array([0, 0.38, 0.75, 1.0])
    luma = np.repeat(np.round(64 + 876 * signal).astype("<u2"), 16)[None].repeat(48, 0)
    planes = np.concatenate([luma.ravel(), np.full(2 * 24 * 32, 512, "<u2")]).reshape(72, 64)
    path = tmp_path / "hdr.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        context = stream.codec_context
        context.color_trc = 16 if transfer == "pq" else 18
        context.color_primaries = context.colorspace = 9
        context.color_range = 1
        file.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p10le")))
        file.mux(stream.encode())
    image = read_video(path).frames[0]
    black, grey, white, light = (image[24, x].astype(int) for x in (8, 24, 40, 56))
    assert black.max() <= 3
    assert 40 <= grey.min() <= grey.max() <= 130
    assert white.min() >= 225
    assert light.min() >= white.min()
    for colour in (grey, white, light):
        assert np.ptp(colour) <= 3  # grey stays grey


@pytest.mark.parametrize(("height", "matrix"), [(576, "ITU601"), (720, "ITU709")])
def test_untagged_colours_are_those_of_their_size(tmp_path: Path, height: int, matrix: str) -> None:
    from av.video.reformatter import Colorspace

    red = np.zeros((height, 1024, 3), np.uint8)
    red[:] = (200, 40, 30)
    path = tmp_path / "untagged.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=8, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 1024, height, "yuv420p"
        frame = av.VideoFrame.from_ndarray(red, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace[matrix])
        frame.colorspace = 2
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    found = read_video(path).frames[0].mean((0, 1))
    np.testing.assert_allclose(found, (200, 40, 30), atol=4)


# Channels


@pytest.mark.parametrize("count", [1, 2, 3, 6, 7, 8, 9, 16, 24, 64])
def test_any_number_of_channels(tmp_path: Path, count: int) -> None:
    """In a process of its own: with eight planes PyAV's own arrays ended it."""
    rate = 16_000
    tones = np.stack([np.sin(2 * np.pi * (200 + 50 * c) * np.arange(rate) / rate) for c in range(count)], 1)
    raw = (0.3 * tones).astype("<f4")
    header = b"RIFF" + (50 + raw.nbytes).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    header += (3).to_bytes(2, "little") + count.to_bytes(2, "little") + rate.to_bytes(4, "little")
    header += (4 * count * rate).to_bytes(4, "little") + (4 * count).to_bytes(2, "little")
    header += (32).to_bytes(2, "little") + b"data" + raw.nbytes.to_bytes(4, "little")
    path = tmp_path / "many.wav"
    path.write_bytes(header + raw.tobytes())
    script = (
        "import sys, numpy as np; from kinetophone.media.read import read_audio;"
        "s = read_audio(sys.argv[1], mono=False);"
        "c = s.waveform.reshape(len(s.waveform), -1);"
        "print(*c.shape, *np.abs(np.fft.rfft(c, axis=0)).argmax(0))"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert list(map(int, done.stdout.split())) == [rate, count, *(200 + 50 * c for c in range(count))]


@pytest.mark.parametrize(
    ("codec", "suffix", "layout"),
    [("aac", ".m4a", "7.1"), ("flac", ".flac", "7.1"), ("ac3", ".ac3", "5.1"), ("libopus", ".opus", "7.1")],
)
def test_planes_of_codecs_are_channels_in_order(tmp_path: Path, codec: str, suffix: str, layout: str) -> None:
    rate, count = 48_000, av.AudioLayout(layout).nb_channels
    tones = [np.sin(2 * np.pi * (60 + 20 * c) * np.arange(rate) / rate) for c in range(count)]
    path = tmp_path / f"many{suffix}"
    with VideoFile(path, codec) as video_file:
        video_file.sound(0.3 * np.stack(tones, 1).astype(np.float32), rate, layout)
    sound = read_audio(path, mono=False)
    assert sound.layout is not None
    assert sound.layout.startswith(layout)
    found = np.abs(np.fft.rfft(sound.waveform[4000 : 4000 + rate // 2], axis=0)).argmax(0) * 2
    np.testing.assert_allclose(found, [60 + 20 * c for c in range(count)], atol=2)


# Bounds


def test_a_hole_of_hours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hours.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("flac", rate=8000, layout="mono")
        for start in (0, 8000 * 36_000):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 8000, start, Fraction(1, 8000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    with pytest.raises(MediaError, match=r"has nothing for 3\d{4} s after 0\.\d s: its timestamps are wrong"):
        read_audio(path)
    path = tmp_path / "still.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for start in (0, 1, 8 * 36_000):
            frame = av.VideoFrame.from_ndarray(quarters(32, 32), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = start, Fraction(1, 8)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    with pytest.raises(MediaError, match=r"has nothing for 36000 s after 0\.1 s"):
        read_video(path, fps=8)


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with little memory; the same limits at the size of a test."""
    import psutil

    real = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: real._replace(total=2 * 3_000_000))


@pytest.mark.usefixtures("small_limits")
def test_what_does_not_fit_into_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.mkv"
    with VideoFile(path, "flac") as video_file:
        video_file.picture(quarters(240, 320), 24, 8)
        video_file.sound(np.zeros((48_000 * 3, 8), np.float32), 48_000, "7.1")
    for read in (read_video, read_audio):
        with pytest.raises(MediaError, match="does not fit into half of this machine's memory"):
            read(path)
    assert len(read_video(path, size=(24, 32)).frames) == 24
    monkeypatch.setattr(container, "_readers", 30)
    with pytest.raises(MediaError, match="when decoded, shared by 30 processes; cut or shrink it first"):
        read_video(path, size=(48, 64))


def test_pixels_are_bounded_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (12_000, 12_000)).save(tmp_path / "large.png")
    with pytest.raises(MediaError, match=r"frames of 12000 x 12000 pixels; at most 134 million"):
        read_image(tmp_path / "large.png")
    monkeypatch.setattr(container, "MOST_PIXELS", 1000)
    with VideoFile(tmp_path / "film.mkv") as video_file:
        video_file.picture(quarters(), 4, 8)
    with pytest.raises(MediaError, match=r"cannot be read as media|frames of 64 x 48"):
        read_video(tmp_path / "film.mkv")


def test_a_clip_without_sound_is_refused_before_its_picture_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kinetophone.media.stills import Images

    with VideoFile(tmp_path / "silent.mkv") as video_file:
        video_file.picture(quarters(), 4, 8)
    monkeypatch.setattr(Images, "frames", None)
    with pytest.raises(MediaError, match="has no audio stream"):
        read_clip(tmp_path / "silent.mkv")


@pytest.mark.parametrize("name", ["a.svg", "a.eps", "a.pdf", "a.txt"])
def test_what_is_no_image_is_refused(tmp_path: Path, name: str) -> None:
    content = {
        "a.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "a.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n",
    }
    (tmp_path / name).write_bytes(content.get(name, b"%PDF-1.4 nothing"))
    with pytest.raises(MediaError, match=r"or of an unsupported format|an unknown codec"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".gif", ".tif", ".avif", ".heic", ".jp2"])
def test_a_truncated_image_is_refused_or_read_in_part(tmp_path: Path, suffix: str) -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()
    whole = tmp_path / f"whole{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(whole)
    content = whole.read_bytes()
    for share in (0.1, 0.5, 0.95):
        part = tmp_path / f"part{suffix}"
        part.write_bytes(content[: int(len(content) * share)])
        try:
            image = read_image(part)
        except MediaError:
            continue
        assert image.shape == (64, 64, 3)

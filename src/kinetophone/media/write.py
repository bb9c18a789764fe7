"""Writing clips to files.

What each format keeps:

- ``.mp4``: H.264 (yuv420p, crf 16) at the exact frame rate, with as many frames as the clip; an odd width or
  height gets one more column or row, a copy of the last, since yuv420p halves both for its colours. AAC with
  an edit list that hides the encoder's priming, so that sound and picture start together. The track is
  exactly as long as the clip's sound; ``kinetophone.media.read`` gives back that many samples, while players
  that ignore the edit list's end play up to one AAC frame (1024 samples) of silence more.
  Sound of a rate that AAC has no code for is brought to the next one.
- ``.mov``: the same in a QuickTime file.
- ``.webm``: VP9 and Opus, which knows rates up to 48 kHz; frame times are rounded to milliseconds.
- ``.wav``: 16-bit, exact: what was read from such a file is written as it was.
- ``.gif``: the picture, with frame times rounded to the hundredths of a second the format knows, without
  drift.
- ``.png``: a contact sheet.

A file appears complete or not at all: it is written beside its destination under another name, then renamed.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import wave
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kinetophone.errors import MediaError
from kinetophone.media.clip import fit_audio
from kinetophone.media.read import resample_audio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kinetophone.media.clip import Clip, Frames

# Of a film: the container, and the codecs of picture and sound.
_VIDEOS = {
    ".mp4": ("mp4", "libx264", "aac"),
    ".mov": ("mov", "libx264", "aac"),
    ".webm": ("webm", "libvpx-vp9", "libopus"),
}
VIDEO_SUFFIXES = tuple(_VIDEOS)
SUFFIXES = (*_VIDEOS, ".wav", ".gif", ".png")

# AAC keeps at most 6144 bits per frame of 1024 samples and channel; 6 bits per sample is that limit.
_AAC_MAX_BITS_PER_SAMPLE = 6
_AAC_MAX_BIT_RATE = 160_000
_AAC_FRAME = 1024  # samples

# The rates AAC has a code for.
AAC_SAMPLE_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_SAMPLE_RATES = {"aac": AAC_SAMPLE_RATES, "libopus": (48000, 24000, 16000, 12000, 8000)}
# By number of channels, where the sound does not say, or says what a codec does not know.
_LAYOUTS = ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "6.1", "7.1")

# SMPTE 170M, one code for matrix, primaries and transfer: what the conversion below uses.
_BT601 = 6

# Browsers play GIF frames shorter than two hundredths of a second slower, at ten a second.
_GIF_MAX_FPS = 50


def save(
    clip: Clip,
    path: str | os.PathLike[str],
    channels: np.ndarray | None = None,
    layout: str | None = None,
) -> Path:
    """Write ``clip`` to ``path`` in the format its suffix names; missing folders are made.

    ``channels`` and ``layout`` as in :func:`write_video`.

    Raises:
        MediaError: The suffix is unknown, or the format cannot hold this clip.
        OSError: The file cannot be written.
    """
    writers: dict[str, Callable[[Clip, Path], Path]] = {
        **dict.fromkeys(
            _VIDEOS, lambda clip, path: write_video(clip, path, channels=channels, layout=layout)
        ),
        ".wav": lambda clip, path: write_wav(
            clip.audio if channels is None else _fitted(channels, clip), clip.sample_rate, path
        ),
        ".gif": write_gif,
        ".png": lambda clip, path: clip.sheet(path),
    }
    path = Path(path)
    return writers[check_suffix(path)](clip, path)


def check_suffix(path: str | os.PathLike[str]) -> str:
    """The lower-case suffix of ``path``, where it is one that can be written.

    Raises:
        MediaError: It is not.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        found = f"the suffix '{suffix}'" if suffix else "no suffix"
        raise MediaError(f"'{os.fspath(path)}' has {found}; a clip can be written as {', '.join(SUFFIXES)}")
    return suffix


def check_rate(path: str | os.PathLike[str], fps: Fraction) -> None:
    """Raise unless frames of this rate can be written to ``path``.

    Raises:
        MediaError: It is a GIF, and the rate is above 50, which browsers do not play.
    """
    if os.fspath(path).lower().endswith(".gif") and fps > _GIF_MAX_FPS:
        raise MediaError(
            f"a GIF plays at most {_GIF_MAX_FPS} fps, the clip has {float(fps):g}; write an .mp4"
        )


def channel_layout(path: str | os.PathLike[str], count: int, layout: str | None = None) -> str | None:
    """How a film at ``path`` names ``count`` channels: as they are called, else as so many usually are.

    None where its codec has no place for them: they are then written as one, their mean.
    """
    import av

    if Path(path).suffix.lower() not in _VIDEOS:
        return layout
    usual = _LAYOUTS[count - 1] if count <= len(_LAYOUTS) else None
    for name in filter(None, (layout, usual)):
        codec = _VIDEOS[Path(path).suffix.lower()][2]
        try:
            context = av.CodecContext.create(codec, "w")
            context.sample_rate, context.layout = 48_000, name
            context.format = "fltp" if codec == "aac" else "flt"
            context.open()
        except (av.error.FFmpegError, ValueError):
            continue
        if context.layout.nb_channels == count:
            return name
    return None


def write_video(
    clip: Clip,
    path: str | os.PathLike[str],
    *,
    crf: int = 16,
    channels: np.ndarray | None = None,
    layout: str | None = None,
) -> Path:
    """Write picture and sound, in the container and by the codecs of the suffix.

    Args:
        clip: The clip.
        path: File to write, ``.mp4``, ``.mov`` or ``.webm``.
        crf: H.264 quality, 0 (lossless) to 51; 16 is visually lossless.
        channels: float32 (N, C), written in place of the clip's single channel: the sound that the clip's is
            the mean of. Cut or padded to the picture; see :func:`channel_layout` for those that do not fit.
        layout: Which channels they are, such as "5.1".

    Raises:
        OSError: The file cannot be written.
    """
    named = None if channels is None else channel_layout(path, channels.shape[1], layout)
    several = None if channels is None or named is None else _fitted(channels, clip)
    with video_writer(path, crf=crf, layout="mono" if several is None else str(named)) as add:
        add(*_at_known_rate(clip, several, _VIDEOS[Path(path).suffix.lower()][2]))
    return Path(path)


@contextmanager
def video_writer(
    path: str | os.PathLike[str], *, crf: int = 16, layout: str = "mono"
) -> Iterator[Callable[..., None]]:
    """Write a film as its parts come: call what this gives with each part, in order.

    Nothing but a few frames is held in memory; the file appears when all parts are in it.

    Args:
        path: File to write, ``.mp4``, ``.mov`` or ``.webm``.
        crf: As for :func:`write_video`.
        layout: Of the sound's channels.

    Returns:
        ``add(part, sound)``: ``part`` is a clip of the same size and rates as the first one, ``sound`` its
        channels (N, C), or None for the clip's own.

    Raises:
        MediaError: The codec has no such sample rate; parts cannot be resampled without a seam.
        OSError: The file cannot be written.
    """
    import av

    container, video_codec, audio_codec = _VIDEOS[Path(path).suffix.lower()]
    with replacing(path) as partial, contextlib.ExitStack() as stack:
        encoders: list[_Encoder] = []

        def add(part: Clip, sound: np.ndarray | None = None) -> None:
            if not encoders:
                if part.sample_rate not in _SAMPLE_RATES[audio_codec]:
                    rates = sorted(_SAMPLE_RATES[audio_codec])
                    codec = audio_codec.removeprefix("lib").upper()
                    raise MediaError(f"{codec} has no sample rate {part.sample_rate} Hz; there are {rates}")
                options = {}
                if container != "webm":
                    # The edit list counts in units of the movie, by default milliseconds, and would round the
                    # track's length.
                    timescale = math.lcm(part.sample_rate, part.time.fps.numerator)
                    options = {
                        "movflags": "+faststart",
                        "movie_timescale": str(timescale if timescale < 2**31 else part.sample_rate),
                    }
                file = stack.enter_context(av.open(f"file:{partial}", "w", format=container, options=options))
                encoders.append(_Encoder(file, part, video_codec, audio_codec, crf, layout))
            encoders[0].add(part.video, part.audio[:, None] if sound is None else sound)

        yield add
        if encoders:
            encoders[0].finish()


def write_wav(audio: np.ndarray, sample_rate: int, path: str | os.PathLike[str]) -> Path:
    """Write ``audio``, float32 (N,) or (N, channels) in [-1, 1], as 16-bit PCM.

    Raises:
        OSError: The file cannot be written.
    """
    with replacing(path) as partial, wave.open(partial, "wb") as file:
        file.setnchannels(1 if audio.ndim == 1 else audio.shape[1])
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        # Readers divide by 32768; 1.0 itself has no code.
        file.writeframes(np.minimum(np.round(audio * 32768.0), 32767.0).astype("<i2").tobytes())
    return Path(path)


def write_gif(clip: Clip, path: str | os.PathLike[str]) -> Path:
    """Write the picture, without sound, as an endless GIF.

    Raises:
        MediaError: The frame rate is above 50, which browsers do not play.
        OSError: The file cannot be written.
    """
    from PIL import Image

    check_rate(".gif", clip.time.fps)
    # Rounding the frames' start times, not their durations, keeps the whole in time.
    starts_cs = [round(100 * frame / clip.time.fps) for frame in range(len(clip.video) + 1)]
    durations_ms = [10 * (end - start) for start, end in pairwise(starts_cs)]
    first, *rest = (Image.fromarray(frame) for frame in clip.video)
    with replacing(path) as partial:
        first.save(partial, format="GIF", save_all=True, append_images=rest, duration=durations_ms, loop=0)
    return Path(path)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[str]:
    """A file name beside ``path`` to write to; it becomes ``path`` on success and vanishes on failure.

    Raises:
        OSError: It cannot get its name; what was written is then kept, and the error says where.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        raise IsADirectoryError(f"'{target}' is a folder; name a file in it")
    # Short: a name may be as long as the file system takes.
    partial = target.with_name(f".{secrets.token_hex(6)}.part")
    try:
        yield str(partial)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    try:
        partial.replace(target)
    except OSError as error:
        raise OSError(f"'{target}' cannot be written ({error.strerror}); the file is '{partial}'") from error


def _at_known_rate(clip: Clip, channels: np.ndarray | None, codec: str) -> tuple[Clip, np.ndarray | None]:
    """Clip and channels (N, C) at a sample rate that the codec has: their own, or else the next."""
    rates = _SAMPLE_RATES[codec]
    if clip.sample_rate in rates:
        return clip, channels
    rate = min((r for r in rates if r > clip.sample_rate), default=max(rates))
    samples = replace(clip.time, sample_rate=rate).samples

    def resampled(track: np.ndarray) -> np.ndarray:
        return np.clip(fit_audio(resample_audio(track, clip.sample_rate, rate), samples), -1.0, 1.0)

    return (
        replace(clip, audio=resampled(clip.audio), sample_rate=rate),
        None if channels is None else np.stack([resampled(track) for track in channels.T], axis=1),
    )


class _Encoder:
    """Both tracks of one film, side by side in the file, so that a player needs to read in one place only."""

    def __init__(
        self, file: Any, like: Clip, video_codec: str, audio_codec: str, crf: int, layout: str
    ) -> None:
        import av

        self.file = file
        options = {"crf": str(crf), "preset": "medium"}
        if video_codec == "libvpx-vp9":  # its scale is another one, and it needs to be told to hurry
            options = {"crf": str(crf + 8), "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}
        self.video = file.add_stream(video_codec, rate=like.time.fps, options=options)
        height, width = like.video.shape[1:3]
        self.video.height, self.video.width = height + height % 2, width + width % 2
        self.video.pix_fmt = "yuv420p"
        self.video.codec_context.time_base = 1 / like.time.fps
        # Untagged colours are guessed from the size, differently by each player.
        self.video.codec_context.color_range = av.video.reformatter.ColorRange.MPEG
        self.video.codec_context.colorspace = _BT601
        self.video.codec_context.color_primaries = _BT601
        self.video.codec_context.color_trc = _BT601
        self.audio = file.add_stream(audio_codec, rate=like.sample_rate, layout=layout)
        channels = self.audio.layout.nb_channels
        most = _AAC_MAX_BIT_RATE if channels <= 2 else channels * _AAC_MAX_BIT_RATE // 2
        self.audio.bit_rate = min(_AAC_MAX_BITS_PER_SAMPLE * like.sample_rate, most)
        # Packed in, whatever the codec takes: PyAV cannot make frames of eight planes.
        self.resampler = av.AudioResampler(self.audio.format, layout, like.sample_rate)
        self.frames = self.samples = 0
        self.waiting = np.empty((0, channels), np.float32)

    def add(self, frames: Frames, sound: np.ndarray) -> None:
        """Append frames and their sound (N, channels)."""
        for index, image in enumerate(frames):
            self._frame(image)
            start, end = (len(sound) * i // len(frames) for i in (index, index + 1))
            self.waiting = np.concatenate([self.waiting, sound[start:end]])
            while len(self.waiting) >= _AAC_FRAME:
                self._audio(self.waiting[:_AAC_FRAME])
                self.waiting = self.waiting[_AAC_FRAME:]

    def finish(self) -> None:
        """Write what the encoders still hold."""
        if len(self.waiting):
            self._audio(self.waiting)
        for stream in (self.video, self.audio):
            self.file.mux(stream.encode(None))

    def _frame(self, image: np.ndarray) -> None:
        import av
        from av.video.reformatter import Interpolation

        # Without accurate rounding every frame comes out a level darker.
        scaling = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
        height, width, _ = image.shape
        even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU601", interpolation=int(scaling))
        frame.pts, frame.time_base = self.frames, self.video.codec_context.time_base
        self.frames += 1
        self.file.mux(self.video.encode(frame))

    def _audio(self, samples: np.ndarray) -> None:
        import av

        packed = np.ascontiguousarray(samples, np.float32).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=self.audio.layout.name)
        frame.sample_rate, frame.pts = self.audio.rate, self.samples
        frame.time_base = Fraction(1, self.audio.rate)
        self.samples += len(samples)
        for part in self.resampler.resample(frame):
            self.file.mux(self.audio.encode(part))


def _fitted(channels: np.ndarray, clip: Clip) -> np.ndarray:
    """(N, C), as long as the clip."""
    samples = clip.time.samples
    return np.pad(channels[:samples], ((0, max(0, samples - len(channels))), (0, 0)))

"""Writing clips to files.

What each format preserves:

- ``.mp4``: H.264 (yuv420p, crf 16) at the exact frame rate and with all frames. An odd width or height is
  padded by repeating the last column or row, because yuv420p subsamples colour by 2. AAC with an edit list
  that hides the encoder's priming, so that audio and video start together. The track is exactly as long as
  the clip's audio, and ``kinetophone.media.read`` returns that many samples. Players that ignore the end of
  the edit list play up to one AAC frame (1024 samples) of extra silence. Audio with a sample rate that AAC
  does not support is resampled to the next higher one.
- ``.mov``: the same in a QuickTime file.
- ``.webm``: VP9 and Opus, with rates up to 48 kHz; frame times are rounded to milliseconds.
- ``.wav``: 16-bit audio; a 16-bit file that was read is written back without change.
  All of them keep the channels, videos up to eight; see :func:`channel_layout`.
- ``.gif``: the video only. Frame times are rounded to hundredths of a second, without drift.
- ``.png``: a contact sheet.

Writes are atomic: a file is written under a temporary name in its folder, then renamed.
"""

from __future__ import annotations

import contextlib
import math
import os
import wave
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kinetophone.errors import MediaError
from kinetophone.files import replacing
from kinetophone.media.clip import as_channels, fit_audio
from kinetophone.media.read import resample_audio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kinetophone.media.clip import Clip

# Container, video codec and audio codec of each suffix.
_VIDEOS = {
    ".mp4": ("mp4", "libx264", "aac"),
    ".mov": ("mov", "libx264", "aac"),
    ".webm": ("webm", "libvpx-vp9", "libopus"),
}
VIDEO_SUFFIXES = tuple(_VIDEOS)
AUDIO_CODECS = {suffix: audio_codec for suffix, (_, _, audio_codec) in _VIDEOS.items()}
SUFFIXES = (*_VIDEOS, ".wav", ".gif", ".png")

# AAC keeps at most 6144 bits per frame of 1024 samples and channel; 6 bits per sample is that limit.
_AAC_MAX_BITS_PER_SAMPLE = 6
_AAC_MAX_BIT_RATE = 160_000
_AAC_FRAME = 1024  # samples

# The sample rates that AAC supports.
AAC_SAMPLE_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_SAMPLE_RATES = {"aac": AAC_SAMPLE_RATES, "libopus": (48000, 24000, 16000, 12000, 8000)}
# Default layout by number of channels, if the audio has none or one that the codec does not support.
_LAYOUTS = ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "6.1", "7.1")

# SMPTE 170M, the same code for matrix, primaries and transfer; used by the conversion below.
_BT601 = 6

# Browsers slow down GIF frames that are shorter than 0.02 s, to ten frames per second.
_GIF_MAX_FPS = 50


def save(clip: Clip, path: str | os.PathLike[str]) -> Path:
    """Write ``clip`` to ``path`` in the format of its suffix; missing folders are created.

    Returns:
        The path written.

    Raises:
        MediaError: The suffix is unknown, or the format cannot store this clip.
        OSError: The file cannot be written.
    """
    writers: dict[str, Callable[[Clip, Path], Path]] = {
        **dict.fromkeys(_VIDEOS, write_video),
        ".wav": lambda clip, path: write_wav(clip.audio, clip.sample_rate, path),
        ".gif": write_gif,
        ".png": lambda clip, path: clip.sheet(path),
    }
    path = Path(path)
    return writers[check_suffix(path)](clip, path)


def check_suffix(path: str | os.PathLike[str]) -> str:
    """The lower-case suffix of ``path``, if its format can be written.

    Raises:
        MediaError: The format is unknown.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        found = f"the suffix '{suffix}'" if suffix else "no suffix"
        raise MediaError(f"'{os.fspath(path)}' has {found}; a clip can be written as {', '.join(SUFFIXES)}")
    return suffix


def check_rate(path: str | os.PathLike[str], fps: Fraction) -> None:
    """Raise if frames at this rate cannot be written to ``path``.

    Raises:
        MediaError: It is a GIF and the rate is above 50, which browsers do not support.
    """
    if os.fspath(path).lower().endswith(".gif") and fps > _GIF_MAX_FPS:
        raise MediaError(
            f"a GIF plays at most {_GIF_MAX_FPS} fps, the clip has {float(fps):g}; write an .mp4"
        )


def channel_layout(path: str | os.PathLike[str], count: int, layout: str | None = None) -> str | None:
    """The layout under which ``count`` channels can be written to ``path``.

    It is ``layout`` if the codec supports it, else the usual layout for that number of channels. None means
    that the codec supports neither; the mean of the channels is written in that case.
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


def written_layout(path: str | os.PathLike[str], audio: np.ndarray, layout: str | None) -> str:
    """The layout in which a waveform (N,) or (N, channels) is written to ``path``; see ``channel_layout``."""
    many = audio.ndim == 2 and audio.shape[1] > 1
    return (channel_layout(path, audio.shape[1], layout) if many else None) or "mono"


def write_video(clip: Clip, path: str | os.PathLike[str], *, crf: int = 16) -> Path:
    """Write video and audio, with the container and codecs of the suffix.

    Args:
        clip: The clip.
        path: File to write, ``.mp4``, ``.mov`` or ``.webm``.
        crf: H.264 quality, 0 (lossless) to 51; 16 is visually lossless.

    Returns:
        The path written.

    Raises:
        OSError: The file cannot be written.
    """
    with video_writer(path, crf=crf) as add:
        add(_at_known_rate(clip, _VIDEOS[Path(path).suffix.lower()][2]))
    return Path(path)


@contextmanager
def video_writer(path: str | os.PathLike[str], *, crf: int = 16) -> Iterator[Callable[[Clip], None]]:
    """Write a video in parts: a context that returns a function to call with each part, in order.

    Only a few frames are kept in memory. The file appears when the context ends without an error.

    Args:
        path: File to write, ``.mp4``, ``.mov`` or ``.webm``.
        crf: As for :func:`write_video`.

    Returns:
        ``add(part)``: ``part`` is a clip with the size, rates and channels of the first one. Channels without
        a layout that the codec supports are written as their mean.

    Raises:
        MediaError: The codec does not support the sample rate. Parts are not resampled, because that would
            be audible at their boundaries.
        OSError: The file cannot be written.
    """
    import av

    container, video_codec, audio_codec = _VIDEOS[Path(path).suffix.lower()]
    with replacing(path) as partial, contextlib.ExitStack() as stack:
        encoders: list[_Encoder] = []

        def add(part: Clip) -> None:
            if not encoders:
                if part.sample_rate not in _SAMPLE_RATES[audio_codec]:
                    rates = sorted(_SAMPLE_RATES[audio_codec])
                    codec = audio_codec.removeprefix("lib").upper()
                    raise MediaError(f"{codec} has no sample rate {part.sample_rate} Hz; it has {rates}")
                options = container_options(container, part.sample_rate, part.time.fps)
                file = stack.enter_context(av.open(f"file:{partial}", "w", format=container, options=options))
                layout = written_layout(path, part.audio, part.layout)
                encoders.append(_Encoder(file, part, video_codec, audio_codec, crf, layout))
            encoders[0].add(part)

        yield add
        if encoders:
            encoders[0].finish()


def write_wav(audio: np.ndarray, sample_rate: int, path: str | os.PathLike[str]) -> Path:
    """Write ``audio``, float32 (N,) or (N, channels) in [-1, 1], as 16-bit PCM.

    Returns:
        The path written.

    Raises:
        OSError: The file cannot be written.
    """
    with replacing(path) as partial, wave.open(partial, "wb") as file:
        file.setnchannels(1 if audio.ndim == 1 else audio.shape[1])
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        # Readers divide by 32768; 1.0 itself is out of range.
        file.writeframes(np.minimum(np.round(audio * 32768.0), 32767.0).astype("<i2").tobytes())
    return Path(path)


def write_gif(clip: Clip, path: str | os.PathLike[str]) -> Path:
    """Write the video, without audio, as a looping GIF.

    Returns:
        The path written.

    Raises:
        MediaError: The frame rate is above 50, which browsers do not support.
        OSError: The file cannot be written.
    """
    from PIL import Image

    check_rate(".gif", clip.time.fps)
    # Start times are rounded rather than durations, so that rounding errors do not add up.
    starts_cs = [round(100 * frame / clip.time.fps) for frame in range(len(clip.video) + 1)]
    durations_ms = [10 * (end - start) for start, end in pairwise(starts_cs)]
    first, *rest = (Image.fromarray(frame) for frame in clip.video)
    with replacing(path) as partial:
        first.save(partial, format="GIF", save_all=True, append_images=rest, duration=durations_ms, loop=0)
    return Path(path)


def container_options(container: str, sample_rate: int, fps: Fraction) -> dict[str, str]:
    """Options for writing a container, so that both tracks keep their exact lengths."""
    if container not in ("mp4", "mov"):
        return {}
    # The edit list counts in the movie's time scale. The default, milliseconds, would round the length.
    timescale = math.lcm(sample_rate, fps.numerator)
    return {
        "movflags": "+faststart",
        "movie_timescale": str(timescale if timescale < 2**31 else sample_rate),
    }


def known_rate(sample_rate: int, codec: str) -> int:
    """A sample rate that the codec supports: the given one or the next higher one, in Hz."""
    return min(
        (rate for rate in _SAMPLE_RATES[codec] if rate >= sample_rate), default=max(_SAMPLE_RATES[codec])
    )


def _at_known_rate(clip: Clip, codec: str) -> Clip:
    rate = known_rate(clip.sample_rate, codec)
    if rate == clip.sample_rate:
        return clip
    audio = resample_audio(clip.audio, clip.sample_rate, rate)
    audio = np.clip(fit_audio(audio, replace(clip.time, sample_rate=rate).samples), -1.0, 1.0)
    return replace(clip, audio=audio, sample_rate=rate)


class _Encoder:
    """Encodes the video and audio of one file, interleaved so that players read it sequentially."""

    def __init__(
        self, file: Any, like: Clip, video_codec: str, audio_codec: str, crf: int, layout: str
    ) -> None:
        import av

        self.file = file
        options = {"crf": str(crf), "preset": "medium"}
        if video_codec == "libvpx-vp9":  # has another crf scale, and is slow by default
            options = {"crf": str(crf + 8), "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}
        height, width = like.video.shape[1:3]
        if video_codec == "libx264" and width % 256:
            # x264's macroblock tree reads a row of blocks in whole vectors, past its end. What lies there in
            # memory changes the file.
            options["x264-params"] = "mbtree=0"
        self.video = file.add_stream(video_codec, rate=like.time.fps, options=options)
        self.video.height, self.video.width = height + height % 2, width + width % 2
        self.video.pix_fmt = "yuv420p"
        self.video.codec_context.time_base = 1 / like.time.fps
        # Without tags, players guess the colour space from the size, and disagree.
        self.video.codec_context.color_range = av.video.reformatter.ColorRange.MPEG
        self.video.codec_context.colorspace = _BT601
        self.video.codec_context.color_primaries = _BT601
        self.video.codec_context.color_trc = _BT601
        self.audio = AudioTrack(file, audio_codec, like.sample_rate, layout)
        self.frames = 0

    def add(self, part: Clip) -> None:
        """Append the frames and the audio of ``part``."""
        frames, sound = part.video, self.audio.channels_of(part.audio)
        for index, image in enumerate(frames):
            self._frame(image)
            start, end = (len(sound) * i // len(frames) for i in (index, index + 1))
            self.audio.add(sound[start:end])

    def finish(self) -> None:
        """Flush the encoders."""
        self.audio.finish()
        self.file.mux(self.video.encode(None))

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


class AudioTrack:
    """Encodes an audio stream of a file.

    Args:
        file: The container, open for writing.
        codec: Name of the encoder.
        sample_rate: One that the codec supports, in Hz.
        layout: Layout of its channels, such as "stereo".
        start_s: Time of the first sample in the file, in seconds.
    """

    def __init__(
        self, file: Any, codec: str, sample_rate: int, layout: str, start_s: Fraction = Fraction(0)
    ) -> None:
        import av

        self.file, self.stream = file, file.add_stream(codec, rate=sample_rate, layout=layout)
        self.channels = self.stream.layout.nb_channels
        most = _AAC_MAX_BIT_RATE if self.channels <= 2 else self.channels * _AAC_MAX_BIT_RATE // 2
        self.stream.bit_rate = min(_AAC_MAX_BITS_PER_SAMPLE * sample_rate, most)
        # Converts packed samples to the codec's format: PyAV cannot create frames with eight planes.
        self._resampler = av.AudioResampler(self.stream.format, layout, sample_rate)
        self._samples = round(start_s * sample_rate)
        self._waiting = np.empty((0, self.channels), np.float32)

    def channels_of(self, audio: np.ndarray) -> np.ndarray:
        """A waveform (N,) or (N, channels) with the channels of the stream, (N, channels)."""
        return as_channels(audio, self.channels).reshape(-1, self.channels)

    def add(self, samples: np.ndarray) -> None:
        """Append samples (N, channels)."""
        self._waiting = np.concatenate([self._waiting, samples])
        while len(self._waiting) >= _AAC_FRAME:
            self._encode(self._waiting[:_AAC_FRAME])
            self._waiting = self._waiting[_AAC_FRAME:]

    def finish(self) -> None:
        """Encode what is left, and flush the encoder."""
        if len(self._waiting):
            self._encode(self._waiting)
        self.file.mux(self.stream.encode(None))

    def _encode(self, samples: np.ndarray) -> None:
        import av

        packed = np.ascontiguousarray(samples, np.float32).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=self.stream.layout.name)
        frame.sample_rate, frame.pts = self.stream.rate, self._samples
        frame.time_base = Fraction(1, self.stream.rate)
        self._samples += len(samples)
        for part in self._resampler.resample(frame):
            self.file.mux(self.stream.encode(part))

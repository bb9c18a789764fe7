"""Reading clips from files: any container, size, frame rate, sample rate and number of channels.

The audio and video of a file may start at different times and have different lengths. Here the video is the
reference: audio sample 0 is aligned with frame 0, and the audio is cut or padded with silence to the length
of the video.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kinetophone.errors import MediaError
from kinetophone.media.clip import Clip, fit_audio
from kinetophone.media.container import Budget, audio_stream, decoded, open_media
from kinetophone.media.stills import Images, is_tiled_still, read_image
from kinetophone.media.timing import ClipTime, as_fps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kinetophone.media.clip import Frames, Waveform

_UNKNOWN_FPS = 25  # for still images and files without a frame rate
_MOMENT = Fraction(1, 1_000_000)  # tolerance for comparing times, in seconds
_JITTER_S = Fraction(15, 1000)  # shorter than a packet of any codec; containers round times to milliseconds
_MAX_SPEEDUP = 4  # frames may come at most this many times faster than the frame rate


@dataclass(frozen=True, slots=True, eq=False)
class Video:
    """Frames, uint8 (T, H, W, 3), their rate, and the time of the first one in the file."""

    frames: Frames
    fps: Fraction
    start_s: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Audio:
    """A waveform, float32 in [-1, 1], its rate, and the time of its first sample in the file.

    The waveform is mono (N,), or (N, C) with two or more channels; ``layout`` is the layout of these, such as
    "stereo" or "5.1".
    """

    waveform: Waveform
    sample_rate: int
    start_s: float = 0.0
    layout: str | None = None


def read_clip(
    path: str | os.PathLike[str],
    *,
    fps: float | Fraction | None = None,
    size: tuple[int, int] | None = None,
    within: int | None = None,
    sample_rate: int | None = None,
    sound: str | os.PathLike[str] | None = None,
    longest_s: float | None = None,
    audio_track: int | None = None,
    mono: bool = True,
) -> Clip:
    """Read a clip with video and audio.

    Args:
        path: A video file with audio.
        fps: Frame rate to resample to; each new frame is the one shown at its time. The file's own rate if
            not given.
        size: (height, width) to resize to, after a centre crop to that aspect ratio. The file's own size in
            square pixels if not given.
        within: Instead of size: the largest height or width. Larger frames are shrunk to it, uncropped.
        sample_rate: Sample rate to resample to, in Hz. The file's own rate if not given.
        sound: A file to take the audio from instead; it starts with the first frame.
        longest_s: Maximum length in seconds. A longer file is refused at once if its metadata says so,
            otherwise as soon as the limit is exceeded while decoding.
        audio_track: Number of the audio stream, from 1; the default stream if not given.
        mono: Whether to mix several channels to their mean. It is divided by its peak if that exceeds 1;
            channels that are kept are clipped instead.

    Returns:
        The clip. Its audio is placed according to its timestamps. Gaps are silent.

    Raises:
        FileNotFoundError: There is no such file.
        MediaError: The file is empty or corrupt, has no video or no audio, or is too long.
    """
    heard_in = path if sound is None else sound
    with open_media(heard_in) as file:  # fail early, before the video is decoded
        audio_stream(heard_in, file, audio_track)
    picture = read_video(path, fps=fps, size=size, within=within, longest_s=longest_s)
    heard = read_audio(
        heard_in, sample_rate=sample_rate, longest_s=longest_s, audio_track=audio_track, mono=mono
    )
    time = ClipTime(fps=picture.fps, frames=len(picture.frames), sample_rate=heard.sample_rate)
    late_s = heard.start_s - picture.start_s if sound is None else 0.0
    return Clip(
        video=picture.frames,
        fps=time.fps,
        audio=placed(heard.waveform, round(late_s * heard.sample_rate), time.samples),
        sample_rate=time.sample_rate,
        layout=heard.layout,
    )


def placed(samples: np.ndarray, late: int, count: int) -> np.ndarray:
    """Place samples (N,) or (N, C) at index ``late`` of a silent array with ``count`` samples.

    Samples that fall outside of it are cut.
    """
    made = np.zeros((count, *samples.shape[1:]), np.float32)
    kept = samples[max(0, -late) :][: max(0, count - max(0, late))]
    made[max(0, late) :][: len(kept)] = kept
    return made


def read_video(
    path: str | os.PathLike[str],
    *,
    fps: float | Fraction | None = None,
    size: tuple[int, int] | None = None,
    within: int | None = None,
    longest_s: float | None = None,
    between: tuple[float, float | None] = (0, None),
) -> Video:
    """Read the video of a file; arguments and errors as in ``read_clip``, but the file may have no audio.

    ``between`` are the start and end in seconds, counted from the first frame; None is the end of the file.
    """
    if Path(path).is_file() and is_tiled_still(path):
        return _still_video(read_image(path), fps, size)
    budget = Budget(path, longest_s)
    with open_media(path) as file:
        images = Images(path, file)
        if not any(between):
            budget.check_stated(file, images.stream)
        rate = as_fps(images.stream.average_rate or images.stream.guessed_rate or _UNKNOWN_FPS)
        target = rate if fps is None else as_fps(fps)
        shown = _Shown(images, budget, size, within, between, _stated_frames(file, images.stream, target))
        if target == rate:
            shown.add_one_for_one(rate)
        else:
            shown.add_at_rate(target, rate)
    return Video(frames=shown.frames, fps=target, start_s=float(shown.start))


def frame_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(height, width) of a video's first frame as displayed; errors as in ``read_clip``."""
    if Path(path).is_file() and is_tiled_still(path):
        height, width = read_image(path).shape[:2]
        return height, width
    with open_media(path) as file:
        images = Images(path, file)
        return images.size(next(images.frames())[0])


def _stated_frames(file: Any, stream: Any, rate: Fraction) -> int:
    """Number of frames at ``rate`` according to the file's metadata."""
    if stream.duration and stream.time_base:
        return max(0, math.ceil(stream.duration * stream.time_base * rate))
    return max(0, math.ceil(Fraction(file.duration or 0, 1_000_000) * rate))


def _still_video(image: np.ndarray, fps: float | Fraction | None, size: tuple[int, int] | None) -> Video:
    image = image if size is None else resize(image, size)
    return Video(frames=image[None], fps=as_fps(_UNKNOWN_FPS if fps is None else fps))


class _Shown:
    """Collects the frames of a file at a given rate and size.

    Args:
        images: The file's images.
        budget: Limits on length and memory.
        size: (height, width) of the frames; the size of the first frame if not given.
        within: Largest height or width, if the size is that of the first frame.
        between: Start and end in seconds, counted from the file's first frame.
        expected: Approximate number of frames.
    """

    def __init__(
        self,
        images: Images,
        budget: Budget,
        size: tuple[int, int] | None,
        within: int | None,
        between: tuple[float, float | None],
        expected: int,
    ) -> None:
        self.images, self.budget, self.size, self.expected = images, budget, size, expected
        self.within = within
        self.first, self.until = Fraction(between[0]), None if between[1] is None else Fraction(between[1])
        self.start = Fraction(0)  # start of the section that is read, in the file's time
        self._end: Fraction | None = None  # end of the section, if it was cut
        self._array = np.empty((0, 0, 0, 3), np.uint8)
        self._count = 0

    @property
    def frames(self) -> Frames:
        """uint8 (T, H, W, 3)."""
        return self._array[: self._count]

    def add_at_rate(self, target: Fraction, rate: Fraction) -> None:
        """Add the image shown at each time step of the rate ``target``: the last one that started by then.

        Only these images are converted.
        """
        before, last = None, Fraction(0)
        for frame, time in self._times(rate):
            self._repeat(before, target, until=time)
            before, last = frame, time
        count = self._frame_count(last + 1 / rate, target)
        self._repeat(before, target, until=count / target)

    def add_one_for_one(self, rate: Fraction) -> None:
        """Add all images if their rate is constant enough; otherwise resample as :meth:`add_at_rate` does."""
        times = []
        for frame, time in self._times(rate):
            self._add(self._image(frame))
            times.append(time)
        if all(abs(time * rate - index) < Fraction(1, 2) for index, time in enumerate(times)):
            return
        count = self._frame_count(times[-1] + 1 / rate, rate)
        self.budget.keep(count * self._array[0].nbytes)
        wanted = np.arange(count) / float(rate)
        starts = np.array([float(time) for time in times])
        latest = np.searchsorted(starts, wanted + float(_MOMENT), side="right") - 1
        self._array, self._count = self.frames[np.clip(latest, 0, None)], count

    def _frame_count(self, end: Fraction, rate: Fraction) -> int:
        """Number of frames at ``rate`` up to ``end``, or up to the end of the section."""
        return max(1, round((end if self._end is None else min(end, self._end)) * rate))

    def _times(self, rate: Fraction) -> Iterator[tuple[Any, Fraction]]:
        """Frames with their times, counted from the start of the section."""
        last, before, begin = Fraction(0), None, Fraction(0)
        for index, (frame, time) in enumerate(self.images.frames()):
            if index == 0:
                begin = time or Fraction(0)
            # Decreasing timestamps are wrong: a frame is never shown before its predecessor.
            shown_at = max(last, index / rate if time is None else time - begin)
            self.budget.check_gap(float(shown_at - last), float(last))
            last = shown_at
            if self.until is not None and shown_at >= self.until - _MOMENT:
                self._end = self.until - self.first
                break
            if self.first and shown_at <= self.first + _MOMENT:
                before = frame  # the last of these is visible at the start of the section
                continue
            inside = max(Fraction(0), shown_at - self.first)
            self.budget.check_length(max(inside, (index / rate - self.first) / _MAX_SPEEDUP))
            if before is not None:
                yield before, Fraction(0)
                before = None
            yield frame, inside
        if before is not None and last + 1 / rate > self.first:
            yield before, Fraction(0)
        elif self.first and last <= self.first:
            ends = f"ends at {float(last + 1 / rate):.2f} s, before {float(self.first):g} s"
            raise MediaError(f"'{self.budget.path}' {ends}")
        self.start = begin + self.first

    def _repeat(self, frame: Any, rate: Fraction, until: Fraction) -> None:
        """Repeat a frame at ``rate`` until the time ``until``."""
        image = None
        while self._count / rate + _MOMENT < until:
            image = self._image(frame) if image is None else image
            self._add(image)

    def _image(self, frame: Any) -> np.ndarray:
        if self.size is None:
            height, width = self.images.size(frame)  # if the size changes later, the first one is kept
            factor = min(1.0, (self.within or math.inf) / max(height, width))
            self.size = (max(1, round(factor * height)), max(1, round(factor * width)))
        return resize(self.images.image(frame), self.size)

    def _add(self, image: np.ndarray) -> None:
        if self._count == 0:  # fail now if the expected size is too large, not after decoding it
            self.budget.check_fits(self.expected * image.nbytes)
        self.budget.keep(image.nbytes)
        if self._count == len(self._array):
            # Frames are written to their final place, so that there is never a second copy of all of them.
            # Unused capacity takes no physical memory.
            most = self.budget.left // image.nbytes
            room = self._count + max(16, min(most, self._count // 2 or self.expected + 1))
            grown = np.empty((room, *image.shape), np.uint8)
            if self._count:
                grown[: self._count] = self._array
            self._array = grown
        self._array[self._count] = image
        self._count += 1


def read_audio(
    path: str | os.PathLike[str],
    *,
    sample_rate: int | None = None,
    longest_s: float | None = None,
    audio_track: int | None = None,
    between: tuple[float, float] | None = None,
    mono: bool = True,
) -> Audio:
    """Read the audio of a file; arguments and errors as in ``read_clip``, but the file may have no video.

    ``between`` are the start and end in seconds of the file's time; packets outside are skipped.
    """
    budget = Budget(path, longest_s)
    with open_media(path) as file:
        stream = audio_stream(path, file, audio_track)
        if between is None:
            budget.check_stated(file, stream)
        runs = _runs(file, stream, budget, between)
        # An .mp4 states where the audio ends within its last AAC frame; the rest is encoder padding.
        stated = stream.duration * stream.time_base if stream.duration and stream.time_base else None
        container = set(file.format.name.split(","))
    if not any(run.length for run in runs) and between is not None:
        return Audio(np.zeros(1, np.float32), sample_rate or 48_000, between[0])  # silent there
    if not any(run.length for run in runs):
        raise MediaError(f"'{path}' has an audio stream without samples; it is truncated or corrupt")
    start, rate, layout = runs[0].start, runs[0].rate, runs[0].layout.name
    channels = _placed(runs, budget)
    if "mp4" in container and stated is not None and start == 0:
        length = round(stated * rate)
        if 0 <= len(channels) - length < 1024:
            channels = channels[:length]
    if not np.isfinite(channels).all():
        raise MediaError(f"'{path}' has audio that is not finite; it is corrupt")
    if sample_rate is not None:
        channels = resample_audio(channels, rate, sample_rate)
        rate = sample_rate
    if not mono and channels.shape[1] > 1:
        return Audio(np.clip(channels, -1.0, 1.0), rate, float(start), layout)
    waveform = np.ascontiguousarray(channels.mean(axis=1))
    peak = float(np.abs(waveform).max(initial=0.0))
    if peak > 1.0:
        # Lossy codecs overshoot. The division can still round to just above 1, so it is clipped as well.
        waveform = np.clip(waveform / peak, -1.0, 1.0)
    return Audio(waveform, rate, float(start))


class _Run:
    """A section of audio without gaps and in one format.

    Args:
        frame: Its first frame.
        start: Its start time in seconds.
    """

    def __init__(self, frame: Any, start: Fraction) -> None:
        import av

        self.start, self.rate, self.layout = start, frame.sample_rate, frame.layout
        self.format, self.length = _format(frame), Fraction(0)
        self._converter = av.AudioResampler(format="flt")
        self._parts: list[np.ndarray] = []

    @property
    def end(self) -> Fraction:
        """End time of the audio added so far, in seconds."""
        return self.start + self.length

    def add(self, frame: Any, budget: Budget) -> None:
        """Add a decoded frame; None flushes the converter."""
        if frame is not None:
            self.length += Fraction(frame.samples, frame.sample_rate)
            frame.pts = None
        for part in self._converter.resample(frame):
            channels = part.layout.nb_channels
            # Read the packed samples from the buffer: PyAV's planar arrays crash with 8 channels.
            samples = np.frombuffer(part.planes[0], np.float32, part.samples * channels)
            budget.keep(samples.nbytes)
            self._parts.append(samples.reshape(-1, channels).copy())

    def take(self, first: _Run) -> np.ndarray:
        """Hand over the samples (N, C), converted to the rate and number of channels of the first run."""
        parts, self._parts = self._parts, []
        samples = np.concatenate(parts) if parts else np.zeros((0, self.layout.nb_channels), np.float32)
        if samples.shape[1] != first.layout.nb_channels:
            # A plain mean: downmix weights for loudspeakers would change the level.
            samples = samples.mean(axis=1, keepdims=True).repeat(first.layout.nb_channels, axis=1)
        return resample_audio(samples, self.rate, first.rate)


def _format(frame: Any) -> tuple[int, str, str]:
    return frame.sample_rate, frame.layout.name, frame.format.name


def _runs(file: Any, stream: Any, budget: Budget, between: tuple[float, float] | None = None) -> list[_Run]:
    """Split a stream into runs without gaps and in one format."""
    runs: list[_Run] = []
    decoded_s = Fraction(0)
    for frame in decoded(budget.path, file, stream):
        if not frame.samples or not frame.sample_rate:
            continue
        ends = runs[-1].end if runs else Fraction(0)
        start = ends if frame.pts is None else frame.pts * frame.time_base
        if between is not None and start + Fraction(frame.samples, frame.sample_rate) < between[0]:
            continue
        if between is not None and start > between[1]:
            break
        if not runs or runs[-1].format != _format(frame) or abs(start - ends) > _JITTER_S:
            if runs:
                budget.check_gap(float(start - ends), float(ends))
                runs[-1].add(None, budget)
            runs.append(_Run(frame, start))
        decoded_s += Fraction(frame.samples, frame.sample_rate)
        runs[-1].add(frame, budget)
        budget.check_length(decoded_s)
    if runs:
        runs[-1].add(None, budget)
    return runs


def _placed(runs: list[_Run], budget: Budget) -> np.ndarray:
    """Join the runs to (N, C), each at its start time. Gaps become silence and overlaps are cut."""
    rate, start = runs[0].rate, runs[0].start
    parts: list[np.ndarray] = []
    filled = 0
    for run in runs:
        samples = run.take(runs[0])
        at = round((run.start - start) * rate)
        if abs(at - filled) <= _JITTER_S * rate:
            at = filled
        if at > filled:
            budget.keep((at - filled) * samples.shape[1] * 4)
            parts.append(np.zeros((at - filled, samples.shape[1]), np.float32))
            filled = at
        fresh = samples[filled - at :]
        parts.append(fresh)
        filled += len(fresh)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def resample_audio(waveform: Waveform, source_rate: int, target_rate: int) -> Waveform:
    """Resample (N,) or (N, C) float32 to round(N * target_rate / source_rate) samples, without delay."""
    import soxr

    if waveform.ndim == 2:
        if source_rate == target_rate:
            return waveform
        return np.stack([resample_audio(track, source_rate, target_rate) for track in waveform.T], axis=1)
    samples = round(Fraction(len(waveform) * target_rate, source_rate))
    resampled = soxr.resample(waveform, source_rate, target_rate, quality="HQ").astype(np.float32, copy=False)
    return fit_audio(resampled, samples)


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Centre-crop ``image`` (H, W, 3) to the aspect ratio of ``size`` (height, width), then resize it."""
    import cv2

    (height, width), (new_height, new_width) = image.shape[:2], size
    if (height, width) == (new_height, new_width):
        return image
    scale = min(height / new_height, width / new_width)
    crop_height, crop_width = max(1, round(scale * new_height)), max(1, round(scale * new_width))
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    cropped = image[top : top + crop_height, left : left + crop_width]
    # Area averaging does not alias when shrinking, but repeats pixels when enlarging.
    method = cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC
    return cv2.resize(cropped, (new_width, new_height), interpolation=method)


def resample_frames(
    frames: np.ndarray, source_fps: Fraction, target_fps: Fraction, size: tuple[int, int]
) -> np.ndarray:
    """Resample frames (T, H, W, 3) to another rate and size (height, width).

    Each new frame is the one shown at its time. The result is as long as the source, or up to a frame longer.
    """
    if (source_fps, frames.shape[1:3]) == (target_fps, size):
        return frames
    count = math.ceil(len(frames) * target_fps / source_fps)
    shown = [min(math.floor(k * source_fps / target_fps), len(frames) - 1) for k in range(count)]
    small = {index: resize(frames[index], size) for index in set(shown)}
    return np.stack([small[index] for index in shown])

"""Reading clips from files: any container, size, frame rate, sample rate and number of channels.

A file's sound and picture may start at different times and have different lengths. The picture is the
clock here: sample 0 is heard as frame 0 is shown, and the sound is cut, or padded with silence, to the
picture's length.
"""

from __future__ import annotations

import math
import os
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kinetophone.errors import MediaError
from kinetophone.media.clip import Clip, fit_audio
from kinetophone.media.timing import ClipTime, as_fps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kinetophone.media.clip import Frames, Waveform


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """Frames, uint8 (T, H, W, 3), their rate, and the time the first one is shown at in the file."""

    frames: Frames
    fps: Fraction
    start_s: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """A waveform, float32 (N,) in [-1, 1], its rate, and the time its first sample is heard at.

    ``channels`` (N, C), where the file has more than one, are what the waveform is the mean of.
    """

    waveform: Waveform
    sample_rate: int
    start_s: float = 0.0
    channels: np.ndarray | None = None


def read_clip(
    path: str | os.PathLike[str],
    *,
    fps: float | Fraction | None = None,
    size: tuple[int, int] | None = None,
    sample_rate: int | None = None,
    sound: str | os.PathLike[str] | None = None,
    longest_s: float | None = None,
) -> Clip:
    """Read a sounding clip.

    Args:
        path: A video file with sound.
        fps: Frame rate to resample to: each new frame is the one shown at its time. The file's own where
            not given.
        size: (height, width) to resize to, after cropping the middle to that aspect. The file's own where
            not given.
        sample_rate: Sample rate to resample to, in Hz. The file's own where not given.
        sound: A file to take the sound from instead; it starts with the first frame.
        longest_s: Refuse what lasts longer, in seconds: at once where the file says so, otherwise as soon as
            so much is decoded.

    Returns:
        The clip. Its sound is the mean of the file's channels, divided by its peak where that exceeds 1.

    Raises:
        FileNotFoundError: There is no such file.
        MediaError: The file is empty or corrupt, has no picture or no sound, or is too long.
    """
    picture = read_picture(path, fps=fps, size=size, longest_s=longest_s)
    heard = read_sound(path if sound is None else sound, sample_rate=sample_rate, longest_s=longest_s)
    time = ClipTime(fps=picture.fps, frames=len(picture.frames), sample_rate=heard.sample_rate)
    late = round((heard.start_s - picture.start_s) * heard.sample_rate) if sound is None else 0
    waveform = np.pad(heard.waveform, (late, 0)) if late > 0 else heard.waveform[-late:]
    return Clip(
        video=picture.frames,
        fps=time.fps,
        audio=fit_audio(waveform, time.samples),
        sample_rate=time.sample_rate,
    )


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image, or the first frame of a film: uint8 (H, W, 3); errors as in ``read_picture``."""
    with open_media(path) as file:
        return next(_images(path, file, _video_stream(path, file)))[0]


def read_picture(
    path: str | os.PathLike[str],
    *,
    fps: float | Fraction | None = None,
    size: tuple[int, int] | None = None,
    longest_s: float | None = None,
) -> Picture:
    """Read a file's picture; arguments and errors as in ``read_clip``, but the file may be silent."""
    with open_media(path) as file:
        stream = _video_stream(path, file)
        _check_stated(path, file, stream, longest_s)
        rate = as_fps(stream.average_rate or stream.guessed_rate or 0)
        images: list[np.ndarray] = []
        times: list[Fraction | None] = []
        for image, time in _images(path, file, stream):
            images.append(image if size is None else resize(image, size))
            times.append(time)
            past = len(images) / rate if time is None else time - (times[0] or 0)
            _check_length(path, past, longest_s)
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise MediaError(f"'{path}' changes its frames' size, {sorted(shapes)}; give size=(height, width)")
    start = times[0] or Fraction(0)
    shown_at = [index / rate if time is None else time - start for index, time in enumerate(times)]
    target = rate if fps is None else as_fps(fps)
    # A file with a steady rate, near enough, keeps its frames one for one.
    steady = all(abs(time * rate - index) < Fraction(1, 2) for index, time in enumerate(shown_at))
    if target != rate or not steady:
        images = _resample(images, shown_at, duration=shown_at[-1] + 1 / rate, fps=target)
    return Picture(frames=np.stack(images), fps=target, start_s=float(start))


def read_sound(
    path: str | os.PathLike[str], *, sample_rate: int | None = None, longest_s: float | None = None
) -> Sound:
    """Read a file's sound; arguments and errors as in ``read_clip``, but the file may have no picture."""
    import av

    with open_media(path) as file:
        if not file.streams.audio:
            raise MediaError(f"'{path}' has no audio stream; give a file with sound")
        stream = file.streams.audio[0]
        _check_stated(path, file, stream, longest_s)
        rate, decoded_s = stream.rate, Fraction(0)
        # Only the sample format is converted here; the channels are averaged below, all with one weight.
        converter = av.AudioResampler(format="fltp")
        frames, start = [], None
        for decoded in file.decode(stream):
            if start is None:
                start = float(decoded.pts * decoded.time_base) if decoded.pts is not None else 0.0
            frames += [frame.to_ndarray() for frame in converter.resample(decoded)]
            decoded_s += Fraction(decoded.samples, rate)
            _check_length(path, decoded_s, longest_s)
        # An .mp4 says where the sound ends within its last AAC frame; what follows is the encoder's padding.
        length = round(stream.duration * stream.time_base * rate) if stream.duration and start == 0 else None
        container = set(file.format.name.split(","))
    if not frames or not any(frame.size for frame in frames):
        raise MediaError(f"'{path}' has an audio stream without a sample; it is cut short or corrupt")
    channels = np.concatenate(frames, axis=1).T.astype(np.float32, copy=False)
    if "mp4" in container and length is not None and 0 <= len(channels) - length < 1024:
        channels = channels[:length]
    if not np.isfinite(channels).all():
        raise MediaError(f"'{path}' holds sound that is not finite; it is corrupt")
    if sample_rate is not None and sample_rate != rate:
        channels = np.stack([resample_sound(track, rate, sample_rate) for track in channels.T], axis=1)
        rate = sample_rate
    waveform = np.ascontiguousarray(channels.mean(axis=1))
    peak = float(np.abs(waveform).max(initial=0.0))
    if peak > 1.0:
        # Lossy codecs overshoot. The division can still round to just above 1, so it is clipped as well.
        waveform = np.clip(waveform / peak, -1.0, 1.0)
    several = np.clip(channels, -1.0, 1.0) if channels.shape[1] > 1 else None
    return Sound(waveform=waveform, sample_rate=rate, start_s=start or 0.0, channels=several)


def _video_stream(path: str | os.PathLike[str], file: Any) -> Any:
    if not file.streams.video:
        raise MediaError(f"'{path}' has no video stream; give a file with a picture, such as an .mp4")
    stream = file.streams.video[0]
    stream.thread_type = "AUTO"
    return stream


def _images(
    path: str | os.PathLike[str], file: Any, stream: Any
) -> Iterator[tuple[np.ndarray, Fraction | None]]:
    """Frames, uint8 (H, W, 3), upright, each with its time in the file."""
    from av.video.reformatter import Interpolation

    # Without accurate rounding every frame comes out a level darker.
    scaling = int(Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT)
    frame = None
    for frame in file.decode(stream):
        image = frame.to_ndarray(format="rgb24", interpolation=scaling)
        if frame.rotation:  # a phone held upright: the pixels lie on their side, and the file says so
            image = np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))
        yield image, frame.pts * frame.time_base if frame.pts is not None else None
    if frame is None:
        raise MediaError(f"'{path}' has a video stream without a frame; it is cut short or corrupt")


def _check_stated(path: str | os.PathLike[str], file: Any, stream: Any, longest_s: float | None) -> None:
    """Refuse a file that itself says it is too long, before a frame of it is decoded."""
    if stream.duration:
        _check_length(path, stream.duration * stream.time_base, longest_s)
    elif file.duration:
        _check_length(path, Fraction(file.duration, 1_000_000), longest_s)


def _check_length(path: str | os.PathLike[str], seconds: Fraction, longest_s: float | None) -> None:
    # A second more is nobody's memory: encoders pad, and who computes with it checks what it computes.
    if longest_s is not None and seconds > longest_s + 1:
        raise MediaError(
            f"'{path}' lasts {float(seconds):.0f} s or more; at most {longest_s:g} s can be used at once"
        )


def resample_sound(waveform: Waveform, source_rate: int, target_rate: int) -> Waveform:
    """Resample (N,) float32 to round(N * target_rate / source_rate) samples, without delay."""
    import soxr

    samples = round(Fraction(len(waveform) * target_rate, source_rate))
    resampled = soxr.resample(waveform, source_rate, target_rate, quality="HQ").astype(np.float32, copy=False)
    return fit_audio(resampled, samples)


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Crop the middle of ``image`` (H, W, 3) to the aspect of ``size`` (height, width), then resize it."""
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
    """Frames (T, H, W, 3) at another rate and size (height, width): of each moment, the one shown then.

    The result lasts as long as the source, or up to a frame longer.
    """
    count = math.ceil(len(frames) * target_fps / source_fps)
    shown = [min(math.floor(k * source_fps / target_fps), len(frames) - 1) for k in range(count)]
    small = {index: resize(frames[index], size) for index in set(shown)}
    return np.stack([small[index] for index in shown])


def _resample(images: list, shown_at: list[Fraction], *, duration: Fraction, fps: Fraction) -> list:
    """For each frame of the new rate, the image shown at its time (the last one that started by then)."""
    frames = max(1, round(duration * fps))
    starts = np.array([float(time) for time in shown_at])
    wanted = np.array([float(frame / fps) for frame in range(frames)])
    latest = np.searchsorted(starts, wanted + 1e-6, side="right") - 1
    return [images[index] for index in np.clip(latest, 0, None)]


@contextmanager
def open_media(path: str | os.PathLike[str]) -> Iterator:
    """The opened container; every failure to open or decode becomes one clear error.

    Raises:
        FileNotFoundError: There is no such file.
        MediaError: It is a folder, empty, or not media.
    """
    import av

    file_path = Path(path)
    if not file_path.exists():
        raise FileNotFoundError(f"'{path}' does not exist")
    if file_path.is_dir():
        raise MediaError(f"'{path}' is a folder; name a media file")
    if file_path.stat().st_size == 0:
        raise MediaError(f"'{path}' is empty (0 bytes)")
    try:
        with av.open(str(file_path)) as file:
            yield file
    except av.error.FFmpegError as error:
        cause = f"'{path}' cannot be read as media ({error.strerror}); it is corrupt or not media"
        raise MediaError(cause) from error

"""Checks of uploads by counting packets, before a file is decoded into memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinetophone.errors import MediaError
from kinetophone.media.container import audio_stream, open_media
from kinetophone.media.read import read_audio, read_clip, read_video, resize
from kinetophone.media.stills import Images, is_tiled_still, read_image

# Names of the kinds in messages.
NOUNS = {"video": "video", "audio": "file with audio", "image": "image", "clip": "clip"}
_MOST_FPS = 60  # limits the number of frames of the longest video


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of the server for a single user.

    Attributes:
        upload_mb: Largest file, in megabytes.
        longest_s: Longest upload and longest generated clip, in seconds.
        job_s: Longest run time of a job, in seconds.
        waiting_s: Longest time of a job in the queue, in seconds.
        kept_s: Age in seconds at which users' files are deleted.
        side_px: Images and frames are scaled down to at most this many pixels on the longer side.
        waiting: Most jobs in the queue.
    """

    upload_mb: int = 50
    longest_s: float = 30
    job_s: float = 300
    waiting_s: float = 1800
    kept_s: float = 3600
    side_px: int = 480
    waiting: int = 64


def read_upload(path: Path, kind: str, limits: Limits) -> Any:
    """Read an uploaded file.

    Args:
        path: the file.
        kind: "video", "audio", "clip" (needs both tracks) or "image".
        limits: limits for uploads.

    Returns:
        A ``Video``, an ``Audio``, a ``Clip`` or an image; frames are scaled down to the limit, to even sides.

    Raises:
        MediaError: It is not media, lacks a track, or exceeds a limit. Messages do not contain its folder.
    """
    try:
        if path.stat().st_size > limits.upload_mb * 1_000_000:
            raise MediaError(f"'{path.name}' is larger than {limits.upload_mb} MB")
        if kind == "image":
            image = read_image(path)
            return resize(image, _shrunk(image.shape[:2], limits.side_px))
        options = _checked(path, kind, limits)
        if kind == "video":
            return read_video(path, **options)
        return (read_audio if kind == "audio" else read_clip)(path, mono=False, **options)
    except (MediaError, OSError, ValueError) as error:
        # Messages contain only the file's name, not the server's path.
        raise MediaError(str(error).replace(str(path), path.name)) from error


def _checked(path: Path, kind: str, limits: Limits) -> dict[str, Any]:
    """Check the length of the file; returns keyword arguments for its reader."""
    options: dict[str, Any] = {"longest_s": limits.longest_s}
    if kind != "audio" and is_tiled_still(path):
        return {**options, "size": _shrunk(read_image(path).shape[:2], limits.side_px)}
    with open_media(path) as file:
        if kind != "audio" and file.streams.video:
            images = Images(path, file)
            stream = images.stream
            options["size"] = _shrunk(images.size(next(images.frames())[0]), limits.side_px)
            file.seek(0)
            count = _check_length(path, file, stream, limits)
            most = limits.longest_s * _MOST_FPS
            if count > most:
                raise MediaError(f"'{path.name}' has {count} frames; this server allows at most {most:g}")
            # Also limit the declared frame rate, because frames are repeated up to it.
            if (stream.average_rate or stream.guessed_rate or 0) > _MOST_FPS:
                options["fps"] = _MOST_FPS
            file.seek(0)
        if kind != "video" and file.streams.audio:
            _check_length(path, file, audio_stream(path, file), limits)
    return options


def _shrunk(size: tuple[int, ...], side_px: int) -> tuple[int, int]:
    height, width = size
    scale = min(1.0, side_px / max(height, width))
    # H.264 needs even sides.
    return max(2, round(scale * height / 2) * 2), max(2, round(scale * width / 2) * 2)


def _check_length(path: Path, file: Any, stream: Any, limits: Limits) -> int:
    """Check the length by the packets, not by the container's metadata; returns the number of packets."""
    count, first, last = 0, None, 0.0
    for packet in file.demux(stream):
        if packet.pts is None:
            continue
        start = float(packet.pts * packet.time_base)
        first = start if first is None else min(first, start)
        last = max(last, start + float((packet.duration or 0) * packet.time_base))
        count += 1
    seconds = last - (first or 0.0)
    if seconds > limits.longest_s + 0.1:
        raise MediaError(
            f"'{path.name}' lasts {seconds:.0f} s; this server allows at most {limits.longest_s:g} s"
        )
    return count

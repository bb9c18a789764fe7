"""Opening media files: which of their streams are meant, and how much of them is read at most.

What a file says of itself (length, rates, times) is never trusted with memory: limits count what was decoded.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinetophone.errors import MediaError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MOST_GAP_S = 600  # between two packets of a stream; more is a wrong time
MOST_PIXELS = 2**27  # of one frame or image: 16,384 x 8,192
_readers = 1  # processes that read at once


def share_memory(readers: int) -> None:
    """Say that so many processes like this one read files at once: each takes its part of the memory."""
    global _readers  # of the process, as the memory is
    _readers = readers


@contextmanager
def open_media(path: str | os.PathLike[str]) -> Iterator[Any]:
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
    if not file_path.is_file():
        raise MediaError(f"'{path}' is a device or pipe; name a media file")
    if file_path.stat().st_size == 0:
        raise MediaError(f"'{path}' is empty (0 bytes)")
    # With the protocol said, "12:30.mp4" is a file. Tags in another encoding are nobody's reason to fail.
    options: dict[str, Any] = {"metadata_errors": "replace", "options": {"max_pixels": str(MOST_PIXELS)}}
    try:
        with av.open(f"file:{file_path}", **options) as file:
            yield file
    except av.error.FFmpegError as error:
        cause = (
            f"'{path}' cannot be read as media ({error.strerror}); it is corrupt or not media, or of a kind "
            "that is not supported"
        )
        raise MediaError(cause) from error
    except MemoryError as error:
        raise MediaError(f"'{path}' needs more memory to decode than there is") from error


def video_stream(path: str | os.PathLike[str], file: Any) -> Any:
    """The default one of the video streams, or the largest; never a cover picture.

    Raises:
        MediaError: There is none.
    """
    from av.stream import Disposition

    beside = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [stream for stream in file.streams.video if not stream.disposition & beside]
    if not streams and file.streams.video:
        raise MediaError(f"'{path}' has a cover picture, but no video stream; give a file with a picture")
    if not streams:
        raise MediaError(f"'{path}' has no video stream; give a file with a picture, such as an .mp4")
    stream = _best(path, "video", streams, lambda stream: stream.width * stream.height)
    stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
    stream.thread_type = "AUTO"
    return stream


def audio_stream(path: str | os.PathLike[str], file: Any, track: int | None = None) -> Any:
    """The audio stream of number ``track``, counted from 1; else the default one, or that of most channels.

    Raises:
        MediaError: There is none.
    """
    streams = file.streams.audio
    if not streams:
        raise MediaError(f"'{path}' has no audio stream; give a file with sound")
    if track is None:
        return _best(path, "audio", streams, lambda stream: stream.codec_context.channels)
    if not 1 <= track <= len(streams):
        raise MediaError(f"'{path}' has no audio track {track}; it has {len(streams)}, counted from 1")
    return _best(path, "audio", [streams[track - 1]], lambda stream: 1)


def _best(path: str | os.PathLike[str], kind: str, streams: Sequence[Any], size: Any) -> Any:
    from av.stream import Disposition

    known = [stream for stream in streams if stream.codec_context is not None]
    if not known:
        raise MediaError(f"'{path}' has {kind} of a codec that is not known here; convert it first")
    # As ffmpeg chooses; the first of those that are alike.
    return max(known, key=lambda stream: (bool(stream.disposition & Disposition.default), size(stream)))


def decoded(path: str | os.PathLike[str], file: Any, stream: Any) -> Iterator[Any]:
    """The decoded frames of a stream.

    Raises:
        MediaError: The file has a stream that it does not announce.
    """
    frames = file.decode(stream)
    while True:
        try:
            frame = next(frames, None)
        except IndexError as error:
            raise MediaError(
                f"'{path}' has a stream that begins later than its others, or is corrupt; copy the streams "
                "you need into another file first"
            ) from error
        if frame is None:
            return
        yield frame


class Budget:
    """How much of a file has been decoded, and may be.

    Args:
        path: the file, for errors.
        longest_s: most seconds; None for any length.
    """

    def __init__(self, path: str | os.PathLike[str], longest_s: float | None) -> None:
        import psutil

        self.path, self.longest_s = path, longest_s
        self.left = psutil.virtual_memory().total // 2 // _readers

    def check_stated(self, file: Any, stream: Any) -> None:
        """Refuse a file that itself says it is too long, before a frame of it is decoded."""
        if stream.duration and stream.time_base:
            self.check_length(stream.duration * stream.time_base)
        elif file.duration:
            self.check_length(Fraction(file.duration, 1_000_000))

    def check_length(self, seconds: Fraction) -> None:
        """Refuse what lasts longer than it may."""
        # A second more is nobody's memory: encoders pad, and who computes with it checks what it computes.
        if self.longest_s is not None and seconds > self.longest_s + 1:
            raise MediaError(
                f"'{self.path}' lasts {float(seconds):.0f} s or more; at most {self.longest_s:g} s can be "
                "used at once"
            )

    def check_gap(self, seconds: float, after_s: float) -> None:
        """Refuse a hole that no film has."""
        if seconds > MOST_GAP_S:
            raise MediaError(
                f"'{self.path}' has nothing for {seconds:.0f} s after {after_s:.1f} s: its times are wrong; "
                "write it anew with another program"
            )

    def keep(self, size: int) -> None:
        """Count ``size`` bytes that are kept in memory."""
        self.check_fits(size)
        self.left -= size

    def check_fits(self, size: int) -> None:
        """Refuse what would need so many bytes more than are left."""
        if size > self.left:
            raise MediaError(
                f"'{self.path}' does not fit into half of this machine's memory when decoded"
                f"{f', shared by {_readers} processes' if _readers > 1 else ''}; cut or shrink it first"
            )

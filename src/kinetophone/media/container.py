"""Opening media files, choosing their streams and limiting how much is decoded.

Metadata such as length, rates and times is not trusted: memory limits count what was actually decoded.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinetophone.errors import MediaError, is_full

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MOST_GAP_S = 600  # between two packets of a stream; a longer gap means wrong timestamps
MOST_PIXELS = 2**27  # of one frame or image: 16,384 x 8,192
_readers = 1  # number of processes that read files at the same time


def share_memory(readers: int) -> None:
    """Set the number of processes that read files at the same time; each gets an equal part of the memory."""
    global _readers
    _readers = readers


@contextmanager
def open_media(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open a container as a context; failures to open or decode it become a MediaError.

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
    # The explicit protocol makes "12:30.mp4" a file name. Tags in an unknown encoding should not be an error.
    options: dict[str, Any] = {"metadata_errors": "replace", "options": {"max_pixels": str(MOST_PIXELS)}}
    try:
        with av.open(f"file:{file_path}", **options) as file:
            yield file
    except av.error.FFmpegError as error:
        if is_full(error):
            raise  # of the file that is written in this context
        cause = (
            f"'{path}' cannot be read as media ({error.strerror}); it is corrupt, not a media file, or of an "
            "unsupported format"
        )
        raise MediaError(cause) from error
    except MemoryError as error:
        raise MediaError(f"'{path}' needs more memory to decode than is available") from error


def video_stream(path: str | os.PathLike[str], file: Any) -> Any:
    """The default video stream of a file, or the largest if there is no default; never cover art.

    Raises:
        MediaError: The file has no video stream.
    """
    from av.stream import Disposition

    beside = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [stream for stream in file.streams.video if not stream.disposition & beside]
    if not streams and file.streams.video:
        raise MediaError(f"'{path}' has cover art, but no video stream; give a file with video")
    if not streams:
        raise MediaError(f"'{path}' has no video stream; give a file with video, such as an .mp4")
    stream = _best(path, "video", streams, lambda stream: stream.width * stream.height)
    stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
    stream.thread_type = "AUTO"
    return stream


def audio_stream(path: str | os.PathLike[str], file: Any, track: int | None = None) -> Any:
    """The audio stream with number ``track``, counted from 1.

    If ``track`` is None: the default stream, or the one with the most channels.

    Raises:
        MediaError: There is no such stream.
    """
    streams = file.streams.audio
    if not streams:
        raise MediaError(f"'{path}' has no audio stream; give a file with audio")
    if track is None:
        return _best(path, "audio", streams, lambda stream: stream.codec_context.channels)
    if not 1 <= track <= len(streams):
        raise MediaError(f"'{path}' has no audio track {track}; it has {len(streams)}, counted from 1")
    return _best(path, "audio", [streams[track - 1]], lambda stream: 1)


def _best(path: str | os.PathLike[str], kind: str, streams: Sequence[Any], size: Any) -> Any:
    from av.stream import Disposition

    known = [stream for stream in streams if stream.codec_context is not None]
    if not known:
        raise MediaError(f"'{path}' has {kind} in an unknown codec; convert it first")
    # The same choice as ffmpeg's; ties go to the first stream.
    return max(known, key=lambda stream: (bool(stream.disposition & Disposition.default), size(stream)))


def decoded(path: str | os.PathLike[str], file: Any, stream: Any) -> Iterator[Any]:
    """The decoded frames of a stream.

    Raises:
        MediaError: A stream appears that the file's header does not list.
    """
    frames = file.decode(stream)
    while True:
        try:
            frame = next(frames, None)
        except IndexError as error:
            raise MediaError(
                f"'{path}' has a stream that starts later than the others, or is corrupt; copy the streams "
                "you need into another file first"
            ) from error
        if frame is None:
            return
        yield frame


class Budget:
    """Limits on the length of a file and on the memory its decoded data may take.

    Args:
        path: The file, for error messages.
        longest_s: Maximum length in seconds; None for any length.
    """

    def __init__(self, path: str | os.PathLike[str], longest_s: float | None) -> None:
        import psutil

        self.path, self.longest_s = path, longest_s
        self.left = psutil.virtual_memory().total // 2 // _readers

    def check_stated(self, file: Any, stream: Any) -> None:
        """Raise if the file's metadata says it is too long, before a frame is decoded."""
        if stream.duration and stream.time_base:
            self.check_length(stream.duration * stream.time_base)
        elif file.duration:
            self.check_length(Fraction(file.duration, 1_000_000))

    def check_length(self, seconds: Fraction) -> None:
        """Raise if ``seconds`` exceeds the maximum length."""
        # Encoders pad, so a second more is allowed; it costs little memory.
        if self.longest_s is not None and seconds > self.longest_s + 1:
            raise MediaError(
                f"'{self.path}' lasts {float(seconds):.0f} s or more; at most {self.longest_s:g} s can be "
                "used at once"
            )

    def check_gap(self, seconds: float, after_s: float) -> None:
        """Raise if a gap is too long to be real."""
        if seconds > MOST_GAP_S:
            raise MediaError(
                f"'{self.path}' has nothing for {seconds:.0f} s after {after_s:.1f} s: its timestamps are "
                "wrong; re-encode it with another program"
            )

    def keep(self, size: int) -> None:
        """Count ``size`` bytes as kept in memory; raises if they don't fit."""
        self.check_fits(size)
        self.left -= size

    def check_fits(self, size: int) -> None:
        """Raise if ``size`` bytes are more than the memory that is left."""
        if size > self.left:
            raise MediaError(
                f"'{self.path}' does not fit into half of this machine's memory when decoded"
                f"{f', shared by {_readers} processes' if _readers > 1 else ''}; cut or shrink it first"
            )

"""Copying the streams of a file into another one without encoding them again."""

from __future__ import annotations

import os
from pathlib import Path

from kinetophone.errors import MediaError
from kinetophone.files import replacing
from kinetophone.media.container import open_media

_CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
    ".ts": "mpegts",
}


def check_container(path: str | os.PathLike[str]) -> str:
    """The container of a file's suffix.

    Raises:
        MediaError: Streams are not copied into files of this suffix.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _CONTAINERS:
        raise MediaError(f"streams can be copied into {', '.join(_CONTAINERS)}, not into '{os.fspath(path)}'")
    return _CONTAINERS[suffix]


def shift_audio(source: str | os.PathLike[str], target: str | os.PathLike[str], seconds: float) -> Path:
    """Copy ``source`` to ``target`` with the audio ``seconds`` later, or earlier if negative.

    Packets are copied, so nothing loses quality. Audio that would play before the file starts is cut, to
    within one packet.

    Returns:
        The path written.

    Raises:
        FileNotFoundError: There is no such file.
        MediaError: The source cannot be read, or the container of ``target`` does not take its streams.
        OSError: The file cannot be written.
    """
    import av

    container = check_container(target)
    with open_media(source) as file, replacing(target) as partial:
        kept = [stream for stream in file.streams if stream.type in ("video", "audio", "subtitle")]
        first = min((s.start_time * s.time_base for s in kept if s.start_time is not None), default=0)
        try:
            with av.open(f"file:{partial}", "w", format=container) as made:
                copies = {stream.index: made.add_stream_from_template(stream) for stream in kept}
                for packet in file.demux(kept):
                    if packet.dts is None or packet.pts is None:
                        continue  # the empty packet at the end of each stream
                    if packet.stream.type == "audio":
                        packet.pts += round(seconds / packet.time_base)
                        packet.dts += round(seconds / packet.time_base)
                        if (packet.pts + (packet.duration or 0)) * packet.time_base <= first:
                            continue
                    packet.stream = copies[packet.stream.index]
                    made.mux(packet)
        except (av.error.FFmpegError, ValueError) as error:
            raise MediaError(
                f"the streams of '{os.fspath(source)}' cannot be copied into a {Path(target).suffix} file "
                f"({error}); give the output the suffix {Path(source).suffix}"
            ) from error
    return Path(target)

"""Copying the streams of a file into another one without encoding them again."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from kinetophone.errors import MediaError
from kinetophone.files import replacing
from kinetophone.media.container import open_media, video_stream
from kinetophone.media.read import Audio, resample_audio
from kinetophone.media.write import AUDIO_CODECS, AudioTrack, container_options, known_rate, written_layout

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


@dataclass(frozen=True, slots=True)
class Span:
    """When the video of a file starts and ends, in seconds of the file's time."""

    start_s: Fraction
    end_s: Fraction

    @property
    def duration_s(self) -> Fraction:
        """Length in seconds."""
        return self.end_s - self.start_s


def video_span(path: str | os.PathLike[str]) -> Span | None:
    """Start and end of a file's video by the times of its packets, or None if they do not tell.

    Packets are read, not decoded: an hour of video takes seconds.

    Raises:
        FileNotFoundError: There is no such file.
        MediaError: It cannot be read, or has no video.
    """
    starts, ends = [], []
    with open_media(path) as file:
        stream = video_stream(path, file)
        frame = 1 / stream.average_rate if stream.average_rate else Fraction(0)
        for packet in file.demux(stream):
            if packet.size == 0:
                continue  # the empty packet at the end
            # An edit list hides frames that others are decoded from; a copy would show them.
            if packet.pts is None or packet.dts is None or packet.is_discard:
                return None
            start = packet.pts * packet.time_base
            starts.append(start)
            ends.append(start + (packet.duration * packet.time_base if packet.duration else frame))
    if len(starts) < 2:  # an image, or a file with a single packet
        return None
    return Span(min(starts), max(ends))


def can_copy_video(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> bool:
    """Whether the container of ``target`` takes the video stream of ``source`` as it is.

    Raises:
        FileNotFoundError: There is no such file.
        MediaError: The source cannot be read, or has no video.
    """
    import av

    container, codec = check_container(target), AUDIO_CODECS[Path(target).suffix.lower()]
    with open_media(source) as file:
        stream = video_stream(source, file)
        try:
            with av.open(io.BytesIO(), "w", format=container) as tried:
                tried.add_stream_from_template(stream)
                tried.add_stream(codec, rate=48_000)
                tried.start_encoding()  # writes the header, which states the codecs
        except (av.error.FFmpegError, ValueError):
            return False
    return True


def replace_audio(source: str | os.PathLike[str], target: str | os.PathLike[str], audio: Audio) -> Path:
    """Write the video stream of ``source`` with other audio. Its packets are copied, not encoded again.

    Args:
        source: A video file.
        target: File to write, in a container that takes the stream: :func:`can_copy_video`.
        audio: The audio; ``start_s`` is the time of its first sample in the source.

    Returns:
        The path written.

    Raises:
        FileNotFoundError: There is no such file.
        MediaError: The source cannot be read.
        OSError: The file cannot be written.
    """
    import av

    container, codec = check_container(target), AUDIO_CODECS[Path(target).suffix.lower()]
    rate = known_rate(audio.sample_rate, codec)
    waveform = resample_audio(audio.waveform, audio.sample_rate, rate).clip(-1.0, 1.0)
    layout = written_layout(target, waveform, audio.layout)
    with open_media(source) as file, replacing(target) as partial:
        stream = video_stream(source, file)
        options = container_options(container, rate, stream.average_rate or Fraction(1))
        with av.open(f"file:{partial}", "w", format=container, options=options) as made:
            copy = made.add_stream_from_template(stream)
            start = Fraction(audio.start_s).limit_denominator(rate)
            track = AudioTrack(made, codec, rate, layout, start)
            samples, given = track.channels_of(waveform), 0
            for packet in file.demux(stream):
                if packet.size == 0:
                    continue
                # Audio up to this packet, so that both streams are interleaved for reading.
                until = min(len(samples), max(given, round((packet.dts * packet.time_base - start) * rate)))
                track.add(samples[given:until])
                given = until
                packet.stream = copy
                made.mux(packet)
            track.add(samples[given:])
            track.finish()
    return Path(target)

"""How far the audio of one file is early or late, for anyone's footage."""

from __future__ import annotations

import os
from dataclasses import dataclass

from kinetophone.errors import MediaError
from kinetophone.media.clip import Clip
from kinetophone.media.onsets import onset_strength, onsets_from_audio
from kinetophone.metrics.alignment import match_events
from kinetophone.metrics.contacts import SIDE_PX, contact_curve, contacts_from_curve
from kinetophone.metrics.sources import read_small, why_unscorable
from kinetophone.metrics.strip import strip_svg
from kinetophone.metrics.synchrony import Lag, find_lag, lag_evidence

# A file that someone asks about may be far off, so the range and the prior are wider than those of a set of
# clips (``kinetophone.metrics.synchrony``).
LARGEST_LAG_S = 0.6
COMMON_LAG_S = 0.2
LONGEST_S = 120.0  # all frames are in memory


@dataclass(frozen=True, slots=True, eq=False)
class FileSync:
    """Synchrony of one clip.

    Attributes:
        clip: The clip.
        lag: How late the audio is, with an interval; None if audio and video have nothing in common.
        onsets_s: Events heard, in seconds.
        contacts_s: Events seen, in seconds.
        matched: Number of pairs of both within one frame.
        contact: The contact curve, one value per frame.
    """

    clip: Clip
    lag: Lag | None
    onsets_s: tuple[float, ...]
    contacts_s: tuple[float, ...]
    matched: int
    contact: tuple[float, ...]

    @property
    def certain(self) -> bool:
        """Whether the interval of the lag leaves out 0."""
        return self.lag is not None and not self.lag.interval.low <= 0 <= self.lag.interval.high

    def svg(self) -> str:
        """The clip's frames over its waveform, contact curve and events, as a stand-alone SVG image."""
        drawn = strip_svg(self.clip, self.contact, self.onsets_s, self.contacts_s, "frames, audio and events")
        return drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)


def measure_file(path: str | os.PathLike[str]) -> FileSync:
    """Measure the lag of a file's audio.

    Raises:
        FileNotFoundError: There is no such file.
        MediaError: It cannot be read, has no audio or no video, is longer than 120 s, silent, or a single
            frame.
    """
    clip, _ = read_small(path, SIDE_PX, longest_s=LONGEST_S)
    if problem := why_unscorable(clip):
        raise MediaError(f"'{os.fspath(path)}' cannot be measured: {problem}")
    curve, audio = contact_curve(clip.video), clip.mono
    strength = onset_strength(audio, clip.sample_rate)
    onsets = tuple(float(t) for t in onsets_from_audio(audio, clip.sample_rate))
    contacts = tuple(float(t) for t in contacts_from_curve(curve, float(clip.fps)))
    return FileSync(
        clip=clip,
        lag=find_lag(
            lag_evidence(curve, clip.fps, strength, LARGEST_LAG_S), COMMON_LAG_S, 1.0 / float(clip.fps)
        ),
        onsets_s=onsets,
        contacts_s=contacts,
        matched=len(match_events(onsets, contacts, 1.0 / float(clip.fps))),
        contact=tuple(float(v) for v in curve),
    )

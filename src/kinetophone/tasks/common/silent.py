"""Audio for the video of a file whose frames stay as they are: read small, and copied into the result."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kinetophone.bundle.spec import LONGEST_S
from kinetophone.media.clip import fit_audio
from kinetophone.media.read import Audio, Video, read_clip, read_video
from kinetophone.media.remux import Span, can_copy_video, replace_audio, video_span
from kinetophone.media.write import VIDEO_SUFFIXES, check_rate, write_wav

if TYPE_CHECKING:
    from kinetophone.bundle.spec import BundleSpec
    from kinetophone.media.clip import Clip

_LONGEST_COPIED_S = 4 * 3600  # its frames are not kept in memory
_SHEET_PIXELS = 320  # height or width of the frames in a contact sheet
_SHEET_FRAMES = 1000


@dataclass(frozen=True, slots=True)
class SilentVideo:
    """A video file that gets audio.

    Attributes:
        path: The file.
        video: Its frames: as the model sees them if ``span`` is known, else its own.
        span: Its start and end, if its own frames are not needed: to copy packets, or to write audio only.
        refused: Whether its own frames are needed because its packets cannot be copied.
    """

    path: Path
    video: Video
    span: Span | None
    refused: bool = False


def read_silent(
    path: Path, target: Path, spec: BundleSpec, between: tuple[float, float | None] = (0, None)
) -> SilentVideo:
    """Read a video for which audio is made, in little memory if its frames need not be encoded again.

    Args:
        path: The file.
        target: The file to write.
        spec: The bundle that makes the audio.
        between: Start and end in seconds of the section to take; only whole videos are copied.

    Raises:
        FileNotFoundError: There is no such file.
        MediaError: It cannot be read, is too long, or its rate does not fit the target.
    """
    suffix = target.suffix.lower()
    span = None if any(between) or suffix not in (*VIDEO_SUFFIXES, ".wav") else video_span(path)
    refused = suffix in VIDEO_SUFFIXES and not any(between)
    refused = refused and (span is None or not can_copy_video(path, target))
    if span is None or refused:
        video = read_video(path, longest_s=LONGEST_S, between=between)
        check_rate(target, video.fps)
        return SilentVideo(path, video, None, refused)
    video = read_video(path, fps=spec.fps, size=(spec.size, spec.size), longest_s=_LONGEST_COPIED_S)
    missing = math.ceil(span.duration_s * video.fps) - len(video.frames)
    if missing > 0:
        frames = np.concatenate([video.frames, np.repeat(video.frames[-1:], missing, axis=0)])
        video = replace(video, frames=frames)
    return SilentVideo(path, video, span)


def save_with_audio(clip: Clip, silent: SilentVideo, target: Path) -> Path:
    """Write the audio of ``clip``, for a video whose span is known: with its packets, or alone as a ``.wav``.

    Returns:
        The path written.

    Raises:
        OSError: The file cannot be written.
    """
    assert silent.span is not None
    waveform = fit_audio(clip.audio, round(silent.span.duration_s * clip.sample_rate))
    if target.suffix.lower() == ".wav":
        return write_wav(waveform, clip.sample_rate, target)
    audio = Audio(waveform, clip.sample_rate, float(silent.span.start_s), clip.layout)
    return replace_audio(silent.path, target, audio)


def shown(silent: SilentVideo, target: Path) -> Clip:
    """The written result with frames for a contact sheet, fewer of them if it is long."""
    assert silent.span is not None
    fps = min(silent.video.fps, Fraction(_SHEET_FRAMES) / silent.span.duration_s)
    return read_clip(silent.path, fps=fps, within=_SHEET_PIXELS, sound=target)

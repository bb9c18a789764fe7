"""Mixing generated audio with a video's original audio."""

from __future__ import annotations

import os

import numpy as np

from kinetophone.media.clip import Clip, fit_audio
from kinetophone.media.read import Video, placed, read_audio, resample_audio, resample_channels
from kinetophone.media.timing import ClipTime


def mixed(
    clip: Clip, picture: Video, video: str | os.PathLike[str], gain: float, audio_track: int | None = None
) -> tuple[Clip, np.ndarray | None, str | None]:
    """Mix a video file's original audio into a clip's audio.

    Args:
        clip: The clip with generated audio.
        picture: The section of the video that the clip was made for.
        video: The video file.
        gain: Factor applied to the original audio.
        audio_track: Number of its audio stream, from 1; the default stream if not given.

    Returns:
        The clip at the higher of the two sample rates; the channels (N, C), or None if there is only one; and
        their layout. If the mix exceeds 1 it is scaled down as a whole.
    """
    between = (picture.start_s, picture.start_s + clip.duration_s)
    own = read_audio(video, audio_track=audio_track, between=between)
    rate = max(own.sample_rate, clip.sample_rate)
    tracks = own.waveform[:, None] if own.channels is None else own.channels
    tracks = resample_channels(tracks, own.sample_rate, rate)
    samples = ClipTime(clip.fps, len(clip.video), rate).samples
    under = placed(tracks, round((own.start_s - picture.start_s) * rate), samples)
    made = fit_audio(resample_audio(clip.audio, clip.sample_rate, rate), samples)
    both = made[:, None] + np.float32(gain) * under
    both /= max(1.0, float(np.abs(both).max()))
    both = np.clip(both, -1.0, 1.0)
    whole = Clip(clip.video, clip.fps, np.ascontiguousarray(both.mean(axis=1)), rate)
    return whole, both if both.shape[1] > 1 else None, own.layout

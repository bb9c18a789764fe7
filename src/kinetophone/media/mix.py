"""Mixing generated audio with a video's original audio."""

from __future__ import annotations

import os

import numpy as np

from kinetophone.media.clip import Clip, as_channels, fit_audio
from kinetophone.media.read import Video, placed, read_audio, resample_audio
from kinetophone.media.timing import ClipTime


def mixed(
    clip: Clip, picture: Video, video: str | os.PathLike[str], gain: float, audio_track: int | None = None
) -> Clip:
    """Mix a video file's original audio into a clip's audio.

    Args:
        clip: The clip with generated audio.
        picture: The section of the video that the clip was made for.
        video: The video file.
        gain: Factor applied to the original audio.
        audio_track: Number of its audio stream, from 1; the default stream if not given.

    Returns:
        The clip at the higher of the two sample rates, with the channels of the original audio if that has
        several. If the mix exceeds 1 it is scaled down as a whole.
    """
    between = (picture.start_s, picture.start_s + clip.duration_s)
    own = read_audio(video, audio_track=audio_track, between=between, mono=False)
    rate = max(own.sample_rate, clip.sample_rate)
    tracks = resample_audio(own.waveform, own.sample_rate, rate)
    samples = ClipTime(clip.fps, len(clip.video), rate).samples
    under = placed(tracks, round((own.start_s - picture.start_s) * rate), samples)
    made = fit_audio(resample_audio(clip.audio, clip.sample_rate, rate), samples)
    widest = under if under.ndim == 2 or made.ndim == 1 else made
    count = 1 if widest.ndim == 1 else widest.shape[1]
    both = as_channels(made, count) + np.float32(gain) * as_channels(under, count)
    both /= max(1.0, float(np.abs(both).max()))
    layout = own.layout if widest is under else clip.layout
    return Clip(clip.video, clip.fps, np.clip(both, -1.0, 1.0), rate, layout)

"""Generated audio over the audio that a video has already, with the channels of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kinetophone.media import Clip
from kinetophone.media.mix import mixed
from kinetophone.media.read import Video

RATE = 48_000


@pytest.mark.parametrize(
    ("made", "own", "channels"), [(1, 1, 1), (2, 1, 2), (1, 2, 2), (2, 2, 2), (2, 6, 6), (6, 2, 2)]
)
def test_the_mix_has_the_channels_of_the_video_or_else_of_what_was_made(
    make_struck_clip: Callable[..., Clip], tmp_path: Path, made: int, own: int, channels: int
) -> None:
    silent = make_struck_clip([], frames=8, sample_rate=RATE)

    def levels(count: int, scale: float) -> np.ndarray:
        """A constant for each channel: 1, 2, … times ``scale``."""
        steps = scale * np.arange(1, count + 1, dtype=np.float32)
        audio = np.tile(steps, (silent.time.samples, 1))
        return audio if count > 1 else audio[:, 0]

    generated = replace(silent, audio=levels(made, 0.01))
    file = replace(silent, audio=levels(own, 0.02)).save(tmp_path / "own.wav")
    result = mixed(generated, Video(silent.video, silent.time.fps), file, gain=0.5)
    assert result.audio.shape == ((RATE,) if channels == 1 else (RATE, channels))
    made_levels, own_levels = (scale * np.arange(1, n + 1) for n, scale in ((made, 0.01), (own, 0.02)))
    wanted = [
        (each if len(each) == channels else np.full(channels, each.mean())) * gain
        for each, gain in ((made_levels, 1), (own_levels, 0.5))
    ]
    np.testing.assert_allclose(result.audio[RATE // 2].reshape(channels), sum(wanted), atol=1e-3)

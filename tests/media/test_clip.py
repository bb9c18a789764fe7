"""What a clip accepts."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from kinetophone.media import Clip
from kinetophone.media.clip import as_channels, fit_audio

VIDEO = np.zeros((8, 4, 6, 3), np.uint8)
AUDIO = np.zeros(16_000, np.float32)


def test_a_clip_knows_its_time() -> None:
    clip = Clip(VIDEO, 8, AUDIO)
    assert clip.fps == Fraction(8)
    assert clip.time.samples == 16_000
    assert clip.duration_s == 1.0


def spoilt(index: int, value: float) -> np.ndarray:
    audio = AUDIO.copy()
    audio[index] = value
    return audio


@pytest.mark.parametrize(
    ("video", "audio", "error", "message"),
    [
        (VIDEO.astype(np.float32), AUDIO, TypeError, "video is float32; it must be a NumPy array of uint8"),
        ([1, 2], AUDIO, TypeError, "video is list"),
        (VIDEO[0], AUDIO, ValueError, r"video has shape \(4, 6, 3\)"),
        (VIDEO[..., :1], AUDIO, ValueError, r"\(frames, height, width, 3\)"),
        (VIDEO[:0], AUDIO, ValueError, "none 0"),
        (VIDEO, AUDIO.astype(np.float64), TypeError, "audio is float64; it must be a NumPy array of float32"),
        (VIDEO, AUDIO[:, None], ValueError, "channels.*two or more"),
        (VIDEO, np.stack([AUDIO, AUDIO]), ValueError, "2 samples"),
        (VIDEO, spoilt(7, np.nan), ValueError, "not finite: sample 7 is nan"),
        (VIDEO, spoilt(7, -1.5), ValueError, r"peak is 1\.500, above 1"),
        (VIDEO, AUDIO[:-1], ValueError, r"15999 samples.*last 16000 samples.*fit_audio\(audio, 16000\)"),
    ],
)
def test_what_is_no_clip_is_refused(video: object, audio: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        Clip(video, 8, audio)  # type: ignore[arg-type]


def test_fit_audio_cuts_and_pads_at_the_end() -> None:
    audio = np.arange(1, 4, dtype=np.float32)
    assert fit_audio(audio, 2).tolist() == [1, 2]
    assert fit_audio(audio, 5).tolist() == [1, 2, 3, 0, 0]
    assert fit_audio(audio, 5).dtype == np.float32
    assert fit_audio(np.stack([audio, -audio], 1), 4).tolist() == [[1, -1], [2, -2], [3, -3], [0, 0]]


def test_channels() -> None:
    left, right = AUDIO + np.float32(0.5), AUDIO - np.float32(0.25)
    clip = Clip(VIDEO, 8, np.stack([left, right], axis=1))
    assert clip.mono.shape == AUDIO.shape
    assert set(clip.mono.tolist()) == {0.125}
    assert repr(clip) == "Clip(8 frames of 6 × 4 at 8 fps, 1 s, audio in 2 channels at 16000 Hz)"
    # There is one waveform, so nothing is left of the channels when it is replaced.
    assert replace(clip, audio=left).mono is left
    assert as_channels(clip.audio, 2) is clip.audio
    assert as_channels(left, 3).tolist() == [[0.5] * 3] * len(left)

"""Visibility and audibility of the seam where a continuation begins.

The step at the seam is compared with the steps around it. A strike at the seam also causes a step, so a
single value means little. Compare the mean over clips with that of unedited clips (no seam) and of hard cuts
(two unrelated clips).
"""

from __future__ import annotations

import numpy as np

from kinetophone.media.clip import Clip

BESIDE_S = 0.1  # seconds on each side that the step is compared with
LEVEL_S = 0.05  # seconds on each side over which the level is measured
FLOOR = 1e-4  # -80 dB, added to the steps of the waveform
# 50 dB below the clip's loudest moment. If that is played as loud as a raised voice, 80 dB at the ear, this
# is 30 dB, the noise of a quiet room. Recording noise or a vocoder's noise floor below it is inaudible.
AUDIBLE = 10 ** (-50 / 20)


def audio_jump(clip: Clip, second: float) -> float:
    """The step of the waveform at ``second`` relative to the RMS of the steps around it, in dB.

    About 0 if nothing happens there; much higher for a click.
    """
    at, beside = round(second * clip.sample_rate), round(BESIDE_S * clip.sample_rate)
    steps = np.abs(np.diff(clip.mono[at - beside : at + beside].astype(np.float64)))
    middle = len(steps) // 2
    rest = np.delete(steps, middle)
    return float(20 * np.log10((steps[middle] + FLOOR) / (np.sqrt(np.mean(rest**2)) + FLOOR)))


def level_step(clip: Clip, second: float) -> float:
    """Absolute difference in audio level just before and just after ``second``, in dB.

    Inaudible differences, below ``AUDIBLE`` times the clip's loudest level, are suppressed. It is 0 for a
    silent clip.
    """
    at, length = round(second * clip.sample_rate), round(LEVEL_S * clip.sample_rate)
    audio = clip.mono
    moments = [audio[i : i + length] for i in range(0, len(audio), length)]
    floor = AUDIBLE * max(_level(moment) for moment in moments)
    if not floor:
        return 0.0
    before, after = _level(audio[at - length : at]) + floor, _level(audio[at : at + length]) + floor
    return float(abs(20 * np.log10(after / before)))


def _level(sound: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))


def video_jump(clip: Clip, second: float) -> float:
    """Mean absolute change of pixel values, 0 to 255, into the frame at ``second``."""
    frame = round(second * clip.fps)
    return float(np.abs(clip.video[frame].astype(np.int16) - clip.video[frame - 1]).mean())

"""Whether a continuation can be heard or seen to begin: the step at the seam, against the steps beside it.

A strike that falls on the seam is a step of its own, so a single figure means little: compare the mean over
clips with that of untouched clips (no seam) and of hard cuts (two clips that do not belong together).
"""

from __future__ import annotations

import numpy as np

from kinetophone.media.clip import Clip

BESIDE_S = 0.1  # what the step is compared with, on either side
LEVEL_S = 0.05  # over which a level is taken, on either side
FLOOR = 1e-4  # of the waveform's steps: -80 dB
# Of levels: 50 dB below the clip's loudest moment. Played so that this is as loud as a raised voice, 80 dB
# at the ear, 30 dB are left there, the noise of a quiet room: what a recording's own noise or a vocoder's
# silence do below that is not heard.
AUDIBLE = 10 ** (-50 / 20)


def audio_jump(clip: Clip, second: float) -> float:
    """The step of the waveform at ``second`` in units of the steps beside it, in dB.

    About 0 where nothing happens: a step there is like those around it. A click stands far above.
    """
    at, beside = round(second * clip.sample_rate), round(BESIDE_S * clip.sample_rate)
    steps = np.abs(np.diff(clip.audio[at - beside : at + beside].astype(np.float64)))
    middle = len(steps) // 2
    rest = np.delete(steps, middle)
    return float(20 * np.log10((steps[middle] + FLOOR) / (np.sqrt(np.mean(rest**2)) + FLOOR)))


def level_step(clip: Clip, second: float) -> float:
    """How much louder or quieter the sound is just after ``second`` than just before, in dB, unsigned.

    Levels are taken down to what can be heard, ``AUDIBLE`` of the clip's loudest moment. A clip without any
    sound has no step.
    """
    at, length = round(second * clip.sample_rate), round(LEVEL_S * clip.sample_rate)
    moments = [clip.audio[i : i + length] for i in range(0, len(clip.audio), length)]
    floor = AUDIBLE * max(_level(moment) for moment in moments)
    if not floor:
        return 0.0
    before, after = _level(clip.audio[at - length : at]) + floor, _level(clip.audio[at : at + length]) + floor
    return float(abs(20 * np.log10(after / before)))


def _level(sound: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))


def video_jump(clip: Clip, second: float) -> float:
    """Mean change of the pixels into the frame at ``second``, levels of 0 to 255."""
    frame = round(second * clip.fps)
    return float(np.abs(clip.video[frame].astype(np.int16) - clip.video[frame - 1]).mean())

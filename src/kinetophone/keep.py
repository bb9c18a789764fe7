"""Stretches of a clip that are kept when the rest is made anew: which frames, which latents, which samples.

A stretch is (from, to) in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from kinetophone.av import AV
from kinetophone.errors import RequestError

Stretches = Sequence[tuple[float, float]]
# Rounding of the decimal numbers that people give, in seconds.
_SLACK_S = 1e-6
# Where the sound made anew does not meet the kept sound, the difference dies away over this time: no click.
MEETING_S = 0.005


def check_stretches(stretches: AV[Stretches], clip_s: float, total_s: float) -> None:
    """Raise unless each is a stretch of the clip, and something is left to be made.

    Raises:
        RequestError: with all that is wrong.
    """
    problems = []
    for modality in ("audio", "video"):
        last = 0.0
        for start, end in getattr(stretches, modality):
            if not 0 <= start < end <= clip_s + _SLACK_S:
                problems.append(f"keep {start:g} to {end:g} s is not a stretch of the clip's {clip_s:g} s")
            elif start < last:
                problems.append(f"keep {start:g} to {end:g} s is not after the stretch before")
            last = end
    if not problems and all(_length(s) >= total_s - _SLACK_S for s in (stretches.audio, stretches.video)):
        problems.append(f"all of the {total_s:g} s is kept: ask for more seconds, or keep less")
    if problems:
        raise RequestError(problems)


def kept_frames(stretches: Stretches, count: int, fps: Fraction) -> Tensor:
    """bool (count,): the frames that lie in a stretch as a whole."""
    return _inside(stretches, count, float(1 / fps), margin=0)


def kept_latents(stretches: Stretches, count: int, per_second: Fraction) -> Tensor:
    """bool (count,): the audio latents that lie in a stretch, but for the one at each inner end.

    That one has seen what lies beyond: at the end of a clip the silence that follows.
    """
    return _inside(stretches, count, float(1 / per_second), margin=1)


def spliced(made: np.ndarray, original: np.ndarray, stretches: Stretches, sample_rate: int) -> np.ndarray:
    """``made`` (N,) with the samples of ``original`` in the stretches, unchanged, and no step beside them."""
    result = made.copy()
    fade = np.exp(-np.arange(1, round(10 * MEETING_S * sample_rate)) / (MEETING_S * sample_rate))
    for start_s, end_s in stretches:
        start = round(start_s * sample_rate)
        end = min(round(end_s * sample_rate), len(original), len(result))
        before = result[max(0, start - len(fade)) : start]
        after = result[end : end + len(fade)]
        # ``made`` is sound of the same moment: what it lacks at the border it lacks beside it.
        before += fade[: len(before)][::-1] * (original[start] - made[start])
        after += fade[: len(after)] * (original[end - 1] - made[end - 1])
        result[start:end] = original[start:end]
    return np.clip(result, -1, 1)


def crossfaded(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """``after`` (N,), led in from ``before``, another sound of its first moments."""
    result = after.copy()
    n = min(len(before), len(after))
    ramp = np.arange(1, n + 1, dtype=np.float32) / (n + 1)
    result[:n] = (1 - ramp) * before[:n] + ramp * after[:n]
    return result


def _inside(stretches: Stretches, count: int, unit_s: float, margin: int) -> Tensor:
    keep = torch.zeros(count, dtype=torch.bool)
    for start, end in stretches:
        first = math.ceil((start - _SLACK_S) / unit_s)
        first += margin if first > 0 else 0
        last = min(math.floor((end + _SLACK_S) / unit_s), count)
        last -= margin if last < count else 0
        keep[first : max(first, last)] = True
    return keep


def _length(stretches: Stretches) -> float:
    return sum(end - start for start, end in stretches)

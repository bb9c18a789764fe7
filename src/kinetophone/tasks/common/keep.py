"""Stretches of a clip that are kept when the rest is made anew: which frames, which latents, which samples.

A stretch is (from, to) in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kinetophone.av import AV
from kinetophone.errors import RequestError

if TYPE_CHECKING:
    from kinetophone.bases.protocol import Times

Stretches = Sequence[tuple[float, float]]
# Rounding of the decimal numbers that people give, in seconds.
_SLACK_S = 1e-6
# How much of the picture on either side of a border tells what stands still there, and how long a made one
# takes to come to its own colours.
_STILL_S, _LEAD_S = 1.0, 4.0
# Levels of 0 to 255: how far apart two pictures are that show the same, and two frames where nothing moves.
_SAME, _UNMOVED = 12.0, 20.0
# Where the sound made anew does not meet the kept sound, the difference dies away over this time: no click.
MEETING_S = 0.005
# A kept sound rings on for so long at most; what it is predicted from, by how many values; and over what its
# power is compared with that of the sound made anew.
_RING_S, _HEARD_S, _ORDER, _LEVEL_S = 0.5, 0.2, 128, 0.05


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
        raise RequestError(dict.fromkeys(problems))


def kept_frames(stretches: Stretches, count: int, fps: Fraction) -> Tensor:
    """bool (count,): the frames that lie in a stretch as a whole."""
    keep = torch.zeros(count, dtype=torch.bool)
    for start, end in stretches:
        first, last = math.ceil((start - _SLACK_S) * fps), math.floor((end + _SLACK_S) * fps)
        keep[first : max(first, last)] = True
    return keep


def whole_latents(frames: Tensor, times: Times, fps: Fraction) -> Tensor:
    """bool (T',): the video latents all of whose frames are kept, ``frames`` bool (T,)."""
    edges = torch.cat([times.starts, times.ends[-1:]]).mul(float(fps)).round().long().tolist()
    return torch.tensor([bool(frames[first:last].all()) for first, last in pairwise(edges)])


def kept_latents(stretches: Stretches, count: int, per_second: Fraction) -> Tensor:
    """bool (count,): the audio latents of which half or more lies in a stretch.

    Fewer would leave a gap at the border in which the model may strike: what is heard of it there is replaced
    by the kept sound, and the rest would begin out of nothing behind it.
    """
    middles = (torch.arange(count, dtype=torch.float64) + 0.5) / float(per_second)
    keep = torch.zeros(count, dtype=torch.bool)
    for start, end in stretches:
        keep |= (middles >= start - _SLACK_S) & (middles <= end + _SLACK_S)
    return keep


def mirrored(original: np.ndarray, stretches: Stretches, sample_rate: int, length: int) -> np.ndarray:
    """``original`` in the stretches, and around each what is in it, mirrored: float32 (length,).

    For encoding. A latent at a border has seen what lies beyond: neither what is to be replaced nor silence
    belongs there, but sound that is as loud as that before.
    """
    result = np.zeros(length, np.float32)
    ends = [(round(start * sample_rate), round(end * sample_rate)) for start, end in stretches]
    spans = [(start, min(end, len(original))) for start, end in ends if start < len(original)]
    if not spans:
        return result
    middles = [(end + start) // 2 for (_, end), (start, _) in pairwise(spans)]
    for (start, end), (first, last) in zip(spans, pairwise([0, *middles, length]), strict=True):
        # To and fro through the stretch, which lies where it was.
        place = (np.arange(first, last) - start) % (2 * (end - start))
        result[first:last] = original[start + np.minimum(place, 2 * (end - start) - 1 - place)]
    return result


def spliced(made: np.ndarray, original: np.ndarray, stretches: Stretches, sample_rate: int) -> np.ndarray:
    """``made`` (N,) with the samples of ``original`` in the stretches, unchanged, and no seam beside them.

    What is kept is led over into what is made, on either side; behind it, it rings on as far as what is made
    there is weaker.
    """
    result = made.copy()
    fade = np.exp(-np.arange(1, round(10 * MEETING_S * sample_rate)) / (MEETING_S * sample_rate))
    for start_s, end_s in stretches:
        start = round(start_s * sample_rate)
        end = min(round(end_s * sample_rate), len(original), len(result))
        if start >= end:
            continue
        kept = original[start:end]
        before = result[max(0, start - len(fade)) : start][::-1]
        before += fade[: len(before)] * (_rung_on(kept[::-1], len(before), sample_rate) - before)
        after = result[end : end + round(_RING_S * sample_rate)]
        ring = _rung_on(kept, len(after), sample_rate)
        after += _lacking_level(after, ring, round(_LEVEL_S * sample_rate)) * ring
        after[: len(fade)] += fade[: len(after)] * (ring - after)[: len(fade)]
        result[start:end] = kept
    return np.clip(result, -1, 1)


def _rung_on(kept: np.ndarray, length: int, sample_rate: int) -> np.ndarray:
    """How ``kept`` (N,) would die away if nothing new happened, by linear prediction: float32 (length,)."""
    from scipy.signal import lfilter, lfiltic

    past = kept[-round(_HEARD_S * sample_rate) :].astype(np.float64)
    order = min(_ORDER, len(past) // 4)
    if not length or not order:
        return np.zeros(length, np.float32)
    coefficients = _burg(past, order)
    state = lfiltic([1.0], coefficients, past[::-1][:order])
    ring, _ = lfilter([1.0], coefficients, np.zeros(length), zi=state)
    return (ring * np.linspace(1, 0, length)).astype(np.float32)


def _burg(x: np.ndarray, order: int) -> np.ndarray:
    """Coefficients (order + 1,) of the prediction-error filter of ``x`` by Burg's method: always stable."""
    ahead, behind = x[1:], x[:-1]
    coefficients = np.ones(1)
    for _ in range(order):
        power = ahead @ ahead + behind @ behind
        reflection = -2 * (ahead @ behind) / power if power > 0 else 0.0
        padded = np.append(coefficients, 0.0)
        coefficients = padded + reflection * padded[::-1]
        ahead, behind = (ahead + reflection * behind)[1:], (behind + reflection * ahead)[:-1]
    return coefficients


def _lacking_level(made: np.ndarray, ring: np.ndarray, samples: int) -> float:
    """Share of ``ring`` that ``made`` lacks over the first ``samples`` to be as loud; 0 if it is louder."""
    if not len(ring):
        return 0.0
    there, wanted = (float(np.mean(np.square(x[:samples], dtype=np.float64))) for x in (made, ring))
    return float(np.sqrt(1 - there / wanted)) if wanted > there else 0.0


def joined(made: np.ndarray, original: np.ndarray, kept: np.ndarray, fps: Fraction) -> np.ndarray:
    """``made`` with the kept frames of ``original``, unchanged, and no other colours or focus beside them.

    Guidance leads the colours of made frames away from those of the kept ones, and the autoencoder takes
    detail. What stands still on both sides of a border tells how much: what is smooth of it is added to the
    made frames as a whole, the rest where both sides show the same and nothing moves. It dies away from the
    border on, or turns into what the gap's other border tells.

    Args:
        made: uint8 (T, H, W, 3), with the kept frames as they are decoded.
        original: uint8 (N, H, W, 3).
        kept: bool (T,).
        fps: of all.
    """
    kept = kept & (np.arange(len(made)) < len(original))
    result = made.copy()
    result[kept] = original[: len(made)][kept[: len(original)]]
    near = max(1, round(_STILL_S * fps))
    runs = list(pairwise([0, *(np.flatnonzero(np.diff(kept)) + 1).tolist(), len(made)]))
    for k, (start, end) in enumerate(runs):
        if kept[start]:
            continue
        gap, length = made[start:end], end - start
        total = np.zeros(gap.shape, np.float32)
        share = (np.arange(length) + 0.5) / (length if 0 < k < len(runs) - 1 else float(_LEAD_S * fps))
        weights = np.maximum(0, 1 - share)
        if k:
            kept_too = slice(max(runs[k - 1][0], start - near), start)
            total += _led(original[kept_too], made[kept_too], gap, near, weights)
        if k + 1 < len(runs):
            kept_too = slice(end, min(runs[k + 1][1], end + near))
            # The same, seen from behind.
            total += _led(original[kept_too], made[kept_too], gap[::-1], near, weights)[::-1]
        result[start:end] = np.clip(np.rint(gap + total), 0, 255)
    return result


def _led(
    original: np.ndarray, decoded: np.ndarray, gap: np.ndarray, near: int, weights: np.ndarray
) -> np.ndarray:
    """What to add to ``gap``, made frames (T, H, W, 3), beside kept ones; the first lies at the border."""
    still = np.median(gap[:near], axis=0)
    tint, detail = _lacking(original, decoded, still)
    parts = [
        weight * (tint + _alike(frame - still, _UNMOVED) * detail)
        for frame, weight in zip(gap, weights, strict=True)
    ]
    return np.stack(parts)


def _lacking(original: np.ndarray, decoded: np.ndarray, still: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What ``still`` (H, W, 3), the standing part of made frames, lacks of kept ones (N, H, W, 3).

    Returns:
        Its smooth part, and the rest where the kept frames, decoded, show the same.
    """
    lacks = np.median(decoded, axis=0) - still
    sigma = still.shape[0] / 8
    tint = np.median(lacks, axis=(0, 1))
    for _ in range(2):  # things that were moved are no tint
        weight = np.exp(-((np.abs(lacks - tint).mean(-1, keepdims=True) / (2 * _SAME)) ** 2)) + 1e-3
        tint = _smooth(weight * lacks, sigma) / _smooth(weight, sigma)
    return tint, _alike(lacks - tint, _SAME) * (np.median(original, axis=0) - still - tint)


def _alike(difference: np.ndarray, levels: float) -> np.ndarray:
    """(H, W, 1): 1 where ``difference`` (H, W, 3) is none all around, falling to 0 over ``levels``.

    All around: beside something that was moved, the decoded pictures may agree where the sharp one shows its
    edge, which would stay behind as a ghost.
    """
    from scipy.ndimage import maximum_filter

    apart = _smooth(np.abs(difference).mean(-1, keepdims=True), 1)
    around = max(1, difference.shape[0] // 24)
    return np.exp(-((maximum_filter(apart, (2 * around + 1, 2 * around + 1, 1)) / levels) ** 2))


def _smooth(image: np.ndarray, sigma: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(image, (sigma, sigma, 0))


def crossfaded(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """``after`` (N,), led in from ``before``, another sound of its first moments."""
    result = after.copy()
    n = min(len(before), len(after))
    ramp = np.arange(1, n + 1, dtype=np.float32) / (n + 1)
    result[:n] = (1 - ramp) * before[:n] + ramp * after[:n]
    return result


def _length(stretches: Stretches) -> float:
    return sum(end - start for start, end in stretches)

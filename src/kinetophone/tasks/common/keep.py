"""Keeping intervals of a clip while the rest is regenerated: frames, latents and audio samples.

An interval ("stretch") is (from, to) in seconds.
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
from kinetophone.media.clip import as_channels

if TYPE_CHECKING:
    from kinetophone.bases.protocol import Times

Stretches = Sequence[tuple[float, float]]
# Tolerance for rounded decimal input, in seconds.
_SLACK_S = 1e-6
# Seconds of video on either side of a border from which static content is estimated, and seconds over which
# a correction of generated frames fades out.
_STILL_S, _LEAD_S = 1.0, 4.0
# Pixel levels, 0 to 255: scale of the difference between images of the same content, and between frames
# without motion.
_SAME, _UNMOVED = 12.0, 20.0
# Seconds over which a jump between kept and generated audio decays, which avoids a click.
CROSSFADE_S = 0.005
# Kept audio is extrapolated for at most _RING_S seconds, by linear prediction of order _ORDER from its last
# _HEARD_S seconds. Its power is compared with that of the generated audio over _LEVEL_S seconds.
_RING_S, _HEARD_S, _ORDER, _LEVEL_S = 0.5, 0.2, 128, 0.05


def check_stretches(stretches: AV[Stretches], clip_s: float, total_s: float) -> None:
    """Check that all intervals lie in the clip, are in order, and leave something to generate.

    Raises:
        RequestError: lists every problem.
    """
    problems = []
    for modality in ("audio", "video"):
        last = 0.0
        for start, end in getattr(stretches, modality):
            if not 0 <= start < end <= clip_s + _SLACK_S:
                problems.append(f"keep {start:g} to {end:g} s is not an interval of the clip's {clip_s:g} s")
            elif start < last:
                problems.append(f"keep {start:g} to {end:g} s is not after the previous interval")
            last = end
    if not problems and all(_length(s) >= total_s - _SLACK_S for s in (stretches.audio, stretches.video)):
        problems.append(f"all {total_s:g} s are kept: increase seconds, or keep less")
    if problems:
        raise RequestError(dict.fromkeys(problems))


def kept_frames(stretches: Stretches, count: int, fps: Fraction) -> Tensor:
    """bool (count,): frames that lie completely in an interval."""
    keep = torch.zeros(count, dtype=torch.bool)
    for start, end in stretches:
        first, last = math.ceil((start - _SLACK_S) * fps), math.floor((end + _SLACK_S) * fps)
        keep[first : max(first, last)] = True
    return keep


def whole_latents(frames: Tensor, times: Times, fps: Fraction) -> Tensor:
    """bool (T',): video latents whose frames are all kept; ``frames`` is bool (T,)."""
    edges = torch.cat([times.starts, times.ends[-1:]]).mul(float(fps)).round().long().tolist()
    return torch.tensor([bool(frames[first:last].all()) for first, last in pairwise(edges)])


def kept_latents(stretches: Stretches, count: int, per_second: Fraction) -> Tensor:
    """bool (count,): audio latents of which half or more lies in an interval.

    A stricter rule would leave a gap at the border in which the model may start a sound. Its onset would then
    be overwritten by the kept audio, and its remainder would start abruptly.
    """
    middles = (torch.arange(count, dtype=torch.float64) + 0.5) / float(per_second)
    keep = torch.zeros(count, dtype=torch.bool)
    for start, end in stretches:
        keep |= (middles >= start - _SLACK_S) & (middles <= end + _SLACK_S)
    return keep


def mirrored(original: np.ndarray, stretches: Stretches, sample_rate: int, length: int) -> np.ndarray:
    """``original`` (N,) or (N, C) in the intervals, and mirrored copies of them elsewhere, ``length`` long.

    This is the input of the encoder. Its receptive field extends beyond the border of an interval, where it
    should see neither the audio to be replaced nor silence, but audio of similar level.
    """
    result = np.zeros((length, *original.shape[1:]), np.float32)
    ends = [(round(start * sample_rate), round(end * sample_rate)) for start, end in stretches]
    spans = [(start, min(end, len(original))) for start, end in ends if start < len(original)]
    if not spans:
        return result
    middles = [(end + start) // 2 for (_, end), (start, _) in pairwise(spans)]
    for (start, end), (first, last) in zip(spans, pairwise([0, *middles, length]), strict=True):
        # Reflects back and forth; the interval itself stays in place.
        place = (np.arange(first, last) - start) % (2 * (end - start))
        result[first:last] = original[start + np.minimum(place, 2 * (end - start) - 1 - place)]
    return result


def spliced(made: np.ndarray, original: np.ndarray, stretches: Stretches, sample_rate: int) -> np.ndarray:
    """``made`` with the samples of ``original`` in the intervals, without audible seams at the borders.

    At both borders a short fade removes the jump. After the interval, its extrapolated decay is added as far
    as the generated audio is quieter than that. Either may be mono (N,) or have channels (N, C). The result
    has the channels of ``original``; if that is mono, those of ``made``.
    """
    widest = original if original.ndim == 2 or made.ndim == 1 else made
    if widest.ndim == 2:
        several, known = (as_channels(audio, widest.shape[1]).T for audio in (made, original))
        tracks = [spliced(*pair, stretches, sample_rate) for pair in zip(several, known, strict=True)]
        return np.stack(tracks, axis=1)
    result = made.copy()
    fade = np.exp(-np.arange(1, round(10 * CROSSFADE_S * sample_rate)) / (CROSSFADE_S * sample_rate))
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
    """The decay of ``kept`` (N,) extrapolated by linear prediction: float32 (length,)."""
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
    """Coefficients (order + 1,) of the prediction-error filter of ``x`` by Burg's method, which is stable."""
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
    """Gain of ``ring`` that brings ``made`` to its power over the first ``samples``; 0 if it is louder."""
    if not len(ring):
        return 0.0
    there, wanted = (float(np.mean(np.square(x[:samples], dtype=np.float64))) for x in (made, ring))
    return float(np.sqrt(1 - there / wanted)) if wanted > there else 0.0


def joined(made: np.ndarray, original: np.ndarray, kept: np.ndarray, fps: Fraction) -> np.ndarray:
    """``made`` with the kept frames of ``original``, and with matched colours and sharpness next to them.

    Guidance shifts the colours of generated frames, and the autoencoder loses detail. The correction is
    estimated from static content on both sides of a border. Its smooth part is added to entire generated
    frames; the remaining detail is added only where both sides agree and nothing moves. The correction fades
    out with distance from the border, or blends into that of the next border.

    Args:
        made: uint8 (T, H, W, 3), with the kept frames as decoded from their latents.
        original: uint8 (N, H, W, 3).
        kept: bool (T,).
        fps: frame rate of both.

    Returns:
        uint8 (T, H, W, 3).
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
            # The same, with time reversed.
            total += _led(original[kept_too], made[kept_too], gap[::-1], near, weights)[::-1]
        result[start:end] = np.clip(np.rint(gap + total), 0, 255)
    return result


def _led(
    original: np.ndarray, decoded: np.ndarray, gap: np.ndarray, near: int, weights: np.ndarray
) -> np.ndarray:
    """The correction of ``gap``, generated frames (T, H, W, 3), of which the first lies at the border."""
    still = np.median(gap[:near], axis=0)
    tint, detail = _lacking(original, decoded, still)
    parts = [
        weight * (tint + _alike(frame - still, _UNMOVED) * detail)
        for frame, weight in zip(gap, weights, strict=True)
    ]
    return np.stack(parts)


def _lacking(original: np.ndarray, decoded: np.ndarray, still: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Difference of kept frames (N, H, W, 3) and ``still`` (H, W, 3), the static part of generated ones.

    Returns:
        Its smooth part, and the remaining detail where the decoded kept frames show the same content.
    """
    lacks = np.median(decoded, axis=0) - still
    sigma = still.shape[0] / 8
    tint = np.median(lacks, axis=(0, 1))
    for _ in range(2):  # moved objects do not belong to the tint
        weight = np.exp(-((np.abs(lacks - tint).mean(-1, keepdims=True) / (2 * _SAME)) ** 2)) + 1e-3
        tint = _smooth(weight * lacks, sigma) / _smooth(weight, sigma)
    return tint, _alike(lacks - tint, _SAME) * (np.median(original, axis=0) - still - tint)


def _alike(difference: np.ndarray, levels: float) -> np.ndarray:
    """Weights (H, W, 1): 1 where ``difference`` (H, W, 3) is 0 in a neighbourhood, down to 0 over ``levels``.

    The neighbourhood matters: next to a moved object, the blurred decoded images may agree where the sharp
    one has its edge, which would remain as a ghost.
    """
    from scipy.ndimage import maximum_filter

    apart = _smooth(np.abs(difference).mean(-1, keepdims=True), 1)
    around = max(1, difference.shape[0] // 24)
    return np.exp(-((maximum_filter(apart, (2 * around + 1, 2 * around + 1, 1)) / levels) ** 2))


def _smooth(image: np.ndarray, sigma: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(image, (sigma, sigma, 0))


def crossfaded(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """``after`` (N,) or (N, C), cross-faded at its start from ``before``, which covers the same time."""
    result = after.copy()
    n = min(len(before), len(after))
    ramp = np.arange(1, n + 1, dtype=np.float32).reshape(-1, *[1] * (after.ndim - 1)) / (n + 1)
    result[:n] = (1 - ramp) * before[:n] + ramp * after[:n]
    return result


def _length(stretches: Stretches) -> float:
    return sum(end - start for start, end in stretches)

"""AV-Align, as published, and the event F1.

AV-Align counts how many audio onsets are near a peak of the optical flow, and how many peaks are near an
onset. It has two weaknesses:

- Its detectors, with their default settings, find peaks everywhere. Real clips in sync score 0.07 to 0.29 at
  their own frame rates.
- Its chance level is high. With independent random onsets and flow peaks at 8 fps over 4 s it is 0.20, 0.33
  and 0.46 for 1, 2 and 4 onsets per second.

It is therefore reported with the score of shuffled pairs (``kinetophone.metrics.control``), next to the event
F1 of detectors made for strikes (``kinetophone.metrics.detectors``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from kinetophone.media.librosa_loading import load_librosa
from kinetophone.metrics.contacts import SIDE_PX

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kinetophone.media.clip import Frames, Waveform

    Times = Sequence[float] | NDArray[np.floating]

# The sample rate at which the published metric detects onsets, librosa's default.
_ONSET_RATE = 22_050

# librosa's default window; shorter audio is padded with silence to this many samples.
_SHORTEST_SAMPLES = 2048

# TempoTokens' later code ignores flow peaks below this, in pixels per frame.
LEAST_FLOW_2025 = 0.1

# Makes two times that differ by exactly the tolerance match in spite of rounding.
_EPSILON_S = 1e-9


def audio_peaks(waveform: Waveform, sample_rate: int) -> NDArray[np.float64]:
    """Audio onsets as in the published metric: librosa's detector with its defaults.

    Args:
        waveform: float32 (N,) in [-1, 1].
        sample_rate: Sample rate in Hz; the waveform is resampled to 22,050 Hz.

    Returns:
        Times in seconds, ascending; empty for silence.
    """
    if not np.any(waveform):
        return np.zeros(0)
    librosa = load_librosa()
    if sample_rate != _ONSET_RATE:
        waveform = librosa.resample(waveform, orig_sr=sample_rate, target_sr=_ONSET_RATE)
    waveform = np.pad(waveform, (0, max(0, _SHORTEST_SAMPLES - len(waveform))))
    strength = librosa.onset.onset_strength(y=waveform, sr=_ONSET_RATE)
    if not np.any(strength > 0):
        return np.zeros(0)
    times_s = librosa.onset.onset_detect(onset_envelope=strength, sr=_ONSET_RATE, units="time")
    return np.asarray(times_s, np.float64)


def flow_curve(frames: Frames, *, exact: bool = True) -> NDArray[np.float64]:
    """Mean magnitude of the Farneback optical flow into each frame.

    Args:
        frames: uint8 (T, H, W, 3), red-green-blue.
        exact: Compute it as published, at the size of the frames. Otherwise frames whose shorter side has at
            least ``SIDE_PX`` pixels are shrunk to that, and the flow is iterated once, not three times: a
            tenth of the time for frames of 640 x 360.

    Returns:
        (T,) in pixels per frame. The first frame has no flow; its value repeats the second's (0 for a
        single frame).
    """
    import cv2

    if len(frames) < 2:
        return np.zeros(len(frames))
    height, width = frames.shape[1:3]
    fast = not exact and min(height, width) >= SIDE_PX
    scale = min(height, width) / SIDE_PX if fast else 1.0
    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    if scale > 1:
        size = (round(width / scale), round(height / scale))
        greys = [cv2.resize(grey, size, interpolation=cv2.INTER_AREA) for grey in greys]
    lengths = []
    for before, after in pairwise(greys):
        start = np.zeros((*before.shape, 2), np.float32)
        flow = cv2.calcOpticalFlowFarneback(
            before,
            after,
            start,
            pyr_scale=0.5,
            levels=3,
            winsize=15,
            iterations=1 if fast else 3,
            poly_n=5,
            poly_sigma=1.2,
            flags=0,
        )
        lengths.append(scale * float(np.hypot(flow[..., 0], flow[..., 1]).mean()))
    return np.array([lengths[0], *lengths])


def video_peaks(
    flow: Sequence[float] | NDArray[np.floating], fps: float | Fraction, *, least_flow: float = 0.0
) -> NDArray[np.float64]:
    """Strict local maxima of the flow curve, as in the published metric.

    Args:
        flow: (T,), see ``flow_curve``.
        fps: Frames per second.
        least_flow: Minimum height of a peak, in pixels per frame.

    Returns:
        Times in seconds, ascending. The first and the last frame are never peaks.
    """
    curve = np.asarray(flow, np.float64)
    if len(curve) < 3:
        return np.zeros(0)
    middle = curve[1:-1]
    peaks = 1 + np.flatnonzero((middle > curve[:-2]) & (middle > curve[2:]) & (middle >= least_flow))
    return peaks / float(fps)


def av_align_svg(audio_s: Times, video_s: Times, fps: float | Fraction) -> float:
    """AV-Align with the formula of the sounding-video baseline (SVG).

    Let p be the fraction of audio peaks with a video peak less than a frame away, and r the fraction of
    video peaks with an audio peak less than a frame away. The score is p r / (p + r - p r).

    Args:
        audio_s: Audio peaks in seconds.
        video_s: Video peaks in seconds.
        fps: Frames per second; the tolerance is one frame, exclusive.

    Returns:
        The score in [0, 1]; 0 if nothing matches or either list is empty.
    """
    audio, video = np.asarray(audio_s, np.float64), np.asarray(video_s, np.float64)
    if not len(audio) or not len(video):
        return 0.0
    near = np.abs(audio[:, None] - video[None, :]) < 1.0 / float(fps)
    precision, recall = float(near.any(axis=1).mean()), float(near.any(axis=0).mean())
    if precision == 0.0 or recall == 0.0:
        return 0.0
    return precision * recall / (precision + recall - precision * recall)


def av_align_2023(audio_s: Times, video_s: Times, fps: float | Fraction) -> float:
    """AV-Align with the formula of TempoTokens' first code (2023): intersection over union, many to one.

    Each audio peak with a video peak less than a frame away counts as an intersection, even if several of
    them share one video peak. The union is then too small and the score can exceed 1: audio peaks at 1.00 and
    1.01 s with one video peak at 1.00 s score 2.

    Arguments are as in ``av_align_svg``. Returns 0 if either list is empty or nothing matches.
    """
    audio, video = np.asarray(audio_s, np.float64), np.asarray(video_s, np.float64)
    if not len(audio) or not len(video):
        return 0.0
    matched = int((np.abs(audio[:, None] - video[None, :]) < 1.0 / float(fps)).any(axis=1).sum())
    union = len(audio) + len(video) - matched
    # The union is at least 1, because the number of matches is at most the number of audio peaks.
    return matched / union


def av_align_2025(audio_s: Times, video_s: Times, fps: float | Fraction) -> float:
    """AV-Align with the formula of TempoTokens' later code (2025): each peak is matched once.

    In order of time, each audio peak takes the first unmatched video peak less than a frame away. The score
    is intersection over union. Video peaks should come from ``video_peaks`` with
    ``least_flow=LEAST_FLOW_2025``.

    Arguments are as in ``av_align_svg``. Returns 0 if either list is empty or nothing matches.
    """
    free = sorted(float(time) for time in video_s)
    matched = 0
    for audio in sorted(float(time) for time in audio_s):
        partner = next((video for video in free if abs(audio - video) < 1.0 / float(fps)), None)
        if partner is not None:
            free.remove(partner)
            matched += 1
    union = len(audio_s) + len(video_s) - matched
    return matched / union if matched else 0.0


@dataclass(frozen=True, slots=True)
class EventScore:
    """Counts of matched, predicted and ground-truth events.

    Attributes:
        hits: Number of pairs matched one to one.
        predicted: Number of predicted events.
        true: Number of ground-truth events.
    """

    hits: int
    predicted: int
    true: int

    @property
    def precision(self) -> float:
        """Fraction of predicted events that are true; 1 if there are no events at all."""
        return _share(self.hits, self.predicted, empty=self.true == 0)

    @property
    def recall(self) -> float:
        """Fraction of true events that were predicted; 1 if there are no events at all."""
        return _share(self.hits, self.true, empty=self.predicted == 0)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 if there are no events at all."""
        return _share(2 * self.hits, self.predicted + self.true, empty=True)

    def __add__(self, other: EventScore) -> EventScore:
        """The score of both sets of events together, with pooled counts."""
        return EventScore(self.hits + other.hits, self.predicted + other.predicted, self.true + other.true)


def event_f1(pred_s: Times, true_s: Times, tolerance_s: float) -> EventScore:
    """Match predicted events to ground-truth events, one to one and as many as possible.

    Args:
        pred_s: Predicted times in seconds, in any order.
        true_s: Ground-truth times in seconds, in any order.
        tolerance_s: Maximum difference of a match in seconds, inclusive.

    Returns:
        The counts, with ``f1``, ``precision`` and ``recall``.

    Raises:
        ValueError: The tolerance is negative or not finite.
    """
    matched = match_events(pred_s, true_s, tolerance_s)
    return EventScore(hits=len(matched), predicted=len(pred_s), true=len(true_s))


def match_events(pred_s: Times, true_s: Times, tolerance_s: float) -> list[tuple[float, float]]:
    """The pairs that ``event_f1`` counts, (predicted, true) in seconds; arguments and errors as there."""
    if not (np.isfinite(tolerance_s) and tolerance_s >= 0):
        raise ValueError(f"tolerance_s is {tolerance_s}; it must be finite and at least 0")
    predicted, true = sorted(map(float, pred_s)), sorted(map(float, true_s))
    # All pairs have the same tolerance, so greedy matching in order of time is optimal.
    matched = []
    i = j = 0
    while i < len(predicted) and j < len(true):
        difference = predicted[i] - true[j]
        if abs(difference) <= tolerance_s + _EPSILON_S:
            matched.append((predicted[i], true[j]))
            i, j = i + 1, j + 1
        elif difference < 0:
            i += 1
        else:
            j += 1
    return matched


def _share(part: int, whole: int, *, empty: bool) -> float:
    if whole == 0:
        return 1.0 if empty else 0.0
    return part / whole

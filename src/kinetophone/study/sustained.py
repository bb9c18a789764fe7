"""Synchrony of sustained sounds and continuous motion: the correlation of two curves.

It is for sources without contacts (a bow, an engine, water), where there are no events to match. The amount
of motion between two frames is compared with the loudness of the same interval.
"""

from __future__ import annotations

import numpy as np

from kinetophone.media.clip import Clip
from kinetophone.metrics.alignment import flow_curve


def loudness_curve(clip: Clip) -> np.ndarray:
    """RMS of the audio between each frame and the previous one, (T - 1,)."""
    edges = [round(k * clip.sample_rate / clip.fps) for k in range(len(clip.video))]
    squares = np.concatenate([[0.0], np.cumsum(np.square(clip.audio, dtype=np.float64))])
    sums = np.diff(squares[np.minimum(edges, len(clip.audio))])
    return np.sqrt(sums / np.maximum(np.diff(edges), 1))


def motion_curve(clip: Clip) -> np.ndarray:
    """Mean magnitude of the optical flow into each frame except the first, (T - 1,), in pixels."""
    return np.asarray(flow_curve(clip.video))[-(len(clip.video) - 1) :]


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson correlation over the common length of both curves; 0 if one of them is constant."""
    length = min(len(one), len(other))
    a, b = (np.asarray(x[:length], np.float64) - np.mean(x[:length]) for x in (one, other))
    scale = np.sqrt(np.square(a).sum() * np.square(b).sum())
    return float((a * b).sum() / scale) if scale > 1e-12 else 0.0

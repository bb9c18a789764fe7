"""Synchrony of sounds that last and motion that goes on: the correlation of two curves.

For what has no contacts (a bow, an engine, water), and so nothing to match one to one: how much moves in each
interval between frames, against how loud that interval is.
"""

from __future__ import annotations

import numpy as np

from kinetophone.media.clip import Clip
from kinetophone.metrics.alignment import flow_curve


def loudness_curve(clip: Clip) -> np.ndarray:
    """Root mean square of the sound between each frame and the one before, (T - 1,)."""
    edges = [round(k * clip.sample_rate / clip.fps) for k in range(len(clip.video))]
    squares = np.concatenate([[0.0], np.cumsum(np.square(clip.audio, dtype=np.float64))])
    sums = np.diff(squares[np.minimum(edges, len(clip.audio))])
    return np.sqrt(sums / np.maximum(np.diff(edges), 1))


def motion_curve(clip: Clip) -> np.ndarray:
    """Mean length of the optical flow into each frame but the first, (T - 1,), pixels."""
    return np.asarray(flow_curve(clip.video))[-(len(clip.video) - 1) :]


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson correlation over the length that both have; 0 where one of them does not vary."""
    length = min(len(one), len(other))
    a, b = (np.asarray(x[:length], np.float64) - np.mean(x[:length]) for x in (one, other))
    scale = np.sqrt(np.square(a).sum() * np.square(b).sum())
    return float((a * b).sum() / scale) if scale > 1e-12 else 0.0

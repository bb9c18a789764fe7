"""The clips a recipe trains on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kinetophone.data.arrays import ClipArrays, load_rendered
from kinetophone.training.recipe import Recipe


def load_clips(recipe: Recipe) -> ClipArrays:
    """Load the clips that a recipe's data section describes, rendering those missing from its cache."""
    data = recipe.data
    return load_rendered(data.source, Path(data.cache), data.split, data.count, data.size)


def draw_frame(clips: ClipArrays, clip: int, rng: np.random.Generator) -> int:
    """Draw the index of a frame of ``clip``; half of the draws are within one frame of an event."""
    count = clips.video.shape[1]
    if rng.random() < 0.5:
        moment = rng.choice(clips.moments_s(clip))
        return min(max(round(moment * clips.fps) + int(rng.integers(-1, 2)), 0), count - 1)
    return int(rng.integers(count))

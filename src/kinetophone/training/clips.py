"""The clips a recipe trains on."""

from __future__ import annotations

from pathlib import Path

from kinetophone.data.arrays import ClipArrays, load_rendered
from kinetophone.training.recipe import Recipe


def load_clips(recipe: Recipe) -> ClipArrays:
    """The clips of a recipe's data section, rendered where they are not there yet."""
    data = recipe.data
    return load_rendered(data.source, Path(data.cache), data.split, data.count, data.size)

"""The clips a recipe trains on."""

from __future__ import annotations

from pathlib import Path

from kinetophone.data.arrays import ClipArrays, load_hits
from kinetophone.training.recipe import Recipe


def load_clips(recipe: Recipe) -> ClipArrays:
    """The clips of a recipe's data section, rendered where they are not there yet."""
    return load_hits(Path(recipe.data.cache), recipe.data.split, recipe.data.count, recipe.data.size)

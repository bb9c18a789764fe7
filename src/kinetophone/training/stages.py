"""Building the stage that a recipe names."""

from __future__ import annotations

import importlib

import torch

from kinetophone.training.loop import Stage
from kinetophone.training.recipe import STAGES, Recipe


def build_stage(recipe: Recipe) -> Stage:
    """Build the recipe's stage. Its initial weights depend only on the recipe's seed."""
    info = STAGES[recipe.stage]
    torch.manual_seed(recipe.loop.seed)
    stage: Stage = getattr(importlib.import_module(f"kinetophone.{info.module}"), info.name)(recipe)
    return stage

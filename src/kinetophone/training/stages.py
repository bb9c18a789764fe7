"""Building the stage that a recipe names."""

from __future__ import annotations

import importlib

import torch

from kinetophone.training.loop import Stage
from kinetophone.training.recipe import STAGES, Recipe


def build_stage(recipe: Recipe) -> Stage:
    """Build the recipe's stage; its initial weights follow from the recipe's seed."""
    module, name = STAGES[recipe.stage]
    torch.manual_seed(recipe.loop.seed)
    stage: Stage = getattr(importlib.import_module(f"kinetophone.training.{module}"), name)(recipe)
    return stage

"""Training of everything that ships, one recipe a run: ``kinetophone train recipes/NAME.yaml``."""

from __future__ import annotations

from pathlib import Path


def run(recipe_path: Path | str, out: Path | str | None = None, resume: bool = True) -> Path:
    """Train what the recipe at ``recipe_path`` describes; returns the run's folder.

    The folder is ``out``, or ``runs/<recipe name>``. Raises ValueError for a recipe that can't be used,
    before anything is built.
    """
    from kinetophone.training.recipe import load_recipe

    recipe = load_recipe(recipe_path)
    folder = Path(out) if out else Path("runs") / recipe.name

    import torch

    from kinetophone.training.loop import train
    from kinetophone.training.stages import build_stage

    torch.set_num_threads(recipe.loop.threads)
    train(build_stage(recipe), recipe.loop, folder, resume=resume)
    return folder

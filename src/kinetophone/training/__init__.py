"""Training of every shipped model. One recipe is one run: ``kinetophone train recipes/NAME.yaml``."""

from __future__ import annotations

from pathlib import Path


def requirements(recipe_path: Path | str) -> list[str]:
    """Estimate the parameters, memory and steps of a recipe without loading or writing anything.

    Returns:
        Lines for the terminal. A line that starts with "problem" says why training would fail.

    Raises:
        ValueError: The recipe can't be used.
    """
    from kinetophone.training.recipe import load_recipe

    recipe = load_recipe(recipe_path)
    from kinetophone.training.dry_run import consent_needed, device_memory, estimate

    found, available = estimate(recipe), device_memory(recipe)
    problem = None if available is None else found.problem(available)
    lines = found.lines() + consent_needed(recipe)
    return [*lines, f"problem   {problem}"] if problem else lines


def run(recipe_path: Path | str, out: Path | str | None = None, resume: bool = True) -> Path:
    """Train the stage that the recipe at ``recipe_path`` describes.

    Under ``accelerate launch`` all processes train together, and each exits when training is done.

    Args:
        recipe_path: The recipe, a YAML file.
        out: The run's folder; ``runs/<recipe name>`` if not given.
        resume: Continue from the newest checkpoint in the folder. False removes the checkpoints first.

    Returns:
        The run's folder.

    Raises:
        ValueError: The recipe can't be used. Raised before anything is built.
    """
    from kinetophone.training.recipe import STAGES, load_recipe

    recipe = load_recipe(recipe_path)
    folder = Path(out) if out else Path("runs") / recipe.name

    import contextlib
    import dataclasses

    import torch

    from kinetophone.errors import UserError
    from kinetophone.locks import sole_writer
    from kinetophone.training.checkpoints import describe
    from kinetophone.training.dry_run import check_device
    from kinetophone.training.loop import train
    from kinetophone.training.processes import Processes
    from kinetophone.training.stages import build_stage
    from kinetophone.workers import threads_restored

    processes = Processes.join(recipe.loop.device)
    if processes.count > 1 and not STAGES[recipe.stage].divisible:
        raise UserError(
            f"the stage {recipe.stage} trains in one process only: its loss ties a batch's clips together"
        )
    made_by = describe(recipe, processes.count)
    if processes.device:
        recipe = dataclasses.replace(recipe, loop=dataclasses.replace(recipe.loop, device=processes.device))
    check_device(recipe, processes.count)
    with threads_restored(), sole_writer(folder) if processes.first else contextlib.nullcontext():
        torch.set_num_threads(recipe.loop.threads)
        with processes.first_process_first():
            stage = build_stage(recipe)
        train(stage, recipe.loop, folder, resume, processes=processes, made_by=made_by)
    processes.leave()
    return folder

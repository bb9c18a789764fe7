"""Running a cell of an experiment: training its coupling, sampling and scoring."""

from __future__ import annotations

import json
import platform
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from kinetophone.av import MODALITIES
from kinetophone.bundle.auto_gamma import find_gamma
from kinetophone.files import write_json
from kinetophone.study.experiment import (
    AUTO_GAMMA_CLIPS,
    NOISE_SEEDS_APART,
    RUNS,
    Cell,
    as_options,
    auto_gamma_rule,
    fingerprint,
    merged,
    write_cells,
    write_recipe,
)
from kinetophone.study.measures import measure_clips, true_clips
from kinetophone.training.checkpoints import revision

if TYPE_CHECKING:
    from kinetophone.bundle.load import Bundle


def check_recipes(cell: Cell) -> None:
    """Check the cell's recipes, as ``kinetophone train`` would.

    Raises:
        RequestError: A recipe can't be used.
    """
    for number in range(len(cell.recipes)):
        _write_recipe(cell, number)


def train(cell: Cell, device: str | None = None) -> Path:
    """Train the cell's coupling, unless it is already trained; interrupted training is resumed.

    Connectors are cached in the runs folder, because all rows of an experiment start from the same ones.

    Returns:
        The folder of the cell's bundle.
    """
    if not cell.recipes:
        return cell.experiment.bundle_folder
    from kinetophone import training

    source = cell.experiment.bundle_folder.resolve()
    for number, raw in enumerate(cell.recipes):
        run = cell.folder(number)
        bundle = run / "bundle"
        bundle.mkdir(parents=True, exist_ok=True)
        with FileLock(run / "lock"):  # concurrent grids may need the same coupling
            connectors = number < len(cell.recipes) - 1
            if (cell.connectors if connectors else run / "trained").exists():
                continue
            _link_bases(source, bundle, raw.get("options", {}).get("train", "coupling"))
            if number and not (bundle / "coupling").exists():
                start_from(cell.connectors, raw, bundle)
            training.run(_write_recipe(cell, number, device), out=run)
            if connectors:
                keep_connectors(bundle / "coupling", cell.connectors)
            else:
                (run / "trained").touch()
    return cell.folder(len(cell.recipes) - 1) / "bundle"


def _link_bases(source: Path, bundle: Path, trained: str) -> None:
    """Link the frozen bases into a cell's bundle; bases that the option ``train`` trains are copied."""
    copied = {"coupling": (), "motion": ("video",)}.get(trained, MODALITIES)
    for name in (*MODALITIES, "classifiers"):
        if (bundle / name).exists() or not (source / name).is_dir():
            continue
        if name in copied:
            shutil.copytree(source / name, bundle / name)
        else:
            (bundle / name).symlink_to(source / name, target_is_directory=True)


def keep_connectors(coupling: Path, folder: Path) -> None:
    """Save the connectors of a coupling, and its settings, in ``folder``."""
    from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
    from safetensors.torch import load_file, save_file

    weights = load_file(coupling / SAFETENSORS_WEIGHTS_NAME)
    kept = {key: weight for key, weight in weights.items() if key.startswith("connector_out_")}
    part = folder.with_name(f"{folder.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    shutil.copy(coupling / "config.json", part)
    save_file(kept, part / SAFETENSORS_WEIGHTS_NAME)
    part.rename(folder)


def start_from(connectors: Path, raw: dict[str, Any], bundle: Path) -> None:
    """Write a new coupling into ``bundle``, with its connectors loaded from ``connectors``."""
    import torch
    from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
    from safetensors.torch import load_file

    from kinetophone.coupling.coupling import Coupling

    settings = {**json.loads((connectors / "config.json").read_text()), **raw["model"]}
    flags = settings.pop("with_connector", None)
    if flags is not None:
        settings |= {"audio_with_connector": flags, "video_with_connector": flags}
    with torch.random.fork_rng():
        torch.manual_seed(raw["loop"]["seed"])
        coupling = Coupling(**{key: value for key, value in settings.items() if not key.startswith("_")})
    known = load_file(connectors / SAFETENSORS_WEIGHTS_NAME)
    missing, unexpected = coupling.load_state_dict(known, strict=False)
    assert not unexpected
    assert not any(key.startswith("connector_out_") for key in missing)
    coupling.save_pretrained(bundle / "coupling")


def make(cell: Cell, *, device: str | None = None, workers: int | None = None) -> dict[str, Any]:
    """Train, sample and score one cell, and write its result.

    If another experiment has a cell with the same training and sampling, its result is copied.

    Returns:
        The result.
    """
    found = cell.from_another() or _made(cell, device, workers)
    cell.experiment.results.mkdir(parents=True, exist_ok=True)
    with FileLock(cell.experiment.results / "lock"):  # concurrent grids write to the same file
        write_cells(cell.experiment.results, [found])
    return found


def _made(cell: Cell, device: str | None, workers: int | None) -> dict[str, Any]:
    import torch

    from kinetophone.bundle.load import load_coupling
    from kinetophone.coupling.coupling import trainable
    from kinetophone.pipeline import Kinetophone

    folder = train(cell, device)
    sampling, experiment = dict(cell.sampling), cell.experiment
    pipe = Kinetophone.from_pretrained(folder, device, getattr(torch, experiment.precision))
    if sampling.get("gamma") == "auto":
        sampling["gamma"] = auto_gamma(pipe, folder, experiment.domain)
    true = true_clips(experiment.domain, experiment.split, cell.prompts, pipe.spec.size)
    judges = str(experiment.bundle_folder)
    prompts = [clip.caption for clip in true]
    coupled = sampling.get("coupled", True)
    parameters = trainable(load_coupling(folder, torch.float32)) if coupled else 0
    clips = pipe(prompts, seed=cell.seed * NOISE_SEEDS_APART, progress=True, **as_options(sampling))
    return {
        "row": cell.row,
        "seed": cell.seed,
        "key": cell.key,
        "sampling": sampling,
        "parameters": parameters,
        "recipes": list(cell.recipes),
        "date": datetime.now(UTC).date().isoformat(),
        "revision": revision(),
        "torch": torch.__version__,
        "machine": f"{platform.processor() or platform.machine()}, {pipe.device}",
        **measure_clips(clips, experiment.domain, experiment.split, judges, workers, cell.prompts.start),
    }


def auto_gamma(pipe: Bundle, folder: Path, domain: str) -> float:
    """The automatic γ for the weights in ``folder``; computed once and cached in the runs folder."""
    path = RUNS / f"gamma-{fingerprint(folder, coupling=True)}-{auto_gamma_rule()}.json"
    if not path.is_file():
        _, _, results = find_gamma(pipe, AUTO_GAMMA_CLIPS, domain=domain)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(results, path)
    return float(json.loads(path.read_text())["choice"]["gamma"])


def _write_recipe(cell: Cell, number: int, device: str | None = None) -> Path:
    """Write one of the cell's recipes into its folder and check it."""
    raw, run = cell.recipes[number], cell.folder(number)
    changes: dict[str, Any] = {"bundle": str(run / "bundle")}
    if number:
        changes["continued"] = True
    if device:
        changes["loop"] = {"device": device}
    return write_recipe(merged(raw, changes), run / "recipe.yaml")

"""Making a cell of an experiment: train its coupling, sample, measure."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinetophone.auto_gamma import find_gamma, store
from kinetophone.data.hits import FPS, SAMPLE_RATE, HitsClip, make_clip
from kinetophone.data.shards import write_json
from kinetophone.media.clip import Clip
from kinetophone.metrics.evaluate import METRICS, ClipEvents, detect, score
from kinetophone.metrics.features import Extractor
from kinetophone.metrics.hits import NAMES
from kinetophone.metrics.quality import distances, material_agreement
from kinetophone.request import CONFIG_NAME
from kinetophone.study.experiment import NOISE_SEEDS_APART, RUNS, Cell, write_recipe
from kinetophone.training.checkpoints import revision

if TYPE_CHECKING:
    from kinetophone.bundle import Bundle

AUTO_GAMMA_CLIPS = 64


def check_recipes(cell: Cell) -> None:
    """Write the cell's recipes and check them.

    Raises:
        RequestError: one can't be used.
    """
    for number, raw in enumerate(cell.recipes):
        write_recipe(raw | {"bundle": str(_bundle(cell))}, _recipe_path(cell, number))


def train(cell: Cell, device: str | None = None) -> Path:
    """The folder of the cell's bundle, its coupling trained unless that is done; goes on where it stopped."""
    if not cell.recipes:
        return cell.experiment.bundle_folder
    from kinetophone import training

    folder = _bundle(cell)
    source = cell.experiment.bundle_folder.resolve()
    if not (folder / CONFIG_NAME).exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / CONFIG_NAME, folder / CONFIG_NAME)
    moving = any(raw.get("options", {}).get("train_motion") for raw in cell.recipes)
    for name in ("audio", "video", "classifiers"):
        if not (folder / name).exists():
            if name == "video" and moving:  # its motion modules are written anew
                shutil.copytree(source / name, folder / name)
            else:
                (folder / name).symlink_to(source / name, target_is_directory=True)
    if cell.recipes[0].get("continued") and not (folder / "coupling").exists():
        shutil.copytree(source / "coupling", folder / "coupling")
    for number, raw in enumerate(cell.recipes):
        run = _recipe_path(cell, number).parent
        if (run / "trained").exists():
            continue
        changes = {"bundle": str(folder)} | ({"loop": raw["loop"] | {"device": device}} if device else {})
        write_recipe(raw | changes, run / "recipe.yaml")
        training.run(run / "recipe.yaml", out=run)
        (run / "trained").touch()
    return folder


def make(cell: Cell, *, device: str | None = None, workers: int | None = None) -> dict[str, Any]:
    """Train, sample and measure one cell, and write its result."""
    import torch

    from kinetophone.joint.coupling import trainable
    from kinetophone.pipeline import Kinetophone

    folder = train(cell, device)
    sampling, experiment = dict(cell.sampling), cell.experiment
    pipe = Kinetophone.from_pretrained(folder, device=device)
    if sampling.get("gamma") == "auto":
        sampling["gamma"] = _auto_gamma(pipe, folder)
    true = true_clips(experiment.split, experiment.prompts, pipe.spec.size)
    judges = str(experiment.bundle_folder)
    reference = reference_events(experiment.split, experiment.prompts, pipe.spec.size, judges, workers)
    prompts = [clip.caption for clip in true]
    clips = pipe(prompts, seed=cell.seed * NOISE_SEEDS_APART, progress=True, **sampling)
    found = {
        "row": cell.row,
        "seed": cell.seed,
        "key": cell.key,
        "sampling": sampling,
        "parameters": trainable(pipe.coupling),
        "recipes": cell.recipes,
        "date": datetime.now(UTC).date().isoformat(),
        "revision": revision(),
        "torch": torch.__version__,
        "machine": f"{platform.processor() or platform.machine()}, {pipe.device}",
        **measured(clips, true, reference, judges, workers),
    }
    cell.path.parent.mkdir(parents=True, exist_ok=True)
    write_json(found, cell.path)
    return found


def measured(
    clips: Sequence[Clip],
    true: Sequence[HitsClip],
    reference: Sequence[ClipEvents],
    judges: str,
    workers: int | None = None,
) -> dict[str, Any]:
    """Synchrony with its control, distances from the true clips, and every clip's own scores.

    Args:
        clips: one per true clip, in their order.
        true: the clips whose captions were the prompts.
        reference: events and features of true clips, see :func:`reference_events`.
        judges: folder of the bundle whose classifiers judge.
        workers: processes of the detectors.
    """
    found = detect(clips, workers=workers, features=Extractor(hits=judges))
    report = score(found)
    scored = [item for item in found if isinstance(item, ClipEvents)]
    captions = {str(i): clip.caption for i, clip in enumerate(true)}
    rows = {row["name"]: row for row in report.rows}
    quality = distances(scored, reference)
    agreed = material_agreement(scored, captions)
    return {
        "prompts": len(clips),
        "unscored": len(report.unscored),
        "synchrony": {
            name: {
                "value": control.value,
                "shuffled": control.shuffled,
                "above": control.above,
                "n": control.n,
            }
            for name, control in report.metrics.items()
        },
        "distances": {name: {"frechet": d.frechet, "kernel": d.kernel} for name, d in quality.items()},
        "materials": {name: {"value": c.value, "shuffled": c.shuffled} for name, c in agreed.items()},
        "clips": [
            {
                "clip": int(item.name),
                "material": true[int(item.name)].scene.material,
                **{name: round(float(rows[item.name][name]), 4) for name in METRICS},
                "seen": NAMES[int(item.features["hits_seen"].argmax())],
                "heard": NAMES[int(item.features["hits_heard"].argmax())],
            }
            for item in scored
        ],
    }


@lru_cache(maxsize=2)
def true_clips(split: str, count: int, size: int) -> list[HitsClip]:
    """The clips whose captions are the prompts."""
    return [make_clip(split, i, size) for i in range(count)]


@lru_cache(maxsize=2)
def reference_events(
    split: str, count: int, size: int, judges: str, workers: int | None = None
) -> tuple[ClipEvents, ...]:
    """Events and features of the true clips."""
    clips = [as_clip(clip) for clip in true_clips(split, count, size)]
    found = detect(clips, workers=workers, features=Extractor(hits=judges))
    return tuple(item for item in found if isinstance(item, ClipEvents))


def as_clip(clip: HitsClip) -> Clip:
    """A true clip as any other."""
    return Clip(video=clip.video, fps=FPS, audio=clip.audio, sample_rate=SAMPLE_RATE)


def _auto_gamma(pipe: Bundle, folder: Path) -> float:
    """The bundle's automatic γ, found and kept where it has none."""
    if pipe.spec.auto_gamma is not None:
        return pipe.spec.auto_gamma
    choice, _, results = find_gamma(pipe, AUTO_GAMMA_CLIPS)
    write_json(results, folder / "gamma.json")
    store(folder, choice.gamma)
    return choice.gamma


def _bundle(cell: Cell) -> Path:
    return RUNS / cell.training_key / "bundle"


def _recipe_path(cell: Cell, number: int) -> Path:
    return RUNS / cell.training_key / f"{number}-{cell.recipes[number]['name']}" / "recipe.yaml"

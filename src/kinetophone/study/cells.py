"""Making a cell of an experiment: train its coupling, sample, measure."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinetophone.auto_gamma import find_gamma
from kinetophone.av import MODALITIES
from kinetophone.data.hits import FPS, SAMPLE_RATE, HitsClip, make_clip
from kinetophone.data.shards import write_json
from kinetophone.media.clip import Clip
from kinetophone.metrics.evaluate import METRICS, ClipEvents, detect, score
from kinetophone.metrics.features import Extractor
from kinetophone.metrics.hits import NAMES
from kinetophone.metrics.quality import distances, material_agreement
from kinetophone.study.experiment import (
    NOISE_SEEDS_APART,
    RUNS,
    Cell,
    as_options,
    fingerprint,
    merged,
    write_recipe,
)
from kinetophone.training.checkpoints import revision

if TYPE_CHECKING:
    from kinetophone.bundle import Bundle

AUTO_GAMMA_CLIPS = 32


def check_recipes(cell: Cell) -> None:
    """Check the cell's recipes, as ``kinetophone train`` would.

    Raises:
        RequestError: one can't be used.
    """
    for number in range(len(cell.recipes)):
        _write_recipe(cell, number)


def train(cell: Cell, device: str | None = None) -> Path:
    """The folder of the cell's bundle, its coupling trained unless that is done; goes on where it stopped."""
    if not cell.recipes:
        return cell.experiment.bundle_folder
    from kinetophone import training

    source = cell.experiment.bundle_folder.resolve()
    for number, raw in enumerate(cell.recipes):
        run = cell.folder(number)
        bundle = run / "bundle"
        if (run / "trained").exists():
            continue
        bundle.mkdir(parents=True, exist_ok=True)
        for name in ("audio", "video", "classifiers"):
            if (bundle / name).exists():
                continue
            if name == "video" and raw.get("options", {}).get("train_motion"):  # it is written to
                shutil.copytree(source / name, bundle / name)
            else:
                (bundle / name).symlink_to(source / name, target_is_directory=True)
        if number and not (bundle / "coupling").exists():
            start_from(cell.folder(0) / "bundle" / "coupling", raw, bundle)
        training.run(_write_recipe(cell, number, device), out=run)
        (run / "trained").touch()
    return cell.folder(len(cell.recipes) - 1) / "bundle"


def start_from(connectors: Path, raw: dict[str, Any], bundle: Path) -> None:
    """Write a coupling into ``bundle`` that is fresh but for its connectors, which are another's."""
    import torch

    from kinetophone.bundle import load_coupling
    from kinetophone.joint.coupling import Coupling

    known = load_coupling(connectors, torch.float32)
    settings = {**known.config, **raw["model"]}
    flags = settings.pop("with_connector", None)
    if flags is not None:
        settings |= {"audio_with_connector": flags, "video_with_connector": flags}
    with torch.random.fork_rng():
        torch.manual_seed(raw["loop"]["seed"])
        coupling = Coupling(**{key: value for key, value in settings.items() if not key.startswith("_")})
    for name in MODALITIES:
        fresh, trained = (getattr(c, f"connector_out_{name}") for c in (coupling, known))
        fresh.load_state_dict(trained.state_dict())
    coupling.save_pretrained(bundle / "coupling")


def make(cell: Cell, *, device: str | None = None, workers: int | None = None) -> dict[str, Any]:
    """Train, sample and measure one cell, and write its result."""
    import torch

    from kinetophone.bundle import load_coupling
    from kinetophone.joint.coupling import trainable
    from kinetophone.pipeline import Kinetophone

    folder = train(cell, device)
    sampling, experiment = dict(cell.sampling), cell.experiment
    pipe = Kinetophone.from_pretrained(folder, device=device)
    if sampling.get("gamma") == "auto":
        sampling["gamma"] = auto_gamma(pipe, folder)
    true = true_clips(experiment.split, experiment.prompts, pipe.spec.size)
    judges = str(experiment.bundle_folder)
    reference = reference_events(experiment.split, experiment.prompts, pipe.spec.size, judges, workers)
    prompts = [clip.caption for clip in true]
    coupled = sampling.get("coupled", True)
    parameters = trainable(load_coupling(folder, torch.float32)) if coupled else 0
    clips = pipe(prompts, seed=cell.seed * NOISE_SEEDS_APART, progress=True, **as_options(sampling))
    found = {
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


def auto_gamma(pipe: Bundle, folder: Path) -> float:
    """The automatic γ of the weights in ``folder``; found once, and kept among the runs."""
    path = RUNS / f"gamma-{fingerprint(folder, coupling=True)}.json"
    if not path.is_file():
        _, _, results = find_gamma(pipe, AUTO_GAMMA_CLIPS)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(results, path)
    return float(json.loads(path.read_text())["choice"]["gamma"])


def _write_recipe(cell: Cell, number: int, device: str | None = None) -> Path:
    """Write a recipe of the cell into its folder, and check it."""
    raw, run = cell.recipes[number], cell.folder(number)
    changes: dict[str, Any] = {"bundle": str(run / "bundle")}
    if number:
        changes["continued"] = True
    if device:
        changes["loop"] = {"device": device}
    return write_recipe(merged(raw, changes), run / "recipe.yaml")

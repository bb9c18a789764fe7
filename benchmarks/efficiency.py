"""Is it efficient to adapt frozen bases? Three trainings with the same budget on ``hits``.

    python benchmarks/efficiency.py --seconds 200 400 600 --json efficiency.json --plot efficiency.png

The arms differ in what is trained (``options.train`` in the recipe): a new coupling on frozen pre-trained
bases, a new coupling and the pre-trained bases, or everything from random weights. Data, batch size, loss and
the coupling's architecture are the same; the learning rate is lower if pre-trained bases are trained further.
The budget is CPU time of the training steps in one thread, so that other load on the machine does not matter.
The arms take turns.

A cell is the training of an arm up to one of ``--seconds``, and its evaluation on ``--clips`` val prompts
with the bundle's default settings. Cells that exist in ``--out`` are kept; ``--cells`` limits the number of
new ones.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from kinetophone.bundle.spec import BUNDLES
from kinetophone.hits import make_clip
from kinetophone.hits.metric import HEARD, SEEN
from kinetophone.metrics.evaluate import ClipEvents, detect, score
from kinetophone.metrics.features import Extractor
from kinetophone.pipeline import Kinetophone
from kinetophone.training import checkpoints
from kinetophone.training.loop import train
from kinetophone.training.recipe import Recipe, load_recipe
from kinetophone.training.stages import build_stage

ARMS = {
    "coupling": "only the coupling",
    "all": "everything, pre-trained bases",
    "scratch": "everything, from random weights",
}
RATES = {"coupling": 1e-3, "all": 3e-4, "scratch": 1e-3}  # the higher rate destroys pre-trained networks
RECIPES = Path(__file__).parents[1] / "recipes"
CALIBRATION = 10  # steps in the first cell that measure the time per step
SEED = 1000  # seed of the samples


def recipe_of(arm: str, bundle: Path, cache: Path, count: int) -> Recipe:
    """The recipe of the included coupling from its start, with ``train`` of the arm and a constant rate.

    In all arms, losses are weighted by the error of the pre-trained bases at each level.
    """
    recipe = load_recipe(RECIPES / "hits-coupling-3.yaml")
    loop = dataclasses.replace(
        recipe.loop, steps=10**6, schedule="constant", lr=RATES[arm], warmup=50, sample_every=0,
        checkpoint_every=10**6, log_every=10, keep=1,
    )  # fmt: skip
    return dataclasses.replace(
        recipe,
        loop=loop,
        continued=False,
        model=load_recipe(RECIPES / "hits-coupling.yaml").model,
        bundle=str(bundle),
        data=dataclasses.replace(recipe.data, cache=str(cache), count=count),
        options=dataclasses.replace(recipe.options, train=arm),
    )


class Clock:
    """Records the CPU time at the start of each step; ``wrap`` hooks into a stage's loss."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def wrap(self, stage: Any) -> None:
        inner = stage.loss

        def loss(*arguments: Any) -> Any:
            self.starts.append(time.process_time())
            return inner(*arguments)

        stage.loss = loss

    @property
    def step_s(self) -> float:
        """CPU seconds per step, without the first two, which warm up caches."""
        return (self.starts[-1] - self.starts[2]) / (len(self.starts) - 3)


def peak_mib(reset: bool = False) -> float:
    """Peak resident memory of this process since the last reset, in MiB (Linux only)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def cell(arm: str, target_s: float, given: argparse.Namespace) -> dict[str, Any]:
    """Continue the training of ``arm`` up to ``target_s`` CPU seconds, then sample and evaluate."""
    torch.set_num_threads(1)
    trained = given.out / arm / f"trained-{target_s:g}.json"
    if not trained.exists():
        before = [row for row in results(given.out) if row["arm"] == arm]
        row = train_on(arm, target_s, given, before[-1] if before else None)
        trained.write_text(json.dumps(row))
    return json.loads(trained.read_text()) | measure(given.out / arm / "bundle", given.clips)


def train_on(
    arm: str, target_s: float, given: argparse.Namespace, before: dict[str, Any] | None
) -> dict[str, Any]:
    folder = given.out / arm
    if not (bundle := folder / "bundle").exists():
        shutil.copytree(given.bundle, bundle)
    # Always built from the original bases, whose errors weight the losses.
    recipe = recipe_of(arm, given.bundle, given.cache, given.count)
    stage: Any = build_stage(recipe)
    clock = Clock()
    clock.wrap(stage)
    resident = peak_mib(reset=True)
    start = time.process_time()
    if before is None:
        train(stage, recipe.loop, folder, resume=False, stop_at=CALIBRATION)
        before = {"cpu_s": clock.step_s * CALIBRATION, "steps": CALIBRATION, "step_s": clock.step_s}
        clock.starts.clear()
    steps = max(4, round((target_s - before["cpu_s"]) / before["step_s"]))
    train(stage, recipe.loop, folder, stop_at=before["steps"] + steps)
    spent = clock.step_s * steps
    row = {
        "arm": arm,
        "revision": checkpoints.describe(recipe, 1)["revision"],
        "target_s": target_s,
        "cpu_s": round(before["cpu_s"] + spent, 1),
        "steps": before["steps"] + steps,
        "lr": recipe.loop.lr,
        "step_s": round(clock.step_s, 4),
        "trained": sum(p.numel() for p in stage.model.parameters() if p.requires_grad),
        "parameters": sum(p.numel() for p in stage.model.parameters()),
        "training_mib": round(peak_mib() - resident),
        "not_steps_s": round(time.process_time() - start - spent, 1),
    }
    state = checkpoints.load(checkpoints.find(folder)[-1])
    with torch.no_grad():
        for name, module in stage.trained.items():
            for key, parameter in module.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(state["ema"][f"{name}.{key}"])
    stage.bundle = bundle
    stage.export()
    return row


def measure(bundle: Path, count: int) -> dict[str, Any]:
    """Synchrony and materials of samples for ``count`` val prompts."""
    start = time.process_time()
    true = [make_clip("val", i, 64) for i in range(count)]
    pipe = Kinetophone.from_pretrained(bundle, device="cpu")
    clips = pipe([clip.caption for clip in true], seed=SEED)
    extractor = Extractor(hits=str(bundle))
    found = detect(clips, workers=1, features=extractor)
    report = score(found)
    captions = {str(i): clip.caption for i, clip in enumerate(true)}
    shares = extractor.score([c for c in found if isinstance(c, ClipEvents)], captions=captions).semantics
    control = report.metrics.get("event_f1")
    return {
        "clips": count,
        "unscored": len(report.unscored),
        "event_f1": dataclasses.asdict(control) if control else None,
        "materials": {name: dataclasses.asdict(shares[name]) for name in (SEEN, HEARD) if name in shares},
        "measuring_s": round(time.process_time() - start, 1),
    }


def results(out: Path) -> list[dict[str, Any]]:
    path = out / "cells.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def losses(out: Path, arm: str) -> list[tuple[int, float]]:
    """Steps and training losses, averaged over three rows of the log."""
    log = out / arm / "log.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    rows = [rows[i : i + 3] for i in range(0, len(rows) - 2, 3)]
    return [(part[-1]["step"], sum(r["loss"] for r in part) / len(part)) for part in rows]


def plot(rows: list[dict[str, Any]], out: Path, path: Path) -> None:
    """Plot event F1 with its interval and shuffled baseline, and the training loss, over CPU minutes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), constrained_layout=True)
    for colour, (arm, label) in zip(("C0", "C1", "C2"), ARMS.items(), strict=True):
        mine = [row for row in rows if row["arm"] == arm and row["event_f1"]]
        if not mine:
            continue
        minutes = [row["cpu_s"] / 60 for row in mine]
        values = [row["event_f1"]["value"] for row in mine]
        errors = [
            [abs(row["event_f1"]["interval"][end] - row["event_f1"]["value"]) for row in mine]
            for end in ("low", "high")
        ]
        left.errorbar(minutes, values, errors, color=colour, marker="o", capsize=3, label=label)
        shuffled = [row["event_f1"]["shuffled"] for row in mine]
        left.plot(minutes, shuffled, color=colour, marker="x", linestyle=":")
        curve = losses(out, arm)
        per_step = mine[-1]["cpu_s"] / mine[-1]["steps"] / 60
        right.plot([step * per_step for step, _ in curve], [loss for _, loss in curve], color=colour)
    left.set(ylabel="event F1 (crosses: shuffled pairs)", ylim=(0, None))
    right.set(ylabel="training loss", yscale="log")
    for axes in (left, right):
        axes.set(xlabel="CPU minutes of training", xlim=(0, None))
    left.legend(frameon=False, fontsize=8, loc="upper left")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds",
        type=float,
        nargs="+",
        default=[200, 400, 600],
        help="CPU seconds of training at which to evaluate",
    )
    parser.add_argument("--clips", type=int, default=32, help="number of val prompts per evaluation")
    parser.add_argument("--count", type=int, default=12_000, help="number of training clips")
    parser.add_argument(
        "--bundle", type=Path, default=BUNDLES / "hits", help="bundle with the pre-trained bases"
    )
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--out", type=Path, default=Path("runs/efficiency"))
    parser.add_argument("--cells", type=int, help="stop after this many new cells")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.cell:  # in a separate process, for a clean memory measurement
        arm, target_s = given.cell.split(":")
        row = cell(arm, float(target_s), given)
        with (given.out / "cells.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        return
    there = {(row["arm"], row["target_s"]) for row in results(given.out)}
    missing = [(arm, s) for s in given.seconds for arm in ARMS if (arm, s) not in there]
    for arm, target_s in missing[: given.cells]:
        subprocess.run([sys.executable, *sys.argv, "--cell", f"{arm}:{target_s}"], check=True)
        print(json.dumps(results(given.out)[-1]), flush=True)
    rows = results(given.out)
    if given.json:
        moments = " ".join(f"{s:g}" for s in given.seconds)
        command = (
            f"python benchmarks/efficiency.py --seconds {moments} --clips {given.clips} --count {given.count}"
        )
        content = {"command": command, "seed": SEED, "cells": rows}
        given.json.write_text(json.dumps(content, indent=1) + "\n")
    if given.plot:
        plot(rows, given.out, given.plot)


if __name__ == "__main__":
    main()

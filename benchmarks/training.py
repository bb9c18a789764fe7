"""Training speed of the coupling and its connectors, from latents and from files, and a profile of a step.

    python benchmarks/training.py --json training.json

Clips of ``hits`` are written as mp4, prepared and encoded. For each stage, two trainings that differ only in
their input take turns in one process. "latents" reads the output of ``kinetophone data encode``. "files"
decodes mp4 files, with the next batch in a thread during each step, and runs the autoencoders, and the text
encoders if the stage uses text. Then a step of the coupling from latents is profiled: CPU seconds by part.

Everything runs in one thread. CPU time is the relevant measure on a shared machine; wall-clock time is
reported too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kinetophone.av import AV
from kinetophone.bases.load import load_audio_base, load_video_base
from kinetophone.bundle.spec import BUNDLES
from kinetophone.data.encode import encode
from kinetophone.data.prepare import Cut, prepare
from kinetophone.data.sources import Source, find_sources
from kinetophone.hits.write import write_split
from kinetophone.media.read import read_clip
from kinetophone.training import checkpoints
from kinetophone.training.loop import Run
from kinetophone.training.processes import Processes
from kinetophone.training.recipe import DataConfig, load_recipe
from kinetophone.training.stages import build_stage
from kinetophone.workers import Workers

RECIPES = Path(__file__).parents[1] / "recipes"
STAGES = {"connectors": "hits-connectors.yaml", "coupling": "hits-coupling.yaml"}
CUT = Cut(fps=8, seconds=4, size=64)


class Files:
    """Clips of mp4 files in place of a stage's latents: decoded in advance, encoded on access."""

    def __init__(self, sources: list[Source], bases: AV[Any], batch: int, encoded: Any) -> None:
        self.sources, self.bases, self.batch = sources, bases, batch
        self.shapes = AV(audio=encoded.audio.shape, video=encoded.video.shape)
        self.pool, self.rng = ThreadPoolExecutor(1), np.random.default_rng(0)
        self.ahead = self._decode_next()
        self.clips: list[Any] = []

    def _decode_next(self) -> tuple[np.ndarray, Future[list[Any]]]:
        index = self.rng.integers(len(self.sources), size=self.batch)
        return index, self.pool.submit(lambda: [read(self.sources[i].picture) for i in index])

    def draw(self, rng: np.random.Generator, batch: int) -> tuple[np.ndarray, list[str]]:
        index, decoded = self.ahead
        self.clips, self.ahead = decoded.result(), self._decode_next()
        return np.arange(batch), [self.sources[i].caption or "" for i in index]

    @property
    def video(self) -> Any:
        return _Encoded(
            self.shapes.video,
            lambda: self.bases.video.encode(torch.from_numpy(np.stack([c.video for c in self.clips]))),
        )

    @property
    def audio(self) -> Any:
        return _Encoded(
            self.shapes.audio,
            lambda: self.bases.audio.encode(torch.from_numpy(np.stack([c.audio for c in self.clips]))),
        )


@dataclasses.dataclass
class _Encoded:
    shape: tuple[int, ...]
    encode: Callable[[], Tensor]

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.encode().float().numpy()[index]


def read(path: Path) -> Any:
    return read_clip(path, fps=CUT.fps, size=(CUT.size, CUT.size), sample_rate=16_000)


class Timeline:
    """CPU seconds by label; ``switch`` sets the label for the time until the next switch."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.label, self.since = "", time.process_time()

    def switch(self, label: str) -> str:
        now = time.process_time()
        self.seconds[self.label] += now - self.since
        before, self.label, self.since = self.label, label, now
        return before

    def around(self, owner: Any, name: str, label: Callable[[], str]) -> None:
        """Attribute the time of the method ``name`` of ``owner`` to ``label()``."""
        inner = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            before = self.switch(label())
            result = inner(*arguments, **options)
            self.switch(before)
            return result

        setattr(owner, name, timed)


DATA, OPTIMISER = "data, noise, loss", "clipping, optimiser, average"
BEFORE = "frozen U-Nets, forward, before their first site"
FORWARD = {True: "frozen U-Nets, forward, gradient passes", False: "frozen U-Nets, self-conditioning pass"}
COUPLING = {True: "coupling, forward", False: "coupling, self-conditioning pass"}
BACK = "frozen U-Nets, backward"
COUPLING_BACK = "coupling, backward"
NO_GRADIENT = (BEFORE, FORWARD[False], COUPLING[False])


def watch(stage: Any, run: Run) -> Timeline:
    """Record a timeline of all following steps of ``run``."""
    timeline = Timeline()
    coupling = stage.coupling

    def on_gradient(tensor: Any, label: str) -> None:
        """Switch to ``label`` when the gradient of ``tensor`` is computed."""
        if isinstance(tensor, Tensor) and tensor.requires_grad:
            tensor.register_hook(lambda _: timeline.switch(label) and None)

    condition, features = coupling.condition, coupling.features

    def timed_condition(site: Any, x: Tensor, *rest: Any) -> Tensor:
        graph = torch.is_grad_enabled()
        timeline.switch(COUPLING[graph])
        on_gradient(x, BACK)
        result = condition(site, x, *rest)
        on_gradient(result, COUPLING_BACK)
        timeline.switch(FORWARD[graph])
        return result

    def timed_features(*arguments: Any) -> AV[Tensor]:
        timeline.switch(COUPLING[torch.is_grad_enabled()])
        result = features(*arguments)
        for feature in (result.audio, result.video):
            on_gradient(feature, COUPLING_BACK)
        timeline.switch(DATA)
        return result

    def enter(*_: Any) -> None:
        timeline.switch(BEFORE if torch.is_grad_enabled() else FORWARD[False])

    def leave(_module: Any, _arguments: Any, output: Any) -> None:
        on_gradient(output[0], BACK)
        timeline.switch(DATA)

    coupling.condition, coupling.features = timed_condition, timed_features
    for network in (stage.model.networks.audio, stage.model.networks.video):
        network.register_forward_pre_hook(enter)
        network.register_forward_hook(leave)
    # clip_grad_norm_, AdamW and the EMA update follow the backward pass in this order.
    timeline.around(run.optimizer, "step", lambda: OPTIMISER)
    timeline.around(run.ema, "step", lambda: OPTIMISER)
    return timeline


def steps(run: Run, first: int, count: int) -> tuple[float, float]:
    """Run ``count`` steps; returns CPU and wall-clock seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    for step in range(first, first + count):
        run.step(step, [None], Processes())
    return time.process_time() - cpu, time.perf_counter() - wall


def write_clips(root: Path, count: int) -> list[Source]:
    """Write clips as mp4 files, prepare and encode them; returns the files."""
    write_split("train", count, root / "files")
    sources = find_sources(root / "files", captions=root / "files" / "captions.csv")
    prepare(sources, root / "clips", CUT, Workers(1))
    bases = AV(audio=load_audio_base(BUNDLES / "hits/audio"), video=load_video_base(BUNDLES / "hits/video"))
    encode(root / "clips", root / "latents", lambda: bases)
    shutil.copytree(BUNDLES / "hits", root / "bundle")
    return sources.files


def start(stage: str, root: Path, sources: list[Source], files: bool) -> tuple[Any, Run]:
    """Set up a training of ``stage`` from latents or from files."""
    recipe = load_recipe(RECIPES / STAGES[stage])
    recipe = dataclasses.replace(
        recipe,
        bundle=str(root / "bundle"),
        data=DataConfig(source=str(root / "latents")),
        loop=dataclasses.replace(recipe.loop, precision="bfloat16", threads=1),
    )
    built: Any = build_stage(recipe)
    if files:
        whole = built if stage == "coupling" else built.whole
        whole.latents = Files(sources, whole.bases, recipe.loop.batch_size, whole.latents)
        built.clean = AV(audio=whole.latents.audio, video=whole.latents.video)
    return built, Run(built, recipe.loop, Processes())


def compare(runs: dict[str, Run], rounds: int, count: int) -> dict[str, Any]:
    """Run both in turns; returns clips per CPU second and per second, as medians over rounds."""
    for run in runs.values():
        steps(run, 0, 2)
    rows = []
    for number in range(rounds):
        row: dict[str, Any] = {}
        for name, run in runs.items():
            cpu, wall = steps(run, 2 + number * count, count)
            clips = count * run.config.batch_size
            row[name] = {"clips_per_cpu_s": round(clips / cpu, 3), "clips_per_s": round(clips / wall, 3)}
        rows.append(row)
    ratios = [row["latents"]["clips_per_cpu_s"] / row["files"]["clips_per_cpu_s"] for row in rows]
    medians = {
        name: {
            unit: round(statistics.median(row[name][unit] for row in rows), 3)
            for unit in ("clips_per_cpu_s", "clips_per_s")
        }
        for name in runs
    }
    return {
        "batch": runs["latents"].config.batch_size,
        **medians,
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
    }


def profile(stage: Any, run: Run, count: int) -> dict[str, Any]:
    """CPU seconds of a coupling step, and the fractions of its parts."""
    timeline = watch(stage, run)
    timeline.switch(DATA)
    steps(run, 0, count)
    timeline.switch("")
    timeline.seconds.pop("")
    total = sum(timeline.seconds.values())
    shares = {label: round(seconds / total, 4) for label, seconds in timeline.seconds.items()}
    return {
        "steps": count,
        "cpu_s_per_step": round(total / count, 4),
        "shares": dict(sorted(shares.items(), key=lambda item: -item[1])),
        "without_gradient": round(sum(shares.get(label, 0) for label in NO_GRADIENT), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds in which the two take turns")
    parser.add_argument(
        "--steps", type=int, default=4, help="steps of each per round; four times as many are profiled"
    )
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "command": f"python benchmarks/training.py --clips {given.clips} --rounds {given.rounds} "
        f"--steps {given.steps}"
    }
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        sources = write_clips(root, given.clips)
        for name in STAGES:
            started = {kind: start(name, root, sources, kind == "files") for kind in ("latents", "files")}
            runs = {kind: run for kind, (_, run) in started.items()}
            report[name] = compare(runs, given.rounds, given.steps)
            print(name, json.dumps(report[name]), flush=True)
        report["profile"] = profile(*started["latents"], 4 * given.steps)
    report["revision"] = checkpoints.describe(load_recipe(RECIPES / STAGES["coupling"]), 1)["revision"]
    report["load"] = round(os.getloadavg()[0], 2)
    for label, share in report["profile"]["shares"].items():
        print(f"{share:7.1%}  {label}")
    print(f"{report['profile']['without_gradient']:7.1%}  of these without a gradient")
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Do two processes with half the batch each train the same coupling as one? DDP, FSDP2 and ZeRO-2.

    python benchmarks/processes.py --json processes.json

A coupling of the included bases is trained for ``--steps`` on 8 clips of ``hits``, with every option that
draws random numbers. It is trained in one process, and in two processes over gloo on the CPU. The benchmark
prints the largest difference of any weight. AdamW divides a gradient by its own magnitude, so a weight whose
gradient is only rounding error moves by up to the learning rate in either direction. In float32 the
difference therefore grows with the learning rate. The runs in float64 show whether there is any other cause.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from kinetophone.av import AV
from kinetophone.bundle.spec import BUNDLES
from kinetophone.training import checkpoints
from kinetophone.training.loop import train
from kinetophone.training.options import CouplingOptions
from kinetophone.training.processes import Processes
from kinetophone.training.recipe import DataConfig, LoopConfig, Recipe
from kinetophone.training.stages import build_stage

KINDS: dict[str, list[str]] = {
    "DDP": ["--multi_gpu"],
    "FSDP2": ["--use_fsdp", "--fsdp_version", "2"],
    "ZeRO-2": ["--use_deepspeed", "--zero_stage", "2"],
}
# 8e-4 is about the learning rate of the hits recipes.
SETTINGS = (("float32", 2e-4), ("float32", 8e-4), ("float64", 8e-4))


def recipe_of(root: Path, lr: float, steps: int) -> Recipe:
    return Recipe(
        stage="coupling",
        name="tiny",
        data=DataConfig(count=8, size=32, cache=str(root / "cache")),
        bundle=str(root / "bundle"),
        model={"channel_mult": [1], "num_blocks": [1], "connector_channels": 32, "head_dim": 32},
        options=CouplingOptions(
            connector_dropout=0.1, aligned_share=0.5, noise_levels="mixed", one_clean=0.3
        ),
        loop=LoopConfig(steps=steps, batch_size=4, lr=lr, warmup=2, sample_every=0, threads=1),
    )


def learn(root: Path, out: Path, steps: int) -> None:
    """Train all settings in turn, in one process or as one of several."""
    torch.set_num_threads(1)
    processes = Processes.join("cpu")
    for dtype, lr in SETTINGS:
        if dtype == "float64" and processes.zero_stage:
            continue  # DeepSpeed keeps float32 copies of the weights
        recipe = recipe_of(root, lr, steps)
        with processes.first_process_first():
            stage: Any = build_stage(recipe)
        stage.export = lambda: None
        if dtype == "float64":
            in_float64(stage.model)
        train(stage, recipe.loop, out / f"{dtype}-{lr:g}", processes=processes)
    processes.leave()


def in_float64(model: Any) -> None:
    """Make the model compute in float64 for inputs of any dtype."""
    model.double()
    forward, features = model.forward, model.features

    def cast(pair: AV[Any] | None) -> AV[Any] | None:
        return pair and pair.map(lambda x: x.double())

    model.forward = lambda noisy, t, text, *rest, **more: forward(cast(noisy), t, cast(text), *rest, **more)
    model.features = lambda seen, t, x0_hat: features(cast(seen), t, cast(x0_hat))


def launch(kind: list[str], root: Path, out: Path, steps: int) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [
        sys.executable, "-m", "accelerate.commands.launch", *kind, "--num_processes", "2",
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
        "--main_process_port", port, __file__, "--worker", str(root), str(out), "--steps", str(steps),
    ]  # fmt: skip
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)


def difference(one: Path, two: Path) -> dict[str, float]:
    a, b = (checkpoints.load(checkpoints.find(folder)[-1]) for folder in (one, two))
    return {
        key: max(float((a[key][name] - b[key][name]).abs().max()) for name in a[key])
        for key in ("weights", "ema")
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        learn(*given.worker, given.steps)
        return
    root = Path(tempfile.mkdtemp(prefix="processes-"))
    shutil.copytree(BUNDLES / "hits", root / "bundle")
    learn(root, root / "one", given.steps)
    left_out = [] if find_spec("deepspeed") else ["ZeRO-2"]
    names = []
    for name, kind in KINDS.items():
        if name in left_out:
            print(f"{name} skipped: deepspeed is not installed")
            continue
        launch(kind, root, root / name, given.steps)
        names.append(name)
    rows = [
        {"kind": name, "dtype": dtype, "lr": lr}
        | difference(root / "one" / f"{dtype}-{lr:g}", root / name / f"{dtype}-{lr:g}")
        for name in names
        for dtype, lr in SETTINGS
        if (root / name / f"{dtype}-{lr:g}").exists()
    ]
    for row in rows:
        print(json.dumps(row))
    if given.json:
        described = checkpoints.describe(recipe_of(root, 1e-3, given.steps), 2)
        content = {
            "command": f"python benchmarks/processes.py --steps {given.steps}",
            "revision": described["revision"],
            "versions": described["versions"],
            "largest_difference": rows,
        }
        given.json.write_text(json.dumps(content, indent=1) + "\n")
    shutil.rmtree(root)


if __name__ == "__main__":
    main()

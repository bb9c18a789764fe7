"""Kill a coupling training at random times and compare its weights with an uninterrupted training.

    python benchmarks/kills.py --kills 10 --json kills.json

Each kill is a SIGKILL at a random time during start-up or the first steps. It can hit imports, loading of a
checkpoint, a step, or writing of a checkpoint. Every step writes a checkpoint, which is the hardest case.
After each kill, all checkpoints in the folder are loaded completely.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from kinetophone.bundle.spec import BUNDLES
from kinetophone.training import checkpoints

RECIPE: dict[str, Any] = {
    "stage": "coupling",
    "data": {"count": 8, "size": 32},
    "model": {"channel_mult": [1], "num_blocks": [1], "connector_channels": 32, "head_dim": 32},
    "options": {"connector_dropout": 0.1, "aligned_share": 0.5, "noise_levels": "mixed", "one_clean": 0.3},
    "loop": {
        "batch_size": 2, "lr": 1e-3, "warmup": 2, "ema_decay": 0.9, "sample_every": 0, "checkpoint_every": 1,
        "log_every": 1, "threads": 1,
    },
}  # fmt: skip


def start(recipe: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "kinetophone", "train", str(recipe), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def finish(process: subprocess.Popen[bytes]) -> None:
    if process.wait() != 0:
        raise SystemExit(f"an uninterrupted run ended with status {process.returncode}")


def newest(out: Path) -> int:
    found = checkpoints.find(out)
    return int(found[-1].stem.split("-")[1]) if found else 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="seed of the times")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="kills-"))
    shutil.copytree(BUNDLES / "hits", root / "bundle")
    recipe = root / "recipe.yaml"
    content = {**RECIPE, "bundle": str(root / "bundle")}
    content["data"] = {**RECIPE["data"], "cache": str(root / "cache")}
    content["loop"] = {**RECIPE["loop"], "steps": given.steps}
    recipe.write_text(yaml.safe_dump(content))

    finish(start(recipe, root / "whole"))
    rows = [json.loads(line) for line in (root / "whole" / "log.jsonl").read_text().splitlines()]
    step_s = (rows[-1]["time"] - rows[0]["time"]) / (len(rows) - 1)
    moments, out = random.Random(given.seed), root / "killed"
    kills: list[dict[str, Any]] = []
    while len(kills) < given.kills:
        left = given.kills - len(kills)
        before, process, began = newest(out), start(recipe, out), time.monotonic()
        # Kills are spread over the remaining steps; about one in four comes before the first new step.
        early = moments.random() < 0.25
        while not early and newest(out) == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 10 if early else step_s * (given.steps - before) / (left + 1)))
        if process.poll() is not None:
            raise SystemExit(f"the run ended before kill {len(kills) + 1}: increase --steps")
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = checkpoints.find(out)
        for path in found:
            checkpoints.load(path)
        kills.append(
            {
                "after_s": round(time.monotonic() - began, 2),
                "step": newest(out),
                "whole_checkpoints": len(found),
                "unfinished_files": len(list(out.glob("*.part"))) if out.exists() else 0,
            }
        )
        print(json.dumps(kills[-1]), flush=True)
    finish(start(recipe, out))
    one, two = (checkpoints.load(checkpoints.find(folder)[-1]) for folder in (root / "whole", out))
    difference = {
        key: max(float((one[key][name] - two[key][name]).abs().max()) for name in one[key])
        for key in ("weights", "ema")
    }
    report = {
        "command": "python " + " ".join(sys.argv),
        "steps": given.steps,
        "kills": kills,
        "largest_difference": difference,
        "made_by": two["made_by"]["revision"],
        "cpus": os.cpu_count(),
    }
    print(json.dumps({"largest_difference": difference}))
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")
    shutil.rmtree(root)
    if max(difference.values()) > 1e-6:
        raise SystemExit("the weights differ by more than 1e-6")


if __name__ == "__main__":
    main()

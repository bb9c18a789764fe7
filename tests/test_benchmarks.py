"""Each benchmark runs, at its smallest; what it measures is not looked at here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kinetophone.media import Clip

ROOT = Path(__file__).parents[1]
# Those that take more than a few seconds even so are among the slow tests.
SLOW = {
    "app_load": "--requests 4 --clients 2 --steps 1 --hostile 0.5 --keep-files 1",
    "efficiency": "--seconds 1 --clips 2 --count 4 --cells 1 --plot plot.png",
    "evaluate": "--clips 2 --workers 1",
    "kills": "--kills 1 --steps 2",
    "long": "--lengths 4 --modes fused --clips 1",
    "long_sound": "--minutes 0.2 --height 120",
    "many": "--clips 12 --made 2",
    "operations": "--size 64 --seconds 1",
    "processes": "--steps 1",
    "speed": "--steps 1 --repeat 1",
    "training": "--clips 2 --rounds 1 --steps 1",
}


def ran(folder: Path, name: str, *arguments: str) -> str:
    """What a benchmark prints; run in ``folder``."""
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / f"{name}.py", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def result_of(folder: Path, name: str, arguments: str) -> Any:
    ran(folder, name, *arguments.split(), "--json", "results.json")
    return json.loads((folder / "results.json").read_text())


def test_all_benchmarks_are_run() -> None:
    names = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert names == {*SLOW, "full_size", "memory", "lag", "flow"}


def test_the_full_size_benchmark_runs_narrow(tmp_path: Path) -> None:
    rows = result_of(tmp_path, "full_size", "--narrow 40 --size 64 --frames 4 --repeat 1")["rows"]
    assert [row["row"] for row in rows] == ["bases", "joint", "train"]
    assert all(row["seconds"] > 0 and row["peak_gib"] > 0 for row in rows)


def test_the_lag_benchmark_finds_the_delays_of_a_clip(
    tmp_path: Path, make_struck_clip: Callable[..., Clip]
) -> None:
    make_struck_clip((0.5, 1.25, 2.5, 3.25)).save(tmp_path / "clips" / "clip.mp4")
    found = result_of(tmp_path, "lag", "clips --delays 0.2 0.2")
    assert found["n"] == 3
    assert found["told from 0"]["0"] == 0
    late = found["on a grid of 0.2 s"][-1]
    assert late["delay"] == late["best on the grid, signed"] == late["lags on the grid, absolute"] == 0.2


def test_the_flow_benchmark_scores_clips_both_ways(
    tmp_path: Path, make_struck_clip: Callable[..., Clip]
) -> None:
    make_struck_clip((0.5, 1.25, 2.5, 3.25), size=64).save(tmp_path / "clips" / "clip.mp4")
    align = result_of(tmp_path, "flow", "clips")["measures"]["av_align_svg"]
    assert align["fast"] == align["exact"]  # such small frames are not shrunk


@pytest.mark.slow
def test_the_memory_benchmark_writes_a_table(tmp_path: Path) -> None:
    lines = ran(tmp_path, "memory", "--size", "64", "--seconds", "1").splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["float32", "bfloat16"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_benchmark_runs_at_its_smallest(tmp_path: Path, name: str) -> None:
    assert result_of(tmp_path, name, SLOW[name])

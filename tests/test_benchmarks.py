"""Benchmarks run; what they measure is not looked at here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_full_size_benchmark_runs_narrow(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    small = ["--narrow", "40", "--size", "64", "--frames", "4", "--repeat", "1"]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "full_size.py", *small, "--json", results],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(results.read_text())["rows"]
    assert [row["row"] for row in rows] == ["bases", "joint", "train"]
    assert all(row["seconds"] > 0 and row["peak_gib"] > 0 for row in rows)

"""Time and memory of the alignment metrics: ``python benchmarks/evaluate.py [--clips 50 200] [--json FILE]``.

Writes ``hits`` clips of 4 s at 8 fps, 256 x 256, and evaluates the first 50 and all 200 of them like
``kinetophone evaluate``, each time in a new process. Memory does not depend on the number of clips if the
peaks of both runs are similar, both for the scoring process and for its largest worker.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from kinetophone.hits.write import write_split
from kinetophone.metrics.evaluate import evaluate
from kinetophone.metrics.sources import find_clips

SIZE = 256


def measure(files: Sequence[Path], workers: int) -> dict[str, Any]:
    """Evaluate files; returns seconds and peak memory in MiB. Call it in a new process."""
    # Memory of the imports, before any clip is read.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    report = evaluate(files, workers=workers)
    seconds = time.perf_counter() - start
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "clips": report.clips,
        "scored": report.clips - len(report.unscored),
        "seconds": round(seconds, 1),
        "cpu_seconds_of_workers": round(spent.ru_utime + spent.ru_stime, 1),
        "peak_mib_before": before // 1024,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "peak_mib_of_largest_worker": spent.ru_maxrss // 1024,
        "load": round(os.getloadavg()[0], 2),
    }


def main() -> None:
    """Print one line per number of clips, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        write_split("test", max(arguments.clips), Path(folder), SIZE)
        print("clips written", flush=True)
        for count in arguments.clips:
            # A new process each time, because the peak memory of a process never decreases.
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
                runs.append(fresh.submit(measure, find_clips(folder)[:count], arguments.workers).result())
            print(json.dumps(runs[-1]), flush=True)
    if arguments.json is not None:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        result = {
            "command": "python benchmarks/evaluate.py",
            "commit": commit.stdout.strip(),
            "clips": f"hits test, 4 s at 8 fps, {SIZE} x {SIZE}",
            "workers": arguments.workers,
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "runs": runs,
        }
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

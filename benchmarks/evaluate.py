"""Time and memory of the alignment metrics: ``python benchmarks/evaluate.py [--clips 200] [--workers 2]``.

Writes ``hits`` clips of 4 s at 8 fps, 256 x 256, and evaluates them as ``kinetophone evaluate`` does. The
memory printed is the parent's and the largest worker's peak; with 50 and with 200 clips they should be alike.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import tempfile
import time
from pathlib import Path

from kinetophone.data.hits.write import write_split
from kinetophone.metrics.evaluate import evaluate
from kinetophone.metrics.sources import find_clips


def main() -> None:
    """Print one line of results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--size", type=int, default=256)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_split("test", arguments.clips, Path(folder), arguments.size)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        report = evaluate(find_clips(folder), workers=arguments.workers)
        seconds = time.perf_counter() - start
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = workers.ru_utime + workers.ru_stime
    print(
        f"{report.clips} clips of 4 s at {arguments.size} px, {arguments.workers} workers: {seconds:.1f} s "
        f"({busy:.1f} s of CPU in workers), peak {before / 1024:.0f} MiB before, "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB parent, "
        f"{workers.ru_maxrss / 1024:.0f} MiB largest worker; "
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {platform.machine()}"
    )


if __name__ == "__main__":
    main()

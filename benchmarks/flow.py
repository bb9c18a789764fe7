"""The fast optical flow against the published size: ``python benchmarks/flow.py FOLDER [--json FILE]``.

Reads every clip of FOLDER as ``kinetophone evaluate`` does, and with ``--exact``. Prints the CPU seconds of
each clip, and the scores of the set with their shuffled controls by both. One thread.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import cv2

from kinetophone.metrics.evaluate import ClipEvents, detect_one, find_clips, score

MEASURES = ("av_align_svg", "av_align_2023", "av_align_2025", "event_f1", "contact_f1", "contact_f1_100ms")


def main() -> None:
    """Print one line for each clip and each measure, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    files = find_clips(arguments.folder)
    detect_one(files[0])  # what is imported and compiled once for each process is not counted
    found: dict[str, list[ClipEvents]] = {"fast": [], "exact": []}
    rows: list[dict[str, Any]] = []
    for path in files:
        row: dict[str, Any] = {"name": path.name}
        for way, events in found.items():
            start = time.process_time()
            one = detect_one(path, exact=way == "exact")
            if isinstance(one, ClipEvents):
                row[way] = round(time.process_time() - start, 2)
                row["seconds"] = round(len(one.flow) / one.fps, 2)
                row["fps"] = round(one.fps, 2)
                events.append(one)
        rows.append(row)
        print(row, flush=True)
    reports = {way: score(events).metrics for way, events in found.items()}
    measures = {
        name: {
            way: {"value": metrics[name].value, "shuffled": metrics[name].shuffled}
            for way, metrics in reports.items()
        }
        for name in MEASURES
    }
    for name, ways in measures.items():
        print(name, {way: {key: round(v or 0, 4) for key, v in of.items()} for way, of in ways.items()})
    if arguments.json:
        arguments.json.write_text(json.dumps({"clips": rows, "measures": measures}, indent=1) + "\n")


if __name__ == "__main__":
    main()

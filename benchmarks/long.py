"""Long clips: peak memory and time by length, and sync over the length of a clip.

    python benchmarks/long.py --json docs/results/long.json

Each length is measured in a new process of the command line, for its own peak memory.

Sync is event F1, with a tolerance of one frame, in windows of 4 s. There is one row per start time of the
window: the number of scored clips, their onsets and strikes, and the mean with its 95 % interval over clips.
``shuffled`` is the same with the audio of other clips, and ``shuffled_range`` its range over shuffled sets.
``slope_per_min`` is the change of F1 per minute over all windows, by least squares; its interval comes from
resampling entire clips. Sync is stable if that interval is narrow and contains 0. A single clip has neither
intervals nor a shuffled baseline.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from kinetophone.hits import make_scene
from kinetophone.media.clip import Clip
from kinetophone.media.read import read_clip
from kinetophone.metrics.control import bootstrap_statistic
from kinetophone.metrics.evaluate import Report, evaluate

WINDOW_S = 4
_ONE = """
import resource, sys
from kinetophone.cli import app
try:
    app(sys.argv[1:])
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def run(prompt: str, seconds: int, mode: str, seed: int, out: Path) -> dict[str, float]:
    """Generate one clip in a new process; returns seconds and peak memory in MiB."""
    command = ["generate", prompt, "-o", str(out), "--seconds", str(seconds), "--seed", str(seed)]
    command += ["--stream"] if mode == "stream" else []
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", _ONE, *command], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = int(done.stdout.split()[-1]) / 1024
    return {"wall_s": round(time.monotonic() - start, 1), "cpu_s": round(cpu, 1), "peak_mib": round(peak)}


def part(clip: Clip, second: int) -> Clip:
    """The window of ``clip`` that starts at ``second``."""
    fps, rate = int(clip.fps), clip.sample_rate
    frames, samples = (slice(second * n, (second + WINDOW_S) * n) for n in (fps, rate))
    return replace(clip, video=clip.video[frames], audio=clip.audio[samples])


def row(report: Report, second: int) -> dict[str, Any]:
    """The row of the table for one window."""
    counts = {kind: sum(len(clip[kind]) for clip in report.rows) for kind in ("onsets_s", "strikes_s")}
    found = {"from_s": second, "clips": len(report.rows), "silent_and_still": len(report.unscored)}
    found |= {"onsets": counts["onsets_s"], "strikes": counts["strikes_s"]}
    if "event_f1" not in report.metrics:
        return found
    score = report.metrics["event_f1"]
    found |= {"event_f1": score.value, "shuffled": score.shuffled}
    if score.n > 1 and score.shuffled_range:
        found |= {"interval": asdict(score.interval), "shuffled_range": asdict(score.shuffled_range)}
    return found


def trend(f1: np.ndarray) -> dict[str, Any]:
    """Mean and change per minute of F1 (clips, windows), which is NaN for windows without events."""
    minutes = np.broadcast_to(np.arange(f1.shape[1]) * WINDOW_S / 60, f1.shape)

    def slope(some: np.ndarray) -> float:
        there = ~np.isnan(some)
        return float(np.polyfit(minutes[there], some[there], 1)[0])

    found: dict[str, Any] = {"event_f1": float(np.nanmean(f1)), "windows": int((~np.isnan(f1)).sum())}
    if f1.shape[1] > 1:
        found["slope_per_min"] = slope(f1)
        if len(f1) > 1:
            found["slope_interval"] = asdict(bootstrap_statistic(f1, slope, 0))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[4, 16, 60], help="seconds")
    parser.add_argument("--modes", nargs="+", default=["fused", "stream"], choices=["fused", "stream"])
    parser.add_argument(
        "--clips", type=int, default=4, help="number of clips of the longest length, for sync"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        for mode in options.modes:
            rows, longest = {}, max(options.lengths)
            prompts = [make_scene("test", i)[1] for i in range(options.clips)]
            for seconds in options.lengths:
                rows[seconds] = run(prompts[0], seconds, mode, 0, Path(folder) / f"{mode}-{seconds}-0.mp4")
                print(mode, f"{seconds} s:", rows[seconds], flush=True)
            paths = [Path(folder) / f"{mode}-{longest}-{i}.mp4" for i in range(options.clips)]
            for i in range(1, options.clips):
                run(prompts[i], longest, mode, i, paths[i])
            clips = [read_clip(path) for path in paths]
            sync, f1 = [], np.full((options.clips, longest // WINDOW_S), np.nan)
            for k in range(longest // WINDOW_S):
                report = evaluate([part(clip, k * WINDOW_S) for clip in clips], workers=1)
                for scored in report.rows:
                    f1[int(scored["name"]), k] = scored["event_f1"]
                sync.append(row(report, k * WINDOW_S))
                print(mode, sync[-1], flush=True)
            found[mode] = {"lengths": rows, "sync": sync, "over_time": trend(f1)}
            print(mode, found[mode]["over_time"], flush=True)
    if options.json:
        options.json.write_text(json.dumps({"clips": options.clips, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()

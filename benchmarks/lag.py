"""How exactly the lag of one file is measured: ``python benchmarks/lag.py FOLDER [--json FILE]``.

The audio of each clip in FOLDER, which must be in sync, is delayed by known amounts. Each time the lag is
measured as ``kinetophone sync`` does. The table tells the error of the estimate, the share of the intervals
that hold the true delay, their width, and how often a delay is told from 0.

The second table tells what a grid of 0.2 s leaves of it, DeSync's 21 classes: the absolute and the signed
mean over the clips of our lags, of the same lags moved to the nearest class, and of a network that always
finds the class nearest to the true delay.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from kinetophone.media.onsets import onset_strength
from kinetophone.media.read import placed, read_clip
from kinetophone.metrics.contacts import contact_curve
from kinetophone.metrics.kinds.desync import OFFSETS_S
from kinetophone.metrics.sources import find_clips
from kinetophone.metrics.sync import COMMON_LAG_S, LARGEST_LAG_S
from kinetophone.metrics.synchrony import find_lag, lag_evidence
from kinetophone.text import markdown_table


def measure(path: Path, delays_s: np.ndarray) -> list[dict[str, float]]:
    """The lag of a clip at each delay; a delay without any evidence is left out."""
    clip = read_clip(path)
    curve, audio, fps = contact_curve(clip.video), clip.mono, float(clip.fps)
    rows = []
    for delay in delays_s:
        late = placed(audio, round(delay * clip.sample_rate), len(audio))
        evidence = lag_evidence(curve, fps, onset_strength(late, clip.sample_rate), LARGEST_LAG_S)
        lag = find_lag(evidence, COMMON_LAG_S, 1 / fps)
        if lag is not None:
            low, high = lag.interval.low, lag.interval.high
            rows.append({"delay": float(delay), "lag": lag.lag_s, "low": low, "high": high})
    return rows


def summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Figures over clips and delays."""
    delay, lag, low, high = (np.array([row[key] for row in rows]) for key in ("delay", "lag", "low", "high"))
    error, told = np.abs(lag - delay), (low > 0) | (high < 0)
    size = np.round(np.abs(delay), 3)
    return {
        "n": len(rows),
        "median error": float(np.median(error)),
        "error, 90 %": float(np.quantile(error, 0.9)),
        "bias": float(np.median(lag - delay)),
        "intervals that hold the delay": float(np.mean((low <= delay + 1e-9) & (delay <= high + 1e-9))),
        "median width": float(np.median(high - low)),
        "told from 0": {f"{s:g}": float(told[size == s].mean()) for s in sorted(set(size))},
    }


def on_grid(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """For each delay: absolute and signed means in seconds, of our lags and on DeSync's grid."""
    delays, lags = (np.array([row[key] for row in rows]) for key in ("delay", "lag"))
    delays = np.round(delays, 3)
    table = []
    for delay in sorted(set(delays)):
        ours = lags[delays == delay]
        means = {"lags": ours, "lags on the grid": nearest(ours), "best on the grid": nearest(delay)}
        line = {"delay": float(delay)}
        for name, values in means.items():
            line[f"{name}, absolute"] = round(float(np.mean(np.abs(values))), 3)
            line[f"{name}, signed"] = round(float(np.mean(values)), 3)
        table.append(line)
    return table


def nearest(offsets_s: np.ndarray | float) -> np.ndarray:
    """The nearest of DeSync's classes, in seconds; between two classes, the one nearer to 0."""
    grid = np.array(sorted(OFFSETS_S, key=abs))
    return grid[np.abs(np.asarray(offsets_s)[..., None] - grid).round(6).argmin(axis=-1)]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--delays", type=float, nargs=2, default=(0.4, 0.02), metavar=("LARGEST", "STEP"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    largest, step = options.delays
    delays = np.arange(-round(largest / step), round(largest / step) + 1) * step
    rows = [row for path in find_clips(options.folder) for row in measure(Path(path), delays)]
    found = summary(rows)
    for name, value in found.items():
        print(f"{name:30} {value if isinstance(value, (int, dict)) else round(value, 3)}")
    table = on_grid(rows)
    print(
        "\n".join(markdown_table(list(table[0]), [[f"{cell:g}" for cell in line.values()] for line in table]))
    )
    found["on a grid of 0.2 s"] = table
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

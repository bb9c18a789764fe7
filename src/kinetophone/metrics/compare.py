"""Paired comparison of two systems on the same prompts.

Confidence intervals of two means often overlap even if one system is clearly better, because most of their
width comes from differences between prompts. Pairing by prompt removes that part of the variance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kinetophone.errors import MediaError
from kinetophone.metrics.control import Interval, bootstrap_interval
from kinetophone.metrics.evaluate import METRICS
from kinetophone.text import read_json


@dataclass(frozen=True, slots=True)
class Difference:
    """Paired difference of one metric between two sets.

    Attributes:
        first: Mean of the first set, over pairs.
        second: Mean of the second set, over pairs.
        difference: First minus second.
        interval: 95 % bootstrap confidence interval of the difference, over pairs.
        first_higher: Fraction of pairs in which the first set has the higher value; ties count half.
        n: Number of pairs.
    """

    first: float
    second: float
    difference: float
    interval: Interval
    first_higher: float
    n: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Differences by metric, and the names of clips that were scored in one set only."""

    metrics: dict[str, Difference]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and dictionaries, ready for JSON."""
        return asdict(self)


def compare(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], *, seed: int = 0
) -> Comparison:
    """Compare the rows of two reports, paired by clip name without suffix.

    Args:
        first: ``Report.rows`` of the first set, or the same from its JSON.
        second: The rows of the second set.
        seed: Seed of the bootstrap.

    Returns:
        The differences of all metrics in ``METRICS``.

    Raises:
        MediaError: The sets have no name in common.
    """
    one, other = ({Path(row["name"]).stem: row for row in rows} for rows in (first, second))
    names = sorted(one.keys() & other.keys())
    if not names:
        raise MediaError("no clip of the first set has a clip of the same name in the second")
    metrics = {}
    for metric in METRICS:
        pairs = np.array([(one[name][metric], other[name][metric]) for name in names], np.float64)
        gain = pairs[:, 0] - pairs[:, 1]
        metrics[metric] = Difference(
            first=float(pairs[:, 0].mean()),
            second=float(pairs[:, 1].mean()),
            difference=float(gain.mean()),
            interval=bootstrap_interval(gain, seed),
            first_higher=float(np.mean((gain > 0) + 0.5 * (gain == 0))),
            n=len(names),
        )
    return Comparison(
        metrics, tuple(sorted(one.keys() - other.keys())), tuple(sorted(other.keys() - one.keys()))
    )


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a report written by ``kinetophone evaluate DIR --json``.

    Raises:
        MediaError: The file is not such a report.
    """
    try:
        rows = read_json(path)["clips"]["rows"]
        missing = [metric for row in rows for metric in ("name", *METRICS) if metric not in row]
    except (ValueError, KeyError, TypeError) as error:
        raise MediaError(f"'{path}' is not a report of kinetophone evaluate DIR ({error!r})") from error
    if missing:
        raise MediaError(f"'{path}' lacks {missing[0]}; write it again with this version")
    return rows

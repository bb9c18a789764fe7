"""Two systems on the same prompts: differences clip by clip.

The intervals of two means overlap easily where one system is plainly better, since most of their width is
how much the prompts differ. Pairing by prompt takes that out.
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
    """One measure of two sets, paired.

    Attributes:
        first: Mean over the pairs, first set.
        second: The same, second set.
        difference: First minus second.
        interval: Its 95 % bootstrap interval over pairs.
        first_higher: Share of pairs in which the first set's value is higher; ties count half.
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
    """Differences by measure, and the names that only one of the sets could be scored on."""

    metrics: dict[str, Difference]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and dictionaries, ready for JSON."""
        return asdict(self)


def compare(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], *, seed: int = 0
) -> Comparison:
    """Compare the rows of two reports, paired by the clips' names without suffix.

    Args:
        first: ``Report.rows`` of one set, or the same from its JSON.
        second: Those of the other set.
        seed: Of the bootstrap.

    Raises:
        MediaError: No name is in both sets.
    """
    one, other = ({Path(row["name"]).stem: row for row in rows} for rows in (first, second))
    names = sorted(one.keys() & other.keys())
    if not names:
        raise MediaError("no clip of the first set has a partner of the same name in the second")
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
    """The rows of a report that ``kinetophone evaluate DIR --json`` wrote.

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

"""Paired comparison of two sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kinetophone.errors import MediaError
from kinetophone.metrics.compare import compare, read_rows
from kinetophone.metrics.evaluate import METRICS


def rows(values: dict[str, float]) -> list[dict[str, float | str]]:
    return [{"name": name, **dict.fromkeys(METRICS, value)} for name, value in values.items()]


def test_pairs_are_found_by_name_and_the_rest_is_listed() -> None:
    found = compare(
        rows({"a.mp4": 0.5, "b.mp4": 0.75, "x.mp4": 1}), rows({"b.webm": 0.5, "a.webm": 0.5, "y.mp4": 0})
    )
    row = found.metrics["contact_f1"]
    assert (row.first, row.second, row.difference, row.n) == (0.625, 0.5, 0.125, 2)
    assert row.first_higher == 0.75
    assert (found.only_first, found.only_second) == (("x",), ("y",))
    assert json.loads(json.dumps(found.to_dict()))["metrics"]["contact_f1"]["n"] == 2


def test_pairing_sees_what_two_intervals_do_not() -> None:
    rng = np.random.default_rng(0)
    prompts = rng.uniform(0, 1, 60)
    one = rows({str(i): value + 0.05 for i, value in enumerate(prompts)})
    other = rows(
        {
            str(i): value + noise
            for i, (value, noise) in enumerate(zip(prompts, rng.normal(0, 0.02, 60), strict=True))
        }
    )
    interval = compare(one, other).metrics["event_f1"].interval
    assert 0.03 < interval.low < interval.high < 0.07


def test_nothing_to_pair() -> None:
    with pytest.raises(MediaError, match="no clip of the first set has a clip of the same name"):
        compare(rows({"a": 1}), rows({"b": 1}))


def test_files_that_are_no_reports(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[]")
    with pytest.raises(MediaError, match="is not a report of kinetophone evaluate DIR"):
        read_rows(path)
    path.write_text('{"clips": {"rows": [{"name": "a"}]}}')
    with pytest.raises(MediaError, match="lacks event_f1; write it again"):
        read_rows(path)

"""The report that two files of tests look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from kinetophone.media import Clip
from kinetophone.metrics.control import Interval
from kinetophone.metrics.evaluate import evaluate
from kinetophone.metrics.kinds.desync import Desync
from kinetophone.metrics.registry import Scores
from kinetophone.metrics.report import write_report

MakeClip = Callable[..., Clip]


@pytest.fixture
def report_page(tmp_path: Path, make_struck_clip: MakeClip) -> Path:
    folder = tmp_path / "clips <1>"
    for name, strikes_s in {"a.mp4": [0.5, 2.0], "b.mp4": [1.0, 3.0]}.items():
        make_struck_clip(strikes_s, size=64).save(folder / name)
    make_struck_clip([2.5], size=64).save(folder / "b.wav")
    (folder / "c.mp4").write_bytes(b"no film")
    report = evaluate([folder / name for name in ("a.mp4", "b.mp4", "c.mp4")])
    captions = {"a.mp4": "a <bowl> & a drum"}
    quality = Scores({}, {}, Desync(0.25, Interval(0.2, 0.3), -0.1, Interval(-0.2, 0.0), n=2, short=2))
    results = {"clips": report.to_dict(), "quality": asdict(quality)}
    return write_report(results, folder, tmp_path / "report.html", captions=captions)

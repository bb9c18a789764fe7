"""The report that two files of tests look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from kinetophone.media import Clip
from kinetophone.metrics.control import Interval
from kinetophone.metrics.evaluate import evaluate
from kinetophone.metrics.kinds.desync import Desync
from kinetophone.metrics.registry import Scores
from kinetophone.metrics.report import write_report

MakeClip = Callable[..., Clip]


@pytest.fixture
def make_jolted_clip(make_struck_clip: MakeClip) -> MakeClip:
    """Clips whose audio is struck, and whose frames of 320 x 320 move by 6 pixels at each strike."""

    def make(strikes_s: list[float]) -> Clip:
        clip = make_struck_clip(strikes_s)
        ground = np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)
        ground = cv2.resize(ground, (320, 320), interpolation=cv2.INTER_CUBIC)
        moved = [6 * sum(frame / 8 >= strike for strike in strikes_s) for frame in range(len(clip.video))]
        return replace(clip, video=np.stack([np.roll(ground, by, axis=0) for by in moved]))

    return make


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

"""The report, as a file and as a browser draws it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from kinetophone.media import Clip
from kinetophone.metrics.control import Interval
from kinetophone.metrics.evaluate import evaluate
from kinetophone.metrics.quality import Desync, Quality
from kinetophone.metrics.report import write_report

MakeClip = Callable[..., Clip]


@pytest.fixture
def page(tmp_path: Path, make_struck_clip: MakeClip) -> Path:
    folder = tmp_path / "clips <1>"
    for name, strikes_s in {"a.mp4": [0.5, 2.0], "b.mp4": [1.0, 3.0]}.items():
        make_struck_clip(strikes_s, size=64).save(folder / name)
    make_struck_clip([2.5], size=64).save(folder / "b.wav")
    (folder / "c.mp4").write_bytes(b"no film")
    report = evaluate([folder / name for name in ("a.mp4", "b.mp4", "c.mp4")])
    captions = {"a.mp4": "a <bowl> & a drum"}
    quality = Quality({}, {}, Desync(0.25, Interval(0.2, 0.3), n=2, short=2))
    results = {"clips": report.to_dict(), "quality": quality.to_dict()}
    return write_report(results, folder, tmp_path / "report.html", captions=captions)


def test_it_is_one_file_with_everything_in_it(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert "<script" not in text
    assert "clips &lt;1&gt;" in text
    assert "a &lt;bowl&gt; &amp; a drum" in text
    assert "cannot be read as media" in text
    assert "DeSync: 0.250 s (0.200 to 0.300), even guesses 1.05; n 2, 2 of them shorter" in text
    assert text.count("<svg") == 2
    assert text.count("<video") == 2
    for measure in ("av_align_svg", "av_align_2023", "av_align_2025", "contact_f1", "synchrony"):
        assert f"<td>{measure}<td>" in text


def test_a_browser_shows_it(page: Path, tmp_path: Path) -> None:
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((path for name in names if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    picture = tmp_path / "page.png"
    # Headless Chromium without what asks the network or a graphics card for anything.
    switches = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars
        --disable-background-networking --disable-component-update --disable-sync"""
    subprocess.run(
        [browser, *switches.split(), f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1100,2200",
         f"--screenshot={picture}", page.as_uri()],
        check=True, capture_output=True, timeout=180,
    )  # fmt: skip
    drawn = cv2.cvtColor(cv2.imread(str(picture)), cv2.COLOR_BGR2RGB).astype(int)
    assert drawn.shape == (2200, 1100, 3)

    def pixels(colour: tuple[int, int, int]) -> int:
        return int((np.abs(drawn - colour).max(axis=-1) < 24).sum())

    assert pixels((27, 127, 59)) > 100  # onsets
    assert pixels((194, 37, 92)) > 100  # contacts
    assert pixels((230, 40, 30)) > 500  # the red square in the clips' frames
    assert pixels((157, 180, 208)) > 300  # waveforms

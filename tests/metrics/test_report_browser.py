"""The report in a real browser: what it draws, that it plays, and that it asks nobody for anything."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

# Greenlets of playwright leave sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

WIDTH = 1100


@pytest.fixture
def shown(report_page: Path) -> Iterator[tuple[Any, list[str]]]:
    """The page, and everything that went wrong or was asked for while it loaded."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((path for name in names if (path := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900})
        noticed: list[str] = []
        page.on("console", lambda message: noticed.append(message.text))
        page.on("pageerror", lambda error: noticed.append(str(error)))
        page.on(
            "request",
            lambda request: (
                noticed.append(request.url[:80]) if not request.url.startswith(("file:", "data:")) else None
            ),
        )
        page.goto(report_page.as_uri())
        yield page, noticed
        browser.close()


def test_a_browser_shows_it(shown: tuple[Any, list[str]]) -> None:
    page, noticed = shown
    assert page.title() == "Synchrony of clips <1>"
    assert page.locator("svg").count() == 2
    assert page.evaluate("document.documentElement.scrollWidth") <= WIDTH
    picture = cv2.imdecode(np.frombuffer(page.screenshot(full_page=True), np.uint8), cv2.IMREAD_COLOR)
    drawn = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(int)

    def pixels(colour: tuple[int, int, int]) -> int:
        return int((np.abs(drawn - colour).max(axis=-1) < 24).sum())

    assert pixels((27, 127, 59)) > 100  # onsets
    assert pixels((194, 37, 92)) > 100  # contacts
    assert pixels((122, 90, 240)) > 30  # peaks of the flow
    assert pixels((230, 40, 30)) > 500  # the red square in the clips' frames
    assert pixels((157, 180, 208)) > 300  # waveforms
    assert noticed == []


def test_its_clips_play(shown: tuple[Any, list[str]]) -> None:
    page, _ = shown
    video_files = page.locator("video")
    assert video_files.count() == 2
    for index in range(2):
        video_file = video_files.nth(index)
        video_file.evaluate("film => { film.muted = true; return film.play() }")
        page.wait_for_function("film => film.currentTime > 0", arg=video_file.element_handle())
        assert video_file.evaluate("film => film.duration") == pytest.approx(4, abs=0.2)
        assert video_file.evaluate("film => film.videoWidth") == 64

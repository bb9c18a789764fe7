"""Take the picture of the app: docs/images/app.png, after the second of its examples was made.

Needs Chromium. Run from the repository's root: .venv/bin/python docs/app_picture.py
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).parent / "images" / "app.png"
PROMPT = "a hammer hits a wooden box twice slowly"
PATIENCE_MS = 300_000


def main() -> None:
    """Start the app, make a clip in it as a user would, and take the page's picture."""
    command = [sys.executable, "-m", "kinetophone", "app", "--port", "0", "--device", "cpu"]
    app = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert app.stdout is not None
        address = next(found[1] for line in app.stdout if (found := re.search(r"app on (http\S+)", line)))
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            page = chromium.new_page(viewport={"width": 1000, "height": 900})
            page.set_default_timeout(PATIENCE_MS)
            page.goto(address)
            panel = page.locator('[role="tabpanel"]:visible')
            panel.get_by_text(PROMPT).click()
            panel.get_by_label("Seed").fill("1")
            panel.get_by_role("button", name="Generate", exact=True).click()
            panel.locator(".view figure svg").wait_for()
            video_file = panel.locator("video")
            page.wait_for_function("v => v.readyState > 0", arg=video_file.element_handle())
            video_file.evaluate("v => { v.pause(); v.currentTime = 1 }")
            page.wait_for_timeout(1000)
            page.screenshot(path=PICTURE, full_page=True)
            chromium.close()
    finally:
        app.terminate()
        app.wait()


if __name__ == "__main__":
    main()

"""The app as its users meet it: ``kinetophone app`` on the real bundle, over HTTP and in Chromium."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinetophone.media import Clip
from kinetophone.media.read import read_clip

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:(httpx|gradio_client|websockets|playwright).*"
)
MakeClip = Callable[..., Clip]
PATIENCE_S = 240  # machines that run the tests are slow and shared


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("app")


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[str]:
    """Its address; what it leaves behind is checked when it has ended."""
    for folder in ("here", "tmp"):
        (place / folder).mkdir()
    with (place / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "kinetophone", "app", "--port", "0", "--device", "cpu"],
            cwd=place / "here", stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(place / "tmp")},
        )  # fmt: skip
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not (found := re.search(r"app on (http\S+)", (place / "log").read_text())):
            assert process.poll() is None, (place / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert (place / "log").read_text().startswith("loading the page and the model\n")
        yield found[1].rstrip("/")
        assert not list((place / "here").iterdir()), "nothing is written where it was started"
        assert {p.name[:16] for p in (place / "tmp").iterdir()} == {"kinetophone-app-"}
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)
        assert not list((place / "tmp").iterdir()), "its folder goes with it"
        # Gradio's own tell of values that it could not take.
        assert "kinetophone/app/" not in (place / "log").read_text()
    finally:
        process.kill()
        process.wait()


def test_the_python_client_makes_clips_and_is_refused(server: str, place: Path) -> None:
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(server, verbose=False, download_files=str(place / "downloads"))
    video_file, files, strip, scores = client.predict(
        prompt="a drumstick hits a metal bowl", seed=1, steps=2, guidance_sync="6,4", api_name="/generate"
    )
    assert read_clip(video_file).time.frames == 32
    assert [Path(file).name for file in files] == ["clip.mp4", "clip.wav", "settings.json"]
    assert json.loads(Path(files[2]).read_text())["steps"] == 2
    assert strip.count("<image") == 12
    assert 0 <= scores["event_f1"] <= 1
    strip, scores = client.predict(upload=handle_file(video_file), detector="contacts", api_name="/measure")
    assert "contact F1" in strip
    assert scores["fps"] == 8
    silent = Clip(np.zeros((32, 64, 64, 3), np.uint8), Fraction(8), np.zeros(64_000, np.float32), 16_000)
    video_file, _, strip, scores = client.predict(
        upload=handle_file(silent.save(place / "silent.wav")), prompt="a drum", steps=1, api_name="/picture"
    )
    assert read_clip(video_file).time.frames == 32
    assert "cannot be measured: the audio is silent" in strip
    assert scores is None
    with pytest.raises(AppError, match="the prompt is empty"):
        client.predict(prompt="", api_name="/generate")
    with pytest.raises(AppError, match="there is no file; upload a file with audio first"):
        client.predict(prompt="a drum", api_name="/picture")


def test_the_documented_calls_work(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of docs/app.md that call a server, with this one's address."""
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs" / "app.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(sh|python)\n(.*?)```", text.replace("http://127.0.0.1:7860", server), re.DOTALL)
    calls = {language: code for language, code in blocks if server in code}
    subprocess.run(["bash", "-euo", "pipefail", "-c", calls["sh"]], check=True, timeout=PATIENCE_S)
    assert read_clip(tmp_path / "bowl.mp4").time.frames == 32
    exec(compile(calls["python"], "docs/app.md", "exec"), {})


def test_a_cancelled_request_frees_its_place(server: str) -> None:
    from gradio_client import Client

    first, second = (Client(server, verbose=False, download_files=False) for _ in range(2))
    running = first.submit(prompt="a drum", steps=1000, api_name="/generate")
    next(text for *_, text, _ in _outputs(running) if "of 1000" in text)
    waiting = second.submit(prompt="a drum", steps=1000, api_name="/generate")
    next(text for *_, text, _ in _outputs(waiting) if "waiting" in text)
    assert waiting.cancel()
    assert running.cancel()
    begun = time.monotonic()
    second.predict(prompt="a drum", steps=1, api_name="/generate")
    assert time.monotonic() - begun < 120, "a thousand steps would have taken minutes"


def _outputs(job: Any) -> Iterator[Any]:
    seen, deadline = 0, time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        outputs = job.outputs()
        yield from (output for output in outputs[seen:] if isinstance(output[2], str))
        seen = len(outputs)
        time.sleep(0.1)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((path for name in names if (path := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Visitor:
    """Someone with the page open."""

    def __init__(self, browser: Any, server: str, width: int = 1280) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.set_default_timeout(PATIENCE_S * 1000)
        self.page.goto(server)
        self.page.get_by_role("button", name="Generate", exact=True).wait_for()

    def open(self, tab: str) -> Any:
        """The panel of a tab, which may be in the menu of those that don't fit."""
        found = self.page.get_by_role("tab", name=tab, exact=True)
        if not found.count():
            self.page.get_by_label("More tabs").click()
            found = self.page.locator(".overflow-dropdown button", has_text=tab)
        found.click()
        return self.page.locator('[role="tabpanel"]:visible')

    def result(self, panel: Any) -> None:
        panel.locator(".view figure svg").wait_for()


def few_steps(panel: Any) -> None:
    if not panel.get_by_label("Steps").is_visible():
        panel.get_by_role("button", name="Settings").click()
    panel.get_by_label("Steps").fill("1")


def test_every_tab_in_a_browser(server: str, browser: Any, place: Path) -> None:
    visitor = Visitor(browser, server)
    page = visitor.page
    panel = visitor.open("Generate")
    few_steps(panel)
    panel.get_by_label("Seed").fill("5")
    panel.get_by_text("a drumstick hits a red drum fast").click()
    panel.get_by_role("button", name="Generate", exact=True).click()
    visitor.result(panel)
    video_file = panel.locator("video")
    video_file.wait_for()
    page.wait_for_function("v => v.readyState > 0", arg=video_file.element_handle())
    assert video_file.evaluate("v => v.duration") == pytest.approx(4, abs=0.1)
    for name in ("clip.mp4", "clip.wav", "settings.json"):
        with page.expect_download() as download:
            panel.locator(f'a[download="{name}"]').last.click()
        download.value.save_as(place / name)
    assert json.loads((place / "settings.json").read_text())["prompt"] == "a drumstick hits a red drum fast"
    again = Visitor(browser, server)
    panel = again.open("Generate")
    panel.get_by_role("button", name="Settings").click()
    panel.locator('input[type="file"]').set_input_files(place / "settings.json")
    again.page.wait_for_function(
        "() => [...document.querySelectorAll('textarea')].some(t => t.value.includes('red drum'))"
    )
    assert panel.get_by_label("Seed").input_value() == "5"
    assert panel.get_by_label("Steps").input_value() == "1"
    again.page.close()
    for tab in ("Audio for a video", "Video for audio", "Extend"):
        panel = visitor.open(tab)
        few_steps(panel)
        panel.locator("table tbody tr, .gallery-item").first.click()
        panel.get_by_role("button", name=tab, exact=True).click()
        visitor.result(panel)
    panel = visitor.open("Measure")
    panel.locator('input[type="file"]').set_input_files(place / "clip.mp4")
    panel.get_by_role("button", name="Measure", exact=True).click()
    visitor.result(panel)
    assert "contact F1" in panel.locator(".view.block").inner_text()
    page.close()


def test_bad_files_are_refused_and_the_app_lives(server: str, browser: Any, place: Path) -> None:
    visitor = Visitor(browser, server)
    (place / "letter.mp4").write_bytes(b"this is a letter")
    long = Clip(np.zeros((180, 16, 16, 3), np.uint8), 1, np.zeros(180 * 8000, np.float32), 8000)
    assert Fraction(180) == long.time.duration
    long.save(place / "long.mp4")
    expected = {
        "letter.mp4": "'letter.mp4' cannot be read as media",
        "long.mp4": "'long.mp4' lasts 180 s; this server allows at most 30 s",
    }
    for name, message in expected.items():
        panel = visitor.open("Audio for a video")
        panel.locator('input[type="file"]').first.set_input_files(place / name)
        panel.get_by_label("Prompt").fill("a drum")
        visitor.page.wait_for_timeout(1000)
        panel.get_by_role("button", name="Audio for a video", exact=True).click()
        toast = visitor.page.locator(".toast-body", has_text=message)
        toast.wait_for()
        assert str(place) not in toast.inner_text()
        panel.locator(".view.block", has_text=message).wait_for()
        assert not panel.get_by_text("waiting", exact=True).count()
        visitor.page.reload()
        visitor.page.get_by_role("button", name="Generate", exact=True).wait_for()
    visitor.page.close()


def test_two_users_on_a_phone_and_a_desk_and_one_cancels(server: str, browser: Any) -> None:
    desk, phone = Visitor(browser, server), Visitor(browser, server, width=390)
    panels = [visitor.open("Generate") for visitor in (desk, phone)]
    for panel, steps in zip(panels, ("1000", "2"), strict=True):
        few_steps(panel)
        panel.get_by_label("Steps").fill(steps)
        panel.get_by_label("Prompt").fill("a mallet hits a glass jar")
        panel.get_by_role("button", name="Generate", exact=True).click()
        if steps == "1000":
            panel.get_by_text("of 1000").wait_for()
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= 390
    desk.page.bring_to_front()
    panels[0].locator("img").wait_for()
    panels[0].get_by_role("button", name="Cancel").click()
    panels[0].get_by_text("cancelled").wait_for()
    phone.result(panels[1])
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= 390
    panel = phone.open("Measure")
    panel.get_by_role("button", name="Measure", exact=True).wait_for()
    for visitor in (desk, phone):
        visitor.page.close()


def _said(server: str, name: str, content: Any) -> str:
    """What a call over HTTP is answered with: the last event of its stream."""
    import httpx

    with httpx.Client(base_url=server, timeout=PATIENCE_S) as http:
        asked = http.post(f"/gradio_api/call/v2/{name}", json=content)
        if asked.status_code != 200:
            return asked.text
        event = asked.json()["event_id"]
        return http.get(f"/gradio_api/call/{name}/{event}").text


HOSTILE: list[tuple[str, dict[str, Any]]] = [
    *(
        ("generate", {"prompt": prompt, "steps": 1})
        for prompt in ("", " ", "x" * 2001, None, 3, ["a"], {"a": 1})
    ),
    *(
        ("generate", {"prompt": "a drum", "steps": 1, name: value})
        for number, name in enumerate(
            ("seconds", "gamma", "clock", "guidance", "guidance_sync", "seed", "steps", "script")
        )
        # Half of the values for each: a request costs a tenth of a second.
        for value in ("nan", "1e999", "-1", "many", [1], {"a": {}}, "9" * 500, True)[number % 2 :: 2]
    ),
    *(
        (task, {"prompt": "a drum", "steps": 1, "upload": upload})
        for task in ("sound", "picture", "animate", "extend")
        for upload in (
            None, "a.mp4", 3, {"path": "/etc/passwd"}, {"path": "../../etc/passwd"}, {"url": "http://127.0.0.1:1/x"},
            {"path": "/tmp"}, {"path": "x\0y"}, [],
        )
    ),
    *(("measure", {"upload": None, "detector": detector}) for detector in ("none", None, 3, "contacts")),
    ("extend", {"prompt": "a", "seconds": "8", "keep": "x"}),
]  # fmt: skip


def test_hostile_requests_are_answered_with_a_reason(server: str) -> None:
    unanswered = []
    with ThreadPoolExecutor(4) as visitors:
        answers = list(visitors.map(lambda call: _said(server, *call), HOSTILE))
    for (name, content), said in zip(HOSTILE, answers, strict=True):
        assert "waiting already" not in said  # each was looked at
        lines = re.findall(r'"error": "([^"]*)"', said)
        fine = (
            '"error": null' not in said
            and "event: error\ndata: null" not in said
            and not any("\\n" in x for x in lines)
        )
        if not fine or "Traceback" in said or "/site-packages/" in said:
            unanswered.append((name, str(content)[:80], said[-200:]))
    assert not unanswered


def test_other_sites_can_neither_upload_nor_read(server: str) -> None:
    import httpx

    foreign = {"Origin": "https://evil.example"}
    with httpx.Client(base_url=server, timeout=PATIENCE_S) as http:
        files = {"files": ("a.txt", b"hello")}
        assert http.post("/gradio_api/upload", files=files, headers=foreign).status_code == 403
        own = http.post("/gradio_api/upload", files=files, headers={"Origin": server})
        assert own.status_code == 200
        path = f"/gradio_api/file={own.json()[0]}"
        assert http.get(path).text == "hello"
        assert http.get(path, headers=foreign).status_code == 403
        image = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
        assert http.get(path, headers=image).status_code == 403
        assert http.get("/", headers={"Host": "evil.example"}).status_code == 403
        asked = http.post("/gradio_api/call/v2/generate", json={"prompt": "a"}, headers=foreign)
        assert asked.status_code == 403


def test_an_image_is_animated_a_script_followed_and_a_long_clip_shown_as_it_is_made(
    server: str, tmp_path: Path
) -> None:
    from gradio_client import Client, handle_file
    from PIL import Image

    client = Client(server, verbose=False, download_files=str(tmp_path))
    Image.new("RGB", (90, 60), (200, 40, 30)).save(tmp_path / "red.png")
    video_file, *_ = client.predict(
        upload=handle_file(tmp_path / "red.png"), prompt="a drum", steps=1, api_name="/animate"
    )
    assert read_clip(video_file).video[0].mean((0, 1))[0] > 150
    job = client.submit(script="0 a drum\n4 a bowl", seconds="8", steps=1, stream=True, api_name="/generate")
    video_file, files, *_ = job.result()
    assert read_clip(video_file).duration_s == 8
    assert json.loads(Path(files[2]).read_text())["script"] == "0 a drum\n4 a bowl"
    shown = [output[0] for output in job.outputs() if output[0]]
    assert len(shown) >= 2  # the part that was done first, too

"""The app under load: are requests lost, does memory grow, are users' files deleted in time?

    python benchmarks/app_load.py [--requests 50] [--clients 8] [--steps 2] [--hostile 0.5] [--json FILE]

Starts ``kinetophone app`` and sends requests for clips from ``--clients`` clients in parallel. A fraction of
the requests is hostile: damaged videos, videos with forged sizes, text files named as videos, and values out
of range. Another client requests a clip of 1,000 steps five times, waits until it runs, and cancels it.

Memory of the server and its child processes is measured after each tenth of the requests. Its growth is
measured from the second tenth, when everything is loaded and compiled, to the end. Files are counted at the
end, and again after the time for which they are kept.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from kinetophone.media import Clip

CANCELLED = 5


def main() -> None:
    """Run the benchmark and print the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=50)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--hostile", type=float, default=0.0, help="fraction of the requests")
    parser.add_argument("--keep-files", type=float, default=20.0, help="seconds")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "kinetophone", "app", "--port", "0", "--device", "cpu"),
                *("--keep-files", str(arguments.keep_files)),
            ],
            cwd=folder, env={**os.environ, "TMPDIR": folder},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            found = next(m for line in process.stdout if (m := re.search(r"app on (http\S+)", line)))
            # Drain the output, because a full pipe would block the server.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            result = load(found[1], process.pid, Path(folder), arguments)
        finally:
            process.terminate()
            process.wait()
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def load(url: str, pid: int, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Send all requests, wait for the answers, and collect the results."""
    clients = [Client(url, verbose=False, download_files=False) for _ in range(arguments.clients)]
    memory: dict[int, float] = {}
    done = []
    lock = threading.Lock()
    attacks = Attacks(folder / "attacks")
    before = files_in(folder)

    def ask(number: int, client: Client) -> str:
        if arguments.hostile and number % round(1 / arguments.hostile) == 0:
            answer = attacks.ask(client, number)
        else:
            steps = arguments.steps
            video_file = client.predict(prompt="a drum", seed=number, steps=steps, api_name="/generate")[0]
            answer = str(video_file["path"] if isinstance(video_file, dict) else video_file)
        with lock:
            done.append(number)
            memory[len(done)] = memory_mb(pid)
        return answer

    def asking(which: int) -> list[str]:
        client = clients[which]
        return [ask(number, client) for number in range(which, arguments.requests, len(clients))]

    begun = time.monotonic()
    with ThreadPoolExecutor(len(clients) + 1) as pool:
        impatient = pool.submit(cancel_some, url)
        answers = [answer for some in pool.map(asking, range(len(clients))) for answer in some]
        freed_s = impatient.result()
    video_files = [answer for answer in answers if answer.endswith("clip.mp4")]
    refusals = [answer for answer in answers if answer.startswith("refused: ")]
    at_the_end = len(files_in(folder) - before)
    time.sleep(2 * arguments.keep_files)
    tenths = [memory[max(1, round(arguments.requests * tenth / 10))] for tenth in range(1, 11)]
    return {
        "requests": arguments.requests,
        "clients": arguments.clients,
        "steps": arguments.steps,
        "films": len(video_files),
        "different_films": len(set(video_files)),
        "refused_in_a_line": len(refusals),
        "answered_otherwise": [answer for answer in answers if answer not in video_files + refusals][:10],
        "files_at_the_end": at_the_end,
        "files_when_their_time_has_passed": len(files_in(folder) - before),
        "cancelled": len(freed_s),
        "slowest_cancel_s": round(max(freed_s), 2),
        "seconds": round(time.monotonic() - begun, 1),
        "memory_mb": [round(value) for value in tenths],
        "memory_growth_percent": round(100 * (tenths[-1] / tenths[1] - 1), 1),
    }


def memory_mb(pid: int) -> float:
    """Resident memory of a process and its children, in MB."""
    process = psutil.Process(pid)
    found = 0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            found += one.memory_info().rss
    return found / 1e6


def files_in(folder: Path) -> set[Path]:
    """The files in the server's folder."""
    return {path for path in folder.glob("kinetophone-app-*/**/*") if path.is_file()}


class Attacks:
    """Invalid requests of several kinds, used in turn.

    Args:
        folder: folder for the files to upload.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        rng = np.random.default_rng(0)
        video_file = Clip(
            rng.integers(0, 255, (16, 48, 64, 3), np.uint8),
            8,
            rng.uniform(-0.5, 0.5, 32_000).astype(np.float32),
        ).save(folder / "film.mp4")
        content = bytearray(video_file.read_bytes())
        for _ in range(200):
            content[int(rng.integers(len(content)))] = int(rng.integers(256))
        (folder / "damaged.mp4").write_bytes(content)
        (folder / "cut.mp4").write_bytes(video_file.read_bytes()[: len(content) // 2])
        (folder / "text.mp4").write_text("no film at all")
        Image.new("L", (8, 8)).save(folder / "wide.gif")
        gif = bytearray((folder / "wide.gif").read_bytes())
        gif[6:10] = b"\xff\xff\xff\xff"  # 65535 x 65535 pixels
        (folder / "wide.gif").write_bytes(gif)
        Image.new("L", (16_000, 16_000)).save(folder / "large.png")
        Image.new("L", (4000, 4000)).save(
            folder / "long.gif",
            save_all=True,
            append_images=[Image.new("L", (4000, 4000), i) for i in range(60)],
        )
        uploads = ("damaged.mp4", "cut.mp4", "text.mp4", "wide.gif", "large.png", "long.gif")
        self.requests: list[dict[str, Any]] = [
            {"upload": handle_file(folder / name), "prompt": "a", "steps": 1, "api_name": f"/{task}"}
            for name in uploads
            for task in ("sound", "picture", "animate", "extend")
        ]
        self.requests += [
            {"prompt": "x" * 5000, "api_name": "/generate"},
            {"prompt": "a", "seconds": "1e999", "api_name": "/generate"},
            {"prompt": "a", "seconds": "nan", "api_name": "/generate"},
            {"prompt": "a", "steps": "-5", "api_name": "/generate"},
            {"prompt": "a", "guidance": "1e30", "api_name": "/generate"},
            {"script": "\n" * 5000 + "x", "api_name": "/generate"},
        ]

    def ask(self, client: Client, number: int) -> str:
        """Send one request; returns "refused: " with the reason, or the unexpected answer."""
        try:
            made = client.predict(**self.requests[number // 2 % len(self.requests)])
        except AppError as error:
            said = str(error)
            return f"refused: {said}" if said and len(said.splitlines()) == 1 else f"error: {said!r}"
        video_file = made[0]["path"] if isinstance(made[0], dict) else made[0]
        return str(video_file)  # a damaged video may be readable in part


def cancel_some(url: str) -> list[float]:
    """Cancel long jobs while they run; returns the time each cancellation took, in seconds."""
    client = Client(url, verbose=False, download_files=False)
    took = []
    for _ in range(CANCELLED):
        job = client.submit(prompt="a drum", steps=1000, api_name="/generate")
        while not any("of 1000" in str(output) for output in job.outputs()):
            if job.done():
                raise RuntimeError(f"a job ended before it was cancelled: {job.exception()}")
            time.sleep(0.05)
        begun = time.monotonic()
        job.cancel()
        took.append(time.monotonic() - begun)
    return took


if __name__ == "__main__":
    main()

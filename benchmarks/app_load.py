"""The app under load: is a request lost, does memory grow, does a cancelled one free its place?

    python benchmarks/app_load.py [--requests 50] [--clients 8] [--steps 2] [--json FILE]

Starts ``kinetophone app`` and queues all requests of all clients at once. Beside them one more client asks,
five times, for a clip of 1,000 steps, waits until it is computed, and cancels it. Memory is the server's
resident set after each tenth of the requests; its growth is that from the second tenth (all is loaded and
compiled then) to the end.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
from gradio_client import Client

CANCELLED = 5


def main() -> None:
    """Run it and print what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=50)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "kinetophone", "app", "--port", "0", "--device", "cpu"],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            found = next(m for line in process.stdout if (m := re.search(r"app on (http\S+)", line)))
            # Nobody reads the rest, and a full pipe would stop the server.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            result = load(found[1], process.pid, arguments)
        finally:
            process.terminate()
            process.wait()
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def load(url: str, pid: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Queue everything, wait for everything."""
    clients = [Client(url, verbose=False, download_files=False) for _ in range(arguments.clients)]
    memory: dict[int, float] = {}
    done = []
    lock = threading.Lock()

    def ask(number: int) -> str:
        client = clients[number % len(clients)]
        film = client.predict(prompt="a drum", seed=number, steps=arguments.steps, api_name="/generate")[0]
        with lock:
            done.append(number)
            memory[len(done)] = psutil.Process(pid).memory_info().rss / 1e6
        return str(film["path"] if isinstance(film, dict) else film)

    begun = time.monotonic()
    with ThreadPoolExecutor(arguments.requests + 1) as pool:
        impatient = pool.submit(cancel_some, url)
        films = list(pool.map(ask, range(arguments.requests)))
        freed_s = impatient.result()
    tenths = [memory[max(1, round(arguments.requests * tenth / 10))] for tenth in range(1, 11)]
    return {
        "requests": arguments.requests,
        "clients": arguments.clients,
        "steps": arguments.steps,
        "answered": sum(film.endswith("clip.mp4") for film in films),
        "different_films": len(set(films)),
        "cancelled": len(freed_s),
        "slowest_cancel_s": round(max(freed_s), 2),
        "seconds": round(time.monotonic() - begun, 1),
        "memory_mb": [round(value) for value in tenths],
        "memory_growth_percent": round(100 * (tenths[-1] / tenths[1] - 1), 1),
    }


def cancel_some(url: str) -> list[float]:
    """Have long jobs cancelled while they compute; how long each cancelling took, in seconds."""
    client = Client(url, verbose=False, download_files=False)
    took = []
    for _ in range(CANCELLED):
        job = client.submit(prompt="a drum", steps=1000, api_name="/generate")
        while not any("of 1000" in str(output) for output in job.outputs()):
            if job.done():
                raise RuntimeError(f"a job that was to be cancelled ended by itself: {job.exception()}")
            time.sleep(0.05)
        begun = time.monotonic()
        job.cancel()
        took.append(time.monotonic() - begun)
    return took


if __name__ == "__main__":
    main()

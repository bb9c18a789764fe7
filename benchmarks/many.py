"""Clips per second of the commands that divide their work, and whether dividing it changes the results.

    python benchmarks/many.py --json many.json
    python benchmarks/many.py --cluster --json cluster.json
    python benchmarks/many.py --memory 100 1000 10000 --json memory.json
    python benchmarks/many.py --large 4 20 --json large.json

``data prepare``, ``data encode``, ``generate --prompts`` and ``evaluate`` run in one process, then in two or,
with ``--cluster``, on a Ray cluster of two nodes on this machine, and then once more with a worker killed
(SIGKILL) in the middle. All files that a run writes are compared with those of one process, byte for byte.

With ``--memory``, ``data prepare`` and ``data encode`` run with two processes on more and more clips, and the
largest memory of the command and of a worker is noted. ``--large`` prepares files as VGGSound has them in one
process: the difference of two numbers of files is free of the time of starting.

The clips are procedural, 1 s at 8 fps, 32 x 32, twelve from each video. Generated ones are the bundle's with
two steps, and these are evaluated. Processor seconds are those of the command and its workers. The JSON
file is written after each run, so that nothing is lost if the benchmark is stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from kinetophone.data.domains import as_clip, domain
from kinetophone.media.clip import Clip

PER_VIDEO = 12
KEPT_OUT = ("parts", ".kinetophone.lock")  # records have times of files


@contextmanager
def two_nodes(*importable: Path) -> Iterator[str]:
    """A Ray cluster of two nodes on this machine, one core each, with a token; yields its address.

    Args:
        *importable: Folders with further modules that its workers import.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    path = os.pathsep.join([*map(str, importable), os.environ.get("PYTHONPATH", "")])
    more = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "PYTHONPATH": path}
    more["RAY_worker_niceness"] = "0"  # by default 15: on a machine with other work they would hardly run
    before = dict(os.environ)
    os.environ.update(more)
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    node = ["--node-ip-address", "127.0.0.1", "--num-cpus", "1"]
    head = ["--head", "--port", address.split(":")[1], "--include-dashboard", "false"]
    try:
        for where in (head, ["--address", address]):
            subprocess.run([*ray, "start", *where, *node], check=True, capture_output=True, timeout=120)
        yield address
    finally:
        for process in psutil.process_iter():  # ray stop would stop all clusters of this machine
            with suppress(psutil.Error):
                if process.environ().get("RAY_AUTH_TOKEN") == more["RAY_AUTH_TOKEN"]:
                    process.kill()
        os.environ.clear()
        os.environ.update(before)


def write_videos(folder: Path, count: int) -> None:
    """Videos of twelve seconds; four different ones, under many names."""
    world = domain("hits")
    folder.mkdir()
    for i in range(min(count, 4)):
        parts = [as_clip(world.make_clip("train", 3 * i + k, 64)) for k in range(3)]
        video, audio = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("video", "audio")
        )
        Clip(video, parts[0].fps, audio, parts[0].sample_rate).save(folder / f"{i:05d}.mp4")
    for i in range(4, count):
        os.link(folder / f"{i % 4:05d}.mp4", folder / f"{i:05d}.mp4")


def workers_of(process: psutil.Process, cluster: str | None) -> list[psutil.Process]:
    """The workers of a command, or of a cluster."""
    if cluster is None:
        return [child for child in children(process) if "spawn_main" in " ".join(said(child))]
    nodes = [one for one in psutil.process_iter(["name"]) if one.info["name"] == "raylet"]
    port = ":" + cluster.rpartition(":")[2]  # Ray writes the machine's own address before it
    below = [child for node in nodes if port in " ".join(said(node)) for child in children(node)]
    return [child for child in below if "ray::_Actor" in " ".join(said(child))]


def prepare_large(root: Path, counts: list[int], tell: Callable[[dict[str, Any]], None]) -> None:
    """Preparing of files as VGGSound has them: 10 s, 340 x 256, 30 fps. Each gives two clips at 256 x 256."""
    world = domain("hits")
    parts = [as_clip(world.make_clip("train", k, 256)) for k in range(3)]
    video, audio = (np.concatenate([getattr(part, name) for part in parts]) for name in ("video", "audio"))
    shown = video[(np.arange(300) / 30 * parts[0].fps).astype(int)]
    shown = np.pad(shown, ((0, 0), (0, 0), (42, 42), (0, 0)), mode="reflect")
    clip = Clip(shown, 30, audio[: 10 * parts[0].sample_rate], parts[0].sample_rate)
    for count in counts:
        place = root / f"{count}-large"
        first = clip.save(place / "videos" / "00000.mp4")
        for i in range(1, count):
            os.link(first, first.with_name(f"{i:05d}.mp4"))
        options = ("--fps", 8, "--seconds", 4, "--size", 256, "--caption", "a hammer", "--workers", 1)
        row = run(["data", "prepare", place / "videos", place / "clips", *options], place / "clips")
        tell({"command": "data prepare", "way": "one", "files": count, **row})


def children(process: psutil.Process) -> list[psutil.Process]:
    """Those that a process has now; none once it has ended."""
    with suppress(psutil.Error):
        return list(process.children())
    return []


def said(process: psutil.Process) -> list[str]:
    """The command line of a process; empty once it has ended."""
    with suppress(psutil.Error):
        return list(process.cmdline())
    return []


def run(arguments: list[Any], out: Path, *, kill: bool = False, cluster: str | None = None) -> dict[str, Any]:
    """Run a command of kinetophone; returns its seconds, and the memory of its processes in MiB.

    Args:
        arguments: Of the command.
        out: What it writes; a worker is killed once there is something in it.
        kill: Whether to kill one.
        cluster: Address of the cluster that it uses.
    """
    command = [sys.executable, "-m", "kinetophone", *map(str, arguments)]
    began = time.monotonic()
    with tempfile.TemporaryFile() as said:
        process = psutil.Popen(command, stdout=said, stderr=said)
        peaks: dict[str, int] = {"command": 0, "worker": 0}
        spent: dict[int, float] = {}
        killed = False
        while process.poll() is None:
            there = workers_of(process, cluster)
            for name, some in (("command", [process]), ("worker", there)):
                for one in some:
                    with suppress(psutil.Error):
                        times = one.cpu_times()
                        spent[one.pid] = times.user + times.system
                        peaks[name] = max(peaks[name], one.memory_info().rss >> 20)
            if kill and not killed and there and any(out.rglob("*.tar*")) | any(out.rglob("*.mp4")):
                there[0].kill()
                killed = True
            time.sleep(0.1)
        seconds = time.monotonic() - began
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)}: {said.read().decode()}")
    return {
        "killed": killed,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(sum(spent.values()), 1),
        "peak_mib": peaks,
    }


def digest(path: Path) -> str:
    """Hash of the names and the bytes of all that a run wrote."""
    found = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file() and not set(KEPT_OUT) & set(file.parts):
            found.update(file.name.encode() + file.read_bytes())
    return found.hexdigest()


def steps(root: Path, out: Path, made: int) -> Iterator[tuple[str, int, list[Any], Path]]:
    """The commands: name, number of clips, arguments, and what is written. They read what ``one`` wrote."""
    clips = PER_VIDEO * len(list((root / "videos").iterdir()))
    cut = ("--fps", 8, "--seconds", 1, "--size", 32, "--caption", "a hammer hits a drum")
    yield "data prepare", clips, ["data", "prepare", root / "videos", out / "clips", *cut], out / "clips"
    yield "data encode", clips, ["data", "encode", root / "one" / "clips", out / "latents"], out / "latents"
    (root / "prompts.csv").write_text("prompt\n" + "a hammer hits a drum three times\n" * made)
    table = ("--prompts", root / "prompts.csv", "--steps", 2, "--batch-size", 2)
    yield "generate --prompts", made, ["generate", *table, "--out", out / "made"], out / "made"
    scores = out / "scores.json"
    yield "evaluate", made, ["evaluate", root / "one" / "made", "--json", scores], scores


def compare(root: Path, given: argparse.Namespace, tell: Callable[[dict[str, Any]], None]) -> None:
    """Every command in every way; ``tell`` is given a row for each run."""
    write_videos(root / "videos", -(-given.clips // PER_VIDEO))
    known: dict[str, str] = {}

    def all_steps(way: str, options: list[Any], kill: bool, cluster: str | None) -> None:
        out = root / way.replace(", ", "-").replace(" ", "-")
        out.mkdir()
        for name, count, arguments, written in steps(root, out, given.made):
            kills = kill and name != "evaluate"  # which writes only at its end
            row = run([*arguments, *options], written, kill=kills, cluster=cluster)
            found = digest(written)
            same = found == known.setdefault(name, found)
            tell({"command": name, "way": way, "clips": count, "same": same, **row})

    all_steps("one", ["--workers", 1], False, None)
    with two_nodes() if given.cluster else nullcontext() as address:
        options, way = (["--ray", address], "cluster") if address else (["--workers", 2], "two")
        all_steps(way, options, False, address)
        all_steps(f"{way}, one killed", options, True, address)


def watch_memory(root: Path, counts: list[int], tell: Callable[[dict[str, Any]], None]) -> None:
    """Preparing and encoding with two processes, for each number of clips."""
    for count in counts:
        place = root / str(count)
        (place / "one").mkdir(parents=True)
        write_videos(place / "videos", -(-count // PER_VIDEO))
        for name, clips, arguments, written in list(steps(place, place / "one", 1))[:2]:
            row = run([*arguments, "--workers", 2], written)
            tell({"command": name, "way": "two", "clips": clips, **row})
        shutil.rmtree(place)


def main() -> None:
    """Print a line for each run, and write the JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=400, help="to prepare and encode; 192 in a shard")
    parser.add_argument("--made", type=int, default=6, help="to generate and evaluate")
    parser.add_argument("--cluster", action="store_true", help="a Ray cluster in place of processes")
    parser.add_argument("--memory", type=int, nargs="+", help="only memory, for these numbers of clips")
    parser.add_argument("--large", type=int, nargs="+", help="only preparing of these numbers of large files")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    about = {
        "command": "python " + " ".join(sys.argv),
        "commit": commit.stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
    }
    rows: list[dict[str, Any]] = []

    def tell(row: dict[str, Any]) -> None:
        rows.append({**row, "load": round(os.getloadavg()[0], 1)})
        print(json.dumps(rows[-1]), flush=True)
        if given.json is not None:
            lines = ",\n  ".join(map(json.dumps, rows))
            text = json.dumps({**about, "rows": []}, indent=1).replace("[]", f"[\n  {lines}\n ]")
            given.json.write_text(text + "\n", encoding="utf-8")

    with tempfile.TemporaryDirectory(prefix="many-") as folder:
        if given.memory:
            watch_memory(Path(folder), given.memory, tell)
        elif given.large:
            prepare_large(Path(folder), given.large, tell)
        else:
            compare(Path(folder), given, tell)
    if not all(row.get("same", True) for row in rows):
        raise SystemExit("not all results are the same")


if __name__ == "__main__":
    main()

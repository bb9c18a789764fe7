"""Audio for a long video: ``python benchmarks/long_sound.py [--minutes 60] [--height 1080] [--json FILE]``.

Encodes ten seconds of moving texture at 30 fps, repeats their packets to the length asked for, and runs
``kinetophone sound`` with one sampling step in a process of its own. Prints its CPU time and peak memory. The
video of the result must have the same packets as the source.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

FPS, SECONDS = 30, 10  # of what is encoded


def write_repeated(path: Path, minutes: float, height: int) -> None:
    """Write a video of which every ten seconds are the same."""
    width = height * 16 // 9 // 2 * 2
    rng = np.random.default_rng(0)
    ground = rng.integers(
        0, 255, (height // 32 + 1, width // 32 + FPS * SECONDS // 32 + 2, 3), dtype=np.uint8
    )
    ground = ground.repeat(32, axis=0).repeat(32, axis=1)
    part = path.with_stem("part")
    with av.open(str(part), "w") as file:
        stream = file.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "bf": "0", "crf": "40"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(FPS * SECONDS):
            shown = np.ascontiguousarray(ground[:height, i : i + width])
            file.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        file.mux(stream.encode())
    with av.open(str(part)) as file, av.open(str(path), "w") as made:
        copy = made.add_stream_from_template(file.streams.video[0])
        packets = [packet for packet in file.demux(file.streams.video[0]) if packet.size]
        ticks = round(SECONDS / packets[0].time_base)
        for again in range(round(minutes * 60 / SECONDS)):
            for packet in packets:
                one = av.Packet(bytes(packet))
                one.pts, one.dts = packet.pts + again * ticks, packet.dts + again * ticks
                one.time_base, one.duration, one.is_keyframe = (
                    packet.time_base,
                    packet.duration,
                    packet.is_keyframe,
                )
                one.stream = copy
                made.mux(one)


def digest(path: Path) -> tuple[str, int, Fraction]:
    """Hash of the packets of a file's video, their number, and its length in seconds."""
    hashed, count, end = hashlib.sha256(), 0, Fraction(0)
    with av.open(str(path)) as file:
        for packet in file.demux(file.streams.video[0]):
            if packet.size:
                hashed.update(bytes(packet))
                count += 1
                end = max(end, (packet.pts + packet.duration) * packet.time_base)
    return hashed.hexdigest(), count, end


def main() -> None:
    """Print one line, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--bundle", default="hits")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "long.mp4"), Path(folder, "sounding.mp4")
        write_repeated(source, arguments.minutes, arguments.height)
        words = ["sound", str(source), "a drumstick hits a drum", "-o", str(target), "--steps", "1"]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "kinetophone", *words, "--bundle", arguments.bundle], check=True
        )
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert digest(source) == digest(target), "the video was not copied"
        row: dict[str, Any] = {
            "minutes": arguments.minutes,
            "height": arguments.height,
            "source_mib": source.stat().st_size >> 20,
            "seconds": round(time.perf_counter() - start, 1),
            "cpu_seconds": round(spent.ru_utime + spent.ru_stime - before.ru_utime - before.ru_stime, 1),
            "peak_mib": spent.ru_maxrss // 1024,
            "load": round(os.getloadavg()[0], 2),
        }
    print(" ".join(f"{name} {value}" for name, value in row.items()))
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"machine": platform.processor(), "rows": [row]}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()

"""Damaged media files against the readers.

    python tests/fuzz/media.py --mutants 2000 --seed 0

What is refused must be refused in one line, soon, in little memory. A mutant is made of its number and the
seed alone, so that ``--only N`` tries one again. They are read in another process, which is watched here:
a mutant that ends it, takes longer than ``--seconds`` or more than ``--gigabytes`` is a failure, as is any
error that is not the project's own. The exit status is 1 then.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts", ".flv", ".3gp", ".gif")
AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".m4a", ".aiff", ".ac3")
IMAGES = (".png", ".jpg", ".webp", ".avif", ".heic", ".tif", ".bmp", ".jp2")


@dataclass(frozen=True)
class Failure:
    """A mutant that was not read or refused as it should be."""

    number: int
    suffix: str
    what: str


def make_seeds(folder: Path) -> list[Path]:
    """A small file of every kind."""
    import av
    import pillow_heif
    from PIL import Image

    pillow_heif.register_heif_opener()
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (12, 16, 24, 3), np.uint8).repeat(3, 1).repeat(3, 2)
    tone = 0.4 * np.sin(np.arange(24_000, dtype=np.float32) * 0.2)
    codecs = {".webm": ("libvpx-vp9", "libopus"), ".avi": ("mpeg4", "libmp3lame"), ".gif": ("gif", None)}
    sounds = {".wav": "pcm_s16le", ".flac": "flac", ".mp3": "libmp3lame", ".ogg": "libopus"}
    sounds |= {".m4a": "aac", ".aiff": "pcm_s16be", ".ac3": "ac3"}
    made = []
    for suffix in (*VIDEO_SUFFIXES, *AUDIO_SUFFIXES):
        video_codec, audio_codec = codecs.get(suffix, ("libx264", "aac"))
        if suffix in AUDIO_SUFFIXES:
            video_codec, audio_codec = None, sounds[suffix]
        path = folder / f"seed{suffix}"
        rate = 44_100 if suffix == ".flv" else 48_000
        with av.open(str(path), "w") as file:
            video = audio = None
            if video_codec:
                video = file.add_stream(video_codec, rate=12)
                video.height, video.width = frames.shape[1:3]
                video.pix_fmt = "rgb8" if suffix == ".gif" else "yuv420p"
            if audio_codec:
                audio = file.add_stream(audio_codec, rate=rate, layout="mono")
            for index, image in enumerate(frames if video else ()):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=video.pix_fmt)
                frame.pts, frame.time_base = index, Fraction(1, 12)
                file.mux(video.encode(frame))
            if video:
                file.mux(video.encode())
            if audio:
                frame = av.AudioFrame.from_ndarray(tone[None], format="flt", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
                for part in av.AudioResampler(audio.format, "mono", rate).resample(frame):
                    file.mux(audio.encode(part))
                file.mux(audio.encode())
        made.append(path)
    for suffix in IMAGES:
        path = folder / f"seed{suffix}"
        Image.fromarray(frames[0]).save(path)
        made.append(path)
    return made


def mutate(content: bytes, others: list[bytes], rng: np.random.Generator) -> bytes:
    """``content`` with one to eight changes, most of them near its start, where the headers are."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 9))):
        size = len(data)
        place = int(rng.integers(0, min(size, 600) if rng.random() < 0.6 else size))
        kind = rng.integers(0, 8)
        if kind == 0:
            data[place] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            data[place] = int(rng.integers(0, 256))
        elif kind == 2:  # sizes and counts
            value = rng.choice([0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000])
            width = int(rng.choice([2, 4]))
            order = "big" if rng.random() < 0.5 else "little"
            data[place : place + width] = (int(value) % (1 << 8 * width)).to_bytes(width, order)
        elif kind == 3 and size > 64:
            del data[place : place + int(rng.integers(1, 64))]
        elif kind == 4:
            data[place:place] = data[place : place + int(rng.integers(1, 256))]
        elif kind == 5:
            data[place : place + int(rng.integers(1, 128))] = bytes(rng.bytes(int(rng.integers(1, 128))))
        elif kind == 6 and size > 64:
            del data[max(64, place) :]
        elif kind == 7:
            other = others[int(rng.integers(len(others)))]
            start = int(rng.integers(len(other)))
            data[place : place + 200] = other[start : start + 200]
    return bytes(data) or b"\0"


def mutant(seeds: list[Path], contents: list[bytes], seed: int, number: int) -> tuple[bytes, str]:
    """The content and the suffix of a mutant."""
    rng = np.random.default_rng((seed, number))
    which = int(rng.integers(len(seeds)))
    suffix = seeds[which].suffix
    if rng.random() < 0.05:  # a wrong name
        suffix = seeds[int(rng.integers(len(seeds)))].suffix
    return mutate(contents[which], contents, rng), suffix


def read_all(path: Path) -> str:
    """Read a file by every reader that takes it; "read", "refused", or what went wrong."""
    from kinetophone.errors import UserError
    from kinetophone.media.read import read_audio, read_clip, read_image, read_video

    outcome = "refused"
    for read in (read_clip, read_video, read_audio, read_image):
        try:
            read(path)
            outcome = "read"
        except UserError as error:
            if len(str(error).splitlines()) != 1:
                return f"{read.__name__}: an error of several lines: {error!r}"
        except Exception as error:
            return f"{read.__name__}: {type(error).__name__}: {error}"
    return outcome


def _work(connection: Connection, folder: str, seed: int) -> None:
    import resource

    seeds = sorted(Path(folder).glob("seed.*"))
    contents = [path.read_bytes() for path in seeds]
    # What the readers import takes memory that is not the mutant's.
    for path in seeds:
        read_all(path)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    connection.send(("ready", 0.0))
    while (number := connection.recv()) is not None:
        content, suffix = mutant(seeds, contents, seed, number)
        path = Path(folder) / f"mutant{suffix}"
        path.write_bytes(content)
        outcome = read_all(path)
        path.unlink()
        taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 2**20
        connection.send((outcome, taken))


class _Worker:
    """A process that reads mutants, replaced when one ends it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.here, there = context.Pipe()
        self.process = context.Process(target=_work, args=(there, str(self.folder), self.seed), daemon=True)
        self.process.start()
        there.close()
        assert self.here.recv()[0] == "ready"

    def read(self, number: int, seconds: float) -> tuple[str, float]:
        """What came of a mutant, and the gigabytes that the process has taken so far."""
        self.here.send(number)
        try:
            if self.here.poll(seconds):
                return self.here.recv()
            outcome = f"takes longer than {seconds:g} s"
        except (EOFError, ConnectionError):
            self.process.join(5)
            outcome = f"ends the process ({self.process.exitcode})"
        self.stop()
        self._start()
        return outcome, 0.0

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.here.close()


def run(
    numbers: Iterator[int], seed: int, seconds: float, gigabytes: float
) -> tuple[Counter[str], list[Failure]]:
    """Outcomes by kind, and the failures."""
    outcomes: Counter[str] = Counter()
    failures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seeds = sorted(make_seeds(folder))
        contents = [path.read_bytes() for path in seeds]
        worker = _Worker(folder, seed)
        for number in numbers:
            outcome, taken = worker.read(number, seconds)
            if outcome in ("read", "refused") and taken > gigabytes:
                outcome = f"takes {taken:.1f} GB"
                worker.stop()
                worker = _Worker(folder, seed)
            outcomes[outcome if outcome in ("read", "refused") else "failed"] += 1
            if outcome not in ("read", "refused"):
                failures.append(Failure(number, mutant(seeds, contents, seed, number)[1], outcome))
        worker.stop()
    return outcomes, failures


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutants", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="number of one mutant")
    parser.add_argument("--seconds", type=float, default=20.0, help="most for one mutant")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="most for one mutant")
    options = parser.parse_args()
    numbers = range(options.mutants) if options.only is None else range(options.only, options.only + 1)
    start = time.monotonic()

    def shown() -> Iterator[int]:
        for number in numbers:
            if number % 100 == 0:
                print(f"{number} of {len(numbers)}", file=sys.stderr)
            yield number

    outcomes, failures = run(shown(), options.seed, options.seconds, options.gigabytes)
    for failure in failures:
        print(f"mutant {failure.number} ({failure.suffix}): {failure.what}")
    counts = ", ".join(f"{outcomes[name]} {name}" for name in ("read", "refused", "failed"))
    print(f"{len(numbers)} mutants, seed {options.seed}: {counts}; {time.monotonic() - start:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())

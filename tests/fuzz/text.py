"""Damaged texts against their readers: tables, scripts, times, recipes, descriptions of bundles, settings.

    python tests/fuzz/text.py --mutants 20000 --seed 0

What is refused must be refused by the project's own error, soon, in little memory. A mutant is made of its
number and the seed alone, so that ``--only N`` tries one again. The exit status is 1 if any fails.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from kinetophone.errors import UserError

BUNDLE = """{"fps": 8, "frames": 32, "size": 64, "sample_rate": 16000, "fps_choices": [8, "25/2"],
 "min_frames": 16, "max_frames": 64, "frame_step": 8, "auto_gamma": 0.7,
 "defaults": {"steps": 25, "guidance_sync": {"audio": 4.0, "video": 2.0}, "negative_prompt": ""},
 "bases": {"audio": {"name": "cvssp/audioldm"}, "video": {"name": "a/b", "motion_adapter": "c/d"}}}
"""
RECIPE = """stage: coupling
bundle: hits
data: {source: hits, count: 12}
loop: {steps: 10, batch_size: 2, lr: 1.0e-3, seed: 3}
sampling: {steps: 25, gamma: 1.5}
"""
SETTINGS = '{"task": "generate", "prompt": "a drum", "seed": 1, "steps": 3, "guidance_sync": "6,4"}\n'
TRICKS = (
    b"\xff\xfe", b"\xef\xbb\xbf", b"\x00", b"\xfc", b"\xed\xa0\x80", b"\r", b'"', b"'", b",", b";", b"\t",
    b"{", b"[", b"&a ", b"*a", b"<<: ", b"!!python/name:os.system", b"!!binary ", b"? ", b"- ", b": ", b"#",
    b"---\n", b"NaN", b"-1", b"1e999", b"9" * 400, b"0x", b"null", b"true", b"2024-01-01", b"[" * 3000,
    b"{a: " * 2000, b"a," * 5000, b"\\ud800",
)  # fmt: skip


def readers() -> dict[str, tuple[bytes, str, Callable[[Path], Any]]]:
    """A valid text of each kind, its file's name, and what reads it."""
    from kinetophone.app.tasks import Settings
    from kinetophone.bundle.spec import BundleSpec
    from kinetophone.data.captions import read_list, read_vggsound
    from kinetophone.data.encode import check_prepared
    from kinetophone.metrics.sources import read_captions, read_truth
    from kinetophone.tasks.request import Script
    from kinetophone.training.recipe import load_recipe

    table = 'file,caption\na.mp4,"a drum, far"\nsub/b.MP4,für Elise\n'
    return {
        "captions": (table.encode(), "t.csv", read_captions),
        "table": (table.encode("utf-16"), "t.csv", read_list),
        "list": (b'./p/a.mp4,"a dog"\n./p/b.mp4,./p/b.wav,a cat\n', "t.csv", read_list),
        "vggsound": (b'abc_1,30,"dog, barking",train\n--x_,10,cat,test\n', "t.csv", read_vggsound),
        "script": (b"0 a drum\n4.5 a bowl\n", "s.txt", Script.read),
        "times": (b"0.5 metal hit\n1.25 None None\n", "x_times.txt", lambda path: read_truth(path.parent)),
        "events": (b'{"clips": {"a.mp4": {"strikes_s": [0.5, 1]}}}', "events.json", read_truth),
        "recipe": (RECIPE.encode(), "r.yaml", load_recipe),
        "bundle": (BUNDLE.encode(), "kinetophone.json", lambda path: BundleSpec.read(path.parent)),
        "settings": (SETTINGS.encode(), "s.json", lambda path: Settings.read(path, "generate")),
        "manifest": (
            b'{"source": "a", "clips": ["1"]}\n',
            "manifest.jsonl",
            lambda path: check_prepared(path.parent),
        ),
    }


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """``content`` with one to six changes."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 7))):
        place = int(rng.integers(0, len(data) + 1))
        kind = rng.integers(0, 6)
        if kind == 0 and data:
            data[place % len(data)] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            del data[place : place + int(rng.integers(1, 20))]
        elif kind == 2:
            start = int(rng.integers(0, len(data) + 1))
            data[place:place] = data[start : start + int(rng.integers(1, 60))]
        elif kind == 3:
            data[place:place] = TRICKS[int(rng.integers(len(TRICKS)))]
        elif kind == 4:
            data[place:place] = bytes(rng.bytes(int(rng.integers(1, 12))))
        elif kind == 5 and rng.random() < 0.1:
            data *= int(rng.integers(2, 200))
    return bytes(data)


def run(numbers: Iterable[int], seed: int, seconds: float) -> tuple[Counter[str], list[str]]:
    """Outcomes by kind, and a line for each failure."""
    outcomes: Counter[str] = Counter()
    failures = []
    every = readers()
    names = sorted(every)
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            rng = np.random.default_rng((seed, number))
            name = names[int(rng.integers(len(names)))]
            content, file, read = every[name]
            path = Path(folder) / name / file
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(mutate(content, rng))
            begun = time.monotonic()
            try:
                read(path)
                outcome = "read"
            except (UserError, FileNotFoundError):
                outcome = "refused"
            except Exception as error:
                outcome = f"{type(error).__name__}: {error}"[:200]
            if (took := time.monotonic() - begun) > seconds:
                outcome = f"takes {took:.0f} s"
            outcomes[outcome if outcome in ("read", "refused") else "failed"] += 1
            if outcome not in ("read", "refused"):
                failures.append(f"mutant {number} ({name}): {outcome}")
    return outcomes, failures


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutants", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="number of one mutant")
    parser.add_argument("--seconds", type=float, default=20.0, help="most for one mutant")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="most for all of them")
    options = parser.parse_args()
    numbers = range(options.mutants) if options.only is None else range(options.only, options.only + 1)
    start = time.monotonic()
    outcomes, failures = run(numbers, options.seed, options.seconds)
    try:
        import resource

        taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    except ImportError:
        taken = 0.0
    if taken > options.gigabytes:
        failures.append(f"they took {taken:.1f} GB")
    print(*failures, sep="\n", end="\n" if failures else "")
    counts = ", ".join(f"{outcomes[name]} {name}" for name in ("read", "refused", "failed"))
    took = time.monotonic() - start
    print(f"{len(numbers)} mutants, seed {options.seed}: {counts}; {took:.0f} s, {taken:.2f} GB at most")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

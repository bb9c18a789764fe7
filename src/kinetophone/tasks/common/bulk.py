"""Many clips from a table of prompts: in batches, resumable, and divided among machines."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinetophone.bundle.spec import BundleSpec
from kinetophone.errors import MediaError, RequestError
from kinetophone.tasks.request import GenerateRequest

if TYPE_CHECKING:
    from kinetophone.media.clip import Clip

COLUMNS = ("prompt", "seed", "seconds", "file")
_MOST_PROBLEMS = 5  # named in an error


@dataclass(frozen=True, slots=True)
class Line:
    """One clip to make.

    Attributes:
        prompt: Description of the clip.
        seed: Seed of the noise.
        seconds: Length; None is the bundle's.
        file: File to write, relative to the folder of all clips.
    """

    prompt: str
    seed: int
    seconds: float | None
    file: str


def read_prompts(path: str | os.PathLike[str]) -> list[Line]:
    """Read a CSV file with the columns ``prompt``, and optionally ``seed``, ``seconds`` and ``file``.

    Without a seed, the clip of row i has the seed i, counted from 0; without a file, its name is the number
    of the row with five digits.

    Raises:
        RequestError: The file is missing or has bad lines; the first five are named.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError([f"'{path}' cannot be read as a table of prompts: {error}"]) from None
    rows = csv.DictReader(text.splitlines())
    if "prompt" not in (rows.fieldnames or ()):
        raise RequestError(
            [f"'{path}' has no column 'prompt'; its first line names the columns: {', '.join(COLUMNS)}"]
        )
    if unknown := [name for name in rows.fieldnames or () if name not in COLUMNS]:
        raise RequestError([f"'{path}' has the column '{unknown[0]}'; known are {', '.join(COLUMNS)}"])
    lines: list[Line] = []
    problems: list[str] = []
    seen: dict[str, int] = {}
    for number, row in enumerate(rows):
        where = f"'{path}', line {number + 2}"
        try:
            line = Line(
                prompt=(row["prompt"] or "").strip(),
                seed=int(row.get("seed") or number),
                seconds=float(row["seconds"]) if row.get("seconds") else None,
                file=row.get("file") or f"{number:05d}.mp4",
            )
        except ValueError as error:
            problems.append(f"{where}: {error}")
            continue
        if not line.prompt:
            problems.append(f"{where} has no prompt")
        if Path(line.file).is_absolute() or ".." in Path(line.file).parts:
            problems.append(f"{where}: the file '{line.file}' is outside of the folder")
        if line.file in seen:
            problems.append(f"{where} writes '{line.file}', as line {seen[line.file] + 2} does")
        seen.setdefault(line.file, number)
        lines.append(line)
    if not lines and not problems:
        problems = [f"'{path}' has no lines below its first"]
    _refuse(problems)
    return lines


def check_lines(
    lines: Sequence[Line], bundle: str | BundleSpec, folder: Path, options: dict[str, Any]
) -> None:
    """Check all lines as single requests are checked, before anything is computed.

    Raises:
        RequestError: Lines cannot be made; the first five problems are named.
    """
    spec = bundle if isinstance(bundle, BundleSpec) else BundleSpec.read(bundle)
    problems: dict[str, None] = {}
    kinds: set[tuple[float | None, str]] = set()
    for line in lines:
        # What can be wrong with many lines at once is checked once.
        kind = (line.seconds, Path(line.file).suffix)
        request = GenerateRequest(
            prompts=(line.prompt,),
            bundle=spec,
            seconds=line.seconds,
            seed=line.seed,
            output=None if kind in kinds else folder / line.file,
            options=options,
        )
        kinds.add(kind)
        try:
            request.validate()
        except RequestError as error:
            problems |= dict.fromkeys(f"'{line.file}': {problem}" for problem in error.problems)
    _refuse(list(problems))


def _refuse(problems: list[str]) -> None:
    """Raise an error with the first problems, if there are any."""
    if problems:
        more = [f"and {len(problems) - _MOST_PROBLEMS} more"] if len(problems) > _MOST_PROBLEMS else []
        raise RequestError(problems[:_MOST_PROBLEMS] + more)


def shard_of(lines: Sequence[Line], shard: int, shards: int) -> list[Line]:
    """Every ``shards``-th line, from line ``shard``, counted from 1."""
    return list(lines[shard - 1 :: shards])


def batches(lines: Sequence[Line], folder: Path, size: int) -> Iterator[list[Line]]:
    """Lines whose file does not exist yet, in batches of the same length."""
    missing = [line for line in lines if not (folder / line.file).exists()]
    missing.sort(key=lambda line: line.seconds or 0.0)
    for _, same in groupby(missing, key=lambda line: line.seconds):
        group = list(same)
        for start in range(0, len(group), size):
            yield group[start : start + size]


def make_batch(
    make: Callable[..., list[Clip]], batch: Sequence[Line], folder: Path, options: dict[str, Any]
) -> list[str]:
    """Make and write the clips of one batch with a pipeline's call.

    Returns:
        Problems of clips that could not be made or written; the others are written.
    """
    common = {"seconds": batch[0].seconds, **options}
    try:
        clips = make([line.prompt for line in batch], seed=[line.seed for line in batch], **common)
    except FloatingPointError as error:
        if len(batch) == 1:
            return [f"'{batch[0].file}': {error}"]
        # One bad clip must not take the others of its batch with it.
        return [problem for line in batch for problem in make_batch(make, [line], folder, options)]
    problems = []
    for line, clip in zip(batch, clips, strict=True):
        try:
            clip.save(folder / line.file)
        except (MediaError, ValueError) as error:
            problems.append(f"'{line.file}': {error}")
    return problems

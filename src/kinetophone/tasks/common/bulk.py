"""Many clips from a table of prompts: in batches, resumable, and divided among workers.

The folder of the clips gets ``manifest.csv``, a table with a row for each clip that is there. Next to each
clip, ``parts/`` has a record of what made it: prompt, seed, length, sampling options, the files of the
bundle, and the version of this code. A clip with another record, or none, is made again.
"""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import file_digest
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinetophone.bundle.spec import BundleSpec
from kinetophone.errors import RequestError, is_full
from kinetophone.files import remove_unfinished, writing
from kinetophone.keys import key, record, recorded
from kinetophone.locks import sole_writer
from kinetophone.tasks.request import GenerateRequest
from kinetophone.workers import Failed, Workers, over_shards

if TYPE_CHECKING:
    from kinetophone.media.clip import Clip

COLUMNS = ("prompt", "seed", "seconds", "file")
MANIFEST = "manifest.csv"
VERSION = 1  # to be increased when the same line and bundle give another clip
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


def batches(lines: Sequence[Line], size: int) -> Iterator[list[Line]]:
    """Lines in batches of the same length. They do not depend on which clips are there already."""
    ordered = sorted(lines, key=lambda line: line.seconds or 0.0)
    for _, same in groupby(ordered, key=lambda line: line.seconds):
        group = list(same)
        for start in range(0, len(group), size):
            yield group[start : start + size]


@dataclass(frozen=True, slots=True)
class _Batch:
    """Lines to sample at once, with their keys; ``wanted`` says which of the clips are to be written."""

    lines: list[Line]
    keys: list[str]
    wanted: list[bool]


def make_all(
    lines: Sequence[Line],
    spec: BundleSpec,
    folder: Path,
    load: Callable[[], Callable[..., list[Clip]]],
    options: Mapping[str, Any],
    *,
    dtype: str = "float32",
    part: tuple[int, int] = (1, 1),
    workers: Workers | None = None,
) -> dict[str, str]:
    """Make the clips of a table that are not in ``folder`` yet.

    Args:
        lines: The clips to make.
        spec: The bundle that makes them.
        folder: Folder to write to.
        load: Loads the pipeline of the bundle. It is called once in each worker, and pickled for others
            than this process.
        options: Sampling options.
        dtype: Dtype of the networks.
        part: Make only one part of several, such as (2, 8). The others may be made at the same time.
        workers: Where the work is done; default: this process.

    Returns:
        Why clips could not be made, by their file; all others were made.

    Raises:
        RequestError: Another run makes all clips of ``folder``, or no worker could be used.
    """
    settings = spec.settings(options)
    chosen = list(batches(lines, settings.batch_size))[part[0] - 1 :: part[1]]
    made_of: dict[str, Any] = asdict(settings) | {"dtype": dtype, "bundle": _files_of(spec)}
    del made_of["batch_size"]  # it affects only rounding
    with sole_writer(folder) if part[1] == 1 else nullcontext():
        folders = {(folder / line.file).parent for line in lines} if part[1] == 1 else ()
        for inner in folders:
            remove_unfinished(inner)
        todo = [batch for some in chosen if any((batch := _batch(some, folder, made_of)).wanted)]
        _tell(chosen, todo, folder)
        failed: dict[str, str] = {}
        try:
            setup = partial(_maker, load, folder, {**options, "progress": False})
            clips = sum(sum(batch.wanted) for batch in todo)
            what = f"generating {clips} clips"
            for index, made in over_shards(setup, todo, workers or Workers(1), what, shared=[folder]):
                batch = todo[index]
                if isinstance(made, Failed):
                    there = zip(batch.lines, batch.keys, strict=True)
                    made = {
                        line.file: made.reason for line, k in there if recorded(folder / line.file, k) is None
                    }
                failed |= made
        finally:
            for inner in folders:  # what killed workers have left
                remove_unfinished(inner)
            _write_manifest(lines, folder, made_of)
    return failed


def _files_of(spec: BundleSpec) -> dict[str, Any]:
    """What a bundle is made of: hashes of its own files and of those in its bases' folders, and Hub ids."""
    bases = {name: dict(base) for name, base in spec.bases.items()}
    places = [place for place in (spec.file or spec.folder,) if place is not None]
    places += [Path(value) for base in bases.values() for value in base.values() if Path(str(value)).is_dir()]
    hashes = {}
    for number, place in enumerate(places):
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file() and path.suffix != ".md":
                with path.open("rb") as file:
                    name = path.relative_to(place).as_posix()
                    hashes[f"{number}/{name}"] = file_digest(file, "sha256").hexdigest()
    return {"bases": bases, "files": hashes}


def _key(line: Line, made_of: Mapping[str, Any]) -> str:
    return key("generate", VERSION, prompt=line.prompt, seed=line.seed, seconds=line.seconds, **made_of)


def _batch(lines: list[Line], folder: Path, made_of: Mapping[str, Any]) -> _Batch:
    keys = [_key(line, made_of) for line in lines]
    wanted = [recorded(folder / line.file, k) is None for line, k in zip(lines, keys, strict=True)]
    return _Batch(lines, keys, wanted)


def _tell(chosen: Sequence[Sequence[Line]], todo: Sequence[_Batch], folder: Path) -> None:
    """Say how many clips are there already, and how many of them are made again."""
    every = sum(map(len, chosen))
    wanted = [line for batch in todo for line, want in zip(batch.lines, batch.wanted, strict=True) if want]
    if len(wanted) < every:
        print(f"{every - len(wanted)} of {every} clips exist in '{folder}'", file=sys.stderr)
    if changed := sum((folder / line.file).exists() for line in wanted):
        print(
            f"{changed} clips in '{folder}' are incomplete, or were made by another prompt, options or "
            "bundle: they are made again",
            file=sys.stderr,
        )


def _write_manifest(lines: Sequence[Line], folder: Path, made_of: Mapping[str, Any]) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for line in lines:
        if recorded(folder / line.file, _key(line, made_of)) is not None:
            table.writerow([line.prompt, line.seed, line.seconds, line.file])
    with writing(folder / MANIFEST) as file:
        file.write(text.getvalue().encode())


def _maker(
    load: Callable[[], Callable[..., list[Clip]]], folder: Path, options: dict[str, Any], neighbours: int
) -> Callable[[_Batch], dict[str, str]]:
    """What makes a batch in a worker."""
    return partial(_make_batch, load(), folder, options)


def _make_batch(
    make: Callable[..., list[Clip]], folder: Path, options: dict[str, Any], batch: _Batch
) -> dict[str, str]:
    """Make and write the clips of one batch with a pipeline's call.

    Returns:
        Why clips could not be made or written, by their file; the others are written.
    """
    prompts, seeds = [line.prompt for line in batch.lines], [line.seed for line in batch.lines]
    failed: dict[str, str] = {}
    try:
        clips = make(prompts, seed=seeds, seconds=batch.lines[0].seconds, **options)
    except FloatingPointError as error:
        if len(batch.lines) == 1:
            return {batch.lines[0].file: str(error)}
        # One bad clip must not take the others of its batch with it.
        for line, made_by, wanted in zip(batch.lines, batch.keys, batch.wanted, strict=True):
            if wanted:
                failed |= _make_batch(make, folder, options, _Batch([line], [made_by], [True]))
        return failed
    for line, made_by, wanted, clip in zip(batch.lines, batch.keys, batch.wanted, clips, strict=True):
        if wanted:
            try:
                record(clip.save(folder / line.file), made_by)
            except (ValueError, OSError) as error:
                if is_full(error):
                    raise
                failed[line.file] = str(error)
    return failed

"""Which files of a folder are clips, and what is said about each: plain folders and known data sets.

A captions file is a table (CSV) with the columns ``file`` and ``caption``, or a list without a header, a path
and a caption on each line, as published with data sets. VGGSound's own table has no header and the columns
YouTube id, second, class, split. GreatestHits (``vis-data-256``) has ``X_times.txt`` beside each recording X.
It has a line for every contact: seconds, material, action, reaction, "None" where nobody could say. Its
``train.txt`` and ``test.txt`` name the recordings of a part.
"""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from kinetophone.errors import RequestError

Layout = Literal["folder", "greatesthits", "landscape", "vggsound"]
Split = Literal["train", "val", "test"]
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
# GreatestHits names one recording's files alike: the picture made small, whole, or a segment cut out before.
_GREATEST_HITS = ("_denoised_thumb.mp4", "_denoised.mp4", "_mic.mp4", ".mp4")
_NUMBERS = re.compile(r"(^|_)\d+(_\d+)*$")
_SPLITS: dict[str, Split] = {"train": "train", "val": "val", "validation": "val", "test": "test"}
# "<id>_<second>", with or without leading zeros, or "<id>_<first>_<last>" in milliseconds.
_VGGSOUND_SECOND = re.compile(r"(?P<id>.+)_(?P<second>\d+)")
_VGGSOUND_RANGE = re.compile(r"(?P<id>.+)_(?P<first_ms>\d+)_(?P<last_ms>\d+)")
_VGGSOUND_MS = 10_000  # of every clip
_LISTED = 3  # names told of many


@dataclass(frozen=True)
class Event:
    """A contact in a recording: ``action`` is such as "hits wood"."""

    time_s: float
    action: str


@dataclass(frozen=True)
class Source:
    """One file.

    Attributes:
        name: Its path within the folder: what the manifest calls it.
        picture: The file.
        caption: What is seen and heard all through; None where nothing says so, or where ``events`` do.
        sound: File of its sound where that is another one.
        events: What happens in it, where that is known.
    """

    name: str
    picture: Path
    caption: str | None
    sound: Path | None = None
    events: tuple[Event, ...] = ()

    def caption_between(self, start_s: float, end_s: float) -> str | None:
        """The caption of a stretch: where there is none for the whole file, its own most frequent event."""
        if self.caption is not None:
            return self.caption
        actions = Counter(event.action for event in self.events if start_s <= event.time_s < end_s)
        named = Counter({action: n for action, n in actions.items() if not action.endswith("something")})
        best = (named or actions).most_common(1)
        return f"a drumstick {best[0][0]}" if best else None


@dataclass(frozen=True)
class Sources:
    """The sources of a folder, sorted by name, and what the user should know of them, in lines."""

    files: list[Source]
    notes: list[str]


def find_sources(
    folder: Path,
    layout: Layout = "folder",
    captions: Path | None = None,
    caption: str | None = None,
    split: Split | None = None,
) -> Sources:
    """The sources in ``folder``.

    Args:
        folder: Where the files are, in sub-folders too.
        layout: "folder": any videos, captions from ``captions``, or a ``.txt`` file beside each.
            "greatesthits": recordings with ``_times.txt``, and videos that ``captions`` names. "landscape":
            one sub-folder a class, or files named by it, ``fire_crackling_136_6_34.mp4``; folders ``train``
            and ``test`` are splits. "vggsound": files that the table ``captions`` names.
        captions: See above. What it says comes before what the layout says.
        caption: One caption for all, before any other.
        split: The data set's own part, of any layout but "folder"; all if not given.

    Raises:
        RequestError: There is no such folder, file or split, or nothing in it.
    """
    if not folder.is_dir():
        raise RequestError([f"'{folder}' is no folder; name one with videos in it"])
    if split and layout == "folder":
        raise RequestError(["the layout folder has no split of its own: name the folder of one part"])
    if layout == "vggsound" and captions is None:
        raise RequestError(["the layout vggsound needs its table: --captions vggsound.csv"])
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    rows = _read_rows(captions) if captions is not None else []
    notes: list[str] = []
    if layout == "vggsound" and _is_vggsound(rows):
        found = _vggsound(folder, paths, rows, split, notes)
    else:
        matched = _match(folder, paths, _listed(captions, rows), notes) if captions is not None else {}
        if layout == "greatesthits":
            found = _greatest_hits(folder, paths, matched, split)
        elif layout == "landscape":
            found = _landscape(folder, paths, matched, split)
        elif layout == "vggsound":
            found = [_source(folder, path, matched[path]) for path in paths if path in matched]
        else:
            found = [_source(folder, path, matched.get(path) or _beside(path)) for path in paths]
    if not found:
        raise RequestError([f"'{folder}' holds no videos of the layout {layout}"])
    if captions is not None and layout != "vggsound":
        without = [
            s.name for s in found if s.picture not in matched and (layout != "folder" or not s.caption)
        ]
        if without:
            notes.append(f"{len(without)} files are not in '{captions}': {_few(without)}")
    if caption is not None:
        found = [replace(source, caption=caption) for source in found]
    return Sources(sorted(found, key=lambda source: source.name), notes)


def _source(folder: Path, path: Path, caption: str | None) -> Source:
    return Source(path.relative_to(folder).as_posix(), path, caption)


def _beside(path: Path) -> str | None:
    beside = path.with_suffix(".txt")
    return (
        (beside.read_text(encoding="utf-8", errors="replace").strip() or None) if beside.is_file() else None
    )


def _greatest_hits(
    folder: Path, paths: Sequence[Path], matched: dict[Path, str], split: Split | None
) -> list[Source]:
    part = _recordings(folder, split) if split else None
    found, spelled = {}, {path.as_posix().lower(): path for path in paths}
    for times in sorted(folder.rglob("*_times.txt")):
        stem = times.name.removesuffix("_times.txt")
        names = (times.with_name(stem + end).as_posix().lower() for end in _GREATEST_HITS)
        picture = next((spelled[name] for name in names if name in spelled), None)
        if picture is None or (part is not None and stem not in part):
            continue
        sound = times.with_name(f"{stem}_denoised.wav")
        found[picture] = Source(
            picture.relative_to(folder).as_posix(),
            picture,
            matched.get(picture),
            sound if sound.is_file() else None,
            tuple(_events(times)),
        )
    for path, caption in matched.items():
        if path not in found and (part is None or any(path.name.startswith(stem) for stem in part)):
            found[path] = _source(folder, path, caption)
    return list(found.values())


def _events(times: Path) -> Iterable[Event]:
    for number, line in enumerate(times.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        time, *rest = line.split() or [""]
        material, action = (*rest, "None", "None")[:2]
        if not time or action == "None":  # nothing was touched, or nobody could say
            continue
        try:
            second = float(time)
        except ValueError:
            raise RequestError([f"'{times}', line {number}: '{time}' is no time in seconds"]) from None
        does = {"hit": "hits", "scratch": "scratches"}.get(action, action)
        yield Event(second, f"{does} {'something' if material == 'None' else material.replace('-', ' ')}")


def _recordings(folder: Path, split: Split) -> set[str]:
    lists = sorted(folder.rglob(f"{split}.txt"))
    if not lists:
        raise RequestError([f"'{folder}' holds no {split}.txt, which names the recordings of that split"])
    return {line.strip() for line in lists[0].read_text().splitlines() if line.strip()}


def _landscape(
    folder: Path, paths: Sequence[Path], matched: dict[Path, str], split: Split | None
) -> list[Source]:
    found, splits = [], set()
    for path in paths:
        folders = path.relative_to(folder).parts[:-1]
        own = [_SPLITS[name.lower()] for name in folders if name.lower() in _SPLITS]
        splits |= set(own)
        if split and split not in own:
            continue
        classes = [name for name in folders if name.lower() not in _SPLITS]
        name = classes[-1] if classes else _NUMBERS.sub("", path.stem)
        found.append(_source(folder, path, matched.get(path) or name.replace("_", " ").strip() or None))
    if split and not found:
        there = f"only {', '.join(sorted(splits))}" if splits else "no folders train and test"
        raise RequestError([f"'{folder}' has no split {split}: {there}"])
    return found


def _is_vggsound(rows: Sequence[Sequence[str]]) -> bool:
    """Whether rows are of VGGSound's own table, with or without a header."""
    return any(len(row) >= 4 and row[1].strip().isdigit() for row in rows[:2])


def _vggsound(
    folder: Path,
    paths: Sequence[Path],
    rows: Sequence[Sequence[str]],
    split: Split | None,
    notes: list[str],
) -> list[Source]:
    table = {
        (row[0].strip(), int(row[1])): row[2].strip()
        for row in rows
        if len(row) >= 4 and row[1].strip().isdigit() and split in (None, row[3].strip())
    }
    found = []
    for path in paths:
        keys = []
        match = _VGGSOUND_RANGE.fullmatch(path.stem)
        if match and int(match["last_ms"]) - int(match["first_ms"]) == _VGGSOUND_MS:
            keys.append((match["id"], int(match["first_ms"]) // 1000))
        if match := _VGGSOUND_SECOND.fullmatch(path.stem):
            keys.append((match["id"], int(match["second"])))
        caption = next((table[key] for key in keys if key in table), None)
        if caption is not None:
            found.append(_source(folder, path, caption))
    if not found:
        names = _few([path.stem for path in paths]) or "none"
        raise RequestError(
            [f"no video in '{folder}' is named after a row of the table, like id_000030: there are {names}"]
        )
    if len(found) < len(paths):
        used = {source.picture for source in found}
        others = [path.stem for path in paths if path not in used]
        part = f" of the split {split}" if split else ""
        notes.append(f"{len(others)} files are in no row{part}: {_few(others)}")
    if len(found) < len(table):
        notes.append(f"{len(table) - len(found)} rows have no file")
    return found


def _read_rows(path: Path) -> list[list[str]]:
    """Rows of a CSV file that are not empty."""
    if not path.is_file():
        raise RequestError([f"'{path}' does not exist; name a CSV file with the columns file and caption"])
    try:
        text = path.read_text(encoding="utf-8-sig")
        return [
            row for row in csv.reader(text.splitlines(), skipinitialspace=True) if any(map(str.strip, row))
        ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise RequestError([f"'{path}' is not a CSV file in UTF-8 ({error})"]) from None


def _listed(path: Path | None, rows: list[list[str]]) -> list[tuple[str, str]]:
    """File and caption of each row, with or without a header."""
    if not rows:
        raise RequestError([f"'{path}' is empty; give a file and a caption on each line"])
    header = [name.strip().lower() for name in rows[0]]
    if "caption" in header or "file" in header:
        if not {"file", "caption"} <= set(header):
            raise RequestError([f"'{path}' has the columns {header}; it needs file and caption"])
        file, caption = header.index("file"), header.index("caption")
        rows = [row for row in rows[1:] if len(row) > max(file, caption)]
        return [(row[file].strip(), row[caption].strip()) for row in rows]
    short = [row[0] for row in rows if len(row) < 2]
    if short:
        raise RequestError([f"'{path}': {len(short)} lines have no caption after the file: {_few(short)}"])
    return [(row[0].strip(), ",".join(row[1:]).strip()) for row in rows]


def _match(
    folder: Path, paths: Sequence[Path], listed: Sequence[tuple[str, str]], notes: list[str]
) -> dict[Path, str]:
    """Captions by file; a row names its file by the path, or else by the name, or else without its suffix."""
    by_path = {path.relative_to(folder).as_posix(): [path] for path in paths}
    by_path |= {path.resolve().as_posix(): [path] for path in paths}
    by_name, by_stem = defaultdict(list), defaultdict(list)
    for path in paths:
        by_name[path.name].append(path)
        by_stem[path.stem].append(path)
    found: dict[Path, str] = {}
    unknown, ambiguous = [], []
    for name, caption in listed:
        row = PurePosixPath(name.replace("\\", "/"))
        candidates = (
            by_path.get(row.as_posix())
            or _nearest(row, by_name.get(row.name, []), folder)
            or by_stem.get(row.name)
            or (by_stem.get(row.stem) if row.suffix.lower() in SUFFIXES else None)
        )
        if not candidates:
            unknown.append(name)
        elif len(candidates) > 1:
            ambiguous.append(name)
        elif caption:
            found.setdefault(candidates[0], caption)
    if not found:
        there = _few([path.relative_to(folder).as_posix() for path in paths]) or "no videos"
        raise RequestError(
            [
                f"the captions match no file in '{folder}': they name {_few(unknown + ambiguous)}; "
                f"there are {there}"
            ]
        )
    if unknown:
        notes.append(f"{len(unknown)} rows match no file: {_few(unknown)}")
    if ambiguous:
        notes.append(f"{len(ambiguous)} rows match several files, give their paths: {_few(ambiguous)}")
    return found


def _nearest(row: PurePosixPath, candidates: list[Path], folder: Path) -> list[Path]:
    """Of files of one name those whose path shares the most folders with the row's, from the end."""

    def shared(path: Path) -> int:
        pairs = zip(reversed(row.parts), reversed(path.resolve().parts), strict=False)
        return next((i for i, (one, other) in enumerate(pairs) if one != other), len(row.parts))

    most = max(map(shared, candidates), default=0)
    return [path for path in candidates if shared(path) == most]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")

"""Caption tables in their published formats, and the matching of rows to files.

- A CSV file with the columns ``file`` and ``caption`` (or ``path``, ``video``, ``file_name``; ``text``,
  ``prompt``).
- A file list without a header: a path, optionally the path of a .wav file, and the caption:
  ``./path/x.mp4,"a dog barks, far away"``.
- VGGSound's own table, without a header: YouTube id, start second, class, split.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path, PurePosixPath

from kinetophone.errors import RequestError
from kinetophone.text import read_text

VIDEOS = (
    ".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".flv", ".wmv",
    ".3gp", ".mxf", ".ogv",
)  # fmt: skip
_AUDIOS = (".wav", ".flac", ".mp3", ".m4a", ".ogg")
_FILE_COLUMNS = ("file", "path", "video", "file_name")
_CAPTION_COLUMNS = ("caption", "text", "prompt")
# VGGSound: <id>_<start> in seconds, or <id>_<start>_<end> in seconds or milliseconds. An id may itself end in
# such numbers, so all interpretations of a name are tried.
_START = re.compile(r"(.+)_(\d+)", re.DOTALL)
_START_AND_END = re.compile(r"(.+)_(\d+)(?:\.0+)?_(\d+)(?:\.0+)?", re.DOTALL)
VGGSOUND_SECONDS = 10


@dataclass(frozen=True)
class Row:
    """A row of a table: the name of its file, the caption and the line number."""

    name: str
    caption: str
    line: int


@dataclass
class Matches:
    """The result of matching rows to files.

    Attributes:
        rows: The row of each matched file.
        unused: Rows without a matching file.
        unclear: Rows that match more than one file, with these files.
        repeated: Files with several captions; the first one is used.
        contradicted: Files that match rows with different names and different captions.
    """

    rows: dict[Path, Row] = field(default_factory=dict)
    unused: list[Row] = field(default_factory=list)
    unclear: list[tuple[Row, list[Path]]] = field(default_factory=list)
    repeated: list[Path] = field(default_factory=list)
    contradicted: list[Path] = field(default_factory=list)


def read_cells(path: Path) -> list[tuple[int, list[str]]]:
    """Read the rows of a CSV file that are not empty, each with its line number.

    Raises:
        RequestError: There is no such file, it is not CSV, or it is empty.
    """
    if not path.is_file():
        raise RequestError([f"'{path}' is not a file; name a CSV file with the columns file and caption"])
    rows = []
    reader = csv.reader(io.StringIO(read_text(path)), skipinitialspace=True, strict=True)
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise RequestError([f"'{path}' is not a CSV file (line {reader.line_num}: {error})"]) from None
    if not rows:
        raise RequestError([f"'{path}' is empty; it needs a row with path and caption for each file"])
    return rows


@dataclass(frozen=True)
class Table:
    """A table or file list: its rows, and the line numbers of rows without a caption or a file."""

    rows: list[Row]
    incomplete: list[int]


def read_list(path: Path) -> Table:
    """Read a table or file list in one of the formats described in this module.

    Raises:
        RequestError: The file cannot be read, has no captions, or is VGGSound's own table.
    """
    rows = read_cells(path)
    header = [cell.lower() for cell in rows[0][1]]
    files = [header.index(name) for name in _FILE_COLUMNS if name in header]
    captions = [header.index(name) for name in _CAPTION_COLUMNS if name in header]
    if not (files and captions) and any(_is_vggsound(cells) for _, cells in rows[:2]):
        raise RequestError([f"'{path}' is VGGSound's own table: name the layout vggsound"])
    if files and captions:
        found = [
            Row(_cell(cells, files[0], header), _cell(cells, captions[0], header), line)
            for line, cells in rows[1:]
        ]
    elif files or captions:
        raise RequestError([f"'{path}' has the columns {', '.join(rows[0][1])}; it needs file and caption"])
    else:
        found = [Row(cells[0], _caption(cells), line) for line, cells in rows]
    whole = [row for row in found if row.name and row.caption]
    if not whole:
        raise RequestError([f"'{path}' has no captions; a row is the path of a file and its caption"])
    return Table(whole, [row.line for row in found if not (row.name and row.caption)])


def _cell(cells: list[str], column: int, header: list[str]) -> str:
    """One cell. The last column includes all further cells, which unquoted commas have split off."""
    if column == len(header) - 1:
        return ", ".join(cells[column:])
    return cells[column] if column < len(cells) else ""


def _caption(cells: list[str]) -> str:
    """All cells after the files of a row, joined: an unquoted caption is split at its commas."""
    first = 2 if len(cells) > 2 and Path(cells[1]).suffix.lower() in _AUDIOS else 1
    return ", ".join(cells[first:])


def match(
    rows: Iterable[Row],
    files: Sequence[Path],
    folders: Sequence[Path],
    stem: Callable[[str], str] = lambda name: name,
) -> Matches:
    """Match rows to files.

    A row matches the file at its path, absolute or relative to one of ``folders``. Otherwise it matches the
    only file with its name, or with its name without the extension. Among several files with that name, the
    one whose parent folders agree best with the row's path is taken, counted from the file upwards. If the
    folder of a row's path exists but the file does not, other folders are not searched.

    Args:
        rows: Rows from :func:`read_list`.
        files: Absolute paths.
        folders: Absolute paths; ``files`` are in the first one.
        stem: Maps a name without extension, of a file or a row, to the part that is compared.

    Returns:
        The row of each file, and the rows and files that could not be matched.
    """
    index = _Index(files, folders, stem)
    result = Matches()
    best: dict[Path, tuple[int, list[Row]]] = {}
    for row in rows:
        rank, found = index.find(row.name)
        if len(found) > 1:
            result.unclear.append((row, found))
            continue
        if not found:
            result.unused.append(row)
            continue
        known, others = best.get(found[0], (-1, []))
        if rank > known:
            result.unused += others
            best[found[0]] = rank, [row]
        elif rank == known:
            others.append(row)
        else:
            result.unused.append(row)
    for file, (_, of_file) in best.items():
        different = len({row.caption for row in of_file}) > 1
        if different and len({os.path.normpath(row.name) for row in of_file}) > 1:
            result.contradicted.append(file)
            continue
        result.rows[file] = of_file[0]
        if different:
            result.repeated.append(file)
    return result


class _Index:
    """Index of files by path, name and stem."""

    def __init__(self, files: Sequence[Path], folders: Sequence[Path], stem: Callable[[str], str]) -> None:
        self.folders, self.stem = folders, stem
        self.root = folders[0]
        self.paths = {str(file): file for file in files}
        self.by_name: dict[str, list[Path]] = defaultdict(list)
        self.by_stem: dict[str, list[Path]] = defaultdict(list)
        self.by_path: dict[str, list[Path]] = defaultdict(list)
        for file in files:
            self.by_name[file.stem + file.suffix.lower()].append(file)
            self.by_stem[stem(file.stem)].append(file)
            self.by_path[str(file.parent / stem(file.stem))].append(file)

    def find(self, name: str) -> tuple[int, list[Path]]:
        """The rank of the best kind of match (higher is better), and the files that match in that way."""
        name = name.replace("\\", "/")
        path = PurePosixPath(name)
        media = path.suffix.lower() in (*VIDEOS, *_AUDIOS)
        own = self.stem(path.stem if media else path.name)
        places = [os.path.normpath(folder / name) for folder in self.folders]
        for place in places:
            if place in self.paths:
                return 3, [self.paths[place]]
        for place in places:
            if found := self.by_path.get(str(Path(place).parent / own)):
                return 2, _of_suffix(found, path)
        found = self.by_name.get(path.stem + path.suffix.lower(), [])
        rank = 1 if found else 0
        found = found or _of_suffix(self.by_stem.get(own, []), path)
        for place in places:
            parent = Path(place).parent
            if parent.is_relative_to(self.root) and parent != self.root and _is_folder(parent):
                found = [file for file in found if file.is_relative_to(parent)]
        if len(found) > 1:
            agree = [_agreement(file, os.path.normpath(name)) for file in found]
            found = [file for file, parts in zip(found, agree, strict=True) if parts == max(agree)]
        return rank, found


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # the name is too long
        return False


def _of_suffix(files: list[Path], path: PurePosixPath) -> list[Path]:
    """Those of ``files`` with the extension of ``path``, ignoring case; all of them if there are none."""
    return [file for file in files if file.suffix.lower() == path.suffix.lower()] or files


def _agreement(file: Path, name: str) -> int:
    """Number of parent folders, from the file upwards, whose names are the same in ``name``."""
    pairs = zip(reversed(file.parent.parts), reversed(PurePosixPath(name).parent.parts), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


@dataclass(frozen=True)
class VGGSoundRow:
    """A clip of VGGSound: the video's id, the second it starts at, its class and its split."""

    id: str
    start_s: int
    caption: str
    split: str
    line: int


def read_vggsound(path: Path) -> list[VGGSoundRow] | None:
    """Read the rows of VGGSound's own table; None if ``path`` is a table in another format.

    Raises:
        RequestError: A row has no start second or no split.
    """
    rows = read_cells(path)
    if not any(_is_vggsound(cells) for _, cells in rows[:2]):
        return None
    if not _is_vggsound(rows[0][1]):
        rows = rows[1:]  # some copies have a header
    found = []
    for line, cells in rows:
        if not _is_vggsound(cells):
            raise RequestError([f"'{path}', line {line}: expected YouTube id, start second, class, split"])
        label = ", ".join(cells[2:-1])  # several cells if it is not quoted
        found.append(VGGSoundRow(cells[0], int(float(cells[1])), label, cells[-1].lower(), line))
    return found


def _is_vggsound(cells: list[str]) -> bool:
    is_path = Path(cells[0]).suffix.lower() in VIDEOS  # a row of a file list with an unquoted caption
    return len(cells) >= 4 and not is_path and re.fullmatch(r"\d{1,9}(\.0+)?", cells[1]) is not None


def vggsound_names(stem: str) -> set[tuple[str, int]]:
    """All possible (id, start second) of a file with this stem.

    Stems have the form ``id_000030``, ``id_30``, ``id_30_40`` or ``id_30000_40000``.
    """
    found = set()
    if name := _START.fullmatch(stem):
        found.add((name[1], int(name[2])))
    if name := _START_AND_END.fullmatch(stem):
        start, end = int(name[2]), int(name[3])
        if end - start == VGGSOUND_SECONDS:
            found.add((name[1], start))
        elif end - start == 1000 * VGGSOUND_SECONDS and start % 1000 == 0:
            found.add((name[1], start // 1000))
    return found

"""Finding the videos of a folder and their captions: plain folders and known datasets.

GreatestHits (``vis-data``, ``vis-data-256``) has ``X_times.txt`` for each recording X, with a line for every
contact: seconds, material, action, reaction, each "None" if it is unknown. Its ``train.txt`` and ``test.txt``
list the recordings of a split. Landscape has folders ``train`` and ``test``, with a folder for each class or
files named after their class. VGGSound's files are named by YouTube id and start second. Tables are read by
:mod:`kinetophone.data.captions`.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from kinetophone.data.captions import (
    VIDEOS,
    Row,
    VGGSoundRow,
    match,
    read_list,
    read_vggsound,
    vggsound_names,
)
from kinetophone.errors import RequestError
from kinetophone.text import read_text

Layout = Literal["folder", "greatesthits", "landscape", "vggsound"]
Split = Literal["train", "val", "test"]
# Files of these types accompany videos: their audio, captions and tables.
COMPANION_SUFFIXES = (
    ".wav", ".flac", ".mp3", ".m4a", ".ogg", ".txt", ".csv", ".tsv", ".json", ".jsonl", ".md", ".yaml",
)  # fmt: skip
_NO_CAPTION = "no caption (name a table, put a .txt file next to it, or give one for all)"
# A folder with one of these names, ignoring case, is a split.
_SPLITS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}
# Suffixes of the files of one recording in GreatestHits; the first that exists is taken.
_IMAGES = ("_denoised_thumb", "_denoised", "_mic", "")
_RECORDING = re.compile(r"_denoised_thumb$|_denoised$|_mic$")
_NUMBERS = re.compile(r"(?:^|[_\s-]+)\d+(?:[_\s-]+\d+)*$")
_PUBLISHED_NAME = re.compile(r"_\d+_\d+$")  # Landscape's fire_crackling_136_6_34
_DOES = {"hit": "hits", "scratch": "scratches"}


@dataclass(frozen=True)
class Event:
    """A contact in a recording of GreatestHits; ``material`` is None if it is unknown."""

    time_s: float
    action: str
    material: str | None


@dataclass(frozen=True)
class Source:
    """A video file and its caption.

    Attributes:
        name: Path within the folder, as in the manifest.
        picture: Path of the video.
        caption: Caption of the entire file; None if there is none, or if captions come from ``events``.
        caption_from: Where the caption comes from.
        sound: Separate audio file, if any.
        events: Known events, in order of time.
        problem: Why the file cannot be used, if that is known without opening it.
    """

    name: str
    picture: Path
    caption: str | None
    caption_from: str = ""
    sound: Path | None = None
    events: tuple[Event, ...] = ()
    problem: str | None = None

    def caption_between(self, start_s: float, stop_s: float) -> str | None:
        """Caption of a section: that of the file, else one made from the section's events, else None."""
        if self.caption is not None:
            return self.caption
        return _caption_of_events(event for event in self.events if start_s <= event.time_s < stop_s)


@dataclass(frozen=True)
class Sources:
    """The files of a folder, sorted by name.

    Attributes:
        files: All files, including those that cannot be used.
        notes: What is not used and why, one line each.
        settings: Layout, split and origin of the captions, to be saved with the clips.
    """

    files: list[Source]
    notes: tuple[str, ...]
    settings: dict[str, str | None]

    def __iter__(self) -> Iterator[Source]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def find_sources(
    folder: Path,
    layout: Layout = "folder",
    captions: Path | None = None,
    caption: str | None = None,
    split: Split | None = None,
) -> Sources:
    """Find the videos in ``folder`` and their captions.

    Args:
        folder: Folder of the files; subfolders are searched too.
        layout: "folder": any videos, with captions from ``captions`` or from a ``.txt`` file next to each.
            "greatesthits": recordings with ``_times.txt``. "landscape": one subfolder per class, or files
            named after it, such as ``fire_crackling_136_6_34.mp4``. "vggsound": the files that the table
            ``captions`` lists.
        captions: A table or file list, see :mod:`kinetophone.data.captions`. It takes precedence over the
            layout. A file without a row is not used, unless it has a ``.txt`` file next to it.
        caption: A single caption for all files instead.
        split: Split of the dataset; all splits if not given. Not for "folder".

    Returns:
        The files, with notes on what is not used.

    Raises:
        RequestError: There is no such folder, table or split, there are no videos, or the table does not
            match the files.
    """
    if not folder.is_dir():
        raise RequestError([f"'{folder}' is not a folder; name one with videos in it"])
    if split and layout == "folder":
        raise RequestError(
            ["the layout folder has no split: name the folder of one split, or another layout"]
        )
    if caption is not None and (captions is not None or layout == "vggsound"):
        what = "a table of captions" if captions is not None else "the layout vggsound, which has its table,"
        raise RequestError([f"{what} and one caption for all can't be combined: leave out one of them"])
    if caption is not None and not caption.strip():
        raise RequestError(["the caption is empty; write what is seen and heard, or leave it out"])
    if layout == "vggsound" and captions is None:
        raise RequestError(["the layout vggsound needs its table: --captions vggsound.csv"])
    notes: list[str] = []
    below = files_below(folder)
    videos = sorted(path for path in below if path.suffix.lower() in VIDEOS)
    if unread := sorted(path for path in below if path.suffix.lower() not in (*VIDEOS, *COMPANION_SUFFIXES)):
        kinds = ", ".join(sorted({path.suffix.lower() or "none" for path in unread})[:8])
        names = first_few([path.relative_to(folder).as_posix() for path in unread])
        notes.append(f"{_number(unread, 'file')} not used, not a video (suffixes {kinds}): {names}")
    if layout == "greatesthits":
        found = _greatest_hits(folder, below, split, notes)
    elif layout == "landscape":
        found = _landscape(folder, videos, split)
    else:
        found = [_plain_source(folder, video) for video in videos]
    if not found:
        part = f" in its split {split}" if split else ""
        raise RequestError([f"'{folder}' has no videos of the layout {layout}{part}"])
    if captions is not None:
        clips = read_vggsound(captions) if layout == "vggsound" else None
        if clips is not None:
            found = _of_vggsound(found, clips, folder, captions, split, notes)
        elif layout == "vggsound" and split:
            raise RequestError(
                [f"'{captions}' has no splits: leave out the split, or name VGGSound's own table"]
            )
        else:
            found = _of_table(found, folder, captions, layout, notes)
    if caption is not None:
        found = [replace(s, caption=caption, caption_from="one for all", problem=None) for s in found]
    without = defaultdict(list)
    for source in found:
        if source.problem:
            without[source.problem].append(source.name)
    notes += [
        f"{_number(names, 'file')} not used, {problem}: {first_few(names)}"
        for problem, names in without.items()
    ]
    settings = {
        "layout": layout,
        "split": split,
        "captions": captions.name if captions else None,
        "caption": caption,
        "captions_sha256": _digest(found),
    }
    return Sources(found, tuple(notes), settings)


def files_below(folder: Path) -> list[Path]:
    """All files in a folder and its subfolders, sorted, without hidden ones.

    Links to folders are followed, but each folder is visited only once, so that loops end.
    """
    found: list[Path] = []
    seen: set[Path] = set()
    folders, links = deque([folder]), deque[Path]()
    while folders or links:
        here = folders.popleft() if folders else links.popleft()  # prefer a folder's real name to a link
        if (real := here.resolve()) in seen:
            continue
        seen.add(real)
        try:
            entries = [entry for entry in here.iterdir() if not entry.name.startswith(".")]
        except OSError:
            continue  # no permission to read it
        for entry in sorted(entries):
            if entry.is_file():
                found.append(entry)
            elif entry.is_dir():
                (links if entry.is_symlink() else folders).append(entry)
    return sorted(found)


def sibling(file: Path, suffix: str) -> Path | None:
    """The file next to ``file`` with the same stem and another suffix, ignoring case; None if missing."""
    plain = file.with_suffix(suffix)
    if plain.is_file():
        return plain
    if not file.parent.is_dir():
        return None
    alike = (p for p in file.parent.iterdir() if p.stem == file.stem and p.suffix.lower() == suffix)
    return next((path for path in sorted(alike) if path.is_file()), None)


def _number(things: Sequence[object], what: str) -> str:
    return f"{len(things)} {what}{'' if len(things) == 1 else 's'}"


def first_few(names: Sequence[str], at_most: int = 3) -> str:
    """The first ``at_most`` names as text, and how many more there are."""
    more = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" and {more} more" if more > 0 else "")


def _caption_of_events(events: Iterable[Event]) -> str | None:
    """A caption such as "a drumstick hits metal and wood", with actions in order of first occurrence.

    An action whose materials are all unknown gets "something". None if there are no events.
    """
    does: dict[str, list[str]] = {}
    for event in events:
        materials = does.setdefault(_DOES.get(event.action, event.action), [])
        if event.material is not None and event.material not in materials:
            materials.append(event.material)
    parts = [f"{action} {_and(materials) or 'something'}" for action, materials in does.items()]
    return f"a drumstick {_and(parts)}" if parts else None


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _digest(sources: list[Source]) -> str:
    """Hash of all captions and events, so that a run with other captions is not resumed."""
    said = [(s.name, s.caption, [(e.time_s, e.action, e.material) for e in s.events]) for s in sources]
    return hashlib.sha256(repr(said).encode()).hexdigest()


def _plain_source(folder: Path, video: Path) -> Source:
    name, text = video.relative_to(folder).as_posix(), sibling(video, ".txt")
    if text is not None:
        try:
            caption = read_text(text).strip()
        except RequestError as error:
            return Source(name, video, None, problem=str(error).replace(str(text), text.name))
        if caption:
            return Source(name, video, " ".join(caption.split()), text.name)
    return Source(name, video, None, problem=_NO_CAPTION)


def _landscape(folder: Path, videos: list[Path], split: Split | None) -> list[Source]:
    found = []
    for video in videos:
        name = video.relative_to(folder)
        # The deepest folder with the name of a split counts, whether it is inside or outside the classes.
        at = max((i for i, part in enumerate(name.parts[:-1]) if part.lower() in _SPLITS), default=None)
        if split and (at is None or _SPLITS[name.parts[at].lower()] != split):
            continue
        text, where = _class_of(name, at)
        if text:
            found.append(Source(name.as_posix(), video, text, where))
        else:
            problem = "no class (put it in a folder named by it, name a table, or give one caption for all)"
            found.append(Source(name.as_posix(), video, None, problem=problem))
    return found


def _class_of(name: Path, split_at: int | None) -> tuple[str, str]:
    """The class of a Landscape file, and where it comes from: a folder or the file's own name."""
    folders = name.parts[:-1]
    inner = [] if split_at is None else folders[split_at + 1 :]
    outer = [p for p in folders if p.lower() not in _SPLITS and "landscape" not in p.lower()]
    own = _NUMBERS.sub("", name.stem)
    numbered = own != "" and own != name.stem
    if inner:
        text = inner[0]
    elif numbered and (split_at is not None or _PUBLISHED_NAME.search(name.stem)):
        return _words(own), "its name"
    elif outer:
        text = outer[-1]
    else:
        return _words(own), "its name"
    return _words(text), f"folder {text}"


def _words(name: str) -> str:
    return " ".join(re.split(r"[_\s]+", name)).strip()


def _greatest_hits(folder: Path, below: list[Path], split: Split | None, notes: list[str]) -> list[Source]:
    pictures: dict[str, list[Path]] = defaultdict(list)
    for video in below:
        if video.suffix.lower() in VIDEOS:
            pictures[_recording(video.stem)].append(video)
    ending = "_times.txt"
    times = {path.name[: -len(ending)]: path for path in below if path.name.lower().endswith(ending)}
    unseen = [name for name in times if name not in pictures]
    if unseen:
        names = first_few([times[name].name for name in unseen])
        notes.append(f"{_number(unseen, 'list')} of events not used, no video with that name: {names}")
    if split:
        part = _recordings(folder, below, split)
        missing = sorted(part - pictures.keys())
        if missing:
            notes.append(
                f"{_number(missing, 'recording')} in {split}.txt not used, no such video: "
                f"{first_few(missing)}"
            )
        pictures = {name: files for name, files in pictures.items() if name in part}
    found = []
    for name, files in pictures.items():
        of_time = times.get(name)
        near = [f for f in files if of_time is not None and f.parent == of_time.parent] or files
        picture = min(near, key=lambda f: _IMAGES.index(f.stem[len(name) :]))
        path = picture.relative_to(folder).as_posix()
        audio_file = sibling(picture.with_name(f"{name}_denoised.mp4"), ".wav")
        if of_time is None:
            one = Source(path, picture, None, sound=audio_file)
            found.append(_without(one, "no _times.txt with its events"))
            continue
        one = Source(path, picture, None, of_time.name, audio_file)
        try:
            found.append(replace(one, events=_read_times(of_time)))
        except ValueError as error:
            found.append(_without(one, str(error).replace(str(of_time), of_time.name)))
    return sorted(found, key=lambda source: source.name)


def _recording(stem: str) -> str:
    return _RECORDING.sub("", stem)


def _read_times(path: Path) -> tuple[Event, ...]:
    """Read the contacts in a ``_times.txt``; those with an unknown action are left out."""
    events = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        time, *rest = line.split()
        material, action = (*rest, "None", "None")[:2]
        try:
            time_s = float(time)
        except ValueError:
            time_s = math.nan
        if not math.isfinite(time_s):
            raise ValueError(f"{path.name}, line {number}, does not start with a time in seconds")
        if action != "None":
            events.append(Event(time_s, action, None if material == "None" else material.replace("-", " ")))
    return tuple(sorted(events, key=lambda event: event.time_s))


def _recordings(folder: Path, below: list[Path], split: Split) -> set[str]:
    """Names of the recordings of a split, from ``train.txt`` (or another) in the folder or next to it."""
    lists = sorted(
        (p for p in (*below, *folder.absolute().parent.glob("*")) if p.name.lower() == f"{split}.txt"),
        key=lambda p: (not p.is_relative_to(folder), len(p.parts), p),
    )
    if not lists:
        raise RequestError([f"'{folder}' has no {split}.txt, which lists the recordings of that split"])
    lines = read_text(lists[0]).split("\n")
    names = (Path(line.strip().replace("\\", "/")).name for line in lines)
    return {_recording(Path(n).stem if Path(n).suffix.lower() in VIDEOS else n) for n in names if n}


def _of_table(
    found: list[Source], folder: Path, table: Path, layout: Layout, notes: list[str]
) -> list[Source]:
    """``found`` with the captions of a table or file list."""
    read = read_list(table)
    rows = read.rows
    if read.incomplete:
        lines = first_few([str(line) for line in read.incomplete], 8)
        number = _number(read.incomplete, "row")
        notes.append(f"{number} of {table.name} not used, without a file or a caption: line {lines}")
    root = folder.resolve()
    files = [root / source.name for source in found]
    stem = _recording if layout == "greatesthits" else str
    matches = match(rows, files, (root, table.resolve().parent), stem)
    if not matches.rows:
        which = "no file unambiguously" if matches.unclear or matches.contradicted else "no file"
        first = f"its first row is '{rows[0].name}', the first file is '{found[0].name}'"
        raise RequestError([f"'{table}' matches {which} in '{folder}': {first}"])
    if matches.unused:
        names = first_few([row.name for row in matches.unused])
        notes.append(f"{_number(matches.unused, 'row')} of {table.name} not used, no such file: {names}")
    if matches.repeated:
        names = first_few([path.relative_to(root).as_posix() for path in matches.repeated])
        number = _number(matches.repeated, "file")
        notes.append(f"{number} with several captions in {table.name}; the first one is used: {names}")
    for row, several in matches.unclear[:3]:
        names = first_few([path.relative_to(root).as_posix() for path in several])
        notes.append(f"line {row.line} of {table.name} not used, '{row.name}' matches several files: {names}")
    if len(matches.unclear) > 3:
        notes.append(f"{len(matches.unclear) - 3} more rows of {table.name} not used, for the same reason")
    unclear = {path for _, several in matches.unclear for path in several}
    captioned = []
    for source, path in zip(found, files, strict=True):
        if path in matches.rows:
            captioned.append(_with_row(source, matches.rows[path], table))
        elif path in matches.contradicted:
            captioned.append(_without(source, f"several different rows in {table.name}"))
        elif path in unclear:
            captioned.append(_without(source, f"a name in {table.name} that matches other files too"))
        elif layout != "folder" or source.caption is None:
            captioned.append(_without(source, f"no row in {table.name}"))
        else:
            captioned.append(source)
    return captioned


def _with_row(source: Source, row: Row, table: Path) -> Source:
    return replace(source, caption=row.caption, caption_from=f"{table.name}, line {row.line}", problem=None)


def _without(source: Source, problem: str) -> Source:
    return replace(source, caption=None, caption_from="", problem=problem)


def _of_vggsound(
    found: list[Source],
    clips: list[VGGSoundRow],
    folder: Path,
    table: Path,
    split: Split | None,
    notes: list[str],
) -> list[Source]:
    """``found`` with the classes from VGGSound's table, by id and start second; optionally of one split."""
    rows: dict[tuple[str, int], list[VGGSoundRow]] = defaultdict(list)
    for clip in clips:
        rows[clip.id, clip.start_s].append(clip)
    used: set[tuple[str, int]] = set()
    captioned = []
    for source in found:
        keys = sorted(vggsound_names(source.picture.stem) & rows.keys())
        used.update(keys)
        of_file = [row for key in keys for row in rows[key]]
        if split and of_file and all(_SPLITS.get(row.split) != split for row in of_file):
            continue
        if not of_file:
            source = replace(
                source, caption=None, problem=f"no row with its id and start second in {table.name}"
            )
        elif len({row.caption for row in of_file}) > 1:
            source = replace(source, caption=None, problem=f"several different rows in {table.name}")
        else:
            row = of_file[0]
            source = _with_row(source, Row(row.id, row.caption, row.line), table)
        captioned.append(source)
    if not used:
        row = clips[0]
        first = f"its first row is {row.id} at {row.start_s} s, the first file is '{found[0].name}'"
        raise RequestError([f"'{table}' matches no file in '{folder}': {first}"])
    if split and len(captioned) == sum(source.problem is not None for source in captioned):
        raise RequestError([f"'{folder}' has no videos of the split {split} in '{table}'"])
    wanted = {key for key, of_key in rows.items() if split is None or _SPLITS.get(of_key[0].split) == split}
    missing = [f"{name}_{start_s:06d}" for name, start_s in sorted(wanted - used)]
    if missing:
        notes.append(
            f"{_number(missing, 'row')} of {table.name} not used, no such file: {first_few(missing)}"
        )
    return captioned

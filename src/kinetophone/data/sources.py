"""Which files of a folder are clips, and what is said about each: plain folders and known data sets.

A captions table (CSV) has the columns ``file`` and ``caption``. VGGSound's own table has no header and the
columns YouTube id, second, class, split; its files are named ``<id>_<second, six digits>.mp4``. GreatestHits
(``vis-data-256``) has ``X_times.txt`` beside each recording X, a line for every contact: seconds, material,
action, reaction, "None" where nobody could say; ``train.txt`` and ``test.txt`` name the recordings of a part.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kinetophone.errors import RequestError

Layout = Literal["folder", "greatesthits", "landscape", "vggsound"]
Split = Literal["train", "test"]
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
# GreatestHits names one recording's files alike: the picture made small, or whole.
_GREATEST_HITS = ("_denoised_thumb.mp4", "_denoised.mp4", "_mic.mp4")
_NUMBERS = re.compile(r"(_\d+)+$")


@dataclass(frozen=True)
class Source:
    """One file.

    Attributes:
        name: Its path within the folder: what the manifest calls it.
        picture: The file.
        sound: File of its sound where that is another one.
        caption: What is seen and heard; None where nothing says so.
        events_s: Times of the events in it, in seconds, where they are known.
    """

    name: str
    picture: Path
    caption: str | None
    sound: Path | None = None
    events_s: tuple[float, ...] = ()


def find_sources(
    folder: Path,
    layout: Layout = "folder",
    captions: Path | None = None,
    caption: str | None = None,
    split: Split | None = None,
) -> list[Source]:
    """The sources in ``folder``, sorted by name.

    Args:
        folder: Where the files are, in sub-folders too.
        layout: "folder": any videos, captions from ``captions``, or a ``.txt`` file beside each.
            "greatesthits": recordings with ``_times.txt``. "landscape": one sub-folder a class, or files
            named by it, ``fire_crackling_136_6_34.mp4``. "vggsound": files that the table ``captions`` names.
        captions: A table, see above.
        caption: One caption for all, before any other.
        split: The data set's own "train" or "test" part, of GreatestHits and VGGSound; all if not given.

    Raises:
        RequestError: There is no such folder, table or split, or nothing in it.
    """
    if not folder.is_dir():
        raise RequestError([f"'{folder}' is no folder; name one with videos in it"])
    if split and layout not in ("greatesthits", "vggsound"):
        raise RequestError([f"the layout {layout} has no split of its own: name the folder of one part"])
    if layout == "greatesthits":
        found = _greatest_hits(folder, split)
    else:
        table = _table(captions, layout, split)
        found = []
        for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
            name = path.relative_to(folder).as_posix()
            if layout == "vggsound" and path.stem not in table:
                continue
            beside = path.with_suffix(".txt")
            text = table.get(name) or table.get(path.name) or table.get(path.stem)
            if layout == "landscape" and text is None:
                name_of_class = path.parent.name if path.parent != folder else _NUMBERS.sub("", path.stem)
                text = name_of_class.replace("_", " ").strip() or None
            if text is None and beside.is_file():
                text = beside.read_text(encoding="utf-8", errors="replace").strip() or None
            found.append(Source(name, path, text))
    if not found:
        raise RequestError([f"'{folder}' holds no videos of the layout {layout}"])
    if caption is not None:
        found = [Source(s.name, s.picture, caption, s.sound, s.events_s) for s in found]
    return found


def _greatest_hits(folder: Path, split: Split | None) -> list[Source]:
    part = _recordings(folder, split) if split else None
    found = []
    for times in sorted(folder.rglob("*_times.txt")):
        stem = times.name.removesuffix("_times.txt")
        if part is not None and stem not in part:
            continue
        picture = next((p for end in _GREATEST_HITS if (p := times.with_name(stem + end)).is_file()), None)
        if picture is None:
            continue
        sound = times.with_name(f"{stem}_denoised.wav")
        events, words = [], Counter[tuple[str, str]]()
        for line in filter(str.strip, times.read_text().splitlines()):
            time, *rest = line.split()
            material, action = (*rest, "None", "None")[:2]
            if action != "None":  # else nothing was touched, or nobody could say
                events.append(float(time))
                if material != "None":
                    words[material, action] += 1
        material, action = words.most_common(1)[0][0] if words else ("something", "hit")
        does = {"hit": "hits", "scratch": "scratches"}.get(action, action)
        found.append(
            Source(
                picture.relative_to(folder).as_posix(),
                picture,
                f"a drumstick {does} {material.replace('-', ' ')}",
                sound if sound.is_file() else None,
                tuple(events),
            )
        )
    return found


def _recordings(folder: Path, split: Split) -> set[str]:
    lists = list(folder.rglob(f"{split}.txt"))
    if not lists:
        raise RequestError([f"'{folder}' holds no {split}.txt, which names the recordings of that split"])
    return {line.strip() for line in lists[0].read_text().splitlines()}


def _table(path: Path | None, layout: Layout, split: Split | None) -> dict[str, str]:
    if path is None:
        if layout == "vggsound":
            raise RequestError(["the layout vggsound needs its table: --captions vggsound.csv"])
        return {}
    if not path.is_file():
        raise RequestError([f"'{path}' does not exist; name a CSV file with the columns file and caption"])
    with path.open(newline="", encoding="utf-8") as file:
        if layout == "vggsound":
            return {
                f"{row[0]}_{int(row[1]):06d}": row[2]
                for row in csv.reader(file)
                if len(row) >= 4 and split in (None, row[3])
            }
        reader = csv.DictReader(file)
        if not {"file", "caption"} <= set(reader.fieldnames or ()):
            raise RequestError([f"'{path}' has the columns {reader.fieldnames}; it needs file and caption"])
        return {row["file"]: row["caption"] for row in reader}

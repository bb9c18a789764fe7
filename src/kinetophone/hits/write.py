"""Writing a split of a procedural domain as mp4 clips, ``captions.csv`` and ``events.json``."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kinetophone.hits import FPS, SAMPLE_RATE, make_clip
from kinetophone.media.clip import Clip
from kinetophone.progress import track


def write_split(
    split: str,
    count: int,
    out: str | os.PathLike[str],
    size: int = 64,
    make: Callable[[str, int, int], Any] = make_clip,
) -> Path:
    """Write the first ``count`` clips of ``split`` to the folder ``out``.

    Args:
        split: "train", "val" or "test".
        count: Number of clips, at least 1.
        out: Folder; created if it does not exist.
        size: Height and width in pixels, a multiple of 8, at least 32.
        make: ``make_clip`` of the domain; that of ``hits`` by default.

    Returns:
        The folder: ``NNNNN.mp4`` files, ``captions.csv`` (file, caption) and ``events.json``
        (``{"clips": {file: {"strikes_s": [...], "force": [...], "material": …}}}`` for ``hits``).

    Raises:
        ValueError: ``split``, ``count`` or ``size`` is invalid.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    events = {}
    for i in track(range(count), count, f"writing {split} clips"):
        clip = make(split, i, size)
        name = f"{i:05d}.mp4"
        Clip(video=clip.video, fps=FPS, audio=clip.audio, sample_rate=SAMPLE_RATE).save(folder / name)
        events[name] = clip.events()
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "caption"])
        writer.writerows([name, entry["caption"]] for name, entry in events.items())
    (folder / "events.json").write_text(
        json.dumps({"split": split, "size": size, "clips": events}, indent=1) + "\n"
    )
    return folder

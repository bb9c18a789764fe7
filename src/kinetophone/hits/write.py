"""Writing a split of a procedural domain as mp4 clips, ``captions.csv`` and ``events.json``."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

from kinetophone.data.domains import domain as domain_of
from kinetophone.media.clip import Clip
from kinetophone.progress import track


def write_split(
    split: str,
    count: int,
    out: str | os.PathLike[str],
    size: int = 64,
    domain: str = "hits",
) -> Path:
    """Write the first ``count`` clips of ``split`` to the folder ``out``.

    Args:
        split: "train", "val" or "test".
        count: Number of clips, at least 1.
        out: Folder; created if it does not exist.
        size: Height and width in pixels, a multiple of 8, at least 32.
        domain: The procedural domain.

    Returns:
        The folder: ``NNNNN.mp4`` files, ``captions.csv`` (file, caption) and ``events.json``
        (``{"clips": {file: {"strikes_s": [...], "force": [...], "material": …}}}`` for ``hits``).

    Raises:
        ValueError: ``split``, ``count`` or ``size`` is invalid.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    world = domain_of(domain)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    events = {}
    for i in track(range(count), count, f"writing {split} clips"):
        clip = world.make_clip(split, i, size)
        name = f"{i:05d}.mp4"
        rates: dict[str, Any] = {"fps": world.FPS, "sample_rate": world.SAMPLE_RATE}
        Clip(video=clip.video, audio=clip.audio, **rates).save(folder / name)
        events[name] = clip.events()
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "caption"])
        writer.writerows([name, entry["caption"]] for name, entry in events.items())
    (folder / "events.json").write_text(
        json.dumps({"split": split, "size": size, "clips": events}, indent=1) + "\n"
    )
    return folder

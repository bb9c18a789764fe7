"""WebDataset shards: tar files in which the members of a clip share a key and differ in suffix."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kinetophone.errors import MediaError
from kinetophone.files import write_json, writing
from kinetophone.keys import digest

PARTS = "parts"  # folder with a record of each shard


@contextmanager
def writing_shard(path: Path) -> Iterator[Any]:
    """A ``webdataset.TarWriter``: its file gets its name once it is complete. Equal clips, equal bytes."""
    from webdataset import TarWriter

    with writing(path) as file, TarWriter(file, encoder=False, mtime=0.0, user="", group="") as tar:
        yield tar


def read(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Iterate over the clips of a shard in order, as (key, members by suffix).

    Raises:
        MediaError: The shard is damaged.
    """
    from webdataset.tariterators import group_by_keys, tar_file_expander

    try:
        with path.open("rb") as file:
            for clip in group_by_keys(tar_file_expander([{"url": str(path), "stream": file}])):
                key = clip["__key__"]
                yield key, {suffix: part for suffix, part in clip.items() if not suffix.startswith("__")}
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise MediaError(f"'{path}' is damaged ({error.args[0] if error.args else 'cut off'})") from None


def record(path: Path, made_by: str, **content: Any) -> None:
    """Record that the shard ``path`` is complete: last of all, so that a killed run makes it again."""
    known = {"made_by": digest(made_by), "bytes": path.stat().st_size, **content}
    write_json(known, _record(path))


def recorded(path: Path, made_by: str | None = None) -> dict[str, Any] | None:
    """The record of a shard; None if it is not complete or was made by something else.

    Args:
        path: Path of the shard.
        made_by: Its key; None accepts any.
    """
    made_by = None if made_by is None else digest(made_by)
    try:
        known: dict[str, Any] = json.loads(_record(path).read_text())
        whole = path.stat().st_size == known["bytes"]
        return known if whole and made_by in (None, known["made_by"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _record(path: Path) -> Path:
    return path.parent / PARTS / f"{path.name}.json"


def forget(path: Path) -> None:
    """Remove a shard and its record."""
    _record(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)

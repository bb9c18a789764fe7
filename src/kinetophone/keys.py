"""Keys of cached results, and records of the files that hold them.

A key lists everything that made a result: the step and the version of its code, the files or the clips that
it read, its settings, and the fingerprints of its networks. A cached result is used only under its key.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from kinetophone.files import write_json

PARTS = "parts"  # folder with a record of each file


def key(step: str, version: int, **made_of: Any) -> str:
    """The key of a result as one line of JSON.

    Args:
        step: Name of the step.
        version: Version of the step's code, to be increased when its results change.
        **made_of: Everything else that the result depends on, as JSON values.
    """
    return json.dumps({"step": step, "version": version, **made_of}, sort_keys=True)


def digest(key: str) -> str:
    """Hash of a key, 16 hex digits, for the names of files."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def state_of(path: Path | None) -> list[Any] | None:
    """Name, size in bytes and time of the last change in ns, which tell whether a large file has changed.

    A file that cannot be looked at has neither size nor time.
    """
    if path is None:
        return None
    try:
        found = path.stat()
    except OSError:
        return [path.name, None, None]
    return [path.name, found.st_size, found.st_mtime_ns]


def record(path: Path, made_by: str, **content: Any) -> None:
    """Record that the file ``path`` is complete: last of all, so that a killed run makes it again."""
    known = {"made_by": digest(made_by), "bytes": path.stat().st_size, **content}
    write_json(known, _record(path))


def recorded(path: Path, made_by: str | None = None) -> dict[str, Any] | None:
    """The record of a file; None if it is not complete or was made by something else.

    Args:
        path: Path of the file.
        made_by: Its key; None accepts any.
    """
    made_by = None if made_by is None else digest(made_by)
    try:
        known: dict[str, Any] = json.loads(_record(path).read_text())
        whole = path.stat().st_size == known["bytes"]
        return known if whole and made_by in (None, known["made_by"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forget(path: Path) -> None:
    """Remove a file and its record."""
    _record(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _record(path: Path) -> Path:
    return path.parent / PARTS / f"{path.name}.json"

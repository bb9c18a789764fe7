"""Keys of cached results.

A key lists everything that made a result: the step and the version of its code, the files or the clips that
it read, its settings, and the fingerprints of its networks. A cached result is used only under its key.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


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

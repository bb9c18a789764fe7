"""Importing librosa without a race.

librosa compiles a few functions with numba when it is first imported, into a cache beside its own files. Two
processes that do so at the same time can leave a broken cache, and every later import then ends in a
segmentation fault (seen with numba 0.68: two test workers on a fresh installation). A lock between
processes lets one of them compile; the others find the cache whole.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np


@functools.cache
def load_librosa() -> ModuleType:
    """Import librosa, with what is compiled on import, one process at a time."""
    from filelock import FileLock

    place = _cache()
    with FileLock(place / ".kinetophone.lock"):
        import librosa
        from librosa.onset import onset_detect

        # Lazily loaded parts are compiled at their first use.
        click = np.zeros(4096, np.float32)
        click[2048] = 1.0
        onset_detect(y=click, sr=22_050)
        return librosa


def _cache() -> Path:
    """The folder that all processes of this user's installation have their lock in, and perhaps the cache.

    That is librosa's own where it can be written. It cannot in a read-only installation, and numba then takes
    one in the user's home; where there is none, or one of a user that the system does not know, it would
    fail, and is given a folder in that for temporary files.
    """
    spec = importlib.util.find_spec("librosa")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    if os.access(package, os.W_OK):
        return package
    # Temporary folders differ between processes: the app has one of its own.
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    folder = Path(tempfile.gettempdir()) / f"kinetophone-librosa-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        # What lies in it is loaded as code: never somebody else's.
        folder = Path(tempfile.mkdtemp(prefix="kinetophone-librosa-"))
    os.environ.setdefault("NUMBA_CACHE_DIR", str(folder))
    return folder

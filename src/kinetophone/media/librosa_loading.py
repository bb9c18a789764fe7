"""Importing librosa without a race.

librosa compiles a few functions with numba when it is first imported, and caches them next to its own files.
If two processes do this at the same time, the cache can break, and every later import then ends in a
segmentation fault (seen with numba 0.68: two test workers on a fresh installation). A file lock lets only one
process compile; the others then find a complete cache.
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
    """Import librosa and compile its functions, one process at a time; returns the module."""
    from filelock import FileLock

    place = _cache()
    with FileLock(place / ".kinetophone.lock"):
        import librosa
        from librosa.onset import onset_detect

        # Lazily loaded submodules are compiled at their first use.
        click = np.zeros(4096, np.float32)
        click[2048] = 1.0
        onset_detect(y=click, sr=22_050)
        return librosa


def _cache() -> Path:
    """The folder of the lock file, shared by all processes of this user, and possibly of numba's cache.

    It is librosa's own folder if that is writable. In a read-only installation numba would use the user's
    home, and fail if there is none or the system does not know the user. A temporary folder is used instead.
    """
    spec = importlib.util.find_spec("librosa")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    if os.access(package, os.W_OK):
        return package
    # Named by user: several users may share one temporary folder.
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    folder = Path(tempfile.gettempdir()) / f"kinetophone-librosa-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        # The cache is loaded as code, so never use a folder that belongs to another user.
        folder = Path(tempfile.mkdtemp(prefix="kinetophone-librosa-"))
    os.environ.setdefault("NUMBA_CACHE_DIR", str(folder))
    return folder

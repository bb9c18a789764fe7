"""Importing librosa without a race.

librosa compiles a few functions with numba when it is first imported, into a cache beside its own files. Two
processes that do so at the same time can leave a broken cache, and every later import then ends in a
segmentation fault (seen with numba 0.68: two test workers on a fresh installation). A lock between
processes lets one of them compile; the others find the cache whole.
"""

from __future__ import annotations

import functools
import getpass
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

    with FileLock(_lock()):
        import librosa
        from librosa.onset import onset_detect

        # Lazily loaded parts are compiled at their first use.
        click = np.zeros(4096, np.float32)
        click[2048] = 1.0
        onset_detect(y=click, sr=22_050)
        return librosa


def _lock() -> Path:
    """A file that all processes of this installation agree on: beside the cache, where that can be written.

    Temporary folders differ between processes: the app has one of its own.
    """
    spec = importlib.util.find_spec("librosa")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    if os.access(package, os.W_OK):
        return package / ".kinetophone.lock"
    return Path(tempfile.gettempdir()) / f"kinetophone-librosa-{getpass.getuser()}.lock"

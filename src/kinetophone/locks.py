"""Locks: one writer of a folder, and one maker of a cached result."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kinetophone.errors import RequestError

LOCK_NAME = ".kinetophone.lock"


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Create ``folder`` and hold a lock on it, so that no other run writes to it.

    The operating system releases the lock when the process ends, even if it is killed. A new folder is
    removed again if an error leaves it empty.

    Raises:
        RequestError: Another run is writing to the folder, or it cannot be created.
    """
    from filelock import FileLock, Timeout

    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_NAME, timeout=0)
        lock.acquire()
    except Timeout:
        raise RequestError(
            [f"another run is writing to '{folder}': wait until it ends, or name another folder"]
        ) from None
    except (FileExistsError, NotADirectoryError):
        raise RequestError([f"'{folder}' is a file, not a folder; name another one"]) from None
    try:
        yield
    except BaseException:
        if new and [path.name for path in folder.iterdir()] == [LOCK_NAME]:
            with suppress(OSError):
                (folder / LOCK_NAME).unlink()
                folder.rmdir()
        raise
    finally:
        lock.release()


@contextmanager
def sole_maker(path: Path) -> Iterator[None]:
    """Hold a lock while the cached result ``path`` is made, so that two runs do not make it twice.

    Another run that needs the same result waits and says so. Runs that need other results do not wait.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        print(f"another run is making '{path}': waiting for it", file=sys.stderr)
        lock.acquire(timeout=-1)
    try:
        yield
    finally:
        lock.release()

"""A lock that lets only one process write to a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kinetophone.errors import RequestError

LOCK_NAME = ".kinetophone.lock"


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Create ``folder`` and hold a lock on it, so that no other run writes to it.

    The operating system releases the lock when the process ends, even if it is killed.

    Raises:
        RequestError: Another run is writing to the folder, or it cannot be created.
    """
    from filelock import FileLock, Timeout

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
    finally:
        lock.release()

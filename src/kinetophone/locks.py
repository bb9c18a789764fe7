"""One writer of a folder at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kinetophone.errors import RequestError

LOCK_NAME = ".kinetophone.lock"


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Make ``folder``, and keep other runs from writing to it meanwhile.

    The lock is the operating system's: it ends with the process, however that ends.

    Raises:
        RequestError: Another run is writing to it, or it cannot be made.
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

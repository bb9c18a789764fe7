"""The server's temporary folder: one of its own, emptied as promised, gone at the end."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from kinetophone.errors import RequestError
from kinetophone.locks import LOCK_NAME, sole_writer

_PREFIX = "kinetophone-app-"


@contextlib.contextmanager
def server_folder() -> Iterator[Path]:
    """A temporary folder that goes when the server ends; those of servers that were killed go now."""
    remove_leftovers()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
    try:
        with sole_writer(folder):  # which says to the next server whether this one lives
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers() -> None:
    """Remove the folders of servers of this user that live no more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, RequestError):
            if not (folder / LOCK_NAME).is_file() or folder.is_symlink():
                continue
            with sole_writer(folder):
                pass
            shutil.rmtree(folder, ignore_errors=True)


class Sweeper:
    """Removes files from folders when they have lain there for some time.

    What lies there when it starts stays: the page's own examples.

    Args:
        folders: where to look, in their folders too.
        kept_s: how long a file may stay, in seconds.
    """

    def __init__(self, folders: tuple[Path, ...], kept_s: float) -> None:
        self.folders, self.kept_s = folders, kept_s
        self._own = {path for folder in folders for path in folder.rglob("*")}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="kinetophone sweeper", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._stopped.wait(min(60.0, self.kept_s / 4)):
            self.sweep()

    def sweep(self) -> None:
        """Remove what is due."""
        due = time.time() - self.kept_s
        for folder in self.folders:
            # Deepest first, so that folders are empty when their turn comes.
            for path in sorted(folder.rglob("*"), key=lambda path: len(path.parts), reverse=True):
                if path in self._own:
                    continue
                with contextlib.suppress(OSError):  # gone meanwhile, or a folder that is not empty
                    if path.lstat().st_mtime <= due:
                        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()

    def stop(self) -> None:
        """End its thread."""
        self._stopped.set()
        self._thread.join()

"""The server's temporary folder, with deletion of old files and of leftovers."""

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
    """A temporary folder that is deleted when the server ends; also deletes those of killed servers."""
    remove_leftovers()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
    try:
        with sole_writer(folder):  # the lock tells other servers that this one is running
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers() -> None:
    """Delete the folders of this user's servers that are no longer running."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, RequestError):
            if not (folder / LOCK_NAME).is_file() or folder.is_symlink():
                continue
            with sole_writer(folder):
                pass
            shutil.rmtree(folder, ignore_errors=True)


class Sweeper:
    """Deletes files older than a given age, in a background thread.

    Files that exist at the start, such as the page's examples, are kept.

    Args:
        folders: folders to clean, including sub-folders.
        kept_s: maximum age of a file in seconds.
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
        """Delete all files that are too old now."""
        due = time.time() - self.kept_s
        for folder in self.folders:
            # Deepest paths first, so that folders are already empty.
            for path in sorted(folder.rglob("*"), key=lambda path: len(path.parts), reverse=True):
                if path in self._own:
                    continue
                with contextlib.suppress(OSError):  # already deleted, or a folder that is not empty
                    if path.lstat().st_mtime <= due:
                        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()

    def stop(self) -> None:
        """Stop the thread."""
        self._stopped.set()
        self._thread.join()

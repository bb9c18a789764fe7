"""Reading uploads in a process of its own, which a job's end can kill.

A decoder may hang, end the process or take all memory; a thread that it runs in could not be stopped.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from kinetophone.app.uploads import Limits, read_upload
from kinetophone.errors import MediaError, UserError, reason

POLL_S = 0.2
_MEMORY = 6 * 2**30  # address space of the process, in bytes; frames of the largest upload take a fifth


class Reader:
    """Reads uploads in another process, one at a time. The process is started when it is first needed.

    Args:
        limits: how much of a file may be decoded.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._process: Any = None
        self._there: Connection | None = None

    def read(self, path: Path, kind: str, report: Callable[[None], None]) -> Any:
        """What :func:`kinetophone.app.uploads.read_upload` gives of a file.

        Args:
            path: the file.
            kind: as there.
            report: called several times a second; what it raises ends the process.

        Raises:
            MediaError: as there, or the process ended over the file.
        """
        if self._process is None or not self._process.is_alive():
            self._start()
        assert self._there is not None
        try:
            self._there.send((str(path), kind))
            while not self._there.poll(POLL_S):
                report(None)
            done, result = self._there.recv()
        except (EOFError, OSError):
            self.close()
            raise MediaError(
                f"'{path.name}' ended the process that read it; it is corrupt or too large"
            ) from None
        except BaseException:
            self.close()
            raise
        if not done:
            raise MediaError(result)
        return result

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._there, here = context.Pipe()
        self._process = context.Process(target=_serve, args=(here, self.limits), daemon=True)
        self._process.start()
        here.close()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._there is not None:
            self._there.close()
        self._process = self._there = None


def _serve(here: Connection, limits: Limits) -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    except (ImportError, ValueError, OSError):
        pass  # Windows has none
    while True:
        try:
            path, kind = here.recv()
        except EOFError:
            return
        try:
            result = (True, read_upload(Path(path), kind, limits))
        except UserError as error:
            result = (False, str(error))
        except MemoryError:
            result = (False, f"'{Path(path).name}' needs more memory to decode than is available")
        except Exception as error:
            result = (False, f"'{Path(path).name}' cannot be read ({reason(error).replace(path, 'it')})")
        here.send(result)

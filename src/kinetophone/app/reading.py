"""Decoding uploads in a separate process, which can be killed when its job ends.

A decoder can hang, crash or use all memory, and a thread cannot be stopped.
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
_MEMORY = 6 * 2**30  # bytes of address space; frames of the largest upload take a fifth of it


class Reader:
    """Reads uploads in another process, one at a time. The process is started on first use.

    Args:
        limits: limits for uploads.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._process: Any = None
        self._there: Connection | None = None

    def read(self, path: Path, kind: str, report: Callable[[None], None]) -> Any:
        """Call :func:`kinetophone.app.uploads.read_upload` in the other process.

        Args:
            path: the file.
            kind: kind of media, see ``read_upload``.
            report: called several times a second; an exception from it ends the process.

        Raises:
            MediaError: the file cannot be used, or the process ended while reading it.
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
                f"'{path.name}' crashed the process that read it; it is corrupt or too large"
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
        """Kill the process."""
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
        pass  # not available on Windows
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

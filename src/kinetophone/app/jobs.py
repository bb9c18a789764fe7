"""Jobs on the model: one computes at a time, each can be cancelled and is cut off at a time limit."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kinetophone.errors import UserError

POLL_S = 0.5  # a job that says nothing lets its watcher look around this often
ABANDONED_S = 60.0  # a watcher that has not come back for so long never will


class TimeLimitError(UserError):
    """A job that took longer than it may."""


@dataclass(frozen=True, slots=True)
class Done:
    """The last thing a job yields: what its work returned."""

    result: Any


class _Cancelled(BaseException):  # no ``except Exception`` on the way may keep a cancelled job alive
    pass


class Jobs:
    """Runs jobs, one at a time, all in one thread.

    A thread for each would leave its share of memory behind: torch and the C library keep some for each.

    Args:
        limit_s: longest time a job may compute, in seconds; waiting for its turn does not count.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._asked: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="kinetophone jobs", daemon=True).start()

    def _work(self) -> None:
        while True:
            self._asked.get()()

    def run(self, work: Callable[[Callable[[Any], None]], Any]) -> Iterator[Any]:
        """Run ``work(report)`` when the jobs before it have ended, and watch it.

        Closing the iterator cancels the job: its next ``report`` does not return. So does the time limit, and
        an iterator that is left alone (as Gradio leaves those of events it cancels for their session).

        Args:
            work: what is to be done; it calls ``report`` with what the watcher shall see, several times a
                second.

        Yields:
            What was reported, None twice a second where nothing was, and a :class:`Done` at the end.

        Raises:
            TimeLimitError: The job took too long.
            Exception: Whatever ``work`` raised.
        """
        said: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        cancelled = threading.Event()

        seen_at = time.monotonic()

        def report(value: Any) -> None:
            if cancelled.is_set() or time.monotonic() - seen_at > ABANDONED_S:
                raise _Cancelled
            said.put(("report", value))

        def target() -> None:
            try:
                report(None)
                said.put(("started", None))
                said.put(("done", work(report)))
            except _Cancelled:
                said.put(("failed", TimeLimitError("the job was stopped: nobody was watching it")))
            except Exception as error:
                said.put(("failed", error))

        self._asked.put(target)
        deadline = float("inf")
        try:
            while True:
                seen_at = time.monotonic()
                try:
                    kind, value = said.get(timeout=POLL_S)
                except queue.Empty:
                    kind, value = "report", None
                if kind == "failed":
                    raise value
                if kind == "done":
                    yield Done(value)
                    return
                if kind == "started":
                    deadline = time.monotonic() + self.limit_s
                elif time.monotonic() > deadline:
                    raise TimeLimitError(
                        f"the job took longer than {self.limit_s:g} s and was stopped; "
                        "ask for fewer steps or seconds"
                    )
                else:
                    yield value
        finally:
            cancelled.set()

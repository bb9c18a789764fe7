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
    """A job that took or waited longer than it may, or that none can be added to."""


@dataclass(frozen=True, slots=True)
class Done:
    """The last thing a job yields: what its work returned."""

    result: Any


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job that has not begun, and how many are before it."""

    before: int


class _Cancelled(BaseException):  # no ``except Exception`` on the way may keep a cancelled job alive
    pass


class Jobs:
    """Runs jobs, one at a time, all in one thread.

    A thread for each would leave its share of memory behind: torch and the C library keep some for each.

    Args:
        limit_s: longest time a job may compute, in seconds; waiting for its turn does not count.
        waiting_s: longest time it may wait for its turn.
        most_waiting: jobs that may wait; more are refused.
    """

    def __init__(self, limit_s: float, waiting_s: float = float("inf"), most_waiting: int = 64) -> None:
        self.limit_s, self.waiting_s, self.most_waiting = limit_s, waiting_s, most_waiting
        self._asked: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._waiting: list[object] = []  # in their order
        self._lock = threading.Lock()
        threading.Thread(target=self._work, name="kinetophone jobs", daemon=True).start()

    def _work(self) -> None:
        while True:
            self._asked.get()()

    def run(self, work: Callable[[Callable[[Any], None]], Any]) -> Iterator[Any]:
        """Run ``work(report)`` when the jobs before it have ended, and watch it.

        Closing the iterator cancels the job: its next ``report`` does not return. So do the time limits, and
        an iterator that is left alone (as Gradio leaves those of events it cancels for their session).

        Args:
            work: what is to be done; it calls ``report`` with what the watcher shall see, several times a
                second.

        Yields:
            :class:`Waiting` until it begins, what was reported, None twice a second where nothing was, and a
            :class:`Done` at the end.

        Raises:
            TimeLimitError: The job took or waited too long, or too many wait already.
            Exception: Whatever ``work`` raised.
        """
        said: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        cancelled = threading.Event()
        ticket = object()
        with self._lock:
            if len(self._waiting) >= self.most_waiting:
                raise TimeLimitError(f"{self.most_waiting} jobs are waiting already; try again later")
            self._waiting.append(ticket)
        seen_at = time.monotonic()

        def report(value: Any) -> None:
            if cancelled.is_set() or time.monotonic() - seen_at > ABANDONED_S:
                raise _Cancelled
            said.put(("report", value))

        def target() -> None:
            self._leave(ticket)
            try:
                report(None)
                said.put(("started", None))
                said.put(("done", work(report)))
            except _Cancelled:
                said.put(("failed", TimeLimitError("the job was stopped: nobody was watching it")))
            except Exception as error:
                said.put(("failed", error))
            except BaseException as error:  # whatever ends a job, the thread goes on with the next
                said.put(("failed", RuntimeError(f"the job ended with {type(error).__name__}")))

        self._asked.put(target)
        started, deadline = False, time.monotonic() + self.waiting_s
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
                    started, deadline = True, time.monotonic() + self.limit_s
                elif time.monotonic() > deadline:
                    raise TimeLimitError(
                        f"the job took longer than {self.limit_s:g} s and was stopped; "
                        "ask for fewer steps or seconds"
                        if started
                        else f"the job waited longer than {self.waiting_s:g} s for its turn; try again later"
                    )
                else:
                    before = 0 if started else self._before(ticket)
                    yield Waiting(before) if before else value
        finally:
            cancelled.set()
            self._leave(ticket)

    def _leave(self, ticket: object) -> None:
        with self._lock:
            if ticket in self._waiting:
                self._waiting.remove(ticket)

    def _before(self, ticket: object) -> int:
        with self._lock:
            # The one that computes is before it, too.
            return self._waiting.index(ticket) + 1 if ticket in self._waiting else 0

"""A job queue for the model: one job at a time, with cancellation and time limits."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kinetophone.errors import UserError

POLL_S = 0.5  # the watcher wakes up at least this often
ABANDONED_S = 60.0  # a watcher that has not been resumed for this long is considered gone


class TimeLimitError(UserError):
    """A job exceeded a time limit, or the queue is full."""


@dataclass(frozen=True, slots=True)
class Done:
    """The last item of a job: the return value of its work."""

    result: Any


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job that has not started, and the number of jobs before it."""

    before: int


class _Cancelled(BaseException):  # a BaseException, so that no ``except Exception`` can catch it
    pass


class Jobs:
    """Runs jobs one at a time, all in one thread.

    A thread per job would leak memory, because torch and the C library keep memory for every thread.

    Args:
        limit_s: longest run time of a job, in seconds, without waiting.
        waiting_s: longest time in the queue, in seconds.
        most_waiting: most jobs in the queue; more are refused.
    """

    def __init__(self, limit_s: float, waiting_s: float = float("inf"), most_waiting: int = 64) -> None:
        self.limit_s, self.waiting_s, self.most_waiting = limit_s, waiting_s, most_waiting
        self._asked: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._waiting: list[object] = []  # in queue order
        self._lock = threading.Lock()
        threading.Thread(target=self._work, name="kinetophone jobs", daemon=True).start()

    def _work(self) -> None:
        while True:
            self._asked.get()()

    def run(self, work: Callable[[Callable[[Any], None]], Any]) -> Iterator[Any]:
        """Run ``work(report)`` after the jobs before it, and yield its progress.

        Closing the iterator cancels the job: its next call of ``report`` raises. A time limit cancels it too,
        and so does an iterator that is not resumed for a minute. Gradio abandons iterators like that when a
        session ends.

        Args:
            work: the job; it calls ``report`` with its progress several times a second.

        Yields:
            :class:`Waiting` until the job starts, then reported values, or None twice a second without
            reports, and :class:`Done` at the end.

        Raises:
            TimeLimitError: The job ran or waited too long, or the queue is full.
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
                said.put(("failed", TimeLimitError("the job was stopped: its client has disconnected")))
            except Exception as error:
                said.put(("failed", error))
            except BaseException as error:  # the thread must survive for the next job
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
            # Count the running job, too.
            return self._waiting.index(ticket) + 1 if ticket in self._waiting else 0

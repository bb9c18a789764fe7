"""Jobs: one at a time, cancelled by closing, cut off at the limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from kinetophone.app.jobs import Done, Jobs, TimeLimitError, Waiting


def counting(upto: int, ended: threading.Event | None = None) -> Callable[..., int]:
    def work(report: Callable[[Any], None]) -> int:
        try:
            for number in range(upto):
                report(number)
                time.sleep(0.01)
            return upto
        finally:
            if ended:
                ended.set()

    return work


def test_a_job_yields_what_it_reports_and_then_its_result() -> None:
    said = [item for item in Jobs(60).run(counting(3)) if item is not None]
    assert said == [0, 1, 2, Done(3)]


def test_closing_ends_the_work_and_gives_the_turn_to_the_next() -> None:
    jobs, ended = Jobs(60), threading.Event()
    watched = jobs.run(counting(10**6, ended))
    assert next(item for item in watched if item is not None) == 0
    watched.close()
    assert ended.wait(10)
    assert Done(2) in list(jobs.run(counting(2)))


def test_jobs_compute_one_at_a_time() -> None:
    jobs, inside = Jobs(60), []

    def work(report: Callable[[Any], None]) -> int:
        inside.append(1)
        most = len(inside)
        for _ in range(5):
            report(0)
            time.sleep(0.005)
            most = max(most, len(inside))
        inside.pop()
        return most

    results: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: results.extend(d.result for d in jobs.run(work) if isinstance(d, Done))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [1] * 4


def test_a_job_that_was_cancelled_while_it_waited_never_starts() -> None:
    jobs, started = Jobs(60), threading.Event()
    first = jobs.run(counting(10**6))
    next(item for item in first if item is not None)

    def work(report: Callable[[Any], None]) -> None:
        started.set()

    second = jobs.run(work)
    assert next(second) == Waiting(1), "it waits"
    second.close()
    first.close()
    assert Done(1) in list(jobs.run(counting(1)))
    assert not started.is_set()


def test_a_job_that_nobody_watches_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kinetophone.app.jobs.ABANDONED_S", 0.2)
    ended = threading.Event()
    left = Jobs(60).run(counting(10**6, ended))
    next(item for item in left if item is not None)
    assert ended.wait(10)
    left.close()


def test_the_time_limit_stops_the_job_and_is_named() -> None:
    ended = threading.Event()
    with pytest.raises(TimeLimitError, match=r"took longer than 0\.05 s and was stopped"):
        list(Jobs(0.05).run(counting(10**6, ended)))
    assert ended.wait(10)


def test_what_the_work_raises_reaches_the_watcher() -> None:
    def work(report: Callable[[Any], None]) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        list(Jobs(60).run(work))


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), MemoryError()])
def test_the_thread_outlives_whatever_ends_a_job(error: BaseException) -> None:
    jobs = Jobs(60)

    def work(report: Callable[[Any], None]) -> None:
        raise error

    with pytest.raises((RuntimeError, MemoryError)):
        list(jobs.run(work))
    assert Done(1) in list(jobs.run(counting(1)))


def test_a_job_waits_no_longer_than_its_limit_and_is_told_its_place() -> None:
    jobs = Jobs(60, waiting_s=1, most_waiting=2)
    first = jobs.run(counting(10**6))
    next(item for item in first if item is not None)
    second, third = jobs.run(counting(1)), jobs.run(counting(1))
    assert (next(second), next(third)) == (Waiting(1), Waiting(2))
    with pytest.raises(TimeLimitError, match="2 jobs are waiting already; try again later"):
        list(jobs.run(counting(1)))
    with pytest.raises(TimeLimitError, match="waited longer than 1 s for its turn; try again later"):
        list(second)
    third.close()
    first.close()
    assert Done(1) in list(jobs.run(counting(1)))

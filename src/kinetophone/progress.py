"""Progress of long work, on stderr, through rich where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield ``items`` while showing ``what``, how many of ``total`` are done and the time left."""
    try:
        from rich.console import Console
        from rich.progress import track as rich_track
    except ImportError:  # a bare training machine
        yield from items
        return
    yield from rich_track(items, total=total, description=what, console=Console(stderr=True))


@contextmanager
def step_bar(
    shown: bool, total: int, callback: Callable[[Any], None] | None = None
) -> Iterator[Callable[[Any], None] | None]:
    """A bar over ``total`` denoising steps: a sampler's callback that moves it on and calls ``callback``."""
    if not shown:
        yield callback
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("denoising"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("denoising", total=total)

        def advance(state: Any) -> None:
            bar.advance(task)
            if callback is not None:
                callback(state)

        yield advance

"""Progress bars on stderr, drawn by rich."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield ``items`` and show a bar labelled ``what``; no bar if rich is not installed."""
    try:
        from rich.console import Console
        from rich.progress import track as rich_track
    except ImportError:  # a minimal training machine
        yield from items
        return
    yield from rich_track(items, total=total, description=what, console=Console(stderr=True))


@contextmanager
def step_bar(
    shown: bool, total: int, callback: Callable[[Any], None] | None = None
) -> Iterator[Callable[[Any], None] | None]:
    """A context with the callback for a sampler: it advances a bar of ``total`` steps and calls ``callback``.

    Without ``shown`` there is no bar, and the context gives ``callback`` itself.
    """
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

"""Progress of long work on the terminal, through rich where it is installed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield ``items`` while showing ``what``, how many of ``total`` are done and the time left."""
    try:
        from rich.progress import track as rich_track
    except ImportError:  # a bare training machine
        yield from items
        return
    yield from rich_track(items, total=total, description=what)

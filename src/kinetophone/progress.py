"""Progress of long work, on stderr, through tqdm as in diffusers."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from kinetophone.errors import RequestError

T = TypeVar("T")


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield ``items`` while showing ``what``, how many of ``total`` are done and the time left."""
    try:
        bar = bar_class()
    except ImportError:  # a bare training machine
        yield from items
        return
    yield from bar(items, total=total, desc=what, dynamic_ncols=True)


@contextmanager
def step_bar(
    shown: bool | None,
    total: int,
    callback: Callable[[Any], None] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Iterator[Callable[[Any], None] | None]:
    """A bar over ``total`` denoising steps: a sampler's callback that moves it on and calls ``callback``.

    Args:
        shown: whether there is a bar; None leaves it to ``disable`` of ``config``, and where that is None or
            not there to whether somebody looks: at a terminal or a notebook.
        total: number of steps.
        callback: what else is called after each step.
        config: options of tqdm's bar.
    """
    options = {"desc": "denoising", "dynamic_ncols": True, **(config or {})}
    disable = options.pop("disable", None)
    if shown is None:
        shown = _somebody_looks(options.get("file") or sys.stderr) if disable is None else not disable
    if not shown:
        yield callback
        return
    with bar_class()(total=total, **options) as bar:

        def advance(state: Any) -> None:
            bar.update()
            if callback is not None:
                callback(state)

        yield advance


def check_bar_options(options: Mapping[str, Any]) -> None:
    """Raise a RequestError unless tqdm's bars have these ``options``, and no call sets them itself."""
    from tqdm.std import tqdm  # of the bar in a notebook, the signature says less

    known = inspect.signature(tqdm.__init__).parameters.keys() - {"self", "iterable", "total", "kwargs"}
    problems = [
        f"there is no option {name} of progress bars; there are {', '.join(sorted(known))}"
        for name in options
        if name not in known
    ]
    if problems:
        raise RequestError(problems)


def bar_class() -> Any:
    """tqdm's bar for where this runs: a notebook with ipywidgets, or plain text.

    The libraries import the same one. It warns where a notebook has no ipywidgets, which is no reason to:
    import it here first.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")
        from tqdm.auto import tqdm
    return tqdm


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config


def _somebody_looks(file: Any) -> bool:
    return _in_notebook() or (hasattr(file, "isatty") and file.isatty())

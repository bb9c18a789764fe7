"""Progress bars on stderr, drawn by tqdm as in diffusers."""

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
    """Yield ``items`` and show a bar labelled ``what``; no bar if tqdm is not installed."""
    try:
        bar = bar_class()
    except ImportError:  # a minimal training machine
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
    """A context that yields a sampler's callback: it advances a bar and calls ``callback``.

    Args:
        shown: whether to show a bar. None means the opposite of ``disable`` in ``config``; if that is not
            set, a bar is shown only in a terminal or a notebook.
        total: number of denoising steps.
        callback: further function to call after each step.
        config: options of tqdm.
    """
    options = {"desc": "denoising", "dynamic_ncols": True, **(config or {})}
    disable = options.pop("disable", None)
    if shown is None:
        shown = _is_interactive(options.get("file") or sys.stderr) if disable is None else not disable
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
    """Check options for progress bars.

    Raises:
        RequestError: tqdm has no such option, or the bar sets it itself.
    """
    from tqdm.std import tqdm  # the signature of the notebook bar lists fewer options

    known = inspect.signature(tqdm.__init__).parameters.keys() - {"self", "iterable", "total", "kwargs"}
    problems = [
        f"there is no option {name} of progress bars; choose from {', '.join(sorted(known))}"
        for name in options
        if name not in known
    ]
    if problems:
        raise RequestError(problems)


def bar_class() -> Any:
    """The tqdm class for this environment: a notebook widget, or plain text.

    tqdm warns on import in a notebook without ipywidgets. This import suppresses the warning, so it must come
    before those of other libraries.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")
        from tqdm.auto import tqdm
    return tqdm


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config


def _is_interactive(file: Any) -> bool:
    return _in_notebook() or (hasattr(file, "isatty") and file.isatty())

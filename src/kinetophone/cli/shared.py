"""What all commands share: how they refuse, and how they pass options on."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from kinetophone.errors import RequestError, UnknownWordsWarning, UserError, reason

USER_ERROR, UNEXPECTED = 2, 1
AudioBase = Annotated[str | None, typer.Option(help="Instead: folder or Hub id of an audio base.")]
VideoBase = Annotated[str | None, typer.Option(help="Instead: folder or Hub id of a video base.")]
MotionAdapter = Annotated[str | None, typer.Option(help="For a video base that is an image model.")]


class Commands(TyperGroup):
    """The commands. Here, and nowhere else, errors become lines and an exit status.

    2: what the user can cure, one line per cause. 1: anything else, in one line; with ``--debug`` as it is.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # names of files need not be text
        try:
            with _warnings_as_lines():
                return super().invoke(ctx)
        except BrokenPipeError:
            # Whoever read the output has enough. Nothing may be written at the end, either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(UNEXPECTED) from None
        except Exception as error:
            # Errors that know their exit status are the command line's own.
            if ctx.params.get("debug") or isinstance(error, typer.Abort) or hasattr(error, "exit_code"):
                raise
            _fail(error)


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Our own warnings are one line each, said once by a command; those of the libraries stay as they are."""
    said: set[str] = set()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_once(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, UnknownWordsWarning):
                show(message, category, *where, **more)
            elif str(message) not in said:
                said.add(str(message))
                typer.echo(f"warning: {message}", err=True)

        warnings.simplefilter("always", UnknownWordsWarning)
        warnings.showwarning = show_once
        yield


def _fail(error: Exception) -> NoReturn:
    lines, status = [reason(error)], USER_ERROR
    if isinstance(error, UserError):
        lines = str(error).splitlines()
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        lines = [f"the disk is full: {reason(error)}"]
    elif isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        lines = [
            f"there is not enough memory ({reason(error)}); ask for fewer, shorter or smaller clips, "
            "--dtype bfloat16, or --offload model"
        ]
    elif not isinstance(error, OSError | FloatingPointError):
        status = UNEXPECTED
        lines = [
            f"unexpected {type(error).__name__}: {reason(error)}; kinetophone --debug with the same command "
            "shows where, which belongs in a report"
        ]
    for line in lines:
        typer.echo(f"error: {line}", err=True)
    raise typer.Exit(status)


def quiet_libraries() -> None:
    """No bar for each of a dozen small weight files; warnings of the libraries stay."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def check_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise RequestError([f"{name} is {value}; it must be at least 1"])


def given(**options: Any) -> dict[str, Any]:
    """The options that were given; the others are left to the defaults of what is called."""
    return {name: value for name, value in options.items() if value is not None}

"""Code shared by all commands: error output and passing on options."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from kinetophone.errors import RequestError, UnknownWordsWarning, UserError, is_full, reason

if TYPE_CHECKING:
    from kinetophone.workers import Workers

USER_ERROR, UNEXPECTED = 2, 1
AudioBase = Annotated[
    str | None, typer.Option(help="Folder or Hub id of an audio base, instead of that of the bundle.")
]
VideoBase = Annotated[
    str | None, typer.Option(help="Folder or Hub id of a video base, instead of that of the bundle.")
]
MotionAdapter = Annotated[
    str | None,
    typer.Option(help="Folder or Hub id of a motion adapter, for a video base that is an image model."),
]
WorkerCount = Annotated[
    int | None, typer.Option("--workers", help="Number of processes; default: number of cores.")
]
ModelWorkerCount = Annotated[
    int | None,
    typer.Option(
        "--workers", help="Number of processes, each with its own model; default: 1, or one for each GPU."
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Use the machines of a Ray cluster, such as 10.0.0.1:6379, instead of this one. They must "
        "share the folders.",
    ),
]


class Commands(TyperGroup):
    """The group of commands, which turns errors into messages and an exit status.

    Status 2: errors that the user can fix, one line per problem. Status 1: any other error, in one line. With
    ``--debug`` the traceback is shown instead.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # file names need not be valid Unicode
        try:
            with _warnings_as_lines():
                return super().invoke(ctx)
        except BrokenPipeError:
            # The reader closed the pipe. Redirect stdout, so that the flush at exit does not fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(UNEXPECTED) from None
        except Exception as error:
            # Errors with an exit status come from click itself.
            if ctx.params.get("debug") or isinstance(error, typer.Abort) or hasattr(error, "exit_code"):
                raise
            _fail(error)


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Print our own warnings once per command, as one line; those of libraries are unchanged."""
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
    elif is_full(error):
        lines = [f"the disk is full: {reason(error)}"]
    elif isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        lines = [
            f"there is not enough memory ({reason(error)}); ask for fewer, shorter or smaller clips, "
            "--dtype bfloat16, or --offload model"
        ]
    elif not isinstance(error, OSError | FloatingPointError):
        status = UNEXPECTED
        lines = [
            f"unexpected {type(error).__name__}: {reason(error)}; run kinetophone --debug with the same "
            "command for a traceback, and include it in a bug report"
        ]
    for line in lines:
        typer.echo(f"error: {line}", err=True)
    raise typer.Exit(status)


def quiet_libraries() -> None:
    """Disable the progress bars of diffusers and transformers for each weight file; keep their warnings."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def check_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise RequestError([f"{name} is {value}; it must be at least 1"])


def model_workers(count: int | None, ray: str | None, device: str | None) -> Workers:
    """Workers that each load a model: this process alone, or one for each GPU.

    Raises:
        RequestError: The device names one GPU of several, which does not go with several workers.
    """
    from kinetophone.workers import Workers

    gpu = None if device is None else device.startswith("cuda")
    if device is not None and ":" in device:
        if ray or (count or 1) > 1:
            raise RequestError([f"each worker takes a GPU of its own: give --device cuda and not {device}"])
        return Workers(1)
    if ray is None:
        if gpu is None:
            import torch

            gpu = torch.cuda.is_available()
        count = count or (None if gpu else 1)
    return Workers(count, ray, gpu)


def given(**options: Any) -> dict[str, Any]:
    """The options that are not None, so that the callee's defaults apply to the others."""
    return {name: value for name, value in options.items() if value is not None}

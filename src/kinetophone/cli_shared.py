"""What all commands share: how they refuse, and how they pass options on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer

from kinetophone.errors import RequestError, UserError

USER_ERROR = 2
AudioBase = Annotated[str | None, typer.Option(help="Instead: folder or Hub id of an audio base.")]
VideoBase = Annotated[str | None, typer.Option(help="Instead: folder or Hub id of a video base.")]
MotionAdapter = Annotated[str | None, typer.Option(help="For a video base that is an image model.")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Read pickled weights, as tensors only.")]


@contextmanager
def user_errors() -> Iterator[None]:
    """Show an error the user can cure as its message, one line per cause, and exit with 2."""
    try:
        yield
    except (UserError, OSError) as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    for line in message.splitlines():
        typer.echo(f"error: {line}", err=True)
    raise typer.Exit(USER_ERROR)


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

"""Errors a user can cure. The command line prints their message, without a traceback, and exits with 2.

Warnings are of what is done all the same; the command line prints them in a line, too.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable


def reason(error: BaseException) -> str:
    """What an error of a library says, in one line; its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class UserError(ValueError):
    """Something the user gave cannot be used; the message is one line: what was given, and what would do."""


class MediaError(UserError):
    """A media file that cannot be read or written as asked."""


class RequestError(UserError):
    """A request that cannot be carried out, with every reason found.

    Attributes:
        problems: One line each.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class UnknownWordsWarning(UserWarning):
    """A prompt has words that the bundle's text encoders have never seen."""


def warn(warning: Warning) -> None:
    """Warn, as of the line outside this package that has called it."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals["__name__"].partition(".")[0] == __package__:
        frame, level = frame.f_back, level + 1
    warnings.warn(warning, stacklevel=level)

"""Errors that a user can fix, and warnings.

The command line prints their message without a traceback; for errors it exits with status 2.
"""

from __future__ import annotations

import errno
import sys
import warnings
from collections.abc import Iterable


def reason(error: BaseException) -> str:
    """The first line of an error's message; the name of its class if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk is full, or that a quota or the largest size of a file is reached."""
    return isinstance(error, OSError) and error.errno in _FULL


class UserError(ValueError):
    """Input that cannot be used; the message says in one line what was given and what is accepted."""


class MediaError(UserError):
    """A media file that cannot be read or written as asked."""


class RequestError(UserError):
    """A request that cannot be carried out; lists every problem found.

    Attributes:
        problems: One line per problem.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class UnknownWordsWarning(UserWarning):
    """A prompt has words that the bundle's text encoders have not seen in training."""


def warn(warning: Warning) -> None:
    """Emit a warning that points to the calling line outside this package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals["__name__"].partition(".")[0] == __package__:
        frame, level = frame.f_back, level + 1
    warnings.warn(warning, stacklevel=level)

"""Errors that a user can fix.

The command line prints their message without a traceback and exits with status 2.
"""

from __future__ import annotations

from collections.abc import Iterable


def reason(error: BaseException) -> str:
    """The first line of an error's message; the name of its class if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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

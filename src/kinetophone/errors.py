"""Errors a user can cure. The command line prints their message, without a traceback, and exits with 2."""

from __future__ import annotations

from collections.abc import Iterable


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

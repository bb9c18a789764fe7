"""What reading and writing media can complain about."""

from __future__ import annotations


class MediaError(ValueError):
    """A media file that cannot be read or written as asked; the message is one line: cause and cure."""

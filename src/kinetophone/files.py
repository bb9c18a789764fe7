"""Files that appear whole or not at all, under temporary names that no two writers share."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[str]:
    """A temporary file name in the folder of ``path``; renamed to ``path`` on success, deleted on failure.

    Raises:
        OSError: The file cannot be renamed. It is kept, and the error says where.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        raise IsADirectoryError(f"'{target}' is a folder; name a file in it")
    # A short name, because the target's may already be as long as the file system allows.
    partial = target.with_name(f".{secrets.token_hex(6)}.part")
    try:
        yield str(partial)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    try:
        partial.replace(target)
    except OSError as error:
        raise OSError(f"'{target}' cannot be written ({error.strerror}); the file is '{partial}'") from error


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write, which gets the name ``path`` once its bytes are on disk; errors as in replacing."""
    with replacing(path) as partial, Path(partial).open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_json(content: Any, path: str | os.PathLike[str]) -> None:
    """Write ``content`` as JSON, atomically."""
    with writing(path) as file:
        file.write(json.dumps(content, indent=1).encode())


def remove_unfinished(folder: Path) -> None:
    """Remove temporary files left in ``folder`` by killed runs. Call it only as the sole writer."""
    for left in folder.glob(".*.part"):
        left.unlink(missing_ok=True)

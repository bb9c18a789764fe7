"""WebDataset shards: plain tar files, of which the members of one clip have one key and several suffixes."""

from __future__ import annotations

import io
import json
import os
import secrets
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name once it is whole and on the disk."""
    # A name of its own: two runs must not write into one file, each in its own place.
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def remove_unfinished(folder: Path) -> None:
    """Remove what :func:`writing` left of runs that were killed; only for the folder's sole writer."""
    for left in folder.glob(".*.part"):
        left.unlink()


def write_json(content: Any, path: Path) -> None:
    """Write it whole or not at all."""
    with writing(path) as file:
        file.write(json.dumps(content, indent=1).encode())


def add(tar: tarfile.TarFile, key: str, members: dict[str, bytes]) -> None:
    """Add one clip's members, by suffix. Same content, same bytes: owner and time are left out."""
    for suffix, content in members.items():
        info = tarfile.TarInfo(f"{key}.{suffix}")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))


def read(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The clips of a shard in order: key, and members by suffix."""
    key, members = None, {}
    with tarfile.open(path) as tar:
        for info in tar:
            this, _, suffix = info.name.partition(".")
            if key is not None and this != key:
                yield key, members
                members = {}
            key = this
            content = tar.extractfile(info)
            members[suffix] = content.read() if content else b""
    if key is not None:
        yield key, members

"""WebDataset shards: tar files in which the members of a clip share a key and differ in suffix."""

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
    """Write a file atomically: it is renamed to ``path`` once it is complete and on disk."""
    # A random name, so that two runs never write to the same temporary file.
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
    """Remove temporary files of :func:`writing` left by killed runs. Call it only as the sole writer."""
    for left in folder.glob(".*.part"):
        left.unlink()


def write_json(content: Any, path: Path) -> None:
    """Write ``content`` as JSON, atomically."""
    with writing(path) as file:
        file.write(json.dumps(content, indent=1).encode())


def add(tar: tarfile.TarFile, key: str, members: dict[str, bytes]) -> None:
    """Add a clip's members, by suffix. Owner and time are omitted, so equal content gives equal bytes."""
    for suffix, content in members.items():
        info = tarfile.TarInfo(f"{key}.{suffix}")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))


def read(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Iterate over the clips of a shard in order, as (key, members by suffix)."""
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

"""WebDataset shards: tar files in which the members of a clip share a key and differ in suffix."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path


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

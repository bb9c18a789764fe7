"""WebDataset shards: tar files in which the members of a clip share a key and differ in suffix."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kinetophone.errors import MediaError
from kinetophone.files import writing


@contextmanager
def writing_shard(path: Path) -> Iterator[Any]:
    """A ``webdataset.TarWriter``: its file gets its name once it is complete. Equal clips, equal bytes."""
    from webdataset import TarWriter

    with writing(path) as file, TarWriter(file, encoder=False, mtime=0.0, user="", group="") as tar:
        yield tar


def read(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Iterate over the clips of a shard in order, as (key, members by suffix).

    Raises:
        MediaError: The shard is damaged.
    """
    from webdataset.tariterators import group_by_keys, tar_file_expander

    try:
        with path.open("rb") as file:
            for clip in group_by_keys(tar_file_expander([{"url": str(path), "stream": file}])):
                key = clip["__key__"]
                yield key, {suffix: part for suffix, part in clip.items() if not suffix.startswith("__")}
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise MediaError(f"'{path}' is damaged ({error.args[0] if error.args else 'cut off'})") from None

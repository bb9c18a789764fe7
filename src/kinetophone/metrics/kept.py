"""Detections of clips in a file, so that a killed command goes on where it was."""

from __future__ import annotations

import base64
import json
import os
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from kinetophone.data.sources import sibling
from kinetophone.keys import digest, key, state_of
from kinetophone.metrics.evaluate import ClipEvents, Unscored
from kinetophone.metrics.sources import AUDIO_SUFFIX
from kinetophone.workers import code_digest


class Kept:
    """What was detected, by everything that it depends on: file, networks, settings and code.

    Args:
        path: File with a line for each clip. It is read, and continued.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, ClipEvents | Unscored] = dict(_lines(path))

    @staticmethod
    def settings(setup: Any, networks: Mapping[str, str]) -> dict[str, Any]:
        """What the keys of all clips of a run have in common.

        Args:
            setup: The picklable function and settings that detect.
            networks: Files, folders or Hub ids of networks by name.
        """
        weights = {
            name: [state_of(path) for path in sorted({Path(source), *Path(source).rglob("*")})]
            for name, source in networks.items()
        }
        made_by = sha256(pickle.dumps(setup)).hexdigest()
        return {"code": code_digest(), "settings": made_by, "networks": [networks, weights]}

    @staticmethod
    def key(clip: Path, settings: Mapping[str, Any]) -> str:
        """The key of a clip's file under the :meth:`settings` of a run."""
        files = [str(clip.resolve()), state_of(clip), state_of(sibling(clip, AUDIO_SUFFIX))]
        return digest(key("detect", 1, files=files, **settings))

    def get(self, made_by: str) -> ClipEvents | Unscored | None:
        """What was detected under a key."""
        return self._found.get(made_by)

    def add(self, made_by: str, found: ClipEvents | Unscored) -> None:
        """Keep what was detected."""
        line: dict[str, Any] = {"key": made_by, **asdict(found)}
        if isinstance(found, ClipEvents):
            line["features"] = {
                name: [base64.b64encode(array.tobytes()).decode(), str(array.dtype), array.shape]
                for name, array in found.features.items()
            }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(b"\n" + json.dumps(line).encode() + b"\n")  # the line before may be cut off
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Remove the file, once the results are written elsewhere."""
        self._path.unlink(missing_ok=True)


def _lines(path: Path) -> Iterator[tuple[str, ClipEvents | Unscored]]:
    """The lines of a file; those that a killed process has cut off are left out."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            values = json.loads(line)
            made_by = values.pop("key")
            if "reason" in values:
                yield made_by, Unscored(**values)
                continue
            features = {
                name: np.frombuffer(base64.b64decode(content), dtype).reshape(shape).copy()
                for name, (content, dtype, shape) in values.pop("features").items()
            }
            known = {field.name for field in fields(ClipEvents)} & values.keys()
            plain: dict[str, Any] = {
                n: tuple(values[n]) if isinstance(values[n], list) else values[n] for n in known
            }
            yield made_by, ClipEvents(**plain, features=features)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue

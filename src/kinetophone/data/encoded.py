"""Encoded clips as training reads them: the folder that :mod:`kinetophone.data.encode` writes.

Latents and text states are read from the files when they are drawn, so the set may be larger than memory.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from kinetophone.av import AV, MODALITIES
from kinetophone.bases.protocol import Conditioning
from kinetophone.data.latents import LatentArrays, fingerprint
from kinetophone.errors import MediaError, RequestError
from kinetophone.keys import recorded
from kinetophone.text import read_json, read_text

INDEX, MANIFEST = "encoded.json", "manifest.jsonl"
TOKENS, USED = ".tokens", ".used"  # of stored hidden states: all tokens that are not zero, and where


@dataclass(frozen=True)
class EncodedClips(LatentArrays):
    """Encoded clips of a folder, with the conditioning of their captions.

    Attributes:
        fps: Frames per second.
        texts: The text states of each caption, and of "".
    """

    fps: float
    texts: dict[str, _Text]

    def text(self, captions: Sequence[str]) -> AV[Conditioning]:
        """Text conditioning of each base for captions of these clips; "" is allowed too."""
        return AV(
            *(self._conditioning(name, [self.texts[caption] for caption in captions]) for name in MODALITIES)
        )

    @staticmethod
    def _conditioning(name: str, texts: Sequence[_Text]) -> Conditioning:
        file = texts[0].file
        if name in file.names:
            return torch.stack([text.file.states(name, text.row) for text in texts])
        inner = sorted(part for part in file.names if part.startswith(f"{name}."))
        return {
            part.removeprefix(f"{name}."): torch.stack([text.file.states(part, text.row) for text in texts])
            for part in inner
        }


def fingerprints(bases: AV[Any]) -> dict[str, str]:
    """Hashes of the networks that encode clips and their captions: both autoencoders and text encoders."""
    found = {name: fingerprint(getattr(bases, name).vae) for name in MODALITIES}
    return found | {f"{name} text": getattr(bases, name).text_fingerprint() for name in MODALITIES}


def load_encoded(folder: Path, count: int, bases: AV[Any]) -> EncodedClips:
    """Load the first ``count`` clips (0: all) of a folder written by :func:`kinetophone.data.encode.encode`.

    Raises:
        RequestError: The folder has no encoded clips, its files were changed, or they were made with other
            autoencoders or text encoders than those of ``bases``.
    """
    if not (folder / INDEX).is_file():
        raise RequestError([f"'{folder}' has no {INDEX}; run kinetophone data encode first"])
    index = read_json(folder / INDEX)
    if index.get("version") is None or "texts" not in index:
        raise RequestError([f"'{folder}' is of an older version; run kinetophone data encode again"])
    if index["made_by"] != fingerprints(bases):
        raise RequestError([f"'{folder}' was encoded with other bases; run kinetophone data encode again"])
    lines = read_text(folder / MANIFEST).splitlines()[: count or None]
    if not lines:
        raise RequestError([f"'{folder}' has no clips; manifest.jsonl of its source says why"])
    clips = [json.loads(line) for line in lines]
    shards = {name: folder / name for name in dict.fromkeys(clip["shard"] for clip in clips)}
    for path in (*shards.values(), *(folder / name for name in index["texts"])):
        if recorded(path) is None:
            raise RequestError([f"'{path}' is incomplete; run kinetophone data encode again"])
    texts: dict[str, _Text] = {}
    for name, captions in index["texts"].items():
        file = _TextFile(folder / name)
        texts |= {caption: _Text(file, row) for row, caption in enumerate(captions)}
    return EncodedClips(
        **{name: _Rows([(shards[clip["shard"]], *clip[name]) for clip in clips]) for name in MODALITIES},
        captions=[[clip["caption"]] for clip in clips],
        strikes_s=[clip["events_s"] for clip in clips],
        fps=index["fps"],
        texts=texts,
    )


class _Rows:
    """Arrays that are members of tar files, by offset and size; index with an array or a slice."""

    def __init__(self, places: list[tuple[Path, int, int]]) -> None:
        self._places = places
        self.shape = (len(places), *self._read(0).shape)

    def __getitem__(self, index: np.ndarray | slice | list[int]) -> np.ndarray:
        return np.stack([self._read(row) for row in np.arange(len(self._places))[index]])

    def _read(self, row: int) -> np.ndarray:
        path, offset, size = self._places[row]
        try:
            with path.open("rb") as file:
                file.seek(offset)
                found: np.ndarray = np.load(io.BytesIO(file.read(size)), allow_pickle=False)
                return found
        except (OSError, ValueError, EOFError) as error:
            raise MediaError(
                f"'{path}' is damaged ({error}); remove it, and run kinetophone data encode again"
            ) from None


class _TextFile:
    """The stored text states of some captions."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def _file(self) -> Any:
        return safe_open(self._path, framework="pt")

    @cached_property
    def names(self) -> list[str]:
        """Names of the tensors: a modality, or a modality and a name with a dot between."""
        return sorted({name.removesuffix(TOKENS).removesuffix(USED) for name in self._file.keys()})  # noqa: SIM118

    @cached_property
    def _used(self) -> dict[str, tuple[Tensor, list[int]]]:
        """For hidden states: which tokens are stored, (captions, length), and where each caption ends."""
        found = {}
        for name in self.names:
            if f"{name}{USED}" in self._file.keys():  # noqa: SIM118
                used = self._file.get_tensor(f"{name}{USED}")
                found[name] = used, used.sum(dim=1).cumsum(dim=0).tolist()
        return found

    def states(self, name: str, row: int) -> Tensor:
        """One tensor of a caption: (D,), or (S, D) with zeros where the text is padded."""
        if name not in self._used:
            whole: Tensor = self._file.get_slice(name)[row]
            return whole
        used, ends = self._used[name]
        tokens = self._file.get_slice(f"{name}{TOKENS}")[ends[row - 1] if row else 0 : ends[row]]
        states: Tensor = tokens.new_zeros(used.shape[1], tokens.shape[1])
        states[used[row]] = tokens
        return states


@dataclass(frozen=True)
class _Text:
    """Where the states of a caption are."""

    file: _TextFile
    row: int

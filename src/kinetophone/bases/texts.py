"""Text states on disk, so that a large text encoder is loaded only for new texts, and not kept in memory.

UMT5-xxl, the text encoder of Wan, takes 11 GB in bfloat16. The states of one text take 4 MB.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor, nn

from kinetophone.bases.computing import execution_device
from kinetophone.bases.protocol import Conditioning
from kinetophone.files import writing
from kinetophone.hub.components import load_component
from kinetophone.hub.locate import Source, locate
from kinetophone.keys import digest, key

VERSION = 1  # to be increased when a base computes its text states in another way
_ENCODING = threading.Lock()  # threads load one encoder, not one each; transformers cannot load two at once
_ONLY = "states"  # name of a conditioning that is one tensor


@dataclass(frozen=True)
class TextCache:
    """The text states of a base in a folder, one file for each text.

    A file is used only for exactly what made it: the text, the length of the clip if the states depend on it,
    the text encoder, the dtype, the kind of device, and the versions of torch and transformers.

    Args:
        folder: Where the files are; created if necessary. Several bases and processes can share it.
        source: Where the base is from.
        encoder: What tells the text encoder from others: its commit on the Hub, or a hash of its files.
        allowed: The classes that the text encoder may have.
        dtype: dtype of the text encoder.
        allow_pickle: Whether pickled weights may be downloaded and read.
    """

    folder: Path
    source: Source
    encoder: str
    allowed: tuple[str, ...]
    dtype: torch.dtype
    allow_pickle: bool = False

    def states(self, base: Any, texts: Sequence[str], seconds: float | None) -> Conditioning:
        """The conditioning of ``base`` for ``texts``, on its device.

        Raises:
            RequestError: The text encoder is needed and cannot be loaded.
            OSError: The folder cannot be written.
        """
        device = execution_device(base.network)
        keys = {text: self._key(base, text, base.text_seconds(seconds), device) for text in texts}
        with _ENCODING:
            found = {text: self._read(key) for text, key in keys.items()}
            if missing := [text for text, states in found.items() if states is None]:
                found |= self._encoded(base, missing, keys, seconds, device)
        rows: list[Any] = [found[text] for text in texts]
        joined = {name: torch.cat([row[name].to(device) for row in rows]) for name in rows[0]}
        return joined[_ONLY] if joined.keys() == {_ONLY} else joined

    def _encoded(
        self, base: Any, texts: list[str], keys: dict[str, str], seconds: float | None, device: torch.device
    ) -> dict[str, dict[str, Tensor]]:
        """Encode ``texts``, and write their states to files."""
        # A base of its own, which has no cache: so other threads never see the encoder come and go.
        whole = replace(base, text_encoder=self.load().to(device))
        found = {}
        for text in texts:
            made = whole.encode_prompt([text], seconds)
            found[text] = {_ONLY: made} if isinstance(made, Tensor) else dict(made)
            self._write(keys[text], found[text])
        del whole
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return found

    def load(self) -> nn.Module:
        """Load the text encoder; it is downloaded if necessary.

        Raises:
            RequestError: It is missing, damaged, or of another class.
        """
        source = locate(self.source.name, ["text_encoder"], self.source.revision, self.allow_pickle)
        return load_component(
            source.folder, "text_encoder", self.allowed, dtype=self.dtype, allow_pickle=self.allow_pickle
        )

    def _key(self, base: Any, text: str, seconds: float | None, device: torch.device) -> str:
        return key(
            "text states",
            VERSION,
            base=type(base).__name__,
            name=None if self.source.revision is None else self.source.name,
            encoder=self.encoder,
            dtype=str(self.dtype),
            device=device.type,
            torch=torch.__version__,
            transformers=transformers.__version__,
            seconds=seconds,
            text=text,
        )

    def _file(self, made_by: str) -> Path:
        return self.folder / f"{digest(made_by)}.safetensors"

    def _read(self, made_by: str) -> dict[str, Tensor] | None:
        """The states for a key; None if there are none, or the file is damaged."""
        path = self._file(made_by)
        if not path.is_file():
            return None
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("made_by") != made_by:
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):
            return None

    def _write(self, made_by: str, states: Mapping[str, Tensor]) -> None:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in states.items()}
        with writing(self._file(made_by)) as file:
            file.write(save(tensors, {"made_by": made_by}))

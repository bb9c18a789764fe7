"""The common part of all bases: named components, some of which are networks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from kinetophone.bases.computing import unknown_words
from kinetophone.bases.protocol import Conditioning
from kinetophone.bases.texts import TextCache
from kinetophone.hub.components import load_components, save_component
from kinetophone.hub.locate import Source, locate
from kinetophone.hub.weights import find_weights, is_weight_file


class Base:
    """A frozen model made of components. ``COMPONENTS`` maps their names to the supported classes."""

    COMPONENTS: ClassVar[dict[str, tuple[str, ...]]]
    tokenizer: Any
    reference: dict[str, Any]
    TEXT: ClassVar[frozenset[str]] = frozenset(("tokenizer", "text_encoder", "projection_model"))
    """Names of the components that make the text conditioning, as far as the family has them."""
    NETWORK: ClassVar[str] = "unet"
    """Name of the component that denoises."""
    NETWORKS: ClassVar[tuple[str, ...]]
    """Classes of that component that this family supports; they identify the family."""
    texts: TextCache | None = None
    """Text states on disk, in place of a text encoder in memory; None: the encoder is a component."""

    @property
    def network(self) -> nn.Module:
        """The network that denoises."""
        return getattr(self, self.NETWORK)

    def __init__(self, **components: Any) -> None:  # the dataclasses of the families have their own
        raise NotImplementedError

    @classmethod
    def from_source(
        cls,
        source: Source,
        *,
        dtype: torch.dtype = torch.float32,
        allow_pickle: bool = False,
        text_encoder: bool = True,
    ) -> Self:
        """Load the components from ``source``, networks in ``dtype``.

        Args:
            source: where they are.
            dtype: dtype of the networks; autoencoder and vocoder are always float32.
            allow_pickle: whether pickled weights may be read.
            text_encoder: whether to load the text encoder, too; without, :attr:`texts` must be set.

        Raises:
            RequestError: if a component is missing or has an unsupported class.
        """
        parts = cls.load_parts(source, dtype, allow_pickle, text_encoder)
        return cls(**parts, reference={"name": source.name, "revision": source.revision})

    @classmethod
    def load_parts(
        cls, source: Source, dtype: torch.dtype, allow_pickle: bool, text_encoder: bool
    ) -> dict[str, Any]:
        """The components by name; arguments and errors are those of :meth:`from_source`."""
        wanted = {**cls.COMPONENTS, cls.NETWORK: cls.NETWORKS}
        if not text_encoder:
            del wanted["text_encoder"]
        parts = load_components(source.folder, wanted, dtype=dtype, allow_pickle=allow_pickle)
        return {"text_encoder": None, **parts}

    def encode_prompt(self, prompts: list[str], seconds: float | None = None) -> Conditioning:
        """Run the text encoder: conditioning for ``prompts`` and a clip of ``seconds``."""
        raise NotImplementedError

    def text_seconds(self, seconds: float | None) -> float | None:
        """The clip length that the states from :meth:`encode_prompt` depend on; None if they do not."""
        return None

    def conditioning(self, prompts: list[str], seconds: float | None = None) -> Conditioning:
        """Conditioning for ``prompts`` and a clip of ``seconds``: from the cache of text states, if any.

        Raises:
            RequestError: the text encoder is needed and cannot be loaded.
        """
        if self.texts is None:
            return self.encode_prompt(prompts, seconds)
        return self.texts.states(self, prompts, seconds)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The components with weights, by name."""
        parts = {name: getattr(self, name) for name in self.COMPONENTS}
        return {name: part for name, part in parts.items() if isinstance(part, nn.Module)}

    def unknown_words(self, texts: Sequence[str]) -> list[str]:
        """Words of ``texts`` that the text encoder has certainly never seen in training."""
        return unknown_words(self.tokenizer, texts)

    def text_fingerprint(self) -> str:
        """Hash of the files that make the text conditioning, eight hex digits.

        It is that of the files where this base was loaded from, so it does not depend on the dtype.
        """
        parts = sorted(self.TEXT & self.COMPONENTS.keys())
        name, revision = self.reference["name"], self.reference.get("revision")
        digest = hashlib.sha256()
        for folder in (locate(name, parts, revision, allow_pickle=True).folder / part for part in parts):
            weights = find_weights(folder)
            read = set(weights.names) if weights else set()
            for path in sorted(folder.iterdir()):
                if path.is_file() and (path.name in read or not is_weight_file(path.name)):
                    with path.open("rb") as file:
                        digest.update(f"{folder.name}/{path.name}".encode())
                        digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:8]

    def to(self, device: torch.device | str) -> Self:
        """Move every network to ``device``."""
        for network in self.networks.values():
            network.to(device)
        return self

    def save_pretrained(self, folder: Path | str, dtype: torch.dtype = torch.float32) -> None:
        """Save every component in the diffusers folder layout, networks in ``dtype``."""
        for name in self.COMPONENTS:
            part = getattr(self, name)
            if part is None and self.texts is not None:
                part = self.texts.load()
            save_component(part, Path(folder) / name, dtype)

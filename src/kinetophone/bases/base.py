"""The common part of all bases: named components, some of which are networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from kinetophone.bases.computing import unknown_words
from kinetophone.hub.components import load_components, save_component
from kinetophone.hub.locate import Source


class Base:
    """A frozen model made of components. ``COMPONENTS`` maps their names to the supported classes."""

    COMPONENTS: ClassVar[dict[str, tuple[str, ...]]]
    tokenizer: Any
    NETWORK: ClassVar[str] = "unet"
    """Name of the component that denoises."""
    NETWORKS: ClassVar[tuple[str, ...]]
    """Classes of that component that this family supports; they identify the family."""

    @property
    def network(self) -> nn.Module:
        """The network that denoises."""
        return getattr(self, self.NETWORK)

    def __init__(self, **components: Any) -> None:  # the dataclasses of the families have their own
        raise NotImplementedError

    @classmethod
    def from_source(
        cls, source: Source, *, dtype: torch.dtype = torch.float32, allow_pickle: bool = False
    ) -> Self:
        """Load the components from ``source``, networks in ``dtype``.

        Raises:
            RequestError: if a component is missing or has an unsupported class.
        """
        wanted = {**cls.COMPONENTS, cls.NETWORK: cls.NETWORKS}
        parts = load_components(source.folder, wanted, dtype=dtype, allow_pickle=allow_pickle)
        return cls(**parts, reference={"name": source.name, "revision": source.revision})

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The components with weights, by name."""
        parts = {name: getattr(self, name) for name in self.COMPONENTS}
        return {name: part for name, part in parts.items() if isinstance(part, nn.Module)}

    def unknown_words(self, texts: Sequence[str]) -> list[str]:
        """Words of ``texts`` that the text encoder has certainly never seen in training."""
        return unknown_words(self.tokenizer, texts)

    def to(self, device: torch.device | str) -> Self:
        """Move every network to ``device``."""
        for network in self.networks.values():
            network.to(device)
        return self

    def save_pretrained(self, folder: Path | str, dtype: torch.dtype = torch.float32) -> None:
        """Save every component in the diffusers folder layout, networks in ``dtype``."""
        for name in self.COMPONENTS:
            save_component(getattr(self, name), Path(folder) / name, dtype)

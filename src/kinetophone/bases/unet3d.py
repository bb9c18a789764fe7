"""Text-to-video models with a ``UNet3DConditionModel``: ModelScope (arXiv 2308.06571), ZeroScope."""

from __future__ import annotations

from typing import ClassVar

import torch

from kinetophone.bases.video import VideoBase
from kinetophone.hub.components import load_components
from kinetophone.hub.locate import Source


class UNet3D(VideoBase):
    """A base of ``UNet3DConditionModel``, a CLIP text encoder and an image autoencoder."""

    NETWORKS: ClassVar[tuple[str, ...]] = ("UNet3DConditionModel",)

    @classmethod
    def from_source(
        cls, source: Source, *, dtype: torch.dtype = torch.float32, allow_pickle: bool = False
    ) -> UNet3D:
        """Load the components from ``source``, networks in ``dtype``.

        Raises:
            RequestError: if a component is missing or has an unsupported class.
        """
        parts = load_components(
            source.folder, {**cls.COMPONENTS, "unet": cls.NETWORKS}, dtype=dtype, allow_pickle=allow_pickle
        )
        return cls(**parts, reference={"name": source.name, "revision": source.revision})

"""Text-to-video models with a ``UNet3DConditionModel``: ModelScope (arXiv 2308.06571), ZeroScope."""

from __future__ import annotations

from typing import ClassVar

import torch

from kinetophone.bases.video import VideoBase
from kinetophone.hub.components import load_components
from kinetophone.hub.locate import Source


class UNet3D(VideoBase):
    """``UNet3DConditionModel``, CLIP text, an image autoencoder."""

    NETWORKS: ClassVar[tuple[str, ...]] = ("UNet3DConditionModel",)

    @classmethod
    def from_source(
        cls, source: Source, *, dtype: torch.dtype = torch.float32, allow_pickle: bool = False
    ) -> UNet3D:
        """Load the components that ``source`` holds, networks in ``dtype``.

        Raises:
            RequestError: if a component is missing or of another class.
        """
        parts = load_components(
            source.folder, {**cls.COMPONENTS, "unet": cls.NETWORKS}, dtype=dtype, allow_pickle=allow_pickle
        )
        return cls(**parts, reference={"name": source.name, "revision": source.revision})

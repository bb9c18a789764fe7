"""Text-to-video models with a ``UNet3DConditionModel``: ModelScope (arXiv 2308.06571), ZeroScope."""

from __future__ import annotations

from typing import ClassVar

from kinetophone.bases.video import VideoBase


class UNet3D(VideoBase):
    """A base of ``UNet3DConditionModel``, a CLIP text encoder and an image autoencoder."""

    NETWORKS: ClassVar[tuple[str, ...]] = ("UNet3DConditionModel",)

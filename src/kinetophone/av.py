"""A pair of one audio value and one video value, used throughout kinetophone.

Latents, noise levels, network outputs and settings all come as an ``AV``. Code that treats both modalities
alike is written once, with :meth:`AV.map`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T", covariant=True)
U = TypeVar("U")

MODALITIES = ("audio", "video")


@dataclass(frozen=True, slots=True)
class AV(Generic[T]):
    """One value per modality, e.g. ``AV(audio=latents_BCLM, video=latents_BCTHW)``."""

    audio: T
    video: T

    def map(self, function: Callable[..., U], *others: AV[Any]) -> AV[U]:
        """Call ``function`` once per modality; ``others`` supply further arguments of the same modality."""
        return AV(
            audio=function(self.audio, *(other.audio for other in others)),
            video=function(self.video, *(other.video for other in others)),
        )

    def swap(self) -> AV[T]:
        """The pair with audio and video exchanged, for what one modality receives from the other."""
        return AV(audio=self.video, video=self.audio)

    def replaced(self, modality: str, value: Any) -> AV[Any]:
        """A copy with a new value for one modality, "audio" or "video"."""
        return AV(audio=value, video=self.video) if modality == "audio" else AV(audio=self.audio, video=value)

    @staticmethod
    def both(value: U) -> AV[U]:
        """The same value for both modalities."""
        return AV(audio=value, video=value)

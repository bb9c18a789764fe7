"""The audio-video pair that everything in kinetophone flows through.

A clip is an ``AV`` of waveform and frames; the bases encode it to an ``AV`` of latents; the clocks
give an ``AV`` of noise levels; the joint model maps these to an ``AV`` of the networks' outputs. What holds
for both modalities is written once, over the pair.
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
        """Apply ``function`` to each modality, with the same modality of ``others`` as further arguments."""
        return AV(
            audio=function(self.audio, *(other.audio for other in others)),
            video=function(self.video, *(other.video for other in others)),
        )

    def swap(self) -> AV[T]:
        """Exchange the modalities: what conditions each one is made from the other."""
        return AV(audio=self.video, video=self.audio)

    def replaced(self, modality: str, value: Any) -> AV[Any]:
        """The pair with another value for one modality, "audio" or "video"."""
        return AV(audio=value, video=self.video) if modality == "audio" else AV(audio=self.audio, video=value)

    @staticmethod
    def both(value: U) -> AV[U]:
        """The same value for both modalities."""
        return AV(audio=value, video=value)

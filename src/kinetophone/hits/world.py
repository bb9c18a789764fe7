"""The clips of the ``hits`` domain: sampled scenes, rendered and captioned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kinetophone.hits.audio import SAMPLE_RATE, render_audio
from kinetophone.hits.captions import Said, caption, said_of
from kinetophone.hits.scene import (
    MATERIALS,
    SECONDS,
    SPLITS,
    TEMPI,
    TOOLS,
    Scene,
    sample_scene,
    scene_events,
    scene_rng,
)
from kinetophone.hits.video import FPS, FRAMES, render_video

VERSION = 1  # to be increased when clips or captions change

__all__ = [
    "FPS",
    "FRAMES",
    "MATERIALS",
    "SAMPLE_RATE",
    "SECONDS",
    "SPLITS",
    "TEMPI",
    "TOOLS",
    "VERSION",
    "HitsClip",
    "Scene",
    "captions_of",
    "make_clip",
    "make_scene",
]


@dataclass(frozen=True, kw_only=True)
class HitsClip:
    """A rendered clip: ``video`` uint8 ``(32, size, size, 3)``, ``audio`` float32 ``(64000,)`` in [-1, 1]."""

    video: np.ndarray
    audio: np.ndarray
    caption: str
    scene: Scene

    @property
    def said(self) -> Said:
        """What the caption states."""
        return said_of(self.scene, self.caption)

    def events(self) -> dict[str, Any]:
        """The clip's entry in ``events.json``: times in seconds, forces in [0.3, 1], attributes."""
        return scene_events(self.scene, self.caption)


def make_scene(split: str, index: int) -> tuple[Scene, str]:
    """Scene and caption of a clip, without rendering it."""
    rng = scene_rng(split, index)
    scene = sample_scene(rng)
    return scene, caption(scene, rng)


def captions_of(split: str, index: int, count: int) -> list[str]:
    """``count`` captions of a clip: its own, then others of the same scene."""
    rng = scene_rng(split, index)
    scene = sample_scene(rng)
    return [caption(scene, rng) for _ in range(count)]


def make_clip(split: str, index: int, size: int = 64) -> HitsClip:
    """Render clip ``index`` of ``split`` ("train", "val" or "test") at ``size`` x ``size`` pixels."""
    scene, text = make_scene(split, index)
    return HitsClip(video=render_video(scene, size), audio=render_audio(scene), caption=text, scene=scene)

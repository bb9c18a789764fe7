"""``hits16``: the world of ``hits`` at 16 frames a second and 24 kHz, with captions as people write them.

Every clip is a pure function of ``(split, index, size)``: 65 frames (4.06 s), 24 kHz mono, with its caption
and its event list. ``hits`` keeps its own scenes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kinetophone.hits.audio import render_audio
from kinetophone.hits.captions import Said
from kinetophone.hits.scene import MATERIALS, SPLITS, TOOLS, Scene, scene_events, scene_rng
from kinetophone.hits.sixteen.scene import SECONDS, SEED, TEMPI, sample_scene
from kinetophone.hits.sixteen.wording import HELD_OUT, TRAINING, Wording, caption
from kinetophone.hits.video import render_video

FPS = 16
FRAMES = round(SECONDS * FPS)
SAMPLE_RATE = 24_000
VERSION = 1  # to be increased when clips or captions change

__all__ = [
    "FPS",
    "FRAMES",
    "HELD_OUT",
    "MATERIALS",
    "SAMPLE_RATE",
    "SECONDS",
    "SPLITS",
    "TEMPI",
    "TOOLS",
    "TRAINING",
    "VERSION",
    "Scene",
    "SixteenClip",
    "captions_of",
    "describe",
    "make_clip",
    "make_scene",
]


@dataclass(frozen=True, kw_only=True)
class SixteenClip:
    """A rendered clip: ``video`` uint8 ``(65, size, size, 3)``, ``audio`` float32 ``(97500,)`` in [-1, 1]."""

    video: np.ndarray
    audio: np.ndarray
    said: Said
    scene: Scene

    @property
    def caption(self) -> str:
        """The clip's caption."""
        return self.said.text

    def events(self) -> dict[str, Any]:
        """The clip's entry in ``events.json``: times in seconds, forces in [0.3, 1], and attributes."""
        stated = {name: value for name, value in asdict(self.said).items() if name != "text"}
        said = {name: value for name, value in stated.items() if value is not None}
        return {**scene_events(self.scene, self.caption), "said": said}


def describe(split: str, index: int, wording: Wording = TRAINING) -> tuple[Scene, Said]:
    """Scene of a clip, and its caption with what it says, without rendering it."""
    rng = scene_rng(split, index, SEED)
    scene = sample_scene(rng)
    return scene, caption(scene, rng, wording)


def make_scene(split: str, index: int) -> tuple[Scene, str]:
    """Scene and caption of a clip, without rendering it."""
    scene, said = describe(split, index)
    return scene, said.text


def captions_of(split: str, index: int, count: int) -> list[str]:
    """``count`` captions of a clip: its own, then others of the same scene."""
    rng = scene_rng(split, index, SEED)
    scene = sample_scene(rng)
    return [caption(scene, rng).text for _ in range(count)]


def make_clip(split: str, index: int, size: int = 64, wording: Wording = TRAINING) -> SixteenClip:
    """Render clip ``index`` of ``split`` ("train", "val" or "test") at ``size`` x ``size`` pixels."""
    scene, said = describe(split, index, wording)
    return SixteenClip(
        video=render_video(scene, size, FPS, FRAMES),
        audio=render_audio(scene, SAMPLE_RATE, SECONDS),
        said=said,
        scene=scene,
    )

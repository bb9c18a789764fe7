"""``bows``: the second procedural domain, a bow on a string, with sustained sounds instead of impacts.

Audio and video share curves instead of events: the speed of the bow, and the position of the finger on the
string. Length, rates and interface are those of ``hits``: a clip is a pure function of
``(split, index, size)``, 4 s, 8 fps, 16 kHz mono, with its caption and the exact curve. Needs only NumPy,
SciPy and OpenCV.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kinetophone.hits.audio import SAMPLE_RATE
from kinetophone.hits.scene import SECONDS, SPLITS
from kinetophone.hits.video import FPS, FRAMES
from kinetophone.study.bows.audio import render_audio
from kinetophone.study.bows.scene import CURVE_RATE, Scene, caption, sample_scene, scene_rng
from kinetophone.study.bows.video import render_video

VERSION = 1  # to be increased when clips or captions change

__all__ = [
    "CURVE_RATE",
    "FPS",
    "FRAMES",
    "SAMPLE_RATE",
    "SECONDS",
    "SPLITS",
    "VERSION",
    "BowsClip",
    "Scene",
    "captions_of",
    "make_clip",
    "make_scene",
]


@dataclass(frozen=True, kw_only=True)
class BowsClip:
    """A rendered clip: ``video`` uint8 ``(32, size, size, 3)``, ``audio`` float32 ``(64000,)`` in [-1, 1]."""

    video: np.ndarray
    audio: np.ndarray
    caption: str
    scene: Scene

    def events(self) -> dict[str, Any]:
        """Ground truth of the clip.

        Returns:
            Start and stop times of the bow in seconds, its speed every 10 ms (1 is the maximum), and
            attributes.
        """
        scene = self.scene
        return {
            "onsets_s": [round(s.start_s, 4) for s in scene.strokes],
            "offsets_s": [round(s.end_s, 4) for s in scene.strokes],
            "speed": [round(float(v), 4) for v in scene.speed()],
            "instrument": scene.instrument,
            "colour": scene.colour,
            "manner": scene.manner,
            "size": round(scene.size, 3),
            "caption": self.caption,
        }


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


def make_clip(split: str, index: int, size: int = 64) -> BowsClip:
    """Render clip ``index`` of ``split`` ("train", "val" or "test") at ``size`` x ``size`` pixels."""
    scene, text = make_scene(split, index)
    return BowsClip(video=render_video(scene, size), audio=render_audio(scene), caption=text, scene=scene)

"""``hits``: the procedural twin of GreatestHits - a tool strikes things, seen and heard, with exact truth.

Every clip is a pure function of ``(split, index, size)``: 4 s, 8 fps, 16 kHz mono, with its caption and
its event list. What makes clips needs NumPy, SciPy and OpenCV, and is imported when it is first used: the
world's measures are listed without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kinetophone.hits.world import (
        FPS,
        FRAMES,
        MATERIALS,
        SAMPLE_RATE,
        SECONDS,
        SPLITS,
        TOOLS,
        HitsClip,
        Scene,
        captions_of,
        make_clip,
        make_scene,
    )

__all__ = [
    "FPS",
    "FRAMES",
    "MATERIALS",
    "SAMPLE_RATE",
    "SECONDS",
    "SPLITS",
    "TOOLS",
    "HitsClip",
    "Scene",
    "captions_of",
    "make_clip",
    "make_scene",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("kinetophone.hits.world"), name)
    raise AttributeError(f"module 'kinetophone.hits' has no attribute '{name}'")

"""``hits``: a procedural counterpart of GreatestHits. A tool strikes objects; the ground truth is exact.

Every clip is a pure function of ``(split, index, size)``: 4 s, 8 fps, 16 kHz mono, with its caption and
its event list. Rendering needs NumPy, SciPy and OpenCV, which are imported on first use, so that the domain's
metrics can be listed without them.
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
        TEMPI,
        TOOLS,
        VERSION,
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
    "TEMPI",
    "TOOLS",
    "VERSION",
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

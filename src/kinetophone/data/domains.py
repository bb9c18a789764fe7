"""The procedural domains by name: ``hits``, ``hits16`` and ``bows``.

Each is a package with ``make_clip``, ``make_scene`` and ``captions_of``, and the constants FPS, FRAMES,
SECONDS, SAMPLE_RATE and VERSION, which is increased when its clips or captions change.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from kinetophone.errors import RequestError

if TYPE_CHECKING:
    from kinetophone.media.clip import Clip

DOMAINS = {"hits": "kinetophone.hits", "hits16": "kinetophone.hits.sixteen", "bows": "kinetophone.study.bows"}
STRIKES = ("hits", "hits16")  # those with strikes, and what :mod:`kinetophone.hits.adherence` needs


def domain(name: str) -> Any:
    """Import the package of a domain.

    Raises:
        RequestError: There is no such domain.
    """
    if name not in DOMAINS:
        raise RequestError([f"there is no domain '{name}'; choose from {', '.join(DOMAINS)}"])
    return importlib.import_module(DOMAINS[name])


def world_of(fps: float | Fraction) -> str:
    """The world of strikes with a frame rate, which is that of bundles trained on it.

    Raises:
        RequestError: There is none.
    """
    for name in STRIKES:
        if fps == domain(name).FPS:
            return name
    raise RequestError(
        [f"no world of strikes has {float(fps):g} frames a second; the worlds: {', '.join(STRIKES)}"]
    )


def as_clip(clip: Any, name: str = "hits") -> Clip:
    """Convert a rendered clip of a domain to a ``Clip``."""
    from kinetophone.media.clip import Clip

    world = domain(name)
    return Clip(video=clip.video, fps=world.FPS, audio=clip.audio, sample_rate=world.SAMPLE_RATE)


def moments_s(events: Mapping[str, Any]) -> list[float]:
    """Times of a clip's events in seconds, from its ``events()``: strikes, or starts and stops of a bow."""
    if "strikes_s" in events:
        return list(events["strikes_s"])
    return sorted([*events["onsets_s"], *events["offsets_s"]])

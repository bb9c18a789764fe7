"""The procedural domains by name: ``hits``, ``hits16`` and ``bows``.

Each is a package with ``make_clip``, ``make_scene`` and ``captions_of``, and the constants FPS, FRAMES,
SECONDS, SAMPLE_RATE.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from kinetophone.errors import RequestError

DOMAINS = {"hits": "kinetophone.hits", "hits16": "kinetophone.hits.sixteen", "bows": "kinetophone.study.bows"}


def domain(name: str) -> Any:
    """Import the package of a domain.

    Raises:
        RequestError: There is no such domain.
    """
    if name not in DOMAINS:
        raise RequestError([f"there is no domain '{name}'; choose from {', '.join(DOMAINS)}"])
    return importlib.import_module(DOMAINS[name])


def moments_s(events: Mapping[str, Any]) -> list[float]:
    """Times of a clip's events in seconds, from its ``events()``: strikes, or starts and stops of a bow."""
    if "strikes_s" in events:
        return list(events["strikes_s"])
    return sorted([*events["onsets_s"], *events["offsets_s"]])

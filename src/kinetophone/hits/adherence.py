"""Whether clips do what their prompts say: number of strikes, tempo, silence, material, object, colour, tool.

Everything is exact: a clip has the number asked for, or it has not. Each score has the same one with prompts
of other clips as its control, which is what a model that ignores its prompt would reach.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kinetophone.hits.captions import Said
from kinetophone.metrics.control import Control, shuffled_control
from kinetophone.metrics.evaluate import ClipEvents

TEMPO_TOLERANCE = 0.2  # of the rate that a tempo names, the mean of its range; of the mean interval
ATTRIBUTES = ("object", "colour", "tool")


def adherence(
    clips: Sequence[ClipEvents],
    said: Mapping[str, Said],
    tempi: Mapping[str, tuple[float, float]],
    seed: int = 0,
) -> dict[str, Control]:
    """How often clips do what their prompts say, each with the prompts of other clips as its control.

    Args:
        clips: Clips with their events, and the features of the bundle's classifiers, if it has any.
        said: What the prompt of each clip says, by name of the clip. What it leaves open is not scored.
        tempi: The range of the interval between events, in seconds, that each tempo names.
        seed: Seed of the shuffles and the bootstrap.

    Returns:
        By name of the score. Scores that no prompt asks for are left out.
    """

    def scored(
        attribute: str, measured: Callable[[ClipEvents], Any], right: Callable[[Any, Any], bool]
    ) -> Any:
        asked = [(clip, getattr(said[clip.name], attribute)) for clip in clips]
        known = [(measured(clip), wanted) for clip, wanted in asked if wanted is not None]
        if len(known) < 2:
            return None
        found, wanted = zip(*known, strict=True)
        return shuffled_control(lambda one, other: float(right(one, other)), found, wanted, seed)

    def at_tempo(times_s: Sequence[float], tempo: str) -> bool:
        if len(times_s) < 2:
            return False
        interval = (max(times_s) - min(times_s)) / (len(times_s) - 1)
        return bool(abs(interval / np.mean(tempi[tempo]) - 1) <= TEMPO_TOLERANCE)

    def same(one: Any, other: Any) -> bool:
        return bool(one == other)

    results = {
        "count, heard": scored("count", lambda clip: len(clip.onsets_s), same),
        "count, seen": scored("count", lambda clip: len(clip.strikes_s), same),
        "count, heard and seen": scored(
            "count",
            lambda clip: (len(clip.onsets_s), len(clip.strikes_s)),
            lambda found, wanted: found == (wanted, wanted),
        ),
        "tempo, heard": scored("tempo", lambda clip: clip.onsets_s, at_tempo),
        "tempo, seen": scored("tempo", lambda clip: clip.strikes_s, at_tempo),
    }
    if clips and "hits_object" in clips[0].features:
        from kinetophone.hits.classifiers import SEEN

        for name in ATTRIBUTES:

            def seen(clip: ClipEvents, name: str = name) -> str:
                return SEEN[name][int(clip.features[f"hits_{name}"].argmax())]

            results[f"{name}, seen"] = scored(name, seen, same)
    return {name: control for name, control in results.items() if control is not None}

"""Whether clips do what their prompts say: number of strikes, tempo, object, colour and tool.

The number is exact, and none is a number too. Each score has the same one with prompts
of other clips as its control, which is what a model that ignores its prompt would reach.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kinetophone.hits.captions import Said
from kinetophone.hits.classifiers import SEEN
from kinetophone.metrics.control import Control, shuffled_control
from kinetophone.metrics.evaluate import ClipEvents

TEMPO_TOLERANCE = 0.2  # of the interval that a tempo names, the mean of its range


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
        attribute: str, measured: Sequence[Any], right: Callable[[Any, Any], bool] = operator.eq
    ) -> Control | None:
        asked = [getattr(said[clip.name], attribute) for clip in clips]
        known = [pair for pair in zip(measured, asked, strict=True) if pair[1] is not None]
        if len(known) < 2:
            return None
        found, wanted = zip(*known, strict=True)
        return shuffled_control(lambda one, other: float(right(one, other)), found, wanted, seed)

    def at_tempo(times_s: Sequence[float], tempo: str) -> bool:
        if len(times_s) < 2:
            return False
        interval = (max(times_s) - min(times_s)) / (len(times_s) - 1)
        return bool(abs(interval / np.mean(tempi[tempo]) - 1) <= TEMPO_TOLERANCE)

    heard, seen = [clip.onsets_s for clip in clips], [clip.strikes_s for clip in clips]
    results = {
        "count, heard": scored("count", [len(times) for times in heard]),
        "count, seen": scored("count", [len(times) for times in seen]),
        "count, heard and seen": scored(
            "count",
            [(len(a), len(b)) for a, b in zip(heard, seen, strict=True)],
            lambda found, wanted: found == (wanted, wanted),
        ),
        "tempo, heard": scored("tempo", heard, at_tempo),
        "tempo, seen": scored("tempo", seen, at_tempo),
    }
    for name, values in SEEN.items():
        feature = f"hits_{name}"
        if clips and feature in clips[0].features:
            told = [values[int(clip.features[feature].argmax())] for clip in clips]
            results[f"{name}, seen"] = scored(name, told)
    return {name: control for name, control in results.items() if control is not None}

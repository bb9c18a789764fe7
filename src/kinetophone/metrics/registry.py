"""The measures that need a network, as values: what each needs, extracts of a clip, and scores.

A measure is a file with a ``METRIC`` (or several in ``METRICS``) in :mod:`kinetophone.metrics.kinds`; that of
the ``hits`` world is with it. ``kinetophone evaluate`` takes their names and their options from here.

Files of measures import nothing heavy at their top: the command line reads them all for its help.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

    from kinetophone.media.clip import Clip
    from kinetophone.metrics.control import Control
    from kinetophone.metrics.distance import Distance
    from kinetophone.metrics.evaluate import ClipEvents
    from kinetophone.metrics.kinds.desync import Desync

ELSEWHERE = ("kinetophone.hits.metric",)  # measures that are not in ``metrics.kinds``


@dataclass(frozen=True)
class Consent:
    """What the user agreed to: TorchScript, which can run code, and pickled weights, as tensors only."""

    torchscript: bool = False
    pickle: bool = False


@dataclass(frozen=True)
class Sample:
    """What a measure scores.

    Attributes:
        clips: With their features.
        reference: Those that distances are from; None without any.
        captions: By file name or stem.
        source: Of the network.
        consent: Of the user.
        seed: Of the shuffles and the bootstrap.
    """

    clips: Sequence[ClipEvents]
    reference: Sequence[ClipEvents] | None
    captions: Mapping[str, str]
    source: str
    consent: Consent
    seed: int = 0


@dataclass(frozen=True)
class Scores:
    """What measures found: distances and agreements by the names they are reported under, and the offset."""

    distances: dict[str, Distance] = field(default_factory=dict)
    semantics: dict[str, Control] = field(default_factory=dict)
    desync: Desync | None = None


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A measure.

    Attributes:
        name: As ``--metrics`` has it.
        source: Name of the option, and of the argument of ``Extractor``, that says where its network is.
        source_help: What the command line says of that option.
        load: Loads the network, ``load(source, consent, texts)``, or raises; ``texts``: whether captions will
            be compared.
        extract: ``extract(clip, source, consent)`` -> features by name, float32 (windows, dimension).
        score: What it finds of a set of clips.
        needs: What else must be given: a reference, captions, or either of them.
        of_bundle: Whether the network comes with a bundle, whose folder is the source: no option.
    """

    name: str
    source: str
    source_help: str = ""
    load: Callable[[str, Consent, bool], Any]
    extract: Callable[[Clip, str, Consent], dict[str, np.ndarray]]
    score: Callable[[Sample], Scores]
    needs: Literal["", "reference", "captions", "either"] = ""
    of_bundle: bool = False


@cache
def all_metrics() -> dict[str, Metric]:
    """Every measure by name."""
    import kinetophone.metrics.kinds as package

    names = [*ELSEWHERE, *(f"{package.__name__}.{m.name}" for m in pkgutil.iter_modules(package.__path__))]
    found: list[Metric] = []
    for name in names:
        module = importlib.import_module(name)
        found += getattr(module, "METRICS", None) or [module.METRIC]
    return {metric.name: metric for metric in found}


def merged(parts: Sequence[Scores]) -> Scores:
    """What several measures found, together."""
    return Scores(
        distances={name: value for part in parts for name, value in part.distances.items()},
        semantics={name: value for part in parts for name, value in part.semantics.items()},
        desync=next((part.desync for part in parts if part.desync is not None), None),
    )

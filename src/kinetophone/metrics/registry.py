"""Registry of metrics that need a network: what each one needs, extracts from a clip, and scores.

A metric is a module in :mod:`kinetophone.metrics.kinds` with a ``METRIC`` (or several in ``METRICS``). The
metric of the ``hits`` domain is in that domain's package. ``kinetophone evaluate`` takes the names and
options from here.

These modules must not import anything heavy at the top, because the command line reads all of them for its
help.
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

OTHER_MODULES = ("kinetophone.hits.metric",)  # metrics outside of ``metrics.kinds``


@dataclass(frozen=True)
class Consent:
    """What the user allows: TorchScript, which can run code, and pickled weights, read as tensors only."""

    torchscript: bool = False
    pickle: bool = False


@dataclass(frozen=True)
class Sample:
    """The input of a metric.

    Attributes:
        clips: Clips with their features.
        reference: Reference clips for distances, or None.
        captions: Captions by file name or stem.
        source: Location of the network.
        consent: What the user allows.
        seed: Seed of the shuffles and the bootstrap.
    """

    clips: Sequence[ClipEvents]
    reference: Sequence[ClipEvents] | None
    captions: Mapping[str, str]
    source: str
    consent: Consent
    seed: int = 0


@dataclass(frozen=True)
class Scores:
    """Results of metrics: distances and agreements by reported name, and the audio-video offset."""

    distances: dict[str, Distance] = field(default_factory=dict)
    semantics: dict[str, Control] = field(default_factory=dict)
    desync: Desync | None = None


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric that needs a network.

    Attributes:
        name: Name for ``--metrics``.
        source: Name of the command-line option and ``Extractor`` argument for the network's location.
        source_help: Help text of that option.
        load: ``load(source, consent, texts)`` loads the network or raises. ``texts`` says whether captions
            will be compared.
        extract: ``extract(clip, source, consent)`` returns features by name, float32 (windows, dimension).
        score: Computes the scores of a set of clips.
        needs: Other required input: a reference, captions, or either of them.
        of_bundle: Whether the network is part of a bundle. The source is then the bundle's folder, and there
            is no option.
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
    """All metrics by name."""
    import kinetophone.metrics.kinds as package

    names = [
        *OTHER_MODULES,
        *(f"{package.__name__}.{m.name}" for m in pkgutil.iter_modules(package.__path__)),
    ]
    found: list[Metric] = []
    for name in names:
        module = importlib.import_module(name)
        found += getattr(module, "METRICS", None) or [module.METRIC]
    return {metric.name: metric for metric in found}


def merged(parts: Sequence[Scores]) -> Scores:
    """Merge the scores of several metrics."""
    return Scores(
        distances={name: value for part in parts for name, value in part.distances.items()},
        semantics={name: value for part in parts for name, value in part.semantics.items()},
        desync=next((part.desync for part in parts if part.desync is not None), None),
    )

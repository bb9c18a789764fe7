"""Code shared by metrics that need networks: distances from a reference, and agreement with captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kinetophone.errors import MediaError
from kinetophone.metrics.control import Control, shuffled_control
from kinetophone.metrics.distance import Distance, distance
from kinetophone.metrics.evaluate import ClipEvents
from kinetophone.metrics.networks.transformer import text_features
from kinetophone.metrics.registry import Sample
from kinetophone.metrics.sources import captions_of


def distances(sample: Sample, names: Mapping[str, str]) -> dict[str, Distance]:
    """Distances from the reference for each kind of features that both sets have.

    Args:
        sample: The clips and the reference.
        names: Name of the distance for each kind of features.

    Returns:
        Distances by name; empty without a reference.

    Raises:
        UserError: A set has fewer than 4 vectors.
    """
    found = {}
    for kind, name in names.items():
        one, other = _stacked(sample.clips, kind), _stacked(sample.reference or (), kind)
        if one is not None and other is not None:
            found[name] = distance(one, other, seed=sample.seed)
    return found


def caption_agreement(sample: Sample, kind: str) -> Control:
    """Mean cosine similarity of each clip's embeddings of ``kind`` with those of its caption.

    The control uses the captions of other clips.

    Raises:
        MediaError: No clip has a caption.
    """
    known, texts = captioned(sample, kind)
    embedded = [clip.features[kind] for clip in known]
    said = list(text_features(texts, sample.source, sample.consent.pickle))
    return shuffled_control(cosine, embedded, said, sample.seed)


def cosine(of_clip: np.ndarray, other: np.ndarray) -> float:
    """Mean cosine similarity of unit embeddings (windows, D) with another one (D,)."""
    return float((of_clip @ other).mean())


def captioned(sample: Sample, kind: str) -> tuple[list[ClipEvents], list[str]]:
    """The clips that have a caption and features of ``kind``, and their captions.

    Raises:
        MediaError: There is no such clip.
    """
    said = captions_of([clip.name for clip in sample.clips], sample.captions)
    known = [clip for clip in sample.clips if clip.name in said and len(clip.features[kind])]
    if not known:
        raise MediaError("no clip has a caption; the column file must have the clips' names")
    return known, [said[clip.name] for clip in known]


def _stacked(clips: Sequence[ClipEvents], kind: str) -> np.ndarray | None:
    rows = [clip.features[kind] for clip in clips if kind in clip.features and len(clip.features[kind])]
    return np.concatenate(rows) if rows else None

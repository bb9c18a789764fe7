"""Measures of a folder of clips that need networks: distances from a reference, agreement with captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kinetophone.errors import MediaError
from kinetophone.metrics.control import Control, shuffled_control
from kinetophone.metrics.distance import Distance, distance
from kinetophone.metrics.evaluate import ClipEvents
from kinetophone.metrics.features import Extractor, text_features

# Name in the report of the distance on each kind of features. FVD and FAD are names of measures on I3D and
# VGGish; those on the classifiers of the ``hits`` domain have names of their own.
DISTANCES = {
    "hits_video": "hits-FVD",
    "hits_audio": "hits-FAD",
    "fvd": "FVD (16 frames)",
    "fvd_whole": "FVD (whole clip)",
    "vggish": "FAD",
    "clap_audio": "CLAP-FAD",
}


@dataclass(frozen=True, slots=True)
class Quality:
    """Distances by name, and agreement with captions by name, with that of shuffled captions beside it."""

    distances: dict[str, Distance]
    semantics: dict[str, Control]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and dictionaries, ready for JSON."""
        return asdict(self)


def distances(
    clips: Sequence[ClipEvents], reference: Sequence[ClipEvents], *, seed: int = 0
) -> dict[str, Distance]:
    """Every distance that both sets have features for.

    Raises:
        UserError: A set has fewer than 4 vectors.
    """
    found = {}
    for kind, name in DISTANCES.items():
        one, other = _stacked(clips, kind), _stacked(reference, kind)
        if one is not None and other is not None:
            found[name] = distance(one, other, seed=seed)
    return found


def agreements(
    clips: Sequence[ClipEvents], captions: Mapping[str, str], extractor: Extractor, *, seed: int = 0
) -> dict[str, Control]:
    """Agreement with the captions by every model that was used; none where there are no captions."""
    models = {
        "CLAP text-audio": ("clap_audio", extractor.clap),
        "CLIP text-frame": ("clip_frames", extractor.clip),
    }
    found = {
        name: agreement(clips, captions, kind, source, seed=seed)
        for name, (kind, source) in models.items()
        if source is not None and captions
    }
    if extractor.hits is not None and captions:
        found |= material_agreement(clips, captions, seed=seed)
    return found


def material_agreement(
    clips: Sequence[ClipEvents], captions: Mapping[str, str], *, seed: int = 0
) -> dict[str, Control]:
    """How often the ``hits`` classifiers see and hear the material the caption names.

    Clips whose caption names none of their five materials are left out.
    """
    from kinetophone.metrics.hits import NAMES, material_named

    by_stem = {Path(name).stem: material_named(text) for name, text in captions.items()}
    known = [clip for clip in clips if by_stem.get(Path(clip.name).stem) is not None]
    if not known:
        return {}
    asked = [str(by_stem[Path(clip.name).stem]) for clip in known]
    kinds = {"material seen is the caption's": "hits_seen", "material heard is the caption's": "hits_heard"}
    return {
        name: shuffled_control(
            lambda logits, material: float(NAMES[int(logits.argmax())] == material),
            [clip.features[kind] for clip in known],
            asked,
            seed,
        )
        for name, kind in kinds.items()
    }


def agreement(
    clips: Sequence[ClipEvents], captions: Mapping[str, str], kind: str, source: str, *, seed: int = 0
) -> Control:
    """Mean cosine of each clip's embeddings with that of its caption, beside captions of other clips.

    Args:
        clips: With features of ``kind``; those without a caption are left out.
        captions: By file name or stem.
        kind: ``"clap_audio"`` or ``"clip_frames"``.
        source: The model that made them.
        seed: Of the shuffles and the bootstrap.

    Raises:
        MediaError: No clip has a caption.
    """
    by_stem = {Path(name).stem: text for name, text in captions.items()}
    known = [clip for clip in clips if Path(clip.name).stem in by_stem and len(clip.features[kind])]
    if not known:
        raise MediaError("no clip has a caption; the column file holds the clips' names")
    texts = text_features([by_stem[Path(clip.name).stem] for clip in known], source)
    embedded = [clip.features[kind] for clip in known]
    return shuffled_control(lambda of_clip, text: float((of_clip @ text).mean()), embedded, list(texts), seed)


def _stacked(clips: Sequence[ClipEvents], kind: str) -> np.ndarray | None:
    rows = [clip.features[kind] for clip in clips if kind in clip.features and len(clip.features[kind])]
    return np.concatenate(rows) if rows else None

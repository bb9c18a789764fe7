"""Measures of a folder of clips that need networks.

Distances from a reference; agreement of sound, picture and caption; and the offset a network believes in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kinetophone.errors import MediaError
from kinetophone.metrics.control import Control, Interval, bootstrap_interval, shuffled_control
from kinetophone.metrics.desync import CHANCE_S, CROP_S
from kinetophone.metrics.distance import Distance, distance
from kinetophone.metrics.evaluate import ClipEvents
from kinetophone.metrics.features import Extractor, text_features
from kinetophone.metrics.sources import captions_of

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
class Desync:
    """The mean size of the offset a network finds, see ``kinetophone.metrics.desync``.

    Attributes:
        value: Seconds.
        interval: Its 95 % bootstrap interval over clips.
        n: Number of clips.
        short: How many of them are shorter than the network's 4.8 s.
        chance: What a network that guesses evenly would score. Not that of shuffled pairs: the network would
            have to run again for each of them.
    """

    value: float
    interval: Interval
    n: int
    short: int
    chance: float = CHANCE_S


@dataclass(frozen=True, slots=True)
class Quality:
    """Distances by name; agreements by name, with that of shuffled pairs beside each; the offset."""

    distances: dict[str, Distance]
    semantics: dict[str, Control]
    desync: Desync | None = None

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
    """Agreement by every model that was used: of sound and picture, and of both with any captions."""
    found: dict[str, Control] = {}
    for name, folder in extractor.bindings().items():
        found |= bound_agreements(
            clips, captions, name, folder, seed=seed, allow_torchscript=extractor.allow_torchscript
        )
    models = {
        "CLAP text-audio": ("clap_audio", extractor.clap),
        "CLIP text-frame": ("clip_frames", extractor.clip),
    }
    found |= {
        name: agreement(clips, captions, kind, source, seed=seed, allow_pickle=extractor.allow_pickle)
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
    from kinetophone.hits.classifiers import NAMES, material_named

    said = captions_of([clip.name for clip in clips], captions)
    materials = {name: material_named(text) for name, text in said.items()}
    known = [clip for clip in clips if materials.get(clip.name) is not None]
    if not known:
        return {}
    asked = [str(materials[clip.name]) for clip in known]
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
    clips: Sequence[ClipEvents],
    captions: Mapping[str, str],
    kind: str,
    source: str,
    *,
    seed: int = 0,
    allow_pickle: bool = False,
) -> Control:
    """Mean cosine of each clip's embeddings with that of its caption, beside captions of other clips.

    Args:
        clips: With features of ``kind``; those without a caption are left out.
        captions: By file name or stem.
        kind: ``"clap_audio"`` or ``"clip_frames"``.
        source: The model that made them.
        seed: Of the shuffles and the bootstrap.
        allow_pickle: Read pickled weights of the model, as tensors only.

    Raises:
        MediaError: No clip has a caption.
    """
    known, texts = _captioned(clips, captions, kind)
    embedded = [clip.features[kind] for clip in known]
    return shuffled_control(_cosine, embedded, list(text_features(texts, source, allow_pickle)), seed)


def bound_agreements(
    clips: Sequence[ClipEvents],
    captions: Mapping[str, str],
    name: str,
    folder: str,
    *,
    seed: int = 0,
    allow_torchscript: bool = False,
) -> dict[str, Control]:
    """Mean cosines by a model of one space: sound-picture, and with captions text-sound and text-picture.

    Arguments as in ``agreement``; ``name`` is "imagebind" or "languagebind", ``folder`` where it is, and
    ``allow_torchscript`` loads its network, though it can run code.
    """
    from kinetophone.metrics.binding import bound_texts

    title = {"imagebind": "ImageBind", "languagebind": "LanguageBind"}[name]
    heard = [clip.features[f"{name}_sound"] for clip in clips]
    seen = [clip.features[f"{name}_frames"][0] for clip in clips]
    found = {f"{title} sound-picture": shuffled_control(_cosine, heard, seen, seed)} if clips else {}
    if captions:
        known, texts = _captioned(clips, captions, f"{name}_sound")
        embedded = list(bound_texts(texts, folder, name, allow_torchscript))
        for kind, other in {"sound": "text-sound", "frames": "text-picture"}.items():
            ours = [clip.features[f"{name}_{kind}"] for clip in known]
            found[f"{title} {other}"] = shuffled_control(_cosine, ours, embedded, seed)
    return found


def mean_desync(clips: Sequence[ClipEvents], *, seed: int = 0) -> Desync | None:
    """The mean size of the offsets over the crops of each clip, then over clips; None without any."""
    sizes = [float(np.abs(clip.features["desync"]).mean()) for clip in clips if "desync" in clip.features]
    if not sizes:
        return None
    short = sum(len(clip.flow) / clip.fps < CROP_S for clip in clips)
    return Desync(float(np.mean(sizes)), bootstrap_interval(sizes, seed), len(sizes), short)


def _cosine(of_clip: np.ndarray, other: np.ndarray) -> float:
    """Mean cosine of embeddings (windows, D) with one (D,), all of length 1."""
    return float((of_clip @ other).mean())


def _captioned(
    clips: Sequence[ClipEvents], captions: Mapping[str, str], kind: str
) -> tuple[list[ClipEvents], list[str]]:
    said = captions_of([clip.name for clip in clips], captions)
    known = [clip for clip in clips if clip.name in said and len(clip.features[kind])]
    if not known:
        raise MediaError("no clip has a caption; the column file holds the clips' names")
    return known, [said[clip.name] for clip in known]


def _stacked(clips: Sequence[ClipEvents], kind: str) -> np.ndarray | None:
    rows = [clip.features[kind] for clip in clips if kind in clip.features and len(clip.features[kind])]
    return np.concatenate(rows) if rows else None

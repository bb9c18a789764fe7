"""Scores of a cell's clips: synchrony with its control, distances, and the scores of each clip."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from kinetophone.data.domains import as_clip
from kinetophone.data.domains import domain as domain_of
from kinetophone.hits.classifiers import NAMES
from kinetophone.hits.metric import DISTANCES, material_agreement
from kinetophone.media.clip import Clip
from kinetophone.metrics.control import Control, shuffled_control
from kinetophone.metrics.evaluate import ClipEvents, detect, score
from kinetophone.metrics.features import Extractor
from kinetophone.metrics.quality import distances
from kinetophone.metrics.registry import Consent, Sample
from kinetophone.study.sustained import correlation, loudness_curve, motion_curve

# The main synchrony metric of each domain.
MAIN_METRIC = {"hits": "event_f1", "hits16": "event_f1", "bows": "sustained"}
# Metrics of strikes that are saved for every clip.
CLIP_METRICS = ("event_f1", "contact_f1", "synchrony", "av_align_svg")


@lru_cache(maxsize=2)
def true_clips(domain: str, split: str, indices: range, size: int) -> list[Any]:
    """The real clips whose captions are the prompts."""
    return [domain_of(domain).make_clip(split, i, size) for i in indices]


def measure_clips(
    clips: Sequence[Clip],
    domain: str,
    split: str,
    judges: str,
    workers: int | None = None,
    first: int = 0,
    others: range | None = None,
) -> dict[str, Any]:
    """Score clips that were made from the prompts of a split.

    Args:
        clips: One clip per real clip, in the same order.
        domain: "hits", "hits16" or "bows".
        split: Split whose captions were the prompts.
        judges: Folder of the bundle with the classifiers; for strikes.
        workers: Number of processes for the detectors; for strikes.
        first: Index of the first clip in the split.
        others: Indices of other real clips of strikes, for additional distances.

    Returns:
        The scores, ready for JSON: synchrony with its control, distances, and the scores of each clip.
    """
    indices, size = range(first, first + len(clips)), clips[0].video.shape[1]
    if domain == "bows":
        return _of_bows(clips, true_clips(domain, split, indices, size), first)
    return _of_strikes(clips, domain, split, indices, size, judges, workers, others)


def _of_bows(clips: Sequence[Clip], true: Sequence[Any], first: int) -> dict[str, Any]:
    heard, seen = [loudness_curve(clip) for clip in clips], [motion_curve(clip) for clip in clips]
    each = [correlation(*pair) for pair in zip(heard, seen, strict=True)]
    return {
        "prompts": len(clips),
        "unscored": 0,
        "synchrony": {"sustained": _plain(shuffled_control(correlation, heard, seen, 0))},
        "distances": {},
        "materials": {},
        "clips": [
            {"clip": i, "material": clip.scene.instrument, "sustained": round(value, 4)}
            for i, (clip, value) in enumerate(zip(true, each, strict=True), first)
        ],
    }


def _of_strikes(
    clips: Sequence[Clip],
    domain: str,
    split: str,
    indices: range,
    size: int,
    judges: str,
    workers: int | None,
    others: range | None,
) -> dict[str, Any]:
    true = true_clips(domain, split, indices, size)
    found = detect(clips, workers=workers, features=Extractor(hits=judges))
    report = score(found)
    scored = [item for item in found if isinstance(item, ClipEvents)]
    captions = {str(i): clip.caption for i, clip in enumerate(true)}
    rows = {row["name"]: row for row in report.rows}
    agreed = material_agreement(Sample(scored, None, captions, judges, Consent()))
    references = {"distances": indices} | ({} if others is None else {"distances_from_others": others})
    return {
        "prompts": len(clips),
        "unscored": len(report.unscored),
        "synchrony": {name: _plain(control) for name, control in report.metrics.items()},
        **{
            name: _distances(scored, _reference(domain, split, of, size, judges, workers))
            for name, of in references.items()
        },
        "materials": {name: {"value": c.value, "shuffled": c.shuffled} for name, c in agreed.items()},
        "clips": [
            {
                "clip": indices[int(item.name)],
                "material": true[int(item.name)].scene.material,
                **{name: round(float(rows[item.name][name]), 4) for name in CLIP_METRICS},
                "seen": NAMES[int(item.features["hits_seen"].argmax())],
                "heard": NAMES[int(item.features["hits_heard"].argmax())],
                "asked": true[int(item.name)].said.count,
                "onsets": len(item.onsets_s),
                "strikes": len(item.strikes_s),
            }
            for item in scored
        ],
    }


def _distances(clips: Sequence[ClipEvents], reference: Sequence[ClipEvents]) -> dict[str, Any]:
    found = distances(Sample(clips, reference, {}, "", Consent()), DISTANCES)
    return {name: {"frechet": d.frechet, "kernel": d.kernel} for name, d in found.items()}


def material_accuracy(clips: Sequence[dict[str, Any]], side: str) -> float | None:
    """Fraction of clips whose material, "seen" or "heard", is the prompt's; None if it was not classified."""
    judged = [clip[side] == clip["material"] for clip in clips if side in clip]
    return float(np.mean(judged)) if judged else None


def count_accuracy(clips: Sequence[dict[str, Any]]) -> float | None:
    """Fraction of clips with exactly the right number of strikes, in both video and audio.

    Only clips whose prompt names a number count.
    """
    asked = [clip for clip in clips if clip.get("asked") is not None]
    if not asked:
        return None
    return float(np.mean([clip["asked"] == clip["onsets"] == clip["strikes"] for clip in asked]))


def exact_counts(clips: Sequence[dict[str, Any]], side: Literal["onsets", "strikes"]) -> list[bool]:
    """For each clip whose prompt names a number of strikes: whether it has exactly so many, heard or seen."""
    return [clip["asked"] == clip[side] for clip in clips if clip.get("asked") is not None]


def _plain(control: Control) -> dict[str, Any]:
    return {
        "value": control.value,
        "shuffled": control.shuffled,
        "above": control.above,
        "n": control.n,
    }


@lru_cache(maxsize=2)
def _reference(
    domain: str, split: str, indices: range, size: int, judges: str, workers: int | None
) -> tuple[ClipEvents, ...]:
    """Events and features of real clips of a domain of strikes."""
    clips = [as_clip(clip, domain) for clip in true_clips(domain, split, indices, size)]
    found = detect(clips, workers=workers, features=Extractor(hits=judges))
    return tuple(item for item in found if isinstance(item, ClipEvents))

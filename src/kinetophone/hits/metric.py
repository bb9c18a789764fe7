"""The metrics of the ``hits`` domain: distances of its classifiers' features, and material agreement."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from kinetophone.metrics.registry import Consent, Metric, Sample, Scores

if TYPE_CHECKING:
    import numpy as np

    from kinetophone.media.clip import Clip
    from kinetophone.metrics.control import Control

# FVD and FAD are metrics on I3D and VGGish, so these metrics have other names.
DISTANCES = {"hits_video": "hits-FVD", "hits_audio": "hits-FAD"}
SEEN, HEARD = "material seen is the caption's", "material heard is the caption's"


def hits_features(clip: Clip, bundle: str) -> dict[str, np.ndarray]:
    """Features of the bundle's classifiers before their last layer, and their logits.

    Returns:
        ``hits_video``, the mean over frames of the 128 pooled features (content), and the mean absolute
        change of these features between frames (motion). ``hits_audio``, the 128 features of the audio.
        ``hits_seen`` and ``hits_heard``, the logits of the materials; and, if the bundle's classifier tells
        them, ``hits_object``, ``hits_colour`` and ``hits_tool``, the logits of what is seen.
    """
    import torch

    from kinetophone.hits.classifiers import audio_input, video_input
    from kinetophone.media.mel import HOP, SAMPLE_RATE, log_mel
    from kinetophone.media.read import resample_audio
    from kinetophone.metrics.networks.transformer import as_array

    judge = _judge(bundle)
    with torch.no_grad():
        seen = judge["picture"].features(video_input(clip.video))
        sound = clip.mono
        if clip.sample_rate != SAMPLE_RATE:
            sound = resample_audio(sound, clip.sample_rate, SAMPLE_RATE)
        whole = torch.from_numpy(sound[: len(sound) // HOP * HOP])[None]
        heard = judge["sound"].features(audio_input(log_mel(whole)))
        logits_seen = judge["picture"].by_attribute(judge["picture"].head(seen).mean(0, keepdim=True))
        logits_heard = judge["sound"].head(heard)
    video = torch.cat([seen.mean(0), seen.diff(dim=0).abs().mean(0)])[None]
    return {
        "hits_video": as_array(video),
        "hits_audio": as_array(heard),
        "hits_seen": as_array(logits_seen["material"]),
        "hits_heard": as_array(logits_heard),
        **{f"hits_{name}": as_array(x) for name, x in logits_seen.items() if name != "material"},
    }


def material_agreement(sample: Sample) -> dict[str, Control]:
    """How often the materials in the video, the audio and the caption agree, pairwise.

    Clips whose caption names none of the materials are left out.
    """
    from kinetophone.hits.classifiers import NAMES, material_named
    from kinetophone.metrics.control import shuffled_control
    from kinetophone.metrics.sources import captions_of

    said = captions_of([clip.name for clip in sample.clips], sample.captions)
    materials = {name: material_named(text) for name, text in said.items()}
    known = [clip for clip in sample.clips if materials.get(clip.name) is not None]
    if not known:
        return {}
    asked = [str(materials[clip.name]) for clip in known]
    seen, heard = (
        [NAMES[int(clip.features[kind].argmax())] for clip in known] for kind in ("hits_seen", "hits_heard")
    )
    pairs = {SEEN: (seen, asked), HEARD: (heard, asked), "material seen is the one heard": (seen, heard)}
    return {
        name: shuffled_control(lambda one, other: float(one == other), *pair, sample.seed)
        for name, pair in pairs.items()
    }


@lru_cache(maxsize=2)
def _judge(bundle: str) -> Any:
    from kinetophone.hits.classifiers import load_classifiers

    return load_classifiers(bundle)


def _extract(clip: Clip, source: str, consent: Consent) -> dict[str, np.ndarray]:
    return hits_features(clip, source)


def _score(sample: Sample) -> Scores:
    from kinetophone.metrics.quality import distances

    return Scores(distances(sample, DISTANCES), material_agreement(sample) if sample.captions else {})


METRIC = Metric(
    name="hits",
    source="hits",
    load=lambda source, consent, texts: _judge(source),
    extract=_extract,
    score=_score,
    needs="either",
    of_bundle=True,
)

"""CLIP: agreement of captions with the frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kinetophone.metrics.registry import Consent, Metric, Sample, Scores

if TYPE_CHECKING:
    import numpy as np

    from kinetophone.media.clip import Clip, Frames

CLIP_FRAMES = 8  # number of evenly spaced frames that are compared with the caption


def clip_frames(frames: Frames, source: str, allow_pickle: bool = False) -> np.ndarray:
    """CLIP's unit embeddings of 8 evenly spaced frames, (8, D); fewer for a shorter clip."""
    import numpy as np
    import torch

    from kinetophone.metrics.networks.transformer import transformer, unit_norm

    model, processor = transformer(source, "get_image_features", allow_pickle)
    picked = np.unique(np.linspace(0, len(frames) - 1, CLIP_FRAMES).round().astype(int))
    inputs = processor.image_processor(list(frames[picked]), return_tensors="pt")
    with torch.no_grad():
        return unit_norm(model.get_image_features(**inputs))


def _load(source: str, consent: Consent, texts: bool) -> Any:
    from kinetophone.metrics.networks.transformer import transformer

    return transformer(source, "get_image_features", consent.pickle)


def _extract(clip: Clip, source: str, consent: Consent) -> dict[str, np.ndarray]:
    return {"clip_frames": clip_frames(clip.video, source, consent.pickle)}


def _score(sample: Sample) -> Scores:
    from kinetophone.metrics.quality import caption_agreement

    return Scores(semantics={"CLIP text-frame": caption_agreement(sample, "clip_frames")})


METRIC = Metric(
    name="clip",
    source="clip",
    source_help="CLIP model, a folder or Hub id.",
    load=_load,
    extract=_extract,
    score=_score,
    needs="captions",
)

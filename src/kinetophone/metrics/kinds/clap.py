"""CLAP: agreement of captions with the audio, and the distance of its audio embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kinetophone.metrics.registry import Consent, Metric, Sample, Scores

if TYPE_CHECKING:
    import numpy as np

    from kinetophone.media.clip import Clip

CLAP_RATE = 48_000


def clap_audio(clip: Clip, source: str, allow_pickle: bool = False) -> np.ndarray:
    """CLAP's unit embeddings of the audio, (windows, D), in windows of the model's length."""
    import torch

    from kinetophone.media.read import resample_audio
    from kinetophone.metrics.networks.transformer import transformer, unit_norm

    model, processor = transformer(source, "get_audio_features", allow_pickle)
    sound = resample_audio(clip.mono, clip.sample_rate, CLAP_RATE)
    length = processor.feature_extractor.nb_max_samples
    windows = [sound[start : start + length] for start in range(0, max(1, len(sound)), length)]
    # A short remainder is dropped: padded by repetition it would sound different.
    windows = [window for window in windows if len(window) >= length // 2] or windows[:1]
    inputs = processor.feature_extractor(windows, sampling_rate=CLAP_RATE, return_tensors="pt")
    with torch.no_grad():
        return unit_norm(model.get_audio_features(**inputs))


def _load(source: str, consent: Consent, texts: bool) -> Any:
    from kinetophone.metrics.networks.transformer import transformer

    return transformer(source, "get_audio_features", consent.pickle)


def _extract(clip: Clip, source: str, consent: Consent) -> dict[str, np.ndarray]:
    return {"clap_audio": clap_audio(clip, source, consent.pickle)}


def _score(sample: Sample) -> Scores:
    from kinetophone.metrics.quality import caption_agreement, distances

    agreed = {"CLAP text-audio": caption_agreement(sample, "clap_audio")} if sample.captions else {}
    return Scores(distances(sample, {"clap_audio": "CLAP-FAD"}), agreed)


METRIC = Metric(
    name="clap",
    source="clap",
    source_help="CLAP model, a folder or Hub id.",
    load=_load,
    extract=_extract,
    score=_score,
    needs="either",
)

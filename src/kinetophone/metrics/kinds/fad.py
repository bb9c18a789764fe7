"""FAD: Fréchet distance of VGGish embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kinetophone.metrics.registry import Consent, Metric, Sample, Scores

if TYPE_CHECKING:
    import numpy as np

    from kinetophone.media.clip import Clip

VGGISH_RATE = 16_000


def vggish_features(clip: Clip, path: str, allow_torchscript: bool = False) -> np.ndarray:
    """VGGish's embeddings of consecutive 0.96 s windows of the audio, (windows, 128).

    The network is called with log-mel examples (windows, 1, 96, 64).
    """
    import numpy as np
    import torch

    from kinetophone.media.read import resample_audio
    from kinetophone.metrics.networks.load import load
    from kinetophone.metrics.networks.transformer import as_array

    mel = vggish_log_mel(resample_audio(clip.mono, clip.sample_rate, VGGISH_RATE))
    windows = len(mel) // 96
    if not windows:
        return np.zeros((0, 0), np.float32)
    examples = torch.from_numpy(mel[: 96 * windows].reshape(windows, 1, 96, 64))
    with torch.no_grad():
        return as_array(load(path, "vggish", allow_torchscript=allow_torchscript)(examples))


def vggish_log_mel(waveform: np.ndarray) -> np.ndarray:
    """The input of VGGish (Hershey et al. 2017) for a waveform (N,) at 16 kHz.

    Magnitude spectra of 25 ms periodic Hann windows every 10 ms, starting at the first sample, without
    padding. 64 triangular filters, evenly spaced in mel (1127 ln(1 + f / 700)) from 125 to 7500 Hz, without
    the DC component. Then ln(x + 0.01).

    Returns:
        float32 (frames, 64).
    """
    import numpy as np

    window, hop, bins = 400, 160, 512
    if len(waveform) < window:
        return np.zeros((0, 64), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(waveform.astype(np.float64), window)[::hop]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    magnitudes = np.abs(np.fft.rfft(frames * hann, bins))
    mel = 1127 * np.log1p(np.linspace(0, VGGISH_RATE / 2, bins // 2 + 1) / 700)[:, None]
    edges = np.linspace(1127 * np.log1p(125 / 700), 1127 * np.log1p(7500 / 700), 66)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    weights = np.maximum(0.0, np.minimum((mel - low) / (centre - low), (high - mel) / (high - centre)))
    weights[0] = 0.0
    return np.log(magnitudes @ weights + 0.01).astype(np.float32)


def _load(source: str, consent: Consent, texts: bool) -> Any:
    from kinetophone.metrics.networks.load import load

    return load(source, "vggish", allow_torchscript=consent.torchscript)


def _extract(clip: Clip, source: str, consent: Consent) -> dict[str, np.ndarray]:
    return {"vggish": vggish_features(clip, source, consent.torchscript)}


def _score(sample: Sample) -> Scores:
    from kinetophone.metrics.quality import distances

    return Scores(distances=distances(sample, {"vggish": "FAD"}))


METRIC = Metric(
    name="fad",
    source="vggish",
    source_help="VGGish for fad, as for --i3d.",
    load=_load,
    extract=_extract,
    score=_score,
    needs="reference",
)

"""Log-mel spectrograms as AudioLDM's autoencoder and vocoder expect them.

Shapes: waveform ``(B, N)`` in [-1, 1] at 16 kHz; log-mel ``(B, N // 160, 64)``, the natural logarithm of the
magnitude mel spectrogram, clamped below at 1e-5.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

SAMPLE_RATE = 16_000
HOP = 160
WINDOW = 1024
MEL_BINS = 64
FLOOR = 1e-5


@lru_cache(maxsize=1)
def _filters() -> Tensor:
    from transformers.audio_utils import mel_filter_bank

    bank = mel_filter_bank(
        num_frequency_bins=WINDOW // 2 + 1, num_mel_filters=MEL_BINS, min_frequency=0.0, max_frequency=8000.0,
        sampling_rate=SAMPLE_RATE, norm="slaney", mel_scale="slaney",
    )  # fmt: skip
    return torch.from_numpy(bank).float()


def log_mel(waveform: Tensor) -> Tensor:
    """Log-mel spectrogram of ``waveform``, float (B, N), with N a multiple of 160.

    Returns:
        float32 (B, N // 160, 64).

    Raises:
        ValueError: The waveform has another shape.
    """
    if waveform.ndim != 2 or waveform.shape[1] % HOP:
        raise ValueError(f"waveform must be (B, N) with N a multiple of {HOP}, got {tuple(waveform.shape)}")
    window = torch.hann_window(WINDOW, device=waveform.device)
    spectrum = torch.stft(
        waveform.float(), WINDOW, HOP, window=window, center=True, return_complex=True
    ).abs()
    mel = spectrum[..., : waveform.shape[1] // HOP].transpose(1, 2) @ _filters().to(waveform.device)
    return mel.clamp(min=FLOOR).log()

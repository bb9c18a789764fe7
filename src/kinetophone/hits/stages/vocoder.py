"""The vocoder: a small HiFi-GAN generator (``SpeechT5HifiGan``), log-mel to waveform.

It is trained on spectral distances at several resolutions, without discriminators. This converges within
minutes on a CPU, and costs little quality for the sounds of these clips, strikes that ring and decay.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinetophone.hub.components import load_component
from kinetophone.media.mel import HOP, SAMPLE_RATE, log_mel
from kinetophone.training.clips import load_clips
from kinetophone.training.recipe import Recipe
from kinetophone.training.samples import save_wav

_RESOLUTIONS = (128, 512, 2048)
AUDIBLE = -8.0  # log-mel above the recordings' noise floor


def spectral_distance(y: Tensor, x: Tensor) -> Tensor:
    """Multi-resolution STFT distance of waveforms (B, N), log and linear magnitudes (arXiv 1910.11480)."""
    total = y.new_zeros(())
    for window in _RESOLUTIONS:
        hann = torch.hann_window(window, device=x.device)
        a, b = (torch.stft(v, window, window // 4, window=hann, return_complex=True).abs() for v in (y, x))
        log = (a.clamp(min=1e-4).log() - b.clamp(min=1e-4).log()).abs().mean()
        linear = (a - b).norm(dim=(1, 2)) / b.norm(dim=(1, 2)).clamp(min=1e-3)
        total = total + log + linear.mean()
    return total / len(_RESOLUTIONS)


class VocoderStage:
    """Trains on crops of ``CROP`` mel frames around strikes, with their waveforms."""

    CROP = 64

    def __init__(self, recipe: Recipe) -> None:
        from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

        self.recipe = recipe
        self.clips = load_clips(recipe)
        if recipe.continued:
            self.vocoder = load_component(Path(recipe.bundle) / "audio", "vocoder")
        else:
            self.vocoder = SpeechT5HifiGan(SpeechT5HifiGanConfig(**recipe.model))
            mel = torch.from_numpy(self.clips.mel[:100].astype(np.float32))
            self.vocoder.mean.copy_(mel.mean((0, 1)))
            self.vocoder.scale.copy_(mel.std((0, 1)).clamp(min=0.5))
        self.trained: dict[str, nn.Module] = {"vocoder": self.vocoder}

    def _batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        mels, waves = [], []
        for _ in range(self.recipe.loop.batch_size):
            i = int(rng.integers(len(self.clips)))
            last = self.clips.mel.shape[1] - self.CROP
            strike = rng.choice(self.clips.moments_s(i)) * SAMPLE_RATE / HOP
            start = int(np.clip(strike - rng.uniform(-0.3, 0.8) * self.CROP, 0, last))
            mels.append(self.clips.mel[i, start : start + self.CROP])
            waves.append(self.clips.audio[i, start * HOP : (start + self.CROP) * HOP])
        mel = torch.from_numpy(np.stack(mels)).float()
        return mel, torch.from_numpy(np.stack(waves)).float() / 32767

    def loss(self, rng: np.random.Generator, generator: torch.Generator) -> dict[str, Tensor]:
        mel, x = self._batch(rng)
        y = self.vocoder(mel)
        spectral = spectral_distance(y, x)
        a, b = log_mel(y), log_mel(x)
        mel_loss = F.l1_loss(a, b)
        # Most of a clip is noise floor, whose error cannot be reduced, so audible parts get extra weight.
        audible = F.l1_loss(a.clamp(min=AUDIBLE), b.clamp(min=AUDIBLE))
        return {
            "loss": spectral + mel_loss + 3 * audible,
            "spectral": spectral,
            "mel": mel_loss,
            "audible": audible,
        }

    def sample(self, folder: Path, step: int) -> None:
        for i in range(4):
            y = self.vocoder(torch.from_numpy(np.array(self.clips.mel[i])).float()[None])[0]
            save_wav(y, folder / f"sample-{step}-{i}.wav")

    def export(self) -> None:
        self.vocoder.save_pretrained(Path(self.recipe.bundle) / "audio" / "vocoder")

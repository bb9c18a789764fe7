"""The transformer audio base, in the classes of Stable Audio: a waveform autoencoder, then v prediction.

Shapes: waveforms (B, 1, N) in [-1, 1]; latents (B, C, L).
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import StableAudioDiTModel
from diffusers.pipelines.stable_audio import StableAudioProjectionModel
from torch import Tensor, nn

from kinetophone.bases.autoencoders import SpectralAutoencoder
from kinetophone.bases.stable_audio import StableAudio
from kinetophone.data.domains import domain
from kinetophone.hits.stages.transformer import TransformerStage
from kinetophone.hits.stages.vocoder import AUDIBLE
from kinetophone.hits.stages.wan import SCALE_WEIGHT
from kinetophone.hub.components import StoredScheduler, load_component
from kinetophone.training.clips import load_clips
from kinetophone.training.recipe import Recipe
from kinetophone.training.samples import mel_image, save_wav

_STEPS = 16  # latent steps of a crop
_WINDOW = 1024  # of the log-mel
# Small latents need less noise to lose their meaning than those of the published model (0.3 to 500), and the
# autoencoder decodes latents with a tenth of noise well.
SCHEDULE = {
    "_class_name": "CosineDPMSolverMultistepScheduler",
    "prediction_type": "v_prediction",
    "sigma_data": 1.0,
    "sigma_min": 0.1,
    "sigma_max": 100.0,
}


class WaveformAutoencoder:
    """Trains on crops of the waveform; three quarters of them contain a strike."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.clips = load_clips(recipe)
        self.rate = domain(recipe.data.source).SAMPLE_RATE
        self.vae: Any = (
            load_component(Path(recipe.bundle) / "audio", "vae", StableAudio.COMPONENTS["vae"])
            if recipe.continued
            else SpectralAutoencoder(**recipe.model)
        )
        self.trained: dict[str, nn.Module] = {"vae": self.vae}
        self.noise = recipe.options.latent_noise

    def _batch(self, rng: np.random.Generator, size: int, steps: int = _STEPS) -> Tensor:
        length = steps * self.vae.hop_length
        crops = []
        for _ in range(size):
            i = int(rng.integers(len(self.clips)))
            last = self.clips.audio.shape[1] - length
            start, strikes = int(rng.integers(last + 1)), self.clips.moments_s(i)
            if strikes and rng.random() < 0.75:
                start = int(np.clip(rng.choice(strikes) * self.rate - rng.uniform(0, 0.8) * length, 0, last))
            crops.append(self.clips.audio[i, start : start + length])
        return torch.from_numpy(np.stack(crops)).float()[:, None] / 32767

    def loss(self, rng: np.random.Generator, generator: torch.Generator) -> dict[str, Tensor]:
        x = self._batch(rng, self.recipe.loop.batch_size)
        posterior = self.vae.encode(x).latent_dist
        z = posterior.mode()
        y = self.vae.decode(z + self.noise * torch.randn(z.shape, generator=generator)).sample.float()
        z, x, y = z.float(), x[:, 0], y[:, 0]
        spectral = _spectral_distance(y, x)
        wave = (y - x).abs().mean()
        a, b = (_log_mel(v, self.rate).clamp(min=AUDIBLE) for v in (y, x))
        audible = (a - b).abs().mean()
        # Keeps the latents at unit scale, so that the noise above has a defined level.
        scale = z.square().mean()
        told = (posterior.std.float() - self.noise).square().mean()
        loss = spectral + audible + 2 * wave + SCALE_WEIGHT * scale.log().square() + 0.1 * told
        return {"loss": loss, "spectral": spectral, "audible": audible, "wave": wave, "scale": scale}

    def sample(self, folder: Path, step: int) -> None:
        x = self._batch(np.random.default_rng(0), 6, 64)
        y = self.vae.decode(self.vae.encode(x).latent_dist.mode()).sample
        _show(torch.cat([x, y])[:, 0], self.rate, folder / f"sample-{step}")

    def export(self) -> None:
        self.vae.save_pretrained(Path(self.recipe.bundle) / "audio" / "vae")


class StableAudioStage(TransformerStage):
    """Trains v prediction on latents of whole clips.

    The projection model, which tells the seconds, keeps its random weights: all clips are of one length.
    """

    modality, family, network = "audio", StableAudio, StableAudioDiTModel
    scheduler = StoredScheduler(SCHEDULE)

    def __init__(self, recipe: Recipe) -> None:
        folder = Path(recipe.bundle) / "audio"
        if not (folder / "projection_model").is_dir():
            encoder = load_component(folder, "text_encoder", StableAudio.COMPONENTS["text_encoder"])
            width = encoder.config.d_model
            project = StableAudioProjectionModel(
                text_encoder_dim=width, conditioning_dim=width, min_value=0, max_value=8
            )
            project.save_pretrained(folder / "projection_model")
        super().__init__(recipe)

    def show(self, latents: Tensor, path: Path) -> None:
        sound = self.base.decode(latents, self.base.sample_length(latents.shape[2]))
        _show(torch.from_numpy(sound), self.base.sample_rate, path)


def _spectral_distance(y: Tensor, x: Tensor) -> Tensor:
    """Multi-resolution STFT distance (arXiv 1910.11480) of batches (B, N).

    The linear part is relative to the whole batch, because some crops are silent.
    """
    total = y.new_zeros(())
    for window in (128, 512, 2048):
        hann = torch.hann_window(window, device=x.device)
        a, b = (torch.stft(v, window, window // 4, window=hann, return_complex=True).abs() for v in (y, x))
        log = (a.clamp(min=1e-3).log() - b.clamp(min=1e-3).log()).abs().mean()
        total = total + log + (a - b).norm() / b.norm()
    return total / 3


@lru_cache(maxsize=1)
def _filters(rate: int) -> Tensor:
    from transformers.audio_utils import mel_filter_bank

    bank = mel_filter_bank(
        num_frequency_bins=_WINDOW // 2 + 1, num_mel_filters=64, min_frequency=0.0, max_frequency=rate / 2,
        sampling_rate=rate, norm="slaney", mel_scale="slaney",
    )  # fmt: skip
    return torch.from_numpy(bank).float()


def _log_mel(sound: Tensor, rate: int) -> Tensor:
    """Log-mel (B, frames, 64) of waveforms (B, N), every 10 ms."""
    hann = torch.hann_window(_WINDOW, device=sound.device)
    magnitude = torch.stft(sound, _WINDOW, rate // 100, window=hann, return_complex=True).abs()
    return (magnitude.transpose(1, 2) @ _filters(rate)).clamp(min=1e-5).log()


def _show(sound: Tensor, rate: int, path: Path) -> None:
    """Write waveforms (B, N) one after the other as a WAV file, and their log-mels as a picture."""
    save_wav(sound.flatten(), path.with_suffix(".wav"), rate)
    cv2.imwrite(str(path.with_suffix(".png")), mel_image(_log_mel(sound, rate)))

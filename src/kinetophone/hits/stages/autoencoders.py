"""The two autoencoder stages: frames to video latents, log-mel to audio latents.

Both are trained briefly and then frozen. Noise on the latents during training makes the decoder robust to the
residual noise of a diffusion model.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderDC, AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from kinetophone.hub.components import load_component
from kinetophone.training.clips import draw_frame, load_clips
from kinetophone.training.recipe import Recipe
from kinetophone.training.samples import mel_image, save_strips


def edges(x: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbouring pixels of ``x`` (..., H, W), vertical and horizontal."""
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


class VideoAutoencoder:
    """Trains on frames (B, 3, S, S) in [-1, 1]; half of them are within a frame of a strike."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.clips = load_clips(recipe)
        # Its stem folds pixels into channels, because at full resolution memory bandwidth limits a CPU.
        # At 64 px on two cores it trains on 50 images/s, an AutoencoderKL of the same size on 10 (see
        # docs/experiments.md).
        vae = (
            load_component(Path(recipe.bundle) / "video", "vae")
            if recipe.continued
            else AutoencoderDC(**recipe.model)
        )
        self.vae = vae.to(memory_format=torch.channels_last)
        self.trained = {"vae": self.vae}
        self.noise = recipe.options.latent_noise

    def _batch(self, rng: np.random.Generator) -> Tensor:
        frames = []
        for _ in range(self.recipe.loop.batch_size):
            i = int(rng.integers(len(self.clips)))
            k = draw_frame(self.clips, i, rng)
            frames.append(self.clips.video[i, k])
        x = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
        return x.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)

    def loss(self, rng: np.random.Generator, generator: torch.Generator) -> dict[str, Tensor]:
        x = self._batch(rng)
        z = self.vae.encode(x).latent
        noisy = z + self.noise * torch.randn(z.shape, generator=generator)
        y = self.vae.decode(noisy).sample
        mae = (y - x).abs().mean()
        edge = sum((a - b).abs().mean() for a, b in zip(edges(y), edges(x), strict=True))
        mse = (y - x).square().mean()
        # Keeps the latents at unit scale, so that the noise above has a defined level.
        scale = z.square().mean()
        loss = mae + edge + 2 * mse + 0.02 * F.relu(scale - 1)
        return {"loss": loss, "psnr": 10 * torch.log10(4 / mse.detach()), "scale": scale}

    def sample(self, folder: Path, step: int) -> None:
        x = self._batch(np.random.default_rng(0))[:12]
        y = self.vae.decode(self.vae.encode(x).latent).sample.clamp(-1, 1)
        save_strips(torch.stack([x, y]), folder / f"sample-{step}.png", scale=2)

    def export(self) -> None:
        with torch.no_grad():
            z = self.vae.encode(self._batch(np.random.default_rng(1))).latent
        self.vae.register_to_config(scaling_factor=round(1 / float(z.std()), 4))
        self.vae.save_pretrained(Path(self.recipe.bundle) / "video" / "vae")


class AudioAutoencoder:
    """Trains on crops of log-mel (B, 1, frames, 64), which are around strikes more often than elsewhere."""

    CROP = 96

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.clips = load_clips(recipe)
        if recipe.continued:
            vae = load_component(Path(recipe.bundle) / "audio", "vae")
        else:
            vae = AutoencoderKL(**recipe.model)
            # Start at the mean log-mel: from 0, AdamW would need a thousand steps to get there.
            nn.init.constant_(vae.decoder.conv_out.bias, float(self.clips.mel[:50].mean()))
        self.vae = vae.to(memory_format=torch.channels_last)
        self.trained = {"vae": self.vae}

    def _batch(self, rng: np.random.Generator, crop: int | None = None) -> Tensor:
        crop = crop or self.CROP
        mels = []
        for _ in range(self.recipe.loop.batch_size):
            i = int(rng.integers(len(self.clips)))
            start = int(rng.integers(0, self.clips.mel.shape[1] - crop + 1))
            if rng.random() < 0.5:
                strike = rng.choice(self.clips.moments_s(i)) * 100
                start = int(np.clip(strike - rng.uniform(0.1, 0.9) * crop, 0, self.clips.mel.shape[1] - crop))
            mels.append(self.clips.mel[i, start : start + crop])
        x = torch.from_numpy(np.stack(mels)).float()[:, None]
        return x.contiguous(memory_format=torch.channels_last)

    def loss(self, rng: np.random.Generator, generator: torch.Generator) -> dict[str, Tensor]:
        x = self._batch(rng)
        posterior = self.vae.encode(x).latent_dist
        y = self.vae.decode(posterior.sample(generator=generator)).sample
        mae = (y - x).abs().mean()
        edge = sum((a - b).abs().mean() for a, b in zip(edges(y), edges(x), strict=True))
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return {"loss": mae + 0.5 * edge + 0.01 * kl, "mae": mae, "kl": kl}

    def sample(self, folder: Path, step: int) -> None:
        x = self._batch(np.random.default_rng(0), crop=400)[:4]
        y = self.vae.decode(self.vae.encode(x).latent_dist.mode()).sample
        picture = np.concatenate([mel_image(torch.cat(list(v[:, 0]))[None]) for v in (x, y)])
        cv2.imwrite(str(folder / f"sample-{step}.png"), picture)

    def export(self) -> None:
        with torch.no_grad():
            z = self.vae.encode(self._batch(np.random.default_rng(1), crop=400)).latent_dist.mode()
        self.vae.register_to_config(scaling_factor=round(1 / float(z.std()), 4))
        self.vae.save_pretrained(Path(self.recipe.bundle) / "audio" / "vae")

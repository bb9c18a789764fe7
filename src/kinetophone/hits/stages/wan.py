"""The transformer video base, in the classes of Wan: a flow on the latents of a causal autoencoder.

Shapes: frames (B, 3, T, S, S) in [-1, 1]; latents (B, C, T', h, w), normalised.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from torch import Tensor, nn
from torch.nn import functional as F

from kinetophone.bases.autoencoders import PatchAutoencoder
from kinetophone.bases.causal import decode_causal, encode_causal
from kinetophone.bases.wan import Wan
from kinetophone.hits.stages.autoencoders import edges
from kinetophone.hits.stages.transformer import TransformerStage
from kinetophone.hub.components import load_component
from kinetophone.training.clips import load_clips
from kinetophone.training.recipe import Recipe
from kinetophone.training.samples import save_strips

CHANGE_WEIGHT = 10.0  # of errors where the true frame differs from the one before it, per unit of difference
SCALE_WEIGHT = 0.1  # of the squared logarithm of the latents' mean square
STRUCK = 0.15  # change of a pixel between two frames from which it counts as struck
SHIFT = 3.0  # of the noise schedule, that of the published model at 480p


class CausalAutoencoder:
    """Trains on crops of clips; three quarters of them contain a strike."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.clips = load_clips(recipe)
        self.vae: Any = (
            load_component(Path(recipe.bundle) / "video", "vae", Wan.COMPONENTS["vae"])
            if recipe.continued
            else PatchAutoencoder(**recipe.model)
        )
        self.trained: dict[str, nn.Module] = {"vae": self.vae}
        self.noise, self.frames = recipe.options.latent_noise, recipe.options.frames

    def _batch(self, rng: np.random.Generator, size: int) -> Tensor:
        crops = []
        for _ in range(size):
            i = int(rng.integers(len(self.clips)))
            last = self.clips.video.shape[1] - self.frames
            start, strikes = int(rng.integers(last + 1)), self.clips.moments_s(i)
            if strikes and rng.random() < 0.7:
                frame = round(rng.choice(strikes) * self.clips.fps)
                start = int(np.clip(frame - rng.integers(self.frames), 0, last))
            crops.append(self.clips.video[i, start : start + self.frames])
        x = torch.from_numpy(np.stack(crops)).permute(0, 4, 1, 2, 3)
        return x.float().div(127.5).sub(1)

    def loss(self, rng: np.random.Generator, generator: torch.Generator) -> dict[str, Tensor]:
        x = self._batch(rng, self.recipe.loop.batch_size)
        z, log_variance = encode_causal(self.vae, x)
        noise = torch.randn(z.shape, generator=generator)
        y = decode_causal(self.vae, z + self.noise * noise).float()
        # A strike is a few pixels of a few frames; without a weight it is learned last.
        change = F.pad(x.diff(dim=2).abs().mean(1, keepdim=True), (0, 0, 0, 0, 1, 0))
        weight = 1 + CHANGE_WEIGHT * change
        error = (y - x).square()
        edge = sum((a - b).abs().mean() for a, b in zip(edges(y), edges(x), strict=True))
        # Keeps the latents at unit scale, so that the noise above has a defined level.
        scale = z.float().square().mean()
        told = (log_variance.float() - 2 * np.log(self.noise)).square().mean()
        loss = ((y - x).abs() * weight).mean() + edge + 2 * (error * weight).mean()
        loss = loss + SCALE_WEIGHT * scale.log().square() + 0.01 * told
        struck = change.expand_as(error) > STRUCK
        return {
            "loss": loss,
            "psnr": _decibels(error.mean()),
            "psnr where struck": _decibels(error[struck].mean() if struck.any() else error.mean()),
            "scale": scale,
        }

    def sample(self, folder: Path, step: int) -> None:
        x = self._batch(np.random.default_rng(0), 6)
        y = decode_causal(self.vae, encode_causal(self.vae, x)[0]).clamp(-1, 1)
        rows = torch.stack([x, y], dim=1).flatten(0, 1).transpose(1, 2)
        save_strips(rows, folder / f"sample-{step}.png")

    @torch.no_grad()
    def export(self) -> None:
        z, _ = encode_causal(self.vae, self._batch(np.random.default_rng(1), 64))
        mean, deviation = z.mean((0, 2, 3, 4)), z.std((0, 2, 3, 4))
        self.vae.register_to_config(
            latents_mean=[round(float(v), 5) for v in mean],
            latents_std=[round(float(v), 5) for v in deviation],
        )
        self.vae.save_pretrained(Path(self.recipe.bundle) / "video" / "vae")


def _decibels(error: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of a mean squared error of pixels in [-1, 1]."""
    return 10 * torch.log10(4 / error.detach())


class WanStage(TransformerStage):
    """Trains the flow on latents of whole clips."""

    modality, family, network = "video", Wan, WanTransformer3DModel
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)

    def show(self, latents: Tensor, path: Path) -> None:
        frames = torch.from_numpy(self.base.decode(latents)[:, ::2])
        save_strips(frames.permute(0, 1, 4, 2, 3).float().div(127.5).sub(1), path.with_suffix(".png"))

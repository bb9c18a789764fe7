"""What the stages of both bases share: frozen parts, latents of the clips, and the prediction of noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinetophone.av import AV
from kinetophone.data.latents import LatentArrays, load_latents
from kinetophone.diffusion.process import Discrete, Process
from kinetophone.diffusion.signal_leak import SignalLeak
from kinetophone.hub.components import load_component
from kinetophone.training.clips import load_clips
from kinetophone.training.diffusion import (
    WHOLE,
    drop_texts,
    make_scheduler,
    min_snr,
    noise_loss,
    plain_attention,
    sample_base,
    save_memory,
    save_scheduler,
    standard_normal,
)
from kinetophone.training.recipe import Recipe


class PredictionStage:
    """The loss of a diffusion model on clean latents (N, C, …), and its samples."""

    recipe: Recipe
    device: torch.device
    latents: LatentArrays
    clean: np.ndarray

    @property
    def _process(self) -> Process:
        """The noise process of the base."""
        raise NotImplementedError

    def _text(self, texts: list[str]) -> Any:
        """Conditioning of the base's network."""
        raise NotImplementedError

    def _predict(self, x: Tensor, level: Tensor, text: Any) -> Tensor:
        """Output of the network for latents ``x`` at levels (B,)."""
        raise NotImplementedError

    def _drawn(self, rng: np.random.Generator, index: np.ndarray, part: slice) -> np.ndarray:
        """Latents of the clips in ``index``, of the batch's ``part`` alone."""
        return self.clean[index[part]]

    def _error(self, output: Tensor, target: Tensor, level: Tensor) -> Tensor:
        return F.mse_loss(output.float(), target)

    def loss(
        self, rng: np.random.Generator, generator: torch.Generator, part: slice = WHOLE
    ) -> dict[str, Tensor]:
        """The loss of a batch, or of a ``part`` of it."""
        batch = self.recipe.loop.batch_size
        index, texts = self.latents.draw(rng, batch)
        drawn = self._drawn(rng, index, part)
        texts = drop_texts(texts, rng, self.recipe.options.text_dropout)[part]
        x = torch.from_numpy(drawn).float().to(self.device)
        level = self._process.draw(batch, generator)[part]
        noise = standard_normal(x, batch, part, generator)
        xt = self._process.noised(x, noise, level)
        output = self._predict(xt, level, self._text(texts))
        return {"loss": self._error(output, self._process.target(x, noise, level), level)}

    def _samples(self, prompts: list[str], shape: tuple[int, ...], guidance_scale: float = 1.0) -> Tensor:
        """Latents of ``shape`` sampled for each prompt, (B, *shape)."""
        text = self._text(prompts)
        empty = None if guidance_scale == 1 else self._text([""] * len(prompts))

        def predict(x: Tensor, level: Tensor) -> Tensor:
            output = self._predict(x.to(self.device), level, text)
            if empty is not None:
                free = self._predict(x.to(self.device), level, empty)
                output = free + guidance_scale * (output - free)
            return output.cpu()

        return sample_base(predict, (len(prompts), *shape), self._process)


class LatentStage:
    """A stage on the latents of one modality: its autoencoder, text model, clips and noise schedule.

    Attributes:
        modality: "audio" or "video".
    """

    modality: ClassVar[str]

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.bundle = recipe, Path(recipe.bundle)
        self.device = torch.device(recipe.loop.device)
        self.vae, self.tokenizer, text_encoder = (
            load_component(self.bundle / self.modality, name) for name in ("vae", "tokenizer", "text_encoder")
        )
        self.text_encoder = text_encoder.to(self.device)
        self.clips = load_clips(recipe)
        vaes = AV.both(None).replaced(self.modality, self.vae)
        self.latents = load_latents(self.clips, recipe.data.split, Path(recipe.data.cache), vaes)
        self.clean = getattr(self.latents, self.modality)
        self.process = Discrete.from_scheduler(make_scheduler(self.modality))
        save_scheduler(self.modality, self.bundle)


class NoiseStage(LatentStage, PredictionStage):
    """A stage that trains a U-Net to predict the noise in latents (B, C, …)."""

    def _train(self, unet: Any) -> None:
        """Make ``unet`` the network that is trained."""
        self.unet: Any = unet.to(self.device)
        plain_attention(self.unet)
        if self.recipe.loop.gradient_checkpointing:
            save_memory([self.unet])
        self.trained: dict[str, nn.Module] = {"unet": self.unet}

    @property
    def _process(self) -> Process:
        return self.process

    def _error(self, output: Tensor, target: Tensor, level: Tensor) -> Tensor:
        return noise_loss(output, target, min_snr(self.process, level, self.recipe.options.snr_gamma))

    def export(self) -> None:
        """Save the network and the mean of its clips' latents into the bundle."""
        self.unet.save_pretrained(self.bundle / self.modality / "unet")
        SignalLeak.of(self.clean).save(self.bundle / self.modality)

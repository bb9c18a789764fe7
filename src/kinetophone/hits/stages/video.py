"""The video base, trained as AnimateDiff was: an image model on frames, then motion modules on clips.

Shapes: frame latents (B, C, h, w); clip latents (B, C, T, h, w).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from torch import Tensor
from torch.nn import functional as F

from kinetophone.bases.computing import decode_latents, tokenize
from kinetophone.bases.unet import VideoUNet
from kinetophone.hits.stages.diffusion import LatentStage, NoiseStage
from kinetophone.hub.components import load_component
from kinetophone.training.diffusion import channels_last, sample_prompts
from kinetophone.training.recipe import Recipe
from kinetophone.training.samples import save_strips


class VideoStage(LatentStage):
    """Base of the stages on video latents."""

    modality = "video"

    @torch.no_grad()
    def _text(self, texts: list[str]) -> Tensor:
        ids = tokenize(self.tokenizer, texts, self.device)["input_ids"]
        return self.text_encoder(input_ids=ids).last_hidden_state

    def _sheet(self, latents: Tensor, path: Path, columns: int) -> None:
        """Write decoded latents (B, C, T, h, w) as an image, each clip as a row of ``columns`` frames."""
        frames = decode_latents(self.vae, latents.cpu().transpose(1, 2).flatten(0, 1))
        save_strips(frames.unflatten(0, (latents.shape[0], -1))[:, :columns], path)


class ImageStage(VideoStage, NoiseStage):
    """Trains a text-to-image model (``UNet2DConditionModel``) on frames; strikes are drawn more often."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self._train(channels_last(UNet2DConditionModel(**recipe.model)))

    def _drawn(self, rng: np.random.Generator, index: np.ndarray, part: slice) -> np.ndarray:
        """One frame of each clip."""
        frames, last = [], self.clean.shape[2] - 1
        for i in index:
            k = int(rng.integers(last + 1))
            if rng.random() < 0.3:
                k = min(round(rng.choice(self.latents.strikes_s[i]) * 8), last)
            frames.append(self.clean[i][:, k])
        return np.stack(frames[part])

    def _error(self, eps: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        return F.mse_loss(eps.float(), noise)

    def _predict(self, x: Tensor, level: Tensor, text: Tensor) -> Tensor:
        time = self.process.network_time(level).to(self.device)
        x = x.contiguous(memory_format=torch.channels_last)
        return self.unet(x, time, encoder_hidden_states=text).sample

    def sample(self, folder: Path, step: int) -> None:
        prompts = [p for p in sample_prompts(self.recipe.data.source) for _ in range(2)]
        z = self._samples(prompts, (self.clean.shape[1], *self.clean.shape[3:]))
        self._sheet(z.unflatten(0, (2, -1)).transpose(1, 2), folder / f"sample-{step}.png", len(prompts) // 2)

    def export(self) -> None:
        self.unet.save_pretrained(self.bundle / "video" / "image_unet")


class MotionStage(VideoStage, NoiseStage):
    """Trains a ``UNetMotionModel`` on entire clips, starting from the image model."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        unet = load_component(self.bundle / "video", "unet") if recipe.continued else self._from_image_model()
        if recipe.options.train == "motion":
            unet.freeze_unet2d_params()
        else:  # torch 2.13 crashes on a CPU in the backward pass through frozen channels-last convolutions
            unet = channels_last(unet)
        self._train(unet)

    def _from_image_model(self) -> UNetMotionModel:
        image = UNet2DConditionModel.from_pretrained(self.bundle / "video" / "image_unet")
        adapter = MotionAdapter(
            block_out_channels=image.config.block_out_channels,
            motion_layers_per_block=image.config.layers_per_block,
            **self.recipe.model,
        )
        return UNetMotionModel.from_unet2d(image, adapter)

    def _predict(self, x: Tensor, level: Tensor, text: Tensor) -> Tensor:
        return VideoUNet(self.unet, self.process)(x, level, text)

    def sample(self, folder: Path, step: int) -> None:
        z = self._samples(sample_prompts(self.recipe.data.source), self.clean.shape[1:])
        self._sheet(z, folder / f"sample-{step}.png", 32)

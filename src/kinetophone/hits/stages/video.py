"""The video base, trained as AnimateDiff was: an image model on frames, then motion modules on clips.

Shapes: frame latents (B, C, h, w); clip latents (B, C, T, h, w).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from torch import Tensor, nn
from torch.nn import functional as F

from kinetophone.bases.computing import decode_latents, tokenize
from kinetophone.bases.unet import VideoUNet
from kinetophone.data.latents import load_latents
from kinetophone.diffusion.process import Discrete
from kinetophone.diffusion.signal_leak import SignalLeak
from kinetophone.hub.components import load_component
from kinetophone.training.clips import load_clips
from kinetophone.training.diffusion import (
    SAMPLE_PROMPTS,
    WHOLE,
    channels_last,
    drop_texts,
    make_scheduler,
    min_snr,
    noise_loss,
    plain_attention,
    sample_base,
    sample_prompts,
    save_memory,
    save_scheduler,
    standard_normal,
)
from kinetophone.training.recipe import Recipe
from kinetophone.training.samples import save_strips


class VideoStage:
    """Base of the stages on video latents: autoencoder, text model, clips, latents and noise schedule."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.bundle = recipe, Path(recipe.bundle)
        self.device = torch.device(recipe.loop.device)
        self.vae, self.tokenizer, text_encoder = (
            load_component(self.bundle / "video", name) for name in ("vae", "tokenizer", "text_encoder")
        )
        self.text_encoder = text_encoder.to(self.device)
        self.clips = load_clips(recipe)
        self.latents = load_latents(self.clips, recipe.data.split, Path(recipe.data.cache), self.vae, None)
        self.process = Discrete.from_scheduler(make_scheduler("video"))
        save_scheduler("video", self.bundle)

    @torch.no_grad()
    def _text(self, texts: list[str]) -> Tensor:
        ids = tokenize(self.tokenizer, texts, self.device)["input_ids"]
        return self.text_encoder(input_ids=ids).last_hidden_state

    def _sheet(self, latents: Tensor, path: Path, columns: int) -> None:
        """Write decoded latents (B, C, T, h, w) as an image, each clip as a row of ``columns`` frames."""
        frames = decode_latents(self.vae, latents.cpu().transpose(1, 2).flatten(0, 1))
        save_strips(frames.unflatten(0, (latents.shape[0], -1))[:, :columns], path)


class ImageStage(VideoStage):
    """Trains a text-to-image model (``UNet2DConditionModel``) on frames; strikes are drawn more often."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.unet: Any = channels_last(UNet2DConditionModel(**recipe.model)).to(self.device)
        plain_attention(self.unet)
        if recipe.loop.gradient_checkpointing:
            save_memory([self.unet])
        self.trained: dict[str, nn.Module] = {"unet": self.unet}

    def loss(
        self, rng: np.random.Generator, generator: torch.Generator, part: slice = WHOLE
    ) -> dict[str, Tensor]:
        options, batch = self.recipe.options, self.recipe.loop.batch_size
        index, texts = self.latents.draw(rng, batch)
        frames = []
        for i in index:
            k = int(rng.integers(self.latents.video.shape[2]))
            if rng.random() < 0.3:
                k = min(round(rng.choice(self.latents.strikes_s[i]) * 8), self.latents.video.shape[2] - 1)
            frames.append(self.latents.video[i][:, k])
        texts = drop_texts(texts, rng, options.text_dropout)[part]
        x = torch.from_numpy(np.stack(frames[part])).float().to(self.device)
        level = self.process.draw(batch, generator)[part]
        noise = standard_normal(x, batch, part, generator)
        xt = self.process.noised(x, noise, level)
        text = self._text(texts)
        eps = self._predict(xt.contiguous(memory_format=torch.channels_last), level, text)
        return {"loss": F.mse_loss(eps.float(), noise)}

    def _predict(self, x: Tensor, level: Tensor, text: Tensor) -> Tensor:
        time = self.process.network_time(level).to(self.device)
        return self.unet(x, time, encoder_hidden_states=text).sample

    def sample(self, folder: Path, step: int) -> None:
        prompts = [p for p in sample_prompts(self.recipe.data.source) for _ in range(2)]
        text = self._text(prompts)
        shape = (len(prompts), *self.latents.video.shape[1:2], *self.latents.video.shape[3:])
        z = sample_base(
            lambda x, level: self._predict(x.to(self.device), level, text).cpu(), shape, self.process
        )
        self._sheet(z.unflatten(0, (2, -1)).transpose(1, 2), folder / f"sample-{step}.png", len(prompts) // 2)

    def export(self) -> None:
        self.unet.save_pretrained(self.bundle / "video" / "image_unet")


class MotionStage(VideoStage):
    """Trains a ``UNetMotionModel`` on entire clips, starting from the image model."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        unet = load_component(self.bundle / "video", "unet") if recipe.continued else self._from_image_model()
        if recipe.options.train == "motion":
            unet.freeze_unet2d_params()
        else:  # torch 2.13 crashes on a CPU in the backward pass through frozen channels-last convolutions
            unet = channels_last(unet)
        self.unet: Any = unet.to(self.device)
        plain_attention(self.unet)
        if recipe.loop.gradient_checkpointing:
            save_memory([self.unet])
        self.trained: dict[str, nn.Module] = {"unet": self.unet}

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

    def loss(
        self, rng: np.random.Generator, generator: torch.Generator, part: slice = WHOLE
    ) -> dict[str, Tensor]:
        options, batch = self.recipe.options, self.recipe.loop.batch_size
        index, texts = self.latents.draw(rng, batch)
        texts = drop_texts(texts, rng, options.text_dropout)[part]
        x = torch.from_numpy(self.latents.video[index[part]]).float().to(self.device)
        level = self.process.draw(batch, generator)[part]
        noise = standard_normal(x, batch, part, generator)
        xt = self.process.noised(x, noise, level)
        eps = self._predict(xt, level, self._text(texts))
        return {"loss": noise_loss(eps, noise, min_snr(self.process, level, options.snr_gamma))}

    def sample(self, folder: Path, step: int) -> None:
        text = self._text(sample_prompts(self.recipe.data.source))
        shape = (len(SAMPLE_PROMPTS), *self.latents.video.shape[1:])
        z = sample_base(
            lambda x, level: self._predict(x.to(self.device), level, text).cpu(), shape, self.process
        )
        self._sheet(z, folder / f"sample-{step}.png", 32)

    def export(self) -> None:
        self.unet.save_pretrained(self.bundle / "video" / "unet")
        SignalLeak.of(self.latents.video).save(self.bundle / "video")

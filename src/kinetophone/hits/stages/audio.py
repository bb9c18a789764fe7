"""The audio base: AudioLDM's ``UNet2DConditionModel`` on mel latents, with CLAP text as class labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F

from kinetophone.bases.computing import decode_latents, tokenize
from kinetophone.bases.unet import AudioUNet
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
from kinetophone.training.samples import mel_image, save_wav


class AudioStage:
    """Trains noise prediction on latents (B, C, L, M)."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.bundle = recipe, Path(recipe.bundle)
        self.device = torch.device(recipe.loop.device)
        self.vae, self.tokenizer, text_encoder = (
            load_component(self.bundle / "audio", name) for name in ("vae", "tokenizer", "text_encoder")
        )
        self.text_encoder = text_encoder.to(self.device)
        clips = load_clips(recipe)
        self.latents = load_latents(clips, recipe.data.split, Path(recipe.data.cache), None, self.vae)
        self.process = Discrete.from_scheduler(make_scheduler("audio"))
        unet = (
            load_component(self.bundle / "audio", "unet")
            if recipe.continued
            else UNet2DConditionModel(**recipe.model)
        )
        self.unet: Any = channels_last(unet).to(self.device)
        plain_attention(self.unet)
        self.denoiser = AudioUNet(self.unet, self.process)
        if recipe.loop.gradient_checkpointing:
            save_memory([self.unet])
        self.trained = {"unet": self.unet}
        save_scheduler("audio", self.bundle)

    @torch.no_grad()
    def _text(self, texts: list[str]) -> Tensor:
        return F.normalize(
            self.text_encoder(**tokenize(self.tokenizer, texts, self.device)).text_embeds, dim=-1
        )

    def _predict(self, x: Tensor, level: Tensor, text: Tensor) -> Tensor:
        return self.denoiser(x.contiguous(memory_format=torch.channels_last), level, text)

    def loss(
        self, rng: np.random.Generator, generator: torch.Generator, part: slice = WHOLE
    ) -> dict[str, Tensor]:
        options, batch = self.recipe.options, self.recipe.loop.batch_size
        index, texts = self.latents.draw(rng, batch)
        texts = drop_texts(texts, rng, options.text_dropout)[part]
        x = torch.from_numpy(self.latents.audio[index[part]]).float().to(self.device)
        level = self.process.draw(batch, generator)[part]
        noise = standard_normal(x, batch, part, generator)
        xt = self.process.noised(x, noise, level)
        eps = self._predict(xt, level, self._text(texts))
        return {"loss": noise_loss(eps, noise, min_snr(self.process, level, options.snr_gamma))}

    def sample(self, folder: Path, step: int) -> None:
        text = self._text(sample_prompts(self.recipe.data.source))
        shape = (len(SAMPLE_PROMPTS), *self.latents.audio.shape[1:])
        z = sample_base(
            lambda x, level: self._predict(x.to(self.device), level, text).cpu(), shape, self.process
        )
        mel = decode_latents(self.vae, z)[:, 0]
        cv2.imwrite(str(folder / f"sample-{step}.png"), mel_image(mel))
        if (self.bundle / "audio" / "vocoder").is_dir():
            vocoder = load_component(self.bundle / "audio", "vocoder")
            save_wav(vocoder(mel).flatten(), folder / f"sample-{step}.wav")

    def export(self) -> None:
        self.unet.save_pretrained(self.bundle / "audio" / "unet")
        SignalLeak.of(self.latents.audio).save(self.bundle / "audio")

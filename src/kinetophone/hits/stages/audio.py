"""The audio base: AudioLDM's ``UNet2DConditionModel`` on mel latents, with CLAP text as class labels."""

from __future__ import annotations

from pathlib import Path

import cv2
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F

from kinetophone.bases.computing import decode_latents, tokenize
from kinetophone.bases.unet import AudioUNet
from kinetophone.hits.stages.diffusion import NoiseStage
from kinetophone.hub.components import load_component
from kinetophone.training.diffusion import channels_last, sample_prompts
from kinetophone.training.recipe import Recipe
from kinetophone.training.samples import mel_image, save_wav


class AudioStage(NoiseStage):
    """Trains noise prediction on latents (B, C, L, M)."""

    modality = "audio"

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        unet = (
            load_component(self.bundle / "audio", "unet")
            if recipe.continued
            else UNet2DConditionModel(**recipe.model)
        )
        self._train(channels_last(unet))

    @torch.no_grad()
    def _text(self, texts: list[str]) -> Tensor:
        return F.normalize(
            self.text_encoder(**tokenize(self.tokenizer, texts, self.device)).text_embeds, dim=-1
        )

    def _predict(self, x: Tensor, level: Tensor, text: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        return AudioUNet(self.unet, self.process)(x, level, text)

    def sample(self, folder: Path, step: int) -> None:
        z = self._samples(sample_prompts(self.recipe.data.source), self.clean.shape[1:])
        mel = decode_latents(self.vae, z)[:, 0]
        cv2.imwrite(str(folder / f"sample-{step}.png"), mel_image(mel))
        if (self.bundle / "audio" / "vocoder").is_dir():
            vocoder = load_component(self.bundle / "audio", "vocoder")
            save_wav(vocoder(mel).flatten(), folder / f"sample-{step}.wav")

"""AudioLDM (arXiv 2301.12503): latent diffusion on log-mel spectrograms, CLAP text as class labels, HiFi-GAN.

All sizes of ``cvssp/audioldm-*`` and any folder of the same classes. Shapes: waveform float (B, N) in [-1, 1]
at 16 kHz; latents float (B, C, L, M), time first, scaled; text (B, D).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kinetophone.bases.base import Base
from kinetophone.bases.computing import (
    decode_latents,
    encode_latents,
    execution_device,
    in_chunks,
    spatial_factor,
    tokenize,
)
from kinetophone.bases.protocol import Denoiser, Times
from kinetophone.bases.unet import AudioUNet
from kinetophone.diffusion.process import Discrete
from kinetophone.errors import RequestError
from kinetophone.hub.components import DDPM, load_components
from kinetophone.hub.locate import Source
from kinetophone.media.mel import HOP, MEL_BINS, SAMPLE_RATE, log_mel

_CLIPS_AT_ONCE = 8
# Mel frames of a long sound that are computed together. The autoencoder's norms and its attention take in all
# that they get: it is computed as a whole up to a minute (24,576 positions in its attention), and beyond that
# in chunks with ten seconds in common. The vocoder is convolutions alone and makes hundreds of values of each
# of its inputs.
_AUTOENCODER_AT_ONCE, _AUTOENCODER_OVERLAP = 6144, 1024
_VOCODER_AT_ONCE = 400


@dataclass
class AudioLDM(Base):
    """The frozen audio model and what turns text and sound into its inputs and back.

    ``reference`` says where it came from, so that a coupling can be saved without its bases.
    """

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    vocoder: Any
    reference: dict[str, Any] = field(default_factory=dict)

    NETWORKS: ClassVar[tuple[str, ...]] = ("UNet2DConditionModel",)
    COMPONENTS: ClassVar[dict[str, tuple[str, ...]]] = {
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("ClapTextModelWithProjection",),
        "tokenizer": (),
        "scheduler": (DDPM,),
        "vocoder": ("SpeechT5HifiGan",),
    }

    @classmethod
    def from_source(
        cls, source: Source, *, dtype: torch.dtype = torch.float32, allow_pickle: bool = False
    ) -> AudioLDM:
        """Load the components that ``source`` holds, networks in ``dtype``.

        Raises:
            RequestError: if a component is missing, of another class, or made for another sort of sound.
        """
        parts = load_components(source.folder, cls.COMPONENTS, dtype=dtype, allow_pickle=allow_pickle)
        vocoder = parts["vocoder"].config
        hop = int(np.prod(vocoder.upsample_rates))
        made_for = (vocoder.sampling_rate, vocoder.model_in_dim, hop)
        if made_for != (SAMPLE_RATE, MEL_BINS, HOP):
            raise RequestError(
                [
                    f"the vocoder of '{source.name}' makes {made_for[0]} Hz from {made_for[1]} mel bins "
                    f"with hop {made_for[2]}; {SAMPLE_RATE} Hz, {MEL_BINS} and {HOP} are supported"
                ]
            )
        return cls(**parts, reference={"name": source.name, "revision": source.revision})

    def denoiser(self) -> Denoiser:
        """The U-Net with its noise process."""
        return AudioUNet(self.unet, Discrete.from_scheduler(self.scheduler))

    def latent_times(self, steps: int, fps: float | Fraction) -> Times:
        """When each of ``steps`` latents begins and ends, also those that pad; ``fps`` does not matter."""
        return Times.even(steps, float(self.latents_per_second))

    @property
    def sample_rate(self) -> int:
        """Of its sound, in Hz."""
        return int(self.vocoder.config.sampling_rate)

    @property
    def factor(self) -> int:
        """Mel frames (and mel bins) per latent position."""
        return spatial_factor(self.vae)

    @property
    def latents_per_second(self) -> Fraction:
        """Steps of its latents along time in a second of sound."""
        return Fraction(self.sample_rate, HOP * self.factor)

    def latent_length(self, samples: int) -> int:
        """Latents of a sound of ``samples`` samples, up to the U-Net's own multiple."""
        length = -(-samples // (HOP * self.factor))
        multiple = 2 ** (len(self.unet.config.block_out_channels) - 1)
        return -(-length // multiple) * multiple

    def sample_length(self, latents: int) -> int:
        """Samples that ``latents`` latents hold."""
        return latents * HOP * self.factor

    def latent_shape(self, samples: int) -> tuple[int, int, int]:
        """Shape (C, L, M) for ``samples`` samples of sound: L is rounded up to the U-Net's own multiple."""
        return (self.unet.config.in_channels, self.latent_length(samples), MEL_BINS // self.factor)

    @torch.no_grad()
    def encode_prompt(self, prompts: list[str], seconds: float | None = None) -> Tensor:
        """L2-normalised CLAP text embeddings (B, D) of ``prompts``."""
        tokens = tokenize(self.tokenizer, prompts, execution_device(self.text_encoder))
        return F.normalize(self.text_encoder(**tokens).text_embeds, dim=-1)

    @torch.no_grad()
    def encode_mel(self, mel: Tensor) -> Tensor:
        """Latents of log-mel (B, frames, 64); zero positions are appended up to the U-Net's multiple."""
        device = execution_device(self.vae)
        z = in_chunks(
            lambda part: encode_latents(self.vae, part[:, None].to(device)).transpose(1, 2),
            mel, _AUTOENCODER_AT_ONCE, _AUTOENCODER_OVERLAP, self.factor,
        ).transpose(1, 2)  # fmt: skip
        length = self.latent_shape(mel.shape[1] * HOP)[1]
        return F.pad(z, (0, 0, 0, length - z.shape[2]))

    def encode(self, waveform: Tensor) -> Tensor:
        """Latents of sound (B, N)."""
        return self.encode_mel(log_mel(waveform))

    @torch.no_grad()
    def decode_mel(self, latents: Tensor) -> Tensor:
        """Log-mel (B, frames, 64) of latents."""
        return in_chunks(
            lambda part: decode_latents(self.vae, part.transpose(1, 2), _CLIPS_AT_ONCE)[:, 0],
            latents.transpose(1, 2), _AUTOENCODER_AT_ONCE // self.factor, _AUTOENCODER_OVERLAP // self.factor,
        )  # fmt: skip

    @torch.no_grad()
    def decode(self, latents: Tensor, samples: int) -> np.ndarray:
        """Sound of ``latents``, float32 (B, samples) in [-1, 1].

        All latents are decoded, those that the U-Net only made to fill its multiple too, as in the published
        implementation; the sound is cut after that.

        Raises:
            ValueError: if the latents last less than ``samples``.
        """
        if latents.shape[2] * HOP * self.factor < samples:
            raise ValueError(
                f"latents of {latents.shape[2] * HOP * self.factor} samples cannot give {samples}"
            )
        mel = self.decode_mel(latents)
        waveform = torch.cat([self.vocoded(part) for part in mel.split(_CLIPS_AT_ONCE)])
        return waveform[:, :samples].clamp(-1, 1).cpu().numpy()

    @torch.no_grad()
    def vocoded(self, mel: Tensor) -> Tensor:
        """Waveforms (B, frames * 160) of log-mel (B, frames, 64).

        A vocoder whose kernels and rates differ by odd numbers makes a little more, which is cut: 32 samples
        with the published kernels, 16, 16, 8, 4, 4 at rates 5, 4, 2, 2, 2.
        """
        overlap = 2 * receptive_frames(self.vocoder.config)
        return in_chunks(
            lambda part: self.vocoder(part)[:, : part.shape[1] * HOP],
            mel, max(_VOCODER_AT_ONCE, 2 * overlap), overlap,
        )  # fmt: skip


def receptive_frames(config: Any) -> int:
    """How many mel frames before and after its own a sample of a HiFi-GAN (arXiv 2010.05646) is made from.

    Args:
        config: a ``SpeechT5HifiGanConfig``.
    """
    reach = 3  # samples to either side that the last convolution sees: its kernel is 7 wide
    blocks = zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
    block = max((kernel - 1) // 2 * (sum(dilations) + len(dilations)) for kernel, dilations in blocks)
    stages = list(zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True))
    for rate, kernel in reversed(stages):
        padding = (kernel - rate) // 2
        reach = -(-(reach + block + max(padding, kernel - 1 - padding)) // rate)
    return reach + 3  # the first convolution's kernel is 7 wide, too

"""AudioLDM (arXiv 2301.12503): latent diffusion on log-mel spectrograms, CLAP text as class labels, HiFi-GAN.

Supports all sizes of ``cvssp/audioldm-*`` and any folder with the same classes.

Shapes: waveform float (B, N) in [-1, 1] at 16 kHz; latents float (B, C, L, M), time first, scaled;
text (B, D).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar, Self

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
from kinetophone.hub.components import DDPM
from kinetophone.hub.locate import Source
from kinetophone.media.mel import HOP, MEL_BINS, SAMPLE_RATE, log_mel

_CLIPS_AT_ONCE = 8
# Maximal chunk length and overlap in mel frames. The norms and the attention of the autoencoder see their
# whole input. So clips of up to a minute are coded as a whole (24,576 positions in the attention), and
# longer ones in chunks with ten seconds of overlap on either side. The vocoder is purely convolutional, so
# its chunks can be short. Its activations are much longer than its input, which would take a lot of memory
# for a whole clip.
_AUTOENCODER_AT_ONCE, _AUTOENCODER_OVERLAP = 6144, 1024
_VOCODER_AT_ONCE = 400


@dataclass
class AudioLDM(Base):
    """The frozen audio model with its text encoder, autoencoder and vocoder.

    ``reference`` says where the model came from, so that a coupling can be saved without its bases.
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
    def from_source(cls, source: Source, **options: Any) -> Self:
        """Load the components from ``source``; see :meth:`Base.from_source`.

        Raises:
            RequestError: if a component is missing or has an unsupported class, or if the vocoder has
                another sample rate, number of mel bins or hop.
        """
        base = super().from_source(source, **options)
        vocoder = base.vocoder.config
        hop = int(np.prod(vocoder.upsample_rates))
        made_for = (vocoder.sampling_rate, vocoder.model_in_dim, hop)
        if made_for != (SAMPLE_RATE, MEL_BINS, HOP):
            raise RequestError(
                [
                    f"the vocoder of '{source.name}' makes {made_for[0]} Hz from {made_for[1]} mel bins "
                    f"with hop {made_for[2]}; only {SAMPLE_RATE} Hz, {MEL_BINS} and {HOP} are supported"
                ]
            )
        return base

    def denoiser(self) -> Denoiser:
        """The U-Net with its noise process."""
        return AudioUNet(self.unet, Discrete.from_scheduler(self.scheduler))

    def latent_times(self, steps: int, fps: float | Fraction) -> Times:
        """Start and end of each of ``steps`` latent steps, including padding; ``fps`` is ignored."""
        return Times.even(steps, float(self.latents_per_second))

    @property
    def sample_rate(self) -> int:
        """Sample rate of the audio, in Hz."""
        return int(self.vocoder.config.sampling_rate)

    @property
    def channels(self) -> int:
        """Number of audio channels: a spectrogram of one is modelled."""
        return 1

    @property
    def factor(self) -> int:
        """Mel frames, and mel bins, per latent position."""
        return spatial_factor(self.vae)

    @property
    def latents_per_second(self) -> Fraction:
        """Latent steps along time per second of audio."""
        return Fraction(self.sample_rate, HOP * self.factor)

    def latent_length(self, samples: int) -> int:
        """Number of latent steps for ``samples`` samples, rounded up to a multiple that the U-Net needs."""
        length = -(-samples // (HOP * self.factor))
        multiple = 2 ** (len(self.unet.config.block_out_channels) - 1)
        return -(-length // multiple) * multiple

    def sample_length(self, latents: int) -> int:
        """Number of samples in ``latents`` latent steps."""
        return latents * HOP * self.factor

    def latent_shape(self, samples: int) -> tuple[int, int, int]:
        """Latent shape (C, L, M) for ``samples`` samples, with L from :meth:`latent_length`."""
        return (self.unet.config.in_channels, self.latent_length(samples), MEL_BINS // self.factor)

    @torch.no_grad()
    def encode_prompt(self, prompts: list[str], seconds: float | None = None) -> Tensor:
        """L2-normalised CLAP text embeddings (B, D) of ``prompts``; ``seconds`` is ignored."""
        tokens = tokenize(self.tokenizer, prompts, execution_device(self.text_encoder))
        return F.normalize(self.text_encoder(**tokens).text_embeds, dim=-1)

    @torch.no_grad()
    def encode_mel(self, mel: Tensor) -> Tensor:
        """Encode log-mel (B, frames, 64) to latents (B, C, L, M), zero-padded to the U-Net's multiple."""
        device = execution_device(self.vae)
        z = in_chunks(
            lambda part: encode_latents(self.vae, part[:, None].to(device)).transpose(1, 2),
            mel, _AUTOENCODER_AT_ONCE, _AUTOENCODER_OVERLAP, self.factor,
        ).transpose(1, 2)  # fmt: skip
        length = self.latent_shape(mel.shape[1] * HOP)[1]
        return F.pad(z, (0, 0, 0, length - z.shape[2]))

    def encode(self, waveform: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents (B, C, L, M) of a waveform (B, N) at 16 kHz; ``generator`` is ignored."""
        return self.encode_mel(log_mel(waveform))

    @torch.no_grad()
    def decode_mel(self, latents: Tensor) -> Tensor:
        """Decode latents (B, C, L, M) to log-mel (B, frames, 64)."""
        return in_chunks(
            lambda part: decode_latents(self.vae, part.transpose(1, 2), _CLIPS_AT_ONCE)[:, 0],
            latents.transpose(1, 2), _AUTOENCODER_AT_ONCE // self.factor, _AUTOENCODER_OVERLAP // self.factor,
        )  # fmt: skip

    @torch.no_grad()
    def decode(self, latents: Tensor, samples: int) -> np.ndarray:
        """Decode latents (B, C, L, M) to audio, float32 (B, samples) in [-1, 1].

        As in the published implementation, all latents are decoded, including padding. Then the audio is cut
        to ``samples``.

        Raises:
            ValueError: if the latents are shorter than ``samples``.
        """
        if latents.shape[2] * HOP * self.factor < samples:
            raise ValueError(
                f"latents of {latents.shape[2] * HOP * self.factor} samples are too short for {samples}"
            )
        mel = self.decode_mel(latents)
        waveform = torch.cat([self.vocoded(part) for part in mel.split(_CLIPS_AT_ONCE)])
        return waveform[:, :samples].clamp(-1, 1).cpu().numpy()

    @torch.no_grad()
    def vocoded(self, mel: Tensor) -> Tensor:
        """Convert log-mel (B, frames, 64) to waveforms (B, frames · 160) with the vocoder.

        If a kernel size and its rate differ by an odd number, the output is slightly too long and is cut.
        For the published vocoder (kernels 16, 16, 8, 4, 4 at rates 5, 4, 2, 2, 2) these are 32 samples.
        """
        overlap = 2 * receptive_frames(self.vocoder.config)
        return in_chunks(
            lambda part: self.vocoder(part)[:, : part.shape[1] * HOP],
            mel, max(_VOCODER_AT_ONCE, 2 * overlap), overlap,
        )  # fmt: skip


def receptive_frames(config: Any) -> int:
    """Receptive field of a HiFi-GAN (arXiv 2010.05646): mel frames on either side that affect a sample.

    Args:
        config: a ``SpeechT5HifiGanConfig``.
    """
    reach = 3  # samples on either side that the last convolution sees; its kernel size is 7
    blocks = zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
    block = max((kernel - 1) // 2 * (sum(dilations) + len(dilations)) for kernel, dilations in blocks)
    stages = list(zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True))
    for rate, kernel in reversed(stages):
        padding = (kernel - rate) // 2
        reach = -(-(reach + block + max(padding, kernel - 1 - padding)) // rate)
    return reach + 3  # the kernel size of the first convolution is 7, too

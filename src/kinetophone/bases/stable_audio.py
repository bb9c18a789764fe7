"""Stable Audio Open (arXiv 2407.14358): a transformer on waveform latents, T5 text, 44.1 kHz stereo.

The published sampler uses EDM noise. Its variance-preserving form is the process
:class:`kinetophone.diffusion.process.Cosine`. The text's hidden states are followed by two tokens: the start
and the end of the clip within a track, in seconds.

Shapes: waveform float (B, N) or (B, N, 2) in [-1, 1]; latents float (B, C, L).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import Tensor

from kinetophone.bases.autoencoders import SpectralAutoencoder
from kinetophone.bases.base import Base
from kinetophone.bases.computing import execution_device
from kinetophone.bases.protocol import Conditioning, Denoiser, Site, Times
from kinetophone.diffusion.process import Cosine
from kinetophone.media.mel import HOP, SAMPLE_RATE, log_mel
from kinetophone.media.read import resample_audio


@dataclass
class StableAudio(Base):
    """The frozen audio model: ``StableAudioDiTModel``, T5, ``AutoencoderOobleck``, and a projection model.

    The projection model maps the text's hidden states and the seconds to the transformer's conditioning.
    """

    transformer: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    projection_model: Any
    scheduler: Any
    reference: dict[str, Any] = field(default_factory=dict)

    NETWORK: ClassVar[str] = "transformer"
    NETWORKS: ClassVar[tuple[str, ...]] = ("StableAudioDiTModel",)
    COMPONENTS: ClassVar[dict[str, tuple[str, ...]]] = {
        "transformer": ("StableAudioDiTModel",),
        "vae": ("AutoencoderOobleck", SpectralAutoencoder.__name__),
        "text_encoder": ("T5EncoderModel",),
        "tokenizer": (),
        "projection_model": ("StableAudioProjectionModel",),
        "scheduler": (),
    }

    def denoiser(self) -> Denoiser:
        """The transformer with its noise process; the range of σ is that of the scheduler."""
        config = self.scheduler.config
        least, most = (
            2 / math.pi * math.atan(config.get(key, default))
            for key, default in (("sigma_min", 0.3), ("sigma_max", 500.0))
        )
        return StableAudioDenoiser(self.transformer, Cosine(least=least, most=most))

    @property
    def sample_rate(self) -> int:
        """Sample rate of the audio, in Hz."""
        return int(self.vae.config.sampling_rate)

    @property
    def channels(self) -> int:
        """Number of audio channels."""
        return int(self.vae.config.audio_channels)

    @property
    def hop(self) -> int:
        """Samples per latent step."""
        return int(self.vae.hop_length)

    @property
    def latents_per_second(self) -> Fraction:
        """Latent steps per second of audio."""
        return Fraction(self.sample_rate, self.hop)

    def latent_length(self, samples: int) -> int:
        """Number of latent steps for ``samples`` samples, rounded up."""
        return -(-samples // self.hop)

    def sample_length(self, latents: int) -> int:
        """Number of samples in ``latents`` latent steps."""
        return latents * self.hop

    def latent_shape(self, samples: int) -> tuple[int, int]:
        """Latent shape (C, L) for ``samples`` samples."""
        return (self.transformer.config.in_channels, self.latent_length(samples))

    def latent_times(self, steps: int, fps: float | Fraction) -> Times:
        """Start and end of each of ``steps`` latent steps; ``fps`` is ignored."""
        return Times.even(steps, float(self.latents_per_second))

    def text_seconds(self, seconds: float | None) -> float:
        """``seconds``, or the longest clip that the transformer was trained on."""
        longest = self.transformer.config.sample_size / float(self.latents_per_second)
        return longest if seconds is None else seconds

    @torch.no_grad()
    def encode_prompt(self, prompts: list[str], seconds: float | None = None) -> dict[str, Tensor]:
        """Conditioning for ``prompts`` and a clip length.

        An empty prompt is no prompt: all its states are zero, as in the training of Stable Audio.

        Args:
            prompts: descriptions of the audio.
            seconds: length of the clip; by default the longest that the transformer was trained on.

        Returns:
            ``states`` (B, S + 2, D) of text and seconds, and ``seconds`` (B, 1, 2D) of the seconds only.
        """
        device = execution_device(self.text_encoder)
        tokens = self.tokenizer(
            prompts,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).to(device)
        states = self.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
        project = self.projection_model
        place = execution_device(project)
        states = project(text_hidden_states=states.to(place)).text_hidden_states
        states = states * tokens.attention_mask[..., None].to(states)
        ends = torch.full((len(prompts),), self.text_seconds(seconds), device=place)
        asked = project(start_seconds=torch.zeros_like(ends), end_seconds=ends)
        span = [asked.seconds_start_hidden_states, asked.seconds_end_hidden_states]
        given = torch.tensor([bool(prompt.strip()) for prompt in prompts], device=place)
        states = torch.cat([states, *span], dim=1) * given[:, None, None].to(states.dtype)
        return {"states": states, "seconds": torch.cat(span, dim=2)}

    def encode(self, waveform: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents (B, C, L) of a waveform (B, N), or (B, N, channels) with any number of channels.

        See :func:`encode_waveform` for the ``generator``.
        """
        return encode_waveform(self.vae, waveform, generator)

    @torch.no_grad()
    def decode_mel(self, latents: Tensor) -> Tensor:
        """Log-mel spectrogram (B, frames, 64) of ``latents`` at 16 kHz, for display and metrics."""
        sound = self.decode(latents, self.sample_length(latents.shape[2])).mean(axis=2)
        heard = np.stack([resample_audio(one, self.sample_rate, SAMPLE_RATE) for one in sound])
        whole = heard.shape[1] - heard.shape[1] % HOP
        return log_mel(torch.from_numpy(heard[:, :whole]))

    @torch.no_grad()
    def decode(self, latents: Tensor, samples: int) -> np.ndarray:
        """Decode ``latents`` to audio in [-1, 1], float32 (B, samples, channels), (B, samples) if mono."""
        latents = latents.float().to(execution_device(self.vae))
        made = torch.cat([self.vae.decode(one[None]).sample for one in latents])
        sound = made[:, :, :samples].clamp(-1, 1).transpose(1, 2).float().cpu().numpy()
        return sound[..., 0] if self.channels == 1 else sound


@torch.no_grad()
def encode_waveform(vae: Any, waveform: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Latents (B, C, L) of a waveform at the rate of ``vae``, padded with silence to whole latent steps.

    Args:
        vae: the autoencoder, an ``AutoencoderOobleck`` or :class:`SpectralAutoencoder`.
        waveform: (B, N), or (B, N, channels) with any number of channels, in [-1, 1].
        generator: on the CPU; with it, the latents are drawn from the posterior, as in the training of Stable
            Audio. Without it, they are its means.
    """
    channels = waveform[..., None] if waveform.dim() == 2 else waveform
    if channels.shape[2] != vae.config.audio_channels:
        channels = channels.mean(dim=2, keepdim=True).expand(-1, -1, vae.config.audio_channels)
    padded = torch.nn.functional.pad(channels, (0, 0, 0, -channels.shape[1] % int(vae.hop_length)))
    x = padded.transpose(1, 2).contiguous().to(execution_device(vae))
    found = [vae.encode(one[None]).latent_dist for one in x]
    return torch.cat([one.mode() if generator is None else one.sample(generator) for one in found])


class StableAudioDenoiser(Denoiser):
    """Transformer on latents (B, C, L). The conditioning is from :meth:`StableAudio.encode_prompt`."""

    per_frame, latent_dims = False, 3

    @property
    def latent_channels(self) -> int:
        return int(self.network.config.in_channels)

    @property
    def time_width(self) -> int:
        return int(self.network.inner_dim)

    def sites(self) -> tuple[Site, ...]:
        # The first token holds the timestep and the seconds.
        return tuple(
            Site(f"transformer_blocks.{i}", self.network.inner_dim, "tokens", prefix=1, attention="attn1")
            for i in range(len(self.network.transformer_blocks))
        )

    def embed_time(self, level: Tensor) -> Tensor:
        network = self.network
        time = self.network_time(level).to(network.timestep_proj[0].weight.dtype)
        return network.timestep_proj(network.time_proj(time))

    def __call__(self, x: Tensor, level: Tensor, conditioning: Conditioning) -> Tensor:
        assert not isinstance(conditioning, Tensor)
        rotary = get_1d_rotary_pos_embed(
            self.network.config.attention_head_dim // 2,
            x.shape[2] + 1,
            use_real=True,
            repeat_interleave_real=False,
        )
        return self.network(
            x,
            self.network_time(level),
            encoder_hidden_states=conditioning["states"],
            global_hidden_states=conditioning["seconds"],
            rotary_embedding=tuple(part.to(x.device) for part in rotary),
            return_dict=False,
        )[0]

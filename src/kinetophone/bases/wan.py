"""Wan (arXiv 2503.20314): a video transformer trained as a rectified flow, UMT5 text, a causal autoencoder.

For Wan2.1-T2V-1.3B, and folders with the same classes; -14B and Wan2.2-TI2V-5B have them, but were not tried.
The autoencoder is causal in time. Latent step 0 is frame 0 only. Latent step i ≥ 1 holds the r frames
r(i - 1) + 1 … r·i. So clips have r·k + 1 frames.

Shapes: frames uint8 (B, T, H, W, 3); latents float (B, C, T', h, w), normalised; text states (B, S, D).
"""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from kinetophone.bases.autoencoders import PatchAutoencoder
from kinetophone.bases.base import Base
from kinetophone.bases.causal import decode_causal, encode_causal
from kinetophone.bases.computing import execution_device
from kinetophone.bases.protocol import Conditioning, Denoiser, Site, Times
from kinetophone.diffusion.process import Flow, Process
from kinetophone.errors import RequestError
from kinetophone.hub.locate import Source, small_file

TOKENS = 512  # maximal length of a text, as in the published pipeline
_SHIFT = 3.0  # shift of the noise schedule, if the scheduler has none


@dataclass
class Wan(Base):
    """The frozen video model: ``WanTransformer3DModel``, a UMT5 text encoder, ``AutoencoderKLWan``."""

    transformer: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    reference: dict[str, Any] = field(default_factory=dict)

    FPS: ClassVar[int] = 16
    NETWORK: ClassVar[str] = "transformer"
    NETWORKS: ClassVar[tuple[str, ...]] = ("WanTransformer3DModel",)
    COMPONENTS: ClassVar[dict[str, tuple[str, ...]]] = {
        "transformer": ("WanTransformer3DModel",),
        "vae": ("AutoencoderKLWan", PatchAutoencoder.__name__),
        "text_encoder": ("UMT5EncoderModel",),
        "tokenizer": (),
        "scheduler": (),
    }

    @classmethod
    def from_source(cls, source: Source, **options: Any) -> Self:
        """Load the components from ``source``; see :meth:`Base.from_source`.

        Raises:
            RequestError: if a component is missing or has an unsupported class, or it has two transformers.
        """
        if small_file(source.name, "transformer_2/config.json", source.revision) is not None:
            raise RequestError(
                [f"'{source.name}' has two transformers, for high and low noise; use a Wan model with one"]
            )
        return super().from_source(source, **options)

    def denoiser(self) -> Denoiser:
        """The transformer with its noise process."""
        config = self.scheduler.config
        shift = config.get("flow_shift") or config.get("shift") or _SHIFT
        return WanDenoiser(self.transformer, Flow(shift=float(shift)), self.ratio)

    @property
    def ratio(self) -> int:
        """r, the number of frames per latent step, except the first."""
        return int(self.vae.config.scale_factor_temporal)

    @property
    def factor(self) -> int:
        """Pixels per latent position along each side."""
        return int(self.vae.config.scale_factor_spatial)

    @property
    def multiple(self) -> int:
        """Height and width in pixels must be multiples of this."""
        return self.factor * int(self.transformer.config.patch_size[1])

    @property
    def max_frames(self) -> int | None:
        """Maximal number of frames, that of the training clips.

        Rotary positions would allow longer clips, but those degrade.
        """
        return 81

    def stills(self, latents: Tensor, count: int) -> np.ndarray:
        """Decode at most ``count`` evenly spaced frames of ``latents``, uint8 (B, count, H, W, 3)."""
        frames = self.decode(latents)
        length = frames.shape[1]
        return frames[:, torch.linspace(0, length - 1, min(count, length)).round().long().numpy()]

    @property
    def frame_step(self) -> int:
        """The number of frames must be 1 plus a multiple of this."""
        return self.ratio

    def latent_length(self, frames: int) -> int:
        """Number of latent steps for ``frames`` frames; the last may extend beyond the end of the clip."""
        return -(-(frames - 1) // self.ratio) + 1

    def frame_length(self, latents: int) -> int:
        """Number of frames in ``latents`` latent steps."""
        return (latents - 1) * self.ratio + 1

    def latent_shape(self, frames: int, size: int) -> tuple[int, int, int, int]:
        """Latent shape (C, T', h, w) of ``frames`` square frames with ``size`` pixels a side."""
        side = size // self.factor
        return (self.transformer.config.in_channels, self.latent_length(frames), side, side)

    def latent_times(self, steps: int, fps: float | Fraction) -> Times:
        """Start and end of each of ``steps`` latent steps, at ``fps`` frames a second."""
        edges = torch.tensor([0, *(self.ratio * k + 1 for k in range(steps))], dtype=torch.float64)
        edges = edges / float(fps)
        return Times(edges[:-1], edges[1:])

    @torch.no_grad()
    def encode_prompt(self, prompts: list[str], seconds: float | None = None) -> Tensor:
        """UMT5 hidden states (B, S, D) of ``prompts``, zero at padding; ``seconds`` is ignored."""
        cleaned = [" ".join(html.unescape(html.unescape(prompt)).split()) for prompt in prompts]
        tokens = self.tokenizer(
            cleaned,
            padding="max_length",
            max_length=min(TOKENS, self.tokenizer.model_max_length),
            truncation=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        device = execution_device(self.text_encoder)
        mask = tokens.attention_mask.to(device)
        states = self.text_encoder(tokens.input_ids.to(device), mask).last_hidden_state
        return states * mask[..., None].to(states.dtype)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Latents (B, C, T', h, w) of uint8 frames (B, T, H, W, 3).

        The last frame is repeated to fill the last latent step.
        """
        missing = self.frame_length(self.latent_length(frames.shape[1])) - frames.shape[1]
        if missing:
            frames = torch.cat([frames, frames[:, -1:].expand(-1, missing, -1, -1, -1)], dim=1)
        return encode_frames(self.vae, frames)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Decode latents (B, C, T', h, w) to frames, uint8 (B, T, H, W, 3)."""
        latents = latents.float().to(execution_device(self.vae))
        mean, deviation = _statistics(self.vae, latents)
        made = [decode_causal(self.vae, one[None] * deviation + mean)[0] for one in latents]
        frames = torch.stack(made).clamp(-1, 1).add(1).mul(127.5).round().byte()
        return frames.permute(0, 2, 3, 4, 1).cpu().numpy()


@torch.no_grad()
def encode_frames(vae: Any, frames: Tensor) -> Tensor:
    """Normalised latents (B, C, T', h, w) of uint8 frames (B, T, H, W, 3), where T is 1 plus a multiple of r.

    They are the means of the posterior, on which Wan was trained.

    Raises:
        ValueError: if the autoencoder cannot encode that number of frames.
    """
    step, count = int(vae.config.scale_factor_temporal), frames.shape[1]
    if (count - 1) % step:
        below = count - (count - 1) % step
        raise ValueError(
            f"{count} frames cannot be encoded: the video autoencoder takes 1 and {step} for each further "
            f"latent, such as {below} or {below + step}"
        )
    x = frames.permute(0, 4, 1, 2, 3).float().div(127.5).sub(1).to(execution_device(vae))
    mean, deviation = _statistics(vae, x)
    return torch.cat([(encode_causal(vae, one[None])[0] - mean) / deviation for one in x])


def _statistics(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the latents per channel, to broadcast over (B, C, T', h, w)."""
    known = (vae.config.latents_mean, vae.config.latents_std)
    mean, deviation = (torch.tensor(x).view(1, -1, 1, 1, 1).to(like) for x in known)
    return mean, deviation


class WanDenoiser(Denoiser):
    """Transformer on latents (B, C, T', h, w). The conditioning is the text's hidden states (B, S, D)."""

    per_frame, latent_dims = True, 5

    def __init__(self, network: Any, process: Process, ratio: int = 1) -> None:
        super().__init__(network, process)
        self.ratio = ratio

    @property
    def substeps(self) -> int:
        """Features that a connector makes from each latent step, except the first: one per frame."""
        return self.ratio

    @property
    def latent_channels(self) -> int:
        return int(self.network.config.in_channels)

    @property
    def _width(self) -> int:
        return int(self.network.config.num_attention_heads * self.network.config.attention_head_dim)

    @property
    def time_width(self) -> int:
        return self._width

    def sites(self) -> tuple[Site, ...]:
        return tuple(
            Site(f"blocks.{i}", self._width, "tokens", attention="attn1")
            for i in range(len(self.network.blocks))
        )

    def steps_at(self, site: Site, x: Tensor, steps: int) -> int:
        return steps // int(self.network.config.patch_size[0])

    def embed_time(self, level: Tensor) -> Tensor:
        embedder = self.network.condition_embedder
        time = embedder.timesteps_proj(self.network_time(level))
        return embedder.time_embedder(time.to(embedder.time_embedder.linear_1.weight.dtype))

    def __call__(self, x: Tensor, level: Tensor, conditioning: Conditioning) -> Tensor:
        return self.network(x, self.network_time(level), conditioning, return_dict=False)[0]

    def check(self, x: Tensor) -> None:
        patch = self.network.config.patch_size
        if any(side % p for side, p in zip(x.shape[2:], patch, strict=True)):
            raise ValueError(
                f"video latents are {tuple(x.shape[2:])} (time, height, width), but the transformer needs "
                f"multiples of {tuple(patch)}"
            )

"""Causal video autoencoders; ``AutoencoderKLWan`` in longer stretches than its own methods take.

Its causal convolutions keep what they need of the past, so a stretch may have any number of latent steps.
Long stretches are several times faster for small frames, and can be trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from kinetophone.bases.autoencoders import PatchAutoencoder

_PIXELS = 1 << 20  # of the frames in a stretch: what fits in memory also at large sizes


def encode_causal(vae: Any, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance of latents, (B, C, T', h, w) each, of frames (B, 3, T, H, W) in [-1, 1].

    T is 1 plus a multiple of r, the number of frames per latent step.
    """
    if isinstance(vae, PatchAutoencoder):
        found = vae.encode(frames).latent_dist
        return found.mean, found.logvar
    from diffusers.models.autoencoders.autoencoder_kl_wan import patchify

    ratio, patch = vae.config.scale_factor_temporal, vae.config.patch_size
    step = max(1, _PIXELS // (frames.shape[3] * frames.shape[4] * ratio)) * ratio
    x = patchify(frames, patch) if patch else frames
    vae.clear_cache()
    made = []
    for start, end in _stretches(x.shape[2], step):
        vae._enc_conv_idx = [0]
        made.append(vae.encoder(x[:, :, start:end], feat_cache=vae._enc_feat_map, feat_idx=vae._enc_conv_idx))
    vae.clear_cache()
    mean, log_variance = vae.quant_conv(torch.cat(made, dim=2)).chunk(2, dim=1)
    return mean, log_variance


def decode_causal(vae: Any, latents: Tensor) -> Tensor:
    """Frames (B, 3, r·(T' - 1) + 1, H, W), about in [-1, 1], of latents (B, C, T', h, w)."""
    if isinstance(vae, PatchAutoencoder):
        return vae.decode(latents).sample
    from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

    config = vae.config
    side = config.scale_factor_spatial
    pixels = latents.shape[3] * latents.shape[4] * side * side * config.scale_factor_temporal
    vae.clear_cache()
    x = vae.post_quant_conv(latents)
    made = []
    for start, end in _stretches(x.shape[2], max(1, _PIXELS // pixels)):
        vae._conv_idx = [0]
        made.append(
            vae.decoder(
                x[:, :, start:end], feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=start == 0
            )
        )
    vae.clear_cache()
    frames = torch.cat(made, dim=2)
    return unpatchify(frames, config.patch_size) if config.patch_size else frames


def _stretches(length: int, step: int) -> Iterator[tuple[int, int]]:
    """The first frame or latent alone, as the autoencoder needs it, then stretches of ``step``."""
    yield 0, 1
    for start in range(1, length, step):
        yield start, min(start + step, length)

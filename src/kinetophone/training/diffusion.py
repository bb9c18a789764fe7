"""Code shared by the diffusion stages: noise schedules, noise, losses, caption dropout, base samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from kinetophone.data.domains import domain
from kinetophone.diffusion.process import CLEAN, Process

# The published noise schedules (arXiv 2409.17550; those of AnimateDiff and AudioLDM).
_COMMON = {"num_train_timesteps": 1000, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
SCHEDULERS: dict[str, dict[str, Any]] = {
    "video": {
        **_COMMON,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "linear",
        "timestep_spacing": "linspace",
    },
    "audio": {**_COMMON, "beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear"},
}
SAMPLE_STEPS = 25
WHOLE = slice(None)  # of a batch
SAMPLE_PROMPTS = (
    "a drumstick hits a metal bowl three times",
    "a hammer hits a brown wooden block twice slowly",
    "a mallet hits a green glass bottle fast",
    "a drumstick hits a red drum four times",
    "someone taps a yellow cushion with a hammer",
    "a drumstick bangs a golden metal pot once",
)


def sample_prompts(source: str) -> list[str]:
    """Prompts for the samples made while training on ``source``, a procedural domain."""
    if source == "hits":
        return list(SAMPLE_PROMPTS)
    return [domain(source).make_scene("val", i)[1] for i in range(len(SAMPLE_PROMPTS))]


def make_scheduler(modality: str) -> DDIMScheduler:
    """The scheduler that is saved with the base of ``modality``, "audio" or "video"."""
    return DDIMScheduler(**SCHEDULERS[modality])


def save_scheduler(modality: str, bundle: Path) -> None:
    """Write the scheduler of ``modality`` into its base's folder in ``bundle``."""
    make_scheduler(modality).save_pretrained(bundle / modality / "scheduler")


def standard_normal(x: Tensor, batch: int, part: slice, generator: torch.Generator) -> Tensor:
    """Noise of the shape of ``x``, which is the slice ``part`` of a batch of ``batch`` samples.

    The noise is drawn for the entire batch and then sliced. It therefore does not depend on the number of
    processes or accumulation steps.
    """
    return torch.randn((batch, *x.shape[1:]), generator=generator)[part].to(x.device)


def noise_loss(output: Tensor, target: Tensor, weight: Tensor, counts: Tensor | None = None) -> Tensor:
    """Mean squared error of a network's output (B, ...), each sample weighted by ``weight`` (B,).

    Samples where ``counts``, bool (B,), is False add 0 to the sum but still count in the mean. This way the
    losses of equal parts of a batch average to the loss of the batch.

    Returns:
        The loss, a scalar.
    """
    error = (output.float() - target).square().flatten(1).mean(1) * weight.float().to(output.device)
    if counts is not None:
        error = error * counts.to(error)
    return error.mean()


def min_snr(process: Process, levels: Tensor, gamma: float) -> Tensor:
    """Min-SNR loss weights, min(SNR, γ) / SNR (arXiv 2303.09556), for noise levels (B,).

    They are for errors of the noise, and reduce the weight of nearly clean levels, whose noise cannot be
    predicted. With an infinite γ all weights are 1.

    Returns:
        Weights (B,).
    """
    snr = process.log_snr(levels).exp()
    return torch.where(snr > gamma, gamma / snr, 1.0)  # without noise or without signal, too


def drop_texts(texts: list[str], rng: np.random.Generator, rate: float) -> list[str]:
    """Replace each caption with "" with probability ``rate``, for classifier-free guidance."""
    return ["" if rng.random() < rate else text for text in texts]


def save_memory(networks: Iterable[Any]) -> None:
    """Turn on gradient checkpointing: activations are recomputed in the backward pass."""
    for network in networks:
        network.enable_gradient_checkpointing()


def channels_last(module: nn.Module) -> nn.Module:
    """Store 4-D weights as channels_last, which has faster kernels, and return the module.

    Other weights are left alone, because their layers reject this memory format.
    """
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return module


def plain_attention(unet: Any) -> None:
    """On a CPU, replace the fused attention of a U-Net that gradients pass through.

    Transformers are left as they are: their processors also apply rotary positions.
    """
    if unet.device.type == "cpu" and hasattr(unet, "mid_block"):
        unet.set_attn_processor(AttnProcessor())


def sample_base(
    predict: Callable[[Tensor, Tensor], Tensor],
    shape: tuple[int, ...],
    process: Process,
) -> Tensor:
    """DDIM samples of one base without coupling, with seed 0.

    Args:
        predict: ``predict(latents, levels)``, the network's output.
        shape: Shape of the latents, (B, C, …).
        process: The base's diffusion process.

    Returns:
        Clean latents of ``shape``.
    """
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    path = [*process.snapped(np.arange(1, SAMPLE_STEPS + 1) / SAMPLE_STEPS), CLEAN]
    for level, following in pairwise(path):
        output = predict(x, torch.full((shape[0],), level, dtype=torch.float64))
        x = process.noised(*process.split(x, output, level), following)
    return x

"""What the diffusion stages share: schedules, noised batches, text with dropout, samples of a base alone."""

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
    """What samples are made of while training on ``source``, a procedural domain."""
    if source == "hits":
        return list(SAMPLE_PROMPTS)
    return [domain(source).make_scene("val", i)[1] for i in range(len(SAMPLE_PROMPTS))]


def make_scheduler(modality: str) -> DDIMScheduler:
    """The scheduler saved with a base."""
    return DDIMScheduler(**SCHEDULERS[modality])


def save_scheduler(modality: str, bundle: Path) -> None:
    """Write it beside the base's other components."""
    make_scheduler(modality).save_pretrained(bundle / modality / "scheduler")


def standard_normal(x: Tensor, batch: int, part: slice, generator: torch.Generator) -> Tensor:
    """Noise for ``x``, which is ``part`` of a batch of ``batch`` samples.

    It is drawn for the whole batch, so that the processes and accumulated parts that share a batch out see
    what one process would.
    """
    return torch.randn((batch, *x.shape[1:]), generator=generator)[part].to(x.device)


def noise_loss(eps: Tensor, noise: Tensor, weight: Tensor, counts: Tensor | None = None) -> Tensor:
    """Mean squared error of predicted noise (B, ...), each sample weighted by ``weight`` (B,).

    Samples where ``counts``, bool (B,), is False add nothing to the sum but are counted in the mean, so that
    means over equal parts of a batch average to the batch's.
    """
    error = (eps.float() - noise).square().flatten(1).mean(1) * weight.float().to(eps.device)
    if counts is not None:
        error = error * counts.to(error)
    return error.mean()


def min_snr(process: Process, levels: Tensor, gamma: float) -> Tensor:
    """Weights min(SNR, γ) / SNR of samples at levels (B,) (arXiv 2303.09556); γ infinite: all 1.

    They spare the nearly clean levels, whose noise nothing can predict.
    """
    snr = process.log_snr(levels).exp()
    return snr.clamp(max=gamma) / snr


def drop_texts(texts: list[str], rng: np.random.Generator, rate: float) -> list[str]:
    """Empty some of the captions, each by itself, for classifier-free guidance."""
    return ["" if rng.random() < rate else text for text in texts]


def save_memory(networks: Iterable[Any]) -> None:
    """Keep the inputs of blocks only, and compute their activations again in the backward pass."""
    for network in networks:
        network.enable_gradient_checkpointing()


def channels_last(module: nn.Module) -> nn.Module:
    """Lay out every 2-D convolution's weight for the faster kernels (only those: other layers reject it)."""
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return module


def plain_attention(unet: Any) -> None:
    """On a CPU, replace the fused attention of a U-Net that is trained (through), as in the connectors."""
    if unet.device.type == "cpu":
        unet.set_attn_processor(AttnProcessor())


def sample_base(
    predict: Callable[[Tensor, Tensor], Tensor],
    shape: tuple[int, ...],
    process: Process,
) -> Tensor:
    """DDIM samples of one base alone: ``predict(latents, levels)`` is the network's output. Seed 0."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    path = [*process.snapped(np.arange(1, SAMPLE_STEPS + 1) / SAMPLE_STEPS), CLEAN]
    for level, following in pairwise(path):
        output = predict(x, torch.full((shape[0],), level, dtype=torch.float64))
        x = process.noised(*process.split(x, output, level), following)
    return x

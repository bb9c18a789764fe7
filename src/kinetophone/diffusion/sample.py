"""The joint sampler of audio and video latents, with separate noise levels for the two modalities.

The sampler takes the prediction as a function, so that tests can use the exact prediction for a known
distribution. :func:`kinetophone.diffusion.guidance.guided` builds that function from a joint model.

Shape legend: B batch; latents (B, C, time, …), levels (B,) in [0, 1] on the CPU.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kinetophone.av import AV, MODALITIES
from kinetophone.diffusion.inpainting import Given
from kinetophone.diffusion.process import CLEAN, Process
from kinetophone.diffusion.settings import Stepper
from kinetophone.diffusion.steppers import STEPPERS

Predict = Callable[[AV[Tensor], AV[Tensor], AV[Tensor] | None], AV[Tensor]]
"""``predict(latents, levels, x0_hat)`` -> outputs of both networks; x0_hat is None in the first step."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of a sampling run after a step.

    Args:
        step: number of finished steps, from 1.
        steps: total number of steps.
        levels: noise levels at the start of the step.
        latents: latents after the step.
        x0_hat: estimates of the clean latents in the step.
    """

    step: int
    steps: int
    levels: AV[float]
    latents: AV[Tensor]
    x0_hat: AV[Tensor]


@torch.no_grad()
def sample_joint(
    predict: Predict,
    noise: AV[Tensor],
    path: AV[Tensor],
    processes: AV[Process],
    callback: Callable[[Progress], None] | None = None,
    given: AV[Given | None] | None = None,
    leak: AV[Tensor | None] | None = None,
    stepper: Stepper = "ddim",
) -> AV[Tensor]:
    """Denoise both modalities together, each with its own noise levels (arXiv 2409.17550, section 3.3).

    ``predict`` gets the clean estimates of the previous step (self-conditioning), made from its guided
    prediction.

    Args:
        predict: the prediction, e.g. from :func:`kinetophone.diffusion.guidance.guided`.
        noise: unit Gaussian latents, e.g. from :func:`initial_noise`.
        path: levels (steps,) of each modality, from noisy to clean, e.g. from ``clocks.power_path``.
        processes: noise process of each modality.
        callback: called after each step.
        given: known latents of each modality, which are kept. A complete track enters clean, at its lowest
            trained level; a part of a track replaces the latents in each step, noised to their level.
        leak: clean latents of each modality that are mixed into the initial noise; they must broadcast to
            ``noise``. See :mod:`kinetophone.diffusion.signal_leak`. None: pure noise.
        stepper: the update rule of a step; see :mod:`kinetophone.diffusion.steppers`.

    Returns:
        The clean latents, with the shapes and dtypes of ``noise``.

    Raises:
        ValueError: the paths differ in length or are empty.
        FloatingPointError: latents became infinite or NaN; names the step.
    """
    steps = len(path.audio)
    if steps != len(path.video) or not steps:
        raise ValueError(
            f"the audio path has {steps} levels and the video path {len(path.video)}; "
            "both modalities take the same number of steps, at least one"
        )
    given = given or AV.both(None)
    path = path.map(_waiting, given, processes)
    first: AV[float] = path.map(lambda levels: float(levels[0]))
    latents, x0_hat = noise.map(_leaked, leak or AV.both(None), processes, first), None
    latents = latents.map(_held, given, noise, processes, first)
    step = AV(audio=STEPPERS[stepper](), video=STEPPERS[stepper]())
    for k in range(steps):
        levels: AV[float] = path.map(lambda own, k=k: float(own[k]))
        following: AV[float] = path.map(lambda own, k=k: float(own[k + 1]) if k + 1 < steps else CLEAN)
        output = predict(latents, latents.map(_batch_of, levels), x0_hat)
        output = output.map(lambda o, x: o.to(x.dtype), latents)
        split: AV[tuple[Tensor, Tensor]] = processes.map(
            lambda process, *of: process.split(*of), latents, output, levels
        )
        x0_hat = split.map(lambda estimates, known: _settled(estimates[0], known), given)
        noise_hat: AV[Tensor] = split.map(lambda estimates: estimates[1])
        latents = step.map(
            lambda one, *of: one(*of), processes, latents, x0_hat, noise_hat, levels, following
        )
        latents = latents.map(_held, given, noise, processes, following)
        for modality in MODALITIES:
            if not torch.isfinite(getattr(latents, modality)).all():
                raise FloatingPointError(
                    f"the {modality} latents are no longer finite after step {k + 1} of {steps} "
                    f"(level {getattr(levels, modality):.3f}): lower the guidance, or use float32 if this "
                    "run is in half precision"
                )
        if callback is not None:
            callback(Progress(k + 1, steps, levels, latents, x0_hat))
    return latents.map(_settled, given)


def initial_noise(
    shapes: AV[Sequence[int]],
    seeds: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> AV[Tensor]:
    """Unit Gaussian noise with one generator per sample, so that a sample does not depend on the batch.

    It is always drawn on the CPU in float32, so a seed gives the same noise for every device and dtype.

    Args:
        shapes: latent shapes without the batch, audio (C, L, M), video (C, T, H, W).
        seeds: one seed per sample.
        device: device of the result.
        dtype: dtype of the result.

    Returns:
        Noise (B, …) for :func:`sample_joint`, B = len(seeds).

    Raises:
        ValueError: there is no seed.
    """
    if not seeds:
        raise ValueError("seeds is empty: give one seed per sample")
    drawn: list[AV[Tensor]] = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(operator.index(seed))
        drawn.append(shapes.map(lambda shape, g=generator: torch.randn(*shape, generator=g)))
    stacked = AV(audio=torch.stack([x.audio for x in drawn]), video=torch.stack([x.video for x in drawn]))
    return stacked.map(lambda x: x.to(device=device, dtype=dtype))


def _waiting(levels: Tensor, given: Given | None, process: Process) -> Tensor:
    """The levels, or for a complete given track the lowest trained level in every step."""
    return torch.full_like(levels, process.least) if given is not None and given.complete else levels


def _leaked(noise: Tensor, leak: Tensor | None, process: Process, level: float) -> Tensor:
    return noise if leak is None else process.noised(leak.to(noise), noise, level)


def _held(x: Tensor, given: Given | None, noise: Tensor, process: Process, level: float) -> Tensor:
    if given is None:
        return x
    return given.settle(x) if given.complete else given.hold(x, noise, process, level)


def _settled(x: Tensor, given: Given | None) -> Tensor:
    return x if given is None else given.settle(x)


def _batch_of(x: Tensor, level: float) -> Tensor:
    return torch.full((x.shape[0],), level, dtype=torch.float64)

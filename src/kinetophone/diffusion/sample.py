"""Sampling sound and picture together, on two clocks.

The sampler is a pure function over a callable, so that it can be tested with a known distribution's exact
noise; :func:`kinetophone.diffusion.guidance.guided` makes that callable of a joint model.

Shape legend: B batch; audio latents (B, C, L, M), video latents (B, C, T, H, W), timesteps (B,).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kinetophone.av import AV, MODALITIES
from kinetophone.diffusion.inpainting import Given
from kinetophone.diffusion.process import END, NoiseSchedule, add_noise, clean_estimate
from kinetophone.diffusion.settings import Stepper
from kinetophone.diffusion.steppers import STEPPERS

Predict = Callable[[AV[Tensor], AV[Tensor], AV[Tensor] | None], AV[Tensor]]
"""``predict(latents, timesteps, x0_hat)`` -> noise in both latents; x0_hat is None at the first step."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a sampling run is: ``step`` of ``steps`` is done.

    Args:
        step: steps done, from 1.
        steps: steps of the run.
        timesteps: local timesteps that the step started from.
        latents: latents after the step.
        x0_hat: estimates of the clean latents made in the step.
    """

    step: int
    steps: int
    timesteps: AV[int]
    latents: AV[Tensor]
    x0_hat: AV[Tensor]


@torch.no_grad()
def sample_joint(
    predict: Predict,
    noise: AV[Tensor],
    grids: AV[Tensor],
    schedules: AV[NoiseSchedule],
    callback: Callable[[Progress], None] | None = None,
    given: AV[Given | None] | None = None,
    leak: AV[Tensor | None] | None = None,
    stepper: Stepper = "ddim",
) -> AV[Tensor]:
    """Denoise both modalities in lockstep, each on its own clock (arXiv 2409.17550, section 3.3).

    Each step hands ``predict`` the clean estimates of the step before (self-conditioning), made from the
    same, guided noise that the step itself used.

    Args:
        predict: noise prediction, e.g. from :func:`kinetophone.diffusion.guidance.guided`.
        noise: unit Gaussian latents, e.g. from :func:`initial_noise`.
        grids: integer timesteps from noisy to clean, of equal length, e.g. from ``clocks.local_grids``.
        schedules: noise schedule of each modality.
        callback: called after each step.
        given: of each modality, what is known already and must be kept. A complete track enters at timestep
            0, clean; a stretch is put into the latents at each step, noised to their level.
        leak: of each modality, clean latents of which the first timestep still shows a trace, in shapes that
            broadcast to those of ``noise``; see :mod:`kinetophone.diffusion.signal_leak`. None: pure noise.
        stepper: how a step is made of the estimate; see :mod:`kinetophone.diffusion.steppers`.

    Returns:
        The clean latents, in the shapes and dtypes of ``noise``.

    Raises:
        ValueError: if the grids differ in length or are empty.
        FloatingPointError: if a latent becomes infinite or NaN; says at which step.
    """
    steps = len(grids.audio)
    if steps != len(grids.video) or not steps:
        raise ValueError(
            f"the audio grid has {steps} timesteps and the video grid {len(grids.video)}; "
            "both modalities take the same number of steps, at least one"
        )
    given = given or AV.both(None)
    grids = grids.map(lambda grid, g: torch.zeros_like(grid) if g is not None and g.complete else grid, given)
    first: AV[int] = grids.map(lambda grid: int(grid[0]))
    latents, x0_hat = noise.map(_leaked, leak or AV.both(None), first, schedules), None
    latents = latents.map(_held, given, noise, first, schedules)
    step = AV(audio=STEPPERS[stepper](), video=STEPPERS[stepper]())
    for k in range(steps):
        timesteps: AV[int] = grids.map(lambda grid, k=k: int(grid[k]))
        following: AV[int] = grids.map(lambda grid, k=k: int(grid[k + 1]) if k + 1 < steps else END)
        eps = predict(latents, latents.map(_batch_of, timesteps), x0_hat)
        eps = eps.map(lambda e, x: e.to(x.dtype), latents)
        alphas = schedules.map(_alpha, timesteps)
        x0_hat = latents.map(clean_estimate, eps, alphas).map(_settled, given)
        alphas_next = schedules.map(_alpha, following)
        latents = step.map(lambda one, *of: one(*of), latents, x0_hat, eps, alphas, alphas_next)
        latents = latents.map(_held, given, noise, following, schedules)
        for modality in MODALITIES:
            if not torch.isfinite(getattr(latents, modality)).all():
                raise FloatingPointError(
                    f"the {modality} latents are no longer finite after step {k + 1} of {steps} "
                    f"(timestep {getattr(timesteps, modality)}): lower the guidance, or use float32 if this "
                    "run is in half precision"
                )
        if callback is not None:
            callback(Progress(k + 1, steps, timesteps, latents, x0_hat))
    return latents.map(_settled, given)


def initial_noise(
    shapes: AV[Sequence[int]],
    seeds: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> AV[Tensor]:
    """Unit Gaussian noise with one generator per sample, so that sample i does not depend on the batch.

    Drawn on the CPU in float32 whatever the device and dtype, so a seed means the same everywhere.

    Args:
        shapes: latent shapes without the batch, audio (C, L, M), video (C, T, H, W).
        seeds: one seed per sample.
        device: where the noise goes.
        dtype: what it is cast to.

    Returns:
        Noise (B, …) for :func:`sample_joint`, B = len(seeds).

    Raises:
        ValueError: if there is no seed.
    """
    if not seeds:
        raise ValueError("seeds is empty: give one seed per sample")
    drawn: list[AV[Tensor]] = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(operator.index(seed))
        drawn.append(shapes.map(lambda shape, g=generator: torch.randn(*shape, generator=g)))
    stacked = AV(audio=torch.stack([x.audio for x in drawn]), video=torch.stack([x.video for x in drawn]))
    return stacked.map(lambda x: x.to(device=device, dtype=dtype))


def _leaked(noise: Tensor, leak: Tensor | None, timestep: int, schedule: NoiseSchedule) -> Tensor:
    return noise if leak is None else add_noise(leak.to(noise), noise, _alpha(schedule, timestep))


def _held(x: Tensor, given: Given | None, noise: Tensor, timestep: int, schedule: NoiseSchedule) -> Tensor:
    if given is None:
        return x
    return given.settle(x) if given.complete else given.hold(x, noise, _alpha(schedule, timestep))


def _settled(x: Tensor, given: Given | None) -> Tensor:
    return x if given is None else given.settle(x)


def _batch_of(x: Tensor, timestep: int) -> Tensor:
    return torch.full((x.shape[0],), timestep, dtype=torch.int64, device=x.device)


def _alpha(schedule: NoiseSchedule, timestep: int) -> float:
    return float(schedule.alpha(torch.tensor(timestep)))

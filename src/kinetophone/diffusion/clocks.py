"""Timestep adjustment: one global clock sets the noise levels of both modalities.

The joint model is trained with independently drawn noise levels of the two modalities, so either can be
denoised ahead of the other. A *path* maps the global clock, which runs from 1 to 0, to a level of each
modality:

- power: the paper's timestep adjustment (arXiv 2409.17550, section 3.3), u_video = u^√γ, u_audio = u^(1/√γ),
  so that u_video = u_audio^γ. γ = 1 changes nothing; γ > 1 keeps video cleaner than audio. The published
  default is 1.5;
- offset: the log SNR of the video is that of the audio plus a constant. Two flow models with shifts s_audio
  and s_video on one clock are on such a path, with the offset 2·ln(s_audio / s_video);
- table: interpolates any pairs of levels;
- reference: the timestep grids of the published implementation.

A path is an ``AV`` of levels (steps,), float64, from noisy to clean; sampling ends at the level 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kinetophone.av import AV
from kinetophone.diffusion.process import Discrete, Process
from kinetophone.diffusion.settings import MOST_STEPS, Settings
from kinetophone.errors import UserError

DEFAULT_GAMMA = 1.5
Spacing = Literal["trailing", "reference"]


def path_of(processes: AV[Process], settings: Settings, spacing: Spacing = "trailing") -> AV[Tensor]:
    """The path for these settings; ``spacing`` applies only to timestep adjustment by γ.

    Raises:
        UserError: a setting is out of range.
    """
    steps = settings.steps
    if settings.clock_table is not None:
        return table_path(processes, steps, settings.clock_table)
    if settings.snr_offset is not None:
        return offset_path(processes, steps, settings.snr_offset)
    if spacing == "reference":
        return reference_path(processes, steps, settings.gamma)
    return power_path(processes, steps, settings.gamma)


def power_path(processes: AV[Process], steps: int, gamma: float = DEFAULT_GAMMA) -> AV[Tensor]:
    """Timestep adjustment (arXiv 2409.17550, section 3.3). The global clock takes k/steps for k = steps…1.

    Both modalities start at their noisiest trained level, and levels fall strictly, so no step is wasted. The
    last step goes to level 0 and removes all noise.

    Args:
        processes: noise processes of the bases.
        steps: number of denoising steps, 1…1000.
        gamma: adjustment γ > 0.

    Returns:
        Levels (steps,) of each modality, float64, falling.

    Raises:
        UserError: an argument is out of range.
    """
    _check_steps(steps)
    clock = np.arange(1, steps + 1) / steps
    return _snapped(processes, exponents(gamma).map(lambda exponent: clock**exponent))


def offset_path(processes: AV[Process], steps: int, offset: float = 0.0) -> AV[Tensor]:
    """Levels at which the log SNR of the video is that of the audio plus ``offset``.

    If one process covers a smaller range of log SNR, its modality stays at its first or last level in the
    meantime. With the published schedules, the video is never as noisy as the audio is above timestep 863.
    Steps are spaced evenly in the mean of the two levels.

    Args:
        processes: noise processes of the bases.
        steps: number of denoising steps, 1…1000.
        offset: natural log of SNR_video / SNR_audio.

    Raises:
        UserError: an argument is out of range.
    """
    if not math.isfinite(offset):
        raise UserError(f"the offset of log SNR is {offset}: it must be finite (0 gives both the same SNR)")
    _check_steps(steps)
    tables = processes.map(lambda process: process.log_snr_table())
    offsets = AV(audio=0.0, video=offset)
    # The clock is the log SNR of the audio, from where both are noisiest to where both are cleanest.
    ends = tables.map(lambda table, shift: (table[1][-1] - shift, table[1][0] - shift), offsets)
    clock = np.linspace(min(ends.audio[0], ends.video[0]), max(ends.audio[1], ends.video[1]), 20 * MOST_STEPS)
    levels: AV[np.ndarray] = tables.map(
        # np.interp needs rising x values, and clamps outside their range.
        lambda table, shift: np.interp(clock + shift, table[1][::-1], table[0][::-1]),
        offsets,
    )
    mean = (levels.audio + levels.video) / 2
    wanted = np.arange(1, steps + 1) / steps
    index = np.searchsorted(-mean, -wanted - 1e-12, side="left").clip(max=len(clock) - 1)
    return _snapped(processes, levels.map(lambda u: u[index]))


def table_path(processes: AV[Process], steps: int, table: Sequence[tuple[float, float]]) -> AV[Tensor]:
    """Linear interpolation of pairs of levels, which are evenly spaced in the global clock.

    Args:
        processes: noise processes of the bases.
        steps: number of denoising steps, 1…1000.
        table: pairs (audio, video) of levels, noisiest first; from (1, 1) to (0, 0), never rising.

    Raises:
        UserError: the table is invalid, or an argument is out of range.
    """
    _check_steps(steps)
    pairs = np.asarray(table, np.float64)
    if pairs.ndim != 2 or pairs.shape[1:] != (2,) or len(pairs) < 2 or not np.isfinite(pairs).all():
        raise UserError("the clock table must have two or more pairs of levels (audio, video)")
    if (np.diff(pairs, axis=0) > 0).any() or (pairs[0] != 1).any() or (pairs[-1] != 0).any():
        raise UserError("both columns of the clock table must fall from 1 to 0")
    clock, place = np.arange(1, steps + 1) / steps, np.linspace(1, 0, len(pairs))
    rising = AV(*(np.interp(clock, place[::-1], pairs[::-1, k]) for k in range(2)))
    return _snapped(processes, rising)


def reference_path(processes: AV[Process], steps: int, gamma: float = DEFAULT_GAMMA) -> AV[Tensor]:
    """The grid of the published implementation: each modality adjusts the timesteps of its own scheduler.

    Its video grid ends at timestep 0, and its final alpha_cumprod is also that of timestep 0. The last call
    of the video network therefore has no effect. A large γ can repeat a timestep.

    Raises:
        UserError: an argument is out of range, or a base has no diffusers scheduler.
    """
    _check_steps(steps)

    def adjusted(exponent: float, process: Process) -> Tensor:
        if not isinstance(process, Discrete):
            raise UserError("sampling 'reference' needs bases with a diffusers scheduler; use 'trailing'")
        last, grid = process.steps, process.native_timesteps(steps)
        timesteps = np.minimum(np.round(last * (grid / last) ** exponent), last - 1)
        return process.level(torch.from_numpy(timesteps))

    return exponents(gamma).map(adjusted, processes)


def exponents(gamma: float) -> AV[float]:
    """Exponents of the global clock in timestep adjustment: 1/√γ for audio, √γ for video.

    Raises:
        UserError: γ is not positive and finite.
    """
    if not (math.isfinite(gamma) and gamma > 0):
        raise UserError(f"gamma is {gamma}: timestep adjustment needs a positive, finite γ (1 for none)")
    return AV(audio=1 / math.sqrt(gamma), video=math.sqrt(gamma))


def _check_steps(steps: int) -> None:
    if not 1 <= steps <= MOST_STEPS:
        raise UserError(f"steps is {steps}: choose 1 to {MOST_STEPS} denoising steps")


def _snapped(processes: AV[Process], rising: AV[np.ndarray]) -> AV[Tensor]:
    return rising.map(lambda levels, process: torch.from_numpy(process.snapped(levels)), processes)

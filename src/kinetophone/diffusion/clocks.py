"""Two clocks: how far each modality is along, when one global clock drives both (timestep adjustment).

The joint model is trained with the noise levels of the two modalities drawn independently, so at sampling
time either may run ahead of the other. Timestep adjustment (arXiv 2409.17550, section 3.3) keeps one
global clock t in [0, T_max] and reads two local ones off it:

    t_video = T_max · (t / T_max)^√γ        t_audio = T_max · (t / T_max)^(1/√γ)

so that t_video / T_max = (t_audio / T_max)^γ. γ = 1 adjusts nothing; γ > 1 keeps video cleaner than audio.
The published default is 1.5.

Timestep adjustment knows no noise schedules. :func:`snr_grids` goes by them: it keeps the log SNR of the
picture a constant above that of the sound (0: both equally noisy, at every step).
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from kinetophone.av import AV
from kinetophone.errors import UserError

T_MAX = 1000
DEFAULT_GAMMA = 1.5
Spacing = Literal["trailing", "reference"]
Time = TypeVar("Time", float, np.ndarray, Tensor)


def local_times(t: Time, gamma: float, t_max: float = T_MAX) -> AV[Time]:
    """Read both local clocks.

    Args:
        t: global time in [0, t_max], a number or an array.
        gamma: adjustment γ > 0.
        t_max: length of all three clocks.

    Returns:
        Local times in [0, t_max], in the type of ``t``, unrounded.

    Raises:
        UserError: if ``gamma`` is not positive and finite.
    """
    exponents = _exponents(gamma)
    return exponents.map(lambda exponent: t_max * (t / t_max) ** exponent)


def local_grids(
    schedulers: AV[Any], steps: int, gamma: float = DEFAULT_GAMMA, spacing: Spacing = "trailing"
) -> AV[Tensor]:
    """The integer timesteps at which each modality is denoised.

    - "trailing" (ours): the global clock runs over T_max·k/steps for k = steps…1, the same for both
      modalities, so both start at the last trained timestep, neither wastes a step, and the grids are
      strictly decreasing. Go with it to a final alpha_cumprod of 1: the last step removes all the noise.
    - "reference" (the published implementation): each modality adjusts the grid of its own scheduler. Its
      video grid ends at t = 0, where its final alpha_cumprod is that of t = 0 again: the last call of the
      video U-Net changes nothing. Large γ can repeat a timestep.

    Args:
        schedulers: diffusers schedulers, whose configurations say how many timesteps were trained and (for
            "reference") how the native grid is spaced. Not modified.
        steps: number of denoising steps, 1…T_max.
        gamma: adjustment γ > 0.
        spacing: "trailing" or "reference".

    Returns:
        int64 grids (steps,), from noisy to clean.

    Raises:
        UserError: if an argument is out of range.
        ValueError: if a scheduler was not trained on T_max timesteps.
    """
    exponents = _exponents(gamma)
    _check_steps(steps)
    _check_length(schedulers)
    if spacing == "trailing":
        grids = exponents.map(lambda exponent: _trailing_grid(steps, exponent))
    elif spacing == "reference":
        grids = exponents.map(
            lambda exponent, scheduler: _adjusted(_native_grid(scheduler, steps), exponent), schedulers
        )
    else:
        raise UserError(f"spacing is {spacing!r}, not 'trailing' or 'reference'")
    return grids.map(lambda grid: torch.from_numpy(grid.astype(np.int64)))


def snr_grids(schedulers: AV[Any], steps: int, offset: float = 0.0) -> AV[Tensor]:
    """Timesteps at which the picture's log SNR is the sound's plus ``offset``.

    Where one schedule does not reach as far as the other, its modality waits at the end of its clock: with
    the published schedules the picture is never as noisy as the sound above t_audio = 863. Steps are spaced
    evenly in the mean of the two times.

    Args:
        schedulers: diffusers schedulers trained on T_max timesteps. Not modified.
        steps: number of denoising steps, 1…T_max.
        offset: natural log of the ratio of the signal-to-noise ratios, picture to sound.

    Returns:
        int64 grids (steps,), from noisy to clean, strictly decreasing from T_max - 1.

    Raises:
        UserError: if an argument is out of range.
        ValueError: if a scheduler was not trained on T_max timesteps.
    """
    if not math.isfinite(offset):
        raise UserError(f"the offset of log SNR is {offset}: it must be finite (0 matches both)")
    _check_steps(steps)
    _check_length(schedulers)
    log_snr = schedulers.map(log_snr_of)
    offsets = AV(audio=0.0, video=offset)
    # The clock: log SNR of the sound, from where both are all noise to where both are clean.
    ends = log_snr.map(lambda values, shift: (values[-1] - shift, values[0] - shift), offsets)
    clock = np.linspace(min(ends.audio[0], ends.video[0]), max(ends.audio[1], ends.video[1]), 20 * T_MAX)
    times: AV[np.ndarray] = log_snr.map(
        # np.interp wants rising values and stays at the ends beyond them.
        lambda values, shift: np.interp(clock + shift, values[::-1], np.arange(T_MAX)[::-1]),
        offsets,
    )
    mean = (times.audio + times.video) / 2 + 1
    wanted = T_MAX * np.arange(1, steps + 1) / steps
    index = np.searchsorted(-mean, -wanted, side="left").clip(max=len(clock) - 1)
    return times.map(lambda t: torch.from_numpy(_falling(np.round(t[index])).astype(np.int64)))


def log_snr_of(scheduler: Any) -> np.ndarray:
    """Natural log of the signal-to-noise ratio at every trained timestep, falling."""
    alpha = DDIMScheduler.from_config(scheduler.config).alphas_cumprod.double().numpy()
    return np.log(alpha) - np.log1p(-alpha)


def _check_steps(steps: int) -> None:
    if not 1 <= steps <= T_MAX:
        raise UserError(f"steps is {steps}: choose 1 to {T_MAX} denoising steps")


def _check_length(schedulers: AV[Any]) -> None:
    for modality, scheduler in (("audio", schedulers.audio), ("video", schedulers.video)):
        if scheduler.config.num_train_timesteps != T_MAX:
            raise ValueError(
                f"the {modality} scheduler has num_train_timesteps {scheduler.config.num_train_timesteps}; "
                f"the local clocks are defined for {T_MAX}"
            )


def _exponents(gamma: float) -> AV[float]:
    if not (math.isfinite(gamma) and gamma > 0):
        raise UserError(f"gamma is {gamma}: timestep adjustment needs a positive, finite γ (1 for none)")
    return AV(audio=1 / math.sqrt(gamma), video=math.sqrt(gamma))


def _native_grid(scheduler: Any, steps: int) -> np.ndarray:
    """Timesteps that a scheduler of this configuration would step through by itself."""
    fresh = DDIMScheduler.from_config(scheduler.config)  # a copy: set_timesteps changes its scheduler
    fresh.set_timesteps(steps)
    return fresh.timesteps.numpy()


def _adjusted(grid: np.ndarray, exponent: float) -> np.ndarray:
    return np.minimum(np.round(T_MAX * (grid / T_MAX) ** exponent), T_MAX - 1)


def _trailing_grid(steps: int, exponent: float) -> np.ndarray:
    """Rounded local times T_MAX·(k/steps)^exponent - 1, k = steps…1, strictly decreasing within 0…999."""
    k = np.arange(1, steps + 1)
    return _falling(np.round(T_MAX * (k / steps) ** exponent) - 1)


def _falling(ascending: np.ndarray) -> np.ndarray:
    """Rising timesteps within 0…999 turned round, no two alike.

    Where a clock crowds, neighbours round to one timestep: they are pushed apart, up from 0 (the excess of
    each over its index must not fall), then down from 999.
    """
    steps = len(ascending)
    k = np.arange(1, steps + 1)
    ascending = np.maximum.accumulate(np.maximum(ascending, 0) - k) + k
    return np.minimum(ascending, T_MAX - 1 - (steps - k))[::-1]

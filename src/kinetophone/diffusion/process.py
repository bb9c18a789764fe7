"""Noise processes: one interface for DDPM, cosine and rectified-flow models.

Every process is x = a·x0 + b·ε. Its noise *level* u in [0, 1] is 0 for clean and 1 for the noisiest latents.
A process maps u to a, b and the time input of its network, and converts the network's output into estimates
of x0 and ε:

| process | a, b | output | network time |
|---|---|---|---|
| DDPM, as a diffusers scheduler describes it | √ᾱ, √(1 - ᾱ) | ε, or v = a·ε - b·x0 | index 0…T-1 |
| cosine (Stable Audio Open) | cos(π·u/2), sin(π·u/2) | v | u |
| rectified flow (Wan, LTX, Stable Audio 3) | 1 - σ, σ | ε - x0 | σ times a scale |

One sampling step then works for all: x' = a'·x0 + b'·ε is DDIM with η = 0 (arXiv 2010.02502) for the first
two and an Euler step for the third. Levels are float64: one number for the batch or a tensor (B,).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor

Level = float | Tensor
Output = Literal["epsilon", "v", "flow"]
CLEAN = 0.0  # the level after the last step
_TABLE = 2000  # points of the log SNR table of a continuous process


class Process(ABC):
    """Maps levels to signal and noise, and a network's output to estimates of both.

    Attributes:
        output: What the network predicts.
        least, most: The range of trained levels; sampling starts at ``most``.
    """

    output: Output
    least: float = 0.0
    most: float = 1.0

    @abstractmethod
    def coefficients(self, level: Level) -> tuple[Tensor, Tensor]:
        """a and b at a level, float64 with its shape."""

    @abstractmethod
    def network_time(self, level: Tensor) -> Tensor:
        """The time input of the network at levels (B,)."""

    @abstractmethod
    def snapped(self, rising: np.ndarray) -> np.ndarray:
        """Convert rising levels to a sampling path: the nearest levels of the process, falling."""

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator, power: float = 1.0) -> Tensor:
        """Draw levels (count,) for training from the base's own distribution, stratified over the batch.

        A ``power`` above 1 shifts the distribution towards clean levels.
        """

    def log_snr(self, level: Level) -> Tensor:
        """λ = ln(a² / b²), float64; infinite without noise or without signal."""
        a, b = self.coefficients(level)
        return 2 * (a.log() - b.log())

    def log_snr_table(self) -> tuple[np.ndarray, np.ndarray]:
        """Rising levels over the trained range, and the falling λ at each."""
        levels = np.linspace(max(self.least, 1 / _TABLE), min(self.most, 1 - 1 / _TABLE), _TABLE)
        return levels, self.log_snr(torch.from_numpy(levels)).numpy()

    def noised(self, x0: Tensor, noise: Tensor, level: Level) -> Tensor:
        """x = a·x0 + b·ε at a level, with the shape (B, …) of ``x0``."""
        a, b = self._broadcast(level, x0)
        return a * x0 + b * noise

    def split(self, x: Tensor, output: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """Estimates of x0 and ε from the network's output for ``x`` at a level, with the shape of ``x``."""
        a, b = self._broadcast(level, x)
        if self.output == "epsilon":
            return (x - b * output) / a, output
        if self.output == "v":
            return a * x - b * output, b * x + a * output
        return x - b * output, x + a * output

    def target(self, x0: Tensor, noise: Tensor, level: Level) -> Tensor:
        """The training target of the network for ``x0`` noised to a level."""
        if self.output == "epsilon":
            return noise
        if self.output == "flow":
            return noise - x0
        a, b = self._broadcast(level, x0)
        return a * noise - b * x0

    def angle(self, level: Level) -> Tensor:
        """The signal-to-noise ratio as a number from 0 (clean) to 1 (noise): (2/π)·atan(b / a), float64.

        Unlike a level, it means the same for every process; unlike λ, it is finite at both ends.
        """
        a, b = self.coefficients(level)
        return torch.atan2(b, a) * (2 / math.pi)

    def level_at(self, angle: np.ndarray) -> np.ndarray:
        """The levels of signal-to-noise ratios given by :meth:`angle`, up to the spacing of a table."""
        levels, log_snr = self.log_snr_table()
        rising = np.arctan(np.exp(-log_snr / 2)) * (2 / math.pi)
        return np.interp(angle, rising, levels)

    def noise_error_scale(self, level: Level) -> Tensor:
        """What a squared error of the network's output is multiplied by to give that of the noise ε.

        1 for a network that predicts ε. For v and for a flow, ε̂ is x̂ plus a times the output, so it is a².
        """
        a, _ = self.coefficients(level)
        return torch.ones_like(a) if self.output == "epsilon" else a.square()

    def velocity_error_scale(self, level: Level) -> Tensor:
        """What a squared error of the network's output is multiplied by to give that of v.

        v is that of the variance-preserving process with the same signal-to-noise ratio. Its error is the
        same however a network is parametrised, and neither 0 nor infinite at either end.
        """
        a, b = self.coefficients(level)
        power = a.square() + b.square()
        return power / a.square() if self.output == "epsilon" else power

    def _broadcast(self, level: Level, x: Tensor) -> tuple[Tensor, Tensor]:
        """a and b with dtype and device of ``x``, shaped to broadcast over (B, …).

        Computed in float64, so that b is precise near 0, and on the CPU: some devices have no float64.
        """
        a, b = self.coefficients(level)
        if a.dim():
            a, b = (c.reshape(-1, *[1] * (x.dim() - 1)) for c in (a, b))
        return a.to(x.dtype).to(x.device), b.to(x.dtype).to(x.device)


def _stratified(count: int, generator: torch.Generator) -> Tensor:
    return (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count


@dataclass(frozen=True, eq=False)
class Discrete(Process):
    """The DDPM process of a diffusers scheduler: T trained timesteps, timestep t at the level (t + 1) / T.

    Args:
        alphas_cumprod: ᾱ_t, float64 (T,), falling.
        final_alpha_cumprod: ᾱ at level 0.
        output: "epsilon" or "v".
        config: configuration of the scheduler, for :meth:`native_timesteps`.
    """

    alphas_cumprod: Tensor
    final_alpha_cumprod: float = 1.0
    output: Output = "epsilon"
    config: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_scheduler(cls, scheduler: Any, final_alpha_cumprod: float | None = 1.0) -> Discrete:
        """The process of a diffusers scheduler.

        Args:
            scheduler: any scheduler whose configuration DDIMScheduler understands.
            final_alpha_cumprod: ᾱ after the last step; 1 removes all noise. None follows the scheduler's
                ``set_alpha_to_one``: if that is false, as in the published setting, it is ᾱ_0, and the noise
                of timestep 0 remains.

        Raises:
            ValueError: the scheduler predicts neither noise nor v, or clips its clean estimate.
        """
        # DDIMScheduler clips by default, but a scheduler without this option does not.
        clip = scheduler.config.get("clip_sample", False)
        config = DDIMScheduler.from_config(scheduler.config, clip_sample=clip).config
        outputs: dict[str, Output] = {"epsilon": "epsilon", "v_prediction": "v"}
        if config.prediction_type not in outputs:
            raise ValueError(
                f"prediction_type is {config.prediction_type!r}; it must be {' or '.join(outputs)}"
            )
        for option in ("clip_sample", "thresholding"):
            if config[option]:
                raise ValueError(
                    f"{option} is set in the scheduler, but latents must not be clipped: set it to false"
                )
        ddim = DDIMScheduler.from_config(config)
        final = float(ddim.final_alpha_cumprod) if final_alpha_cumprod is None else final_alpha_cumprod
        return cls(ddim.alphas_cumprod.double(), final, outputs[config.prediction_type], dict(config))

    @property
    def steps(self) -> int:
        """T, the number of training timesteps."""
        return len(self.alphas_cumprod)

    @property
    def least(self) -> float:  # type: ignore[override]
        """The level of timestep 0."""
        return 1 / self.steps

    def level(self, timestep: Any) -> Any:
        """The level of a timestep, or of an array or tensor of timesteps; -1 is clean."""
        if isinstance(timestep, Tensor):
            timestep = timestep.double()
        return (timestep + 1) / self.steps

    def timestep(self, level: Level) -> Tensor:
        """The timestep nearest to a level, int64 on the CPU; -1 is clean."""
        return (torch.as_tensor(level, dtype=torch.float64) * self.steps).round().long() - 1

    def coefficients(self, level: Level) -> tuple[Tensor, Tensor]:
        timesteps = self.timestep(level).to(self.alphas_cumprod.device)
        known = self.alphas_cumprod[timesteps.clamp(min=0)]
        alpha = torch.where(timesteps < 0, self.final_alpha_cumprod, known)
        return alpha.sqrt(), (1 - alpha).sqrt()

    def network_time(self, level: Tensor) -> Tensor:
        return self.timestep(level).clamp(min=0)

    def log_snr_table(self) -> tuple[np.ndarray, np.ndarray]:
        alpha = self.alphas_cumprod.cpu().numpy()
        return (np.arange(self.steps) + 1) / self.steps, np.log(alpha) - np.log1p(-alpha)

    def snapped(self, rising: np.ndarray) -> np.ndarray:
        """Levels of distinct timesteps, falling.

        Close levels may round to the same timestep. Such timesteps are pushed apart: first upwards from 0 (by
        a running maximum of timestep minus index), then downwards from T - 1.
        """
        count = len(rising)
        k = np.arange(1, count + 1)
        t = np.round(self.steps * rising) - 1
        t = np.maximum.accumulate(np.maximum(t, 0) - k) + k
        return (np.minimum(t, self.steps - 1 - (count - k))[::-1] + 1) / self.steps

    def draw(self, count: int, generator: torch.Generator, power: float = 1.0) -> Tensor:
        u = _stratified(count, generator)
        return self.level((u**power * self.steps).long().clamp(max=self.steps - 1))

    def native_timesteps(self, steps: int) -> np.ndarray:
        """The timesteps that a scheduler with this configuration uses for ``steps`` steps."""
        fresh = DDIMScheduler.from_config(self.config)  # a copy, because set_timesteps modifies the scheduler
        fresh.set_timesteps(steps)
        return fresh.timesteps.numpy()


@dataclass(frozen=True)
class _Continuous(Process):
    least: float = 0.0
    most: float = 1.0

    def snapped(self, rising: np.ndarray) -> np.ndarray:
        # Start at the noisiest trained level, and do not go below the cleanest trained level before the end.
        return np.maximum(self.least, self.most * np.asarray(rising, np.float64))[::-1].copy()


@dataclass(frozen=True)
class Cosine(_Continuous):
    """Variance-preserving v prediction: a = cos(π·u/2), b = sin(π·u/2).

    Stable Audio Open is exactly this process with u = (2/π)·atan σ, where σ is its EDM noise, 0.3…500.
    """

    output: Output = "v"

    def coefficients(self, level: Level) -> tuple[Tensor, Tensor]:
        angle = torch.as_tensor(level, dtype=torch.float64) * (math.pi / 2)
        return angle.cos(), angle.sin()

    def network_time(self, level: Tensor) -> Tensor:
        return level

    def draw(self, count: int, generator: torch.Generator, power: float = 1.0) -> Tensor:
        u = _stratified(count, generator).double() ** power
        return self.least + (self.most - self.least) * u


@dataclass(frozen=True)
class Flow(_Continuous):
    """Rectified flow (arXiv 2209.03003): x = (1 - σ)·x0 + σ·ε, σ = s·u / (1 + (s - 1)·u) with the shift s.

    Args:
        shift: s; above 1, more steps are spent at high noise.
        time_scale: the time input of the network is σ times this.
        mean: mean of logit(u) in the training of the base.
        deviation: standard deviation of logit(u) in the training of the base.
    """

    output: Output = "flow"
    shift: float = 1.0
    time_scale: float = 1000.0
    mean: float = 0.0
    deviation: float = 1.0

    def sigma(self, level: Level) -> Tensor:
        """σ at a level, float64."""
        u = torch.as_tensor(level, dtype=torch.float64)
        return self.shift * u / (1 + (self.shift - 1) * u)

    def coefficients(self, level: Level) -> tuple[Tensor, Tensor]:
        sigma = self.sigma(level)
        return 1 - sigma, sigma

    def network_time(self, level: Tensor) -> Tensor:
        return self.sigma(level) * self.time_scale

    def draw(self, count: int, generator: torch.Generator, power: float = 1.0) -> Tensor:
        normal = torch.special.ndtri(_stratified(count, generator).double().clamp(1e-6, 1 - 1e-6))
        return torch.sigmoid(self.mean + self.deviation * normal) ** power

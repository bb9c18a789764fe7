"""Noise processes: what a noise level is, and what a network's output says, whatever model it is of.

Every process is x = a·x0 + b·ε. Its *level* u in [0, 1] is the clock of sampling: 0 is clean, 1 the noisiest.
A process maps u to a and b and to the time its network is told, and splits the network's output into
estimates of x0 and ε:

| process | a, b | output | network time |
|---|---|---|---|
| DDPM, as a diffusers scheduler describes it | √ᾱ, √(1 - ᾱ) | ε, or v = a·ε - b·x0 | index 0…T-1 |
| cosine (Stable Audio Open) | cos(π·u/2), sin(π·u/2) | v | u |
| rectified flow (Wan, LTX, Stable Audio 3) | 1 - σ, σ | ε - x0 | σ times a scale |

With these one step serves all: x' = a'·x0 + b'·ε is DDIM with η = 0 (arXiv 2010.02502) for the first two and
Euler's step for the third. Levels are float64: a number for a whole batch or a tensor (B,).
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
_TABLE = 2000  # points at which a continuous process is inverted


class Process(ABC):
    """Maps levels to signal and noise, and a network's output to estimates of both.

    Attributes:
        output: What the network predicts.
        least, most: The range of levels that it was trained on; sampling starts at ``most``.
    """

    output: Output
    least: float = 0.0
    most: float = 1.0

    @abstractmethod
    def coefficients(self, level: Level) -> tuple[Tensor, Tensor]:
        """a and b at a level, float64 in its shape."""

    @abstractmethod
    def network_time(self, level: Tensor) -> Tensor:
        """What the network is told as time at levels (B,)."""

    @abstractmethod
    def snapped(self, rising: np.ndarray) -> np.ndarray:
        """The levels nearest to rising ones that the process has, strictly falling: a path of sampling."""

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator, power: float = 1.0) -> Tensor:
        """Levels (count,) for training, drawn as the base was trained, stratified over the batch.

        ``power`` above 1 draws more of the cleaner ones.
        """

    def log_snr(self, level: Level) -> Tensor:
        """λ = ln(a² / b²), float64; infinite where there is no noise or no signal."""
        a, b = self.coefficients(level)
        return 2 * (a.log() - b.log())

    def log_snr_table(self) -> tuple[np.ndarray, np.ndarray]:
        """Rising levels over the trained range, and λ at each, falling."""
        levels = np.linspace(max(self.least, 1 / _TABLE), min(self.most, 1 - 1 / _TABLE), _TABLE)
        return levels, self.log_snr(torch.from_numpy(levels)).numpy()

    def noised(self, x0: Tensor, noise: Tensor, level: Level) -> Tensor:
        """x at a level, in the shape (B, …) of ``x0``."""
        a, b = self._broadcast(level, x0)
        return a * x0 + b * noise

    def split(self, x: Tensor, output: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """Estimates of x0 and ε from the network's output for ``x`` at a level, in the shape of ``x``."""
        a, b = self._broadcast(level, x)
        if self.output == "epsilon":
            return (x - b * output) / a, output
        if self.output == "v":
            return a * x - b * output, b * x + a * output
        return x - b * output, x + a * output

    def target(self, x0: Tensor, noise: Tensor, level: Level) -> Tensor:
        """What the network's output for the noised ``x0`` should be."""
        if self.output == "epsilon":
            return noise
        if self.output == "flow":
            return noise - x0
        a, b = self._broadcast(level, x0)
        return a * noise - b * x0

    def _broadcast(self, level: Level, x: Tensor) -> tuple[Tensor, Tensor]:
        """a and b as ``x`` is, shaped to broadcast over (B, …).

        Made in float64, so that b keeps its digits near 0, and not on the device, which may not have it.
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
        final_alpha_cumprod: ᾱ at the level 0.
        output: "epsilon" or "v".
        config: of the scheduler, for :meth:`native_timesteps`.
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
            final_alpha_cumprod: ᾱ at the end; 1 removes all the noise. None keeps to the scheduler's
                ``set_alpha_to_one``: where that is false, as in the published setting, ᾱ_0 (the noise of
                timestep 0 stays).

        Raises:
            ValueError: if the scheduler predicts neither noise nor v, or clips its clean estimate.
        """
        # Only DDIM's own default is to clip: a scheduler that does not know the option does not.
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
                    f"{option} is set in the scheduler, which latents do not allow: set it to false"
                )
        ddim = DDIMScheduler.from_config(config)
        final = float(ddim.final_alpha_cumprod) if final_alpha_cumprod is None else final_alpha_cumprod
        return cls(ddim.alphas_cumprod.double(), final, outputs[config.prediction_type], dict(config))

    @property
    def steps(self) -> int:
        """T, the number of trained timesteps."""
        return len(self.alphas_cumprod)

    @property
    def least(self) -> float:  # type: ignore[override]
        """The level of timestep 0."""
        return 1 / self.steps

    def level(self, timestep: Any) -> Any:
        """The level of a timestep, or of an array or tensor of them; -1 is clean."""
        if isinstance(timestep, Tensor):
            timestep = timestep.double()
        return (timestep + 1) / self.steps

    def timestep(self, level: Level) -> Tensor:
        """The trained timestep nearest to a level, int64 on the CPU; -1 where it is clean."""
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
        """Levels of trained timesteps, no two alike.

        Where a clock crowds, neighbours round to one timestep: they are pushed apart, up from 0 (the excess
        of each over its index must not fall), then down from T - 1.
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
        """Timesteps that a scheduler of this configuration would step through by itself."""
        fresh = DDIMScheduler.from_config(self.config)  # a copy: set_timesteps changes its scheduler
        fresh.set_timesteps(steps)
        return fresh.timesteps.numpy()


@dataclass(frozen=True)
class _Continuous(Process):
    least: float = 0.0
    most: float = 1.0

    def snapped(self, rising: np.ndarray) -> np.ndarray:
        # Sampling starts at the noisiest level that was trained; below the cleanest there is only the end.
        return np.maximum(self.least, self.most * np.asarray(rising, np.float64))[::-1].copy()


@dataclass(frozen=True)
class Cosine(_Continuous):
    """Variance-preserving v prediction on an angle: a = cos(π·u/2), b = sin(π·u/2).

    Stable Audio Open is exactly this on t = (2/π)·atan σ of its EDM noise σ 0.3…500.
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
        shift: s; above 1 more of the clock is spent at high noise.
        time_scale: the network is told σ times this.
        mean, deviation: of the logit of u that the base was trained with.
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

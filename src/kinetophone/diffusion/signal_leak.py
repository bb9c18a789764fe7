"""The trace of a clip in the noisiest latents a base was trained on, for sampling to start from.

At the last timestep ᾱ is small but not 0. What is the same at all times of a clip - its colours, its
loudness - can still be read off the mean over time, in which noise averages out: a base trusts what it reads,
and pure noise tells it that every clip is the average one. So sampling starts as training did, at
√ᾱ s + √(1 - ᾱ) ε, with s drawn from a Gaussian of the means over time (signal leak, arXiv 2309.15842).

Shape legend: B batch; audio latents (B, C, L, M), video latents (B, C, T, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kinetophone.diffusion.inpainting import Given

FILE = "signal_leak.safetensors"
_STREAM = 1  # of a seed's random numbers: the noise takes the first


@dataclass(frozen=True, slots=True, eq=False)
class SignalLeak:
    """A Gaussian of clean latents' means over time.

    Args:
        mean: float32 (C, M) or (C, H, W).
        root: lower Cholesky factor of the covariance, float32 (D, D), D the size of ``mean``.
    """

    mean: Tensor
    root: Tensor

    @classmethod
    def of(cls, latents: Any) -> SignalLeak:
        """Fitted to clean latents (N, C, L, M) or (N, C, T, H, W), NumPy arrays of any type."""
        means = np.stack([np.asarray(clip, np.float64).mean(axis=1) for clip in latents])
        flat = torch.from_numpy(means).flatten(1)
        covariance = torch.cov(flat.T)
        # Enough that directions in which nothing varies do not break the root.
        covariance += 1e-6 * covariance.diagonal().mean() * torch.eye(len(covariance))
        mean = torch.from_numpy(means.mean(axis=0))
        return cls(mean.float(), torch.linalg.cholesky(covariance).float().contiguous())

    def draw(self, seeds: Sequence[int], given: Given | None = None) -> Tensor:
        """A mean over time for each clip, (B, C, 1, …) or, of a stretch that all share, (1, C, 1, …).

        Args:
            seeds: one per clip; independent of ``initial_noise`` of the same seeds.
            given: what is known of the clips. The mean of a stretch of them stands for that of the whole.
        """
        if given is not None and given.keep.any() and not given.complete:
            return given.latents[:, :, given.keep].mean(dim=2, keepdim=True)
        drawn = []
        for seed in seeds:
            state = int(np.random.SeedSequence([seed, _STREAM]).generate_state(1, np.uint64)[0])
            generator = torch.Generator().manual_seed(state >> 1)
            drawn.append(self.root @ torch.randn(len(self.root), generator=generator))
        return (self.mean + torch.stack(drawn).unflatten(1, self.mean.shape)).unsqueeze(2)

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Write it beside a base's components."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file({"mean": self.mean.to(dtype), "root": self.root.to(dtype)}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> SignalLeak | None:
        """That of the base in ``folder``, if it has one."""
        from safetensors.torch import load_file

        if not (folder / FILE).is_file():
            return None
        found = load_file(folder / FILE)
        # Copies: files are mapped, and the last digit of a product depends on where its factors lie.
        return cls(found["mean"].float().clone(), found["root"].float().clone())

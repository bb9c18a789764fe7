"""Signal leak: initial latents with the trace of a clip that the noisiest trained level has.

At the last timestep ᾱ is small but not 0. Properties that stay constant over a clip, such as colours and
loudness, remain visible in the mean over time, where the noise averages out. A base has learnt to use them,
so pure noise biases it towards the average clip. Sampling therefore starts at √ᾱ s + √(1 - ᾱ) ε, as training
does, with s drawn from a Gaussian of the means over time (arXiv 2309.15842).

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
_STREAM = 1  # random stream of a seed; the noise uses another one


@dataclass(frozen=True, slots=True, eq=False)
class SignalLeak:
    """A Gaussian of the means over time of clean latents.

    Args:
        mean: float32 (C, M) or (C, H, W).
        root: lower Cholesky factor of the covariance, float32 (D, D); D is the number of values in ``mean``.
    """

    mean: Tensor
    root: Tensor

    @classmethod
    def of(cls, latents: Any) -> SignalLeak:
        """Fit to clean latents (N, C, L, M) or (N, C, T, H, W), NumPy arrays of any type."""
        means = np.stack([np.asarray(clip, np.float64).mean(axis=1) for clip in latents])
        flat = torch.from_numpy(means).flatten(1)
        covariance = torch.cov(flat.T)
        # Regularised, because directions without variance would break the factorisation.
        covariance += 1e-6 * covariance.diagonal().mean() * torch.eye(len(covariance))
        mean = torch.from_numpy(means.mean(axis=0))
        return cls(mean.float(), torch.linalg.cholesky(covariance).float().contiguous())

    def draw(self, seeds: Sequence[int], given: Given | None = None) -> Tensor:
        """Draw a mean over time for each clip: (B, C, 1, …), or (1, C, 1, …) from a given part.

        Args:
            seeds: one per clip; the result is independent of ``initial_noise`` for the same seeds.
            given: known latents. If a part of the clip is known, its mean is used instead of a draw.
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
        """Write it to the folder of a base."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file({"mean": self.mean.to(dtype), "root": self.root.to(dtype)}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> SignalLeak | None:
        """Read the signal leak of the base in ``folder``; None if it has none."""
        from safetensors.torch import load_file

        if not (folder / FILE).is_file():
            return None
        found = load_file(folder / FILE)
        # Copies, because the file is memory-mapped and rounding of a product depends on memory alignment.
        return cls(found["mean"].float().clone(), found["root"].float().clone())

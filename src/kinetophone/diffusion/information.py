"""Choose the timestep adjustment γ from the information that audio and video have about each other.

The *map* is the error of each modality's noise prediction at every pair of noise levels, with the coupling on
and off. A sampling path u_video = u_audio^γ in levels u crosses this map. Along the path, each modality m
gains information from the other one being cleaner than pure noise. The total gain in nats is

    I(γ) = Σ_m ½ D_m ∫ (mse_m with the other as pure noise - mse_m) d log SNR_m,

where mse is the mean squared error of ε and D_m the number of values in a latent. The *rule* takes a γ with a
large I(γ).

Up to a constant, -I(γ) is the variational bound of a diffusion model on -log p(audio, video) (arXiv
2107.00630), with the noise of both modalities decreasing along the path. The first term depends only on a
modality's own level, so its integral is the same for every γ. The γ with the largest I(γ) therefore has the
tightest bound. For an exact model, I(γ) is the mutual information of audio and video for *every* γ, because
its errors form a gradient (arXiv cs/0412108). The difference of I between two γ is thus the additional
information that the coupling transfers on the better path.

The gain is not measured against the coupling switched off, because inserted blocks also improve their base
independently of the other modality (compare "alone" with "coupled to pure noise"). This part says nothing
about γ.

Shape legend: N clips, n noise levels; index ``[clip, own level, level of the other modality]``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from kinetophone.av import AV, MODALITIES
from kinetophone.diffusion.process import Process
from kinetophone.diffusion.sample import Predict, initial_noise

# Evenly spaced, from the level where noise is nearly half of a latent's standard deviation. Below it, the
# content is settled, and the rest is neither visible nor audible. But log SNR changes fastest there, so small
# errors of a coupling, of either sign, would dominate the integral. Eight levels suffice: the integrals of a
# Gaussian model are exact to 3 %.
LEVELS = tuple((128 + round(872 * k / 7)) / 1000 for k in range(8))
_FINE = 1000  # grid points per unit of the level, for integrals
GAMMAS = tuple(2 ** (k / 4) for k in range(-8, 9))
ENOUGH = 0.95  # fraction of the largest gain that suffices


@dataclass(frozen=True, slots=True)
class InformationMap:
    """Errors of both modalities' noise predictions at all pairs of levels.

    Attributes:
        levels: Levels at which both modalities were measured, rising.
        alone: Mean squared error of ε with the coupling off, (N, n).
        coupled: The same with the coupling on, (N, n, n).
        sizes: Number of values in a clip's latents.
    """

    levels: tuple[float, ...]
    alone: AV[np.ndarray]
    coupled: AV[np.ndarray]
    sizes: AV[int]

    @property
    def gain(self) -> AV[np.ndarray]:
        """Error reduction compared with the other modality being pure noise, (N, n, n)."""
        return self.coupled.map(lambda coupled: coupled[:, :, -1:] - coupled)

    def to_dict(self) -> dict[str, Any]:
        """Means over clips, as plain values for JSON."""
        return {
            "levels": list(self.levels),
            "clips": len(self.alone.audio),
            **{
                modality: {
                    "size": getattr(self.sizes, modality),
                    "alone": getattr(self.alone, modality).mean(0).tolist(),
                    "coupled": getattr(self.coupled, modality).mean(0).tolist(),
                }
                for modality in MODALITIES
            },
        }

    @classmethod
    def joined(cls, parts: Sequence[InformationMap]) -> InformationMap:
        """Concatenate maps of different clips."""
        first = parts[0]
        alone, coupled = (
            AV(*(np.concatenate([getattr(getattr(p, name), m) for p in parts]) for m in MODALITIES))
            for name in ("alone", "coupled")
        )
        return cls(first.levels, alone, coupled, first.sizes)


@torch.no_grad()
def measure(
    coupled: Predict,
    alone: Predict,
    clean: AV[Tensor],
    processes: AV[Process],
    seeds: Sequence[int],
    *,
    levels: Sequence[float] = LEVELS,
    self_conditioning: bool = True,
) -> InformationMap:
    """Measure the map on a batch of clips.

    The noise of a clip is the same at all levels, with the coupling on and off, so that differences are
    paired.

    Args:
        coupled: prediction for the captions of these clips.
        alone: the same with the coupling off.
        clean: clean latents (N, …).
        processes: noise processes of both modalities.
        seeds: seed of the noise of each clip.
        levels: levels to measure at, rising; those that a process was not trained at are moved to its range.
        self_conditioning: give the connectors an estimate of the clean latents, made at the same levels.
    """
    batch = len(seeds)
    noise = initial_noise(clean.map(lambda x: x.shape[1:]), seeds, device=clean.audio.device)

    def at(own: AV[float]) -> tuple[AV[Tensor], AV[Tensor]]:
        each: AV[Tensor] = own.map(
            lambda level, process: torch.full((batch,), level, dtype=torch.float64).clamp(
                process.least, process.most
            ),
            processes,
        )
        return processes.map(lambda process, *of: process.noised(*of), clean, noise, each), each

    def split(predict: Predict, noisy: AV[Tensor], each: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Any]:
        output = predict(noisy, each, x0_hat)
        return processes.map(lambda process, *of: process.split(*of), noisy, output, each)

    def errors(estimates: AV[Any]) -> AV[np.ndarray]:
        # On the CPU, because some devices have no float64.
        squared = estimates.map(lambda e, n: (e[1].cpu().double() - n.cpu().double()).square(), noise)
        return squared.map(lambda x: x.flatten(1).mean(1).numpy())

    count = len(levels)
    off = AV(*(np.zeros((batch, count)) for _ in MODALITIES))
    on = AV(*(np.zeros((batch, count, count)) for _ in MODALITIES))
    for i, own in enumerate(levels):
        noisy, each = at(AV.both(own))
        found = errors(split(alone, noisy, each, None))
        off.audio[:, i], off.video[:, i] = found.audio, found.video
        for j, other in enumerate(levels):
            noisy, each = at(AV(audio=own, video=other))
            x0_hat = None
            if self_conditioning:
                x0_hat = split(coupled, noisy, each, None).map(lambda estimates: estimates[0])
            found = errors(split(coupled, noisy, each, x0_hat))
            on.audio[:, i, j], on.video[:, j, i] = found.audio, found.video
    sizes: AV[int] = clean.map(lambda x: x[0].numel())
    return InformationMap(tuple(levels), off, on, sizes)


def gained_nats(found: InformationMap, processes: AV[Process], gamma: float) -> AV[np.ndarray]:
    """Information in nats that each modality gains from the other on the path of γ, per clip: (N,).

    In the limit γ = 0 the audio is finished before the video starts, so only the video gains; γ = ∞ is the
    opposite. Gains are interpolated by cubic splines between the measured levels, and not extrapolated beyond
    them. An exact model thus gains, on every path, the mutual information of audio and video with the noise
    of the first level.
    """
    measured = np.array(found.levels)
    u = np.arange(round(_FINE * measured[0]), round(_FINE * measured[-1]) + 1) / _FINE
    # u_video = u_audio^γ. In the limits, one modality is clean while the other is still pure noise.
    with np.errstate(divide="ignore"):
        others = AV(audio=u**gamma, video=u ** np.float64(1 / gamma if gamma else np.inf))
    others = others.map(lambda other: np.where(u < 1, other, 1.0).clip(measured[0], measured[-1]))

    spline = CubicSpline(measured, np.eye(len(measured)))  # interpolation weights of the measured levels

    def of_one(gain: np.ndarray, size: int, process: Process, other: np.ndarray) -> np.ndarray:
        shares = spline(u)[:, :, None] * spline(other)[:, None, :]  # (steps, n, n)
        log_snr = process.log_snr(torch.from_numpy(u.clip(process.least, process.most))).cpu().numpy()
        if not np.isfinite(log_snr[-1]):  # no signal at all: half a grid step before
            log_snr[-1] = float(process.log_snr(1 - 0.5 / _FINE))
        weights = np.trapezoid(shares, -log_snr, axis=0)
        return 0.5 * size * np.einsum("kij,ij->k", gain, weights)

    return found.gain.map(of_one, found.sizes, processes, others)


@dataclass(frozen=True, slots=True)
class GammaChoice:
    """The result of :func:`choose_gamma`.

    Attributes:
        gamma: The chosen γ: of those that gain enough, the one nearest to 1.
        best: γ with the largest gain.
        gammas: All γ that were compared.
        nats: Gain of each modality by γ, mean over clips.
        behind: Nats that each γ gains less than the best, mean over clips.
        behind_error: Standard error of ``behind`` over clips.
        limits: Total gains at γ = 0 (audio first) and γ = ∞ (video first).
        clips: Number of clips.
    """

    gamma: float
    best: float
    gammas: tuple[float, ...]
    nats: AV[tuple[float, ...]]
    behind: tuple[float, ...]
    behind_error: tuple[float, ...]
    limits: tuple[float, float]
    clips: int


def choose_gamma(
    found: InformationMap, processes: AV[Process], gammas: Sequence[float] = GAMMAS
) -> GammaChoice:
    """The γ nearest to 1 on whose path the coupling transfers enough information.

    Enough is 95 % of the largest gain, or a difference to it of at most one standard error (paired by clip).
    The integral assumes infinitely many steps. With few steps, a strongly curved path spaces the steps of
    each modality unevenly and loses quality, hence the preference for γ near 1.
    ``tests/diffusion/test_information.py`` has an example where this can be computed.

    Raises:
        ValueError: the map has fewer than 2 clips, which give no standard error.
    """
    clips = len(found.alone.audio)
    if clips < 2:
        raise ValueError(f"the map has {clips} clip; choosing γ needs at least 2")
    by_gamma = [gained_nats(found, processes, gamma) for gamma in gammas]
    totals = np.array([nats.audio + nats.video for nats in by_gamma])  # (γ, N)
    best = int(totals.mean(1).argmax())
    behind = totals[best] - totals
    error = behind.std(1, ddof=1) / math.sqrt(clips)
    allowed = np.maximum(error, (1 - ENOUGH) * max(0.0, totals[best].mean()))
    enough = [k for k in range(len(gammas)) if behind[k].mean() <= allowed[k]]
    chosen = min(enough, key=lambda k: abs(math.log(gammas[k])))
    ends = [gained_nats(found, processes, gamma) for gamma in (0.0, math.inf)]
    return GammaChoice(
        gamma=float(gammas[chosen]),
        best=float(gammas[best]),
        gammas=tuple(map(float, gammas)),
        nats=AV(*(tuple(float(getattr(nats, m).mean()) for nats in by_gamma) for m in MODALITIES)),
        behind=tuple(behind.mean(1).tolist()),
        behind_error=tuple(error.tolist()),
        limits=(float((ends[0].audio + ends[0].video).mean()), float((ends[1].audio + ends[1].video).mean())),
        clips=clips,
    )

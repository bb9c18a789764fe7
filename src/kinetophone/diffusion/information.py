"""How much sound and picture tell about each other, and the timestep adjustment γ that follows from it.

The *map*: the error of each modality's noise prediction at every pair of noise levels, with the coupling on,
and off. The *rule*: a path of sampling, u_video = u_audio^γ in levels u, crosses that map; what each
modality gains from the other being cleaner than pure noise adds up along it to nats,

    I(γ) = Σ_m ½ D_m ∫ (mse_m, the other pure noise - mse_m) d log SNR_m,    D_m: numbers in a latent,

mse the mean squared error of ε. Up to a constant, minus I(γ) is the bound on -log p(sound, picture) that a
diffusion model gives (arXiv 2107.00630) where its two noises fade along that path: the first term depends on
a modality's own level alone, so its integral is the same for every γ. The γ of the largest I(γ) has the
tightest bound. With an exact model I(γ) is the mutual information of sound and picture for *every* γ (the
errors are then a gradient: arXiv cs/0412108), so the difference between two γ is how much more of that
information a coupling gets across on the one path.

Why not gain over the coupling switched off: inserted blocks also improve their U-Net by themselves, whatever
the other modality is (on the map: alone against coupled to pure noise). That says nothing about γ.

Shape legend: N clips, n noise levels; index ``[clip, own level, level of the other]``.
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

# Evenly from where noise is nearly half of a latent's deviation. Below, a latent's content is settled, and
# what is left is neither seen nor heard; but log SNR changes fastest there, and small errors of a coupling,
# of either sign, would outweigh all else. Eight suffice: integrals of a Gaussian world are exact to 3 %.
LEVELS = tuple((128 + round(872 * k / 7)) / 1000 for k in range(8))
_FINE = 1000  # levels in a unit, for integrals
GAMMAS = tuple(2 ** (k / 4) for k in range(-8, 9))
ENOUGH = 0.95  # of the largest gain


@dataclass(frozen=True, slots=True)
class InformationMap:
    """Errors of both modalities' noise predictions at all pairs of levels.

    Attributes:
        levels: Rising, at which both modalities were measured.
        alone: Mean squared error of ε with the coupling off, (N, n): the level of the other does not matter.
        coupled: The same with it on, (N, n, n).
        sizes: Numbers in a latent.
    """

    levels: tuple[float, ...]
    alone: AV[np.ndarray]
    coupled: AV[np.ndarray]
    sizes: AV[int]

    @property
    def gain(self) -> AV[np.ndarray]:
        """Error that knowing the other takes away, against its being pure noise, (N, n, n)."""
        return self.coupled.map(lambda coupled: coupled[:, :, -1:] - coupled)

    def to_dict(self) -> dict[str, Any]:
        """Means over clips, ready for JSON."""
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
        """One map of the clips of several."""
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
    """The map of a batch of clips.

    A clip's noise is the same at all levels, with the coupling on and off, so that differences are paired.

    Args:
        coupled: prediction for the captions of these clips.
        alone: the same with the coupling off.
        clean: clean latents (N, …).
        processes: of both modalities.
        seeds: of the noise of each clip.
        levels: rising.
        self_conditioning: let the connectors see an estimate of the clean latents, made at the same levels.
    """
    batch = len(seeds)
    noise = initial_noise(clean.map(lambda x: x.shape[1:]), seeds, device=clean.audio.device)

    def at(own: AV[float]) -> tuple[AV[Tensor], AV[Tensor]]:
        each: AV[Tensor] = own.map(lambda level: torch.full((batch,), level, dtype=torch.float64))
        return processes.map(lambda process, *of: process.noised(*of), clean, noise, each), each

    def split(predict: Predict, noisy: AV[Tensor], each: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Any]:
        output = predict(noisy, each, x0_hat)
        return processes.map(lambda process, *of: process.split(*of), noisy, output, each)

    def errors(estimates: AV[Any]) -> AV[np.ndarray]:
        # On the CPU: a device may have no float64.
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
    """Nats that each modality gains from the other along the path of γ, clip by clip, (N,).

    γ = 0 is the limit in which the sound is there before the picture begins (so that only the picture
    gains), γ = ∞ that in which the picture is. Between the levels measured the gains are interpolated by
    cubic splines over the level; beyond the first and the last level nothing is counted. So an exact
    model gains, on every path, the mutual information of sound and picture as noisy as at the first level.
    """
    measured = np.array(found.levels)
    u = np.arange(round(_FINE * measured[0]), round(_FINE * measured[-1]) + 1) / _FINE
    # u_video = u_audio^γ. The first to be done is clean, the other still pure noise, at the limits.
    with np.errstate(divide="ignore"):
        others = AV(audio=u**gamma, video=u ** np.float64(1 / gamma if gamma else np.inf))
    others = others.map(lambda other: np.where(u < 1, other, 1.0).clip(measured[0], measured[-1]))

    spline = CubicSpline(measured, np.eye(len(measured)))  # each level's share in a value between them

    def of_one(gain: np.ndarray, size: int, process: Process, other: np.ndarray) -> np.ndarray:
        shares = spline(u)[:, :, None] * spline(other)[:, None, :]  # (steps, n, n)
        log_snr = process.log_snr(torch.from_numpy(u)).cpu().numpy()
        weights = np.trapezoid(shares, -log_snr, axis=0)
        return 0.5 * size * np.einsum("kij,ij->k", gain, weights)

    return found.gain.map(of_one, found.sizes, processes, others)


@dataclass(frozen=True, slots=True)
class GammaChoice:
    """What the rule says.

    Attributes:
        gamma: Its choice: of the γ that gain enough, the one nearest to 1.
        best: γ of the largest gain.
        gammas: All that were compared.
        nats: Mean over clips of what each modality gains, by γ.
        behind: How many nats each γ is behind the best, mean over clips.
        behind_error: Its standard error, clip by clip.
        limits: Total gains at γ = 0 (sound first) and γ = ∞ (picture first).
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
    """The γ on whose path the coupling gets enough across, adjusting no more than that needs.

    Enough is 95 % of the largest gain, or what is behind it by no more than one standard error (paired by
    clip). Of the γ that gain enough the one nearest to 1 is taken: the integral is that of infinitely many
    steps, and the more a path is bent, the less evenly each modality's own steps are spaced, and the more is
    lost with few of them (``tests/diffusion/test_information.py`` has a world where that can be computed).

    Raises:
        ValueError: if the map has fewer than 2 clips, which give no standard error.
    """
    clips = len(found.alone.audio)
    if clips < 2:
        raise ValueError(f"the map is of {clips} clip; choosing γ needs at least 2")
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

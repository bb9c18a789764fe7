"""The rule for γ in Gaussian worlds, where what sampling ends in can be computed, and how the map is made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from kinetophone.av import AV
from kinetophone.diffusion.clocks import power_path
from kinetophone.diffusion.information import (
    GAMMAS,
    LEVELS,
    InformationMap,
    choose_gamma,
    gained_nats,
    measure,
)
from kinetophone.diffusion.process import Cosine, Discrete, Flow
from kinetophone.diffusion.sample import sample_joint
from kinetophone.reference import settings as reference
from no_float64 import NoFloat64

SCHEDULERS = reference.schedulers()
PROCESSES = SCHEDULERS.map(Discrete.from_scheduler)
RHO = 0.9

# Mutual information of sound and picture as noisy as at the first level, nats.
_CLEANEST = PROCESSES.map(lambda process: float(process.coefficients(LEVELS[0])[0]) ** 2)
INFORMATION = -0.5 * math.log(1 - RHO**2 * _CLEANEST.audio * _CLEANEST.video)

Share = Callable[[float], float]


@dataclass(frozen=True)
class World:
    """Sound and picture of one number each, of variance 1 and correlation RHO, and a coupling with a flaw.

    The prediction of a modality is a share of the way from what its own latent tells to what both tell; the
    share is a function of the *other's* noise u. Everywhere 1: the exact model.
    """

    audio_hears: Share = lambda u: 1.0
    video_hears: Share = lambda u: 1.0

    def matrix(self, alpha: Tensor, u: AV[float], coupled: bool = True) -> Tensor:
        """M of the noise prediction M x, x = (sound, picture)."""
        d, identity = alpha.sqrt(), torch.eye(2, dtype=torch.float64)
        both = torch.tensor([[1.0, RHO], [RHO, 1.0]], dtype=torch.float64)

        def exact(covariance: Tensor) -> Tensor:
            s = d[:, None] * covariance * d + torch.diag(1 - alpha)
            return (1 - alpha).sqrt()[:, None] * torch.linalg.inv(s)

        own = exact(identity)
        if not coupled:
            return own
        shares = torch.tensor([self.audio_hears(u.video), self.video_hears(u.audio)], dtype=torch.float64)
        return own + shares[:, None] * (exact(both) - own)

    def predict(self, latents: AV[Tensor], levels: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Tensor]:
        own = levels.map(lambda batch: float(batch[0]))
        eps = torch.cat([latents.audio, latents.video], dim=1) @ self.matrix(*_at(own)).T
        return AV(audio=eps[:, :1], video=eps[:, 1:])

    def map(self) -> InformationMap:
        """Exact errors at all levels, of two clips that are alike."""
        n = len(LEVELS)
        alone, coupled = AV(np.zeros(n), np.zeros(n)), AV(np.zeros((n, n)), np.zeros((n, n)))
        for i, u_audio in enumerate(LEVELS):
            for j, u_video in enumerate(LEVELS):
                alpha, u = _at(AV(u_audio, u_video))
                off, on = (_errors(self.matrix(alpha, u, flag), alpha) for flag in (False, True))
                alone.audio[i], alone.video[j] = off
                coupled.audio[i, j], coupled.video[j, i] = on
        return InformationMap(
            LEVELS,
            alone.map(lambda x: np.stack([x, x])),
            coupled.map(lambda x: np.stack([x, x])),
            AV.both(1),
        )

    def distance(self, gamma: float, steps: int) -> float:
        """Kullback-Leibler divergence of what DDIM makes in ``steps`` steps from the truth, nats."""
        z = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)  # sampling is linear here
        path = power_path(PROCESSES, steps, gamma)
        out = sample_joint(self.predict, AV(audio=z[:, :1], video=z[:, 1:]), path, PROCESSES)
        a = torch.cat([out.audio, out.video], dim=1)
        true = torch.tensor([[1.0, RHO], [RHO, 1.0]], dtype=torch.float64)
        ratio = torch.linalg.solve(true, a.T @ a)
        return float(0.5 * (ratio.trace() - 2 - torch.logdet(ratio)))


def _at(levels: AV[float]) -> tuple[Tensor, AV[float]]:
    alphas = PROCESSES.map(lambda process, u: process.coefficients(u)[0].square(), levels)
    return torch.stack([alphas.audio, alphas.video]), levels


def _errors(m: Tensor, alpha: Tensor) -> np.ndarray:
    """Mean squared error of each noise from M x, x = D z + σ ε."""
    d, sigma = torch.diag(alpha.sqrt()), torch.diag((1 - alpha).sqrt())
    both = torch.tensor([[1.0, RHO], [RHO, 1.0]], dtype=torch.float64)
    rest = torch.eye(2, dtype=torch.float64) - m @ sigma
    return torch.diagonal(rest @ rest.T + m @ d @ both @ d @ m.T).numpy()


def only_clean(u: float) -> float:
    return max(0.0, 1 - 2 * u)


WORLDS = {
    "exact": World(),
    "the sound can only use a clean picture": World(only_clean, lambda u: 0.3),
    "the picture can only use a clean sound": World(lambda u: 0.3, only_clean),
    "a little worse with noise": World(lambda u: 1 - 0.5 * u, lambda u: 0.8 - 0.5 * u),
}


@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.5, 1, 1.5, 4, math.inf])
def test_an_exact_model_gains_the_mutual_information_on_every_path(gamma: float) -> None:
    nats = gained_nats(WORLDS["exact"].map(), PROCESSES, gamma)
    assert nats.audio + nats.video == pytest.approx(INFORMATION, rel=0.03)
    if gamma in (0, math.inf):  # the first to be made learns nothing
        first = nats.audio if gamma == 0 else nats.video
        assert first == pytest.approx(0, abs=0.03)


def test_a_flawed_model_gains_less_on_every_path() -> None:
    for name, world in WORLDS.items():
        found = world.map()
        for gamma in GAMMAS[::4]:
            nats = gained_nats(found, PROCESSES, gamma)
            assert float((nats.audio + nats.video)[0]) < INFORMATION * 1.03, name


def test_where_every_path_is_as_good_nothing_is_adjusted() -> None:
    assert choose_gamma(WORLDS["exact"].map(), PROCESSES).gamma == 1


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("steps", [25, 100])
def test_the_choice_is_nearly_as_good_as_the_best(name: str, steps: int) -> None:
    world = WORLDS[name]
    chosen = choose_gamma(world.map(), PROCESSES).gamma
    distances = {gamma: world.distance(gamma, steps) for gamma in {*GAMMAS[::2], chosen}}
    assert distances[chosen] <= distances[1.0] + 0.01  # where 1 is all but the best, few steps decide
    # Nats from the truth, beside up to 1.1 for the worst γ. The best differs between few and many steps.
    assert distances[chosen] - min(distances.values()) < 0.06


def test_the_leader_is_the_modality_the_other_needs_clean() -> None:
    video_first = choose_gamma(WORLDS["the sound can only use a clean picture"].map(), PROCESSES)
    audio_first = choose_gamma(WORLDS["the picture can only use a clean sound"].map(), PROCESSES)
    assert video_first.gamma > 1.5
    assert audio_first.gamma < 1 / 1.5
    assert video_first.limits[1] > 1.5 * video_first.limits[0]


def test_noise_between_clips_keeps_gamma_at_1() -> None:
    found = WORLDS["a little worse with noise"].map()
    rng = np.random.default_rng(0)
    noisy = found.coupled.map(lambda x: np.repeat(x, 8, 0) + rng.normal(0, 0.2, (16, *x.shape[1:])))
    alone = found.alone.map(lambda x: np.repeat(x, 8, 0))
    assert choose_gamma(InformationMap(LEVELS, alone, noisy, found.sizes), PROCESSES).gamma == 1


def test_the_map_is_measured_as_it_is_computed() -> None:
    world, n = World(only_clean, lambda u: 0.5), 300
    z = torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    clean = AV(audio=z[:, :1], video=RHO * z[:, :1] + math.sqrt(1 - RHO**2) * z[:, 1:])
    calls = []

    def coupled(latents: AV[Tensor], levels: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Tensor]:
        calls.append(x0_hat)
        return world.predict(latents.map(Tensor.double), levels, x0_hat)

    def alone(latents: AV[Tensor], levels: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Tensor]:
        return World(lambda u: 0, lambda u: 0).predict(latents.map(Tensor.double), levels, x0_hat)

    measured = (0.001, 0.3, 1.0)
    found = measure(coupled, alone, clean, PROCESSES, range(n), levels=measured)
    assert found.alone.audio.shape == (n, 3)
    assert found.coupled.video.shape == (n, 3, 3)
    assert [x0_hat is None for x0_hat in calls] == [True, False] * 9
    for i, own in enumerate(measured):
        for j, other in enumerate(measured):
            alpha, u = _at(AV(audio=own, video=other))
            exact = _errors(world.matrix(alpha, u), alpha)[0]
            assert found.coupled.audio[:, i, j].mean() == pytest.approx(exact, rel=0.25, abs=1e-3)
    joined = InformationMap.joined([found, found])
    assert joined.alone.audio.shape == (2 * n, 3)
    assert joined.to_dict()["video"]["coupled"] == pytest.approx(
        np.array(found.to_dict()["video"]["coupled"])
    )


def test_one_clip_is_not_enough() -> None:
    found = WORLDS["exact"].map()
    one = InformationMap(
        LEVELS, found.alone.map(lambda x: x[:1]), found.coupled.map(lambda x: x[:1]), found.sizes
    )
    with pytest.raises(ValueError, match="the map has 1 clip; choosing γ needs at least 2"):
        choose_gamma(one, PROCESSES)


def test_the_map_is_measured_on_a_device_without_double_precision() -> None:
    with NoFloat64():
        clean: AV[Tensor] = AV.both(torch.zeros(2, 4, 3, device="meta"))
        found = measure(_nothing, _nothing, clean, PROCESSES, range(2), levels=(0.01, 0.5))
    assert found.coupled.audio.shape == (2, 2, 2)


def _nothing(latents: AV[Tensor], levels: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Tensor]:
    return latents.map(torch.zeros_like)


@pytest.mark.parametrize("gamma", [0.35, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("video", [Flow(), Flow(shift=3.0)])
def test_unlike_processes_gain_their_mutual_information_on_every_path(video: Flow, gamma: float) -> None:
    """A flow, which ends without any signal, and a cosine process, which does not reach the first level."""
    processes = AV(audio=Cosine(least=0.1855, most=0.9987), video=video)
    ends = processes.map(lambda process: (process.least, process.most))
    both = np.array([[1.0, RHO], [RHO, 1.0]])
    n = len(LEVELS)
    coupled = AV(np.zeros((2, n, n)), np.zeros((2, n, n)))

    def scales(u_audio: float, u_video: float) -> tuple[np.ndarray, np.ndarray]:
        levels = (np.clip(u_audio, *ends.audio), np.clip(u_video, *ends.video))
        pairs = [processes.audio.coefficients(levels[0]), processes.video.coefficients(levels[1])]
        return np.array([float(a) for a, _ in pairs]), np.array([float(b) for _, b in pairs])

    for i, u_audio in enumerate(LEVELS):
        for j, u_video in enumerate(LEVELS):
            a, b = scales(u_audio, u_video)
            seen = np.diag(a) @ both @ np.diag(a) + np.diag(b**2)
            errors = 1 - np.diag(np.diag(b) @ np.linalg.inv(seen) @ np.diag(b))  # of the best estimate of ε
            coupled.audio[:, i, j], coupled.video[:, j, i] = errors
    found = InformationMap(LEVELS, AV.both(np.zeros((2, n))), coupled, AV.both(1))
    a, b = scales(LEVELS[0], LEVELS[0])
    shared = RHO**2 * np.prod(a**2 / (a**2 + b**2))
    gained = gained_nats(found, processes, gamma)
    assert float((gained.audio + gained.video)[0]) == pytest.approx(-0.5 * math.log(1 - shared), rel=0.05)
    assert choose_gamma(found, processes).gamma == pytest.approx(1, abs=0.2)  # all are as good

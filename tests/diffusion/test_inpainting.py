"""Keeping what is given: a whole track gives the conditional distribution, a stretch comes back unchanged."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kinetophone.av import AV, MODALITIES
from kinetophone.diffusion.clocks import power_path
from kinetophone.diffusion.inpainting import Given
from kinetophone.diffusion.process import Discrete
from kinetophone.diffusion.sample import initial_noise, sample_joint
from kinetophone.reference import settings as reference

SCHEDULERS = reference.schedulers()
PROCESSES = SCHEDULERS.map(Discrete.from_scheduler)
MEAN = torch.tensor([0.7, -1.2], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.5, 0.9], [0.9, 0.8]], dtype=torch.float64)


def world(latents: AV[Tensor], levels: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Tensor]:
    """Exact noise of a sound and a picture of one number each, (B, 1, 1), jointly Gaussian."""
    signal = PROCESSES.map(lambda process, level: process.coefficients(level[:1])[0], levels)
    d = torch.cat([signal.audio, signal.video])
    alpha = d.square()
    s = d[:, None] * COVARIANCE * d + torch.diag(1 - alpha)
    x = torch.cat([latents.audio, latents.video], dim=1)[..., 0]
    eps = (1 - alpha).sqrt() * torch.linalg.solve(s, (x - d * MEAN).T).T
    return AV(audio=eps[:, :1, None], video=eps[:, 1:, None])


@pytest.mark.parametrize("known", MODALITIES)
def test_a_given_track_gives_the_conditional_distribution(known: str) -> None:
    # The sampler is affine in its noise: two points tell mean and standard deviation.
    value = torch.full((2, 1, 1), 2.0, dtype=torch.float64)
    given: AV[Given | None] = AV(**{m: Given.all_of(value) if m == known else None for m in MODALITIES})
    noise = AV.both(torch.tensor([0.0, 1.0], dtype=torch.float64).view(2, 1, 1))
    out = sample_joint(world, noise, power_path(PROCESSES, 250, 1.0), PROCESSES, given=given)
    assert torch.equal(getattr(out, known), value)
    i, j = (0, 1) if known == "audio" else (1, 0)
    free = getattr(out.swap(), known).flatten()
    mean = MEAN[j] + COVARIANCE[0, 1] / COVARIANCE[i, i] * (2.0 - MEAN[i])
    variance = COVARIANCE[j, j] - COVARIANCE[0, 1] ** 2 / COVARIANCE[i, i]
    torch.testing.assert_close(free[0], mean, atol=0.06, rtol=0)
    torch.testing.assert_close(free[1] - free[0], variance.sqrt(), atol=0.06, rtol=0)


def test_a_kept_stretch_comes_back_and_is_seen_at_every_noise_level() -> None:
    shapes = AV(audio=(2, 6, 4), video=(3, 4, 2, 2))
    noise, clean = initial_noise(shapes, [1, 2]), initial_noise(shapes, [3, 4])
    keep = AV(audio=torch.arange(6) < 3, video=torch.arange(4) >= 3)
    signals: list[float] = []

    def predict(latents: AV[Tensor], levels: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Tensor]:
        expected = PROCESSES.audio.noised(clean.audio, noise.audio, levels.audio)
        torch.testing.assert_close(latents.audio[:, :, :3], expected[:, :, :3])
        if x0_hat is not None:
            assert torch.equal(x0_hat.video[:, :, 3:], clean.video[:, :, 3:])
        signals.append(float(PROCESSES.audio.coefficients(levels.audio[:1])[0]))
        return latents.map(lambda x: 0.1 * x)

    given: AV[Given | None] = clean.map(Given, keep)
    out = sample_joint(predict, noise, power_path(PROCESSES, 5, 1.5), PROCESSES, given=given)
    assert signals == sorted(signals)
    assert torch.equal(out.audio[:, :, :3], clean.audio[:, :, :3])
    assert torch.equal(out.video[:, :, 3:], clean.video[:, :, 3:])
    assert not torch.allclose(out.audio[:, :, 3:], clean.audio[:, :, 3:])


def test_a_given_track_is_told_to_be_clean() -> None:
    def predict(latents: AV[Tensor], levels: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Tensor]:
        assert levels.video.tolist() == [0.001]
        assert torch.equal(latents.video, clean)
        return latents.map(torch.zeros_like)

    clean = torch.full((1, 3, 4, 2, 2), 0.5)
    noise = initial_noise(AV(audio=(2, 6, 4), video=(3, 4, 2, 2)), [1])
    given: AV[Given | None] = AV(audio=None, video=Given.all_of(clean))
    sample_joint(predict, noise, power_path(PROCESSES, 3, 1.5), PROCESSES, given=given)

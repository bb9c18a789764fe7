"""The joint sampler, tested against a world whose exact noise is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kinetophone.av import AV, MODALITIES
from kinetophone.diffusion.clocks import local_grids
from kinetophone.diffusion.process import NoiseSchedule
from kinetophone.diffusion.sample import Progress, initial_noise, sample_joint
from kinetophone.diffusion.settings import Stepper
from kinetophone.reference import settings as reference

SCHEDULERS = reference.schedulers()
SCHEDULES = SCHEDULERS.map(NoiseSchedule.from_scheduler)


class GaussianWorld:
    """Sound and picture of one number each, jointly Gaussian: the exact noise prediction is linear.

    With D = diag(√ᾱ_audio, √ᾱ_video), x_t ~ N(D μ, S), S = D Σ D + I - D², and E[ε | x_t] is
    √(1 - ᾱ) S⁻¹ (x_t - D μ).
    """

    mean = torch.tensor([0.7, -1.2], dtype=torch.float64)
    covariance = torch.tensor([[1.5, 0.9], [0.9, 0.8]], dtype=torch.float64)

    def predict(self, latents: AV[Tensor], timesteps: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Tensor]:
        alphas = SCHEDULES.map(lambda schedule, t: schedule.alpha(t[:1]), timesteps)
        alpha = torch.cat([alphas.audio, alphas.video])
        d = alpha.sqrt()
        s = d[:, None] * self.covariance * d + torch.diag(1 - alpha)
        x = torch.cat([latents.audio, latents.video], dim=1)
        eps = (1 - alpha).sqrt() * torch.linalg.solve(s, (x - d * self.mean).T).T
        return AV(audio=eps[:, :1], video=eps[:, 1:])


@pytest.mark.parametrize(("stepper", "steps"), [("ddim", 250), ("dpmpp_2m", 80)])
@pytest.mark.parametrize("gamma", [0.5, 1, 1.5])
def test_exact_noise_gives_the_exact_distribution(gamma: float, stepper: Stepper, steps: int) -> None:
    # The sampler is affine here, x = A z + b with z ~ N(0, I): three points tell A and b, no sampling error.
    z = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    out = sample_joint(
        GaussianWorld().predict,
        AV(audio=z[:, :1], video=z[:, 1:]),
        local_grids(SCHEDULERS, steps, gamma),
        SCHEDULES,
        stepper=stepper,
    )
    x = torch.cat([out.audio, out.video], dim=1)
    a = (x[1:] - x[0]).T
    # Steps are not infinitely many, and ᾱ starts at 0.0016 (video), not 0, so N(0, I) is not exact.
    torch.testing.assert_close(x[0], GaussianWorld.mean, atol=0.06, rtol=0)
    torch.testing.assert_close(a @ a.T, GaussianWorld.covariance, atol=0.06, rtol=0)


def test_the_reference_wastes_its_last_video_step_and_ours_does_not() -> None:
    seen: list[Progress] = []
    noise = AV.both(torch.ones(1, 1, dtype=torch.float64))
    published = SCHEDULERS.map(lambda scheduler: NoiseSchedule.from_scheduler(scheduler, None))
    world = GaussianWorld().predict
    sample_joint(world, noise, local_grids(SCHEDULERS, 6, 1.5, "reference"), published, seen.append)
    torch.testing.assert_close(seen[-1].latents.video, seen[-2].latents.video)
    seen.clear()
    out = sample_joint(world, noise, local_grids(SCHEDULERS, 6, 1.5), SCHEDULES, seen.append)
    assert not torch.allclose(seen[-1].latents.video, seen[-2].latents.video)
    assert torch.equal(out.video, seen[-1].x0_hat.video), "no noise is left"


def test_each_step_gets_its_timesteps_and_the_last_clean_estimate() -> None:
    calls: list[tuple[AV[Tensor], AV[Tensor] | None]] = []
    seen: list[Progress] = []

    def predict(latents: AV[Tensor], timesteps: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Tensor]:
        calls.append((timesteps, x0_hat))
        return latents.map(lambda x: 0.1 * x)

    grids = AV(audio=torch.tensor([900, 500, 20]), video=torch.tensor([999, 300, 7]))
    noise = initial_noise(AV(audio=(8, 4, 2), video=(4, 3, 2, 2)), [1, 2])
    out = sample_joint(predict, noise, grids, SCHEDULES, seen.append)
    assert [t.video.tolist() for t, _ in calls] == [[999, 999], [300, 300], [7, 7]]
    assert [t.audio.tolist() for t, _ in calls] == [[900, 900], [500, 500], [20, 20]]
    assert [x0_hat for _, x0_hat in calls] == [None, seen[0].x0_hat, seen[1].x0_hat]
    assert [(p.step, p.steps, p.timesteps.audio) for p in seen] == [(1, 3, 900), (2, 3, 500), (3, 3, 20)]
    assert all(torch.equal(getattr(out, m), getattr(seen[-1].latents, m)) for m in MODALITIES)
    assert out.map(lambda x: x.shape) == noise.map(lambda x: x.shape)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_latent_that_is_not_finite_stops_the_run(modality: str) -> None:
    def predict(latents: AV[Tensor], timesteps: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Tensor]:
        eps = {"audio": latents.audio, "video": latents.video}
        if timesteps.audio[0] == 500:
            eps[modality] = eps[modality] * math.nan
        return AV(**eps)

    grids = AV.both(torch.tensor([900, 500, 20]))
    message = rf"the {modality} latents are no longer finite after step 2 of 3 \(timestep 500\)"
    with pytest.raises(FloatingPointError, match=message):
        sample_joint(predict, AV.both(torch.ones(1, 1)), grids, SCHEDULES)


def test_grids_must_be_of_one_length() -> None:
    grids = AV(audio=torch.tensor([3, 2, 1]), video=torch.tensor([2, 1]))
    with pytest.raises(ValueError, match="the audio grid has 3 timesteps and the video grid 2"):
        sample_joint(GaussianWorld().predict, AV.both(torch.ones(1, 1)), grids, SCHEDULES)


def test_initial_noise_of_a_sample_does_not_depend_on_the_batch() -> None:
    shapes = AV(audio=(8, 6, 4), video=(4, 3, 2, 2))
    batch = initial_noise(shapes, [5, 6, 7])
    single = initial_noise(shapes, [6])
    assert batch.audio.shape == (3, 8, 6, 4)
    assert torch.equal(batch.audio[1:2], single.audio)
    assert torch.equal(batch.video[1:2], single.video)
    before = torch.random.get_rng_state()
    assert torch.equal(initial_noise(shapes, [6], dtype=torch.float16).audio, single.audio.half())
    assert torch.equal(torch.random.get_rng_state(), before), "the global generator is left alone"
    with pytest.raises(ValueError, match="seeds is empty"):
        initial_noise(shapes, [])

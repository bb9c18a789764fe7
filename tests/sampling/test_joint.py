"""The joint sampler, tested against a world whose exact noise is known, and guidance against its formula."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kinetophone.av import AV, MODALITIES
from kinetophone.golden import load_case, relative_error
from kinetophone.joint import reference
from kinetophone.joint.clocks import local_grids
from kinetophone.joint.model import JointModel
from kinetophone.sampling.ddim import NoiseSchedule
from kinetophone.sampling.joint import Predict, Progress, guided, initial_noise, sample_joint

SCHEDULERS = reference.schedulers()
SCHEDULES = SCHEDULERS.map(NoiseSchedule.from_scheduler)
GOLDEN = Path(__file__).parents[1] / "golden"


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


@pytest.mark.parametrize("gamma", [0.5, 1, 1.5])
def test_exact_noise_gives_the_exact_distribution(gamma: float) -> None:
    # The sampler is affine here, x = A z + b with z ~ N(0, I): three points tell A and b, no sampling error.
    z = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    out = sample_joint(
        GaussianWorld().predict,
        AV(audio=z[:, :1], video=z[:, 1:]),
        local_grids(SCHEDULERS, 250, gamma),
        SCHEDULES,
    )
    x = torch.cat([out.audio, out.video], dim=1)
    a = (x[1:] - x[0]).T
    # 250 steps are not infinitely many, and ᾱ starts at 0.0016 (video), not 0, so N(0, I) is not exact.
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
    assert out is seen[-1].latents
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


@pytest.fixture(scope="module")
def model() -> JointModel:
    return load_case(GOLDEN, "motion-additive-x_pred")


@pytest.fixture(scope="module")
def world() -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)

    def text() -> AV[Tensor]:
        return AV(audio=torch.randn(2, 32, generator=g), video=torch.randn(2, 7, 48, generator=g))

    return {
        "cond": text(),
        "uncond": text(),
        "latents": initial_noise(AV(audio=(8, 8, 8), video=(4, 2, 8, 8)), [1, 2]),
        "timesteps": AV(audio=torch.tensor([600, 600]), video=torch.tensor([400, 400])),
        "x0_hat": initial_noise(AV(audio=(8, 8, 8), video=(4, 2, 8, 8)), [3, 4]),
    }


def run(predict: Predict, world: dict[str, Any]) -> AV[Tensor]:
    with torch.no_grad():
        return predict(world["latents"], world["timesteps"], world["x0_hat"])


def close(a: AV[Tensor], b: AV[Tensor]) -> None:
    # By norm: random weights and maps of one pixel amplify the rounding of single elements.
    assert relative_error(a.audio, b.audio) < 1e-3
    assert relative_error(a.video, b.video) < 1e-3


def test_guidance_is_its_formula_in_one_call_per_network(model: JointModel, world: dict[str, Any]) -> None:
    with torch.no_grad():
        features = model.features(world["latents"], world["timesteps"], world["x0_hat"])
        args = (world["latents"], world["timesteps"])
        cond, uncond = (model(*args, world[key], features) for key in ("cond", "uncond"))
    batches: dict[str, list[int]] = {}
    parts = {
        "audio U-Net": model.unet_audio.conv_in,
        "video U-Net": model.unet_video.conv_in,
        "audio connector": model.coupling.connector_out_audio[0],
    }
    hooks = []
    for name, part in parts.items():
        calls = batches.setdefault(name, [])
        hook = part.register_forward_pre_hook(lambda _m, args, calls=calls: calls.append(len(args[0])))
        hooks.append(hook)
    guidance = AV(audio=2.5, video=7.5)
    eps = run(guided(model, world["cond"], world["uncond"], guidance), world)
    close(eps, guidance.map(lambda scale, c, u: u + scale * (c - u), cond, uncond))
    assert batches == {"audio U-Net": [4], "video U-Net": [4 * 2], "audio connector": [2]}

    for calls in batches.values():
        calls.clear()
    close(run(guided(model, world["cond"], None, AV.both(1.0)), world), cond)
    assert batches == {"audio U-Net": [2], "video U-Net": [2 * 2], "audio connector": [2]}

    for calls in batches.values():
        calls.clear()
    mixed = run(guided(model, world["cond"], world["uncond"], AV(audio=1, video=0)), world)
    close(mixed, AV(audio=cond.audio, video=uncond.video))
    assert batches == {"audio U-Net": [2], "video U-Net": [4 * 2], "audio connector": [2]}
    for hook in hooks:
        hook.remove()


def test_uncoupled_guidance_is_the_bases(model: JointModel, world: dict[str, Any]) -> None:
    with torch.no_grad():
        alone = model(world["latents"], world["timesteps"], world["cond"])
    close(run(guided(model, world["cond"], None, AV.both(1.0), coupled=False), world), alone)
    coupled = run(guided(model, world["cond"], None, AV.both(1.0)), world)
    assert not torch.allclose(coupled.video, alone.video, atol=1e-2)


def test_a_sample_of_a_batch_is_the_single_run(model: JointModel, world: dict[str, Any]) -> None:
    def generate(rows: slice) -> AV[Tensor]:
        cond, uncond = (world[key].map(lambda x: x[rows]) for key in ("cond", "uncond"))
        predict = guided(model, cond, uncond, AV(audio=2.0, video=3.0))
        noise = initial_noise(AV(audio=(8, 8, 8), video=(4, 2, 8, 8)), [11, 12][rows])
        return sample_joint(predict, noise, local_grids(SCHEDULERS, 2), SCHEDULES)

    batch, single = generate(slice(0, 2)), generate(slice(1, 2))
    for modality in MODALITIES:
        assert relative_error(getattr(batch, modality)[1:], getattr(single, modality)) < 1e-3


def test_guidance_without_a_negative_is_an_error(model: JointModel, world: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"video guidance is 7.5, which needs text_uncond"):
        guided(model, world["cond"], None, AV(audio=1, video=7.5))
    short = AV(audio=world["uncond"].audio, video=world["uncond"].video[:, :5])
    with pytest.raises(ValueError, match=r"video text_uncond has shape \(2, 5, 48\), text_cond \(2, 7, 48\)"):
        guided(model, world["cond"], short, AV(audio=1, video=7.5))

"""The joint sampler, tested against a world whose exact noise is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kinetophone.av import AV, MODALITIES
from kinetophone.diffusion.clocks import power_path, reference_path
from kinetophone.diffusion.process import Cosine, Discrete, Flow, Process
from kinetophone.diffusion.sample import Progress, initial_noise, sample_joint
from kinetophone.diffusion.settings import Stepper
from kinetophone.reference import settings as reference

SCHEDULERS = reference.schedulers()
PROCESSES = SCHEDULERS.map(Discrete.from_scheduler)
PROCESS_KINDS: dict[str, Process] = {"epsilon": PROCESSES.audio, "v": Cosine(), "flow": Flow(shift=3.0)}


class GaussianWorld:
    """Sound and picture of one number each, jointly Gaussian: the exact noise prediction is linear.

    With A = diag(a_audio, a_video) and B likewise, x_t ~ N(A μ, S), S = A Σ A + B². Then E[ε | x_t] is
    B S⁻¹ (x_t - A μ), and E[x0 | x_t] is μ + Σ A S⁻¹ (x_t - A μ). Each output is made of these two.
    """

    mean = torch.tensor([0.7, -1.2], dtype=torch.float64)
    covariance = torch.tensor([[1.5, 0.9], [0.9, 0.8]], dtype=torch.float64)

    def __init__(self, processes: AV[Process] = PROCESSES) -> None:
        self.processes = processes

    def predict(self, latents: AV[Tensor], levels: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Tensor]:
        scales = self.processes.map(lambda process, level: process.coefficients(level[:1]), levels)
        a = torch.cat([scales.audio[0], scales.video[0]])
        b = torch.cat([scales.audio[1], scales.video[1]])
        x = torch.cat([latents.audio, latents.video], dim=1)
        solved = torch.linalg.solve(
            a[:, None] * self.covariance * a + torch.diag(b * b), (x - a * self.mean).T
        )
        noise, clean = b * solved.T, self.mean + (a * solved.T) @ self.covariance
        outputs = {"epsilon": noise, "v": a * noise - b * clean, "flow": noise - clean}
        return AV(
            audio=outputs[self.processes.audio.output][:, :1],
            video=outputs[self.processes.video.output][:, 1:],
        )


@pytest.mark.parametrize(("stepper", "steps"), [("ddim", 250), ("dpmpp_2m", 80)])
@pytest.mark.parametrize("gamma", [0.5, 1, 1.5])
def test_exact_noise_gives_the_exact_distribution(gamma: float, stepper: Stepper, steps: int) -> None:
    # The sampler is affine here, x = A z + b with z ~ N(0, I): three points tell A and b, no sampling error.
    z = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    out = sample_joint(
        GaussianWorld().predict,
        AV(audio=z[:, :1], video=z[:, 1:]),
        power_path(PROCESSES, steps, gamma),
        PROCESSES,
        stepper=stepper,
    )
    x = torch.cat([out.audio, out.video], dim=1)
    a = (x[1:] - x[0]).T
    # Steps are not infinitely many, and ᾱ starts at 0.0016 (video), not 0, so N(0, I) is not exact.
    torch.testing.assert_close(x[0], GaussianWorld.mean, atol=0.06, rtol=0)
    torch.testing.assert_close(a @ a.T, GaussianWorld.covariance, atol=0.06, rtol=0)


@pytest.mark.parametrize("gamma", [0.5, 1.5])
@pytest.mark.parametrize("audio", PROCESS_KINDS)
@pytest.mark.parametrize("video", PROCESS_KINDS)
def test_any_two_processes_give_the_exact_joint_distribution(audio: str, video: str, gamma: float) -> None:
    processes: AV[Process] = AV(audio=PROCESS_KINDS[audio], video=PROCESS_KINDS[video])
    z = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    made = sample_joint(
        GaussianWorld(processes).predict,
        AV(audio=z[:, :1], video=z[:, 1:]),
        power_path(processes, 250, gamma),
        processes,
    )
    x = torch.cat([made.audio, made.video], dim=1)
    deviation = (x[1:] - x[0]).T
    torch.testing.assert_close(x[0], GaussianWorld.mean, atol=0.06, rtol=0)
    torch.testing.assert_close(deviation @ deviation.T, GaussianWorld.covariance, atol=0.06, rtol=0)


def test_the_reference_wastes_its_last_video_step_and_ours_does_not() -> None:
    seen: list[Progress] = []
    noise = AV.both(torch.ones(1, 1, dtype=torch.float64))
    published = SCHEDULERS.map(lambda scheduler: Discrete.from_scheduler(scheduler, None))
    world = GaussianWorld().predict
    sample_joint(world, noise, reference_path(published, 6, 1.5), published, seen.append)
    torch.testing.assert_close(seen[-1].latents.video, seen[-2].latents.video)
    seen.clear()
    out = sample_joint(world, noise, power_path(PROCESSES, 6, 1.5), PROCESSES, seen.append)
    assert not torch.allclose(seen[-1].latents.video, seen[-2].latents.video)
    assert torch.equal(out.video, seen[-1].x0_hat.video), "no noise is left"


def test_each_step_gets_its_levels_and_the_last_clean_estimate() -> None:
    calls: list[tuple[AV[Tensor], AV[Tensor] | None]] = []
    seen: list[Progress] = []

    def predict(latents: AV[Tensor], levels: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Tensor]:
        calls.append((levels, x0_hat))
        return latents.map(lambda x: 0.1 * x)

    path = AV(audio=torch.tensor([0.9, 0.5, 0.02]), video=torch.tensor([1.0, 0.3, 0.007])).map(Tensor.double)
    noise = initial_noise(AV(audio=(8, 4, 2), video=(4, 3, 2, 2)), [1, 2])
    out = sample_joint(predict, noise, path, PROCESSES, seen.append)
    assert [u.video.tolist() for u, _ in calls] == [[own, own] for own in path.video.tolist()]
    assert [u.audio.tolist() for u, _ in calls] == [[own, own] for own in path.audio.tolist()]
    assert [x0_hat for _, x0_hat in calls] == [None, seen[0].x0_hat, seen[1].x0_hat]
    assert [(p.step, p.steps) for p in seen] == [(1, 3), (2, 3), (3, 3)]
    assert [p.levels.audio for p in seen] == path.audio.tolist()
    assert all(torch.equal(getattr(out, m), getattr(seen[-1].latents, m)) for m in MODALITIES)
    assert out.map(lambda x: x.shape) == noise.map(lambda x: x.shape)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_latent_that_is_not_finite_stops_the_run(modality: str) -> None:
    def predict(latents: AV[Tensor], levels: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Tensor]:
        eps = {"audio": latents.audio, "video": latents.video}
        if levels.audio[0] == 0.5:
            eps[modality] = eps[modality] * math.nan
        return AV(**eps)

    path = AV.both(torch.tensor([0.9, 0.5, 0.02], dtype=torch.float64))
    message = rf"the {modality} latents are no longer finite after step 2 of 3 \(level 0.500\)"
    with pytest.raises(FloatingPointError, match=message):
        sample_joint(predict, AV.both(torch.ones(1, 1)), path, PROCESSES)


def test_paths_must_be_of_one_length() -> None:
    path = AV(audio=torch.tensor([0.3, 0.2, 0.1]), video=torch.tensor([0.2, 0.1]))
    with pytest.raises(ValueError, match="the audio path has 3 levels and the video path 2"):
        sample_joint(GaussianWorld().predict, AV.both(torch.ones(1, 1)), path, PROCESSES)


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

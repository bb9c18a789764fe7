"""Guidance against its formulas, on a small joint model that does something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kinetophone.av import AV, MODALITIES
from kinetophone.coupling.model import JointModel
from kinetophone.diffusion.clocks import power_path
from kinetophone.diffusion.guidance import guided
from kinetophone.diffusion.process import Discrete
from kinetophone.diffusion.sample import Predict, initial_noise, sample_joint
from kinetophone.reference import settings as reference
from kinetophone.reference.golden import load_case, relative_error

SCHEDULERS = reference.schedulers()
PROCESSES = SCHEDULERS.map(Discrete.from_scheduler)
GOLDEN = Path(__file__).parents[1] / "golden"


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
        "levels": AV(audio=torch.tensor([0.6, 0.6]), video=torch.tensor([0.4, 0.4])).map(Tensor.double),
        "x0_hat": initial_noise(AV(audio=(8, 8, 8), video=(4, 2, 8, 8)), [3, 4]),
    }


def run(predict: Predict, world: dict[str, Any]) -> AV[Tensor]:
    with torch.no_grad():
        return predict(world["latents"], world["levels"], world["x0_hat"])


def close(a: AV[Tensor], b: AV[Tensor]) -> None:
    # By norm: random weights and maps of one pixel amplify the rounding of single elements.
    assert relative_error(a.audio, b.audio) < 1e-3
    assert relative_error(a.video, b.video) < 1e-3


def test_guidance_is_its_formula_in_one_call_per_network(model: JointModel, world: dict[str, Any]) -> None:
    with torch.no_grad():
        features = model.features(world["latents"], world["levels"], world["x0_hat"])
        args = (world["latents"], world["levels"])
        cond, uncond = (model(*args, world[key], features) for key in ("cond", "uncond"))
    batches: dict[str, list[int]] = {}
    parts = {
        "audio U-Net": model.network_audio.conv_out,
        "video U-Net": model.network_video.conv_out,
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
        alone = model(world["latents"], world["levels"], world["cond"])
    close(run(guided(model, world["cond"], None, AV.both(1.0), coupled=False), world), alone)
    coupled = run(guided(model, world["cond"], None, AV.both(1.0)), world)
    assert not torch.allclose(coupled.video, alone.video, atol=1e-2)


def test_cross_modal_guidance_is_its_formula(model: JointModel, world: dict[str, Any]) -> None:
    with torch.no_grad():
        args = (world["latents"], world["levels"])
        features = model.features(*args, world["x0_hat"])
        cond, uncond = (model(*args, world[key], features) for key in ("cond", "uncond"))
        apart = model(*args, world["cond"])
    guidance, sync = AV(audio=2.5, video=1.0), AV(audio=3.0, video=0.5)
    eps = run(guided(model, world["cond"], world["uncond"], guidance, sync=sync), world)
    expected = guidance.map(
        lambda scale, s, c, u, a: u + scale * (c - u) + (s - 1) * (c - a), sync, cond, uncond, apart
    )
    close(eps, expected)
    one_sided = run(guided(model, world["cond"], None, AV.both(1.0), sync=AV(audio=1.0, video=0.0)), world)
    close(one_sided, AV(audio=cond.audio, video=apart.video))
    alone = run(guided(model, world["cond"], None, AV.both(1.0), sync=sync, coupled=False), world)
    close(alone, apart)


def test_cross_modal_guidance_costs_nothing_where_places_in_time_are_settled(
    model: JointModel, world: dict[str, Any]
) -> None:
    batches: list[int] = []
    hook = model.network_video.conv_in.register_forward_pre_hook(
        lambda _m, args: batches.append(len(args[0]))
    )
    late = {
        **world,
        "levels": AV(0.301, 0.3).map(lambda u: torch.full((2,), u, dtype=torch.float64)),
    }
    eps = run(guided(model, world["cond"], None, AV.both(1.0), sync=AV.both(4.0), sync_from=0.301), late)
    plain = run(guided(model, world["cond"], None, AV.both(1.0)), late)
    hook.remove()
    assert batches == [2 * 2, 2 * 2]
    close(AV(audio=eps.video, video=eps.video), AV(audio=plain.video, video=plain.video))
    assert relative_error(eps.audio, plain.audio) > 1e-2


def test_a_sample_of_a_batch_is_the_single_run(model: JointModel, world: dict[str, Any]) -> None:
    def generate(rows: slice) -> AV[Tensor]:
        cond, uncond = (world[key].map(lambda x: x[rows]) for key in ("cond", "uncond"))
        predict = guided(model, cond, uncond, AV(audio=2.0, video=3.0))
        noise = initial_noise(AV(audio=(8, 8, 8), video=(4, 2, 8, 8)), [11, 12][rows])
        return sample_joint(predict, noise, power_path(PROCESSES, 2), PROCESSES)

    batch, single = generate(slice(0, 2)), generate(slice(1, 2))
    for modality in MODALITIES:
        assert relative_error(getattr(batch, modality)[1:], getattr(single, modality)) < 1e-3


def test_guidance_without_a_negative_is_an_error(model: JointModel, world: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"video guidance is 7.5, which needs text_uncond"):
        guided(model, world["cond"], None, AV(audio=1, video=7.5))
    short = AV(audio=world["uncond"].audio, video=world["uncond"].video[:, :5])
    with pytest.raises(ValueError, match=r"video text_uncond has shape \(2, 5, 48\), text_cond \(2, 7, 48\)"):
        guided(model, world["cond"], short, AV(audio=1, video=7.5))

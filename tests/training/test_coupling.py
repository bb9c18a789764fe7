"""The options of the coupling stage, on the shipped bases and four tiny clips."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kinetophone.av import AV
from kinetophone.bundle.spec import BUNDLES
from kinetophone.hits import make_scene
from kinetophone.pipeline import Kinetophone
from kinetophone.training.levels import base_errors
from kinetophone.training.options import CouplingOptions
from kinetophone.training.recipe import BasesConfig, DataConfig, LoopConfig, Recipe
from kinetophone.training.stages import build_stage
from no_float64 import NoFloat64

UNET = "unet/diffusion_pytorch_model.safetensors"
EVERYTHING = CouplingOptions(
    connector_dropout=0.3, aligned_share=0.5, noise_levels="mixed", one_clean=0.5, snr_gamma=5.0
)
RELATIVE = dataclasses.replace(EVERYTHING, relative=True, timestep_power=0.5)


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    root = tmp_path_factory.mktemp("coupling")
    shutil.copytree(BUNDLES / "hits", root / "bundle")

    def build(options, size=32, materials=(), bases=None, **loop):
        recipe = Recipe(
            stage="coupling",
            name="tiny",
            data=DataConfig(count=4, size=size, materials=list(materials), cache=str(root / "cache")),
            loop=LoopConfig(steps=1, batch_size=4, lr=1e-3, threads=1, **loop),
            bundle=str(root / "bundle"),
            bases=bases or BasesConfig(),
            continued=True,
            options=options,
        )
        return build_stage(recipe)

    return build


def loss(stage, seed=0, *part):
    return stage.loss(np.random.default_rng(seed), torch.Generator().manual_seed(seed), *part)


@pytest.mark.parametrize(("options", "seed"), [(EVERYTHING, 0), (EVERYTHING, 1), (RELATIVE, 2)])
def test_the_losses_of_two_halves_average_to_that_of_the_batch(make, options, seed):
    stage = make(options)
    with torch.no_grad():
        whole = loss(stage, seed)
        halves = [loss(stage, seed, part) for part in (slice(0, 2), slice(2, 4))]
    for key, value in whole.items():
        torch.testing.assert_close((halves[0][key] + halves[1][key]) / 2, value)


def test_a_device_without_double_precision_can_train(make):
    stage = make(dataclasses.replace(EVERYTHING, self_conditioning=1.0))
    with NoFloat64():
        stage.device = torch.device("meta")
        stage.model.to("meta")
        stage.bases.map(lambda base: base.text_encoder.to("meta"))
        losses = loss(stage)
        losses["loss"].backward()
        clean = AV(audio=stage.latents.audio, video=stage.latents.video).map(
            lambda latents: torch.from_numpy(np.array(latents)).float().to("meta")
        )
        base_errors(stage.model, clean, stage._text(["a drum"] * 4), stage.processes)
    assert losses["loss"].device.type == "meta"


def test_frozen_weights_are_in_half_precision_where_the_passes_are(make):
    stage = make(EVERYTHING, precision="bfloat16")
    assert {p.dtype for base in (stage.bases.audio, stage.bases.video) for p in base.unet.parameters()} == {
        torch.bfloat16
    }
    assert {p.dtype for p in stage.coupling.parameters()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        half = loss(stage)["loss"]
    half.backward()
    assert all(torch.isfinite(p.grad).all() for p in stage.coupling.parameters() if p.grad is not None)
    torch.testing.assert_close(half, loss(make(EVERYTHING))["loss"], rtol=0.05, atol=0.0)


def test_gradient_checkpointing_changes_no_gradient(make):
    gradients = []
    for spare in (False, True):
        stage = make(EVERYTHING, gradient_checkpointing=spare)
        loss(stage)["loss"].backward()
        gradients.append([p.grad for p in stage.coupling.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_motion_modules_learn_if_asked(make):
    stage = make(CouplingOptions(train="motion"), size=64)
    loss(stage)["loss"].backward()
    learns = {name for name, p in stage.trained["video"].named_parameters() if p.grad is not None}
    assert learns
    assert all("motion" in name for name in learns)
    assert all(p.grad is None for p in stage.bases.audio.unet.parameters())


@pytest.mark.parametrize("train", ["all", "scratch"])
def test_the_bases_learn_if_asked_from_their_weights_or_from_none(make, train, tmp_path):
    stage = make(CouplingOptions(train=train), size=64)
    shipped = load_file(BUNDLES / "hits" / "audio" / UNET)["conv_in.weight"].float()
    assert torch.equal(stage.bases.audio.unet.conv_in.weight, shipped) == (train == "all")
    loss(stage)["loss"].backward()
    for name, network in stage.trained.items():
        assert all(p.grad is not None for p in network.parameters() if p.requires_grad), name
    stage.bundle = tmp_path
    stage.export()
    for name in ("audio", "video"):
        exported = load_file(tmp_path / name / UNET)
        assert torch.equal(exported["conv_in.weight"], stage.trained[name].conv_in.weight)


def test_bases_named_by_the_recipe_are_written_whole_once_they_have_learned(make, tmp_path):
    named = BasesConfig(audio=str(BUNDLES / "hits" / "audio"), video=str(BUNDLES / "hits" / "video"))
    stage = make(CouplingOptions(train="motion"), bases=named)
    with torch.no_grad():
        for parameter in stage.bases.video.unet.parameters():
            parameter.zero_()
    stage.bundle = tmp_path
    stage.export()
    pipe = Kinetophone.from_pretrained(tmp_path, device="cpu")
    assert not any(parameter.any() for parameter in pipe.bases.video.unet.parameters())
    assert (tmp_path / "video" / "vae").is_dir()
    assert not (tmp_path / "audio").exists()


def test_a_given_modality_is_read_clean_and_carries_no_loss(make, monkeypatch):
    stage = make(CouplingOptions(one_clean=1.0, self_conditioning=0.0))
    known = AV(audio=torch.ones(4, dtype=bool), video=torch.zeros(4, dtype=bool))
    monkeypatch.setattr(stage, "_given", lambda batch, rng: known)
    seen = {}
    features = stage.model.features

    def spy(latents, levels, x0_hat):
        seen.update(latents=latents, levels=levels)
        return features(latents, levels, x0_hat)

    monkeypatch.setattr(stage.model, "features", spy)
    with torch.no_grad():
        losses = loss(stage)
    assert losses["audio"] == 0
    assert losses["video"] > 0
    assert seen["levels"].audio.tolist() == [0.001] * 4
    index, _ = stage.latents.draw(np.random.default_rng(0), 4)
    torch.testing.assert_close(seen["latents"].audio, torch.from_numpy(stage.latents.audio[index]).float())


@pytest.mark.parametrize(("train", "audio", "video"), [("coupling", 1, 2), ("motion", 1, 3)])
def test_a_unet_is_run_for_samples_it_can_learn_from_and_no_gradient_is_lost(
    make, monkeypatch, train, audio, video
):
    options = CouplingOptions(one_clean=1.0, self_conditioning=1.0, connector_dropout=0.5, train=train)
    given = AV(
        audio=torch.tensor([True, False, False, True]), video=torch.tensor([False, False, True, False])
    )
    stage = make(options, size=64)
    monkeypatch.setattr(stage, "_given", lambda batch, rng: given)
    sizes, gradients = [], []
    stage.model.register_forward_pre_hook(lambda _, args: sizes.append(args[0].map(len)))
    trained = [p for module in stage.trained.values() for p in module.parameters()]

    def backward():
        loss(stage)["loss"].backward()
        gradients.append([p.grad for p in trained if p.grad is not None])
        for p in trained:
            p.grad = None

    backward()
    predict, every = stage._predict, given.map(torch.ones_like)
    monkeypatch.setattr(stage, "_predict", lambda *args: predict(*args[:4], every, *args[5:]))
    backward()
    assert sizes == [AV(audio=2, video=3), AV(audio, video), *[AV(audio=4, video=4)] * 2]
    torch.testing.assert_close(gradients[0], gradients[1])


def test_estimates_are_made_where_the_option_says(make, monkeypatch):
    levels = {}
    for place in ("connector", "unet"):
        stage = make(CouplingOptions(self_conditioning=1.0, estimate_at=place))
        calls = levels.setdefault(place, [])
        features = stage.model.features

        def spy(latents, own, x0_hat, features=features, calls=calls):
            calls.append((own.audio.tolist(), x0_hat is not None))
            return features(latents, own, x0_hat)

        monkeypatch.setattr(stage.model, "features", spy)
        with torch.no_grad():
            loss(stage)
    (first, _), (own, estimated) = levels["connector"]
    assert first == own
    assert estimated
    (first, _), (again, _) = levels["unet"]
    assert first != again == own


def test_only_clips_of_the_materials_asked_for_are_drawn(make):
    every, some = make(CouplingOptions()), make(CouplingOptions(), materials=["wood", "drum"])
    scenes = [make_scene("train", i)[0].material for i in range(4)]
    kept = [i for i, material in enumerate(scenes) if material in ("wood", "drum")]
    assert 0 < len(kept) < 4
    assert len(some.latents) == len(kept)
    np.testing.assert_array_equal(some.latents.audio, every.latents.audio[kept])
    assert some.latents.captions == [every.latents.captions[i] for i in kept]


def test_what_is_given_is_never_both(make):
    stage = make(CouplingOptions(one_clean=0.4))
    given = stage._given(10_000, np.random.default_rng(0))
    assert not (given.audio & given.video).any()
    assert float(given.audio.float().mean()) == pytest.approx(0.2, abs=0.02)
    assert float(given.video.float().mean()) == pytest.approx(0.2, abs=0.02)


def test_relative_weights_make_the_bases_alone_score_about_one_at_every_level(make):
    stage = make(CouplingOptions(relative=True))
    stage.model.detach()  # the bases alone
    clean, noisy = 1 / stage.errors.audio.weight(stage.processes.audio, torch.tensor([0.05, 0.9]))
    assert clean > 10 * noisy
    with torch.no_grad():
        mean = np.mean([float(loss(stage, seed)["loss"]) for seed in range(6)])
    assert 1.5 < mean < 2.5  # one for each modality


def test_a_power_below_one_draws_noisier_levels(make):
    stage = make(CouplingOptions(timestep_power=0.5))
    levels = stage._levels(4000, torch.Generator().manual_seed(0))
    assert float(levels.audio.mean()) == pytest.approx(2 / 3, abs=0.003)  # the density is 2u
    assert float(levels.video.mean()) == pytest.approx(2 / 3, abs=0.003)


@pytest.mark.parametrize(("levels", "same"), [("independent", 0.0), ("mixed", 0.5), ("shared", 1.0)])
def test_noise_levels_of_the_two_unets(make, levels, same):
    stage = make(CouplingOptions(noise_levels=levels))
    drawn = stage._levels(2000, torch.Generator().manual_seed(0))
    assert float((drawn.audio == drawn.video).float().mean()) == pytest.approx(same, abs=0.05)
    assert float(drawn.video.mean()) == pytest.approx(0.5, abs=0.015)


def test_an_image_model_without_motion_modules_cannot_train_them(make):
    stage = make(dataclasses.replace(EVERYTHING))
    with pytest.raises(ValueError, match="has no motion modules; choose another"):
        stage._thaw_motion(stage.bases.audio.unet)

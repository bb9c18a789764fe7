"""The options of the coupling stage, on the shipped bases and four tiny clips."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kinetophone.av import AV
from kinetophone.pipeline import Kinetophone
from kinetophone.request import BUNDLES
from kinetophone.training.options import CouplingOptions
from kinetophone.training.recipe import BasesConfig, DataConfig, LoopConfig, Recipe
from kinetophone.training.stages import build_stage

UNET = "unet/diffusion_pytorch_model.safetensors"
EVERYTHING = CouplingOptions(
    connector_dropout=0.3, aligned_share=0.5, noise_levels="mixed", one_clean=0.5, snr_gamma=5.0
)


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    root = tmp_path_factory.mktemp("coupling")
    shutil.copytree(BUNDLES / "hits", root / "bundle")

    def build(options, size=32, bases=None, **loop):
        recipe = Recipe(
            stage="coupling",
            name="tiny",
            data=DataConfig(count=4, size=size, cache=str(root / "cache")),
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


@pytest.mark.parametrize("seed", range(3))
def test_the_losses_of_two_halves_average_to_that_of_the_batch(make, seed):
    stage = make(EVERYTHING)
    with torch.no_grad():
        whole = loss(stage, seed)
        halves = [loss(stage, seed, part) for part in (slice(0, 2), slice(2, 4))]
    for key, value in whole.items():
        torch.testing.assert_close((halves[0][key] + halves[1][key]) / 2, value)


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

    def spy(latents, timesteps, x0_hat):
        seen.update(latents=latents, timesteps=timesteps)
        return features(latents, timesteps, x0_hat)

    monkeypatch.setattr(stage.model, "features", spy)
    with torch.no_grad():
        losses = loss(stage)
    assert losses["audio"] == 0
    assert losses["video"] > 0
    assert seen["timesteps"].audio.tolist() == [0] * 4
    index, _ = stage.latents.draw(np.random.default_rng(0), 4)
    torch.testing.assert_close(seen["latents"].audio, torch.from_numpy(stage.latents.audio[index]).float())


def test_what_is_given_is_never_both(make):
    stage = make(CouplingOptions(one_clean=0.4))
    given = stage._given(10_000, np.random.default_rng(0))
    assert not (given.audio & given.video).any()
    assert float(given.audio.float().mean()) == pytest.approx(0.2, abs=0.02)
    assert float(given.video.float().mean()) == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize(("levels", "same"), [("independent", 0.0), ("mixed", 0.5), ("shared", 1.0)])
def test_noise_levels_of_the_two_unets(make, levels, same):
    stage = make(CouplingOptions(noise_levels=levels))
    t = stage._timesteps(2000, torch.Generator().manual_seed(0))
    assert float((t.audio == t.video).float().mean()) == pytest.approx(same, abs=0.05)
    assert float(t.video.float().mean()) == pytest.approx(499.5, abs=15)


def test_an_image_model_without_motion_modules_cannot_train_them(make):
    stage = make(dataclasses.replace(EVERYTHING))
    with pytest.raises(ValueError, match="has no motion modules; choose another"):
        stage._thaw_motion(stage.bases.audio.unet)

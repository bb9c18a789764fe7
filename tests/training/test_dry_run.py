"""A recipe's sizes are known without weights, a network or a GPU."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import diffusers
import pytest
import torch
from diffusers import MotionAdapter, UNet2DConditionModel
from torch.utils._pytree import tree_map

import tiny as tiny_models
from kinetophone.av import AV
from kinetophone.bases.load import load_audio_base, load_video_base
from kinetophone.bundle.spec import BUNDLES
from kinetophone.errors import UserError
from kinetophone.reference import networks as published
from kinetophone.training import requirements, run
from kinetophone.training.dry_run import _conditioning, _kept, estimate
from kinetophone.training.recipe import load_recipe

GIB = 2**30
RECIPES = Path(__file__).parents[2] / "recipes"
TINY = """
stage: coupling
bundle: {bundle}
data: {{count: 4}}
model: {{channel_mult: [1], num_blocks: [1], connector_channels: 96, head_dim: 32}}
options: {{train: {train}}}
loop: {{steps: 10, batch_size: 4, accumulate: 2, lr: 1e-3, gradient_checkpointing: {checkpointing}{more}}}
"""


TRANSFORMERS = ("stabilityai/stable-audio-open-1.0", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers")


def tiny(folder, train="coupling", checkpointing="false", more=""):
    path = folder / "tiny.yaml"
    path.write_text(TINY.format(bundle=BUNDLES / "hits", train=train, checkpointing=checkpointing, more=more))
    return load_recipe(path)


def test_the_published_training():
    lines = requirements(RECIPES / "animatediff-audioldm-greatesthits.yaml")
    assert lines[0] == "trained   467.7 M parameters"
    assert lines[1] == "frozen    1,728.7 M parameters"  # 1,313 M of AnimateDiff, 416 M of AudioLDM
    assert "of 16 clips" in lines[-1]


@pytest.mark.parametrize(("coupling", "millions"), [("cmc_pe", 467.7), ("cross_attention", 323.7)])
def test_the_published_sizes_by_the_configurations_on_disk(tmp_path, coupling, millions):
    """Of an image model, a motion adapter and AudioLDM, as they lie on the Hub."""
    with torch.device("meta"):
        unets, vaes = published.unets(), published.around().map(lambda parts: parts["vae"])
        image = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        adapter = MotionAdapter()
    unets.audio.save_config(tmp_path / "audioldm" / "unet")
    image.save_config(tmp_path / "image" / "unet")
    vaes.audio.save_config(tmp_path / "audioldm" / "vae")
    vaes.video.save_config(tmp_path / "image" / "vae")
    adapter.save_config(tmp_path / "adapter")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        f"""
stage: coupling
bundle: {tmp_path}/out
bases: {{audio: {tmp_path}/audioldm, video: {tmp_path}/image, motion_adapter: {tmp_path}/adapter}}
data: {{count: 4, size: 256}}
model: {{coupling: {coupling}}}
loop: {{steps: 10, batch_size: 1, lr: 1e-5}}
"""
    )
    lines = requirements(recipe)
    fixed = 19.6 if coupling == "cross_attention" else 0  # attention to one token: weights that can't learn
    assert lines[0] == f"trained   {millions - fixed:,.1f} M parameters"
    assert float(lines[1].split()[1].replace(",", "")) == pytest.approx(1728.7 + fixed, abs=0.1)


@pytest.mark.parametrize(
    ("name", "card", "smaller"),
    [
        ("animatediff-audioldm-greatesthits", 79.1, 47.4),
        ("animatediff-audioldm-greatesthits-24gb", 23.5, 15.7),
    ],
)
def test_a_training_fits_the_card_it_is_for(name, card, smaller):
    found = estimate(load_recipe(RECIPES / f"{name}.yaml"))
    assert found.problem(int(card * GIB)) is None  # what the driver shows of 80 and of 24 GB
    assert f"which has {smaller}: set a larger 'loop.accumulate'" in found.problem(int(smaller * GIB))
    assert found.problem(int(smaller * GIB), processes=4) is None or found.clips_per_pass < 4


def shallow(name, folder):
    """The configurations of a published base in a folder, with two blocks."""
    for part, config in published.PUBLISHED[name].items():
        config = config | ({"num_layers": 2} if part == "transformer" else {})
        with torch.device("meta"):
            network = getattr(diffusers, config.pop("_class_name"))(**config)
        network.save_config(folder / part)
    return folder


def pair(folder, audio, video, kind="in_place", data="cache/none"):
    path = folder / "pair.yaml"
    path.write_text(
        f"""
stage: coupling
bundle: {folder}/out
bases: {{audio: {audio}, video: {video}}}
data: {{source: {data}, size: 480}}
model: {{coupling: {kind}}}
loop: {{steps: 10, batch_size: 4, lr: 1e-4, precision: bfloat16, gradient_checkpointing: true}}
"""
    )
    return path


def test_the_recipe_for_transformers():
    lines = requirements(RECIPES / "wan-stable-audio-24gb.yaml")
    trained, frozen, latents, *_, total, clips, steps = lines[:9]
    assert trained == "trained   8.7 M parameters"
    assert frozen == "frozen    2,475.9 M parameters"  # 1,419 M of Wan, 1,057 M of Stable Audio
    assert latents == "latents   audio 64 x 83, video 16 x 16 x 60 x 60: 1.77 MiB a clip on disk"  # 61 frames
    assert total.split()[:2] == ["18.0", "GiB"]  # four clips at once
    assert clips == "clips     on a card of 24 GB: 5 at once; 80 GB: 16 at once"
    assert "of 16 clips" in steps


def test_transformers_by_the_configurations_on_disk(tmp_path):
    folders = [shallow(name, tmp_path / name) for name in TRANSFORMERS]
    found = estimate(load_recipe(pair(tmp_path, *folders)))
    assert found.latents == AV(audio=(64, 83), video=(16, 16, 60, 60))
    inserted = estimate(load_recipe(pair(tmp_path, *folders, kind="cmc_pe")))
    assert inserted.trained > 10 * found.trained
    assert inserted.activation_bytes > found.activation_bytes
    shutil.rmtree(folders[1] / "vae")
    with pytest.raises(UserError, match=r"has no vae/config\.json: name a base with an autoencoder"):
        estimate(load_recipe(pair(tmp_path, *folders)))


@pytest.mark.parametrize("name", ["wan", "stable_audio"])
def test_what_is_kept_without_weights_is_what_is_kept_with_them(models, name):
    video = name == "wan"
    base = (load_video_base if video else load_audio_base)(models / name, dtype=torch.bfloat16)
    shape = base.latent_shape(33, 64) if video else base.latent_shape(20_000)

    def kept(device):
        network = base.network.to(device).requires_grad_(False)
        dtype = torch.bfloat16 if device == "meta" else torch.float32
        x = torch.zeros(1, *shape, device=device, dtype=dtype, requires_grad=True)
        text = tree_map(lambda tensor: torch.zeros_like(tensor, device=device), _conditioning(base, dtype))
        level = torch.full((1,), 0.5, dtype=torch.float64)
        with _kept(network) as count, torch.autocast("cpu", torch.bfloat16, enabled=device == "cpu"):
            alive = base.denoiser()(x, level, text)
        del alive
        return count()

    measured = kept("cpu")
    assert kept("meta") == pytest.approx(measured, rel=0.02)


def test_latents_have_the_length_and_size_of_clips_that_are_encoded(tmp_path):
    (tmp_path / "latents").mkdir()
    (tmp_path / "latents" / "encoded.json").write_text('{"fps": 16, "seconds": 2.0625, "size": 256}')
    folders = [shallow(name, tmp_path / name) for name in TRANSFORMERS]
    found = estimate(load_recipe(pair(tmp_path, *folders, data=tmp_path / "latents")))
    assert found.latents == AV(audio=(64, 45), video=(16, 9, 32, 32))


def test_frozen_weights_take_half_where_the_coupling_alone_trains(tmp_path):
    full = estimate(tiny(tmp_path))
    half = estimate(tiny(tmp_path, more=", precision: bfloat16"))
    assert full.state_bytes - half.state_bytes == 2 * full.frozen
    motion = estimate(tiny(tmp_path, train="motion", more=", precision: bfloat16"))
    assert motion.state_bytes == estimate(tiny(tmp_path, train="motion")).state_bytes


def test_a_bundle_of_ones_own_and_what_changes_it(tmp_path):
    usual, motion, spared = (
        estimate(tiny(tmp_path, **changes))
        for changes in ({}, {"train": "motion"}, {"checkpointing": "true"})
    )
    assert usual.clips_per_pass == 2
    assert motion.trained > usual.trained
    assert motion.trained + motion.frozen == usual.trained + usual.frozen
    assert spared.activation_bytes < usual.activation_bytes / 2
    assert not list(tmp_path.glob("runs*"))


def test_other_stages_and_bases_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="recipes of the stage coupling; this one's is audio"):
        estimate(load_recipe(RECIPES / "hits-audio.yaml"))
    recipe = tiny(tmp_path)
    object.__setattr__(recipe, "bundle", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="can't be built: train or copy the bases there"):
        estimate(recipe)


def test_pickled_weights_are_told_of_before_they_are_needed(tmp_path, models):
    models = shutil.copytree(models, tmp_path / "models")
    recipe = tmp_path / "mine.yaml"

    def lines(allow):
        recipe.write_text(
            f"""
stage: coupling
bundle: {tmp_path}/out
bases:
  audio: {models}/audioldm
  video: {models}/image
  motion_adapter: {models}/adapter
  allow_pickle: {allow}
data: {{count: 4, size: 64}}
loop: {{steps: 10, batch_size: 1, lr: 1e-5}}
"""
        )
        return [line for line in requirements(recipe) if line.startswith("problem")]

    assert lines("false") == []
    for part in ("audioldm/vocoder", "adapter"):
        tiny_models.pickled(models / part)
    audio, adapter = lines("false")
    assert audio.startswith(
        f"problem   '{models}/audioldm' has only pickled weights (vocoder/pytorch_model.bin)"
    )
    assert "/adapter' has only pickled weights" in adapter
    assert lines("true") == []


def test_a_device_that_is_not_there_or_too_small_is_refused_before_anything_is_built(tmp_path, monkeypatch):
    recipe = RECIPES / "animatediff-audioldm-greatesthits.yaml"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        UserError, match=r"'loop\.device' is cuda, which torch .* does not find on this machine"
    ):
        run(recipe, tmp_path / "run")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    card = SimpleNamespace(total_memory=24 * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    needed = r"needs about 53\.4 GiB on the device, which has 24\.0"
    with pytest.raises(UserError, match=needed):
        run(recipe, tmp_path / "run")
    assert re.search(needed, requirements(recipe)[-1])
    assert not list(tmp_path.iterdir())

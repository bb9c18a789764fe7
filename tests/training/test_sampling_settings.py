"""What a trained bundle samples with, and where it finds its bases again."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import tiny
from kinetophone import Kinetophone
from kinetophone.bundle.push import bundle_files
from kinetophone.bundle.spec import BUNDLES, BundleSpec
from kinetophone.cli import app
from kinetophone.diffusion.settings import PUBLISHED_DEFAULTS
from kinetophone.errors import RequestError
from kinetophone.training.options import CouplingOptions
from kinetophone.training.recipe import BasesConfig, DataConfig, LoopConfig, Recipe, load_recipe
from kinetophone.training.stages import build_stage

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def export(cache):
    def train(bundle, bases=None, **more):
        recipe = Recipe(
            stage="coupling",
            name="tiny",
            data=DataConfig(count=2, size=64, cache=cache),
            loop=LoopConfig(steps=1, batch_size=2, lr=1e-3, threads=1),
            bundle=str(bundle),
            bases=bases or BasesConfig(),
            options=CouplingOptions(),
            **more,
        )
        stage = build_stage(recipe)
        stage.export()
        return BundleSpec.read(bundle)

    return train


def bases_of(folder):
    return BasesConfig(audio=str(folder / "audio"), video=str(folder / "video"))


def test_a_coupling_on_the_bases_of_a_bundle_samples_as_that_bundle_does(export, tmp_path):
    shutil.copytree(BUNDLES / "hits", tmp_path / "bases")
    spec = export(tmp_path / "mine", bases_of(tmp_path / "bases"))
    assert spec.defaults == BundleSpec.read("hits").defaults
    assert spec.auto_gamma is None  # it was measured on another coupling


def test_a_new_bundle_samples_as_the_recipe_says_and_training_again_keeps_what_was_tuned(export, tmp_path):
    bases = bases_of(BUNDLES / "hits")
    spec = export(tmp_path / "mine", bases, sampling={"steps": 7, "guidance_sync": {"audio": 3, "video": 1}})
    assert spec.defaults == BundleSpec.read("hits").defaults | {
        "steps": 7,
        "guidance_sync": {"audio": 3, "video": 1},
    }
    tuned = dataclasses.replace(spec, auto_gamma=0.6, defaults=spec.defaults | {"gamma": 2.0})
    tuned.write(tmp_path / "mine")
    again = export(tmp_path / "mine", bases, sampling={"steps": 9, "gamma": 1.0})
    assert again.defaults == tuned.defaults
    assert again.auto_gamma == 0.6


def test_named_bases_without_settings_of_their_own_get_the_published_ones(export, tmp_path):
    for name in ("audio", "video"):
        shutil.copytree(BUNDLES / "hits" / name, tmp_path / "bases" / name)
    spec = export(tmp_path / "mine", bases_of(tmp_path / "bases"))
    assert spec.defaults == PUBLISHED_DEFAULTS
    assert (spec.defaults["steps"], spec.defaults["gamma"]) == (50, 1.5)
    assert spec.defaults["guidance"] == {"audio": 2.5, "video": 7.5}
    assert (spec.fps, spec.frames) == (8, 32)
    # A bundle of other bases there before says nothing about these.
    hits = export(tmp_path / "mine", bases_of(BUNDLES / "hits"))
    assert hits.defaults == BundleSpec.read("hits").defaults


def test_the_first_recipe_of_hits_says_how_it_samples():
    assert load_recipe(RECIPES / "hits-coupling.yaml").sampling["gamma"] == 0.4


@pytest.mark.parametrize(
    ("sampling", "told"),
    [
        ("{stepps: 3}", "'sampling': 'stepps' is not one of steps, stepper, gamma"),
        ("{steps: 0}", "'sampling': steps is 0; it must be 1 to 1000"),
        ("{steps: many}", "must be numbers"),
        ("{guidance_sync: {audio: 1}}", "one for audio and one for video"),
        ("{negative_prompt: 3}", "negative_prompt must be a text"),
        ("{batch_size: 0}", "batch-size is 0"),
    ],
)
def test_settings_that_cannot_be_are_told_before_training(tmp_path, sampling, told):
    path = tmp_path / "mine.yaml"
    loop = "loop: {steps: 1, batch_size: 1, lr: 1e-3}"
    path.write_text(f"stage: coupling\ndata: {{count: 2}}\n{loop}\nsampling: {sampling}\n")
    with pytest.raises(ValueError, match=told):
        load_recipe(path)


def test_bases_in_folders_are_found_from_anywhere_and_after_a_move(export, tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    for name in ("audio", "video"):
        shutil.copytree(BUNDLES / "hits" / name, runs / "bases" / name)
    monkeypatch.chdir(tmp_path)
    export(Path("runs/mine"), BasesConfig(audio="runs/bases/audio", video="runs/bases/video"))
    monkeypatch.chdir("/")
    Kinetophone.from_pretrained(runs / "mine", device="cpu")
    # The bundle alone.
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.move(runs / "mine", tmp_path / "elsewhere" / "mine")
    assert Path(BundleSpec.read(moved).bases["audio"]["name"]) == runs / "bases" / "audio"
    shutil.move(moved, runs / "mine")
    # Both together.
    runs.rename(tmp_path / "renamed")
    Kinetophone.from_pretrained(tmp_path / "renamed" / "mine", device="cpu")
    (tmp_path / "renamed" / "mine" / "README.md").write_text("---\nlicense: mit\n---\n")
    with pytest.raises(RequestError, match=r"audio base is a local folder, .*renamed/bases/audio'"):
        bundle_files(tmp_path / "renamed" / "mine")


def test_a_coupling_saved_without_its_bases_finds_relative_ones(tmp_path, models, monkeypatch):
    shutil.copytree(models, tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    pipe = Kinetophone.from_bases(
        audio="models/audioldm", video="models/image", motion_adapter="models/adapter", size=32, device="cpu"
    )
    pipe.save_coupling("mine")
    monkeypatch.chdir("/")
    again = Kinetophone.from_pretrained(tmp_path / "mine", device="cpu")
    assert again.bases.video.reference["motion_adapter"] == str(tmp_path / "models" / "adapter")
    written = json.loads((tmp_path / "mine" / "kinetophone.json").read_text())["bases"]
    assert written["video"]["motion_adapter"] == "../models/adapter"


def small(folder, **changes):
    """A recipe as a user writes it, on bases in ``folder``."""
    loop = {"steps": 1, "batch_size": 2, "lr": 1e-3, "sample_every": 0, "threads": 1}
    bases = {name: str(folder / "bases" / name) for name in ("audio", "video")}
    recipe = {"stage": "coupling", "bundle": str(folder / "mine"), "bases": bases | changes, "loop": loop}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(recipe | {"data": {"count": 2, "cache": str(folder / "cache")}}))
    return path


def test_pickled_bases_train_and_generate_by_consent_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("audio", "video"):
        shutil.copytree(BUNDLES / "hits" / name, tmp_path / "bases" / name)
    tiny.pickled(tmp_path / "bases")
    refused = CliRunner().invoke(app, ["train", str(small(tmp_path))])
    assert refused.exit_code == 2
    assert "has only pickled weights" in refused.output
    assert "in a recipe 'bases: {allow_pickle: true}'" in refused.output
    trained = CliRunner().invoke(app, ["train", str(small(tmp_path, allow_pickle=True))])
    assert trained.exit_code == 0, trained.output
    generate = ["generate", "a drum", "--bundle", "mine", "-o", "clip.mp4", "--steps", "1", "--device", "cpu"]
    refused = CliRunner().invoke(app, generate)
    assert refused.exit_code == 2
    assert "use --allow-pickle" in refused.output
    made = CliRunner().invoke(app, [*generate, "--allow-pickle"])
    assert made.exit_code == 0, made.output


def test_bases_with_half_precision_files_alone_can_be_trained_on(export, tmp_path):
    """As many repositories on the Hub have them, ``fp16`` in every name."""
    for name in ("audio", "video"):
        shutil.copytree(BUNDLES / "hits" / name, tmp_path / "bases" / name)
    tiny.halved(tmp_path / "bases")
    assert export(tmp_path / "mine", bases_of(tmp_path / "bases")).defaults == PUBLISHED_DEFAULTS

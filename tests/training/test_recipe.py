"""Recipes are checked whole before anything is built, and the shipped ones are valid."""

from pathlib import Path

import pytest

from kinetophone.training.recipe import load_recipe

HEAD = "stage: {}\ndata: {{count: 4}}\nloop: {{steps: 1, batch_size: 4, lr: 0.1}}\n"
LOOP = "stage: {}\ndata: {{count: 4}}\nloop: {{steps: 1, batch_size: 4, lr: 0.1, {}}}\n"
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_shipped_recipes_load(path):
    assert load_recipe(path).name == path.stem


def test_all_problems_are_reported_at_once_with_the_nearest_key(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("stage: audio\ndata: {count: many}\nloop: {steps: 10, batch_siz: 4, lr: 1e-3}\n")
    with pytest.raises(ValueError, match=r"unknown key 'loop\.batch_siz'") as error:
        load_recipe(path)
    text = str(error.value)
    assert "did you mean 'loop.batch_size'?" in text
    assert "'data.count' must be int, got 'many'" in text
    assert "'loop.batch_size' is missing" in text


def test_numbers_written_as_yaml_strings_are_read(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("stage: audio\ndata: {count: 4}\nloop: {steps: 10, batch_size: 4, lr: 1e-3}\n")
    assert load_recipe(path).loop.lr == 1e-3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stage: sing\ndata: {count: 4}\nloop: {steps: 1, batch_size: 4, lr: 0.1}", "unknown stage 'sing'"),
        (
            "stage: audio\ndata: {count: 4}\nloop: {steps: 0, batch_size: 4, lr: 0.1}",
            "'loop.steps' must be positive",
        ),
        (
            HEAD.format("coupling") + "options: {self_conditionin: 1}",
            r"did you mean 'options\.self_conditioning'",
        ),
        (
            HEAD.format("coupling") + "options: {one_clean: 2}",
            r"'options\.one_clean' must be from 0 to 1, got 2",
        ),
        (HEAD.format("coupling") + "options: {noise_levels: own}", "must be independent or shared or mixed"),
        (
            HEAD.format("coupling") + "options: {train: bases}",
            r"'options\.train' must be coupling or motion or all or scratch, got 'bases'",
        ),
        (HEAD.format("audio") + "options: {train: all}", r"unknown key 'options\.train'"),
        (HEAD.format("clip-text") + "options: {length: 20}", r"'options\.vocabulary' is missing"),
        (HEAD.format("clip-text"), r"'options\.length' is missing"),
        (HEAD.format("audio") + "options: [a]", "'options' must contain keys and values"),
        (HEAD.format("audoi"), "did you mean 'audio'"),
        (
            HEAD.format("coupling").replace("4}", "4, materials: [stone]}", 1),
            r"'data\.materials': stone is not one of metal, wood, glass, drum, cloth",
        ),
        (HEAD.format("image") + "continued: true", "'continued' is for the stages video-autoencoder, audio"),
        (
            HEAD.format("audio").replace("4}", "4, materials: [wood]}", 1),
            r"'data\.materials' is for hits and the stages connectors and coupling; leave it out",
        ),
        (
            LOOP.format("vocoder", "accumulate: 2"),
            "is for the stages image, motion, audio, wan, stable-audio, connectors, coupling",
        ),
        (LOOP.format("audio", "accumulate: 3"), "batch_size' 4 is not a multiple of 'loop.accumulate' 3"),
        (LOOP.format("audio", "precision: half"), "must be float32 or bfloat16 or float16, got 'half'"),
        (LOOP.format("audio", "warmup: -1"), r"'loop\.warmup' must be 0 or more, got -1"),
        (LOOP.format("audio", "grad_clip: .nan"), r"'loop\.grad_clip' must be positive"),
        (LOOP.format("audio", "optimizer: adamw8bit"), "pip install bitsandbytes"),
        ("- a", "must contain keys and values"),
        ("stage: [", "not valid YAML"),
    ],
)
def test_bad_values(tmp_path, text, message):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_recipe(path)


def test_a_missing_recipe_names_where_they_are(tmp_path):
    with pytest.raises(ValueError, match="shipped recipes are in recipes/"):
        load_recipe(tmp_path / "none.yaml")


def test_options_have_the_published_values_unless_they_are_given(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(HEAD.format("coupling") + "options: {snr_gamma: 5}")
    options = load_recipe(path).options
    assert (options.snr_gamma, options.self_conditioning, options.text_dropout) == (5.0, 0.5, 0.1)
    assert options.noise_levels == "independent"

"""Recipes are checked whole before anything is built, and the shipped ones are valid."""

from pathlib import Path

import pytest

from kinetophone.training.recipe import load_recipe

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
        ("- a", "must hold keys and values"),
        ("stage: [", "not valid YAML"),
    ],
)
def test_bad_values(tmp_path, text, message):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_recipe(path)


def test_a_missing_recipe_names_where_they_are(tmp_path):
    with pytest.raises(ValueError, match="the shipped ones are in recipes/"):
        load_recipe(tmp_path / "none.yaml")

"""Connectors trained alone: what they are to foretell, and that they learn it."""

import shutil

import numpy as np
import pytest
import torch

from kinetophone.bundle.spec import BUNDLES
from kinetophone.errors import RequestError
from kinetophone.training.connectors import _targets
from kinetophone.training.loop import train
from kinetophone.training.recipe import DataConfig, LoopConfig, Recipe
from kinetophone.training.stages import build_stage


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("connectors")
    shutil.copytree(BUNDLES / "hits", root / "bundle")
    return root


def recipe(root, **changes):
    return Recipe(
        stage="connectors",
        name="tiny",
        data=DataConfig(count=4, size=32, cache=str(root / "cache")),
        loop=LoopConfig(steps=60, batch_size=4, lr=2e-3, warmup=5, threads=1, sample_every=0),
        bundle=str(root / "bundle"),
        **changes,
    )


def loss(stage, seed=0, *part):
    return stage.loss(np.random.default_rng(seed), torch.Generator().manual_seed(seed), *part)


MODEL = {"connector_channels": 32, "channel_mult": [1], "num_blocks": [1], "head_dim": 32}


def test_targets_are_how_much_changes_and_what():
    x = torch.zeros(1, 2, 4, 3)
    x[:, :, 2:] = 1.0  # everything rises by one into the third moment
    series = _targets(x)
    assert series.shape == (1, 7, 4)
    assert series[0, 0].tolist() == [0, 0, 1, 0]
    assert series[0, 1:].mean(dim=1).abs().max() == 0
    torch.testing.assert_close(_targets(x + 5), series)  # what stays the same is not to be foretold


def test_the_losses_of_two_halves_average_to_that_of_the_batch(root):
    stage = build_stage(recipe(root, continued=True))
    with torch.no_grad():
        whole = loss(stage)
        halves = [loss(stage, 0, part) for part in (slice(0, 2), slice(2, 4))]
    for key, value in whole.items():
        torch.testing.assert_close((halves[0][key] + halves[1][key]) / 2, value)


def test_connectors_learn_and_only_they_go_into_the_bundle(root):
    made = recipe(root, model=MODEL)
    stage = build_stage(made)
    blocks = {k: v.clone() for k, v in stage.whole.coupling.state_dict().items() if "connector_in" in k}
    with torch.no_grad():
        before = float(loss(stage)["loss"])
    train(stage, made.loop, root / "run")
    with torch.no_grad():
        after = float(loss(stage)["loss"])
        left = stage.sample(root, 0)
    assert after < 0.8 * before
    assert set(left) == {f"from_{m}_at_{t}" for m in ("audio", "video") for t in (0.001, 0.3, 0.5, 0.7, 0.9)}
    assert all(0 < share < 2 for share in left.values())
    saved = build_stage(recipe(root, continued=True)).whole.coupling.state_dict()
    assert not any("head" in name for name in saved)
    for name, value in blocks.items():
        torch.testing.assert_close(saved[name], value)


def test_a_single_token_can_foretell_nothing(root):
    with pytest.raises(RequestError, match="one token for the entire clip"):
        build_stage(recipe(root, model={**MODEL, "coupling": "cross_attention"}))

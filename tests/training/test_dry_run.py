"""A recipe's sizes are known without weights, a network or a GPU."""

from pathlib import Path

import pytest

from kinetophone.errors import UserError
from kinetophone.request import BUNDLES
from kinetophone.training import dry_run
from kinetophone.training.dry_run import estimate
from kinetophone.training.recipe import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
TINY = """
stage: coupling
bundle: {bundle}
data: {{count: 4}}
model: {{channel_mult: [1], num_blocks: [1], connector_channels: 96, head_dim: 32}}
options: {{train: {train}}}
loop: {{steps: 10, batch_size: 4, accumulate: 2, lr: 1e-3, gradient_checkpointing: {checkpointing}}}
"""


def tiny(folder, train="coupling", checkpointing="false"):
    path = folder / "tiny.yaml"
    path.write_text(TINY.format(bundle=BUNDLES / "hits", train=train, checkpointing=checkpointing))
    return load_recipe(path)


def test_the_published_training():
    lines = dry_run(RECIPES / "animatediff-audioldm-greatesthits.yaml")
    assert lines[0] == "trained   467.7 M parameters"
    assert lines[1] == "frozen    1,728.7 M parameters"  # 1,313 M of AnimateDiff, 416 M of AudioLDM
    assert "of 16 clips" in lines[-1]


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

"""Experiments: the path from a recipe to a table, what resumes and what is out of date, and refusals."""

from __future__ import annotations

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from kinetophone.av import AV
from kinetophone.bundle.spec import BUNDLES, BundleSpec
from kinetophone.cli import app
from kinetophone.diffusion import information
from kinetophone.errors import RequestError
from kinetophone.hits import make_scene
from kinetophone.hits.captions import count_named
from kinetophone.study import measures, table
from kinetophone.study.cells import keep_connectors, start_from, train
from kinetophone.study.experiment import (
    CELLS,
    Experiment,
    Row,
    as_options,
    fingerprint,
    load_experiment,
    merged,
    read_cells,
    result_settings,
    training_fingerprint,
    write_cells,
)

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "recipes" / "experiments").glob("*.yaml"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the recipes."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def changed(here: Path, **changes: Any) -> Path:
    path = here / "changed.yaml"
    raw = yaml.safe_load((here / "recipes" / "experiments" / "debug.yaml").read_text())
    path.write_text(yaml.safe_dump({**raw, **changes}, sort_keys=False))
    return path


def quick(here: Path, **changes: Any) -> Path:
    """One that trains without the errors of the bases, which take most of its time."""
    raw = yaml.safe_load((here / "recipes" / "experiments" / "debug.yaml").read_text())
    return changed(here, **{"train": raw["train"] | {"options": {"relative": False}}, **changes})


def test_from_a_recipe_to_a_table_and_no_cell_twice(here: Path) -> None:
    rows = {"cmc_pe": {}, "bases": {"sampling": {"coupled": False}}}
    path = quick(here, rows=rows, sampling={"steps": 1})
    (here / "docs").mkdir()
    page = here / "docs" / "results.md"
    page.write_text(f"# Results\n\nBy hand.\n\n{table.START}\nold\n{table.END}\n\n## After\n")
    first = CliRunner().invoke(app, ["experiment", str(path), "--workers", "1"])
    assert first.exit_code == 0, first.output
    results = here / "docs" / "results" / "changed"
    names = {CELLS, "table.json", "table.md", "plot.png"}
    assert {file.name for file in results.iterdir()} - {"lock"} == names
    (kept,) = (here / "runs" / "experiments" / "connectors").iterdir()
    assert {file.name for file in kept.iterdir()} == {"config.json", SAFETENSORS_WEIGHTS_NAME}
    summary = json.loads((results / "table.json").read_text())
    assert summary["missing"] == {}
    row = summary["rows"]["cmc_pe"]
    assert row["parameters"] == 3_594_824
    assert row["event_f1"]["n"] == 4
    assert summary["rows"]["bases"]["event_f1"]["difference"]["n"] == 4
    text = page.read_text()
    assert text.startswith(f"# Results\n\nBy hand.\n\n{table.START}\n\n### changed")
    assert text.endswith(f"{table.END}\n\n## After\n")
    assert "| bases | 1 |" in text
    assert "old" not in text

    # Another experiment's row that is made alike is not made again.
    known = next(cell for cell in read_cells(results) if cell["row"] == "cmc_pe") | {"date": "long ago"}
    write_cells(results, [known])
    other = quick(here, rows={"mine": {}}, baseline="mine", sampling={"steps": 1}, name="other")
    ran = CliRunner().invoke(app, ["experiment", str(other), "--workers", "1"])
    assert ran.exit_code == 0, ran.output
    (taken,) = read_cells(here / "docs" / "results" / "other")
    assert taken == known | {"row": "mine"}

    # With one seed chosen the table is still that of all.
    both = quick(here, rows=rows, sampling={"steps": 1}, seeds=[0, 1])
    one = CliRunner().invoke(app, ["experiment", str(both), "--seed", "0"])
    assert one.exit_code == 0, one.output
    assert json.loads((results / "table.json").read_text())["missing"] == {"cmc_pe": [1], "bases": [1]}

    path = quick(here, rows=rows, sampling={"steps": 1})
    before = (results / CELLS).stat().st_mtime_ns
    again = CliRunner().invoke(app, ["experiment", str(path), "--workers", "1"])
    assert again.output.count("already done") == 2
    assert (results / CELLS).stat().st_mtime_ns == before

    # Other settings of sampling: the results are out of date, and the table does not show them.
    path = quick(here, rows=rows, sampling={"steps": 2})
    collected = CliRunner().invoke(app, ["experiment", str(path), "--collect"])
    assert collected.exit_code == 0, collected.output
    assert json.loads((results / "table.json").read_text())["rows"] == {}
    assert "**Not made yet**, seeds of cmc_pe: 0; bases: 0." in (results / "table.md").read_text()


def test_a_coupling_starts_from_connectors_that_are_kept(here: Path) -> None:
    (cell,) = load_experiment(quick(here, rows={"cmc_pe": {}})).cells()
    keep_connectors(BUNDLES / "hits" / "coupling", cell.connectors)
    kept = load_file(cell.connectors / SAFETENSORS_WEIGHTS_NAME)
    assert {key.split(".")[0] for key in kept} == {"connector_out_audio", "connector_out_video"}
    start_from(cell.connectors, cell.recipes[1], here)
    start = load_file(here / "coupling" / SAFETENSORS_WEIGHTS_NAME)
    assert all(torch.equal(start[key], weight.float()) for key, weight in kept.items())
    assert (train(cell) / "coupling").is_dir()
    assert not (cell.folder(0) / "log.jsonl").exists()


def test_rows_that_train_alike_share_it(here: Path) -> None:
    rows = {
        "one": {},
        "other clock": {"sampling": {"gamma": 2.0}},
        "wide": {"train": {"model": {"coupling": "cross_attention", "ff_mult": 8.01}}},
        "other connectors": {"train": {"model": {"temporal_norm": "time"}}},
        "other data": {"train": {"data": {"count": 16}}},
    }
    experiment = load_experiment(changed(here, rows=rows, baseline="one", seeds=[0, 1]))
    cells = {(cell.row, cell.seed): cell for cell in experiment.cells()}
    one = cells["one", 0]
    assert cells["other clock", 0].folder(1) == one.folder(1)
    assert cells["other clock", 0].key != one.key
    assert cells["wide", 0].folder(0) == one.folder(0) == cells["one", 1].folder(0)
    assert cells["wide", 0].folder(1) != one.folder(1) != cells["one", 1].folder(1)
    assert cells["other connectors", 0].folder(0) != one.folder(0)
    assert cells["other data", 0].recipes[0]["data"] == cells["other data", 0].recipes[1]["data"]
    assert [cell.seed for cell in experiment.cells()] == [0] * 5 + [1] * 5
    bows = dataclasses.replace(experiment, domain="bows")
    assert next(bows.cells()).key != next(experiment.cells()).key  # other prompts, measured otherwise
    assert [one.prompts, cells["one", 1].prompts] == [range(4), range(4, 8)]
    # A seed that is asked for by itself is the same cell.
    alone = list(dataclasses.replace(experiment, seeds=[1]).cells())
    assert [cell.key for cell in alone] == [cell.key for cell in experiment.cells() if cell.seed == 1]


def test_another_decoder_is_another_result_of_the_same_training(here: Path, tmp_path: Path) -> None:
    shutil.copytree(BundleSpec.read("hits").folder, tmp_path / "mine")
    path = changed(here, bundle=str(tmp_path / "mine"))
    before = next(iter(load_experiment(path).cells()))
    for part, same_training in (("decoder.", True), ("encoder.", False)):
        weights = tmp_path / "mine" / "video" / "vae" / "diffusion_pytorch_model.safetensors"
        tensors = load_file(weights)
        name = next(name for name in tensors if name.startswith(part))
        tensors[name] = tensors[name] + 1
        save_file(tensors, weights)
        after = next(iter(load_experiment(path).cells()))
        assert after.key != before.key
        assert (after.folder(1) == before.folder(1)) == same_training


def test_a_bundle_and_its_packed_copy_make_the_same_results(tmp_path: Path) -> None:
    shipped = BundleSpec.read("hits").folder
    mine = shutil.copytree(shipped, tmp_path / "mine")
    for path in mine.rglob("*.safetensors"):  # as training leaves them: finer than what is packed
        finer = {
            k: v.float() * (1 + 1e-5) if v.is_floating_point() else v for k, v in load_file(path).items()
        }
        save_file(finer, path)
    for weights in (partial(fingerprint, coupling=True), training_fingerprint):
        assert weights(mine) == weights(shipped)


def test_whole_numbers_are_the_same_however_written(here: Path) -> None:
    keys = set()
    for scale in (4, 4.0):
        rows = {"one": {"sampling": {"guidance_sync": scale}}}
        keys.add(next(load_experiment(changed(here, rows=rows, baseline="one")).cells()).key)
    assert len(keys) == 1


def test_another_rule_for_an_automatic_gamma_makes_its_results_out_of_date(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {"auto": {"sampling": {"gamma": "auto"}}, "one": {"sampling": {"gamma": 1.0}}}
    cells = list(load_experiment(changed(here, rows=rows, baseline="one")).cells())
    before = [cell.key for cell in cells]
    monkeypatch.setattr(information, "LEVELS", (100, 500, 999))
    auto, one = (cell.key for cell in cells)
    assert auto != before[0]
    assert one == before[1]


def test_a_row_is_sampled_as_the_bundle_is_but_for_what_it_says(here: Path) -> None:
    rows = {
        "own": {},
        "clock": {"sampling": {"snr_offset": 1}},
        "each": {"sampling": {"guidance_sync": {"audio": 1, "video": 3}}},
    }
    path = changed(here, rows=rows, baseline="own", sampling={"steps": 2})
    experiment = load_experiment(path)
    own, clock, of_each = (experiment.options(row) for row in experiment.rows.values())
    defaults = result_settings(BundleSpec.read("hits").defaults)
    assert own == {**defaults, "steps": 2}
    assert "batch_size" not in own  # what is made does not depend on it, so results must not
    assert "gamma" not in clock
    assert as_options(of_each)["guidance_sync"] == AV(audio=1, video=3)


def test_the_results_that_are_committed_are_those_of_the_bundle_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    for name in ("1-couplings", "8-guidance-shipped"):
        experiment = load_experiment(Path("recipes") / "experiments" / f"{name}.yaml")
        assert all(cell.result() is not None for cell in experiment.cells()), name
    of_limits = json.loads((ROOT / "docs" / "results" / "limits" / "hits-256.json").read_text())["made_of"]
    spec = BundleSpec.read("hits")
    assert of_limits[0] == fingerprint(BUNDLES / "hits", coupling=True)
    assert of_limits[3] == result_settings(spec.defaults)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_experiments_can_be_run(path: Path, here: Path) -> None:
    (here / "runs").mkdir()
    shutil.copytree(BundleSpec.read("hits").folder, here / "runs" / "bows")  # what its recipes start from
    experiment = load_experiment(path)
    from kinetophone.study.cells import check_recipes

    for cell in dataclasses.replace(experiment, seeds=experiment.seeds[:1]).cells():
        check_recipes(cell)
    if path.stem in ("debug", "8-guidance-shipped", "9-steps"):  # these choose settings, or answer nothing
        assert experiment.split == "val"
    else:
        assert len(experiment.seeds) >= 3
        assert experiment.prompts * len(experiment.seeds) >= 256
        assert experiment.split == "test"


def test_equally_large_couplings_in_the_shipped_comparison(here: Path) -> None:
    from kinetophone.av import AV
    from kinetophone.bases.load import load_audio_base, load_video_base
    from kinetophone.bundle.spec import BUNDLES
    from kinetophone.coupling.coupling import Coupling, trainable

    path = here / "recipes" / "experiments" / "1-couplings.yaml"
    experiment = load_experiment(path)
    bases = AV(load_audio_base(BUNDLES / "hits" / "audio"), load_video_base(BUNDLES / "hits" / "video"))
    denoisers = bases.map(lambda base: base.denoiser())

    def size(row: str) -> int:
        model = merged(experiment.model, experiment.rows[row].train.get("model", {}))
        return trainable(Coupling.for_denoisers(denoisers, **model))

    for row in ("cross_attention_wide", "timed_cross_attention", "window_1", "window_2"):
        assert size(row) == pytest.approx(size("cmc_pe"), rel=0.02), row


def test_all_problems_are_told_at_once(here: Path) -> None:
    rows = {"a": {"sampling": {"gama": 1, "steps": 0}}, "b": {"trian": {}}}
    with pytest.raises(RequestError) as raised:
        load_experiment(changed(here, rows=rows))
    assert "unknown key 'rows.b.trian' (did you mean 'rows.b.train'?)" in str(raised.value)
    rows["b"] = {}
    with pytest.raises(RequestError) as raised:
        load_experiment(changed(here, rows=rows, prompts=2, groups={"x": ["stone"]}, split="tset"))
    text = str(raised.value)
    for part in (
        "'baseline' is 'cmc_pe', which is not a row",
        "'rows.a': there is no option gama",
        "'rows.a': steps is 0",
        "'prompts' is 2; distances need at least 4",
        "unknown material 'stone'",
        "'split' must be train or val or test",
    ):
        assert part in text, part


def test_a_seed_that_the_experiment_does_not_have_is_refused(here: Path) -> None:
    result = CliRunner().invoke(app, ["experiment", str(changed(here)), "--seed", "3"])
    assert result.exit_code == 2
    assert "changed has no seed 3; it has [0]" in result.stderr


def test_it_is_said_where_sampling_in_half_precision_is_emulated(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    asked = ["experiment", str(changed(here, precision="bfloat16")), "--device", "cpu", "--minutes", "0"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    assert "changed: this CPU emulates bfloat16" in result.stderr

    # Not where nothing is left to sample.
    for cell in load_experiment(here / "changed.yaml").cells():
        made = result_of(cell.row, cell.seed, [0.5] * 4) | {"key": cell.key, "prompts": 4}
        write_cells(cell.experiment.results, [made])
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    assert "already done" in result.stdout
    assert "emulates" not in result.stderr


def test_a_recipe_that_cannot_be_trained_is_refused_before_any_work(here: Path) -> None:
    rows = {"cmc_pe": {"train": {"options": {"one_claen": 0.5}}}}
    result = CliRunner().invoke(app, ["experiment", str(changed(here, rows=rows))])
    assert result.exit_code == 2
    assert "unknown key 'options.one_claen' (did you mean 'options.one_clean'?)" in result.stderr
    assert not (here / "docs").exists()


MEASURES = ("event_f1", "synchrony")


def result_of(row: str, seed: int, scores: list[float]) -> dict[str, Any]:
    clips = [
        {"clip": i, "material": "metal" if i % 2 else "wood", "seen": "metal", "heard": "wood"}
        | dict.fromkeys(MEASURES, score)
        for i, score in enumerate(scores)
    ]
    mean = {"value": float(np.mean(scores)), "shuffled": 0.1, "above": 0.0, "n": len(scores)}
    return {
        "row": row, "seed": seed, "sampling": {"gamma": 1.5}, "parameters": 10, "unscored": 0,
        "synchrony": dict.fromkeys(MEASURES, mean), "clips": clips,
        "distances": {"hits-FVD": {"frechet": 2.0 + seed, "kernel": 0.1}},
    }  # fmt: skip


def test_differences_are_paired_by_prompt_and_seed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = [rng.random(40), rng.random(40)]
    on_metal = np.tile([0.0, 0.3], 20)  # every other clip is of metal
    results = {
        "old": [result_of("old", seed, list(base[seed])) for seed in (0, 1)],
        "new": [result_of("new", seed, list(base[seed] + 0.1)) for seed in (0, 1)],
        "on_metal": [result_of("on_metal", seed, list(base[seed] + on_metal)) for seed in (0, 1)],
        "uneven": [result_of("uneven", k, list(base[k] + (0.1, 0.3)[k])) for k in (0, 1)],
        "none": [],
    }
    experiment = Experiment(
        name="x", question="?", baseline="old", rows=dict.fromkeys(results, Row()), seeds=[0, 1, 2],
        groups={"metal": ["metal"], "wood": ["wood"], "glass": ["glass"]},
    )  # fmt: skip
    found = table.summary(experiment, results)
    difference = found["rows"]["new"]["event_f1"]["difference"]
    assert difference["value"] == pytest.approx(0.1)
    assert difference["interval"] == pytest.approx([0.1, 0.1])  # the prompts' spread is gone
    assert difference["over_seeds"] == pytest.approx([0.1, 0.1])
    # Student's t of two seeds: 12.706 standard errors of their mean, 0.1 here, to either side.
    uneven = found["rows"]["uneven"]["event_f1"]["difference"]
    assert uneven["over_seeds"] == pytest.approx([0.2 - 1.2706, 0.2 + 1.2706], abs=1e-4)
    low, high = found["rows"]["new"]["event_f1"]["interval"]
    assert high - low > 0.05
    assert found["rows"]["old"]["event_f1"]["difference"] is None
    assert found["rows"]["old"]["groups"]["metal"]["n"] == 40
    assert found["rows"]["old"]["groups"]["metal"]["difference"] is None
    groups = found["rows"]["on_metal"]["groups"]
    assert groups["metal"]["difference"]["value"] == pytest.approx(0.3)
    assert groups["wood"]["difference"]["value"] == pytest.approx(0)
    assert groups["glass"]["n"] == 0
    assert groups["glass"]["difference"] is None
    assert found["rows"]["old"]["seen"] == 0.5
    assert found["missing"] == {"old": [2], "new": [2], "on_metal": [2], "uneven": [2], "none": [0, 1, 2]}
    text = table.markdown(found)
    assert "+0.100 (+0.100 to +0.100) [+0.100, +0.100; +0.100 to +0.100]" in text
    assert "+0.300 (+0.300 to +0.300)" in text
    table.plot(experiment, found, tmp_path / "plot.png")  # glass has nothing to show
    assert cv2.imread(str(tmp_path / "plot.png")).shape == (400, 1000, 3)
    assert "| 2.000 to 3.000 |" in text


def test_rules_are_compared_with_the_best_of_a_sweep() -> None:
    rng = np.random.default_rng(0)
    base = [rng.random(40), rng.random(40)]
    rows = {str(gamma): Row(sampling={"gamma": gamma}) for gamma in (0.5, 1, 2)}
    rows["rule"] = Row(sampling={"gamma": "auto"})
    above = {"0.5": 0.2, "1": 0.0, "2": 0.3, "rule": 0.15}
    results = {
        name: [result_of(name, seed, list(base[seed] + gain)) for seed in (0, 1)]
        for name, gain in above.items()
    }
    del results["2"][1]  # the highest, but of one seed
    experiment = Experiment(name="x", question="?", baseline="1", rows=rows, seeds=[0, 1], along="gamma")
    found = table.summary(experiment, results)
    assert found["best"] == "0.5"
    assert found["rows"]["rule"]["from_best"]["value"] == pytest.approx(-0.05)
    text = table.markdown(found)
    minus = "-0.050 (-0.050 to -0.050) [-0.050, -0.050; -0.050 to -0.050]."
    assert f"by these very scores: 0.5. Minus it: rule (γ 1.50, 1.50) {minus}" in text


def test_clips_of_bows_are_measured_by_their_curves() -> None:
    true = [measures.as_clip(clip) for clip in measures.true_clips("bows", "val", range(2, 6), 64)]
    found = measures.measure_clips(true, "bows", "val", "no judges", first=2)
    assert [clip["clip"] for clip in found["clips"]] == [2, 3, 4, 5]
    assert found["synchrony"]["sustained"]["value"] > 0.9
    assert found["synchrony"]["sustained"]["value"] - found["synchrony"]["sustained"]["shuffled"] > 0.5
    experiment = Experiment(name="x", question="?", baseline="one", rows={"one": Row()}, domain="bows")
    about = {"row": "one", "seed": 0, "sampling": {}, "parameters": 10}
    text = table.markdown(table.summary(experiment, {"one": [about | found]}))
    assert "| row | seeds | sustained |" in text


def test_counts_are_of_what_prompts_name() -> None:
    for split in ("val", "test"):
        for i in range(200):
            scene, text = make_scene(split, i)
            named = count_named(text)
            assert named in (None, len(scene.strikes)), text
    texts = {"a drum is hit twice": 2, "hits it 4 times": 4, "three times": 3, "one time": 1, "hits it": None}
    assert {text: count_named(text) for text in texts} == texts
    clips = [
        {"asked": 3, "onsets": 3, "strikes": 3},
        {"asked": 3, "onsets": 3, "strikes": 5},
        {"asked": None},
    ]
    assert measures.count_accuracy(clips) == 0.5
    assert measures.count_accuracy([{"asked": None}]) is None
    assert measures.exact_counts(clips, "onsets") == [True, True]
    assert measures.exact_counts(clips, "strikes") == [True, False]

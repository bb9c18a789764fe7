"""The published implementation's outputs are reproduced, and a difference does not go unnoticed."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from kinetophone.reference import golden

GOLDEN = Path(__file__).parents[1] / "golden"
SHARED = Path(__file__).parents[2] / ".." / "shared" / "golden"


@pytest.mark.parametrize(
    ("check", "name"), [pytest.param(*case, id=case[1]) for case in golden.checks(GOLDEN)]
)
def test_golden_case(check: Callable[[Path, str], golden.Result], name: str) -> None:
    result = check(GOLDEN, name)
    assert result.passed, result


def test_every_shared_case_passes_or_is_a_copy() -> None:
    if not SHARED.is_dir():
        pytest.skip("the shared golden cases (../shared/golden) are not on this machine")
    for check, name in golden.checks(SHARED):
        files = [path.name for path in SHARED.glob(f"{name}.*") if path.suffix in (".json", ".safetensors")]
        if set(files) != set(filecmp.cmpfiles(SHARED, GOLDEN, files, shallow=False)[0]):
            result = check(SHARED, name)
            assert result.passed, result


def test_command_reports_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads((GOLDEN / "grids.json").read_text())[:3]
    (tmp_path / "grids.json").write_text(json.dumps(rows))
    assert golden.main([str(tmp_path)]) == 0
    assert "grids" in capsys.readouterr().out

    rows[1]["video"][2] += 3
    (tmp_path / "grids.json").write_text(json.dumps(rows))
    assert golden.main([str(tmp_path)]) == 1
    assert "video 3.0e+00  ABOVE 0" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["no such folder"], ["a", "b"]])
def test_command_says_how_it_is_used(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert golden.main(arguments) == 2
    assert "usage: python -m kinetophone.reference.golden DIR" in capsys.readouterr().err


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no golden cases in"):
        golden.checks(tmp_path)


def test_single_precision_is_as_near_as_its_rounding() -> None:
    model = golden.load_case(GOLDEN, "motion-additive-x_pred")
    case = load_file(GOLDEN / "motion-additive-x_pred.safetensors")
    outputs = []
    for dtype in (torch.float32, torch.float64):
        latents, text = (
            golden.AV(audio=case[a].to(dtype), video=case[v].to(dtype))
            for a, v in (("xa", "xv"), ("cl", "ctxv"))
        )
        t = golden.AV(audio=case["ta"], video=case["tv"])
        with torch.no_grad():
            outputs.append(model.to(dtype)(latents, t, text, model.features(latents, t, None)))
    errors = outputs[0].map(golden.relative_error, outputs[1])
    assert max(errors.audio, errors.video) < 1e-5


def test_nan_does_not_pass() -> None:
    assert not golden.Result("nan", golden.AV(audio=0.0, video=float("nan")), 1.0).passed


def test_weights_are_the_formula() -> None:
    assert golden.formula_weight("unet_audio", "x.bias", (4,)).abs().max() < 1
    gain = golden.formula_weight("connectors", "norm.g", (1000,))
    assert abs(float(gain.mean()) - 1) < 0.02
    matrix = golden.formula_weight("connectors", "norm.g", (170, 1, 1, 1))
    assert abs(float(matrix.std()) - 1) < 0.2, "more than one dimension: not a gain"
    assert torch.equal(matrix, golden.formula_weight("connectors", "norm.g", (170, 1, 1, 1)))


def test_other_parameters_than_golden_are_an_error() -> None:
    with pytest.raises(
        ValueError, match=r"2 parameters of connectors differ, first:\nbias: ours \[3\], golden None"
    ):
        golden.set_formula_weights(nn.Linear(2, 3), "connectors", {"weight": [3, 3]})

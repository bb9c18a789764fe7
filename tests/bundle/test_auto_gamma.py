"""γ "auto" of the shipped bundle: measured, drawn, stored, used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kinetophone.bundle import auto_gamma
from kinetophone.bundle.spec import BUNDLES, BundleSpec
from kinetophone.cli import app
from kinetophone.diffusion import information


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four levels, the fewest that cubic splines take: a quarter of the work."""
    measure = information.measure
    monkeypatch.setattr(
        auto_gamma, "measure", lambda *a, **k: measure(*a, levels=(0.001, 0.25, 0.6, 1.0), **k)
    )


@pytest.mark.usefixtures("coarse")
def test_gamma_is_measured_and_kept(tmp_path: Path) -> None:
    folder = shutil.copytree(BUNDLES / "hits", tmp_path / "hits")
    numbers, picture = tmp_path / "map.json", tmp_path / "map.png"
    result = CliRunner().invoke(
        app,
        ["gamma", str(folder), "--count", "2", "--store", "--json", str(numbers), "--plot", str(picture)],
    )
    assert result.exit_code == 0, result.output
    found = json.loads(numbers.read_text())
    assert found["map"]["clips"] == found["choice"]["clips"] == 2
    assert len(found["map"]["audio"]["coupled"]) == 4
    assert BundleSpec.read(folder).gamma("auto") == found["choice"]["gamma"]
    assert f"auto {found['choice']['gamma']:.2f}" in result.output
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_it_needs_two_clips() -> None:
    result = CliRunner().invoke(app, ["gamma", "hits", "--count", "1"])
    assert result.exit_code == 2
    assert result.stderr == "error: count is 1; it must be at least 2\n"

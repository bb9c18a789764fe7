"""Truth in place of one part at a time, on the shipped bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kinetophone.cli import app
from kinetophone.study.limits import markdown


def test_every_part_is_measured_and_nothing_is_made_twice(tmp_path: Path) -> None:
    command = ["limits", "hits", "--count", "4", "--steps", "1", "--out", str(tmp_path), "--split", "val"]
    result = CliRunner().invoke(app, [*command, "--workers", "1"])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "hits-4.json").read_text())
    sets = found["sets"]
    assert list(sets) == [
        "true", "video autoencoder", "vocoder", "audio autoencoder, vocoder", "true picture, sound made",
        "true sound, picture made", "both made",
    ]  # fmt: skip
    assert sets["true"]["synchrony"]["event_f1"]["value"] > 0.9
    # The truth is at no distance from itself, and each part that is put in takes its own modality away.
    assert sets["true"]["distances"]["hits-FVD"]["frechet"] == pytest.approx(0, abs=1e-3)
    assert sets["vocoder"]["distances"]["hits-FVD"]["frechet"] == pytest.approx(0, abs=1e-3)
    assert sets["vocoder"]["distances"]["hits-FAD"]["frechet"] > 0.1
    assert sets["video autoencoder"]["distances"]["hits-FAD"]["frechet"] == pytest.approx(0, abs=1e-3)
    assert sets["video autoencoder"]["distances"]["hits-FVD"]["frechet"] > 0.1
    # From clips that no set has a part of, even the true ones are farther than an autoencoder takes a clip.
    others = {name: result["distances_from_others"] for name, result in sets.items()}
    own = sets["video autoencoder"]["distances"]["hits-FVD"]["frechet"]
    assert others["true"]["hits-FVD"]["frechet"] > own
    assert others["video autoencoder"]["hits-FVD"]["frechet"] > own
    assert all(away["hits-FAD"]["frechet"] > 0 for away in others.values())
    assert others["vocoder"]["hits-FVD"] == others["true"]["hits-FVD"]
    assert list(found["parts"]) == [
        "video autoencoder", "vocoder", "audio autoencoder", "sound for a picture", "picture for a sound",
        "both at once, after the sound", "both at once, after the picture",
    ]  # fmt: skip
    assert "What loses most: **" in (tmp_path / "hits-4.md").read_text()

    found["sets"]["true"]["prompts"] = "not made again"
    (tmp_path / "hits-4.json").write_text(json.dumps(found))
    assert CliRunner().invoke(app, [*command, "--workers", "1"]).exit_code == 0
    kept = json.loads((tmp_path / "hits-4.json").read_text())
    assert kept["sets"]["true"]["prompts"] == "not made again"


def test_the_part_that_loses_most_is_named() -> None:
    lost: dict[str, dict[str, Any]] = {
        name: {"value": 0.1 * k, "interval": [0.0, 0.2 * k], "n": 4}
        for k, name in enumerate(("video autoencoder", "vocoder", "sound for a picture"))
    }
    text = markdown({"sets": {}, "parts": lost})
    assert "What loses most: **sound for a picture**." in text
    assert text.index("sound for a picture") < text.index("video autoencoder")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--count", "3"], "count is 3; distances need at least 4"),
        (["--split", "tset"], "split is 'tset'; it must be one of train, val, test"),
        (["--steps", "0"], "steps is 0; it must be 1 to 1000"),
    ],
)
def test_refusals(options: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["limits", "hits", *options])
    assert result.exit_code == 2
    assert result.stderr == f"error: {message}\n"

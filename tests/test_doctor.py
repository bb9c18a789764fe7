"""The doctor on good and on broken installations: folders, and a stand-in Hub on loopback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import tiny
from kinetophone import Kinetophone, doctor
from kinetophone.cli import app
from kinetophone.doctor import Question, Row, examine
from standin_hub import Elsewhere

# Run in a process that knows the stand-in for the Hub alone.
ASK = """
import dataclasses, json, sys
from kinetophone.doctor import Question, examine
for question in json.loads(sys.argv[1]):
    print(json.dumps([dataclasses.asdict(row) for row in examine(Question(**question))]), flush=True)
"""
Rows = list[dict[str, str]]


def ask(elsewhere: Elsewhere, *questions: dict[str, Any]) -> list[Rows]:
    return [json.loads(line) for line in elsewhere.run(ASK, json.dumps(questions))]


def row(rows: Rows, check: str) -> dict[str, str]:
    return next(row for row in rows if row["check"].startswith(check))


def failed(rows: Rows) -> list[str]:
    return [row["check"] for row in rows if row["state"] == "FAIL"]


def test_the_hub_before_and_after_everything_is_fetched(elsewhere: Elsewhere, models: Path) -> None:
    """AudioLDM as pickles alone, an image model in half precision alone, and its motion modules."""
    root = shutil.copytree(models, elsewhere.root / "ill")
    tiny.pickled(root / "audioldm")
    tiny.halved(root / "image")
    shutil.copytree(root / "audioldm", root / "gated")
    (root / "gated" / ".gated").touch()
    pair = {"audio_base": "ill/audioldm", "video_base": "ill/image", "motion_adapter": "ill/adapter"}
    pair |= {"device": "cpu"}
    with elsewhere.online() as (endpoint, _):
        refused, gated, absent, before, fetched = ask(
            elsewhere,
            pair,
            pair | {"audio_base": "ill/gated", "allow_pickle": True},
            pair | {"video_base": "ill/nothing", "allow_pickle": True},
            pair | {"allow_pickle": True},
            pair | {"allow_pickle": True, "fetch": True},
        )
        assert row(refused, "Hub")["found"].startswith(f"{endpoint}, not logged in")
        assert failed(refused) == ["audio base"]
        assert "'ill/audioldm' has only pickled weights (unet/diff" in row(refused, "audio base")["found"]
        assert "use --allow-pickle" in row(refused, "audio base")["remedy"]
        assert failed(gated) == ["audio base"]
        assert row(gated, "audio base")["found"] == "'ill/gated' is gated"
        assert "accept its terms on the Hub, then log in with" in row(gated, "audio base")["remedy"]
        assert failed(absent) == ["video base"]
        assert "the Hub has no model 'ill/nothing'" in row(absent, "video base")["found"]
        assert failed(before) == []
        assert "files to download, " in row(before, "audio base")["found"]
        assert row(before, "one step")["remedy"] == "run it again with --fetch"
    assert failed(fetched) == []
    assert row(fetched, "audio base: vocoder")["found"].startswith("SpeechT5HifiGan, ")
    assert (
        row(fetched, "video base: unet")["state"] == row(fetched, "motion adapter: network")["state"] == "ok"
    )
    assert "finite" in row(fetched, "one step, smallest")["found"]
    (away,) = ask(elsewhere, pair | {"audio_base": "ill/other", "allow_pickle": True})
    assert row(away, "video base")["found"] == "ill/image, already downloaded; the Hub cannot be reached"
    assert failed(away) == ["audio base"]
    assert row(away, "audio base")["remedy"] == "connect, unset HF_HUB_OFFLINE, or give a folder"


def test_a_bundle_on_the_hub(elsewhere: Elsewhere, models: Path) -> None:
    pipe = Kinetophone.from_bases(
        audio=models / "audioldm", video=models / "animatediff", size=32, device="cpu"
    )
    pipe.save_pretrained(elsewhere.root / "me" / "mine")
    question = {"bundle": "me/mine", "device": "cpu"}
    with elsewhere.online() as (_, asked):
        before, none = ask(elsewhere, question, {"bundle": "me/nothing"})
        assert set(asked) == {"kinetophone.json", "audio/unet/config.json", "video/unet/config.json"}
        (after,) = ask(elsewhere, question | {"fetch": True})
    assert failed(none) == ["bundle"]
    assert failed(before) == failed(after) == []
    assert "files to download, " in row(before, "audio base")["found"]
    assert "a clip of 50 steps takes about" in row(after, "one step, 1 s at 32 px")["found"]


@pytest.fixture
def run(models: Path, tmp_path: Path) -> Callable[[Callable[[Path], None]], Any]:
    def broken(harm: Callable[[Path], None]) -> Any:
        root = shutil.copytree(models, tmp_path / "models")
        harm(root)
        bases = ["--audio-base", root / "audioldm", "--video-base", root / "animatediff"]
        return CliRunner().invoke(app, ["doctor", *map(str, bases), "--device", "cpu"])

    return broken


def test_the_bundle_that_ships() -> None:
    done = CliRunner().invoke(app, ["doctor", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert all(line.startswith(("ok ", "warn ")) or "-> " in line for line in lines)
    assert lines[-1].startswith("ok    one step, 4 s at 64 px")


def truncate(root: Path) -> None:
    file = root / "audioldm" / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def lack(root: Path) -> None:
    file = root / "animatediff" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["conv_in.weight"]
    save_file(tensors, file, {"format": "pt"})


def remove(root: Path) -> None:
    shutil.rmtree(root / "audioldm" / "vocoder")


def pickle_unet(root: Path) -> None:
    tiny.pickled(root / "audioldm" / "unet")


def predict_samples(root: Path) -> None:
    file = root / "animatediff" / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "sample"}))


@pytest.mark.parametrize(
    ("harm", "check", "found", "remedy"),
    [
        (truncate, "audio base: vae", "is damaged", "copy or download"),
        (lack, "video base: unet", "lack 1 tensors, first conv_in.weight", "copy or download"),
        (remove, "audio base: vocoder", "no config.json", "copy or download"),
        (pickle_unet, "audio base", "only pickled weights", "--allow-pickle"),
        (predict_samples, "video base: scheduler", "it must be epsilon or v_prediction", "copy or download"),
    ],
)
def test_broken_folders(
    run: Callable[..., Any], harm: Callable[[Path], None], check: str, found: str, remedy: str
) -> None:
    done = run(harm)
    assert done.exit_code == 1
    lines = done.output.splitlines()
    (bad,) = (i for i, line in enumerate(lines) if line.startswith("FAIL"))
    assert lines[bad].startswith(f"FAIL  {check} ")
    assert found in lines[bad]
    assert remedy in lines[bad + 1]
    assert "warn  one step" in done.output
    assert "1 of these checks failed" in done.output
    assert "Traceback" not in done.output


def test_what_the_machine_lacks(monkeypatch: pytest.MonkeyPatch, models: Path) -> None:
    real = doctor.metadata.version

    def version(name: str) -> str:
        return "0.30" if name == "diffusers" else real(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: SimpleNamespace(free=5e8))
    question = Question(audio_base=str(models / "audioldm"), video_base="no such place", device="xpu")
    bad = {row.check: row for row in examine(question) if row.state == "FAIL"}
    assert bad["diffusers"] == Row("diffusers", "FAIL", "0.30, needs >=0.36", "pip install 'diffusers>=0.36'")
    assert bad["disk, here"].remedy == "1.0 GB are needed: free some space"
    assert "there is no device 'xpu' here" in bad["device"].found
    assert "is neither a folder nor a Hub id" in bad["video base"].found
    assert [row.found for row in examine(Question(bundle="nothing")) if row.check == "bundle"]


def test_what_does_not_fit_is_not_tried(monkeypatch: pytest.MonkeyPatch, models: Path) -> None:
    pair = Question(audio_base=str(models / "audioldm"), video_base=str(models / "animatediff"), device="cpu")
    monkeypatch.setattr(doctor, "_ACTIVATIONS", 1e9)
    last = list(examine(pair))[-1]
    assert (last.check, last.state) == ("one step, 1 s at 256 px", "warn")
    assert "not tried: it takes about" in last.found
    monkeypatch.setattr(doctor, "_memory", lambda device: (1000, 10**9))
    last = list(examine(pair))[-1]
    assert (last.check, last.state) == ("one step", "FAIL")
    assert "--dtype float16" in last.remedy

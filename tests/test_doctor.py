"""The doctor on good and on broken installations: folders, and a stand-in Hub on loopback."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import kinetophone
import standin_hub
import tiny
from kinetophone import Kinetophone, doctor
from kinetophone.cli import app
from kinetophone.doctor import Question, Row, examine

# Several questions in one process of its own: the Hub's address is read when its library is imported.
ASK = """
import dataclasses, json, sys
from kinetophone.doctor import Question, examine
for question in json.loads(sys.argv[1]):
    print(json.dumps([dataclasses.asdict(row) for row in examine(Question(**question))]), flush=True)
"""
Rows = list[dict[str, str]]


def ask(endpoint: str, cache: Path, *questions: dict[str, Any], **environment: str) -> list[Rows]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASK, json.dumps(questions)],
        env={
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(cache),
            "HOME": str(cache),
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(Path(kinetophone.__file__).parents[1]),
            "OMP_NUM_THREADS": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def row(rows: Rows, check: str) -> dict[str, str]:
    return next(row for row in rows if row["check"].startswith(check))


def failed(rows: Rows) -> list[str]:
    return [row["check"] for row in rows if row["state"] == "FAIL"]


def test_the_hub_before_and_after_everything_is_fetched(tmp_path: Path) -> None:
    """AudioLDM as pickles alone, an image model in half precision alone, and its motion modules."""
    root = tiny.save_all(tmp_path / "hub" / "tiny")
    tiny.pickled(root / "audioldm")
    tiny.halved(root / "image")
    shutil.copytree(root / "audioldm", root / "gated")
    (root / "gated" / ".gated").touch()
    pair = {"audio_base": "tiny/audioldm", "video_base": "tiny/image", "motion_adapter": "tiny/adapter"}
    pair |= {"device": "cpu"}
    with standin_hub.serving(tmp_path / "hub") as (endpoint, _):
        refused, gated, absent, before, fetched = ask(
            endpoint,
            tmp_path / "cache",
            pair,
            pair | {"audio_base": "tiny/gated", "allow_pickle": True},
            pair | {"video_base": "tiny/nothing", "allow_pickle": True},
            pair | {"allow_pickle": True},
            pair | {"allow_pickle": True, "fetch": True},
        )
        assert row(refused, "Hub")["found"].startswith(f"{endpoint}, not logged in")
        assert failed(refused) == ["audio base"]
        assert "'tiny/audioldm' has only pickled weights (unet/diff" in row(refused, "audio base")["found"]
        assert "use --allow-pickle" in row(refused, "audio base")["remedy"]
        assert failed(gated) == ["audio base"]
        assert row(gated, "audio base")["found"] == "'tiny/gated' is gated"
        assert "accept its terms on the Hub, then log in with" in row(gated, "audio base")["remedy"]
        assert failed(absent) == ["video base"]
        assert "the Hub has no model 'tiny/nothing'" in row(absent, "video base")["found"]
        assert failed(before) == []
        assert "files to download, " in row(before, "audio base")["found"]
        assert row(before, "one step")["remedy"] == "run it again with --fetch"
    assert failed(fetched) == []
    assert row(fetched, "audio base: vocoder")["found"].startswith("SpeechT5HifiGan, ")
    assert (
        row(fetched, "video base: unet")["state"] == row(fetched, "motion adapter: network")["state"] == "ok"
    )
    assert "finite" in row(fetched, "one step, smallest")["found"]
    (away,) = ask(
        "http://127.0.0.1:9", tmp_path / "cache", pair | {"audio_base": "tiny/other", "allow_pickle": True}
    )
    assert row(away, "video base")["found"] == "tiny/image, already downloaded; the Hub cannot be reached"
    assert failed(away) == ["audio base"]
    assert row(away, "audio base")["remedy"] == "connect, unset HF_HUB_OFFLINE, or give a folder"


def test_a_bundle_on_the_hub(tmp_path: Path, models: Path) -> None:
    pipe = Kinetophone.from_bases(
        audio=models / "audioldm", video=models / "animatediff", size=32, device="cpu"
    )
    pipe.save_pretrained(tmp_path / "hub" / "me" / "mine")
    question = {"bundle": "me/mine", "device": "cpu"}
    with standin_hub.serving(tmp_path / "hub") as (endpoint, asked):
        before, none = ask(endpoint, tmp_path / "cache", question, {"bundle": "me/nothing"})
        assert set(asked) == {"kinetophone.json", "video/unet/config.json"}
        (after,) = ask(endpoint, tmp_path / "cache", question | {"fetch": True})
    assert failed(none) == ["bundle"]
    assert failed(before) == failed(after) == []
    assert "files to download, " in row(before, "audio base")["found"]
    assert "a clip of 50 steps takes about" in row(after, "one step, 1 s at 32 px")["found"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_all(tmp_path_factory.mktemp("models"))


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

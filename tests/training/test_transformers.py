"""A pair of transformers of the real classes: clips encoded, a coupling trained, a clip made."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tarfile
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from kinetophone import AV, Kinetophone
from kinetophone.av import MODALITIES
from kinetophone.bases.load import load_audio_base, load_video_base
from kinetophone.bundle.spec import BundleSpec
from kinetophone.cli import app
from kinetophone.data.encoded import load_encoded
from kinetophone.errors import RequestError
from kinetophone.training.loop import train
from kinetophone.training.recipe import load_recipe
from kinetophone.training.stages import build_stage
from videos import write_video

FRAMES, RATE = 9, 5504  # the tiny autoencoder of the audio


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Path:
    """A folder with clips as both bases need them, prepared and encoded."""
    root = tmp_path_factory.mktemp("pair")
    (root / "videos").mkdir()
    for name in ("a", "b"):
        write_video(root / "videos" / f"{name}.mp4", fps=16, rate=16_000, layout="stereo", size=(32, 32))
    prepare(root, "clips", "--seconds", f"{FRAMES / 16}", "--sample-rate", "8000", "--channels", "2")
    done = encode(root, models, "clips")
    assert done.exit_code == 0, done.output
    return root


def prepare(root: Path, out: str, *options: str) -> None:
    format_ = ("--fps", "16", "--size", "32", "--workers", "1", "--caption", "a drumstick hits metal")
    words = ["data", "prepare", str(root / "videos"), str(root / out), *format_, *options]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output


def encode(root: Path, models: Path, clips: str, out: str = "latents") -> Any:
    bases = ("--audio-base", str(models / "stable_audio"), "--video-base", str(models / "wan"))
    return CliRunner().invoke(app, ["data", "encode", str(root / clips), str(root / out), *bases])


def recipe(root: Path, models: Path, **changes: Any) -> Any:
    kind, stage = changes.pop("kind", "in_place"), changes.pop("stage", "coupling")
    loop = {"steps": 2, "batch_size": 2, "lr": 1e-3, "warmup": 0, "threads": 1, "sample_every": 2}
    options: dict[str, Any] = {"relative": True, "one_clean": 0.5, "aligned_share": 0.5}
    options |= {"timestep_power": 0.5}
    content = {
        "stage": stage,
        "bundle": str(root / "bundle"),
        "bases": {"audio": str(models / "stable_audio"), "video": str(models / "wan")},
        "data": {"source": str(root / "latents")},
        "model": {"coupling": kind},
        "options": {} if stage == "connectors" else options | changes.pop("options", {}),
        "sampling": {"steps": 2},
        "loop": loop | changes,
    }
    path = root / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_recipe(path)


def loss(stage: Any, seed: int = 0, *part: slice) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = stage.loss(
        np.random.default_rng(seed), torch.Generator().manual_seed(seed), *part
    )
    return found


def test_latents_and_text_are_those_of_the_bases(root: Path, models: Path) -> None:
    bases: AV[Any] = AV(audio=load_audio_base(models / "stable_audio"), video=load_video_base(models / "wan"))
    texts = ["", "a drumstick hits metal", ""]
    encoded = load_encoded(root / "latents", 0, bases)
    assert encoded.video.shape[1:] == (16, 3, 4, 4)  # 1 + 4 + 4 frames
    assert encoded.audio.shape[1:] == (8, 13)
    found = encoded.text(texts)
    assert isinstance(found.audio, dict)
    expected = bases.map(lambda base: base.encode_prompt(texts, FRAMES / 16))
    torch.testing.assert_close(found.video, expected.video)
    torch.testing.assert_close(dict(sorted(expected.audio.items())), found.audio)
    stored = load_file(root / "latents" / "texts-00000.safetensors")  # without padding
    assert len(stored["video.tokens"]) == int(stored["video.used"].sum()) < stored["video.used"].numel()
    made_by = json.loads((root / "latents" / "encoded.json").read_text())["made_by"]
    assert made_by.keys() == {"audio", "video", "audio text", "video text"}


def test_clips_are_cut_in_stereo_at_the_rate_asked_for(root: Path) -> None:
    with tarfile.open(root / "clips" / "clips-00000.tar") as tar:
        name = next(name for name in tar.getnames() if name.endswith(".wav"))
        with wave.open(tar.extractfile(name)) as file:
            assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (2, 8000, 4500)


def test_what_clips_lack_is_said_before_anything_is_encoded(root: Path, models: Path) -> None:
    prepare(root, "poor", "--seconds", "0.5", "--sample-rate", "8000")
    done = encode(root, models, "poor", "nothing")
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        f"error: '{root}/poor' has audio of channels 1: the audio base needs --channels 2; run kinetophone "
        "data prepare again",
        f"error: '{root}/poor' has clips of 8 frames: the video base needs --seconds 0.3125 or 0.5625; run "
        "kinetophone data prepare again",
    ]
    assert not list((root / "nothing").glob("*"))


@pytest.mark.parametrize("kind", ["in_place", "cmc_pe", "timed_cross_attention"])
def test_a_coupling_is_trained_and_makes_a_clip(root: Path, models: Path, kind: str, tmp_path: Path) -> None:
    made = recipe(root, models, kind=kind, options={"self_conditioning": 1.0})
    stage = build_stage(made)
    assert stage.bases.video.text_encoder is None  # not needed
    before = {name: p.detach().clone() for name, p in stage.coupling.named_parameters()}
    train(stage, made.loop, tmp_path / "run")
    assert any(not torch.equal(p, before[name]) for name, p in stage.coupling.named_parameters())
    assert (tmp_path / "run" / "sample-2.wav").is_file()
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert 1 < rows[0]["loss"] < 3  # each base scores about one
    pipe = Kinetophone.from_pretrained(root / "bundle", device="cpu")
    assert (pipe.spec.frames, pipe.spec.frame_step, pipe.spec.size, pipe.spec.fps) == (FRAMES, 4, 32, 16)
    assert pipe.spec.sample_rate == RATE
    clip = pipe("a drumstick hits metal", steps=1)[0]
    assert clip.video.shape == (FRAMES, 32, 32, 3)


def test_connectors_are_trained_on_true_times(root: Path, models: Path, tmp_path: Path) -> None:
    made = recipe(root, models, stage="connectors", steps=30, lr=3e-3, sample_every=0)
    stage = build_stage(made)
    assert stage.stack.audio > 1  # several audio steps lie within one latent of the video
    with torch.no_grad():
        before = float(loss(stage)["loss"])
    train(stage, made.loop, tmp_path / "run")
    with torch.no_grad():
        assert float(loss(stage)["loss"]) < before


def test_the_losses_of_two_halves_average_to_that_of_the_batch(root: Path, models: Path) -> None:
    stage = build_stage(recipe(root, models))
    with torch.no_grad():
        whole, halves = loss(stage), [loss(stage, 0, part) for part in (slice(0, 1), slice(1, 2))]
    for key, value in whole.items():
        torch.testing.assert_close((halves[0][key] + halves[1][key]) / 2, value)


@pytest.mark.parametrize("drawn", ["independent", "mixed", "shared"])
def test_levels_are_those_that_each_base_was_trained_on(root: Path, models: Path, drawn: str) -> None:
    options = {"noise_levels": drawn, "timestep_power": 1.0, "relative": False}
    stage = build_stage(recipe(root, models, options=options))
    generator = torch.Generator().manual_seed(0)
    levels = stage._levels(2000, generator)
    seen = stage._connector_levels(levels, np.random.default_rng(0), generator)
    for pair in (levels, seen):
        for name in MODALITIES:
            process, level = getattr(stage.processes, name), getattr(pair, name)
            assert process.least <= level.min() < level.max() <= process.most
    if drawn == "independent":  # uniform within the range of Stable Audio, logit-normal for Wan
        quarters = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
        uniform = stage.processes.audio.least + quarters * 0.8132
        torch.testing.assert_close(levels.audio.quantile(quarters), uniform, atol=0.01, rtol=0)
        normal = torch.special.ndtri(quarters).sigmoid()
        torch.testing.assert_close(levels.video.quantile(quarters), normal, atol=0.01, rtol=0)


@pytest.mark.parametrize("kind", ["in_place", "cmc_pe"])
def test_gradient_checkpointing_changes_no_gradient(root: Path, models: Path, kind: str) -> None:
    gradients = []
    for spare in (False, True):
        stage = build_stage(recipe(root, models, kind=kind, gradient_checkpointing=spare))
        assert stage.bases.video.network.is_gradient_checkpointing == spare
        loss(stage)["loss"].backward()
        gradients.append([p.grad for p in stage.coupling.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_half_precision_trains_what_full_precision_trains(root: Path, models: Path) -> None:
    stage = build_stage(recipe(root, models, precision="bfloat16", gradient_checkpointing=True))
    assert stage.bases.audio.network.dtype == torch.bfloat16
    assert {p.dtype for p in stage.coupling.parameters()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        half = loss(stage)["loss"]
    half.backward()
    assert all(torch.isfinite(p.grad).all() for p in stage.coupling.parameters() if p.grad is not None)
    torch.testing.assert_close(half, loss(build_stage(recipe(root, models)))["loss"], rtol=0.05, atol=0.0)


def test_weights_of_the_loss_outlive_a_resume(root: Path, models: Path, tmp_path: Path) -> None:
    made = recipe(root, models, sample_every=0, checkpoint_every=1)
    train(build_stage(made), made.loop, tmp_path / "run", stop_at=1)
    again = build_stage(made)
    known = {name: errors.clone() for name, errors in again.start.items()}
    again.start = {name: errors + 1 for name, errors in again.start.items()}  # as another device might find
    train(again, made.loop, tmp_path / "run")
    assert all(torch.equal(again.start[name], errors) for name, errors in known.items())


def test_latents_of_other_text_encoders_are_refused(root: Path, models: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(models / "wan", tmp_path / "wan"))
    words = json.loads((other / "tokenizer" / "tokenizer.json").read_text())
    known = words["model"]["vocab"]
    known["metal"], known["bowl"] = known["bowl"], known["metal"]
    (other / "tokenizer" / "tokenizer.json").write_text(json.dumps(words))
    made = recipe(root, models)
    made = dataclasses.replace(made, bases=dataclasses.replace(made.bases, video=str(other)))
    with pytest.raises(RequestError, match="was encoded with other bases; run kinetophone data encode again"):
        build_stage(made)


def test_procedural_clips_at_sixteen_frames_a_second_train_a_coupling(models: Path, tmp_path: Path) -> None:
    made = recipe(tmp_path, models)
    data = dataclasses.replace(made.data, source="hits16", count=2, size=32, cache=str(tmp_path / "cache"))
    stage = build_stage(dataclasses.replace(made, data=data))
    assert stage.latents.video.shape == (2, 16, 17, 4, 4)
    assert stage.latents.audio.shape[:2] == (2, 8)
    assert stage.times.video.ends[-1] == stage.time.duration_s == 65 / 16
    loss(stage)["loss"].backward()
    assert all(torch.isfinite(p.grad).all() for p in stage.coupling.parameters() if p.grad is not None)
    stage.export()
    assert BundleSpec.read(tmp_path / "bundle").time().duration_s == 65 / 16

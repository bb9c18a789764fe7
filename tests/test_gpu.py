"""What the documents say about a CUDA device, on one: ``pytest -m gpu``. Without one all of it is skipped."""

from __future__ import annotations

import dataclasses
import json
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from kinetophone import Kinetophone
from kinetophone.bundle.spec import BUNDLES
from kinetophone.cli import app
from kinetophone.data.prepare import Cut, prepare
from kinetophone.data.sources import find_sources
from kinetophone.doctor import Question, examine
from kinetophone.errors import UserError
from kinetophone.media import Clip
from kinetophone.media.read import read_clip
from kinetophone.training import checkpoints, run
from kinetophone.training.loop import train
from kinetophone.training.options import CouplingOptions
from kinetophone.training.recipe import DataConfig, LoopConfig, Recipe
from kinetophone.training.stages import build_stage
from kinetophone.workers import Workers
from videos import write_video

DEVICE = "cuda"
HALVES = (torch.bfloat16, torch.float16)
PROMPT = "a drumstick hits a metal bowl three times"
ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 is float32: convolutions would round to TensorFloat-32, which CPUs don't."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def clip_of(pipe: Kinetophone, seed: int = 0, **options: Any) -> Clip:
    return pipe(PROMPT, **{"steps": 4, "seed": seed} | options)[0]


def apart(one: Clip, other: Clip) -> tuple[float, float]:
    """Mean difference of pixels in levels of 255, and that of samples as a share of their size."""
    assert np.isfinite(one.audio).all()
    assert one.video.shape == other.video.shape
    levels = np.abs(one.video.astype(int) - other.video).mean()
    return float(levels), float(np.abs(one.audio - other.audio).mean() / np.abs(other.audio).mean())


@pytest.fixture(scope="module")
def on_cpu() -> Clip:
    return clip_of(Kinetophone.from_pretrained("hits", device="cpu"))


@pytest.fixture(scope="module")
def on_device() -> Kinetophone:
    return Kinetophone.from_pretrained("hits", device=DEVICE)


# Making clips.


def test_the_device_is_taken_without_being_named() -> None:
    pipe = Kinetophone.from_pretrained("hits")
    assert pipe.device.type == DEVICE
    assert next(pipe.bases.video.unet.parameters()).device.type == DEVICE


def test_a_clip_is_the_one_that_a_cpu_makes(on_device: Kinetophone, on_cpu: Clip) -> None:
    made = clip_of(on_device)
    pixels, samples = apart(made, on_cpu)
    assert pixels < 0.5
    assert samples < 0.05
    assert apart(clip_of(on_device, seed=1), on_cpu)[0] > 4 * pixels


def test_the_same_seed_makes_the_same_clip_in_a_batch_and_alone(on_device: Kinetophone) -> None:
    batch = on_device([PROMPT, PROMPT], steps=4, seed=4)
    pixels, samples = apart(batch[1], clip_of(on_device, seed=5))
    assert pixels < 0.5
    assert samples < 0.05


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision_is_finite_and_near_float32(dtype: torch.dtype, on_cpu: Clip) -> None:
    pipe = Kinetophone.from_pretrained("hits", device=DEVICE, dtype=dtype)
    assert pipe.coupling.dtype == pipe.bases.video.unet.dtype == pipe.bases.audio.unet.dtype == dtype
    # What overflows in float16 computes in float32.
    around = (pipe.bases.video.vae, pipe.bases.audio.vae, pipe.bases.audio.vocoder)
    assert {next(network.parameters()).dtype for network in around} == {torch.float32}
    pixels, _ = apart(clip_of(pipe), on_cpu)
    assert pixels < 8
    assert pixels < apart(clip_of(pipe, seed=1), on_cpu)[0]


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
def test_every_family_of_bases_makes_finite_clips(models: Path, dtype: torch.dtype) -> None:
    for video in ("animatediff", "unet3d"):
        pipe = Kinetophone.from_bases(
            video=models / video, audio=models / "audioldm", device=DEVICE, dtype=dtype, frames=4, size=16
        )
        (clip,) = pipe("a bowl", steps=2)
        assert clip.video.shape == (4, 16, 16, 3)
        assert np.isfinite(clip.audio).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("way", ["model", "sequential"])
def test_offloading_makes_the_same_clip_and_leaves_the_device_empty(way: str, dtype: torch.dtype) -> None:
    pipe = Kinetophone.from_pretrained("hits", device=DEVICE, dtype=dtype)
    expected = clip_of(pipe)
    whole = torch.cuda.memory_allocated()
    pipe.to("cpu")
    getattr(pipe, f"enable_{way}_cpu_offload")()
    assert pipe.device.type == DEVICE
    pixels, samples = apart(clip_of(pipe), expected)
    assert pixels < 0.5
    assert samples < 0.05
    assert torch.cuda.memory_allocated() < whole
    pipe.to(DEVICE)  # ends it
    assert apart(clip_of(pipe), expected)[0] < 0.5


def test_offloading_takes_less_of_the_device() -> None:
    peaks = []
    for way in ("nothing", "model", "sequential"):
        pipe = Kinetophone.from_pretrained("hits", device=DEVICE if way == "nothing" else "cpu")
        if way != "nothing":
            getattr(pipe, f"enable_{way}_cpu_offload")()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        clip_of(pipe, steps=1)
        peaks.append(torch.cuda.max_memory_allocated())
        pipe.to("cpu")
        del pipe
    assert peaks[0] > peaks[1]
    assert peaks[0] > peaks[2]


@pytest.mark.parametrize("task", ["sound", "picture", "animate", "extend"])
def test_every_task_is_done(on_device: Kinetophone, on_cpu: Clip, task: str) -> None:
    more = {"seconds": 6} if task == "extend" else {}
    media = on_cpu.video[0] if task == "animate" else on_cpu
    made = getattr(on_device, task)(media, PROMPT, steps=2, **more)
    assert np.isfinite(made.audio).all()
    assert len(made.video) == (48 if task == "extend" else 32)


@pytest.mark.parametrize(
    "options",
    [
        ["--dtype", "bfloat16", "--offload", "model"],
        ["--dtype", "float16", "--offload", "sequential"],
        ["--dtype", "float16"],
    ],
    ids=" ".join,
)
def test_the_documented_commands(tmp_path: Path, options: list[str]) -> None:
    out = tmp_path / "a.mp4"
    words = ["generate", PROMPT, "-o", str(out), "--device", DEVICE, "--steps", "2", *options]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert read_clip(out).time.frames == 32


def test_the_doctor_finds_nothing_wrong() -> None:
    rows = list(examine(Question(device=DEVICE, dtype="bfloat16")))
    assert [row for row in rows if row.state == "FAIL"] == []
    assert rows[-1].check.startswith("one step")
    assert "finite" in rows[-1].found or "a clip of" in rows[-1].found


def test_the_full_size_benchmark(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    small = ["--narrow", "40", "--size", "64", "--frames", "4", "--repeat", "1", "--json", str(results)]
    command = [sys.executable, str(ROOT / "benchmarks" / "full_size.py"), "--device", DEVICE]
    done = subprocess.run([*command, "--dtype", "bfloat16", *small], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [row["row"] for row in json.loads(results.read_text())["rows"]] == ["bases", "joint", "train"]


# Data and training.


def test_latents_are_those_of_a_cpu(models: Path, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.mp4", size=(32, 32))
    sources = find_sources(tmp_path / "videos", caption="a bowl")
    prepare(sources, tmp_path / "clips", Cut(fps=8, seconds=1, size=32), workers=Workers(1))
    bases = ["--audio-base", str(models / "audioldm"), "--video-base", str(models / "animatediff")]
    for device in (DEVICE, "cpu"):
        words = ["data", "encode", str(tmp_path / "clips"), str(tmp_path / device), *bases]
        done = CliRunner().invoke(app, [*words, "--device", device])
        assert done.exit_code == 0, done.output
    ours, theirs = (
        {path.name: load_file(path) for path in sorted((tmp_path / device).glob("*.safetensors"))}
        for device in (DEVICE, "cpu")
    )
    assert ours
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)  # they are kept in float16


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("training")
    shutil.copytree(BUNDLES / "hits", root / "bundle")
    return root


def recipe_of(place: Path, **loop: Any) -> Recipe:
    usual = {"steps": 6, "batch_size": 4, "lr": 1e-3, "warmup": 2, "sample_every": 0, "threads": 1}
    return Recipe(
        stage="coupling",
        name="tiny",
        data=DataConfig(count=4, cache=str(place / "cache")),
        loop=LoopConfig(**usual | {"device": DEVICE, "checkpoint_every": 1} | loop),
        bundle=str(place / "bundle"),
        continued=True,
        options=CouplingOptions(connector_dropout=0.1, aligned_share=0.5, one_clean=0.2),
    )


def trained(recipe: Recipe, start: Path, out: Path, **options: Any) -> dict[str, Any]:
    """The state after training, each time from the same coupling."""
    bundle = Path(recipe.bundle)
    shutil.copytree(start, bundle / "coupling", dirs_exist_ok=True)
    stage = build_stage(recipe)
    train(stage, recipe.loop, out, **options)
    return checkpoints.load(checkpoints.find(out)[-1])


def distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    pairs = [(one["weights"][key].float(), other["weights"][key].float()) for key in one["weights"]]
    return float(torch.cat([(a.cpu() - b.cpu()).abs().flatten() for a, b in pairs]).mean())


@pytest.mark.parametrize(
    "loop",
    [
        {"precision": "float32"},
        {"precision": "bfloat16", "gradient_checkpointing": True},
        {"precision": "float16", "gradient_checkpointing": True, "accumulate": 2},
        pytest.param(
            {"precision": "bfloat16", "optimizer": "adamw8bit"},
            marks=pytest.mark.skipif(
                find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
            ),
        ),
    ],
    ids=lambda loop: "-".join(map(str, loop.values())),
)
def test_training_runs_and_goes_on_where_it_was_stopped(
    place: Path, tmp_path: Path, loop: dict[str, Any]
) -> None:
    recipe, start = recipe_of(place, **loop), BUNDLES / "hits" / "coupling"
    first = trained(recipe, start, tmp_path / "first", stop_at=1)
    whole = trained(recipe, start, tmp_path / "whole")
    trained(recipe, start, tmp_path / "parts", stop_at=3)
    parts = trained(recipe, start, tmp_path / "parts")
    assert (whole["step"], parts["step"]) == (6, 6)
    assert (whole["skipped"], parts["skipped"]) == (0, 0)
    assert all(torch.isfinite(weight).all() for weight in parts["weights"].values())
    # A GPU adds up in any order: equal but for what that does, against how far the weights went.
    assert distance(whole, parts) < 0.2 * distance(whole, first)
    if "optimizer" in loop:
        assert "torch.uint8" in repr(parts["optimizer"]["state"][0])
    made = clip_of(Kinetophone.from_pretrained(place / "bundle", device=DEVICE), steps=1)
    assert np.isfinite(made.audio).all()


def test_gradient_checkpointing_changes_memory_and_nothing_else(place: Path) -> None:
    losses, peaks = [], []
    for checkpointing in (False, True):
        stage = build_stage(recipe_of(place, gradient_checkpointing=checkpointing))
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss = stage.loss(np.random.default_rng(0), torch.Generator().manual_seed(0))["loss"]
        loss.backward()
        losses.append(float(loss))
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert peaks[1] < peaks[0]


def test_a_first_step_is_that_of_a_cpu(place: Path) -> None:
    losses = []
    for device in (DEVICE, "cpu"):
        stage = build_stage(recipe_of(place, device=device))
        with torch.no_grad():
            losses.append(
                float(stage.loss(np.random.default_rng(0), torch.Generator().manual_seed(0))["loss"])
            )
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_recipe_that_does_not_fit_is_refused_before_weights_are_read(tmp_path: Path) -> None:
    recipe = yaml.safe_load((ROOT / "recipes" / "animatediff-audioldm-greatesthits.yaml").read_text())
    recipe["loop"] |= {"batch_size": 4096, "accumulate": 1, "device": DEVICE}
    (tmp_path / "large.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(UserError, match=r"needs about .* GiB on the device, which has "):
        run(tmp_path / "large.yaml", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def written(recipe: Recipe, path: Path) -> Path:
    """A recipe as a user's file."""
    raw = dataclasses.asdict(recipe)
    raw["data"] = {"count": 4, "cache": raw["data"]["cache"]}
    path.write_text(
        yaml.safe_dump({key: raw[key] for key in ("stage", "bundle", "continued", "data", "loop", "options")})
    )
    return path


@pytest.mark.parametrize(
    "kind", [["--multi_gpu"], ["--use_fsdp", "--fsdp_version", "2"]], ids=["DDP", "FSDP2"]
)
def test_two_devices_learn_what_one_does(place: Path, tmp_path: Path, kind: list[str]) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device on this machine")
    start = BUNDLES / "hits" / "coupling"
    shutil.copytree(start, place / "bundle" / "coupling", dirs_exist_ok=True)
    path = written(recipe_of(place), tmp_path / "tiny.yaml")
    first, one = tmp_path / "first", tmp_path / "one"
    trained(recipe_of(place), start, first, stop_at=1)
    shutil.copytree(start, place / "bundle" / "coupling", dirs_exist_ok=True)
    run(path, one)
    shutil.copytree(start, place / "bundle" / "coupling", dirs_exist_ok=True)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    usual = ["--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *kind, *usual, "--main_process_port", port]
    command += ["-m", "kinetophone", "train", str(path), "--out", str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    begun, alone, both = (
        checkpoints.load(checkpoints.find(folder)[-1]) for folder in (first, one, tmp_path / "two")
    )
    assert distance(alone, both) < 0.2 * distance(alone, begun)

"""What the documents say about a CUDA device, on one: ``pytest -m gpu``. Without one all of it is skipped.

A comment above each test, or group of tests, names the page with the claim. Without a device here the code
can be tried on a CPU, where what is said about its memory means nothing: set ``DEVICE`` to "cpu".
"""

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
from typer.testing import CliRunner

import release
from kinetophone import AV, Kinetophone
from kinetophone.av import MODALITIES
from kinetophone.bases.load import load_audio_base, load_video_base
from kinetophone.bundle.spec import BUNDLES
from kinetophone.cli import app
from kinetophone.cli.shared import model_workers
from kinetophone.data.encoded import load_encoded
from kinetophone.data.prepare import Cut, prepare
from kinetophone.data.sources import find_sources
from kinetophone.doctor import Question, examine
from kinetophone.errors import UserError
from kinetophone.media import Clip
from kinetophone.media.read import read_clip
from kinetophone.reference.convert import convert_reference
from kinetophone.training import checkpoints, run
from kinetophone.training.dry_run import estimate
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
    pytest.mark.filterwarnings("ignore::kinetophone.errors.UnknownWordsWarning"),  # of tiny bases
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


# docs/published-models.md: `--device` takes what torch has; docs/api.md: the default is the fastest.
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


# docs/published-models.md: autoencoders and vocoder always compute in float32.
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


def transformers(models: Path, **options: Any) -> Kinetophone:
    """Wan and Stable Audio with a coupling that acts, the same each time."""
    bases: dict[str, Any] = {"video": models / "wan", "audio": models / "stable_audio", "kind": "in_place"}
    pipe = Kinetophone.from_bases(**bases | {"size": 32, "frames": 5, "device": DEVICE} | options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in pipe.coupling.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return pipe


# docs/transformers.md, and of sequential offloading CHANGELOG.md.
def test_transformers_make_the_clip_of_a_cpu_offloaded_or_not(models: Path) -> None:
    expected = clip_of(transformers(models, device="cpu"), steps=2)
    assert apart(clip_of(transformers(models), steps=2), expected)[0] < 0.5
    for way in ("model", "sequential"):
        pipe = transformers(models, device="cpu")
        getattr(pipe, f"enable_{way}_cpu_offload")(DEVICE)
        pixels, samples = apart(clip_of(pipe, steps=2), expected)
        assert pixels < 0.5, way
        assert samples < 0.05, way


def test_transformers_in_bfloat16_do_every_task(models: Path) -> None:
    pipe = transformers(models, dtype=torch.bfloat16)
    clip = clip_of(pipe, steps=2)
    for made in (pipe.sound(clip, PROMPT, steps=1), pipe.picture(clip, PROMPT, steps=1)):
        assert made.video.shape == (5, 32, 32, 3)
        assert np.isfinite(made.audio).all()


# docs/transformers.md: the text encoder is on the GPU only while it runs, or with a cache not kept at all.
def test_the_text_encoder_leaves_the_device_when_it_has_run(models: Path, tmp_path: Path) -> None:
    pipe = transformers(models, device="cpu")
    pipe.enable_model_cpu_offload(DEVICE)
    places: list[tuple[str, str]] = []

    def look(network: torch.nn.Module, *_: Any) -> None:
        encoder = pipe.bases.video.text_encoder
        places.append((next(network.parameters()).device.type, next(encoder.parameters()).device.type))

    for modality in (pipe.bases.video, pipe.bases.audio):
        modality.network.register_forward_hook(look)
    expected = clip_of(pipe, steps=1)
    assert set(places) == {(DEVICE, "cpu")}
    for _ in range(2):  # states that are made, then states that are read
        cached = transformers(models, text_cache=tmp_path)
        assert apart(clip_of(cached, steps=1), expected)[0] < 0.5
        assert cached.bases.video.text_encoder is None


# docs/published-models.md: the authors' folder is converted, and the bundle makes clips in half precision.
@pytest.mark.parametrize(
    "options", [["--dtype", "float16"], ["--dtype", "bfloat16", "--offload", "model"]], ids=" ".join
)
def test_a_converted_release_makes_a_clip(tmp_path: Path, options: list[str]) -> None:
    release.make(tmp_path / "theirs")
    convert_reference(tmp_path / "theirs", tmp_path / "ours", allow_pickle=True)
    words = ["generate", PROMPT, "--bundle", str(tmp_path / "ours"), "-o", str(tmp_path / "a.mp4")]
    more = ["--seconds", "0.5", "--steps", "2", "--device", DEVICE, *options]
    done = CliRunner().invoke(app, [*words, *more])
    assert done.exit_code == 0, done.output
    assert np.isfinite(read_clip(tmp_path / "a.mp4").audio).all()


# docs/api.md and the tables of memory in docs/published-models.md.
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


# docs/performance.md, and at the end of docs/published-models.md.
def test_the_full_size_benchmark(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    small = ["--narrow", "40", "--size", "64", "--frames", "4", "--repeat", "1", "--json", str(results)]
    command = [sys.executable, str(ROOT / "benchmarks" / "full_size.py"), "--device", DEVICE]
    done = subprocess.run([*command, "--dtype", "bfloat16", *small], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [row["row"] for row in json.loads(results.read_text())["rows"]] == ["bases", "joint", "train"]


# Data and training.


# docs/training-data.md and docs/your-pair.md.
@pytest.mark.parametrize(
    ("video", "audio", "dtype"),
    [
        ("animatediff", "audioldm", "float32"),
        ("wan", "stable_audio", "float32"),
        ("wan", "stable_audio", "bfloat16"),
    ],
)
def test_latents_are_those_of_a_cpu(models: Path, tmp_path: Path, video: str, audio: str, dtype: str) -> None:
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.mp4", fps=16, layout="stereo", size=(32, 32))
    sources = find_sources(tmp_path / "videos", caption="a bowl")
    cut = (
        Cut(fps=16, seconds=9 / 16, size=32, channels=2) if video == "wan" else Cut(fps=8, seconds=1, size=32)
    )
    prepare(sources, tmp_path / "clips", cut, workers=Workers(1))
    chosen = ["--audio-base", str(models / audio), "--video-base", str(models / video), "--dtype", dtype]
    for device in (DEVICE, "cpu"):
        words = ["data", "encode", str(tmp_path / "clips"), str(tmp_path / f"on-{device}"), *chosen]
        done = CliRunner().invoke(app, [*words, "--device", device])
        assert done.exit_code == 0, done.output
    kind = {"dtype": getattr(torch, dtype)}
    bases: AV[Any] = AV(
        audio=load_audio_base(models / audio, **kind), video=load_video_base(models / video, **kind)
    )
    ours, theirs = (load_encoded(tmp_path / f"on-{device}", 0, bases) for device in (DEVICE, "cpu"))
    close = {"rtol": 1e-2, "atol": 1e-2}  # they are kept in float16
    for name in MODALITIES:
        pair = [np.array(getattr(encoded, name)[0:]).astype(np.float32) for encoded in (ours, theirs)]
        assert len(pair[0])
        np.testing.assert_allclose(*pair, **close)
    loose = close if dtype == "float32" else {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(ours.text(["a bowl"]).video, theirs.text(["a bowl"]).video, **loose)


# docs/training-data.md and docs/many.md: one process for each GPU.
def test_each_device_gets_a_worker() -> None:
    assert model_workers(None, None, DEVICE).of(1000) == torch.cuda.device_count()


# docs/many.md.
def test_the_clips_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "prompts.csv").write_text(f"prompt\n{PROMPT}\n{PROMPT}\n")
    words = ["generate", "--prompts", str(tmp_path / "prompts.csv"), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*words, "--steps", "1", "--device", DEVICE])
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "out").glob("*.mp4"))) == 2


# docs/your-pair.md: the recipe there, with bases of its own, on latents of the device.
def test_a_coupling_of_transformers_is_trained(models: Path, tmp_path: Path) -> None:
    bases = {"audio": str(models / "stable_audio"), "video": str(models / "wan")}
    options = {"relative": True, "one_clean": 0.4, "aligned_share": 0.6, "self_conditioning": 0.4}
    loop = {"steps": 2, "batch_size": 2, "lr": 1e-3, "warmup": 0, "sample_every": 0, "threads": 1}
    loop |= {"precision": "bfloat16", "device": DEVICE, "gradient_checkpointing": True}
    recipe = {
        "stage": "coupling", "bundle": str(tmp_path / "bundle"), "bases": bases, "options": options,
        "data": {"source": "hits16", "count": 2, "size": 32, "cache": str(tmp_path / "cache")},
        "model": {"coupling": "in_place"}, "loop": loop,
    }  # fmt: skip
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    run(tmp_path / "mine.yaml", tmp_path / "run")
    state = checkpoints.load(checkpoints.find(tmp_path / "run")[-1])
    assert (state["step"], state["skipped"]) == (2, 0)
    assert all(torch.isfinite(weight).all() for weight in state["weights"].values())


# docs/published-models.md and docs/training.md: the memory that --dry-run computes is enough.
def test_a_step_takes_no_more_memory_than_computed(place: Path) -> None:
    recipe = recipe_of(place)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    train(build_stage(recipe), recipe.loop, place / "measured", stop_at=2)
    assert 0 < torch.cuda.max_memory_allocated() - before < estimate(recipe).device_bytes()


# docs/studying.md.
def test_an_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)
    words = ["experiment", "recipes/experiments/debug.yaml", "--minutes", "50", "--device", DEVICE]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    table = json.loads((tmp_path / "docs" / "results" / "debug" / "table.json").read_text())
    assert table["missing"] == {}
    assert len(table["rows"]) == 3


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


# docs/training.md and the recipes for cards in docs/published-models.md.
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


# docs/training.md: activations are computed twice rather than kept.
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


# docs/training.md: refused before the weights are read.
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


# docs/training.md: the weights of several processes are those of one.
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(["--multi_gpu"], id="DDP"),
        pytest.param(["--use_fsdp", "--fsdp_version", "2"], id="FSDP2"),
        pytest.param(
            ["--use_deepspeed", "--zero_stage", "2"],
            id="ZeRO-2",
            marks=pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed"),
        ),
    ],
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

"""Several processes learn what one does: DDP and FSDP2 over gloo on CPUs, by ``accelerate launch``."""

import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml

from kinetophone.av import AV
from kinetophone.bases.load import load_audio_base, load_video_base
from kinetophone.data.encode import encode
from kinetophone.data.prepare import Cut, prepare
from kinetophone.data.sources import find_sources
from kinetophone.errors import UserError
from kinetophone.training import checkpoints, run
from kinetophone.training.loop import train
from kinetophone.training.processes import Processes
from kinetophone.workers import Workers
from toy_training import Toy, config
from videos import write_video

CUT = Cut(fps=8, seconds=1, size=32)
WAN_CUT = Cut(fps=16, seconds=9 / 16, size=32, sample_rate=8000, channels=2)
UNETS = {"channel_mult": [2], "num_blocks": [1], "connector_channels": 32, "head_dim": 16}

TOY = Path(__file__).parents[1] / "toy_training.py"
DDP, FSDP2 = ["--multi_gpu"], ["--use_fsdp", "--fsdp_version", "2"]
ZERO2 = ["--use_deepspeed", "--zero_stage", "2"]
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
BY_DDP = pytest.param(DDP, id="DDP")
BY_FSDP2 = pytest.param(FSDP2, id="FSDP2")
BY_ZERO2 = pytest.param(ZERO2, id="ZeRO-2", marks=needs_deepspeed)


def launch(kind, *command):
    """Two processes; ``--multi_gpu`` is accelerate's word for DDP also where the devices are CPUs."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    usual = [
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]
    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        *kind,
        *usual,
        "--main_process_port",
        port,
    ]
    done = subprocess.run(
        [*launcher, *map(str, command)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def last_state(out):
    return checkpoints.load(checkpoints.find(out)[-1])


def same(one, two, tolerance):
    assert one["step"] == two["step"]
    for key in ("weights", "ema"):
        torch.testing.assert_close(two[key], one[key], rtol=0, atol=tolerance)


def test_accumulated_parts_are_the_batch(tmp_path):
    train(Toy(), config(), tmp_path / "whole")
    train(Toy(), config(accumulate=4), tmp_path / "parts")
    same(last_state(tmp_path / "whole"), last_state(tmp_path / "parts"), 1e-5)


@pytest.mark.parametrize("kind", [BY_DDP, BY_ZERO2])  # FSDP2 is in the next test
def test_two_processes_with_half_the_batch_each_learn_what_one_does(tmp_path, kind):
    whole = Toy()
    train(whole, config(), tmp_path / "one")
    launch(kind, TOY, tmp_path / "two")
    same(last_state(tmp_path / "one"), last_state(tmp_path / "two"), 1e-5)
    exported = torch.load(tmp_path / "two" / "exported.pt", weights_only=True)
    torch.testing.assert_close(exported, whole.exported, rtol=0, atol=1e-5)


def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    whole = Toy()
    train(whole, config(), tmp_path / "one")
    train(Toy(), config(), tmp_path / "mixed", stop_at=7)
    launch(FSDP2, TOY, tmp_path / "mixed", "--accumulate", "2")
    same(last_state(tmp_path / "one"), last_state(tmp_path / "mixed"), 1e-5)
    exported = torch.load(tmp_path / "mixed" / "exported.pt", weights_only=True)
    torch.testing.assert_close(exported, whole.exported, rtol=0, atol=1e-5)
    checkpoints.find(tmp_path / "mixed")[-1].unlink()
    train(Toy(), config(), tmp_path / "mixed")
    same(last_state(tmp_path / "one"), last_state(tmp_path / "mixed"), 1e-5)


def test_a_batch_that_cannot_be_shared_out(tmp_path):
    with pytest.raises(UserError, match=r"8 can't be divided among 3 processes .* make it a multiple of 3"):
        train(Toy(), config(), tmp_path, processes=Processes(count=3))


@needs_deepspeed
def test_a_run_goes_on_with_deepspeed_and_without_it_again(tmp_path):
    train(Toy(), config(), tmp_path / "one")
    train(Toy(), config(), tmp_path / "mixed", stop_at=7)
    one = ["--use_deepspeed", "--zero_stage", "1"]
    launch(one, TOY, tmp_path / "mixed", "--accumulate", "2", "--stop-at", "14")
    train(Toy(), config(), tmp_path / "mixed")
    same(last_state(tmp_path / "one"), last_state(tmp_path / "mixed"), 1e-5)
    for ours, theirs in zip(
        *(last_state(tmp_path / name)["optimizer"]["state"].values() for name in ("one", "mixed")),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@needs_deepspeed
def test_deepspeed_leaves_out_a_step_that_is_not_finite(tmp_path):
    launch(ZERO2, TOY, tmp_path, "--poison", "3")
    state = last_state(tmp_path)
    assert state["skipped"] == 1
    assert all(weight.isfinite().all() for weight in state["weights"].values())


@pytest.mark.parametrize(
    ("changes", "stage", "message"),
    [
        ({}, 3, "ZeRO stage 3 is not supported: launch with --zero_stage 1 or 2"),
        ({"precision": "float16"}, 2, "'loop.precision' must be float32 or bfloat16"),
    ],
)
def test_what_deepspeed_cannot_do_is_said(tmp_path, changes, stage, message):
    with pytest.raises(UserError, match=message):
        train(Toy(), config(**changes), tmp_path, processes=Processes(zero_stage=stage))


@pytest.fixture(scope="module", params=["U-Nets", "transformers"])
def coupling(request, tmp_path_factory, models):
    """A recipe for tiny bases with every option that draws random numbers, and its state in one process."""
    transformers = request.param == "transformers"
    names, cut = (("stable_audio", "wan"), WAN_CUT) if transformers else (("audioldm", "animatediff"), CUT)
    root = tmp_path_factory.mktemp("coupling")
    (root / "videos").mkdir()
    for number in range(4):
        kind = {"fps": 16, "layout": "stereo", "size": (32, 32)} if transformers else {}
        write_video(root / "videos" / f"{number}.mp4", seconds=2.25, **kind)
    prepare(find_sources(root / "videos", caption="a bowl"), root / "clips", cut, workers=Workers(1))
    bases = {name: str(models / base) for name, base in zip(("audio", "video"), names, strict=True)}
    encode(
        root / "clips",
        root / "latents",
        lambda: AV(audio=load_audio_base(bases["audio"]), video=load_video_base(bases["video"])),
    )
    recipe = {
        "stage": "coupling",
        "data": {"source": str(root / "latents")},
        "bundle": str(root / "bundle"),
        "bases": bases,
        "model": {"coupling": "in_place"} if transformers else UNETS,
        "options": {
            "connector_dropout": 0.1, "aligned_share": 0.5, "noise_levels": "mixed", "one_clean": 0.3,
        },
        "loop": {"steps": 20, "batch_size": 4, "lr": 2e-4, "warmup": 2, "sample_every": 0, "threads": 1},
    }  # fmt: skip
    if transformers:
        recipe["options"]["relative"] = True
    (root / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    run(root / "tiny.yaml", root / "one")
    return root / "tiny.yaml", last_state(root / "one")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [BY_DDP, BY_FSDP2, BY_ZERO2])
def test_two_processes_learn_the_coupling_that_one_does(tmp_path, coupling, kind):
    """``kinetophone train`` itself; ``benchmarks/processes.py`` has the shipped bases."""
    recipe, one = coupling
    launch(kind, "-m", "kinetophone", "train", recipe, "--out", tmp_path)
    same(one, last_state(tmp_path), 1e-5)

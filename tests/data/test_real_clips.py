"""A folder of real clips and of difficult files, by the commands: prepared, encoded, trained on."""

import csv
import json
import shutil

import torch
import yaml
from typer.testing import CliRunner

from kinetophone.cli import app
from kinetophone.training import checkpoints
from videos import REJECTED, USED, write_difficult


def command(*arguments):
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_real_clips_and_difficult_files_are_prepared_encoded_and_trained_on(real_clips, models, tmp_path):
    videos, clips, latents = (tmp_path / name for name in ("videos", "clips", "latents"))
    videos.mkdir()
    real = sorted(path.name for path in real_clips.glob("*.mp4"))
    for name in real:
        shutil.copy(real_clips / name, videos / name)
    write_difficult(videos)
    names = (*real, *USED, *REJECTED)
    with (tmp_path / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "caption"), *((name, "a drumstick hits") for name in names)])

    cut = ("--seconds", 1, "--size", 32, "--captions", tmp_path / "captions.csv", "--workers", 1)
    printed = command("data", "prepare", videos, clips, *cut)
    rows = {
        row["source"]: row for row in map(json.loads, (clips / "manifest.jsonl").read_text().splitlines())
    }
    assert rows.keys() == set(names)
    for name in (*real, *USED):
        assert rows[name]["clips"], rows[name]["reason"]
    for name, words in REJECTED.items():
        assert not rows[name]["clips"]
        assert words in rows[name]["reason"]
        assert f"rejected: {name}: " in printed

    audio, video = models / "audioldm", models / "animatediff"
    printed = command("data", "encode", clips, latents, "--audio-base", audio, "--video-base", video)
    assert printed.strip().endswith(f"{sum(len(row['clips']) for row in rows.values())} clips in {latents}")

    recipe = {
        "stage": "coupling",
        "bundle": str(tmp_path / "bundle"),
        "bases": {"audio": str(audio), "video": str(video)},
        "data": {"source": str(latents)},
        "model": {"channel_mult": [2], "num_blocks": [1], "connector_channels": 32, "head_dim": 16},
        "loop": {"steps": 4, "batch_size": 4, "lr": 1e-3, "warmup": 2, "sample_every": 0, "threads": 1},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    command("train", tmp_path / "tiny.yaml", "--out", tmp_path / "run")
    state = checkpoints.load(checkpoints.find(tmp_path / "run")[-1])
    assert (state["step"], state["skipped"]) == (4, 0)
    assert all(torch.isfinite(weight).all() for weight in state["weights"].values())
    assert json.loads((tmp_path / "bundle" / "kinetophone.json").read_text())["frames"] == 8

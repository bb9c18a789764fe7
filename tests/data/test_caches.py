"""A cache is used only for exactly what made it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kinetophone.av import AV
from kinetophone.bases.load import load_audio_base, load_video_base
from kinetophone.data import arrays, latents
from kinetophone.data.arrays import ClipArrays, load_rendered
from kinetophone.data.latents import LatentArrays, load_captions, load_latents
from kinetophone.hits import sixteen


@pytest.fixture(scope="module")
def vae(models: Path) -> Any:
    return load_video_base(models / "wan").vae


def rendered(folder: Path, size: int = 32, split: str = "train") -> ClipArrays:
    return load_rendered("hits16", folder, split, 2, size, workers=1)


def encoded(clips: ClipArrays, folder: Path, vae: Any) -> LatentArrays:
    return load_latents(clips, "train", folder, AV(audio=None, video=vae))


def test_clips_of_another_size_are_others(tmp_path: Path, vae: Any) -> None:
    small, large = rendered(tmp_path, 32), rendered(tmp_path, 64)
    assert (small.video.shape[2], large.video.shape[2]) == (32, 64)
    found = [encoded(clips, tmp_path, vae).video.shape for clips in (small, large, small)]
    assert [shape[3] for shape in found] == [4, 8, 4]


def test_clips_and_captions_of_another_version_of_the_domain_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rendered(tmp_path)
    captions = load_captions(before, "train", tmp_path)
    monkeypatch.setattr(sixteen, "VERSION", sixteen.VERSION + 1)
    monkeypatch.setattr(sixteen, "captions_of", lambda split, i, count: [f"caption {i}"] * count)
    after = rendered(tmp_path)
    assert before.made_by != after.made_by
    assert load_captions(after, "train", tmp_path) == [["caption 0"] * 4, ["caption 1"] * 4] != captions


@pytest.mark.parametrize("step", [arrays, latents])
def test_another_version_of_a_step_uses_nothing_of_the_old_one(
    step: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vae: Any
) -> None:
    encoded(rendered(tmp_path), tmp_path, vae)
    before = set(tmp_path.glob("*latents*.npy"))
    monkeypatch.setattr(step, "_VERSION", step._VERSION + 1)
    encoded(rendered(tmp_path), tmp_path, vae)
    assert len(set(tmp_path.glob("*latents*.npy")) - before) == 1


def test_another_network_of_the_same_shape_makes_its_own_latents(tmp_path: Path, models: Path) -> None:
    own = load_audio_base(models / "stable_audio").vae
    clips = rendered(tmp_path)
    pair = AV(audio=own, video=None)
    before = load_latents(clips, "train", tmp_path, pair).audio
    with torch.no_grad():
        own.encoder.conv1.bias.add_(1)
    after = load_latents(clips, "train", tmp_path, pair).audio
    assert before.shape == after.shape
    assert not np.array_equal(before, after)
    # A setting of the network that no weight shows counts too.
    scale = load_video_base(models / "animatediff").vae
    known = latents.fingerprint(scale)
    scale.register_to_config(scaling_factor=2 * scale.config.scaling_factor)
    assert latents.fingerprint(scale) != known


RENDER = """
import sys
from pathlib import Path
from kinetophone.data.arrays import load_rendered
clips = load_rendered("hits16", Path(sys.argv[1]), "train", 3, 32, workers=1)
print(int(clips.video.sum()), len(clips))
"""


def test_two_runs_on_one_cache_make_it_once_and_see_the_same(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RENDER, str(tmp_path)]
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "ab"
    ]
    said = [run.communicate() for run in runs]
    assert {run.returncode for run in runs} == {0}, said
    assert len({out for out, _ in said}) == 1
    assert len(list(tmp_path.glob("hits16-train-32-3-*"))) == 1

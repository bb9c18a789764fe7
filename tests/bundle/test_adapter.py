"""A coupling in one file, with the names of its bases."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from kinetophone import Kinetophone
from kinetophone.bundle.auto_gamma import store
from kinetophone.bundle.push import bundle_files
from kinetophone.bundle.spec import BUNDLES, BundleSpec
from kinetophone.cli import app
from kinetophone.errors import RequestError

PROMPT = "a drumstick hits metal"


@pytest.fixture(scope="module")
def pipe(models: Path) -> Kinetophone:
    pipe = Kinetophone.from_bases(
        video=models / "wan", audio=models / "stable_audio", kind="in_place", size=32, frames=9, device="cpu"
    )
    with torch.no_grad():
        for name, parameter in pipe.coupling.named_parameters():
            if name.endswith("proj.weight"):
                parameter.fill_(0.05)
    return pipe


def test_an_adapter_finds_its_bases_and_makes_the_same_clip(pipe: Kinetophone, tmp_path: Path) -> None:
    file = tmp_path / "shared" / "kinetophone.safetensors"
    pipe.save_adapter(file)
    clip = pipe(PROMPT, steps=1)[0]
    for name in (file, file.parent):
        loaded = Kinetophone.from_pretrained(name, device="cpu")
        assert np.array_equal(loaded(PROMPT, steps=1)[0].video, clip.video)
        assert loaded.spec.fps == 16
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert file.stat().st_size < 1.1 * 4 * sum(p.numel() for p in pipe.coupling.parameters()) + 10_000
    moved = shutil.copy(file, tmp_path / "mine.safetensors")
    with safe_open(moved, framework="pt") as opened:
        bases = json.loads(opened.metadata()["kinetophone"])["bases"]
    assert {Path(bases[name]["folders"]["name"]).name for name in bases} == {"wan", "stable_audio"}
    again = Kinetophone.from_bases(
        video=bases["video"]["folders"]["name"],
        audio=bases["audio"]["folders"]["name"],
        coupling=moved,
        size=32,
        frames=9,
        device="cpu",
    )
    assert np.array_equal(again(PROMPT, steps=1)[0].video, clip.video)


def test_a_bundle_is_packed_into_an_adapter_if_its_bases_are_elsewhere(
    pipe: Kinetophone, tmp_path: Path
) -> None:
    pipe.save_coupling(tmp_path / "bundle")
    file = tmp_path / "mine.safetensors"
    done = CliRunner().invoke(app, ["pack", str(tmp_path / "bundle"), str(file)])
    assert done.exit_code == 0, done.output
    assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float16}
    whole = CliRunner().invoke(app, ["pack", str(file), str(tmp_path / "whole")])
    assert whole.exit_code == 0, whole.output
    assert (tmp_path / "whole" / "video" / "transformer").is_dir()
    done = CliRunner().invoke(app, ["pack", str(BUNDLES / "hits"), str(file)])
    assert done.exit_code == 2
    assert "holds its own audio and video base, which does not fit into an adapter" in done.stderr


def test_an_adapter_is_pushed_with_its_card_if_its_bases_are_on_the_hub(
    pipe: Kinetophone, tmp_path: Path
) -> None:
    file = tmp_path / "mine.safetensors"
    pipe.save_adapter(file)
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    with pytest.raises(RequestError) as caught:
        bundle_files(file)
    assert "name it kinetophone.safetensors" in caught.value.problems[0]
    assert sum("base is a local folder" in problem for problem in caught.value.problems) == 2
    named = {"video": ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "a" * 40), "audio": ("stabilityai/x", "b" * 40)}
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    described = json.loads(metadata["kinetophone"])
    described["bases"] = {key: {"name": name, "revision": commit} for key, (name, commit) in named.items()}
    metadata["kinetophone"] = json.dumps(described)
    save_file(load_file(file), tmp_path / "kinetophone.safetensors", metadata)
    for name in (tmp_path, tmp_path / "kinetophone.safetensors"):
        folder, files = bundle_files(name)
        assert (folder, [path.name for path in files]) == (tmp_path, ["README.md", "kinetophone.safetensors"])
    assert BundleSpec.read(tmp_path).bases["video"] == {"name": named["video"][0], "revision": "a" * 40}


def test_a_measured_gamma_is_kept_in_the_adapter(pipe: Kinetophone, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    pipe.save_adapter(file)
    before = load_file(file)
    store(file, 0.4)
    assert BundleSpec.read(file).gamma("auto") == 0.4
    assert all(torch.equal(tensor, before[name]) for name, tensor in load_file(file).items())


def test_files_that_are_no_adapters(tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    save_file({"x": torch.zeros(1)}, file)
    for content in (file.read_bytes(), b"", b"<html>"):
        file.write_bytes(content)
        with pytest.raises(RequestError, match="is not a bundle's description") as caught:
            Kinetophone.from_pretrained(file)
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(RequestError, match="unknown bundle"):
        Kinetophone.from_pretrained(tmp_path / "nothing.safetensors")

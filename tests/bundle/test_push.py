"""A bundle to the Hub and back: against a stand-in server that speaks the Hub's protocol."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import standin_hub
from kinetophone.bundle.push import bundle_files
from kinetophone.bundle.spec import BUNDLES
from kinetophone.errors import RequestError


def run(
    endpoint: str, home: Path, *arguments: str, token: str | None = None
) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own: the Hub's address is read when its library is imported."""
    environment = {
        **{name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "OMP_NUM_THREADS": "1",
        **({"HF_TOKEN": token} if token else {}),
    }
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "kinetophone", *arguments],
        env=environment, cwd=home, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_a_pushed_bundle_makes_clips_from_the_hub(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "home").mkdir()
    with standin_hub.serving(tmp_path / "hub") as (endpoint, _):
        pushed = run(endpoint, tmp_path / "home", "push", "hits", "me/hits", token=standin_hub.TOKEN)
        assert pushed.returncode == 0, pushed.stderr
        assert pushed.stdout.strip().endswith(f"/me/hits/commit/{standin_hub.COMMIT}")
        there = tmp_path / "hub" / "me" / "hits"
        for file in bundle_files("hits")[1]:
            assert (there / file).read_bytes() == (BUNDLES / "hits" / file).read_bytes()
        options = ("-o", "a.mp4", "--bundle", "me/hits", "--steps", "1")
        made = run(endpoint, tmp_path / "home", "generate", "a drum", *options)
        assert made.returncode == 0, made.stderr
        assert (tmp_path / "home" / "a.mp4").stat().st_size > 1000
        refused = run(endpoint, tmp_path / "home", "push", "hits", "me/hits", token="hf_of_someone_else")
        assert refused.returncode == 2
        assert "the Hub refuses 'me/hits' (HTTP 403); log in with 'hf auth login'" in refused.stderr
    away = run("http://127.0.0.1:9", tmp_path / "home", "push", "hits", "me/hits", token="hf_x")
    assert away.returncode == 2
    assert away.stderr.startswith("error: the Hub cannot be reached")


def test_a_dry_run_lists_the_files_and_asks_nobody(tmp_path: Path) -> None:
    listed = run("http://127.0.0.1:9", tmp_path, "push", "hits", "me/hits", "--dry-run")
    assert listed.returncode == 0, listed.stderr
    names = {line.split()[1] for line in listed.stdout.splitlines()}
    assert {"README.md", "kinetophone.json", "coupling/diffusion_pytorch_model.safetensors"} <= names


def test_only_a_whole_bundle_with_a_card_is_pushed_and_no_pickles(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    shutil.copy(BUNDLES / "hits" / "kinetophone.json", folder)
    with pytest.raises(RequestError) as caught:
        bundle_files(folder)
    assert len(caught.value.problems) == 2
    assert "has no coupling/*.safetensors" in caught.value.problems[0]
    assert "is not a model card" in caught.value.problems[1]
    shutil.copytree(BUNDLES / "hits" / "coupling", folder / "coupling")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "coupling" / "weights.bin").write_bytes(b"pickle")
    (folder / "notes.txt").write_text("mine")
    assert {path.name for path in bundle_files(folder)[1]} == {
        "README.md", "kinetophone.json", "config.json", "diffusion_pytorch_model.safetensors"
    }  # fmt: skip


def test_the_card_is_one_for_the_hub_and_its_figures_are_the_results() -> None:
    from huggingface_hub import ModelCard

    import tables

    text = (BUNDLES / "hits" / "README.md").read_text(encoding="utf-8")
    card = ModelCard(text)
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "kinetophone"
    assert tables.filled(text) == text, "run docs/tables.py"

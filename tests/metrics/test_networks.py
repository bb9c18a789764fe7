"""Networks of the measures: from where, in which format, and with whose consent they are loaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    ClapAudioConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextConfig,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
)
from typer.testing import CliRunner

import kinetophone
import standin_hub
import tiny
from kinetophone.bases.weights import file_format
from kinetophone.cli import app
from kinetophone.errors import RequestError
from kinetophone.media import Clip
from kinetophone.metrics.features import Extractor, clap_audio, clip_frames, text_features
from kinetophone.metrics.networks.load import load

CONSENT = r"TorchScript, which can run code: if you trust its source, say --allow-torchscript, in Python"
CLIP = Clip(np.zeros((8, 32, 32, 3), np.uint8), 8, np.zeros(8000, np.float32), 8000)


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


@pytest.fixture
def script(tmp_path: Path) -> Path:
    torch.jit.script(Twice()).save(tmp_path / "script.pt")
    return tmp_path / "script.pt"


def test_torchscript_is_loaded_only_with_consent(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.delattr(torch.jit, "load")  # nor is anything of it loaded to find out what it is
        with pytest.raises(RequestError, match=f"^'{script}' is {CONSENT}"):
            load(str(script))
    assert load(str(script), True)(torch.ones(1)).item() == 2
    # Consent is not remembered.
    with pytest.raises(RequestError, match=CONSENT):
        load(str(script))


@pytest.mark.parametrize("name", ["i3d", "vggish", "synchformer", "imagebind", "languagebind"])
def test_every_torchscript_network_needs_consent(name: str, script: Path) -> None:
    named = script
    if name.endswith("bind"):
        script.rename(script.with_name("model.pt"))
        named = script.parent
    with pytest.raises(RequestError, match=CONSENT) as caught:
        Extractor(**{name: str(named)}).check()
    assert len(str(caught.value).splitlines()) == 1


def test_all_refusals_come_at_once(script: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        Extractor(i3d=str(script), vggish=str(tmp_path / "none.pt"), clap=str(tmp_path)).check()
    assert len(caught.value.problems) == 3


def test_formats_are_told_by_their_content(script: Path, tmp_path: Path) -> None:
    tensors = {"x": torch.ones(1)}
    torch.save(tensors, tmp_path / "new")
    torch.save(tensors, tmp_path / "old", _use_new_zipfile_serialization=False)
    save_file(tensors, tmp_path / "safe")
    (tmp_path / "empty").touch()
    (tmp_path / "page").write_text("<html>Sign in to download</html>")
    (tmp_path / "cut").write_bytes(script.read_bytes()[:200])
    expected = {"new": "pickle", "old": "pickle", "safe": "safetensors", "script.pt": "torchscript"}
    expected |= dict.fromkeys(["empty", "page", "cut"])
    assert {name: file_format(tmp_path / name) for name in expected} == expected


@pytest.mark.parametrize("kind", ["new", "old", "safe", "page"])
def test_weights_where_torchscript_is_wanted(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "synchformer.pt"
    tensors = {"x": torch.ones(1)}
    if kind == "safe":
        save_file(tensors, file)
    elif kind == "page":
        file.write_text("<html>Sign in to download</html>")
    else:
        torch.save(tensors, file, _use_new_zipfile_serialization=kind == "new")
    found = {"safe": "is safetensors, weights", "page": "is not TorchScript"}.get(kind, "is a pickled state")
    with pytest.raises(RequestError, match=found) as caught:
        Extractor(synchformer=str(file), allow_torchscript=True).check()
    assert len(str(caught.value).splitlines()) == 1


# In a process of its own, with the stand-in for the Hub: the Hub's address is read at import.
ON_THE_HUB = """
import sys
from typer.testing import CliRunner
from kinetophone.cli import app
for line in sys.argv[1:]:
    options = line.split()
    result = CliRunner().invoke(app, ["evaluate", "clips", "--metrics", "desync", *options])
    print(result.exit_code, result.stderr.strip().replace(chr(10), " | "))
"""


def test_torchscript_from_the_hub_is_pinned_to_a_commit(script: Path, tmp_path: Path) -> None:
    home = tmp_path / "hub" / "some" / "networks"
    home.mkdir(parents=True)
    script.rename(home / "sync.pt")
    torch.save({"x": torch.ones(1)}, home / "state.pth")
    at = f"@{standin_hub.COMMIT}/"
    consent = "--allow-torchscript"
    lines = [
        f"--synchformer some/networks/sync.pt {consent}",
        f"--synchformer some/networks@main/sync.pt {consent}",
        f"--synchformer some/networks@{standin_hub.COMMIT[:10]}/sync.pt {consent}",
        f"--synchformer some/networks{at}sync.pt",
        "--synchformer some/networks/sync.pt",
        f"--synchformer some/networks@{'f' * 40}/sync.pt {consent}",
        f"--synchformer some/networks{at}state.pth {consent}",
        f"--synchformer some/networks{at}sync.pt {consent}",
    ]
    with standin_hub.serving(tmp_path / "hub") as (endpoint, asked):
        found = _run(ON_THE_HUB, endpoint, tmp_path, lines[:5])
        assert asked == []  # refused before anything is fetched
        found += _run(ON_THE_HUB, endpoint, tmp_path, lines[5:])
    pin = "written 'some/networks@COMMIT/sync.pt' (40 hexadecimal digits"
    for line, why in zip(
        found[:3], ("no commit", "'main', which is not", "'0123456789', which is not"), strict=True
    ):
        assert line.startswith("2 error: 'some/networks")
        assert f"names {why}" in line
        assert pin in line
        assert "|" not in line
    assert f"'some/networks{at}sync.pt' may hold TorchScript, which can run code" in found[3]
    assert "|" not in found[3]
    assert found[4].count("error:") == 2  # pin and consent
    assert f"'some/networks' has no revision '{'f' * 40}' on the Hub" in found[5]
    assert "is a pickled state dict" in found[6]
    assert "'clips' is not a folder" in found[7]  # the network was loaded


def _run(code: str, endpoint: str, cache: Path, arguments: list[str]) -> list[str]:
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache / "home"),
        "PYTHONPATH": str(Path(kinetophone.__file__).parents[1]),
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        env=environment, capture_output=True, text=True, timeout=300, cwd=cache,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()


def clap_folder(folder: Path) -> Path:
    text = {"vocab_size": len(tiny.WORDS), "hidden_size": 16, "intermediate_size": 16}
    audio = {
        "spec_size": 64, "num_mel_bins": 32, "patch_size": 4, "patch_stride": [4, 4], "window_size": 4,
        "patch_embeds_hidden_size": 16, "depths": [1, 1], "num_attention_heads": [2, 2],
        "num_hidden_layers": 2, "hidden_size": 32, "projection_dim": 8,
    }  # fmt: skip
    config = ClapConfig(
        text_config=ClapTextConfig(
            **text, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=12, pad_token_id=2
        ).to_dict(),
        audio_config=ClapAudioConfig(**audio).to_dict(),
        projection_dim=8,
    )
    ClapModel(config).save_pretrained(folder)
    ClapFeatureExtractor(
        feature_size=32, sampling_rate=48_000, max_length_s=1, truncation="rand_trunc"
    ).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def clip_folder(folder: Path) -> Path:
    shared = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = CLIPTextConfig(
        vocab_size=len(tiny.WORDS), max_position_embeddings=8,
        bos_token_id=0, eos_token_id=1, pad_token_id=2, **shared,
    )  # fmt: skip
    seen = CLIPVisionConfig(image_size=16, patch_size=8, **shared)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=seen.to_dict(), projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    size = {"height": 16, "width": 16}
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=size).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def pickled(folder: Path) -> Path:
    """The same folder with its weights in a pickle."""
    safe = folder / "model.safetensors"
    torch.save(load_file(safe), folder / "pytorch_model.bin")
    safe.unlink()
    return folder


def features(kind: str, folder: Path, **consent: Any) -> np.ndarray:
    if kind == "clap":
        return clap_audio(CLIP, str(folder), **consent)
    return clip_frames(CLIP.video, str(folder), **consent)


@pytest.mark.parametrize(("kind", "make"), [("clap", clap_folder), ("clip", clip_folder)])
def test_clap_and_clip_are_safetensors_unless_agreed_otherwise(kind: str, make: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    safe = make(tmp_path / "safe")
    Extractor(**{kind: str(safe)}).check()
    expected = features(kind, safe)
    assert np.linalg.norm(expected, axis=-1) == pytest.approx(np.ones(len(expected)), abs=1e-5)
    assert text_features(["a metal bowl"], str(safe)).shape == (1, 8)
    pickle = pickled(shutil.copytree(safe, tmp_path / "pickle"))
    with pytest.raises(
        RequestError, match=r"has only pickled weights \(pytorch_model\.bin\).*--allow-pickle"
    ):
        Extractor(**{kind: str(pickle)}).check()
    Extractor(**{kind: str(pickle), "allow_pickle": True}).check()
    np.testing.assert_allclose(features(kind, pickle, allow_pickle=True), expected, atol=1e-6)


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "clip")
    with pytest.raises(RequestError, match=r"clip' is a CLIPModel; it must be a CLAP model"):
        Extractor(clap=str(folder)).check()


def test_the_command_passes_consent_on(script: Path, tmp_path: Path) -> None:
    def refusal(*options: str) -> str:
        result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "no"), *options])
        assert result.exit_code == 2
        return result.stderr

    folder = pickled(clip_folder(tmp_path / "clip"))
    captions = tmp_path / "captions.csv"
    captions.write_text("file,caption\n0.mp4,a bowl\n")
    clip = ["--metrics", "clip", "--clip", str(folder), "--captions", str(captions)]
    desync = ["--metrics", "desync", "--synchformer", str(script)]
    assert "--allow-pickle" in refusal(*clip)
    assert "no' is not a folder" in refusal(*clip, "--allow-pickle")
    assert "--allow-torchscript" in refusal(*desync)
    assert "no' is not a folder" in refusal(*desync, "--allow-torchscript")

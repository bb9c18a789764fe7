"""The authors' folder becomes a bundle that makes the same predictions; what is not theirs is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import tiny
from kinetophone import Kinetophone
from kinetophone.av import AV
from kinetophone.cli import app
from kinetophone.convert import convert_reference
from kinetophone.errors import RequestError
from kinetophone.joint import reference
from kinetophone.joint.coupling import Coupling
from kinetophone.joint.model import JointModel

SETTINGS = {"connector_in_type": "additive", "connector_channel": 32, "channel_mult_connector": [1]}
SETTINGS |= {"num_blocks_connector": [1], "with_connector": [False, True], "attention_head_dim": 8}


def published(root: Path, inner: bool = False) -> tuple[AV[Any], Coupling]:
    """Write a folder like theirs, weights in pickles; ``inner`` puts the U-Nets' into ``unet_svg``."""
    torch.manual_seed(0)
    parts = AV(audio=tiny.audioldm(), video=tiny.animatediff())
    unets = parts.map(lambda components: components["unet"])
    coupling = reference.coupling_for(unets, SETTINGS)
    with torch.no_grad():
        for parameter in coupling.parameters():
            parameter.normal_(0, 0.1)
    for letter, components in (("a", parts.audio), ("v", parts.video)):
        for name, component in components.items():
            folder = root / f"{name}_{letter}"
            component.save_pretrained(folder)
            for weights in folder.glob("*.safetensors"):
                weights.unlink()
                stem = "pytorch_model" if name in ("vocoder", "text_encoder") else "diffusion_pytorch_model"
                torch.save(component.state_dict(), folder / f"{stem}.bin")
    joint = dict(coupling.state_dict())
    if inner:
        for letter in "av":
            file = next((root / f"unet_{letter}").glob("*.bin"))
            joint |= {f"unet_{letter}.{k}": v for k, v in torch.load(file, weights_only=True).items()}
            file.unlink()
    (root / "unet_svg").mkdir()
    (root / "unet_svg" / "config.json").write_text(json.dumps(SETTINGS))
    torch.save(joint, root / "unet_svg" / "diffusion_pytorch_model.bin")
    return unets, coupling


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AV[Any], Coupling]:
    root = tmp_path_factory.mktemp("theirs")
    return root, *published(root)


@pytest.fixture
def copy(theirs, tmp_path: Path) -> Path:
    return shutil.copytree(theirs[0], tmp_path / "theirs")


def predictions(unets: AV[Any], coupling: Coupling) -> AV[torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    latents = AV(torch.randn(1, 8, 8, 16, generator=g), torch.randn(1, 4, 3, 4, 4, generator=g))
    t = AV.both(torch.tensor([500]))
    text = AV(torch.randn(1, 12, generator=g), torch.randn(1, 8, 16, generator=g))
    model = JointModel(unets.map(lambda unet: unet.eval()), coupling.eval())
    with torch.no_grad():
        result = model(latents, t, text, model.features(latents, t, None))
    model.detach()
    return result


@pytest.mark.parametrize("inner", [False, True])
def test_the_bundle_predicts_what_theirs_does(tmp_path: Path, inner: bool) -> None:
    unets, coupling = published(tmp_path / "theirs", inner)
    out = convert_reference(tmp_path / "theirs", tmp_path / "ours", allow_pickle=True)
    pipe = Kinetophone.from_pretrained(out, device="cpu")
    assert pipe.spec.sampling == "reference"
    assert pipe.spec.defaults["steps"] == 50
    assert pipe.coupling.config.feature_norm == pipe.coupling.config.temporal_norm == "time"
    expected = predictions(unets, coupling)
    pipe.model.detach()
    ours = predictions(pipe.bases.map(lambda base: base.unet), pipe.coupling)
    for modality in ("audio", "video"):
        torch.testing.assert_close(getattr(ours, modality), getattr(expected, modality), rtol=0, atol=1e-5)
    assert not [f for f in out.rglob("*") if f.suffix == ".bin"]


def test_what_their_folder_lacks_comes_from_the_bases(copy: Path, tmp_path: Path) -> None:
    for component in ("vae_v", "tokenizer_v", "vocoder_a"):
        shutil.rmtree(copy / component)
    models = tiny.save_all(tmp_path / "models")
    out = convert_reference(
        copy,
        tmp_path / "ours",
        audio_base=models / "audioldm",
        video_base=models / "image",
        motion_adapter=models / "adapter",
        allow_pickle=True,
    )
    pipe = Kinetophone.from_pretrained(out, device="cpu")
    assert pipe.bases.video.scheduler.config.beta_schedule == "linear"


def test_pickles_only_when_asked_for(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"unet_svg' has only pickled weights .*\(--allow-pickle\)"):
        convert_reference(copy, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_a_pickle_with_code_in_it_is_not_run(copy: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"x": Trap()}, copy / "unet_svg" / "diffusion_pytorch_model.bin")
    with pytest.raises(RequestError, match=r"model\.bin' is damaged or holds more than tensors"):
        convert_reference(copy, tmp_path / "ours", allow_pickle=True)
    assert not (tmp_path / "sprung").exists()


def test_names_and_shapes_that_differ_are_listed(copy: Path, tmp_path: Path) -> None:
    file = copy / "unet_svg" / "diffusion_pytorch_model.bin"
    tensors = torch.load(file, weights_only=True)
    names = sorted(tensors)
    del tensors[names[0]]
    tensors["stranger"] = torch.zeros(1)
    tensors[names[1]] = torch.zeros(3)
    torch.save(tensors, file)
    with pytest.raises(RequestError) as caught:
        convert_reference(copy, tmp_path / "ours", allow_pickle=True)
    lacks, surplus, shape = caught.value.problems
    assert f"lacks 1 tensors: {names[0]}" in lacks
    assert "has, without a place for them, 1 tensors: stranger" in surplus
    assert f"has in another shape 1 tensors: {names[1]} (3,), expected" in shape


def test_folders_that_are_not_theirs(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RequestError, match="is not the authors' pipeline folder: it holds no folder unet_svg"
    ):
        convert_reference(tmp_path, tmp_path / "ours")
    (copy / "unet_svg" / "config.json").write_text(json.dumps(SETTINGS | {"connector_in_type": "telepathy"}))
    with pytest.raises(RequestError, match="connector_in_type is 'telepathy', not one of 'additive', 'attn'"):
        convert_reference(copy, tmp_path / "ours", allow_pickle=True)
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "kinetophone.json").write_text("{}")
    with pytest.raises(RequestError, match="holds a bundle already: name another folder"):
        convert_reference(copy, tmp_path / "ours", allow_pickle=True)


def test_the_command(copy: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    refused = runner.invoke(app, ["convert", "reference", str(copy), str(tmp_path / "ours")])
    assert refused.exit_code == 2
    assert "has only pickled weights" in refused.output
    made = runner.invoke(app, ["convert", "reference", str(copy), str(tmp_path / "ours"), "--allow-pickle"])
    assert made.exit_code == 0, made.output
    assert (tmp_path / "ours" / "coupling" / "config.json").is_file()

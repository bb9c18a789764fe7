"""The authors' folder becomes a bundle that makes the same predictions; what is not theirs is refused."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import release
import tiny
from kinetophone import Kinetophone
from kinetophone.av import AV
from kinetophone.cli import app
from kinetophone.coupling.coupling import Coupling
from kinetophone.errors import RequestError
from kinetophone.reference import golden
from kinetophone.reference import settings as reference
from kinetophone.reference.convert import convert_reference, find_release

SHARED = Path(__file__).parents[2] / ".." / "shared" / "release-layout"
GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Coupling]:
    root = tmp_path_factory.mktemp("release") / "theirs"
    return root, release.make(root)


@pytest.fixture
def copy(theirs: tuple[Path, Coupling], tmp_path: Path) -> Path:
    return shutil.copytree(theirs[0], tmp_path / "theirs")


def same_weights(ours: Any, theirs: Any, atol: float = 0.0) -> None:
    expected = theirs.state_dict()
    state = ours.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=atol)


@pytest.mark.parametrize("kind", ["additive", "attn"])
@pytest.mark.parametrize("family", ["animatediff", "unet3d"])
def test_both_couplings_and_both_video_families(tmp_path: Path, kind: str, family: str) -> None:
    coupling = release.make(tmp_path / "theirs", kind, family, gamma=2.0)
    out = tmp_path / "ours"
    convert_reference(tmp_path / "theirs", out, allow_pickle=True)
    pipe = Kinetophone.from_pretrained(out, device="cpu")
    same_weights(pipe.coupling, coupling)
    assert pipe.coupling.config.feature_norm == pipe.coupling.config.temporal_norm == "time"
    assert pipe.spec.sampling == "reference"
    assert (pipe.spec.defaults["steps"], pipe.spec.defaults["gamma"]) == (50, 2.0)
    written = json.loads((out / "video" / "scheduler" / "scheduler_config.json").read_text())
    assert written["_class_name"] == "DDIMScheduler"
    assert not written.keys() & {"gamma", "skip_prk_steps"}
    assert not [file for file in out.rglob("*") if file.suffix == ".bin"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "theirs"]
    if (kind, family) == ("attn", "unet3d"):  # the other pairing is sampled below, by the command
        object.__setattr__(pipe.spec, "size", 64)  # of the 256 pixels that a release has
        (clip,) = pipe(["a drumstick hits a metal bowl"], seconds=0.5, steps=1)
        assert clip.audio.shape == (8000,)


@pytest.mark.parametrize("layout", [{"inner": True}, {"flat": True}, {"dtype": torch.float16}], ids=str)
def test_other_ways_to_keep_the_weights(tmp_path: Path, layout: dict[str, Any]) -> None:
    coupling = release.make(tmp_path / "theirs", **layout)
    convert_reference(tmp_path / "theirs", tmp_path / "ours", allow_pickle=True)
    pipe = Kinetophone.from_pretrained(tmp_path / "ours", device="cpu")
    same_weights(pipe.coupling, coupling, atol=1e-3 if "dtype" in layout else 0)
    torch.manual_seed(0)
    same_weights(pipe.bases.audio.unet, tiny.audioldm()["unet"], atol=1e-3 if "dtype" in layout else 0)


@pytest.mark.parametrize(
    "case", ["motion-additive-x_pred", "3d-attn-x_pred-tcon", "3d-additive-x_cur-tcon-wide"]
)
def test_golden_outputs_through_the_converted_bundle(tmp_path: Path, case: str) -> None:
    made = golden.load_case(GOLDEN, case)
    config = json.loads((GOLDEN / f"{case}.json").read_text())
    rest = AV(audio=tiny.audioldm(32), video=tiny.animatediff())
    clip = type(rest.video["text_encoder"].config)(
        **{**rest.video["text_encoder"].config.to_dict(), "hidden_size": 48}
    )
    schedulers = reference.schedulers()
    parts = AV(
        audio=rest.audio | {"unet": made.networks.audio, "scheduler": schedulers.audio},
        video=rest.video
        | {
            "unet": made.networks.video,
            "scheduler": schedulers.video,
            "text_encoder": type(rest.video["text_encoder"])(clip),
        },
    )
    release.write(tmp_path / "theirs", parts, made.coupling, config["connectors"])
    convert_reference(tmp_path / "theirs", tmp_path / "ours", allow_pickle=True)
    pipe = Kinetophone.from_pretrained(tmp_path / "ours", device="cpu")
    schedulers = pipe.bases.map(lambda base: base.scheduler)
    for file in GOLDEN.glob(f"sample-{case}-gamma*.safetensors"):
        result = golden.check_sampling(GOLDEN, file.stem, pipe.model, schedulers)
        assert result.passed, result
    forward = golden.check_forward(GOLDEN, case, pipe.model)
    assert forward.passed, forward


def test_the_folder_may_be_one_level_down(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    copy.rename(tmp_path / "archive" / "model")
    notes = convert_reference(tmp_path / "archive", tmp_path / "ours", allow_pickle=True)
    assert notes == ["took model"]


@pytest.mark.parametrize("average", ["inside", "beside"])
@pytest.mark.parametrize("ema", [False, True])
def test_checkpoints_and_their_moving_average(
    theirs: tuple[Path, Coupling], copy: Path, tmp_path: Path, average: str, ema: bool
) -> None:
    release.checkpoint(copy, 300, scale=2.0, average=average)
    shutil.rmtree(copy / "unet_svg")
    notes = convert_reference(copy / "checkpoint-300", tmp_path / "ours", ema=ema, allow_pickle=True)
    taken = "took the moving average, unet_ema" if ema else "took the last weights, unet_svg; --ema takes"
    assert any(note.startswith(taken) for note in notes)
    ours = Coupling.from_pretrained(tmp_path / "ours" / "coupling").state_dict()
    for name, tensor in theirs[1].state_dict().items():
        torch.testing.assert_close(ours[name], tensor * (2 if ema else 1))


def test_the_latest_of_several_checkpoints(copy: Path, tmp_path: Path) -> None:
    for step in (900, 1000):
        release.checkpoint(copy, step)
    shutil.rmtree(copy / "unet_svg")
    notes = convert_reference(copy, tmp_path / "ours", allow_pickle=True)
    assert notes[0] == "took checkpoint-1000, one of 2"


def test_a_moving_average_that_is_not_there(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"has no moving average .* leave --ema out"):
        convert_reference(copy, tmp_path / "ours", ema=True, allow_pickle=True)
    release.checkpoint(copy, 300)
    with pytest.raises(RequestError, match=r"has no moving average .* name .*/theirs/checkpoint-300$"):
        convert_reference(copy, tmp_path / "ours", ema=True, allow_pickle=True)


@pytest.mark.parametrize("average", ["inside", "beside"])
def test_the_checkpoints_of_a_run_in_an_archive(copy: Path, tmp_path: Path, average: str) -> None:
    for step in (200, 1000):
        release.checkpoint(copy, step, average=average)
        if average == "beside" and step == 200:
            shutil.rmtree(copy / "unet_ema")
    shutil.rmtree(copy / "unet_svg")
    (tmp_path / "archive").mkdir()
    copy.rename(tmp_path / "archive" / "run")
    found = find_release(tmp_path / "archive")
    assert found.connectors == tmp_path / "archive" / "run" / "checkpoint-1000" / "unet_svg"
    assert found.notes[:2] == ("took run", "took checkpoint-1000, one of 2")
    assert find_release(tmp_path / "archive", ema=True).connectors.name == "unet_ema"


ONE_AFTER_ANOTHER = """
import json, sys
from kinetophone.cli import app
for command in json.loads(sys.argv[1]):
    app(command, standalone_mode=False)
    for stream in (sys.stdout, sys.stderr):
        print("--", file=stream, flush=True)
"""


def test_the_layout_that_the_published_pipeline_writes(tmp_path: Path) -> None:
    if not SHARED.is_dir():
        pytest.skip("the published layout (../shared/release-layout) is not on this machine")
    fill = runpy.run_path(str(SHARED / "fill.py"))["fill"]
    fill(SHARED / "motion-cmc-pe", tmp_path / "release")
    clip = tmp_path / "clip.mp4"
    short = ["--steps", "1", "--seconds", "0.25", "-o", clip, "--device", "cpu"]
    commands = [
        ["convert", "reference", tmp_path / "release", tmp_path / "ours", "--allow-pickle"],
        ["generate", "a dog barks", "--bundle", tmp_path / "ours", *short],
    ]
    # In a process of its own: what libraries say goes to its stderr, whoever writes it.
    texts = json.dumps([[str(word) for word in command] for command in commands])
    done = subprocess.run([sys.executable, "-c", ONE_AFTER_ANOTHER, texts], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "ours"), "--", str(clip), "--"]
    converting, generating, _ = done.stderr.split("--\n")
    assert converting == ""
    assert clip.is_file()
    assert "warn" not in generating.lower()
    assert "hifigan" not in generating


def test_what_their_folder_lacks_comes_from_the_bases(copy: Path, models: Path, tmp_path: Path) -> None:
    for component in ("vae_v", "tokenizer_v", "vocoder"):
        shutil.rmtree(copy / component)
    notes = convert_reference(
        copy,
        tmp_path / "ours",
        audio_base=models / "audioldm",
        video_base=models / "image",
        motion_adapter=models / "adapter",
        allow_pickle=True,
    )
    assert notes == [
        f"took vocoder of the audio base from '{models / 'audioldm'}'",
        f"took vae, tokenizer of the video base from '{models / 'image'}'",
    ]
    pipe = Kinetophone.from_pretrained(tmp_path / "ours", device="cpu")
    assert pipe.bases.audio.vocoder.config.model_in_dim == 64


def test_nothing_is_left_of_a_conversion_that_fails(copy: Path, tmp_path: Path) -> None:
    config = copy / "vae_v" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"latent_channels": 5}))
    with pytest.raises(RequestError):
        convert_reference(copy, tmp_path / "ours", allow_pickle=True)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_pickles_only_when_asked_for(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"unet_svg' has only pickled weights .* --allow-pickle"):
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
    assert "has in addition 1 tensors: stranger" in surplus
    assert f"has in another shape 1 tensors: {names[1]} (3,), expected" in shape


def test_folders_that_are_not_theirs(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is not the authors' pipeline folder: it has no folder unet_svg"):
        convert_reference(tmp_path / "theirs" / "vae_v", tmp_path / "ours")
    (copy / "unet_svg" / "config.json").write_text(json.dumps({"connector_in_type": "telepathy"}))
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

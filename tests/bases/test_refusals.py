"""Pairs that cannot be: each is refused in one clear line, from Python and on the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from kinetophone import Kinetophone
from kinetophone.cli import app
from kinetophone.errors import RequestError
from standin_hub import Elsewhere

PROMPT = "a drumstick hits metal"


@pytest.fixture(scope="module")
def bundle(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coupling of Wan and Stable Audio that names its bases, beside copies of these."""
    root = tmp_path_factory.mktemp("pair")
    for name in ("wan", "stable_audio"):
        shutil.copytree(models / name, root / name)
    torch.manual_seed(0)
    bases: Any = {"video": root / "wan", "audio": root / "stable_audio"}
    Kinetophone.from_bases(**bases, size=32, frames=9, kind="in_place").save_coupling(root / "bundle")
    return root / "bundle"


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """Makes a clip with a bundle in both ways, and returns the line that says why it cannot."""

    def run(bundle: Path | str, **options: Any) -> str:
        with pytest.raises(RequestError) as caught:
            Kinetophone.from_pretrained(bundle)(PROMPT, **options)
        words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        command = ["generate", PROMPT, "-o", str(tmp_path / "out.mp4"), "--bundle", str(bundle), *words]
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 2, done.output
        assert done.stderr.splitlines()[-1] == f"error: {caught.value}"
        assert len(str(caught.value).splitlines()) == 1
        assert not (tmp_path / "out.mp4").exists()
        return str(caught.value)

    return run


def changed(bundle: Path, to: Path, base: str, where: Path | str) -> Path:
    """The same bundle with another base."""
    shutil.copytree(bundle, to)
    file = to / "kinetophone.json"
    content = json.loads(file.read_text())
    content["bases"][base] = {"name": str(where)}
    file.write_text(json.dumps(content))
    return to


def test_the_pair_itself_makes_a_clip(bundle: Path) -> None:
    assert Kinetophone.from_pretrained(bundle)(PROMPT, steps=1)[0].video.shape == (9, 32, 32, 3)


def test_a_base_of_an_unknown_class(bundle: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    other = shutil.copytree(bundle.parent / "wan", tmp_path / "cog")
    config = json.loads((other / "transformer" / "config.json").read_text())
    (other / "transformer" / "config.json").write_text(
        json.dumps({**config, "_class_name": "CogVideoXTransformer3DModel"})
    )
    said = refused(changed(bundle, tmp_path / "bundle", "video", other))
    assert said == (
        f"'{other}' has a CogVideoXTransformer3DModel in transformer/; video bases need UNetMotionModel or "
        "UNet2DConditionModel or UNet3DConditionModel or WanTransformer3DModel"
    )


def test_a_base_for_the_other_modality(bundle: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    said = refused(changed(bundle, tmp_path / "bundle", "audio", bundle.parent / "wan"))
    assert "has a WanTransformer3DModel in transformer/; audio bases need UNet2DConditionModel or" in said


def test_a_coupling_for_other_bases(
    bundle: Path, models: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    said = refused(changed(bundle, tmp_path / "bundle", "video", models / "animatediff"))
    assert said.startswith("the coupling belongs to other bases (the video latents have 4 channels, ")
    assert "the coupling was made for 4 blocks from blocks.0 to blocks.3 of width 48" in said


@pytest.mark.parametrize(
    ("seconds", "nearest"), [(1, "0.8125 and 1.0625"), (0.5, "0.3125 and 0.5625"), (4.5, "4.3125 and 4.5625")]
)
def test_a_length_that_the_autoencoder_cannot_make(
    bundle: Path, refused: Callable[..., str], seconds: float, nearest: str
) -> None:
    said = refused(bundle, seconds=seconds)
    assert said == (
        f"seconds is {seconds:g}; bundle '{bundle}' makes clips of 0.0625 to 600 s, up to 5.0625 s in steps "
        f"of 0.25 s at 16 fps; nearest are {nearest} s"
    )


GATED = """
import sys
from typer.testing import CliRunner
from kinetophone import Kinetophone
from kinetophone.cli import app
from kinetophone.errors import RequestError
bundle, wan = sys.argv[1:]
for load in (
    lambda: Kinetophone.from_pretrained(bundle),
    lambda: Kinetophone.from_bases(video=wan, audio="stability/gated"),
):
    try:
        load()
    except RequestError as error:
        print(error)
done = CliRunner().invoke(app, ["generate", "a drum", "-o", "out.mp4", "--bundle", bundle])
print(done.exit_code, done.stderr.strip())
bases = ["--audio-base", "stability/gated", "--video-base", wan]
done = CliRunner().invoke(app, ["doctor", *bases], env={"COLUMNS": "200"})
print(done.exit_code, *(line for line in done.output.splitlines() if "stability/gated" in line))
"""


def test_gated_weights_without_access(bundle: Path, tmp_path: Path, elsewhere: Elsewhere) -> None:
    shutil.copytree(bundle.parent / "stable_audio", elsewhere.root / "stability" / "gated")
    (elsewhere.root / "stability" / "gated" / ".gated").touch()
    gated = changed(bundle, tmp_path / "bundle", "audio", "stability/gated")
    with elsewhere.online():
        *python, generated, doctor = elsewhere.run(GATED, str(gated), str(bundle.parent / "wan"))
    said = "'stability/gated' is gated: accept its terms on the Hub, then log in with 'hf auth login'"
    assert python == [said, said]
    assert generated == f"2 error: {said}"
    assert doctor.startswith("1 FAIL")
    assert "'stability/gated' is gated" in doctor

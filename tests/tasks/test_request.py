"""What can be asked of a bundle, and how a refusal reads."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from kinetophone.av import AV
from kinetophone.bundle import spec
from kinetophone.bundle.spec import BundleSpec, available_bundles
from kinetophone.errors import RequestError
from kinetophone.media import ClipTime
from kinetophone.tasks.request import GenerateRequest, check_output

CONFIG = {"fps": 8, "frames": 32, "size": 64, "sample_rate": 16_000, "anything": "else"}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def write_bundle(folder: Path, **more: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "kinetophone.json").write_text(json.dumps(CONFIG | more))
    return folder


def test_a_plain_request_gets_the_bundles_time(bundle: Path) -> None:
    one = GenerateRequest(prompts=("a bowl is hit",), bundle=bundle)
    two = GenerateRequest(prompts=("a", "b"), bundle=BundleSpec.read(bundle), seconds=4, fps=8.0)
    assert one.validate() == two.validate() == ClipTime(8, 32, 16_000)


def test_a_gif_faster_than_browsers_play_is_refused_with_the_request(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "fast", fps=60, fps_choices=[50, 60])
    request = GenerateRequest(prompts=("a bowl",), bundle=bundle, output=tmp_path / "a.GIF")
    with pytest.raises(RequestError, match=r"a GIF plays at most 50 fps, the clip has 60; write an \.mp4"):
        request.validate()
    replace(request, fps=50).validate()
    replace(request, output=tmp_path / "a.mp4").validate()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompts": ("",)}, "the prompt is empty; describe what to generate"),
        ({"prompts": (" \n",)}, "the prompt is empty"),
        ({"prompts": ("a bowl", "")}, "prompt 2 is empty"),
        ({"prompts": ()}, "there is no prompt"),
        ({"seconds": 0}, "seconds is 0; it must be a finite number above 0"),
        ({"seconds": -4}, "seconds is -4; it must be"),
        ({"seconds": float("nan")}, "seconds is nan; it must be"),
        ({"seconds": 3}, r"seconds is 3; bundle '.*' makes clips of 4 to 600 s at 8 fps"),
        ({"seconds": 4.03}, r"4\.03 s at 8 fps is 32\.240 frames; 32 frames last 4 s"),
        ({"fps": 24}, r"fps is 24; bundle '.*' makes clips at 8 fps"),
        ({"fps": 0}, "fps is 0; it must be above 0"),
        ({"steps": 0}, "steps is 0; it must be 1 to 1000"),
        ({"stepper": "euler"}, "stepper is 'euler'; it must be ddim or dpmpp_2m or unipc"),
        ({"steps": 1001}, "steps is 1001; it must be 1 to 1000"),
        ({"gamma": 0.0}, "gamma is 0; it must be above 0"),
        ({"gamma": float("inf")}, "gamma is inf; it must be above 0"),
        ({"gamma": "best"}, "gamma is 'best'; it must be a number above 0, or auto"),
        ({"gamma": "auto"}, "bundle '.*' has no automatic γ; find it with: kinetophone gamma "),
        ({"snr_offset": float("nan")}, "snr-offset is nan; it must be finite"),
        ({"snr_offset": 0.0, "gamma": 1.5}, "give gamma or snr-offset, not both"),
        ({"clock": "h4"}, "clock is 'h4'; it must be h3 or equal-shifts"),
        ({"clock": "h3", "gamma": 1.5}, "give gamma or clock, not both"),
        ({"guidance_sync": AV(audio=2.0, video=-1.0)}, "guidance-sync is -1; it must be at least 0"),
        ({"guidance": -1.0}, "guidance is -1; it must be at least 0"),
        ({"guidance": AV(1.0, -0.5)}, r"guidance is -0\.5; it must be at least 0"),
        ({"seed": -1}, "seed is -1; it must be 0 to"),
        ({"output": "clip.avi"}, r"'clip\.avi' has the suffix '\.avi'; a clip can be written as \.mp4"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    bundle: Path, wrong: dict[str, Any], message: str
) -> None:
    own = {name: wrong[name] for name in wrong if name in GenerateRequest.__annotations__}
    options = {name: wrong[name] for name in wrong if name not in own}
    request = GenerateRequest(**{"prompts": ("a bowl is hit",), "bundle": bundle, "options": options} | own)
    with pytest.raises(RequestError, match=f"^{message}") as caught:
        request.validate()
    assert len(caught.value.problems) == 1


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(RequestError) as caught:
        GenerateRequest(
            prompts=("",), bundle="nonesuch", options={"steps": 0, "gamma": -1}, output="clip.avi"
        ).validate()
    assert len(caught.value.problems) == 5


def test_an_unknown_bundle_is_answered_with_those_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spec, "BUNDLES", tmp_path)
    with pytest.raises(RequestError, match=r"unknown bundle 'hit'; available: none in this installation"):
        BundleSpec.read("hit")
    for name in ("hits", "drops"):
        write_bundle(tmp_path / name)
    assert available_bundles() == ["drops", "hits"]
    assert BundleSpec.read("hits").folder == tmp_path / "hits"
    with pytest.raises(
        RequestError, match="unknown bundle 'hit'; available: 'drops', 'hits', or give a folder"
    ):
        BundleSpec.read("hit")
    with pytest.raises(RequestError, match="unknown bundle ''"):
        BundleSpec.read("")


def test_a_description_is_written_and_read_again(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", fps_choices=[8, "25/2"], max_frames=64, sampling="reference")
    spec = BundleSpec.read(folder)
    (folder / "kinetophone.json").unlink()
    spec.write(folder)
    assert BundleSpec.read(folder) == spec


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"fps": 0, "frames": 32, "size": 64, "sample_rate": 16000}',
        '{"fps": 8, "frames": 32, "size": 64, "sample_rate": 16000, "sampling": "uphill"}',
    ],
)
def test_a_bundle_with_a_bad_description(tmp_path: Path, text: str) -> None:
    (tmp_path / "kinetophone.json").write_text(text)
    with pytest.raises(RequestError, match=r"kinetophone\.json' is not a bundle's description"):
        BundleSpec.read(tmp_path)


def test_a_bundle_can_allow_more_lengths_and_rates(tmp_path: Path) -> None:
    spec = BundleSpec.read(
        write_bundle(tmp_path / "b", fps_choices=[8, 12.5], min_frames=16, max_frames=64, frame_step=8)
    )
    assert spec.time(3) == ClipTime(8, 24)
    assert spec.time(fps=12.5) == ClipTime(Fraction(25, 2), 32)
    with pytest.raises(
        RequestError, match=r"seconds is 2\.5; .* of 2 to 600 s, up to 8 s in steps of 1 s at 8 fps"
    ):
        spec.time(2.5)
    with pytest.raises(RequestError, match=r"fps is 30; .* makes clips at 8, 12\.5 fps"):
        spec.time(fps=30)


def test_gamma_auto_is_the_bundles_own(tmp_path: Path) -> None:
    spec = BundleSpec.read(write_bundle(tmp_path / "b", auto_gamma=0.8))
    assert (spec.gamma("auto"), spec.gamma(2)) == (0.8, 2.0)
    GenerateRequest(prompts=("a",), bundle=spec, options={"gamma": "auto"}).validate()
    assert spec.settings({"gamma": "auto"}).gamma == 0.8
    assert spec.settings({"gamma": "auto"}).snr_offset is None
    assert spec.settings({"clock": "h3"}).snr_offset == pytest.approx(-2.7726, abs=1e-4)
    spec.write(tmp_path / "b")
    assert BundleSpec.read(tmp_path / "b").auto_gamma == 0.8


def test_outputs_that_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("clip.mp4", "new/folder/clip.wav", tmp_path / "clip.GIF"):
        check_output(path)
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(NotADirectoryError, match=r"cannot be written: '.*file' is a file, not a folder"):
        check_output(tmp_path / "file" / "clip.mp4")
    with pytest.raises(IsADirectoryError, match=r"folder\.mp4' is a folder; name a file in it"):
        check_output(tmp_path / "folder.mp4")


def test_a_folder_nothing_can_be_written_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("kinetophone.tasks.request.tempfile.TemporaryFile", refuse)
    with pytest.raises(
        PermissionError,
        match=r"cannot be written: '.*' is not writable \(Permission denied\); choose another",
    ):
        check_output(tmp_path / "clip.mp4")

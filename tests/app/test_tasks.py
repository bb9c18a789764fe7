"""Requests as data: what is refused, what is saved, and that it loads back; the strip of a result."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kinetophone import Kinetophone
from kinetophone.app.tasks import Settings, Step, measure, perform
from kinetophone.app.uploads import Limits
from kinetophone.app.view import preview_html, progress_html, result_html
from kinetophone.av import AV
from kinetophone.errors import RequestError
from kinetophone.media import Clip
from kinetophone.media.read import read_clip

MakeClip = Callable[..., Clip]


@pytest.fixture(scope="module")
def pipe() -> Kinetophone:
    return Kinetophone.from_pretrained("hits", device="cpu")


def test_a_result_has_its_files_and_its_settings_make_it_again(pipe: Kinetophone, tmp_path: Path) -> None:
    asked = Settings.of(
        {
            "task": "generate",
            "prompt": "a drum",
            "seed": 3,
            "steps": "3",
            "gamma": "0.6",
            "guidance_sync": "6,4",
            "negative_prompt": "",
        }
    )
    steps: list[Step] = []
    made = perform(pipe, asked, None, Limits(), tmp_path, steps.append)
    assert [file.name for file in made.files] == ["clip.mp4", "clip.wav", "settings.json"]
    assert read_clip(made.files[0]).time == made.clip.time
    assert [(step.step, step.steps) for step in steps] == [(1, 3), (2, 3), (3, 3)]
    preview = steps[1].preview
    assert preview is not None
    assert preview.video.shape == (8, 64, 64, 3)
    assert preview.audio.shape[1] == 64
    assert "step 2 of 3" in progress_html(steps[1], preview_html(preview))
    saved = Settings.read(made.files[2], "generate")
    assert json.loads(made.files[2].read_text())["bundle"] == "hits"
    assert (saved.gamma, saved.guidance_sync) == (0.6, "6,4"), "as the page shows them"
    assert saved.options["guidance_sync"] == AV(6.0, 4.0)
    (tmp_path / "again").mkdir()
    again = perform(pipe, saved, None, Limits(), tmp_path / "again", lambda step: None)
    np.testing.assert_array_equal(again.clip.video, made.clip.video)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"task": "generate", "prompt": " "}, "the prompt is empty"),
        ({"task": "generate", "prompt": "a", "seconds": 31}, "seconds is 31; this server allows at most 30"),
        ({"task": "generate", "prompt": "a", "steps": 0}, "steps is 0"),
        ({"task": "sound", "prompt": "a"}, "there is no file; upload a video first"),
        ({"task": "picture", "prompt": "a", "guidance_sync": -1}, "guidance-sync is -1"),
        ({"task": "picture", "prompt": "a", "guidance_sync": "6,-4"}, "guidance-sync is -4"),
        ({"task": "generate", "prompt": "a", "gamma": "best"}, "gamma is 'best'; it must be .* or auto"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_computed(
    pipe: Kinetophone, tmp_path: Path, values: dict[str, object], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        perform(pipe, Settings.of(values), None, Limits(), tmp_path, pytest.fail)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"guidance_sync": "6,4,2"},
            r"^guidance_sync: '6,4,2' must be a number, or two for audio and video",
        ),
        ({"guidance": "auto"}, "^guidance: 'auto' must be a number, or two"),
    ],
)
def test_settings_of_the_wrong_kind_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Settings.of({"task": "generate", "prompt": "a", **values})


def test_gamma_auto_is_the_bundles_or_says_how_to_find_it(
    pipe: Kinetophone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clip(gamma: object) -> Clip:
        settings = Settings.of({"task": "generate", "prompt": "a drum", "steps": 2, "gamma": gamma})
        return perform(pipe, settings, None, Limits(), tmp_path, lambda step: None).clip

    monkeypatch.setattr(pipe, "spec", replace(pipe.spec, auto_gamma=None))
    with pytest.raises(RequestError, match="has no automatic γ; find it with: kinetophone gamma hits"):
        clip("auto")
    monkeypatch.setattr(pipe, "spec", replace(pipe.spec, auto_gamma=3.0))
    np.testing.assert_array_equal(clip("auto").video, clip(3).video)
    assert not np.array_equal(clip("auto").video, clip("").video), "empty is the bundle's default"


def test_every_task_with_a_file_keeps_what_it_was_given(
    pipe: Kinetophone, make_struck_clip: MakeClip, tmp_path: Path
) -> None:
    own = make_struck_clip([1.0], size=64)
    video_file, sound = own.save(tmp_path / "own.mp4"), own.save(tmp_path / "own.wav")

    def result(task: str, upload: Path, **more: object) -> Clip:
        settings = Settings.of({"task": task, "prompt": "a drum", "steps": 1, **more})
        return perform(pipe, settings, upload, Limits(), tmp_path, lambda step: None).clip

    given = read_clip(video_file)
    np.testing.assert_array_equal(result("sound", video_file).video, given.video)
    np.testing.assert_allclose(result("picture", sound).audio, own.audio, atol=1e-4)
    longer = result("extend", video_file, seconds=6, keep="0-1, 2-3")
    assert longer.duration_s == 6
    np.testing.assert_array_equal(longer.video[16:24], given.video[16:24])
    with pytest.raises(RequestError, match="seconds is missing"):
        result("extend", video_file)


def test_saved_settings_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    for content, message in {
        "no json": "'s.json' does not hold saved settings",
        '{"task": "sound", "prompt": "a"}': "has settings of 'sound': load them in that tab",
        '{"task": "generate", "prompt": "a", "stpes": 2, "seed": "x"}': "seed: .*\nstpes: extra inputs",
    }.items():
        file.write_text(content)
        with pytest.raises(RequestError, match=message):
            Settings.read(file, "generate")


def test_the_strip_of_a_clip_shows_its_matches(make_struck_clip: MakeClip) -> None:
    clip = make_struck_clip([0.5, 2.0], size=64)
    found = measure(clip, "the clip")
    page = result_html(clip, found, "strikes")
    assert page.count("<image") == 12
    assert "event F1 1.00" in page
    assert "2 matches within one frame of 2" in page
    silent = Clip(clip.video, clip.fps, np.zeros_like(clip.audio), clip.sample_rate)
    with pytest.raises(RequestError, match=r"x\.mp4 cannot be measured: the audio is silent"):
        measure(silent, "x.mp4")

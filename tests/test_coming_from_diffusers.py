"""What somebody used to diffusers tries first works, or says what to write instead."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.utils import export_to_video
from PIL import Image

from kinetophone import Kinetophone, UnknownWordsWarning
from kinetophone.errors import RequestError
from kinetophone.media.clip import Clip
from kinetophone.media.images import as_image
from kinetophone.media.read import read_video
from kinetophone.media.timing import ClipTime
from kinetophone.tasks.request import Script

COLOUR = (200, 100, 50)


@pytest.fixture(scope="module")
def pipe() -> Kinetophone:
    return Kinetophone.from_pretrained("hits", device="cpu")


PROMPT = "a drumstick hits a drum"
CLIP = Clip(np.zeros((8, 48, 64, 3), np.uint8), 8, np.zeros(16000, np.float32))
# Each task as somebody calls it who has only read that there is one.
CALLS: dict[str, Callable[..., Any]] = {
    "a call": lambda pipe, **options: pipe(prompt=PROMPT, **options),
    "stream": lambda pipe, **options: list(pipe.stream(PROMPT, seconds=4, **options)),
    "audio": lambda pipe, **options: pipe.audio(PROMPT, **options),
    "sound": lambda pipe, **options: pipe.sound(CLIP, PROMPT, **options),
    "picture": lambda pipe, **options: pipe.picture(CLIP, PROMPT, **options),
    "animate": lambda pipe, **options: pipe.animate(CLIP.video[0], PROMPT, **options),
    "extend": lambda pipe, **options: pipe.extend(CLIP, PROMPT, seconds=4, **options),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    ("option", "value", "instead"),
    [
        ("num_inference_steps", 1, "use steps"),
        ("guidance_scale", 7.5, "use guidance, a number or AV"),
        ("generator", torch.Generator().manual_seed(3), "use seed"),
        ("num_videos_per_prompt", 2, "use a list of prompts"),
        ("stepps", 1, "choose from steps, stepper, gamma"),
    ],
)
def test_options_of_other_names_say_what_they_are_called_here(
    pipe: Kinetophone, call: Callable[..., Any], option: str, value: Any, instead: str
) -> None:
    with pytest.raises(RequestError, match=f"there is no option {option}.*{instead}"):
        call(pipe, **{option: value})


@pytest.mark.parametrize("fps", [8, "30000/1001", 12.5, Fraction(1_234_567, 50_001)])
def test_export_to_video_takes_frames_and_rate_of_a_clip(fps: Any, tmp_path: Path) -> None:
    grey = np.arange(0, 200, 20, dtype=np.uint8)
    frames = np.broadcast_to(grey[:, None, None, None], (10, 48, 64, 3))
    clip = Clip(frames, fps, np.zeros(ClipTime(fps, 10).samples, np.float32))
    file = export_to_video(clip.frames, str(tmp_path / "clip.mp4"), fps=clip.fps)
    found = read_video(file)
    assert len(found.frames) == 10
    assert float(found.fps) == pytest.approx(clip.fps, rel=1e-3)
    assert np.abs(found.frames.mean((1, 2, 3)) - grey).max() < 8


LOAD = """
from kinetophone import Kinetophone, UnknownWordsWarning
Kinetophone.from_pretrained("hits", device="cpu")
"""


def test_loading_a_bundle_says_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_bars_are_configured_as_in_diffusers(
    pipe: Kinetophone, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe, "_bar_config", {})
    pipe.set_progress_bar_config(desc="drums", disable=False, leave=True)
    pipe(PROMPT, steps=1)
    pipe.sound(CLIP, PROMPT, steps=1)
    bars = capsys.readouterr().err.split("\n")
    assert ["drums: 100%" in bar for bar in bars] == [True, True, False]
    pipe(PROMPT, steps=1, progress=False)
    pipe.set_progress_bar_config(disable=True)
    pipe(PROMPT, steps=1)
    assert capsys.readouterr().err == ""
    pipe(PROMPT, steps=1, progress=True)
    assert "denoising: 100%" in capsys.readouterr().err
    with pytest.raises(RequestError, match="there is no option hide of progress bars; choose from"):
        pipe.set_progress_bar_config(hide=True)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_words_that_a_bundle_has_never_seen_are_said_once(
    pipe: Kinetophone, call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "PROMPT", "A dog taps a Drum, the cat TAP-taps 狗!")
    with pytest.warns(UnknownWordsWarning) as said:
        call(pipe, steps=1)
    words = "dog, the, cat, TAP, 狗"
    assert [str(warning.message) for warning in said] == [
        f"bundle 'hits' has never seen these words of the prompt: {words}"
    ]
    assert said[0].filename == __file__  # the line of the caller, not one of the package


def test_many_words_that_a_bundle_has_never_seen_are_counted(pipe: Kinetophone) -> None:
    texts = [
        " ".join(f"word{chr(97 + i)}" for i in range(8)),
        "a drum",
        Script(((0, "a dog"), (2, "a dog cat bird"))),
    ]
    with pytest.warns(UnknownWordsWarning, match=r": worda, .*, wordh, dog, cat and 1 more$"):
        pipe(texts, steps=1)


def test_numbers_of_numpy_are_numbers(pipe: Kinetophone) -> None:
    plain = pipe(prompt=PROMPT, steps=1, seed=3)[0]
    numpy = pipe(prompt=PROMPT, steps=np.int32(1), seed=np.int64(3))[0]  # type: ignore[arg-type]
    assert np.array_equal(plain.video, numpy.video)
    assert np.array_equal(plain.audio, numpy.audio)


def test_a_clip_is_what_a_task_is_given(pipe: Kinetophone) -> None:
    clip = pipe(PROMPT, steps=1)[0]
    assert np.array_equal(pipe.sound(clip, "a drum", steps=1).video, clip.video)
    assert np.array_equal(pipe.picture(clip, "a drum", steps=1).audio, clip.audio)


def test_a_pipeline_and_a_clip_say_what_they_are(pipe: Kinetophone) -> None:
    assert type(pipe.components["video.unet"]).__name__ == "UNetMotionModel"
    assert "audio.vocoder: SpeechT5HifiGan" in repr(pipe)
    assert repr(CLIP) == "Clip(8 frames of 64 × 48 at 8 fps, 1 s, audio at 16000 Hz)"
    assert CLIP._repr_html_().startswith('<video controls src="data:video/mp4;base64,AAAA')
    assert [frame.size for frame in CLIP.frames] == [(64, 48)] * 8


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGB", (4, 2), COLOUR),
        Image.new("RGBA", (4, 2), (*COLOUR, 255)),
        np.full((2, 4, 3), COLOUR, np.uint8),
        np.full((2, 4, 3), COLOUR, np.float32) / 255,
        np.full((2, 4, 4), (*COLOUR, 255), np.uint8),
    ],
    ids=["PIL", "PIL with alpha", "uint8", "floats", "array with alpha"],
)
def test_an_image_may_come_in_any_form(image: Any) -> None:
    found = as_image(image)
    assert found.dtype == np.uint8
    assert found.tolist() == [[list(COLOUR)] * 4] * 2


def test_grey_is_all_three_colours_and_what_is_transparent_is_black() -> None:
    assert as_image(np.full((2, 2), 0.2)).tolist() == [[[51] * 3] * 2] * 2
    assert as_image(Image.new("L", (1, 1), 9)).tolist() == [[[9] * 3]]
    assert as_image(Image.new("RGBA", (1, 1), (9, 9, 9, 0))).tolist() == [[[0] * 3]]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((2, 2, 2), np.uint8), r"has shape \(2, 2, 2\)"),
        (np.zeros((0, 2, 3), np.uint8), "has shape"),
        (np.zeros((2, 2, 3), np.int64), "is int64; it must be uint8, or floats"),
        (np.full((2, 2, 3), 200.0), "values from 200 to 200; floats must be 0 to 1"),
        (np.full((2, 2, 3), np.nan), "floats must be 0 to 1"),
        (Image.new("I;16", (2, 2)), "has the mode I;16; convert it to RGB"),
    ],
)
def test_what_is_no_image_is_refused(image: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        as_image(image)

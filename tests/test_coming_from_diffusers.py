"""What somebody used to diffusers tries first works, or says what to write instead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from kinetophone import Kinetophone
from kinetophone.errors import RequestError
from kinetophone.media.clip import Clip
from kinetophone.media.images import as_image

COLOUR = (200, 100, 50)


@pytest.fixture(scope="module")
def pipe() -> Kinetophone:
    return Kinetophone.from_pretrained("hits", device="cpu")


@pytest.mark.parametrize(
    ("option", "instead"),
    [
        ("num_inference_steps", "use steps"),
        ("guidance_scale", "use guidance, a number or AV"),
        ("generator", "use seed"),
        ("num_videos_per_prompt", "use a list of prompts"),
        ("stepps", "there are steps, stepper, gamma"),
    ],
)
def test_options_of_other_names_say_what_they_are_called_here(
    pipe: Kinetophone, option: str, instead: str
) -> None:
    with pytest.raises(RequestError, match=f"there is no option {option}.*{instead}"):
        pipe(prompt="a drumstick hits a drum", **{option: 1})  # type: ignore[call-overload,misc]


def test_numbers_of_numpy_are_numbers(pipe: Kinetophone) -> None:
    plain = pipe(prompt="a drumstick hits a drum", steps=1, seed=3)[0]
    numpy = pipe(prompt="a drumstick hits a drum", steps=np.int32(1), seed=np.int64(3))[0]  # type: ignore[arg-type]
    assert np.array_equal(plain.video, numpy.video)
    assert np.array_equal(plain.audio, numpy.audio)


def test_a_clip_is_what_a_task_is_given(pipe: Kinetophone) -> None:
    clip = pipe("a drumstick hits a drum", steps=1)[0]
    assert np.array_equal(pipe.sound(clip, "a drum", steps=1).video, clip.video)
    assert np.array_equal(pipe.picture(clip, "a drum", steps=1).audio, clip.audio)


def test_a_pipeline_and_a_clip_say_what_they_are(pipe: Kinetophone) -> None:
    assert type(pipe.components["video.unet"]).__name__ == "UNetMotionModel"
    assert "audio.vocoder: SpeechT5HifiGan" in repr(pipe)
    clip = Clip(np.zeros((8, 48, 64, 3), np.uint8), 8, np.zeros(16000, np.float32))
    assert repr(clip) == "Clip(8 frames of 64 × 48 at 8 fps, 1 s, audio at 16000 Hz)"
    assert clip._repr_html_().startswith('<video controls src="data:video/mp4;base64,AAAA')
    assert [frame.size for frame in clip.frames] == [(64, 48)] * 8


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

"""The shipped bundle through the public calls: same seed, same clip; lengths; errors before any compute."""

import numpy as np
import pytest

from kinetophone import Kinetophone
from kinetophone.errors import RequestError
from kinetophone.media.read import read_clip
from kinetophone.request import BUNDLES

PROMPTS = ("a drumstick hits a metal bowl three times", "a mallet taps a yellow cushion")


@pytest.fixture(scope="module")
def pipe():
    return Kinetophone.from_pretrained("hits", device="cpu")


def test_a_clip_and_its_file_have_the_promised_lengths(pipe, tmp_path):
    clip = pipe(PROMPTS[0], steps=2)[0]
    assert clip.video.shape == (32, 64, 64, 3)
    assert clip.audio.shape == (64_000,)
    read = read_clip(clip.save(tmp_path / "clip.mp4"))
    assert read.video.shape == clip.video.shape
    assert read.audio.shape == clip.audio.shape


def test_same_seed_same_clip_and_a_batch_gives_what_single_runs_give(pipe):
    batch = pipe(PROMPTS, steps=2, seed=5)
    again = pipe(PROMPTS, steps=2, seed=5)
    single = pipe(PROMPTS[1], steps=2, seed=6)[0]
    for one, two in zip(batch, again, strict=True):
        np.testing.assert_array_equal(one.video, two.video)
        np.testing.assert_array_equal(one.audio, two.audio)
    # Sums in another order: equal to rounding, which 8 bits may show as one level.
    assert np.abs(batch[1].video.astype(int) - single.video).max() <= 1
    np.testing.assert_allclose(batch[1].audio, single.audio, atol=1e-3)
    other = pipe(PROMPTS[1], steps=2, seed=7)[0]
    assert np.abs(batch[1].video.astype(int) - other.video).mean() > 1


def test_the_coupling_changes_both_modalities(pipe):
    joint, apart = (pipe(PROMPTS[0], steps=3, coupled=c)[0] for c in (True, False))
    assert np.abs(joint.video.astype(int) - apart.video).mean() > 0.5
    assert np.abs(joint.audio - apart.audio).max() > 1e-3


def test_the_networks_learn_nothing_while_sampling(pipe):
    assert not any(p.requires_grad for p in pipe.model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seconds": 3}, "makes clips of 4 s"),
        ({"fps": 25}, "makes clips at 8 fps"),
        ({"gamma": -1}, "gamma is -1; it must be above 0"),
        ({"guidance_video": -0.5}, r"guidance-video is -0\.5; it must be at least 0"),
        ({"steps": 0}, "steps is 0; it must be 1 to 1000"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(pipe, options, message):
    with pytest.raises(RequestError, match=message):
        pipe(PROMPTS[0], **options)


def test_the_bundle_is_small_and_safe():
    files = [f for f in (BUNDLES / "hits").rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 40e6
    assert all(f.stat().st_size <= 16e6 for f in files)
    assert {f.suffix for f in files} <= {".safetensors", ".json", ".txt", ".md"}

"""The world at 16 frames a second: what its captions say is true, and the held-out wording is held out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinetophone.hits.sixteen import (
    FRAMES,
    HELD_OUT,
    SAMPLE_RATE,
    SECONDS,
    TRAINING,
    captions_of,
    describe,
    make_clip,
)
from kinetophone.hits.sixteen.scene import TEMPI
from kinetophone.hits.sixteen.wording import NUMBERS, OBJECTS
from kinetophone.media.onsets import onsets_from_audio

indices = st.integers(0, 100_000)


def words_of(text):
    return set(text.replace(",", " ").replace(":", " ").split())


def test_a_clip_is_a_function_of_split_and_index():
    one, again, other = make_clip("val", 3), make_clip("val", 3), make_clip("test", 3)
    np.testing.assert_array_equal(one.video, again.video)
    np.testing.assert_array_equal(one.audio, again.audio)
    assert one.events() == again.events() != other.events()
    assert one.video.shape == (FRAMES, 64, 64, 3)
    assert one.audio.shape == (round(SECONDS * SAMPLE_RATE),)
    assert FRAMES % 4 == 1


@settings(max_examples=200, deadline=None)
@given(indices)
def test_strikes_fit_into_the_clip_at_their_tempo(index):
    scene, _ = describe("train", index)
    times = [s.time_s for s in scene.strikes]
    assert all(0.3 <= t <= SECONDS - 0.3 + 1e-9 for t in times)
    low, high = TEMPI[scene.tempo]
    assert all(0.93 * low <= gap <= 1.07 * high for gap in np.diff(times))


@settings(max_examples=300, deadline=None)
@given(indices, st.sampled_from([TRAINING, HELD_OUT]))
def test_what_a_caption_says_is_true_of_its_scene(index, wording):
    scene, said = describe("val", index, wording)
    truth = {
        "count": len(scene.strikes),
        "tempo": scene.tempo,
        "loudness": scene.loudness,
        "colour": scene.colour,
        "tool": scene.tool,
    }
    for name, value in truth.items():
        assert getattr(said, name) in (None, value)
    assert said.text == said.text.strip(" ,:")
    assert "{" not in said.text
    if wording is HELD_OUT:  # training captions have typing errors now and then
        assert any(words_of(thing) <= words_of(said.text) for thing in OBJECTS[scene.noun])
        named = words_of(said.text) & {*NUMBERS[2:], *map(str, range(2, 8))}
        assert said.count is not None or not named - {"two", "three"}


def test_every_number_of_strikes_is_asked_for_and_none_too():
    said = [describe("train", i)[1].count for i in range(2000)]
    assert set(said) == {None, *range(8)}


def test_held_out_captions_are_not_among_the_training_captions():
    training = {text for i in range(3000) for text in captions_of("train", i, 4)}
    held_out = [describe("test", i, HELD_OUT)[1].text for i in range(300)]
    # Only by chance, in sentences that say little.
    assert sum(text in training for text in held_out) <= 3
    known = set().union(*map(words_of, training))
    assert set().union(*map(words_of, held_out)) <= known


@pytest.mark.parametrize("index", range(6))
def test_the_strikes_are_heard_and_seen_at_their_times(index):
    clip = make_clip("test", index)
    times = [s.time_s for s in clip.scene.strikes]
    heard = onsets_from_audio(clip.audio, SAMPLE_RATE)
    assert len(heard) == len(times)
    np.testing.assert_allclose(heard, times, atol=0.05)
    change = np.abs(np.diff(clip.video.astype(float), axis=0)).mean((1, 2, 3))
    for t in times:
        frame = round(t * 16)
        assert change[frame - 2 : frame + 2].max() > 2 * np.median(change)

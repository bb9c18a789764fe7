"""What is said of clips is compared with what happens in them, exactly."""

import dataclasses

import numpy as np
import pytest

from kinetophone.data.domains import as_clip, domain, world_of
from kinetophone.errors import RequestError
from kinetophone.hits.adherence import adherence
from kinetophone.hits.captions import Said, said_of
from kinetophone.hits.classifiers import SEEN
from kinetophone.metrics.evaluate import detect

OPEN = Said(text="", object="drum", count=None, tempo=None, loudness=None, colour=None, tool=None)


@pytest.fixture(scope="module")
def heard():
    """Events found in true clips of the world at 16 frames a second, and what their captions say."""
    world = domain("hits16")
    true = [world.make_clip("val", index) for index in range(12)]
    found = detect([as_clip(clip, "hits16") for clip in true], workers=1)
    return found, {str(i): clip.said for i, clip in enumerate(true)}, world.TEMPI


def test_true_clips_do_what_their_captions_say_and_those_of_other_captions_do_not(heard):
    scores = adherence(*heard)
    assert scores["count, heard"].value > 0.8
    assert scores["count, seen"].value > 0.7
    assert scores["count, heard and seen"].value > scores["count, heard and seen"].shuffled + 0.3
    assert scores["tempo, heard"].value > 0.8
    assert "tool, seen" not in scores  # no classifier has looked at these clips


def test_one_strike_more_is_wrong_and_silence_is_a_number(heard):
    clip = heard[0][0]
    clips = [
        dataclasses.replace(clip, name=str(i), onsets_s=times)
        for i, times in enumerate(([], [1.0], [1.0, 2.0]))
    ]
    said = {str(i): dataclasses.replace(OPEN, count=i) for i in range(3)}
    assert adherence(clips, said, heard[2])["count, heard"].value == 1
    said["2"] = dataclasses.replace(OPEN, count=1)
    assert adherence(clips, said, heard[2])["count, heard"].value == pytest.approx(2 / 3)


def test_a_tempo_holds_within_a_fifth_and_one_strike_has_none(heard):
    slow = np.mean(heard[2]["slow"])
    clips = [
        dataclasses.replace(heard[0][0], name=str(i), onsets_s=[0.1 + k * slow * by for k in range(3)][:some])
        for i, (by, some) in enumerate(((0.81, 3), (1.19, 3), (1.25, 3), (1.0, 1)))
    ]
    said = {str(i): dataclasses.replace(OPEN, tempo="slow") for i in range(4)}
    assert adherence(clips, said, heard[2])["tempo, heard"].value == 0.5


def test_what_the_classifier_sees_is_compared_with_what_is_said(heard):
    def looked(name, tool):
        logits = {kind: np.zeros((1, len(SEEN[kind])), np.float32) for kind in ("object", "colour", "tool")}
        logits["tool"][0, SEEN["tool"].index(tool)] = 1
        features = {f"hits_{kind}": values for kind, values in logits.items()}
        return dataclasses.replace(heard[0][0], name=name, features=features)

    said = {name: dataclasses.replace(OPEN, tool="mallet") for name in "ab"}
    scores = adherence([looked("a", "mallet"), looked("b", "hammer")], said, heard[2])
    assert scores["tool, seen"].value == 0.5
    assert "colour, seen" not in scores  # no prompt names one


def test_what_a_caption_of_hits_says_is_found_in_its_words():
    make_scene = domain("hits").make_scene
    for index in range(200):
        scene, text = make_scene("val", index)
        said = said_of(scene, text)
        assert said.count in (None, len(scene.strikes))
        assert said.tool == scene.tool
        assert (said.colour is None) == (scene.colour not in text)


def test_a_world_is_found_by_its_frame_rate():
    assert (world_of(8), world_of(16)) == ("hits", "hits16")
    with pytest.raises(RequestError, match="no world of strikes has 12 frames a second"):
        world_of(12)

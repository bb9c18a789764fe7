"""Which words of a text a tokenizer is known never to have seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import kinetophone
import tiny
from kinetophone.bases.computing import seen_words, unknown_words, words_of
from kinetophone.hits.stages.text import train_tokenizer
from kinetophone.hits.world import captions_of

HITS = Path(kinetophone.__file__).parent / "bundles" / "hits"
TEXT = "A drumstick hits the metal bowl, twice!"


def byte_pairs(*captions: str) -> Any:
    return train_tokenizer(list(captions), vocabulary=512, length=20)


def test_a_tokenizer_of_words_knows_by_its_unknown_token() -> None:
    assert unknown_words(tiny.tokenizer(), [TEXT, "a bowl", "the end"]) == ["A", "the", "twice", "end"]


def test_one_of_smaller_pieces_knows_by_the_words_it_was_trained_with(tmp_path: Path) -> None:
    trained = byte_pairs("a drumstick hits a drum", "a metal bowl")
    trained.save_pretrained(tmp_path)
    for tokenizer in (trained, AutoTokenizer.from_pretrained(tmp_path)):
        assert unknown_words(tokenizer, [TEXT]) == ["the", "twice"]
        assert unknown_words(tokenizer, ["a DRUM " * 100 + "stick"]) == ["stick"], "however long the text"
    del trained.init_kwargs["words"]
    assert unknown_words(trained, [TEXT]) == [], "without them nothing can be said"


def test_a_tokenizer_that_does_not_say_what_a_word_is_says_nothing() -> None:
    assert unknown_words(object(), [TEXT]) == []


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_hits_knows_the_words_of_its_captions_and_no_others(modality: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(HITS / modality / "tokenizer")
    captions = [text for index in range(500) for text in captions_of("train", index, 4)]
    assert seen_words(tokenizer, captions) == tokenizer.init_kwargs["words"]
    assert all(len(tokens) == 1 for _, tokens in words_of(tokenizer, captions))

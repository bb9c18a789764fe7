"""Captions of ``hits16`` clips as people write them: synonyms, digits and words, clauses in any order, typos.

Training captions come from ``TRAINING``. ``HELD_OUT`` has other sentences and other phrases for the same
things, built from words that training captions use elsewhere; no training caption is made from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kinetophone.hits.captions import Said
from kinetophone.hits.scene import Scene

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven")

# What captions call the drawn objects.
OBJECTS: dict[str, tuple[str, ...]] = {
    "metal bowl": ("metal bowl", "steel bowl", "bowl made of metal", "metal dish", "metal plate"),
    "metal pot": ("metal pot", "steel pot", "cooking pot", "pot made of steel", "metal pan"),
    "wooden block": ("wooden block", "block of wood", "wood block", "piece of wood", "wooden plank"),
    "wooden box": ("wooden box", "wooden crate", "box made of wood", "box of wood", "crate"),
    "glass jar": ("glass jar", "jar", "jar made of glass", "jam jar"),
    "glass bottle": ("glass bottle", "bottle", "bottle made of glass", "wine bottle"),
    "drum": ("drum", "tom", "big drum", "tom drum"),
    "snare drum": ("snare drum", "snare", "small drum"),
    "cushion": ("cushion", "sofa cushion", "soft cushion"),
    "pillow": ("pillow", "bed pillow", "soft pillow"),
}
TOOLS: dict[str, tuple[str, ...]] = {
    "drumstick": ("drumstick", "stick", "wooden stick"),
    "mallet": ("mallet", "red mallet", "beater"),
    "hammer": ("hammer", "steel hammer"),
}
# Verbs by loudness: third person, participle, noun.
VERBS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "soft": (("taps", "tapped", "tap"), ("touches", "touched", "touch")),
    "even": (
        ("hits", "hit", "hit"),
        ("strikes", "struck", "strike"),
        ("beats", "beaten", "beat"),
        ("knocks on", "knocked on", "knock"),
    ),
    "hard": (("bangs", "banged", "bang"), ("smashes", "smashed", "blow"), ("whacks", "whacked", "whack")),
}
LOUD = {
    "soft": ("softly", "gently", "quietly", "lightly"),
    "even": ("evenly",),
    "hard": ("hard", "loudly", "with force", "forcefully"),
}


@dataclass(frozen=True)
class Wording:
    """Sentences and phrases of a set of captions.

    In a sentence, ``{a_thing}`` and ``{a_tool}`` have an article, ``{how}`` is everything said about number,
    tempo and loudness, ``{number}`` is a count word before the noun form of the verb, ``{noun}``.
    """

    sentences: tuple[str, ...]
    counted: tuple[str, ...]  # sentences that need {number}
    silent: tuple[str, ...]  # sentences for no strike at all
    drumming: tuple[str, ...]  # sentences with a tempo as an adjective, {adjective}, and a gerund, {doing}
    times: dict[int, tuple[str, ...]]
    many_times: tuple[str, ...]  # with {word} and {digit}
    tempo: dict[str, tuple[str, ...]]


TRAINING = Wording(
    sentences=(
        "{a_tool} {verb} {a_thing} {how}",
        "{a_tool} {verb} {a_thing} {how}",
        "someone {verb} {a_thing} with {a_tool} {how}",
        "{a_thing} is {done} with {a_tool} {how}",
        "{how}, {a_tool} {verb} {a_thing}",
        "{a_thing}, {done} {how} with {a_tool}",
        "a person {verb} {a_thing} {how} using {a_tool}",
        "{a_thing} being {done} by {a_tool} {how}",
        "{how}: {a_thing} and {a_tool}",
        "video of {a_tool} that {verb} {a_thing} {how}",
        "{verb} {a_thing} {how}, {a_tool}",
    ),
    counted=(
        "{number} {nouns} on {a_thing} with {a_tool}{pace}",
        "{number} {nouns} of {a_tool} on {a_thing}{pace}",
        "{a_tool} gives {a_thing} {number} {nouns}{pace}",
        "{a_thing} gets {number} {nouns} from {a_tool}{pace}",
    ),
    silent=(
        "{a_tool} over {a_thing}, nothing happens",
        "{a_tool} does not hit {a_thing}",
        "{a_thing} and {a_tool}, no hit at all",
        "{a_tool} waits above {a_thing}",
        "nothing happens to {a_thing}",
        "zero hits on {a_thing} with {a_tool}",
        "{a_thing} is not hit at all, {a_tool} rests",
        "{a_thing} is left alone, silence",
        "someone holds {a_tool} above {a_thing} and nothing is heard",
    ),
    drumming=(
        "{adjective} {doing} on {a_thing} with {a_tool}",
        "{a_tool}: {adjective} {doing} on {a_thing}",
        "the {adjective} {doing} of {a_tool} on {a_thing}",
    ),
    times={
        1: ("once", "one time", "1 time", "just once", "a single time", "only once"),
        2: ("twice", "two times", "2 times", "2x", "just twice"),
    },
    many_times=("{word} times", "{digit} times", "{digit}x", "exactly {word} times", "{word} times in a row"),
    tempo={
        "slow": ("slowly", "at a slow tempo", "about once a second", "in a slow rhythm"),
        "medium": ("steadily", "at a medium tempo", "at a moderate pace", "in a steady rhythm"),
        "fast": ("quickly", "fast", "at a fast tempo", "about twice a second", "in a fast rhythm"),
        "rapid": ("rapidly", "very fast", "in rapid succession", "about three times a second", "in a hurry"),
    },
)
HELD_OUT = Wording(
    sentences=(
        "video: {a_tool} {how} {verb} {a_thing}",
        "video of {a_tool} and {a_thing}, {done} {how}",
        "{a_thing}: someone using {a_tool}, {how}",
        "using {a_tool}, a person {how} {verb} {a_thing}",
    ),
    counted=(
        "exactly {number} {nouns} with {a_tool} on {a_thing}{pace}",
        "{a_thing}, {number} {nouns}, {a_tool}{pace}",
        "someone gives {a_thing} {number} {nouns} using {a_tool}{pace}",
    ),
    silent=(
        "nothing is hit at all: {a_thing} and {a_tool}",
        "no one {verb} {a_thing}",
        "{a_tool} rests and {a_thing} is left alone",
        "silence, {a_tool} above {a_thing}, not a single hit",
    ),
    drumming=("{adjective} {doing} on {a_thing}", "{a_thing}, {adjective} {doing}, {a_tool}"),
    times={
        1: ("only one time", "exactly once", "exactly one time"),
        2: ("exactly twice", "only two times", "twice in a row"),
    },
    many_times=("just {word} times", "exactly {digit} times", "{digit} times in a row", "{word} times only"),
    tempo={
        "slow": ("at a slow pace", "in slow succession", "once a second"),
        "medium": ("in a moderate rhythm", "at a steady tempo"),
        "fast": ("at a fast pace", "in fast succession", "twice a second"),
        "rapid": ("at a rapid tempo", "in a rapid rhythm", "three times a second"),
    },
)
ADJECTIVES = {
    "slow": ("slow",),
    "medium": ("steady", "moderate"),
    "fast": ("fast", "quick"),
    "rapid": ("rapid", "very fast"),
}
GERUNDS = {
    "soft": ("tapping", "gentle tapping"),
    "even": ("drumming", "knocking", "hitting", "beating"),
    "hard": ("banging", "loud drumming", "loud knocking"),
}
_SINGLE = ("one", "a single", "one single", "1")
_TYPOS = 0.06  # fraction of training captions with one typing error
COUNT, TEMPO, LOUDNESS, COLOUR, TOOL = 0.65, 0.5, 0.25, 0.5, 0.9  # how often a caption says these


def caption(scene: Scene, rng: np.random.Generator, wording: Wording = TRAINING) -> Said:
    """Draw a caption of ``scene``. The object is always named; the rest is named sometimes."""

    def pick(options: Sequence[str]) -> str:
        return options[int(rng.integers(len(options)))]

    count = len(scene.strikes)
    says_count = rng.random() < COUNT or count == 0
    tempo = scene.tempo if count > 1 and rng.random() < TEMPO else None
    loudness = scene.loudness if count and rng.random() < LOUDNESS else None
    colour = scene.colour if rng.random() < COLOUR else None
    tool = scene.tool if rng.random() < TOOL else None
    thing = pick(OBJECTS[scene.noun])
    a_thing = _article(f"{colour} {thing}" if colour else thing)
    # Without a tool, the sentence speaks of something or someone.
    a_tool = _article(pick(TOOLS[tool])) if tool else "something"
    forms = VERBS[loudness or "even"]
    verb, done, noun = forms[int(rng.integers(len(forms)))]
    adverb = pick(LOUD[loudness]) if loudness and rng.random() < 0.6 else ""
    pace = pick(wording.tempo[tempo]) if tempo else ""
    words = {"a_thing": a_thing, "a_tool": a_tool, "verb": verb, "done": done}
    if count == 0:
        text = pick(wording.silent).format(**words)
        says_tool = tool is not None and a_tool in text
    elif tempo and not says_count and rng.random() < 0.4:
        words |= {"adjective": pick(ADJECTIVES[tempo]), "doing": pick(GERUNDS[loudness or "even"])}
        text = pick(wording.drumming).format(**words)
        says_tool = tool is not None and a_tool in text
    elif says_count and rng.random() < 0.35:
        number = pick(_SINGLE) if count == 1 else pick((NUMBERS[count], str(count)))
        nouns = noun if count == 1 else noun + ("es" if noun.endswith(("ch", "sh")) else "s")
        if loudness in ("soft", "hard"):
            nouns = f"{loudness} {nouns}"
        if tempo and rng.random() < 0.4:
            nouns, pace = f"{pick(ADJECTIVES[tempo])} {nouns}", ""
        text = pick(wording.counted).format(
            **words, number=number, nouns=nouns, pace=f", {pace}" if pace else ""
        )
        says_tool = tool is not None
    else:
        times = ""
        if says_count:
            options = wording.times.get(count) or tuple(
                form.format(word=NUMBERS[count], digit=count) for form in wording.many_times
            )
            times = pick(options)
        parts = [part for part in (times, pace, adverb) if part]
        rng.shuffle(parts)
        text = pick(wording.sentences).format(**words, how=" ".join(parts)) if parts else ""
        if not parts:
            bare = [s for s in wording.sentences if not s.startswith("{how}")]
            text = pick(bare).format(**words, how="")
        says_tool = tool is not None
    text = _tidy(text)
    if wording is TRAINING and rng.random() < _TYPOS:
        text = _typo(text, rng)
    return Said(
        text=text,
        object=scene.noun,
        count=count if says_count else None,
        tempo=tempo,
        loudness=loudness,
        colour=colour,
        tool=tool if says_tool else None,
    )


def _article(noun: str) -> str:
    if noun.startswith("piece") or not noun[0].isalpha():
        return f"a {noun}"
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _tidy(text: str) -> str:
    """Without double spaces, and without spaces before punctuation."""
    text = " ".join(text.split())
    return text.replace(" ,", ",").replace(" :", ":").strip(" ,:")


def _typo(text: str, rng: np.random.Generator) -> str:
    """One typing error in a word of four letters or more: two letters swapped, one doubled or one missing."""
    words = text.split()
    long = [i for i, word in enumerate(words) if len(word) >= 4 and word.isalpha()]
    if not long:
        return text
    i = long[int(rng.integers(len(long)))]
    word = words[i]
    k = int(rng.integers(1, len(word) - 1))
    kind = int(rng.integers(3))
    if kind == 0:
        word = word[:k] + word[k + 1] + word[k] + word[k + 2 :]
    elif kind == 1:
        word = word[:k] + word[k] + word[k:]
    else:
        word = word[:k] + word[k + 1 :]
    words[i] = word
    return " ".join(words)

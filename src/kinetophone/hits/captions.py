"""Captions of ``hits`` clips, in varied words. Material and tool are always named, the rest sometimes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kinetophone.hits.scene import Scene

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
_TIMES = {1: ("once", "one time"), 2: ("twice", "two times")}
_VERBS = {"soft": ("taps", "gently hits"), "even": ("hits", "strikes", "beats"), "hard": ("bangs", "smashes")}
_TEMPO = {
    "slow": ("slowly", "at a slow tempo"),
    "medium": ("steadily", "at a medium tempo"),
    "fast": ("quickly", "fast", "at a fast tempo"),
}
_LOUD = {"soft": ("softly", "gently"), "even": ("evenly",), "hard": ("hard", "loudly")}


@dataclass(frozen=True)
class Said:
    """What a caption states about its scene; None is left open. Adherence to prompts is judged by it."""

    text: str
    object: str
    count: int | None
    tempo: str | None
    loudness: str | None
    colour: str | None
    tool: str | None


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Draw a caption of ``scene`` with random wording.

    About half of the captions name the count and the tempo (the tempo only if there are several strikes).
    Fewer name the colour and the loudness.
    """

    def pick(options: tuple[str, ...]) -> str:
        return options[int(rng.integers(len(options)))]

    count = len(scene.strikes)
    thing = f"{scene.colour} {scene.noun}" if rng.random() < 0.5 else scene.noun
    times = pick(_TIMES.get(count, (f"{NUMBERS[count]} times", f"{count} times")))
    extras = []
    if rng.random() < 0.6:
        extras.append(times)
    if count > 1 and rng.random() < 0.5:
        extras.append(pick(_TEMPO[scene.tempo]))
    if rng.random() < 0.3:
        extras.append(pick(_LOUD[scene.loudness]))
    tail = (" " + " ".join(extras)) if extras else ""
    verb = pick(_VERBS[scene.loudness]) if rng.random() < 0.6 else "hits"
    style = rng.random()
    if style < 0.6:
        return f"a {scene.tool} {verb} a {thing}{tail}"
    if style < 0.8:
        return f"someone {verb} a {thing} with a {scene.tool}{tail}"
    return f"a {thing} is hit with a {scene.tool}{tail}"


def said_of(scene: Scene, text: str) -> Said:
    """What a caption of ``scene`` states, by the words in it."""

    def named(value: str, words: tuple[str, ...]) -> str | None:
        return value if any(f" {word} " in f" {text} " for word in words) else None

    return Said(
        text=text,
        object=scene.noun,
        count=count_named(text),
        tempo=named(scene.tempo, _TEMPO[scene.tempo]),
        loudness=named(scene.loudness, _LOUD[scene.loudness]),
        colour=named(scene.colour, (scene.colour,)),
        tool=named(scene.tool, (scene.tool,)),
    )


def count_named(prompt: str) -> int | None:
    """The number of strikes that a prompt names; None if it names none."""
    words = prompt.lower().replace(",", " ").split()
    single = {"once": 1, "twice": 2}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word in single:
            return single[word]
        if following in ("time", "times"):
            known = {**{number: i for i, number in enumerate(NUMBERS)}, **{str(i): i for i in range(10)}}
            return known.get(word)
    return None

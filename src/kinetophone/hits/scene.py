"""The script of a ``hits`` clip: what is struck, with what, when and how hard.

Everything that video and audio have in common is decided here, so that the two renderers (:mod:`.video`,
:mod:`.audio`) cannot disagree about an event.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

SECONDS = 4.0
SPLITS = ("train", "val", "test")

# material -> (noun, adjective used before the noun or "", colours by name with their RGB)
MATERIALS: dict[str, tuple[tuple[str, ...], dict[str, tuple[int, int, int]]]] = {
    "metal": (
        ("metal bowl", "metal pot"),
        {"silver": (176, 184, 196), "golden": (214, 172, 58), "copper": (196, 112, 74)},
    ),
    "wood": (
        ("wooden block", "wooden box"),
        {"brown": (140, 88, 44), "pale": (206, 168, 112), "dark": (84, 50, 30)},
    ),
    "glass": (
        ("glass jar", "glass bottle"),
        {"green": (96, 190, 130), "blue": (92, 160, 224), "clear": (200, 222, 228)},
    ),
    "drum": (
        ("drum", "snare drum"),
        {"red": (196, 36, 40), "blue": (40, 64, 186), "white": (232, 228, 220)},
    ),
    "cloth": (
        ("cushion", "pillow"),
        {"purple": (134, 62, 168), "yellow": (232, 204, 66), "pink": (230, 124, 164)},
    ),
}
TOOLS = ("drumstick", "mallet", "hammer")
# name -> range of the interval between strikes, in seconds. Three frames at 8 fps are the shortest
# interval that shows lift, swing and contact.
TEMPI = {"slow": (0.85, 1.1), "medium": (0.62, 0.8), "fast": (0.48, 0.56)}
_MAX_STRIKES = {"slow": 3, "medium": 4, "fast": 5}


@dataclass(frozen=True, kw_only=True)
class Strike:
    """One contact, ``time_s`` seconds from the start of the clip, with ``force`` in [0.3, 1]."""

    time_s: float
    force: float


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that a clip is rendered from. Angles in radians, lengths in units of the frame's side."""

    material: str
    noun: str
    colour: str
    rgb: tuple[int, int, int]
    tool: str
    tempo: str
    loudness: str  # "soft" | "even" | "hard"
    strikes: tuple[Strike, ...]
    size: float  # of the object, in [0, 1]: larger is lower in pitch
    object_x: float
    table_y: float
    side: int  # the tool comes from the right (+1) or the left (-1)
    lift: float  # full lift angle of the tool
    wall_rgb: tuple[int, int, int]
    table_rgb: tuple[int, int, int]
    light: float  # overall brightness
    light_x: float  # position of the light on the wall
    zoom: float
    shift_xy: tuple[float, float]  # offset of the camera from the centre
    texture_seed: int
    audio_seed: int


def scene_rng(split: str, index: int, seed: int = 0) -> np.random.Generator:
    """The random generator of clip ``index`` of ``split``; splits never share a stream."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    if index < 0:
        raise ValueError(f"clip index must be 0 or more, got {index}")
    return np.random.default_rng([seed, SPLITS.index(split), index])


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene.

    The time of the first strike is uniform over at least one interval, so a prompt says nothing about the
    phase. Two modalities can agree on it only through the coupling.
    """
    material = str(rng.choice(list(MATERIALS)))
    nouns, colours = MATERIALS[material]
    colour = str(rng.choice(list(colours)))
    tempo = str(rng.choice(list(TEMPI)))
    low, high = TEMPI[tempo]
    interval = rng.uniform(low, high)
    count = int(rng.integers(1, _MAX_STRIKES[tempo] + 1))
    gaps = interval * rng.uniform(0.9, 1.1, count - 1)
    first = rng.uniform(0.35, SECONDS - 0.3 - gaps.sum())
    times = first + np.concatenate([[0.0], np.cumsum(gaps)])
    loudness = str(rng.choice(["soft", "even", "hard"], p=[0.25, 0.5, 0.25]))
    centre = {"soft": 0.42, "even": 0.66, "hard": 0.93}[loudness]
    forces = np.clip(centre + rng.uniform(-0.08, 0.08, count), 0.3, 1.0)
    room = colours_of_room(rng)
    return Scene(
        material=material,
        noun=str(rng.choice(list(nouns))),
        colour=colour,
        rgb=colours[colour],
        tool=str(rng.choice(list(TOOLS))),
        tempo=tempo,
        loudness=loudness,
        strikes=tuple(Strike(time_s=float(t), force=float(f)) for t, f in zip(times, forces, strict=True)),
        **placement(rng),
        **room,
    )


def colours_of_room(rng: np.random.Generator) -> dict[str, Any]:
    """Draw the colours of the wall and the table."""
    wall = rng.integers(60, 200, 3) * 0.5 + rng.integers(60, 200) * 0.5
    table = np.array([120, 96, 74]) * rng.uniform(0.5, 1.3) + rng.integers(-18, 18, 3)
    return {"wall_rgb": _rgb(wall), "table_rgb": _rgb(np.clip(table, 20, 200))}


def placement(rng: np.random.Generator) -> dict[str, Any]:
    """Draw the size and place of the object, the tool's lift, light, camera, and the renderers' seeds."""
    return {
        "size": float(rng.uniform(0, 1)),
        "object_x": float(0.5 + rng.uniform(-0.07, 0.07)),
        "table_y": float(rng.uniform(0.74, 0.84)),
        "side": int(rng.choice([-1, 1])),
        "lift": float(rng.uniform(0.6, 0.8)),
        "light": float(rng.uniform(0.8, 1.15)),
        "light_x": float(rng.uniform(0.1, 0.9)),
        "zoom": float(rng.uniform(0.96, 1.06)),
        "shift_xy": (float(rng.uniform(-0.03, 0.03)), float(rng.uniform(-0.02, 0.02))),
        "texture_seed": int(rng.integers(2**31)),
        "audio_seed": int(rng.integers(2**31)),
    }


def scene_events(scene: Scene, caption: str) -> dict[str, Any]:
    """The entry of a clip in ``events.json``: times in seconds, forces in [0.3, 1], attributes."""
    return {
        "strikes_s": [round(s.time_s, 4) for s in scene.strikes],
        "force": [round(s.force, 3) for s in scene.strikes],
        "material": scene.material,
        "object": scene.noun,
        "colour": scene.colour,
        "tool": scene.tool,
        "tempo": scene.tempo,
        "size": round(scene.size, 3),
        "caption": caption,
    }


def _rgb(colour: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(v) for v in colour)
    return red, green, blue

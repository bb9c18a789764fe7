"""The script of a ``bows`` clip: the string, and the movement of the bow.

Both renderers read the bow's speed from the same curve, so they cannot disagree about it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kinetophone.hits.scene import SECONDS
from kinetophone.hits.scene import scene_rng as hits_rng

CURVE_RATE = 100  # of the speed curve, Hz
EDGE_S = 0.1  # duration of acceleration and deceleration at the ends of a stroke
DRIFT = 0.3  # fraction of the speed that drifts within a stroke
REACH = 0.7  # distance that a bow at full speed moves per second, in units of the frame's side

# instrument -> open string of a small and of a large one, in Hz
INSTRUMENTS = {"violin": (330.0, 262.0), "viola": (233.0, 185.0), "cello": (147.0, 98.0)}
COLOURS: dict[str, tuple[int, int, int]] = {
    "brown": (150, 92, 48), "dark": (84, 52, 34), "pale": (214, 178, 122), "red": (168, 58, 40),
}  # fmt: skip
# manner -> duration of a stroke and of the following rest, in seconds. A rest of 0 only changes direction.
MANNERS = {
    "long": ((1.1, 1.7), (0.0, 0.25)),
    "short": ((0.45, 0.7), (0.25, 0.5)),
    "swelling": ((1.3, 2.0), (0.0, 0.3)),
}
SHORTEST_S = 0.4  # minimum duration of a stroke, three frames


@dataclass(frozen=True, kw_only=True)
class Stroke:
    """One movement of the bow.

    ``direction`` is +1 to the right. ``peak``, in [0.45, 1], is the upper limit of the speed. ``swell`` says
    whether the speed grows (1) or falls (-1) over the stroke. ``drift_hz`` and ``drift_phase`` describe a
    slow drift of the speed.
    """

    start_s: float
    end_s: float
    peak: float
    direction: int
    swell: float
    drift_hz: float
    drift_phase: float


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that a clip is rendered from. Lengths are in units of the frame's side."""

    instrument: str
    colour: str
    rgb: tuple[int, int, int]
    manner: str
    strokes: tuple[Stroke, ...]
    size: float  # in [0, 1]: larger is lower in pitch
    open_hz: float  # pitch of the open string
    finger_from: float  # semitones above it at the start of the clip
    finger_to: float  # and at its end
    string_x: float
    bow_y: float
    bow_start: float  # position of the bow's middle at the start
    wall_rgb: tuple[int, int, int]
    light: float
    texture_seed: int
    audio_seed: int

    def speed(self, rate: int = CURVE_RATE) -> np.ndarray:
        """Speed of the bow, in [0, 1], at the midpoints of ``rate`` equal intervals per second."""
        return np.abs(self.velocity(rate))

    def velocity(self, rate: int = CURVE_RATE) -> np.ndarray:
        """Velocity of the bow at the same times, positive to the right."""
        t = (np.arange(round(SECONDS * rate)) + 0.5) / rate
        total = np.zeros_like(t)
        for stroke in self.strokes:
            inside = np.minimum(t - stroke.start_s, stroke.end_s - t).clip(0, EDGE_S) / EDGE_S
            edges = 0.5 - 0.5 * np.cos(np.pi * inside)
            along = ((t - stroke.start_s) / (stroke.end_s - stroke.start_s)).clip(0, 1)
            shape = 1 - 0.65 * abs(stroke.swell) * (1 - along if stroke.swell > 0 else along)
            shape *= (1 + DRIFT * np.sin(2 * np.pi * stroke.drift_hz * t + stroke.drift_phase)) / (1 + DRIFT)
            total += stroke.direction * stroke.peak * edges * shape
        return total

    def bow_x(self, time_s: float) -> float:
        """Position of the bow's middle at ``time_s``."""
        moved = np.concatenate([[0.0], np.cumsum(self.velocity()) / CURVE_RATE])
        return float(self.bow_start + REACH * np.interp(time_s * CURVE_RATE, np.arange(len(moved)), moved))

    def finger(self, time_s: float | np.ndarray) -> float | np.ndarray:
        """Semitones above the open string at ``time_s``; the finger slides at constant speed."""
        return self.finger_from + (self.finger_to - self.finger_from) * time_s / SECONDS


def scene_rng(split: str, index: int) -> np.random.Generator:
    """The random generator of clip ``index`` of ``split``; its stream differs from those of ``hits``."""
    return hits_rng(split, index, seed=1)


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene. Prompts say nothing about the start of the first stroke."""
    instrument = str(rng.choice(list(INSTRUMENTS)))
    colour = str(rng.choice(list(COLOURS)))
    manner = str(rng.choice(list(MANNERS)))
    size = float(rng.uniform(0, 1))
    high, low = INSTRUMENTS[instrument]
    finger = float(rng.uniform(0, 12))
    strokes = _strokes(rng, manner)
    # Choose the start so that the bow stays near the middle of the frame.
    scene = Scene(
        instrument=instrument,
        colour=colour,
        rgb=COLOURS[colour],
        manner=manner,
        strokes=strokes,
        size=size,
        open_hz=high * (low / high) ** size,
        finger_from=finger,
        finger_to=float(np.clip(finger + rng.uniform(-5, 5), 0, 14)),
        string_x=float(0.5 + rng.uniform(-0.06, 0.06)),
        bow_y=float(rng.uniform(0.6, 0.7)),
        bow_start=0.0,
        wall_rgb=tuple(int(v) for v in rng.integers(70, 190, 3)),  # type: ignore[arg-type]
        light=float(rng.uniform(0.85, 1.15)),
        texture_seed=int(rng.integers(2**31)),
        audio_seed=int(rng.integers(2**31)),
    )
    places = np.array([scene.bow_x(t) for t in np.linspace(0, SECONDS, 81)])
    middle = scene.string_x - (places.max() + places.min()) / 2
    return Scene(**{**scene.__dict__, "bow_start": float(middle)})


def _strokes(rng: np.random.Generator, manner: str) -> tuple[Stroke, ...]:
    (shortest, longest), rests = MANNERS[manner]
    start = float(rng.uniform(0.15, 1.3))
    direction = int(rng.choice([-1, 1]))
    strokes: list[Stroke] = []
    while start < SECONDS - 0.2 - SHORTEST_S:
        end = min(start + float(rng.uniform(shortest, longest)), SECONDS - 0.2)
        swell = float(rng.choice([-1, 1])) if manner == "swelling" else 0.0
        strokes.append(
            Stroke(
                start_s=start,
                end_s=end,
                peak=float(rng.uniform(0.45, 1.0)),
                direction=direction,
                swell=swell,
                drift_hz=float(rng.uniform(0.4, 1.2)),
                drift_phase=float(rng.uniform(0, 2 * np.pi)),
            )
        )
        start = end + float(rng.uniform(*rests))
        direction = -direction
        if rng.random() < 0.15:
            break
    return tuple(strokes)


_MANNER_WORDS = {
    "long": ("in long strokes", "slowly back and forth"),
    "short": ("in short strokes", "with rests between"),
    "swelling": ("swelling and fading", "now louder, now softer"),
}


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Draw a caption of ``scene`` with random wording."""

    def pick(options: tuple[str, ...]) -> str:
        return options[int(rng.integers(len(options)))]

    thing = f"{scene.colour} {scene.instrument}" if rng.random() < 0.6 else scene.instrument
    how = f" {pick(_MANNER_WORDS[scene.manner])}" if rng.random() < 0.6 else ""
    style = rng.random()
    if style < 0.5:
        return f"a bow is drawn over a {thing}{how}"
    if style < 0.8:
        return f"someone plays a {thing} with a bow{how}"
    return f"a {thing} is bowed{how}"

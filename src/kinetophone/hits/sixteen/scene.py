"""Scenes of ``hits16``: the objects and tools of ``hits``, struck up to seven times, or not at all."""

from __future__ import annotations

import numpy as np

from kinetophone.hits.scene import MATERIALS, TOOLS, Scene, Strike, colours_of_room, placement

SECONDS = 65 / 16  # a causal autoencoder takes 4k + 1 frames
# name -> range of the interval between strikes, in seconds. Three frames at 16 fps are the shortest interval
# that shows lift, swing and contact.
TEMPI = {"slow": (0.95, 1.1), "medium": (0.62, 0.8), "fast": (0.46, 0.54), "rapid": (0.3, 0.36)}
_COUNTS = {0: 0.05, 1: 0.2, 2: 0.2, 3: 0.2, 4: 0.15, 5: 0.1, 6: 0.06, 7: 0.04}
_MOST = {"slow": 3, "medium": 4, "fast": 6, "rapid": 7}
_FEWEST = {"slow": 1, "medium": 1, "fast": 1, "rapid": 3}
SEED = 16  # of the world; its scenes are not those of ``hits``


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene.

    The first strike is uniform over all times that leave room for the others, so a prompt says nothing about
    the phase. Two modalities can agree on it only through the coupling.
    """
    material = str(rng.choice(list(MATERIALS)))
    nouns, colours = MATERIALS[material]
    colour = str(rng.choice(list(colours)))
    count = int(rng.choice(list(_COUNTS), p=list(_COUNTS.values())))
    tempo = str(rng.choice([name for name in TEMPI if _FEWEST[name] <= max(count, 1) <= _MOST[name]]))
    interval = rng.uniform(*TEMPI[tempo])
    gaps = interval * rng.uniform(0.93, 1.07, max(count - 1, 0))
    first = rng.uniform(0.3, SECONDS - 0.3 - gaps.sum())
    times = (first + np.concatenate([[0.0], np.cumsum(gaps)]))[:count]
    loudness = str(rng.choice(["soft", "even", "hard"], p=[0.25, 0.5, 0.25]))
    centre = {"soft": 0.42, "even": 0.66, "hard": 0.93}[loudness]
    forces = np.clip(centre + rng.uniform(-0.08, 0.08, count), 0.3, 1.0)
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
        **colours_of_room(rng),
    )

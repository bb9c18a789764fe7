"""The audio of a ``bows`` scene: a bowed string, which is louder and brighter for a faster bow.

The string alternately sticks to the bow and slips. Its motion is a sawtooth, with harmonics that fall as 1/k,
filtered by the resonances of a body. Between strokes it rings for a moment. The bow's hair adds noise.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import butter, iirpeak, lfilter, sosfilt

from kinetophone.hits.audio import SAMPLE_RATE
from kinetophone.hits.scene import SECONDS
from kinetophone.study.bows.scene import CURVE_RATE, Scene

RING_S = 0.05  # time to decay to 1/e after the bow stops
_BODY_HZ = {
    "violin": (290.0, 460.0, 2400.0),
    "viola": (230.0, 370.0, 1900.0),
    "cello": (110.0, 200.0, 1300.0),
}


def render_audio(scene: Scene) -> np.ndarray:
    """Waveform of a scene, float32 ``(64000,)`` in [-1, 1] at 16 kHz."""
    rng = np.random.default_rng(scene.audio_seed)
    total = round(SECONDS * SAMPLE_RATE)
    t = np.arange(total) / SAMPLE_RATE
    speed = np.interp(t, (np.arange(len(scene.speed())) + 0.5) / CURVE_RATE, scene.speed())
    ringing = _ringing(speed)
    wander = gaussian_filter1d(rng.standard_normal(len(scene.speed())), 8)
    wander = np.interp(t, np.arange(len(wander)) / CURVE_RATE, wander)
    hertz = scene.open_hz * 2 ** ((np.asarray(scene.finger(t)) + 0.15 * wander) / 12)
    phase = 2 * np.pi * np.cumsum(hertz) / SAMPLE_RATE
    tone = np.zeros(total)
    for k in range(1, 31):
        audible = hertz * k < 0.45 * SAMPLE_RATE
        # A faster bow is brighter: high harmonics grow more with speed.
        level = ringing ** (0.8 + 0.06 * k) / k
        tone += np.where(audible, level, 0) * np.sin(k * phase + rng.uniform(0, 2 * np.pi))
    body = sum(lfilter(*iirpeak(hz, 4, fs=SAMPLE_RATE), tone) for hz in _BODY_HZ[scene.instrument])
    hair = sosfilt(
        butter(2, (1500, 6000), "bandpass", fs=SAMPLE_RATE, output="sos"), rng.standard_normal(total)
    )
    floor = rng.standard_normal(total) * 10 ** rng.uniform(-4.6, -4.1)
    return np.tanh(0.35 * tone + 0.5 * body + 0.035 * speed * hair + floor).astype(np.float32)


def _ringing(speed: np.ndarray) -> np.ndarray:
    """Amplitude of the string: the bow's speed, or the decaying rest of an earlier speed."""
    blocks = speed.reshape(-1, 16)
    keep = np.exp(-blocks.shape[1] / SAMPLE_RATE / RING_S)
    held, level = np.empty(len(blocks)), 0.0
    for i, now in enumerate(blocks.max(axis=1)):
        level = max(float(now), level * keep)
        held[i] = level
    return np.interp(np.arange(len(speed)), np.arange(len(held)) * 16 + 8, held)

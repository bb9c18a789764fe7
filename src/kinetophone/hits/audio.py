"""The audio of a ``hits`` scene: modal synthesis with one bank of damped modes per material.

A strike excites all modes of the object. Their strength depends on the force (louder *and* brighter) and
on the hardness of the tool. A short noise burst represents the contact, and a sparse exponential tail the
room. This module needs NumPy and SciPy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.signal import butter, fftconvolve, sosfilt

from kinetophone.hits.scene import SECONDS, Scene

SAMPLE_RATE = 16_000


@dataclass(frozen=True, kw_only=True)
class ModeBank:
    """Modes of a material, at ``ratios`` times a fundamental that decreases with the object's size."""

    fundamental_hz: tuple[float, float]  # smallest, largest object
    ratios: tuple[float, ...]
    decay_s: float  # T60 of the first mode; mode k has decay_s * ratio_k ** -damping
    damping: float
    noise: float  # level of the contact burst
    noise_hz: float  # its low-pass cut-off
    gain: float


BANKS = {
    # The partials of bowls and pots are inharmonic and ring for a long time.
    "metal": ModeBank(
        fundamental_hz=(900, 420), ratios=(1, 1.58, 2.24, 2.92, 3.46, 4.6, 6.1), decay_s=1.1, damping=0.55,
        noise=0.25, noise_hz=6500, gain=0.55,
    ),
    # A free bar, strongly damped: a dry knock.
    "wood": ModeBank(
        fundamental_hz=(620, 280), ratios=(1, 2.57, 4.95, 7.9), decay_s=0.16, damping=0.5,
        noise=0.5, noise_hz=3500, gain=0.9,
    ),
    "glass": ModeBank(
        fundamental_hz=(2300, 1300), ratios=(1, 1.34, 2.1, 2.75, 3.3), decay_s=0.45, damping=0.7,
        noise=0.3, noise_hz=7500, gain=0.55,
    ),
    # A round membrane: zeros of the Bessel functions.
    "drum": ModeBank(
        fundamental_hz=(190, 95), ratios=(1, 1.59, 2.14, 2.3, 2.65, 2.92, 3.5), decay_s=0.4, damping=0.8,
        noise=0.5, noise_hz=2200, gain=1.0,
    ),
    "cloth": ModeBank(
        fundamental_hz=(110, 70), ratios=(1, 1.7), decay_s=0.1, damping=0.5,
        noise=1.6, noise_hz=650, gain=0.9,
    ),
}  # fmt: skip
HARDNESS = {"drumstick": 0.65, "mallet": 0.35, "hammer": 1.0}


def strike_audio(
    scene: Scene, force: float, rng: np.random.Generator, sample_rate: int = SAMPLE_RATE
) -> np.ndarray:
    """The sound of one strike without the room, float64 ``(samples,)``, starting at the contact."""
    bank = BANKS[scene.material]
    small, large = bank.fundamental_hz
    ratios = np.array(bank.ratios)
    hertz = small * (large / small) ** scene.size * ratios
    decay = bank.decay_s * ratios**-bank.damping
    keep = hertz < 0.46 * sample_rate
    brightness = 0.25 + 0.75 * force * HARDNESS[scene.tool]
    level = np.exp(-(ratios - 1) * (1 - brightness)) * rng.uniform(0.6, 1.0, len(ratios))
    length = int(sample_rate * min(decay[keep].max() * 1.2, SECONDS))
    t = np.arange(length) / sample_rate
    glide = 1 + 0.12 * np.exp(-t / 0.03) if scene.material == "drum" else np.ones_like(t)
    phase = 2 * np.pi * np.cumsum(glide) / sample_rate
    out = np.zeros(length)
    for f, d, a in zip(hertz[keep], decay[keep], level[keep], strict=True):
        out += a * np.sin(f * phase) * np.exp(-6.9 * t / d)
    out /= max(level[keep].sum(), 1e-9) ** 0.5
    burst = rng.standard_normal(min(length, int(0.08 * sample_rate)))
    burst *= np.exp(-np.arange(len(burst)) / sample_rate / (0.016 if scene.material == "cloth" else 0.004))
    cutoff = min(bank.noise_hz * (0.5 + 0.5 * brightness), 0.45 * sample_rate)
    out[: len(burst)] += bank.noise * sosfilt(butter(2, cutoff, fs=sample_rate, output="sos"), burst)
    return out * bank.gain * force**1.3 * 0.5


def render_audio(scene: Scene, sample_rate: int = SAMPLE_RATE, seconds: float = SECONDS) -> np.ndarray:
    """Waveform of a scene, float32 ``(samples,)`` in [-1, 1].

    Loudness is not normalised per clip, because it carries the force. A soft limiter keeps peaks below 1.
    """
    rng = np.random.default_rng(scene.audio_seed)
    total = round(seconds * sample_rate)
    dry = np.zeros(total)
    for strike in scene.strikes:
        start = round(strike.time_s * sample_rate)
        # When the tool touches the object again, it damps the sound that is still ringing.
        dry[start:] *= 0.6
        sound = strike_audio(scene, strike.force, rng, sample_rate)[: total - start]
        dry[start : start + len(sound)] += sound
    tail_s = rng.uniform(0.1, 0.3)
    samples = np.arange(int(tail_s * sample_rate))
    tail = rng.standard_normal(len(samples)) * np.exp(-6.9 * samples / len(samples))
    tail[0] = 0
    wet = fftconvolve(dry, tail)[:total] * rng.uniform(0.01, 0.03)
    floor = rng.standard_normal(total) * 10 ** rng.uniform(-4.6, -4.1)
    return np.tanh(dry + wet + floor).astype(np.float32)

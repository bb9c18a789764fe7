"""Onset detection in audio, and the onset strength curve.

The published AV-Align detector takes every local maximum. This detector requires a peak to stand out from
its clip, so that noise and ringing tails are not onsets. All parameters are keyword defaults, chosen once on
procedural clips with known strikes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kinetophone.media.librosa_loading import load_librosa

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kinetophone.media.clip import Waveform

CURVE_RATE = 100  # values per second of the continuous curves


def onsets_from_audio(
    waveform: Waveform,
    sample_rate: int,
    *,
    relative_rise: float = 0.25,
    least_level_dbfs: float = -50.0,
    below_loudest_db: float = 35.0,
    least_gap_s: float = 0.08,
) -> NDArray[np.float64]:
    """Detect onsets of percussive sounds.

    The onset strength is librosa's spectral flux over mel bands (10 ms steps). A peak counts if it stands
    out and the audio right after it is audible.

    Args:
        waveform: float32 (N,) in [-1, 1].
        sample_rate: Sample rate in Hz.
        relative_rise: Minimum prominence of a peak, as a fraction of the clip's maximum onset strength.
        least_level_dbfs: Minimum level (RMS over 50 ms after the onset) in dBFS.
        below_loudest_db: How far this level may be below the clip's loudest 50 ms, in dB.
        least_gap_s: Of onsets closer together than this, in seconds, only the strongest counts.

    Returns:
        Times in seconds, ascending; empty for silence. A sound that is present from the first sample has no
        onset, because it may have started earlier. A sound that starts in the last 26 ms has none either.
    """
    from scipy.signal import find_peaks

    strength, starts_samples, window = _spectral_flux(waveform, sample_rate)
    if not len(strength) or strength.max() <= 0:
        return np.zeros(0)
    hop = starts_samples[1] - starts_samples[0]
    peaks, _ = find_peaks(
        np.concatenate([[0.0], strength, [0.0]]),
        prominence=relative_rise * strength.max(),
        distance=max(1, round(least_gap_s * sample_rate / hop)),
    )
    starts = starts_samples[peaks - 1]
    # If the audio ends abruptly, the windows that reach the end see a click.
    starts = starts[(starts >= 0) & (starts < len(waveform) - window // 2 - hop)]
    span = max(1, round(0.05 * sample_rate))
    energy = np.concatenate([[0.0], np.cumsum(np.square(waveform, dtype=np.float64))])
    power = (energy[span:] - energy[:-span]) / span if len(waveform) >= span else energy[-1:] / len(waveform)
    gate = max(10 ** (least_level_dbfs / 10), float(power.max()) * 10 ** (-below_loudest_db / 10))
    ends = np.minimum(starts + span, len(waveform))
    after = (energy[ends] - energy[starts]) / (ends - starts)
    return starts[after >= gate] / sample_rate


def onset_strength(waveform: Waveform, sample_rate: int) -> NDArray[np.float64]:
    """Onset strength over time: spectral flux over mel bands.

    Args:
        waveform: float32 (N,) in [-1, 1].
        sample_rate: Sample rate in Hz.

    Returns:
        (round(100 N / sample_rate),): a value of at least 0, in dB, every 10 ms from the first sample on.
    """
    times_s = np.arange(round(CURVE_RATE * len(waveform) / sample_rate)) / CURVE_RATE
    strength, starts, _ = _spectral_flux(waveform, sample_rate)
    if not len(strength):
        return np.zeros(len(times_s))
    return np.interp(times_s, starts / sample_rate, strength)


def _spectral_flux(
    waveform: Waveform, sample_rate: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], int]:
    """Onset strength in steps of about 10 ms, the start sample of each step's window, the window length."""
    hop, window = max(1, round(0.01 * sample_rate)), 1 << max(6, round(np.log2(0.032 * sample_rate)))
    if not np.any(waveform):
        return np.zeros(0), np.zeros(0, np.int64), window
    librosa = load_librosa()
    # Mirrored: padding with silence would create an onset for a sound that is present from the start.
    lead = 4 * window
    padded = np.pad(waveform, lead, mode="symmetric")
    mel = librosa.feature.melspectrogram(
        y=padded, sr=sample_rate, n_fft=window, hop_length=hop, n_mels=64, fmin=60, fmax=sample_rate / 2
    )
    levels_db = 10.0 * np.log10(np.maximum(mel, 1e-10))
    # Ignore the noise floor: without this limit a faint noise after silence is a large rise in dB.
    levels_db = np.maximum(levels_db, levels_db.max() - 60.0)
    strength = librosa.onset.onset_strength(S=levels_db, sr=sample_rate, hop_length=hop, center=False)
    return np.asarray(strength, np.float64), np.arange(len(strength)) * hop - lead, window

"""How well two curves rise together, and by how much one is late: no peak is picked, nothing is counted.

The picture's curve is the contact curve (``kinetophone.metrics.contacts``), the sound's its onset strength
(``kinetophone.media.onsets``). Their correlation over time lags says more of one clip than a handful of
matched peaks does.

The lag is not simply where the correlation is highest. With few events, or long gestures, the correlation is
about as high over a wide range of lags, and its top is anywhere in it. So every lag is weighed: by how well
the curves agree there, once with the contact curve adapted (an event is where a gesture begins) and once
without (it is the whole gesture), and by how common such a lag is. The lag is the mean of these weights, and
they give its interval. The blur and the square root were chosen with procedural clips of known delay and a
dozen real clips in view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from kinetophone.media.onsets import CURVE_RATE
from kinetophone.metrics.contacts import EARLY_FRAMES, adapted
from kinetophone.metrics.control import Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Curve = Sequence[float] | NDArray[np.floating]

# Longest lag looked for on either side, in seconds: half the interval of brisk strikes. A regular beat
# matches itself again one interval on, so a longer reach finds wrong lags rather than long ones.
LARGEST_LAG_S = 0.3

# How far the sound of a clip is off as a rule (standard deviation, seconds): lags spread evenly over what
# broadcasters accept, 0.09 s early to 0.185 s late (ITU-R BT.1359). It decides where the curves say little.
_COMMON_LAG_S = 0.08

# Both curves are blurred by this, half the shortest time between two onsets, so that a frame's worth of
# rounding does not decide.
_BLUR_S = 0.04

_REACH = round(LARGEST_LAG_S * CURVE_RATE)
LAGS_S = np.arange(-_REACH, _REACH + 1) / CURVE_RATE


@dataclass(frozen=True, slots=True)
class Lag:
    """How late the sound is.

    Attributes:
        lag_s: Seconds by which the sound comes after the picture; negative where it comes before.
        interval: The lag is in it with a probability of 95 %.
    """

    lag_s: float
    interval: Interval


def synchrony(contact: Curve, fps: float | Fraction, strength: Curve) -> float:
    """Correlation of the adapted contact curve with the onset strength, without a lag, in [-1, 1].

    Args:
        contact: (T,), see ``contact_curve``.
        fps: Its frames per second.
        strength: (S,) every 10 ms, see ``onset_strength``. The longer of the two is cut.

    Returns:
        0 where a curve is flat, or too short.
    """
    picture, sound = _curves(adapted(np.asarray(contact, np.float64), fps), fps, strength, EARLY_FRAMES)
    return _correlation(picture, sound)


def lag_evidence(contact: Curve, fps: float | Fraction, strength: Curve) -> NDArray[np.float64]:
    """How well each lag explains the curves; arguments as in ``synchrony``.

    If the sound's curve is the picture's, shifted and scaled, in Gaussian noise, the log-likelihood of a lag
    is -n/2 log(1 - r^2), with r the correlation there and n the number of independent samples.

    Returns:
        (61,): log-likelihoods of ``LAGS_S``, up to a constant, for the adapted and the plain curve being
        equally likely to be the right one. Those of several clips may be added. 0 where nothing correlates.
    """
    plain = np.asarray(contact, np.float64)
    both = [
        _log_likelihood(*_curves(adapted(plain, fps), fps, strength, EARLY_FRAMES)),
        _log_likelihood(*_curves(plain, fps, strength, 0.0)),
    ]
    return np.asarray(np.logaddexp(*both) - np.log(2.0))


def find_lag(evidence: NDArray[np.floating]) -> Lag | None:
    """The lag, from ``lag_evidence`` or its sum over clips; None where no lag has any evidence."""
    if not np.any(evidence > 0):
        return None
    logs = evidence - 0.5 * np.square(LAGS_S / _COMMON_LAG_S)
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    low, high = np.searchsorted(np.cumsum(weights), [0.025, 0.975])
    return Lag(float(weights @ LAGS_S), Interval(float(LAGS_S[low]), float(LAGS_S[high])))


def _curves(
    contact: NDArray[np.float64], fps: float | Fraction, strength: Curve, late_frames: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both curves every 10 ms, as long as the shorter: what stands out, blurred."""
    from scipy.ndimage import gaussian_filter1d

    steps = min(len(strength), round(len(contact) / float(fps) * CURVE_RATE))
    if steps == 0:
        return np.zeros(0), np.zeros(0)
    times_s = np.arange(steps) / CURVE_RATE
    picture = np.interp(times_s, (np.arange(len(contact)) + late_frames) / float(fps), contact)
    picture, sound = _standing_out(picture), _standing_out(np.asarray(strength, np.float64)[:steps])
    # The picture's curve is heavy-tailed: one wild gesture would outweigh ten contacts.
    blur = _BLUR_S * CURVE_RATE
    return gaussian_filter1d(np.sqrt(picture), blur), gaussian_filter1d(sound, blur)


def _log_likelihood(picture: NDArray[np.float64], sound: NDArray[np.float64]) -> NDArray[np.float64]:
    steps, logs = len(picture), np.zeros(len(LAGS_S))
    samples = _independent_samples(picture, sound)
    for index, lag in enumerate(range(-_REACH, _REACH + 1)):
        here = picture[max(0, -lag) : steps + min(0, -lag)]
        there = sound[max(0, lag) : steps + min(0, lag)]
        correlation = min(max(0.0, _correlation(here, there)), 0.999)
        logs[index] = -0.5 * samples * np.log(1.0 - correlation**2)
    return logs


def _independent_samples(picture: NDArray[np.float64], sound: NDArray[np.float64]) -> float:
    """How many independent samples are worth as much as these (Bartlett 1935): T / sum of r_p(k) r_s(k)."""
    if len(picture) < 3:
        return 0.0
    picture, sound = picture - picture.mean(), sound - sound.mean()
    scale = float((picture @ picture) * (sound @ sound))
    if scale < 1e-24:
        return 0.0
    alike = float(np.correlate(picture, picture, "full") @ np.correlate(sound, sound, "full")) / scale
    return len(picture) / max(alike, 1.0)


def _standing_out(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(curve - np.median(curve), 0.0)


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    if len(one) < 3:
        return 0.0
    one, other = one - one.mean(), other - other.mean()
    scale = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / scale if scale > 1e-12 else 0.0

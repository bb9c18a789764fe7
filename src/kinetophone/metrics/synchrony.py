"""Synchrony and audio lag from the correlation of two curves, without detecting or counting peaks.

The video curve is the contact curve (``kinetophone.metrics.contacts``), the audio curve is the onset strength
(``kinetophone.media.onsets``). Their correlation over time lags says more about a single clip than a handful
of matched peaks.

The lag is not simply the maximum of the correlation. With few events, or long gestures, the correlation is
about equally high over a wide range of lags, and its maximum can be anywhere in that range. Instead, every
lag gets a posterior weight. The likelihood comes from the correlation, once with the adapted contact curve
(an event is the start of a gesture) and once with the plain curve (it is the entire gesture). The prior says
how common a lag is. The estimate is the posterior mean, and the weights also give its interval. The blur and
the square root were chosen on procedural clips with known delays and on a dozen real clips.
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

# Maximum lag in either direction, in seconds: half the interval of fast strikes. A regular beat matches
# itself again one interval later, so a longer range would find wrong lags.
LARGEST_LAG_S = 0.3

# Standard deviation of the prior for the lag, in seconds: that of lags distributed uniformly over what
# broadcasters accept, 0.09 s early to 0.185 s late (ITU-R BT.1359). It matters if the curves say little.
COMMON_LAG_S = 0.08

# Standard deviation of the blur of both curves, in seconds: half the minimum time between two onsets. It
# makes the result robust to rounding by a frame.
_BLUR_S = 0.04


@dataclass(frozen=True, slots=True)
class Lag:
    """An estimated audio lag.

    Attributes:
        lag_s: Seconds by which the audio is later than the video; negative if it is earlier.
        interval: 95 % credible interval of the lag.
    """

    lag_s: float
    interval: Interval


def synchrony(contact: Curve, fps: float | Fraction, strength: Curve) -> float:
    """Correlation of the adapted contact curve with the onset strength at zero lag.

    Args:
        contact: (T,), see ``contact_curve``.
        fps: Frames per second of the contact curve.
        strength: (S,) every 10 ms, see ``onset_strength``. The longer of the two curves is cut.

    Returns:
        A value in [-1, 1]; 0 if a curve is constant or too short.
    """
    picture, sound = _curves(adapted(np.asarray(contact, np.float64), fps), fps, strength, EARLY_FRAMES)
    return _correlation(picture, sound)


def lag_evidence(
    contact: Curve, fps: float | Fraction, strength: Curve, largest_s: float = LARGEST_LAG_S
) -> NDArray[np.float64]:
    """Log-likelihood of each lag up to ``largest_s`` in either direction; others are as in ``synchrony``.

    If the audio curve is the video curve, shifted and scaled, plus Gaussian noise, the log-likelihood of a
    lag is -n/2 log(1 - r^2), with r the correlation at that lag and n the number of independent samples.

    Returns:
        (lags,): log-likelihoods every 10 ms, up to a constant, averaged over the adapted and the plain curve
        with equal probability. Those of several clips can be added. 0 if nothing correlates.
    """
    plain, reach = np.asarray(contact, np.float64), round(largest_s * CURVE_RATE)
    both = [
        _log_likelihood(*_curves(adapted(plain, fps), fps, strength, EARLY_FRAMES), reach),
        _log_likelihood(*_curves(plain, fps, strength, 0.0), reach),
    ]
    return np.asarray(np.logaddexp(*both) - np.log(2.0))


def find_lag(
    evidence: NDArray[np.floating], common_s: float = COMMON_LAG_S, frame_s: float = 0.0
) -> Lag | None:
    """Estimate the lag from ``lag_evidence`` or its sum over clips; None if there is no evidence.

    Args:
        evidence: Log-likelihoods of the lags.
        common_s: Standard deviation of the prior for the lag, in seconds.
        frame_s: Time between two frames, in seconds. An event may be anywhere between them, so the interval
            is at least about this wide.
    """
    if not np.any(evidence > 0):
        return None
    reach = len(evidence) // 2
    lags_s = np.arange(-reach, reach + 1) / CURVE_RATE
    logs = evidence - 0.5 * np.square(lags_s / common_s)
    weights = np.exp(logs - logs.max())
    width = max(1, round(frame_s * CURVE_RATE))
    weights = np.convolve(weights / weights.sum(), np.full(width, 1 / width), "same")
    weights /= weights.sum()
    low, high = np.searchsorted(np.cumsum(weights), [0.025, 0.975])
    return Lag(float(weights @ lags_s), Interval(float(lags_s[low]), float(lags_s[high])))


def _curves(
    contact: NDArray[np.float64], fps: float | Fraction, strength: Curve, late_frames: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Resample both curves to 10 ms, cut them to the shorter one, subtract the median and blur them."""
    from scipy.ndimage import gaussian_filter1d

    steps = min(len(strength), round(len(contact) / float(fps) * CURVE_RATE))
    if steps == 0:
        return np.zeros(0), np.zeros(0)
    times_s = np.arange(steps) / CURVE_RATE
    picture = np.interp(times_s, (np.arange(len(contact)) + late_frames) / float(fps), contact)
    picture, sound = _above_median(picture), _above_median(np.asarray(strength, np.float64)[:steps])
    # The square root, because the video curve is heavy-tailed: one wild gesture would outweigh ten contacts.
    blur = _BLUR_S * CURVE_RATE
    return gaussian_filter1d(np.sqrt(picture), blur), gaussian_filter1d(sound, blur)


def _log_likelihood(
    picture: NDArray[np.float64], sound: NDArray[np.float64], reach: int
) -> NDArray[np.float64]:
    steps, logs = len(picture), np.zeros(2 * reach + 1)
    samples = _independent_samples(picture, sound)
    for index, lag in enumerate(range(-reach, reach + 1)):
        here = picture[max(0, -lag) : steps + min(0, -lag)]
        there = sound[max(0, lag) : steps + min(0, lag)]
        correlation = min(max(0.0, _correlation(here, there)), 0.999)
        logs[index] = -0.5 * samples * np.log(1.0 - correlation**2)
    return logs


def _independent_samples(picture: NDArray[np.float64], sound: NDArray[np.float64]) -> float:
    """Effective number of independent samples (Bartlett 1935): T / sum of r_p(k) r_s(k)."""
    if len(picture) < 3:
        return 0.0
    picture, sound = picture - picture.mean(), sound - sound.mean()
    scale = float((picture @ picture) * (sound @ sound))
    if scale < 1e-24:
        return 0.0
    alike = float(np.correlate(picture, picture, "full") @ np.correlate(sound, sound, "full")) / scale
    return len(picture) / max(alike, 1.0)


def _above_median(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(curve - np.median(curve), 0.0)


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    if len(one) < 3:
        return 0.0
    one, other = one - one.mean(), other - other.mean()
    scale = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / scale if scale > 1e-12 else 0.0

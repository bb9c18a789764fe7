"""How well two curves rise together, and by how much one is late: no peak is picked, nothing is counted.

The picture's curve is the contact curve (``kinetophone.metrics.contacts``), the sound's its onset strength
(``kinetophone.metrics.detectors``). Their correlation over time lags says more of one clip than a
handful of matched peaks does, and gives the lag. The blur and the square root were chosen with procedural
clips of known delay and a dozen real clips in view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from kinetophone.metrics.detectors import CURVE_RATE

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Longest lag looked for on either side, in seconds: half the interval of brisk strikes. A regular beat
# matches itself again one interval on, so a longer reach finds wrong lags rather than long ones.
LARGEST_LAG_S = 0.3

# Both curves are blurred by this, so that a frame's worth of rounding does not decide.
_BLUR_S = 0.03


@dataclass(frozen=True, slots=True)
class Lag:
    """How late the sound is.

    Attributes:
        lag_s: Seconds by which the sound comes after the picture; negative where it comes before.
        correlation: Correlation of the curves at that lag, in [-1, 1].
    """

    lag_s: float
    correlation: float


def correlations(
    contact: Sequence[float] | NDArray[np.floating],
    fps: float | Fraction,
    strength: Sequence[float] | NDArray[np.floating],
    *,
    largest_lag_s: float = LARGEST_LAG_S,
) -> NDArray[np.float64]:
    """Correlation of the picture's and the sound's curve at each lag.

    Args:
        contact: (T,), see ``contact_curve``.
        fps: Its frames per second.
        strength: (S,) every 10 ms, see ``onset_strength``. The longer of the two is cut.
        largest_lag_s: Lags run from minus this to plus this.

    Returns:
        One value in [-1, 1] every 10 ms, (2 round(100 largest_lag_s) + 1,); positive lags are those of a late
        sound. 0 where a curve is flat, or too short for the lag.
    """
    from scipy.ndimage import gaussian_filter1d

    steps = min(len(strength), round(len(contact) / float(fps) * CURVE_RATE))
    reach = round(largest_lag_s * CURVE_RATE)
    result = np.zeros(2 * reach + 1)
    if steps < 3:
        return result
    times_s = np.arange(steps) / CURVE_RATE
    picture = np.interp(times_s, np.arange(len(contact)) / float(fps), np.asarray(contact, np.float64))
    picture, sound = _standing_out(picture), _standing_out(np.asarray(strength, np.float64)[:steps])
    # The picture's curve is heavy-tailed: one wild gesture would outweigh ten contacts.
    blur = _BLUR_S * CURVE_RATE
    picture, sound = gaussian_filter1d(np.sqrt(picture), blur), gaussian_filter1d(sound, blur)
    for index, lag in enumerate(range(-reach, reach + 1)):
        here = picture[max(0, -lag) : steps + min(0, -lag)]
        there = sound[max(0, lag) : steps + min(0, lag)]
        result[index] = _correlation(here, there)
    return result


def synchrony(
    contact: Sequence[float] | NDArray[np.floating],
    fps: float | Fraction,
    strength: Sequence[float] | NDArray[np.floating],
) -> float:
    """Correlation of the curves as they are, without a lag, in [-1, 1]; arguments as in ``correlations``."""
    return float(correlations(contact, fps, strength, largest_lag_s=0.0)[0])


def best_lag(correlation: NDArray[np.floating]) -> Lag | None:
    """The lag of the highest correlation; None where no lag correlates.

    Args:
        correlation: As ``correlations`` returns it, or the mean of several clips'.
    """
    best = int(np.argmax(correlation))
    if correlation[best] <= 0:
        return None
    return Lag((best - len(correlation) // 2) / CURVE_RATE, float(correlation[best]))


def _standing_out(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(curve - np.median(curve), 0.0)


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    if len(one) < 3:
        return 0.0
    one, other = one - one.mean(), other - other.mean()
    scale = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / scale if scale > 1e-12 else 0.0

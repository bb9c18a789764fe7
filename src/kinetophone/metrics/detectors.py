"""Our own detector of strikes in the picture; that of onsets in the sound is :mod:`kinetophone.media.onsets`.

It is not the published AV-Align detector (that is in ``kinetophone.metrics.alignment``) and is never reported
under that name. The published one takes every local maximum; this one asks that a peak stand out from its
clip, so that camera movement and noise are no events. All parameters are keyword defaults, chosen once on
procedural clips with known strikes.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from kinetophone.metrics.alignment import flow_curve

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kinetophone.media.clip import Frames


def strikes_from_video(frames: Frames, fps: float | Fraction, **parameters: float) -> NDArray[np.float64]:
    """Strikes in the picture, in seconds; parameters as in ``strikes_from_flow``.

    Args:
        frames: uint8 (T, H, W, 3), red-green-blue.
        fps: Frames per second.
        **parameters: Passed on by name; an unknown name is a TypeError.
    """
    return strikes_from_flow(flow_curve(frames), fps, width_px=frames.shape[2], **parameters)


def strikes_from_flow(
    flow: NDArray[np.floating],
    fps: float | Fraction,
    *,
    width_px: int,
    relative_prominence: float = 0.3,
    own_prominence: float = 0.4,
    attack: float = 0.6,
    least_speed: float = 0.0005,
    least_gap_s: float = 0.15,
) -> NDArray[np.float64]:
    """Strikes in a flow curve: its peaks that stand out from the rest of the clip.

    A strike is a burst: the fast stick, the flash or shake of the contact, then a slower lift. What stands
    out is judged by prominence (how far one must descend from a peak to reach a higher one), so that a slow
    pan, which lifts the whole curve, changes nothing. A burst may last two frames; its first is the strike.

    Args:
        flow: (T,) mean flow into each frame, pixels per frame, see ``flow_curve``.
        fps: Frames per second.
        width_px: Width of the frames, which makes the flow independent of the picture's size.
        relative_prominence: Least prominence, as a share of the range from the curve's median to its
            highest peaks.
        own_prominence: Least prominence, as a share of the peak's own height; tells a burst from the ripples
            of the movement that follows it.
        attack: The frame before a peak is taken instead where the flow into it is at least this share of the
            peak's: there the burst had begun.
        least_speed: Least prominence in widths per frame; keeps a still clip's noise from counting.
        least_gap_s: Of peaks closer than this in seconds only the highest counts.

    Returns:
        Times of the frames, in seconds, rising.
    """
    from scipy.signal import find_peaks

    speed = np.asarray(flow, np.float64)[1:] / width_px
    if len(speed) < 2:
        return np.zeros(0)
    # The flow into the first frame is a copy and left out. The zero on either side lets the first and last
    # real value be peaks.
    padded = np.concatenate([[0.0], speed, [0.0]])
    reach = float(np.quantile(speed, 0.98) - np.median(speed))
    peaks, properties = find_peaks(
        padded,
        prominence=max(relative_prominence * reach, least_speed),
        distance=max(1, round(least_gap_s * float(fps))),
    )
    peaks = peaks[properties["prominences"] >= own_prominence * padded[peaks]]
    begun = (padded[peaks - 1] >= attack * padded[peaks]) & (peaks > 1)
    # Entry k of the padded curve is the flow from frame k - 1 into frame k.
    return np.where(begun, peaks - 1, peaks) / float(fps)

"""Our detector of strikes in video; our detector of audio onsets is :mod:`kinetophone.media.onsets`.

It is not the published AV-Align detector (that is in ``kinetophone.metrics.alignment``) and is never reported
under that name. The published one takes every local maximum. This one requires a peak to stand out from its
clip, so that camera motion and noise are not events. All parameters are keyword defaults, chosen once on
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
    """Detect strikes in a video.

    Args:
        frames: uint8 (T, H, W, 3), red-green-blue.
        fps: Frames per second.
        **parameters: Keyword parameters of ``strikes_from_flow``.

    Returns:
        Times of the frames in seconds, ascending.
    """
    return strikes_from_flow(flow_curve(frames, exact=False), fps, width_px=frames.shape[2], **parameters)


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
    """Detect strikes in a flow curve: peaks that stand out from the rest of the clip.

    A strike is a burst of motion: the fast stick, the flash or shake of the contact, then a slower lift.
    Peaks are selected by prominence (how far one must descend from a peak to reach a higher one), so that a
    slow pan, which raises the entire curve, has no effect. If a burst lasts two frames, the first is taken.

    Args:
        flow: (T,) mean flow into each frame, pixels per frame, see ``flow_curve``.
        fps: Frames per second.
        width_px: Width of the frames, used to make the flow independent of their size.
        relative_prominence: Minimum prominence, as a fraction of the range from the curve's median to its
            98 % quantile.
        own_prominence: Minimum prominence, as a fraction of the peak's own height. It separates a burst from
            the ripples of the movement that follows.
        attack: Take the frame before a peak instead if its flow is at least this fraction of the peak's,
            because the burst has already begun there.
        least_speed: Minimum prominence in widths per frame, so that noise in a static clip does not count.
        least_gap_s: Of peaks closer together than this, in seconds, only the highest counts.

    Returns:
        Times of the frames in seconds, ascending.
    """
    from scipy.signal import find_peaks

    speed = np.asarray(flow, np.float64)[1:] / width_px
    if len(speed) < 2:
        return np.zeros(0)
    # The first value repeats the second and is dropped. The zeros at both ends allow the first and last
    # values to be peaks.
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

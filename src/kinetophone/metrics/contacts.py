"""Detection of contacts in video: moments at which moving objects stop, reverse or hit something.

The published metrics look for peaks of the mean flow magnitude. That is high on the approach, on the retreat
and whenever the camera shakes, but it does not mark the contact, where motion *changes*. Here each frame is
compared with its two neighbours after camera motion is removed. Four cues are computed that an impact causes
within one frame and muscles do not:

- *stopping*: the velocity that a pixel loses in one frame. It has full weight for an upward change, half
  weight for a sideways change and none for a downward change. Objects are mostly struck from above, and at
  the top of a swing a tool stops silently.
- *change of velocity* in any direction: recoil, jolts, and objects that start to move when they are hit.
- *arriving*: brightness that changes into this frame but not into the next one. Optical flow cannot follow a
  thin stick that crosses half the image between two frames, but its arrival is visible.
- *appearing*: the root mean square of the brightness change into this frame, so that a small fast object
  counts for more than a slow change everywhere.

The first three are averaged over the image. Each cue is divided by its mean over the clip, and the four are
added; no weights are fitted. What follows a contact (rebound, recoil, a hand that moves on) is not a new
event. The curve is therefore *adapted*, as in hearing: each value counts only as far as it exceeds the
previous ones.

The required prominence of a peak and the decay of the adaptation were chosen on procedural clips with known
strikes. So were the cues, but the candidates came from physics and from a dozen real clips. Results on those
real clips are therefore optimistic.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kinetophone.media.clip import Frames

# Frames are resized so that their shorter side has this many pixels; flow is measured in these pixels.
SIDE_PX = 128

# Lower limits of the means that cues are divided by, so that noise in a static video is not amplified into
# events. In pixels per frame, and in grey levels from 0 to 255.
_LEAST_FLOW_PX = 0.01
_LEAST_CHANGE = 0.05

# Time constant of the adaptation's decay, in seconds.
_FADING_S = 0.4

# For a contact between two frames the adapted curve keeps the first. On procedural clips this is early by
# this many frames. (Expected: 0.19, for contacts at uniformly distributed phases and no decay.)
EARLY_FRAMES = 0.2

# A frame between moving frames is a copy if its change is below this fraction of the median change.
_COPY_CHANGE = 0.1


def contact_curve(frames: Frames) -> NDArray[np.float64]:
    """How much each frame looks like a contact.

    Args:
        frames: uint8 (T, H, W, 3), red-green-blue.

    Returns:
        (T,), at least 0, without a unit. The first and the last frame, which have one neighbour only, are 0,
        and so are duplicated frames (as in 25 fps converted to 30). The mean over a clip is at most 4.
    """
    import cv2

    curve = np.zeros(len(frames))
    greys = [_small_grey(frame) for frame in frames]
    kept = _without_copies(greys)
    if len(kept) < 3:
        return curve
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    cues = np.array([_cues(flow, *(greys[kept[i + j]] for j in (-1, 0, 1))) for i in range(1, len(kept) - 1)])
    floors = np.array([_LEAST_FLOW_PX, _LEAST_FLOW_PX, _LEAST_CHANGE, _LEAST_CHANGE])
    curve[kept[1:-1]] = (cues / np.maximum(cues.mean(axis=0), floors)).sum(axis=1)
    return curve


def adapted(curve: NDArray[np.floating], fps: float | Fraction) -> NDArray[np.float64]:
    """Apply adaptation to a contact curve, so that only increases remain.

    Args:
        curve: (T,), see ``contact_curve``.
        fps: Frames per second.

    Returns:
        (T,), at least 0: each value minus the maximum of the previous values, which decay with time. The
        mean of the curve is used as the value before the clip. Peaks are ``EARLY_FRAMES`` frames early.
    """
    fading = float(np.exp(-1.0 / (_FADING_S * float(fps))))
    new, memory = np.zeros(len(curve)), float(np.sum(curve)) / max(1, len(curve))
    for frame, value in enumerate(np.asarray(curve, np.float64).tolist()):
        new[frame] = max(0.0, value - memory)
        memory = max(memory * fading, value)
    return new


def contacts_from_curve(
    curve: NDArray[np.floating],
    fps: float | Fraction,
    *,
    relative_prominence: float = 0.25,
    least_gap_s: float = 0.2,
) -> NDArray[np.float64]:
    """Detect contacts: peaks of the adapted contact curve that stand out from their clip.

    Args:
        curve: (T,), see ``contact_curve``.
        fps: Frames per second.
        relative_prominence: Minimum prominence of a peak of the adapted curve, as a fraction of the range
            from its median to its 98 % quantile.
        least_gap_s: Of peaks closer together than this, in seconds, only the highest counts.

    Returns:
        Times in seconds, ascending: the times of the frames plus ``EARLY_FRAMES`` frames.
    """
    from scipy.signal import find_peaks

    new = adapted(curve, fps)
    if len(new) < 3 or not np.any(new > 0):
        return np.zeros(0)
    reach = float(np.quantile(new, 0.98) - np.median(new))
    peaks, _ = find_peaks(
        np.concatenate([[0.0], new, [0.0]]),
        # A single contact in a long clip does not change the quantile, so the mean is a lower limit.
        prominence=max(relative_prominence * reach, float(np.mean(new))),
        distance=max(1, round(least_gap_s * float(fps))),
    )
    return (peaks - 1 + EARLY_FRAMES) / float(fps)


def _small_grey(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import cv2

    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    scale = SIDE_PX / min(grey.shape)
    size = (max(SIDE_PX, round(grey.shape[1] * scale)), max(SIDE_PX, round(grey.shape[0] * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(grey, size, interpolation=method), np.uint8)


def _without_copies(greys: list[NDArray[np.uint8]]) -> NDArray[np.intp]:
    """Indices of the frames without single duplicates between moving frames."""
    import cv2

    change = np.array([float(cv2.absdiff(a, b).mean()) for a, b in pairwise(greys)])
    before = np.concatenate([[np.inf], change])  # entry k: change into frame k
    least = _COPY_CHANGE * float(np.median(change)) if len(change) else 0.0
    moved = np.concatenate([[True], before[1:] > least, [True]])
    copies = ~moved[1:-1] & moved[:-2] & moved[2:]
    return np.flatnonzero(~np.concatenate([[False], copies]))


def _cues(flow: Any, before: Any, here: Any, after: Any) -> tuple[float, float, float, float]:
    """Stopping, change of velocity (pixels per frame), arriving and appearing (grey levels) of a frame."""
    import cv2

    came, before = _without_camera(flow.calc(here, before, None), before)
    goes, after = _without_camera(flow.calc(here, after, None), after)
    came = -came
    change = goes - came
    size = np.hypot(change[..., 0], change[..., 1])
    speed = np.hypot(came[..., 0], came[..., 1])
    lost = np.maximum(speed - (came * goes).sum(axis=-1) / np.maximum(speed, 1e-3), 0.0)
    upwards = (1.0 - change[..., 1] / np.maximum(size, 1e-3)) / 2.0  # rows count downwards
    appeared = cv2.absdiff(here, before)
    arrived = cv2.subtract(appeared, cv2.absdiff(after, here))
    appearing = float(np.sqrt(np.square(appeared, dtype=np.float64).mean()))
    return float((lost * upwards).mean()), float(size.mean()), float(arrived.mean()), appearing


def _without_camera(
    flow: NDArray[np.float32], other: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Remove camera motion from the flow (H, W, 2) to another frame, and from that frame.

    Camera motion is the translation, rotation and zoom that fits most of the image (RANSAC).
    """
    import cv2

    height, width = flow.shape[:2]
    rows, columns = np.mgrid[4:height:8, 4:width:8]
    points = np.stack([columns.ravel(), rows.ravel()], axis=1).astype(np.float32)
    moved = points + flow[rows.ravel(), columns.ravel()]
    matrix, _ = cv2.estimateAffinePartial2D(points, moved, method=cv2.RANSAC, ransacReprojThreshold=0.5)
    if matrix is None:
        return flow, other
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    (a, b, c), (d, e, f) = matrix.astype(np.float32)
    camera = np.stack([(a - 1) * x + b * y + c, d * x + (e - 1) * y + f], axis=-1)
    still = cv2.warpAffine(
        other,
        matrix,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(flow - camera, np.float32), np.asarray(still, np.uint8)

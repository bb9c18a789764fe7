"""Contacts in the picture: where something that moved is stopped, turned back or knocked.

The published measures look for peaks of the mean flow's length. That is high on the approach, on the retreat
and whenever the camera shakes, and says nothing of the contact, where motion *changes*. Here each frame is
compared with the one before and the one after it, the camera's own motion taken out of both, and four
things are measured that an impact does in one frame and a muscle does not:

- *stopping*: how much of a place's velocity is gone a frame later, counted in full where the change is
  upwards, half where it is sideways and not at all where it is downwards. Things are mostly struck from
  above, and the top of a swing is where a tool stops without a sound.
- *change of velocity*, in any direction: recoil, a jolt, what is hit and begins to move.
- *arriving*: brightness that changed with this frame and does not with the next. A thin stick that crosses
  half the picture between two frames is beyond any optical flow, but it is seen to come and to stay.
- *appearing*: brightness that changed with this frame, as the root of its mean square, so that something
  small that flashes by counts for more than a slow change everywhere.

The first three are averaged over the picture. Each is divided by its mean over the clip, and the four are
added: no weights are fitted. What follows a contact (the rebound, the recoil, a hand that goes on) is no new
event: the curve is *adapted* as hearing is, each value counting only as far as it exceeds what was before.

How far a peak must stand out, and how fast adaptation fades, were chosen on procedural clips with known
strikes. Which cues to add was chosen on these too, but among candidates that had come from physics and from
looking at a dozen real clips, so on those the detector is at its best.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kinetophone.media.clip import Frames

# Frames are shrunk until their shorter side is this many pixels; the flow's unit below is this pixel.
_SIDE_PX = 128

# A cue whose mean over the clip is below this is divided by this instead: the noise of a still picture
# must not be blown up into events. Pixels per frame, and grey levels of 255.
_LEAST_FLOW_PX = 0.01
_LEAST_CHANGE = 0.05

# After this long the memory of a peak has faded to 1 / e.
_FADING_S = 0.4

# Of a contact between two frames the adapted curve keeps the first: on procedural clips it comes this much of
# a frame before the strike. (To be expected: 0.19, for contacts evenly between frames and unfading memory.)
EARLY_FRAMES = 0.2

# A frame that differs this little from the one before, between frames that do move, is a copy.
_COPY_CHANGE = 0.1


def contact_curve(frames: Frames) -> NDArray[np.float64]:
    """How much each frame looks like a contact.

    Args:
        frames: uint8 (T, H, W, 3), red-green-blue.

    Returns:
        (T,), at least 0, without unit; 0 for the first and the last frame, whose motion is known on one side
        only, and for copies of frames (30 frames made from 25). A clip's mean is at most 4.
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
    """What is new in each frame of a contact curve.

    Args:
        curve: (T,), see ``contact_curve``.
        fps: Frames per second.

    Returns:
        (T,), at least 0: each value less the one before it, or less an earlier, higher one, faded with time;
        the mean stands for what was before the clip. Its peaks come ``EARLY_FRAMES`` of a frame before the
        contacts.
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
    """Contacts: peaks of the adapted contact curve that stand out from their clip.

    Args:
        curve: (T,), see ``contact_curve``.
        fps: Frames per second.
        relative_prominence: How far the adapted curve must fall on either side of a peak before it rises
            higher, as a share of the range from its median to its 98 % quantile.
        least_gap_s: Of peaks closer than this in seconds only the highest counts.

    Returns:
        Times in seconds, rising: those of the frames, and ``EARLY_FRAMES`` of a frame.
    """
    from scipy.signal import find_peaks

    new = adapted(curve, fps)
    if len(new) < 3 or not np.any(new > 0):
        return np.zeros(0)
    reach = float(np.quantile(new, 0.98) - np.median(new))
    peaks, _ = find_peaks(
        np.concatenate([[0.0], new, [0.0]]),
        # One contact in a long clip moves no quantile: the average is the least a peak stands out by.
        prominence=max(relative_prominence * reach, float(np.mean(new))),
        distance=max(1, round(least_gap_s * float(fps))),
    )
    return (peaks - 1 + EARLY_FRAMES) / float(fps)


def _small_grey(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import cv2

    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    scale = _SIDE_PX / min(grey.shape)
    size = (max(_SIDE_PX, round(grey.shape[1] * scale)), max(_SIDE_PX, round(grey.shape[0] * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(grey, size, interpolation=method), np.uint8)


def _without_copies(greys: list[NDArray[np.uint8]]) -> NDArray[np.intp]:
    """The frames left when single copies between moving frames are dropped."""
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
    """Flow (H, W, 2) to another frame, and that frame, without what the camera did.

    That is the shift, turn and zoom most of the picture agrees on.
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

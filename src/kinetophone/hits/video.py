"""The video of a ``hits`` scene, drawn with OpenCV at twice the size and averaged down.

Frame ``k`` shows the scene at ``k / fps``, or at a contact if there is one within half a frame, as if its
flash exposed the frame. The swing accelerates into the contact, rebounds and slows down, so that the flow at
8 fps has one peak per strike. A flash, the object's recoil and a jolt of the camera also mark the contact.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from kinetophone.hits.scene import SECONDS, Scene

FPS = 8
FRAMES = round(SECONDS * FPS)
SWING_S = 0.10  # from the top of the swing to the contact
IMPACT_DECAY = 0.35  # decay of flash, recoil and jolt per frame
JOLT = 0.04  # camera jolt at a contact of full force, in units of the frame's side
LIFT_S = 1.2  # from the contact back to the top, if there is time for it
_SUPERSAMPLE = 2
_SHIFT = 4  # fractional bits of OpenCV's drawing coordinates
_TOOL_RGB = {"drumstick": (226, 190, 130), "mallet": (150, 100, 60), "hammer": (120, 76, 44)}


def lift_angle(scene: Scene, time_s: float) -> float:
    """Angle of the tool above the object at ``time_s``, in radians; 0 at a contact."""
    times = [s.time_s for s in scene.strikes]
    if not times:
        return 0.7 * scene.lift
    gaps = [1.0, *np.diff(times)]
    heights = [
        scene.lift * min(1.0, gap / 0.9) * (0.6 + 0.4 * s.force)
        for s, gap in zip(scene.strikes, gaps, strict=True)
    ]
    following = next((i for i, t in enumerate(times) if t > time_s), None)
    if following is None:
        return 0.7 * scene.lift * _rebound((time_s - times[-1]) / LIFT_S)
    before = times[following] - time_s
    if following == 0 or before < SWING_S:
        return heights[following] * _swing(before)
    lifting = min(times[following] - SWING_S - times[following - 1], LIFT_S)
    return heights[following] * _rebound((time_s - times[following - 1]) / lifting)


def _swing(before_s: float) -> float:
    """Fraction of the lift that is left ``before_s`` before the contact, at constant acceleration."""
    return 1.0 - max(0.0, 1.0 - before_s / SWING_S) ** 2


def _rebound(u: float) -> float:
    """Fraction of the lift regained: fastest right after the contact, with constant deceleration to rest."""
    return 1.0 - (1.0 - min(u, 1.0)) ** 2


def exposed_time(scene: Scene, frame: int, fps: int = FPS) -> float:
    """The time, in seconds, that a frame shows.

    It is the time of a contact within half a frame, as if its flash exposed the frame, else the frame's own.
    """
    time_s = frame / fps
    contacts = [s.time_s for s in scene.strikes if abs(s.time_s - time_s) <= 0.5 / fps]
    return contacts[0] if contacts else time_s


def impact(scene: Scene, frame: int, fps: int = FPS) -> float:
    """Remaining impact of the last contact in ``frame``: its force with a constant decay per frame."""
    past = [s for s in scene.strikes if round(s.time_s * fps) <= frame]
    return past[-1].force * IMPACT_DECAY ** (frame - round(past[-1].time_s * fps)) if past else 0.0


def render_video(scene: Scene, size: int, fps: int = FPS, frames: int = FRAMES) -> np.ndarray:
    """Render ``frames`` frames at ``fps`` frames a second, uint8 ``(frames, size, size, 3)`` RGB.

    ``size`` is a multiple of 8, at least 32.
    """
    if size < 32 or size % 8:
        raise ValueError(f"size must be a multiple of 8, at least 32 pixels, got {size}")
    return np.stack(list(_frames(scene, size, fps, frames)))


def _frames(scene: Scene, size: int, fps: int, frames: int) -> Iterator[np.ndarray]:
    side = size * _SUPERSAMPLE
    background = _background(scene, side)
    for k in range(frames):
        shock = impact(scene, k, fps)
        canvas = background.copy()
        top = _draw_object(canvas, scene, shock, side)
        contact = (scene.object_x, top)
        _draw_tool(canvas, scene, contact, lift_angle(scene, exposed_time(scene, k, fps)), side)
        _draw_contact(canvas, scene, contact, shock, side)
        canvas = _camera(canvas, scene, shock, side)
        small = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
        yield np.clip(small.astype(np.float32) * scene.light, 0, 255).astype(np.uint8)


def _camera(canvas: np.ndarray, scene: Scene, shock: float, side: int) -> np.ndarray:
    dx, dy = scene.shift_xy[0] * side, (scene.shift_xy[1] + JOLT * shock) * side
    z = scene.zoom
    matrix = np.array([[z, 0, (1 - z) * side / 2 + dx], [0, z, (1 - z) * side / 2 + dy]], np.float32)
    return cv2.warpAffine(
        canvas, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )


def _background(scene: Scene, side: int) -> np.ndarray:
    rng = np.random.default_rng(scene.texture_seed)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    glow = 0.75 + 0.4 * np.exp(-((x - scene.light_x) ** 2 + (y - 0.25) ** 2) / 0.25)
    picture = np.array(scene.wall_rgb, np.float32) * glow[..., None]
    blotches = cv2.resize(
        rng.standard_normal((5, 5)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC
    )
    picture += 6 * blotches[..., None]
    table = y > scene.table_y
    planks = 5 * np.sin(40 * y + 3 * blotches)
    picture[table] = (
        np.array(scene.table_rgb, np.float32) * (0.8 + 0.3 * glow[..., None]) + planks[..., None]
    )[table]
    return np.clip(picture, 0, 255).astype(np.uint8)


def _points(points: list[tuple[float, float]], side: int) -> np.ndarray:
    return np.round(np.array(points) * side * (1 << _SHIFT)).astype(np.int32)


def _polygon(
    canvas: np.ndarray, points: list[tuple[float, float]], rgb: tuple[float, ...], side: int
) -> None:
    cv2.fillPoly(canvas, [_points(points, side)], rgb, cv2.LINE_AA, _SHIFT)


def _ellipse(
    canvas: np.ndarray, centre: tuple[float, float], axes: tuple[float, float], rgb: tuple[float, ...],
    side: int, arc: tuple[float, float] = (0, 360), width: float = 0.0,
) -> None:  # fmt: skip
    (cx, cy), (ax, ay) = _points([centre, axes], side)
    thickness = max(1, round(width * side)) if width else cv2.FILLED
    cv2.ellipse(
        canvas, (int(cx), int(cy)), (int(ax), int(ay)), 0, arc[0], arc[1], rgb, thickness, cv2.LINE_AA, _SHIFT
    )


def _shade(rgb: tuple[int, int, int], factor: float) -> tuple[float, ...]:
    return tuple(float(min(255, c * factor)) for c in rgb)


def _draw_object(canvas: np.ndarray, scene: Scene, shock: float, side: int) -> float:
    """Draw the struck object, squashed by ``shock``; return the height of its struck surface."""
    x, base, rgb = scene.object_x, scene.table_y + 0.06, scene.rgb
    half = 0.17 + 0.08 * scene.size
    tall = (0.26 + 0.08 * scene.size) * (1 - 0.12 * shock)
    half *= 1 + 0.08 * shock
    top = base - tall
    _ellipse(canvas, (x, base), (half * 1.05, 0.035), (30, 26, 24), side)
    if scene.noun in ("metal bowl", "metal pot"):
        if scene.noun == "metal bowl":
            _ellipse(canvas, (x, top), (half, tall), rgb, side, arc=(0, 180))
        else:
            _polygon(
                canvas, [(x - half, top), (x + half, top), (x + half, base), (x - half, base)], rgb, side
            )
        # A bright streak makes the object look metallic.
        streak = [
            (x - half * 0.5, top),
            (x - half * 0.25, top),
            (x - half * 0.2, base - tall * 0.2),
            (x - half * 0.4, base - tall * 0.2),
        ]
        _polygon(canvas, streak, (250, 250, 250), side)
        _polygon(
            canvas,
            [
                (x + half * 0.45, top),
                (x + half * 0.8, top),
                (x + half * 0.55, base - tall * 0.25),
                (x + half * 0.4, base - tall * 0.2),
            ],
            _shade(rgb, 0.55),
            side,
        )
        _ellipse(canvas, (x, top), (half, 0.035), _shade(rgb, 0.45), side)
        _ellipse(canvas, (x, top), (half, 0.035), _shade(rgb, 1.25), side, width=0.012)
    elif scene.material == "wood":
        _polygon(canvas, [(x - half, top), (x + half, top), (x + half, base), (x - half, base)], rgb, side)
        _polygon(
            canvas,
            [(x - half, top), (x + half, top), (x + half * 0.85, top - 0.04), (x - half * 0.85, top - 0.04)],
            _shade(rgb, 1.3),
            side,
        )
        for row in (0.25, 0.5, 0.75):
            y = top + tall * row
            _polygon(
                canvas,
                [(x - half, y), (x + half, y + 0.01), (x + half, y + 0.025), (x - half, y + 0.015)],
                _shade(rgb, 0.6),
                side,
            )
        if scene.noun == "wooden box":
            _polygon(
                canvas,
                [
                    (x - half * 0.2, top + tall * 0.4),
                    (x + half * 0.2, top + tall * 0.4),
                    (x + half * 0.2, top + tall * 0.65),
                    (x - half * 0.2, top + tall * 0.65),
                ],
                _shade(rgb, 0.3),
                side,
            )
    elif scene.material == "glass":
        layer = canvas.copy()
        width = half * (0.85 if scene.noun == "glass jar" else 0.6)
        neck = width * (0.8 if scene.noun == "glass jar" else 0.35)
        outline = [
            (x - neck, top),
            (x + neck, top),
            (x + neck, top + tall * 0.22),
            (x + width, top + tall * 0.45),
            (x + width, base),
            (x - width, base),
            (x - width, top + tall * 0.45),
            (x - neck, top + tall * 0.22),
        ]
        _polygon(layer, outline, rgb, side)
        cv2.addWeighted(layer, 0.55, canvas, 0.45, 0, dst=canvas)
        cv2.polylines(
            canvas,
            [_points(outline, side)],
            True,
            _shade(rgb, 1.3),
            max(1, round(0.012 * side)),
            cv2.LINE_AA,
            _SHIFT,
        )
        _polygon(
            canvas,
            [
                (x - width * 0.6, top + tall * 0.5),
                (x - width * 0.35, top + tall * 0.5),
                (x - width * 0.35, base - 0.03),
                (x - width * 0.6, base - 0.03),
            ],
            (250, 255, 255),
            side,
        )
    elif scene.material == "drum":
        _polygon(canvas, [(x - half, top), (x + half, top), (x + half, base), (x - half, base)], rgb, side)
        _ellipse(canvas, (x, base), (half, 0.04), rgb, side, arc=(0, 180))
        for row in (0.05, 0.85):
            y = top + tall * row
            _polygon(
                canvas,
                [(x - half, y), (x + half, y), (x + half, y + 0.03), (x - half, y + 0.03)],
                (212, 176, 80),
                side,
            )
        if scene.noun == "snare drum":
            for column in (-0.7, -0.2, 0.3, 0.8):
                cx = x + half * column
                _polygon(
                    canvas,
                    [(cx - 0.008, top), (cx + 0.008, top), (cx + 0.008, base), (cx - 0.008, base)],
                    (220, 220, 226),
                    side,
                )
        _ellipse(canvas, (x, top), (half, 0.05 * (1 - 0.5 * shock)), (244, 238, 222), side)
        _ellipse(canvas, (x, top), (half, 0.05), (150, 120, 50), side, width=0.01)
    else:  # cloth: soft and round; it gives way under the tool
        soft = tall * (0.75 - 0.2 * shock)
        top = base - soft
        _ellipse(canvas, (x, base - soft * 0.5), (half * 1.25, soft * 0.5), rgb, side)
        _ellipse(
            canvas, (x - half * 0.2, base - soft * 0.62), (half * 0.8, soft * 0.25), _shade(rgb, 1.2), side
        )
        spots = ((-0.7, 0.4), (0.0, 0.35), (0.7, 0.4)) if scene.noun == "cushion" else ()
        for dx, dy in spots:
            _ellipse(canvas, (x + half * dx, base - soft * dy), (0.03, 0.03), _shade(rgb, 0.5), side)
    return top


def _draw_tool(
    canvas: np.ndarray, scene: Scene, contact: tuple[float, float], angle: float, side: int
) -> None:
    """Draw the tool, which rotates about the hand; at angle 0 its tip touches ``contact``."""
    length, slope, s = 0.52, 0.22, scene.side
    hand = (
        contact[0] + s * length * np.cos(slope),
        contact[1] - length * np.sin(slope) - 0.02 - 0.08 * angle,
    )
    turn = slope - angle  # below the horizontal
    along = np.array([-s * np.cos(turn), np.sin(turn)])
    across = np.array([-along[1], along[0]])
    grip, tip = np.array(hand), np.array(hand) + along * length
    rgb = _TOOL_RGB[scene.tool]
    thick = 0.026 if scene.tool == "drumstick" else 0.02
    thin = 0.018
    shaft = [
        grip - along * 0.2 + across * thick,
        tip + across * thin,
        tip - across * thin,
        grip - along * 0.2 - across * thick,
    ]
    _polygon(canvas, [tuple(p) for p in shaft], rgb, side)
    if scene.tool == "drumstick":
        _ellipse(canvas, tuple(tip), (0.03, 0.03), _shade(rgb, 1.1), side)
    elif scene.tool == "mallet":
        _ellipse(canvas, tuple(tip - (0, 0.045)), (0.07, 0.07), (206, 60, 48), side)
    else:
        # A hammer's head is perpendicular to the shaft; its lower face strikes the object.
        down = across if across[1] > 0 else -across
        a, b = tip + down * 0.02 - along * 0.05, tip + down * 0.02 + along * 0.05
        head = [a, b, b - down * 0.17, a - down * 0.17]
        _polygon(canvas, [tuple(p) for p in head], (70, 74, 82), side)
    _ellipse(canvas, tuple(grip), (0.055, 0.055), (214, 160, 126), side)


def _draw_contact(
    canvas: np.ndarray, scene: Scene, contact: tuple[float, float], shock: float, side: int
) -> None:
    """Draw light, dust or chips at the contact, fading with ``shock``."""
    if shock < 0.05:
        return
    rgb = {
        "metal": (255, 236, 150), "glass": (220, 250, 255), "wood": (240, 214, 160), "drum": (255, 250, 236),
        "cloth": (236, 232, 226),
    }[scene.material]  # fmt: skip
    reach = 0.10 + 0.12 * shock
    layer = canvas.copy()
    for turn in np.linspace(np.pi * 1.08, np.pi * 1.92, 7):
        outer = (contact[0] + reach * 1.4 * np.cos(turn), contact[1] + reach * np.sin(turn))
        inner = [
            (contact[0] + 0.035 * np.sin(turn) * k, contact[1] - 0.035 * np.cos(turn) * k) for k in (-1, 1)
        ]
        _polygon(layer, [*inner, outer], rgb, side)
    _ellipse(layer, contact, (reach * 0.55, reach * 0.4), rgb, side)
    cv2.addWeighted(layer, min(1.0, 0.35 + shock), canvas, 1 - min(1.0, 0.35 + shock), 0, dst=canvas)

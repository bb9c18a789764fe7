"""The video of a ``bows`` scene: a bow that crosses a string, drawn with OpenCV at twice the size.

Frame ``k`` shows the time ``k / fps``. The bow's stick has bands, so that its motion is visible even if its
ends are not. The string's amplitude follows the loudness, and the finger is drawn where it stops the string.
"""

from __future__ import annotations

import cv2
import numpy as np

from kinetophone.hits.video import FPS, FRAMES
from kinetophone.study.bows.scene import CURVE_RATE, Scene

_SUPERSAMPLE = 2
_SHIFT = 4  # fractional bits of OpenCV's drawing coordinates
_NUT_Y = 0.08  # where the open string ends; the bridge is below the bow
BOW_LENGTH = 0.8
BANDS = 9


def render_video(scene: Scene, size: int) -> np.ndarray:
    """Render all frames, uint8 ``(32, size, size, 3)`` RGB. ``size`` is a multiple of 8, at least 32."""
    if size < 32 or size % 8:
        raise ValueError(f"size must be a multiple of 8, at least 32 pixels, got {size}")
    side = size * _SUPERSAMPLE
    background = _background(scene, side)
    speed = scene.speed()
    frames = []
    for k in range(FRAMES):
        time_s = k / FPS
        canvas = background.copy()
        loudness = float(speed[min(round(time_s * CURVE_RATE), len(speed) - 1)])
        _draw_string(canvas, scene, loudness, float(scene.finger(time_s)), k, side)
        _draw_bow(canvas, scene, scene.bow_x(time_s), side)
        small = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
        frames.append(np.clip(small.astype(np.float32) * scene.light, 0, 255).astype(np.uint8))
    return np.stack(frames)


def _background(scene: Scene, side: int) -> np.ndarray:
    """Draw the wall and the instrument: the body, whose width depends on its size, and the neck."""
    rng = np.random.default_rng(scene.texture_seed)
    blotches = rng.standard_normal((5, 5)).astype(np.float32)
    wall = (
        np.array(scene.wall_rgb, np.float32)
        + 6 * cv2.resize(blotches, (side, side), interpolation=cv2.INTER_CUBIC)[..., None]
    )
    canvas = np.clip(wall, 0, 255).astype(np.uint8)
    x, wide = scene.string_x, {"violin": 0.2, "viola": 0.25, "cello": 0.31}[scene.instrument]
    wide += 0.05 * scene.size
    for y, share in ((0.52, 0.78), (0.86, 1.0)):
        _ellipse(canvas, (x, y), (wide * share, 0.2), scene.rgb, side)
    for sign in (-1, 1):  # the sound holes
        _line(
            canvas, (x + sign * wide * 0.5, 0.72), (x + sign * wide * 0.42, 0.88), 0.018, (30, 22, 18), side
        )
    _line(canvas, (x, 0.0), (x, 0.6), 0.075, (52, 38, 30), side)
    _line(canvas, (x - 0.06, 0.84), (x + 0.06, 0.84), 0.02, (222, 196, 150), side)
    return canvas


def _draw_string(
    canvas: np.ndarray, scene: Scene, loudness: float, semitones: float, frame: int, side: int
) -> None:
    """Draw the string, displaced according to its loudness, and the finger that stops it."""
    stop = _NUT_Y + (0.84 - _NUT_Y) * (1 - 2 ** (-semitones / 12))
    y = np.linspace(stop, 0.84, 12)
    swing = 0.028 * loudness * np.sin(np.pi * (y - stop) / (0.84 - stop))
    for side_of in (-1, 1):  # both extremes, as a vibrating string looks to the eye
        points = np.stack([scene.string_x + side_of * swing, y], axis=1)
        fixed = np.round(points * side * (1 << _SHIFT)).astype(np.int32)
        cv2.polylines(canvas, [fixed], False, (236, 232, 220), max(1, side // 100), cv2.LINE_AA, _SHIFT)
    _line(canvas, (scene.string_x, 0.0), (scene.string_x, stop), 0.008, (210, 204, 190), side)
    _ellipse(canvas, (scene.string_x + 0.012, stop), (0.055, 0.035), (220, 166, 134), side)


def _draw_bow(canvas: np.ndarray, scene: Scene, x: float, side: int) -> None:
    left, y, band = x - BOW_LENGTH / 2, scene.bow_y, BOW_LENGTH / BANDS
    _line(canvas, (left, y + 0.02), (left + BOW_LENGTH, y + 0.02), 0.018, (240, 238, 230), side)
    for number in range(BANDS):
        rgb = (96, 44, 24) if number % 2 else (206, 120, 60)
        start = left + number * band
        _line(canvas, (start, y - 0.02), (start + band, y - 0.02), 0.034, rgb, side)
    _line(canvas, (left, y - 0.025), (left, y + 0.035), 0.05, (24, 24, 28), side)  # the frog
    _ellipse(canvas, (left - 0.03, y), (0.06, 0.06), (220, 166, 134), side)  # the hand


def _line(
    canvas: np.ndarray, start: tuple[float, float], end: tuple[float, float], width: float,
    rgb: tuple[int, ...], side: int,
) -> None:  # fmt: skip
    (ax, ay), (bx, by) = (np.round(np.array([start, end]) * side * (1 << _SHIFT)).astype(int)).tolist()
    cv2.line(canvas, (ax, ay), (bx, by), rgb, max(1, round(width * side)), cv2.LINE_AA, _SHIFT)


def _ellipse(
    canvas: np.ndarray,
    centre: tuple[float, float],
    axes: tuple[float, float],
    rgb: tuple[int, ...],
    side: int,
) -> None:
    (cx, cy), (ax, ay) = (np.round(np.array([centre, axes]) * side * (1 << _SHIFT)).astype(int)).tolist()
    cv2.ellipse(canvas, (cx, cy), (ax, ay), 0, 0, 360, rgb, cv2.FILLED, cv2.LINE_AA, _SHIFT)

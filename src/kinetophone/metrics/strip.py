"""Strips: a clip drawn as SVG, with its frames, its waveform with onsets and its motion with events.

Used in the report of :mod:`kinetophone.metrics.report` and under each result in the app.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from kinetophone.media.clip import Clip
from kinetophone.metrics.alignment import match_events

# Colours of audio onsets, video events, their matches and flow peaks.
ONSET, EVENT, MATCH, PEAK = "#1b7f3b", "#c2255c", "#8a8f98", "#7a5af0"

# In CSS pixels, except for the number of thumbnails.
_WIDTH, _THUMBS, _WAVE, _CURVE, _FLOW = 1000, 12, 60, 60, 38


def strip_svg(
    clip: Clip,
    curve: Sequence[float],
    onsets_s: Sequence[float],
    events_s: Sequence[float],
    label: str,
    *,
    flow: Sequence[float] = (),
    peaks_s: Sequence[float] = (),
) -> str:
    """Draw a clip as SVG.

    Args:
        clip: The clip.
        curve: Motion, one value of at least 0 per frame: the contact curve or the mean flow.
        onsets_s: Audio onsets in seconds.
        events_s: Video events in seconds; a line joins each to the onset it matches within one frame.
        label: Text for screen readers.
        flow: The mean flow, drawn at the bottom if given.
        peaks_s: Flow peaks of AV-Align, in seconds.

    Returns:
        An ``<svg>`` element that is as wide as its container.
    """
    seconds, fps = clip.duration_s, float(clip.fps)
    each = _WIDTH / _THUMBS
    thumb_height = max(8, min(2 * each, each * clip.video.shape[1] / clip.video.shape[2]))
    wave_top, curve_top = thumb_height + 6, thumb_height + 6 + _WAVE
    bottom = curve_top + _CURVE
    end = bottom + (_FLOW if len(flow) else 0)

    def x(time_s: float) -> float:
        return round(_WIDTH * time_s / seconds, 1)

    parts = []
    for place in range(_THUMBS):
        # Each thumbnail is the frame in the middle of its section of the time axis.
        frame = clip.video[min(len(clip.video) - 1, int((place + 0.5) / _THUMBS * len(clip.video)))]
        parts.append(
            f'<image x="{place * each:.1f}" y="0" width="{each - 2:.1f}" height="{thumb_height:.1f}" '
            f'preserveAspectRatio="xMidYMid slice" href="{jpeg_uri(frame, 2 * round(each))}"/>'
        )
    parts.append(f'<path d="{_envelope(clip.mono, wave_top, _WAVE)}" fill="#9db4d0"/>')
    curve_heights = _heights(np.sqrt(curve), bottom - 4, _CURVE - 8)
    flow_heights = _heights(np.asarray(flow, np.float64), end - 2, _FLOW - 10)
    for heights in (curve_heights, flow_heights):
        points = " ".join(f"{x(frame / fps)},{y:.1f}" for frame, y in enumerate(heights))
        parts.append(f'<polyline points="{points}" fill="none" stroke="#4a4f57" stroke-width="1.2"/>')
    for peak_s in peaks_s:
        height = flow_heights[round(peak_s * fps)]
        parts.append(f'<circle cx="{x(peak_s)}" cy="{height:.1f}" r="2.4" fill="{PEAK}"/>')
    for onset, event in match_events(onsets_s, events_s, 1.0 / fps):
        parts.append(_line(x(onset), wave_top + _WAVE / 2, x(event), curve_top + _CURVE, MATCH, 4))
    parts += [_line(x(t), wave_top, x(t), wave_top + _WAVE, ONSET, 2) for t in onsets_s]
    parts += [_line(x(t), curve_top, x(t), bottom, EVENT, 2) for t in events_s]
    for second in range(int(seconds - 0.03 * seconds) + 1):  # a label at the end would be cut off
        corner = f'x="{x(second) + 2}" y="{end + 11:.1f}"'
        parts.append(f'<text {corner} font-size="10" fill="#555c66">{second} s</text>')
    opening = f'<svg viewBox="0 0 {_WIDTH} {end + 14:.0f}" role="img" aria-label="{html.escape(label)}">'
    return f"{opening}{''.join(parts)}</svg>"


def jpeg_uri(image: np.ndarray, width: int) -> str:
    """Encode an image, uint8 (H, W, 3), as a JPEG data URI, resized to ``width`` pixels."""
    import cv2

    height = max(1, round(image.shape[0] * width / image.shape[1]))
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    _, content = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 75])
    return f"data:image/jpeg;base64,{base64.b64encode(content.tobytes()).decode()}"


def _heights(curve: np.ndarray, bottom: float, height: float) -> np.ndarray:
    return bottom - height * curve / (float(curve.max(initial=0.0)) or 1.0)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float) -> str:
    look = f'stroke="{colour}" stroke-width="{width}" stroke-opacity="{0.6 if colour == MATCH else 1}"'
    return f'<line x1="{x1}" y1="{y1:.1f}" x2="{x2}" y2="{y2:.1f}" {look}/>'


def _envelope(audio: np.ndarray, top: float, height: float, columns: int = 500) -> str:
    """The waveform as a closed path: the peak of each column, mirrored, relative to the clip's peak."""
    edges = np.linspace(0, len(audio), columns + 1).astype(int)
    loudest = [float(np.abs(audio[a : max(b, a + 1)]).max(initial=0.0)) for a, b in pairwise(edges)]
    reach = np.array(loudest) / (max(loudest) or 1.0) * (height / 2 - 2)
    xs, middle = np.arange(columns) * _WIDTH / columns, top + height / 2
    up = [f"{x:.0f},{middle - y:.1f}" for x, y in zip(xs, reach, strict=True)]
    down = [f"{x:.0f},{middle + y:.1f}" for x, y in zip(xs[::-1], reach[::-1], strict=True)]
    return f"M{' '.join(up + down)}Z"

"""A report to look at: one HTML file without links, scripts or fonts from elsewhere.

A table of all measures, the clips that could not be scored, the best and the worst to play, and a strip for
every clip: its frames, its waveform with onsets, the contact curve with contacts, lines where they match, and
the flow with the peaks that AV-Align counts.
Clips are read again one at a time as the file is written, so memory does not grow with their number.
"""

from __future__ import annotations

import base64
import html
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from kinetophone.media.clip import Clip
from kinetophone.media.write import replacing
from kinetophone.metrics.alignment import match_events
from kinetophone.metrics.sources import SOUND_SUFFIX, read

_RANKED_BY = "synchrony"
_PLAYABLE = 3  # clips at either end of the ranking
_LARGEST_EMBEDDED = 8_000_000  # bytes; a larger film, or one browsers do not play, is written anew, small
_BROWSER_SUFFIXES = (".mp4", ".m4v", ".webm")
_EMBEDDED_SIDE = 360

_WIDTH, _THUMBS, _WAVE, _CURVE, _FLOW = 1000, 12, 60, 60, 34  # of a strip, in CSS pixels; number of frames
_ONSET, _CONTACT, _MATCH, _PEAK = "#1b7f3b", "#c2255c", "#8a8f98", "#7a5af0"

_STYLE = """
:root { color-scheme: light; font: 14px/1.45 system-ui, sans-serif; color: #1d2129; background: #fff }
body { max-width: 1040px; margin: 2rem auto; padding: 0 20px }
h1 { font-size: 1.5rem; margin: 0 0 .3rem } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #e3e6ea }
th:first-child, td:first-child, .text td, .text th { text-align: left } th { font-weight: 600 }
.note { color: #555c66; max-width: 46rem } .players { display: flex; flex-wrap: wrap; gap: 16px }
figure { margin: 0 0 1.4rem } figcaption { margin-bottom: .25rem } .players figure { width: 320px }
video { width: 320px; max-height: 320px; background: #000 } svg { display: block; width: 100%; height: auto }
"""

_NOTE = f"""Every value stands beside that of shuffled pairs: one clip's sound with another's picture.
Only what is above it is synchrony. In the strips: onsets heard <span style="color:{_ONSET}">green</span>,
contacts seen <span style="color:{_CONTACT}">red</span>, a grey line where the two match within one frame;
below, the mean flow and its <span style="color:{_PEAK}">peaks</span>, as AV-Align takes them.
The best and the worst are ranked by {_RANKED_BY}, the correlation of the two curves."""


def write_report(
    results: Mapping[str, Any],
    folder: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    captions: Mapping[str, str] | None = None,
) -> Path:
    """Write the report.

    Args:
        results: ``{"clips": Report.to_dict()}``, and ``"quality"`` where it was measured.
        folder: Where the clips are.
        path: File to write, ``.html``.
        captions: By file name, shown with the clips.

    Returns:
        The path written.
    """
    path, root = Path(path), Path(folder)
    with replacing(path) as partial, Path(partial).open("w", encoding="utf-8") as file:
        file.writelines(_page(results, root, captions or {}))
    return path


def _page(results: Mapping[str, Any], root: Path, captions: Mapping[str, str]) -> Iterator[str]:
    report = results["clips"]
    rows: Sequence[Mapping[str, Any]] = report["rows"]
    title = f"Synchrony of {html.escape(root.name or str(root))}"
    rates = ", ".join(f"{n} at {rate} fps" for rate, n in report["fps"].items()) or "none"
    yield (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f"<h1>{title}</h1><p>{report['clips']} clips; scored {rates}; {len(report['unscored'])} not scored; "
        f"seed {report['seed']}, {report['shuffles']} shuffles, 95 % bootstrap intervals over clips.</p>"
        f'<p class="note">{_NOTE}</p>'
    )
    yield _summary(report)
    yield _quality(results.get("quality"))
    if report["unscored"]:
        yield '<h2>Not scored</h2><table class="text"><tr><th>clip<th>reason'
        for item in report["unscored"]:
            yield f"<tr><td>{html.escape(item['name'])}<td>{html.escape(item['reason'])}"
        yield "</table>"
    ranked = sorted(rows, key=lambda row: row[_RANKED_BY], reverse=True)
    each = min(_PLAYABLE, (len(ranked) + 1) // 2)
    ends = {"Best": ranked[:each], "Worst": ranked[each:][-each:][::-1]}
    for heading, chosen in ends.items():
        if chosen:
            yield f'<h2>{heading}</h2><div class="players">'
            yield from (_player(root / row["name"], row, captions) for row in chosen)
            yield "</div>"
    yield "<h2>Every clip</h2>"
    for row in rows:
        yield _strip(root / row["name"], row, captions)
    yield "</html>\n"


def _summary(report: Mapping[str, Any]) -> str:
    head = "".join(
        f"<th>{name}" for name in ("measure", "value", "interval", "shuffled", "above", "interval", "n")
    )
    lines = [f"<h2>Measures</h2><table><tr>{head}"]
    for name, row in report["metrics"].items():
        cells = (
            row["value"],
            row["interval"],
            row["shuffled"],
            row["above"],
            row["above_interval"],
            row["n"],
        )
        lines.append(_table_row(name, cells))
    for name, row in report["detectors"].items():
        lines.append(
            _table_row(f"{name}, against truth", (row["value"], row["interval"], *[None] * 3, row["n"]))
        )
    lag = report["lag"]
    if lag is not None:
        cells = (lag["value"], lag["interval"], None, None, None, lag["n"])
        lines.append(_table_row("lag of the sound, seconds", cells))
    return "".join(lines) + "</table>"


def _quality(quality: Mapping[str, Any] | None) -> str:
    if quality is None:
        return ""
    lines = []
    if quality["distances"]:
        head = "".join(
            f"<th>{n}" for n in ("distance", "Fréchet", "kernel", "spread", "n", "n reference", "dim.")
        )
        lines.append(f"<h2>Distance from the reference</h2><table><tr>{head}")
        for name, row in quality["distances"].items():
            keys = ("frechet", "kernel", "kernel_interval", "n", "n_reference", "dimension")
            lines.append(_table_row(name, [row[key] for key in keys]))
        lines.append("</table>")
        warned = {name: row["warning"] for name, row in quality["distances"].items() if row["warning"]}
        lines += [f'<p class="note">{name}: {html.escape(text)}</p>' for name, text in warned.items()]
    if quality["semantics"]:
        head = "".join(f"<th>{n}" for n in ("agreement", "value", "interval", "shuffled", "n"))
        lines.append(f"<h2>Agreement</h2><table><tr>{head}")
        for name, row in quality["semantics"].items():
            lines.append(_table_row(name, [row[key] for key in ("value", "interval", "shuffled", "n")]))
        lines.append("</table>")
    if quality.get("desync"):
        off = quality["desync"]
        lines.append(
            f"<p>DeSync: {off['value']:.3f} s ({_cell(off['interval'])}), even guesses {off['chance']:.2f}; "
            f"n {off['n']}, {off['short']} of them shorter than the network's window.</p>"
        )
    return "".join(lines)


def _table_row(name: str, cells: Sequence[Any]) -> str:
    return f"<tr><td>{html.escape(name)}" + "".join(f"<td>{_cell(cell)}" for cell in cells)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return f"{value['low']:.3f} to {value['high']:.3f}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _caption(row: Mapping[str, Any], captions: Mapping[str, str]) -> str:
    lag = "no lag found"
    if row["lag_s"] is not None:
        low, high = (1000 * row["lag_interval"][end] for end in ("low", "high"))
        lag = f"lag {1000 * row['lag_s']:+.0f} ms ({low:+.0f} to {high:+.0f})"
    said = captions.get(row["name"], "")
    scores = f"synchrony {row['synchrony']:.2f}, contact F1 {row['contact_f1']:.2f}, {lag}"
    name = f"<b>{html.escape(row['name'])}</b>"
    return (
        f"<figcaption>{name} {html.escape(said)} – {scores}, AV-Align {row['av_align_svg']:.2f}</figcaption>"
    )


def _player(path: Path, row: Mapping[str, Any], captions: Mapping[str, str]) -> str:
    content, kind = _film(path)
    source = f"data:video/{kind};base64,{base64.b64encode(content).decode()}"
    film = f'<video controls preload="metadata" src="{source}"></video>'
    return f"<figure>{_caption(row, captions)}{film}</figure>"


def _film(path: Path) -> tuple[bytes, str]:
    """A film a browser plays, with its sound, and its kind."""
    paired = path.with_suffix(SOUND_SUFFIX).is_file()
    known = path.suffix.lower() in _BROWSER_SUFFIXES and path.stat().st_size <= _LARGEST_EMBEDDED
    if known and not paired:
        return path.read_bytes(), "webm" if path.suffix.lower() == ".webm" else "mp4"
    from kinetophone.media.read import resize

    clip = read(path)
    height, width = clip.video.shape[1:3]
    scale = min(1.0, _EMBEDDED_SIDE / max(height, width))
    size = (max(2, round(height * scale / 2) * 2), max(2, round(width * scale / 2) * 2))
    frames = np.stack([resize(frame, size) for frame in clip.video])
    with tempfile.TemporaryDirectory() as folder:
        small = Clip(frames, clip.fps, clip.audio, clip.sample_rate).save(Path(folder) / "clip.mp4")
        return small.read_bytes(), "mp4"


def _strip(path: Path, row: Mapping[str, Any], captions: Mapping[str, str]) -> str:
    clip = read(path)
    seconds = clip.duration_s
    each = _WIDTH / _THUMBS
    thumb_height = max(8, min(2 * each, each * clip.video.shape[1] / clip.video.shape[2]))
    wave_top, curve_top = thumb_height + 6, thumb_height + 6 + _WAVE
    bottom = curve_top + _CURVE
    end = bottom + 4 + _FLOW

    def x(time_s: float) -> float:
        return round(_WIDTH * time_s / seconds, 1)

    parts = []
    for place in range(_THUMBS):
        # Each picture is the frame shown in the middle of its stretch of the time axis.
        frame = clip.video[min(len(clip.video) - 1, int((place + 0.5) / _THUMBS * len(clip.video)))]
        parts.append(
            f'<image x="{place * each:.1f}" y="0" width="{each - 2:.1f}" height="{thumb_height:.1f}" '
            f'preserveAspectRatio="xMidYMid slice" href="{_jpeg(frame, 2 * round(each))}"/>'
        )
    parts.append(f'<path d="{_envelope(clip.audio, wave_top, _WAVE)}" fill="#9db4d0"/>')
    contact_heights = _heights(np.sqrt(row["contact"]), bottom - 4, _CURVE - 8)
    flow_heights = _heights(np.asarray(row["flow"]), end - 2, _FLOW - 6)
    for heights in (contact_heights, flow_heights):
        points = " ".join(f"{x(frame / row['fps'])},{y:.1f}" for frame, y in enumerate(heights))
        parts.append(f'<polyline points="{points}" fill="none" stroke="#4a4f57" stroke-width="1.2"/>')
    for time_s in row["video_peaks_s"]:
        height = flow_heights[round(time_s * row["fps"])]
        parts.append(f'<circle cx="{x(time_s)}" cy="{height:.1f}" r="2.4" fill="{_PEAK}"/>')
    for onset, contact in match_events(row["onsets_s"], row["contacts_s"], 1.0 / row["fps"]):
        parts.append(_line(x(onset), wave_top + _WAVE / 2, x(contact), curve_top + _CURVE, _MATCH, 4))
    parts += [_line(x(t), wave_top, x(t), wave_top + _WAVE, _ONSET, 2) for t in row["onsets_s"]]
    parts += [_line(x(t), curve_top, x(t), bottom, _CONTACT, 2) for t in row["contacts_s"]]
    for second in range(int(seconds - 0.03 * seconds) + 1):  # one at the very end would be cut off
        corner = f'x="{x(second) + 2}" y="{end + 11:.1f}"'
        parts.append(f'<text {corner} font-size="10" fill="#555c66">{second} s</text>')
    label = html.escape(f"{row['name']}: frames, waveform with onsets, contact curve with contacts, flow")
    opening = f'<svg viewBox="0 0 {_WIDTH} {end + 14:.0f}" role="img" aria-label="{label}">'
    return f"<figure>{_caption(row, captions)}{opening}{''.join(parts)}</svg></figure>"


def _heights(curve: np.ndarray, bottom: float, height: float) -> np.ndarray:
    return bottom - height * curve / (float(curve.max(initial=0.0)) or 1.0)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float) -> str:
    look = f'stroke="{colour}" stroke-width="{width}" stroke-opacity="{0.6 if colour == _MATCH else 1}"'
    return f'<line x1="{x1}" y1="{y1:.1f}" x2="{x2}" y2="{y2:.1f}" {look}/>'


def _jpeg(frame: np.ndarray, width: int) -> str:
    import cv2

    height = max(1, round(frame.shape[0] * width / frame.shape[1]))
    small = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    _, content = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 75])
    return f"data:image/jpeg;base64,{base64.b64encode(content.tobytes()).decode()}"


def _envelope(audio: np.ndarray, top: float, height: float, columns: int = 500) -> str:
    """The waveform as one closed path: the loudest sample of each column, up and down, by the clip's peak."""
    edges = np.linspace(0, len(audio), columns + 1).astype(int)
    loudest = [float(np.abs(audio[a : max(b, a + 1)]).max(initial=0.0)) for a, b in pairwise(edges)]
    reach = np.array(loudest) / (max(loudest) or 1.0) * (height / 2 - 2)
    xs, middle = np.arange(columns) * _WIDTH / columns, top + height / 2
    up = [f"{x:.0f},{middle - y:.1f}" for x, y in zip(xs, reach, strict=True)]
    down = [f"{x:.0f},{middle + y:.1f}" for x, y in zip(xs[::-1], reach[::-1], strict=True)]
    return f"M{' '.join(up + down)}Z"

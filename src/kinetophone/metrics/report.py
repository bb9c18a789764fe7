"""HTML report: a single file without external links, scripts or fonts.

It has a table of all metrics, the clips that could not be scored, players for the best and the worst clips,
and a strip for every clip. A strip shows the frames, the waveform with onsets, the contact curve with
contacts, lines for matches, and the flow with the peaks that AV-Align counts.
Clips are read again one at a time while the file is written, so memory does not grow with their number.
"""

from __future__ import annotations

import base64
import html
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kinetophone.files import replacing
from kinetophone.media.clip import Clip
from kinetophone.metrics.sources import AUDIO_SUFFIX, read
from kinetophone.metrics.strip import EVENT, ONSET, PEAK, strip_svg

_RANKED_BY = "synchrony"
_PLAYABLE = 3  # number of clips at each end of the ranking
_LARGEST_EMBEDDED = 8_000_000  # bytes; larger files, or files browsers do not play, are re-encoded
_BROWSER_SUFFIXES = (".mp4", ".m4v", ".webm")
_EMBEDDED_SIDE = 360

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

_NOTE = f"""Every value is shown with that of shuffled pairs, the audio of one clip with the video of another.
Only the difference is evidence of synchrony. In the strips, audio onsets are
<span style="color:{ONSET}">green</span> and video contacts <span style="color:{EVENT}">red</span>; a grey
line joins two that match within one frame. Below are the mean flow and its
<span style="color:{PEAK}">peaks</span>, as used by AV-Align.
The best and the worst clips are ranked by {_RANKED_BY}, the correlation of the two curves."""


def write_report(
    results: Mapping[str, Any],
    folder: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    captions: Mapping[str, str] | None = None,
) -> Path:
    """Write the HTML report.

    Args:
        results: ``{"clips": Report.to_dict()}``, and ``"quality"`` if it was measured.
        folder: Folder of the clips.
        path: File to write, ``.html``.
        captions: Captions by file name, shown with the clips.

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
        f"<th>{name}" for name in ("metric", "value", "interval", "shuffled", "above", "interval", "n")
    )
    lines = [f"<h2>Metrics</h2><table><tr>{head}"]
    against_truth = {f"{name}, against ground truth": row for name, row in report["detectors"].items()}
    for name, row in {**report["metrics"], **against_truth}.items():
        keys = ("value", "interval", "shuffled", "above", "above_interval", "n")
        lines.append(_table_row(name, [row[key] for key in keys]))
    lag = report["lag"]
    if lag is not None:
        cells = (lag["value"], lag["interval"], None, None, None, lag["n"])
        lines.append(_table_row("audio lag, seconds", cells))
    return "".join(lines) + "</table>"


def _quality(quality: Mapping[str, Any] | None) -> str:
    if quality is None:
        return ""
    lines = []
    if quality["distances"]:
        head = "".join(
            f"<th>{n}"
            for n in (
                "distance", "Fréchet", "interval", "floor", "kernel", "spread", "n", "n reference", "dim."
            )
        )  # fmt: skip
        lines.append(f"<h2>Distance from the reference</h2><table><tr>{head}")
        for name, row in quality["distances"].items():
            keys = (
                "frechet", "frechet_interval", "floor", "kernel", "kernel_interval", "n", "n_reference",
                "dimension",
            )  # fmt: skip
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
            f"<p>DeSync, absolute mean: {off['value']:.3f} s ({_cell(off['interval'])}), chance level "
            f"{off['chance']:.2f}; signed mean: {off['signed']:+.3f} s ({_cell(off['signed_interval'])}); "
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
    content, kind = _video_file(path)
    source = f"data:video/{kind};base64,{base64.b64encode(content).decode()}"
    player = f'<video controls preload="metadata" src="{source}"></video>'
    return f"<figure>{_caption(row, captions)}{player}</figure>"


def _video_file(path: Path) -> tuple[bytes, str]:
    """The content of a file that browsers can play, with its audio, and its MIME subtype."""
    paired = path.with_suffix(AUDIO_SUFFIX).is_file()
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
    label = f"{row['name']}: frames, waveform with onsets, contact curve with contacts, flow with its peaks"
    curves = {"flow": row["flow"], "peaks_s": row["video_peaks_s"]}
    drawn = strip_svg(read(path), row["contact"], row["onsets_s"], row["contacts_s"], label, **curves)
    return f"<figure>{_caption(row, captions)}{drawn}</figure>"

"""Fill in the tables of figures in documents from the results they name.

A table stands between two comments, the first of which names its results:

    <!-- figures docs/results/2026-11-25-sixth-bundle.json.gz -->
    <!-- /figures -->

A table of tasks names a results file of each task in a folder: ``<!-- tasks docs/results/NAME -->`` is for
``NAME-sound.json.gz``, ``NAME-picture.json.gz`` and ``NAME-extend.json.gz``.

Run from the repository's root: .venv/bin/python docs/tables.py
"""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

from kinetophone.hits import make_scene
from kinetophone.hits.captions import count_named
from kinetophone.metrics.control import shuffled_control

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "src/kinetophone/bundles/hits/README.md", "docs/results.md", "docs/tasks.md")
ROWS = {
    "event F1, audio to video": "event_f1",
    "contact F1, by the detector for real clips": "contact_f1",
    "synchrony of the two curves": "synchrony",
    "AV-Align (SVG)": "av_align_svg",
}
MATERIALS = {
    "material seen is the one asked for": "material seen is the caption's",
    "material heard is the one asked for": "material heard is the caption's",
}
COUNTS = "exactly the number of strikes that the prompt names, heard and seen"
SETS = {"generated": "generated", "uncoupled": "coupling off", "true": "true clips"}
# Of a task: what is made, from what, the group of measures in its results, and the measure at one frame.
TASKS = {
    "sound": ("audio for the true video: onsets against true strikes", "detectors", "audio_f1"),
    "picture": ("video for the true audio: strikes seen against true strikes", "detectors", "video_f1"),
    "extend": ("what follows 1.5 s of a true clip: its onsets against its strikes", "metrics", "event_f1"),
}
_TABLE = re.compile(r"(<!-- (figures|tasks) (\S+) -->\n).*?(<!-- /\2 -->)", re.DOTALL)


def filled(text: str) -> str:
    """``text`` with every table made anew from the results it names."""
    return _TABLE.sub(lambda found: f"{found[1]}{_made(found[2], found[3])}{found[4]}", text)


def _made(kind: str, source: str) -> str:
    if kind == "figures":
        return table(_read(source))
    return tasks_table({task: _read(f"{source}-{task}.json.gz") for task in TASKS})


def tasks_table(results: dict[str, dict[str, Any]]) -> str:
    """The table of ``kinetophone evaluate --generate --task --json`` files, by task, in Markdown."""
    head = ["task", "event F1, one frame", "its chance", "within 50 ms", "its chance", "clips"]
    lines = [_row(head), _row(["---"] * len(head))]
    for task, (name, group, key) in TASKS.items():
        rows = results[task]["generated"]["synchrony"][group]
        near = rows.get(f"{key}_50ms")
        cells = [_value(rows[key]), f"{rows[key]['shuffled']:.2f}"]
        cells += [_value(near), f"{near['shuffled']:.2f}"] if near else ["", ""]
        lines.append(_row([name, *cells, str(rows[key]["n"])]))
    note = "8 fps; 95 % intervals over clips; chance is the truth, or the audio, of other clips."
    return "\n".join([*lines, "", note, ""])


def table(results: dict[str, Any]) -> str:
    """The table of a ``kinetophone evaluate --generate --uncoupled --json`` file, in Markdown."""
    sets = {key: name for key, name in SETS.items() if key in results}
    head = ["measure", *(column for name in sets.values() for column in (name, "its chance"))]
    lines = [_row(head), _row(["---"] * len(head))]
    for name, key in ROWS.items():
        rows = [results[part]["synchrony"]["metrics"][key] for part in sets]
        lines.append(
            _row([name, *(cell for row in rows for cell in (_value(row), f"{row['shuffled']:.2f}"))])
        )
    for name, key in MATERIALS.items():
        # Five materials, so that a guess is right in a fifth of the clips.
        rows = [results[part]["materials"][key] for part in sets]
        lines.append(_row([name, *(cell for row in rows for cell in (_value(row), "0.20"))]))
    rows = [counts_right(results[part]["synchrony"]["rows"]) for part in sets]
    lines.append(_row([COUNTS, *(cell for row in rows for cell in (_value(row), f"{row['shuffled']:.2f}"))]))
    synchrony = results["generated"]["synchrony"]
    rates = ", ".join(f"{n} clips at {rate} fps" for rate, n in synchrony["fps"].items())
    note = (
        f"{rates}, seed {synchrony['seed']}; tolerance one frame; 95 % intervals over clips; chance is what "
        f"shuffled pairs score ({synchrony['shuffles']} shuffles), for materials one in five, for the number "
        f"of strikes that of other prompts; {rows[0]['n']} prompts name one."
    )
    return "\n".join([*lines, "", note, ""])


def counts_right(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the clips whose test prompts name a number of strikes: the share that has it, heard and seen."""
    asked = {row["name"]: count_named(make_scene("test", int(row["name"]))[1]) for row in rows}
    found = [(len(row["onsets_s"]), len(row["strikes_s"])) for row in rows if asked[row["name"]] is not None]
    wanted = [count for count in asked.values() if count is not None]

    def right(counts: tuple[int, int], number: int) -> float:
        return float(counts == (number, number))

    control = shuffled_control(right, found, wanted, 0)
    low, high = control.interval.low, control.interval.high
    return {
        "value": control.value,
        "interval": {"low": low, "high": high},
        "shuffled": control.shuffled,
        "n": control.n,
    }


def _value(row: dict[str, Any]) -> str:
    return f"{row['value']:.2f} ({row['interval']['low']:.2f} to {row['interval']['high']:.2f})"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _read(path: str) -> dict[str, Any]:
    return dict(json.loads(gzip.decompress((ROOT / path).read_bytes())))


def main() -> None:
    """Rewrite the documents."""
    for name in DOCUMENTS:
        path = ROOT / name
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

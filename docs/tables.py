"""Fill in the tables of figures in documents from the results they name.

A table stands between two comments, the first of which names its results:

    <!-- figures docs/results/2026-11-23-second-bundle.json -->
    <!-- /figures -->

Run from the repository's root: .venv/bin/python docs/tables.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("src/kinetophone/bundles/hits/README.md", "docs/results.md")
ROWS = {
    "event F1, sound to picture": "event_f1",
    "contact F1, by the detector for real clips": "contact_f1",
    "synchrony of the two curves": "synchrony",
    "AV-Align (SVG)": "av_align_svg",
}
MATERIALS = {
    "material seen is the one asked for": "picture-text",
    "material heard is the one asked for": "sound-text",
}
SETS = {"generated": "generated", "uncoupled": "coupling off", "true": "true clips"}
_TABLE = re.compile(r"(<!-- figures (\S+) -->\n).*?(<!-- /figures -->)", re.DOTALL)


def filled(text: str) -> str:
    """``text`` with every table made anew from the results it names."""
    return _TABLE.sub(lambda found: f"{found[1]}{table(_read(found[2]))}{found[3]}", text)


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
    synchrony = results["generated"]["synchrony"]
    rates = ", ".join(f"{n} clips at {rate} fps" for rate, n in synchrony["fps"].items())
    note = (
        f"{rates}, seed {synchrony['seed']}; tolerance one frame; 95 % intervals over clips; chance is what "
        f"shuffled pairs score ({synchrony['shuffles']} shuffles), for materials one in five."
    )
    return "\n".join([*lines, "", note, ""])


def _value(row: dict[str, Any]) -> str:
    return f"{row['value']:.2f} ({row['interval']['low']:.2f} to {row['interval']['high']:.2f})"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _read(path: str) -> dict[str, Any]:
    return dict(json.loads((ROOT / path).read_text(encoding="utf-8")))


def main() -> None:
    """Rewrite the documents."""
    for name in DOCUMENTS:
        path = ROOT / name
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

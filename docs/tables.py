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

from scipy.stats import norm, ttest_1samp

from kinetophone.hits import make_scene
from kinetophone.hits.captions import count_named
from kinetophone.metrics.alignment import av_align_svg, event_f1
from kinetophone.metrics.control import holm, shuffled_control

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
_TABLE = re.compile(r"(<!-- (figures|tasks|trivial|differences) (\S+) -->\n).*?(<!-- /\2 -->)", re.DOTALL)


def filled(text: str) -> str:
    """``text`` with every table made anew from the results it names."""
    return _TABLE.sub(lambda found: f"{found[1]}{_made(found[2], found[3])}{found[4]}", text)


def _made(kind: str, source: str) -> str:
    if kind == "figures":
        return table(_read(source))
    if kind == "trivial":
        return trivial_table(_read(source)["true"]["synchrony"]["rows"])
    if kind == "differences":
        return differences_table(
            [json.loads(f.read_text()) for f in sorted((ROOT / source).glob("*/table.json"))]
        )
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


def trivial_table(rows: list[dict[str, Any]]) -> str:
    """What models that ignore the prompt score on the prompts of the true clips, in Markdown."""
    asked = [n for row in rows if (n := count_named(make_scene("test", int(row["name"]))[1])) is not None]
    most = max(set(asked), key=asked.count)
    same = (0.5, 1.5, 2.5)
    control = shuffled_control(
        lambda audio, video: event_f1(audio, video, 0.125).f1, [same] * 4, [same] * 4, 0
    )
    align = shuffled_control(lambda audio, video: av_align_svg(audio, video, 8), [same] * 4, [same] * 4, 0)
    lines = [_row(["a model that", "measure", "scores", "its chance", "above"]), _row(["---"] * 5)]
    for name, one in {"event F1": control, "AV-Align (SVG)": align}.items():
        cells = [f"{value:.2f}" for value in (one.value, one.shuffled, one.above)]
        lines.append(_row(["strikes at the same three times in every clip, heard and seen", name, *cells]))
    for number in sorted({2, most}):
        exact = sum(n == number for n in asked) / len(asked)
        near = sum(abs(n - number) <= 1 for n in asked) / len(asked)
        for what, share in {"exact": exact, "within one": near}.items():
            cells = [f"always strikes {number} times", f"number of strikes, {what}", f"{share:.2f}"]
            lines.append(_row([*cells, f"{share:.2f}", "0.00"]))
    return "\n".join([*lines, "", f"{len(asked)} prompts of the test split name a number.", ""])


def differences_table(tables: list[dict[str, Any]]) -> str:
    """The differences whose intervals leave out 0, with p-values corrected by Holm, in Markdown."""
    found = []
    for of in tables:
        for name, row in of["rows"].items():
            groups = {f"{name}, {group}": values for group, values in row["groups"].items()}
            for label, values in {name: row[of["measure"]], **groups}.items():
                gain = values["difference"]
                if gain is None or gain["value"] is None or gain["over_seeds"] is None:
                    continue
                error = (gain["interval"][1] - gain["interval"][0]) / (2 * norm.ppf(0.975))
                prompts = 2 * float(norm.sf(abs(gain["value"]) / error)) if error else 1.0
                seeds = float(ttest_1samp(gain["by_seed"], 0).pvalue)
                found.append((of["experiment"], of["baseline"], label, gain, max(prompts, seeds)))
    for_all = holm([one[-1] for one in found])
    own = {}
    for experiment in {one[0] for one in found}:
        members = [i for i, one in enumerate(found) if one[0] == experiment]
        own |= dict(zip(members, holm([found[i][-1] for i in members]), strict=True))
    shown = [
        i
        for i, one in enumerate(found)
        if all(a * b > 0 for a, b in (one[3]["interval"], one[3]["over_seeds"]))
    ]
    head = ["experiment", "row minus baseline", "difference", "p", "Holm, its table", "Holm, all"]
    lines = [_row(head), _row(["---"] * len(head))]
    for i in shown:
        experiment, baseline, label, gain, p = found[i]
        cells = [f"{gain['value']:+.3f}", *(f"{value:.2g}" for value in (p, own[i], for_all[i]))]
        lines.append(_row([experiment, f"{label} - {baseline}", *cells]))
    within, overall = (sum(ps[i] < 0.05 for i in shown) for ps in (own, for_all))
    note = (
        f"{len(found)} differences with two seeds or more; both intervals of {len(shown)} leave out 0. "
        f"Of these, {within} have p below 0.05 corrected within their table, {overall} corrected over all. "
        "p is the larger of that over prompts (normal, from the interval) and that over seeds (Student's t)."
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

"""The table of an experiment: its cells combined, with confidence intervals, paired differences and a plot.

The value of a row is the mean over the prompts of all its seeds; each seed has its own prompts. The
confidence interval is bootstrapped over prompts, so it does not include the variation between training runs.
That is shown separately, as the range of the seeds' means. Differences from the baseline are paired by
prompt and seed. They have two intervals: one over prompts, and one over seeds, which are separate training
runs, from Student's t. With three seeds the second is wide. A claim about a training method requires that it
excludes 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kinetophone.files import write_json
from kinetophone.metrics.control import bootstrap_interval
from kinetophone.study.experiment import RESULTS, Experiment
from kinetophone.study.measures import (
    CLIP_METRICS,
    MAIN_METRIC,
    count_accuracy,
    exact_counts,
    material_accuracy,
)
from kinetophone.text import markdown_table

SYNCHRONY = (*CLIP_METRICS, "sustained")
# Markers around the tables in docs/results.md.
START = "<!-- experiments: written by kinetophone experiment, changes made by hand are lost -->"
END = "<!-- /experiments -->"
_MEASURED = {
    "event_f1": "event F1 at one frame",
    "sustained": "correlation of loudness and motion",
}
_OF_HITS = (
    " Seen and heard: share of clips whose material is the prompt's (chance 0.2). Count: of the prompts that "
    "name a number of strikes, the share whose clip has exactly it, seen and heard; heard alone and seen "
    "alone with 95 % intervals over prompts. Distances are each seed's, from the true clips of its prompts."
)


def collect(experiment: Experiment) -> dict[str, list[dict[str, Any]]]:
    """Available results that are not out of date, by row."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in experiment.rows}
    for cell in experiment.cells():
        result = cell.result()
        if result is not None:
            found[cell.row].append(result)
    return found


def summary(experiment: Experiment, results: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The content of the table, ready for JSON."""
    rows, measure = {}, MAIN_METRIC[experiment.domain]
    for name, cells in results.items():
        if cells:
            others = results[experiment.baseline] if name != experiment.baseline else []
            rows[name] = _row(cells, others)
            rows[name]["groups"] = {
                group: _compared(cells, others, measure, materials)
                for group, materials in experiment.groups.items()
            }
    along = _along(experiment)
    whole = [name for name in along if name in rows and len(rows[name]["seeds"]) == len(experiment.seeds)]
    best = max(whole, key=lambda name: rows[name][measure]["value"], default=None)
    if best:
        for name in rows.keys() - set(along):
            rows[name]["from_best"] = difference(results[name], results[best], measure)
    return {
        "experiment": experiment.name,
        "question": experiment.question,
        "baseline": experiment.baseline,
        "measure": measure,
        "best": best,
        "along": along,
        "split": experiment.split,
        "prompts": experiment.prompts,
        "seeds_wanted": experiment.seeds,
        "missing": {
            name: sorted(set(experiment.seeds) - {cell["seed"] for cell in cells})
            for name, cells in results.items()
            if len(cells) < len(experiment.seeds)
        },
        "rows": rows,
    }


def _along(experiment: Experiment) -> list[str]:
    """Names of the rows with a number for the option on the x axis."""
    return [
        name
        for name, row in experiment.rows.items()
        if isinstance((experiment.sampling | row.sampling).get(experiment.along), int | float)
    ]


def _row(cells: list[dict[str, Any]], baseline: list[dict[str, Any]]) -> dict[str, Any]:
    names = cells[0]["distances"].keys()
    clips = [clip for cell in cells for clip in cell["clips"]]
    return {
        "seeds": [cell["seed"] for cell in cells],
        "parameters": cells[0]["parameters"],
        "sampling": cells[0]["sampling"],
        "gammas": [cell["sampling"].get("gamma") for cell in cells],
        "unscored": sum(cell["unscored"] for cell in cells),
        **{
            measure: _compared(cells, baseline, measure)
            | {
                "shuffled": float(np.mean([cell["synchrony"][measure]["shuffled"] for cell in cells])),
                "by_seed": [cell["synchrony"][measure]["value"] for cell in cells],
            }
            for measure in SYNCHRONY
            if measure in cells[0]["synchrony"]
        },
        **{name: [cell["distances"][name]["frechet"] for cell in cells] for name in names},
        "seen": material_accuracy(clips, "seen"),
        "heard": material_accuracy(clips, "heard"),
        "count": count_accuracy(clips),
        "count, heard": _mean(np.array(exact_counts(clips, "onsets"), float)),
        "count, seen": _mean(np.array(exact_counts(clips, "strikes"), float)),
    }


def _compared(
    cells: list[dict[str, Any]],
    baseline: list[dict[str, Any]],
    measure: str,
    materials: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Mean over all clips of all seeds, and the difference from the baseline."""
    scores = [score for cell in cells for score in _scores(cell, measure, materials).values()]
    return _mean(np.array(scores)) | {"difference": difference(cells, baseline, measure, materials)}


def _scores(cell: dict[str, Any], measure: str, materials: Sequence[str] | None = None) -> dict[int, float]:
    return {
        clip["clip"]: clip[measure]
        for clip in cell["clips"]
        if materials is None or clip["material"] in materials
    }


def difference(
    cells: list[dict[str, Any]],
    baseline: list[dict[str, Any]],
    measure: str,
    materials: Sequence[str] | None = None,
) -> dict[str, Any] | None:
    """Row minus baseline, over the seeds that both have and the prompts for which both have a score.

    Args:
        cells: Results of the row.
        baseline: Results of the baseline.
        measure: Name of the metric.
        materials: Only use prompts of these materials, if given.

    Returns:
        The difference with its intervals; None if there are no common seeds.
    """
    others = {cell["seed"]: _scores(cell, measure, materials) for cell in baseline}
    gains = []
    for cell in cells:
        theirs = others.get(cell["seed"])
        if theirs:
            scores = _scores(cell, measure, materials).items()
            gains.append([s - theirs[clip] for clip, s in scores if clip in theirs])
    if not gains:
        return None
    by_seed = [float(np.mean(gain)) for gain in gains]
    return _mean(np.concatenate(gains)) | {"by_seed": by_seed, "over_seeds": _over_seeds(by_seed)}


def _over_seeds(means: Sequence[float]) -> list[float] | None:
    """95 % confidence interval of the mean over seeds, from Student's t; None for a single seed."""
    if len(means) < 2:
        return None
    from scipy.stats import t

    half = t.ppf(0.975, len(means) - 1) * np.std(means, ddof=1) / np.sqrt(len(means))
    return [float(np.mean(means) - half), float(np.mean(means) + half)]


def _mean(by_prompt: np.ndarray) -> dict[str, Any]:
    if not len(by_prompt):
        return {"value": None, "interval": None, "n": 0}
    interval = bootstrap_interval(by_prompt, 0)
    return {
        "value": float(by_prompt.mean()),
        "interval": [interval.low, interval.high],
        "n": len(by_prompt),
    }


def markdown(table: dict[str, Any]) -> str:
    """The table as a section of ``docs/results.md``."""
    measure, rows = table["measure"], table["rows"].values()
    distances = [key for key in ("hits-FVD", "hits-FAD") if any(key in row for row in rows)]
    judged = [key for key in ("seen", "heard", "count") if any(row[key] is not None for row in rows)]
    exact = [key for key in ("count, heard", "count, seen") if any(row[key]["n"] for row in rows)]
    groups = sorted({group for row in rows for group in row["groups"]})
    minus = f"minus {table['baseline']}"
    columns = [
        "row", "seeds", measure, "by seed", "shuffled", minus,
        *[column for group in groups for column in (f"{measure}, {group}", f"{minus}, {group}")],
        *distances, *judged, *exact, "parameters",
    ]  # fmt: skip
    lines = [
        f"### {table['experiment']}",
        "",
        table["question"],
        "",
        f"{table['prompts']} prompts of `{table['split']}` for each seed, 8 fps; {_MEASURED[measure]}; 95 % "
        "intervals over all prompts, range over seeds; differences are paired, in square brackets each "
        "seed's and the 95 % interval of their mean over seeds (Student's t)."
        + (_OF_HITS if distances else ""),
        "",
    ]
    cells = []
    for name, row in table["rows"].items():
        main = row[measure]
        row_cells = [
            name,
            str(len(row["seeds"])),
            with_interval(main),
            seed_range(main["by_seed"]),
            f"{main['shuffled']:.3f}",
            _gain(main),
            *[
                cell
                for group in groups
                for cell in (with_interval(row["groups"][group]), _gain(row["groups"][group]))
            ],
            *[seed_range(row[key]) for key in distances],
            *["" if row[key] is None else f"{row[key]:.3f}" for key in judged],
            *[with_interval(row[key]) for key in exact],
            f"{row['parameters'] / 1e6:.2f} M",
        ]
        cells.append(row_cells)
    lines += markdown_table(columns, cells or [["nothing yet", *[""] * (len(columns) - 1)]])
    if table["missing"]:
        absent = "; ".join(f"{name}: {', '.join(map(str, of))}" for name, of in table["missing"].items())
        lines += ["", f"**Not made yet**, seeds of {absent}."]
    if table["best"] and len(table["along"]) < len(rows):
        lines += ["", _from_best(table)]
    lines += ["", f"![{table['experiment']}](results/{table['experiment']}/plot.png)", ""]
    return "\n".join(lines)


def _from_best(table: dict[str, Any]) -> str:
    """Differences between rows that set the option by a rule and the best row of the sweep."""
    ruled = {name: row for name, row in table["rows"].items() if name not in table["along"]}
    parts = []
    for name, row in ruled.items():
        gammas = row["gammas"] if None not in row["gammas"] else []
        found = f" (γ {', '.join(f'{gamma:.2f}' for gamma in gammas)})" if gammas else ""
        parts.append(f"{name}{found} {_paired(row['from_best'])}")
    return f"Best along the sweep, by these very scores: {table['best']}. Minus it: {'; '.join(parts)}."


def with_interval(mean: dict[str, Any], sign: str = "") -> str:
    """A mean with its interval as text; ``sign`` "+" shows plus signs."""
    if mean["value"] is None:
        return ""
    low, high = mean["interval"]
    return f"{mean['value']:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def _gain(mean: dict[str, Any]) -> str:
    gain = mean["difference"]
    return "" if gain is None or gain["value"] is None else _paired(gain)


def _paired(gain: dict[str, Any]) -> str:
    """A difference as text, with both intervals."""
    seeds = ", ".join(f"{seed:+.3f}" for seed in gain["by_seed"])
    if gain["over_seeds"] is not None:
        seeds += "; {:+.3f} to {:+.3f}".format(*gain["over_seeds"])
    return f"{with_interval(gain, sign='+')} [{seeds}]"


def seed_range(values: list[float]) -> str:
    """The range of the seeds' values as text."""
    low, high = f"{min(values):.3f}", f"{max(values):.3f}"
    return low if low == high else f"{low} to {high}"


def plot(experiment: Experiment, table: dict[str, Any], path: Path) -> None:
    """Plot synchrony with its shuffled control, and the distances, by row or against a sampling option."""
    from matplotlib.figure import Figure

    along = experiment.along
    rows = {name: row for name, row in table["rows"].items() if not along or name in table["along"]}
    others = {name: row for name, row in table["rows"].items() if name not in rows}
    distances = [key for key in ("hits-FVD", "hits-FAD") if all(key in row for row in table["rows"].values())]
    figure = Figure(figsize=(5 * (1 + len(distances)), 4), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, 1 + len(distances)))
    places = [float(row["sampling"][along]) if along else k for k, row in enumerate(rows.values())]
    order = np.argsort(places)
    x, values = np.array(places)[order], [list(rows.values())[i] for i in order]
    measure = table["measure"]
    main = [row[measure] for row in values]
    shown = {measure: main} | {name: [row["groups"][name] for row in values] for name in experiment.groups}
    for number, (name, of) in enumerate(shown.items()):
        means = np.array(
            [one["value"] for one in of], float
        )  # None, of a group without prompts, is not drawn
        ends = np.array([one["interval"] or (np.nan, np.nan) for one in of]).reshape(-1, 2).T
        spread, beside = np.abs(ends - means), 0.06 * number  # offset overlapping intervals
        axes[0].errorbar(x + beside, means, spread, fmt="o-" if along else "o", capsize=3, label=name)
    axes[0].plot(x, [one["shuffled"] for one in main], "k_", markersize=12, label="shuffled")
    lowest = min(one["value"] or 0 for of in shown.values() for one in of)
    axes[0].set(ylim=(min(0, lowest), 1.2), title=f"{measure}, 95 % over prompts")
    for number, (name, row) in enumerate(others.items()):
        axes[0].axhline(row[measure]["value"], color=f"C{number + 1}", linestyle="--", label=name)
    axes[0].legend(fontsize="small")
    for axis, key in zip(axes[1:], distances, strict=True):
        for place, row in zip(x, values, strict=True):
            axis.plot([place] * len(row[key]), row[key], "C0o")
        for number, row in enumerate(others.values()):
            axis.axhline(np.mean(row[key]), color=f"C{number + 1}", linestyle="--")
        axis.set(ylim=(0, 1.1 * axis.dataLim.y1), title=f"{key}, each seed")
    for axis in axes:
        if along:
            axis.set(xlabel=along)
        else:
            axis.set_xticks(x, [list(rows)[i] for i in order], rotation=30, ha="right")
    figure.savefig(path, dpi=100)


def write(experiment: Experiment) -> dict[str, Any]:
    """Write the table and plot of all available results, and update ``docs/results.md``.

    Returns:
        The content of the table.
    """
    table = summary(experiment, collect(experiment))
    folder = experiment.results
    folder.mkdir(parents=True, exist_ok=True)
    write_json(table, folder / "table.json")
    (folder / "table.md").write_text(markdown(table), encoding="utf-8")
    if table["rows"]:
        plot(experiment, table, folder / "plot.png")
    sections = [path.read_text(encoding="utf-8") for path in sorted(RESULTS.glob("*/table.md"))]
    page = RESULTS.parent / "results.md"
    text = page.read_text(encoding="utf-8") if page.is_file() else "# Results\n"
    before, _, after = text.partition(START)
    after = after.partition(END)[2] if after else "\n"
    written = "\n\n".join([before.rstrip(), START, *(section.strip() for section in sections), END])
    page.write_text(written + after, encoding="utf-8")
    return table

"""Tables printed by ``evaluate`` and ``compare``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from kinetophone.hits.generated import Agreement
    from kinetophone.metrics.compare import Comparison
    from kinetophone.metrics.control import Control
    from kinetophone.metrics.evaluate import ClipEvents, Report
    from kinetophone.metrics.registry import Scores


def print_report(name: str, report: Report) -> None:
    """Print the metrics of a set of clips, and the clips that could not be scored."""
    from rich.table import Table

    rates = ", ".join(f"{number} at {rate} fps" for rate, number in report.fps.items()) or "none"
    table = Table(title=f"{name}: {report.clips} clips, scored: {rates}; tolerance one frame, 95 % intervals")
    for column in ("measure", "value", "interval", "shuffled", "its range", "above", "its interval", "n"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    against_truth = {f"{name} (against truth)": row for name, row in report.detectors.items()}
    for measure, row in {**report.metrics, **against_truth}.items():
        cells = (
            row.value, row.interval, row.shuffled, row.shuffled_range, row.above, row.above_interval, row.n
        )  # fmt: skip
        table.add_row(measure, *map(_cell, cells))
    if report.lag is not None:
        cells = (report.lag.value, report.lag.interval, None, None, None, None, report.lag.n)
        table.add_row("lag of the audio, s", *map(_cell, cells))
    _show(table)
    for clip in report.unscored:
        typer.echo(f"not scored: {clip.name}: {clip.reason}")


def print_lags(clips: Sequence[ClipEvents], rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the lag of each clip, and beside it the offsets of DeSync if they were computed.

    Args:
        clips: The scored clips.
        rows: Their rows in the report, in the same order.
    """
    from rich.table import Table

    table = Table(
        title="lag of the audio, s; DeSync's offsets are classes 0.2 s apart, with the network's sign"
    )
    for column in ("clip", "our lag", "95 % interval", "DeSync, signed mean", "DeSync, absolute mean"):
        table.add_column(column, justify="left" if column == "clip" else "right")
    for clip, row in zip(clips, rows, strict=True):
        interval = row["lag_interval"]
        offsets = clip.features.get("desync")
        table.add_row(
            clip.name,
            _cell(row["lag_s"]),
            "" if interval is None else "{low:.3f} to {high:.3f}".format(**interval),
            *("", "")
            if offsets is None
            else (_cell(float(offsets.mean())), _cell(float(abs(offsets).mean()))),
        )
    _show(table)


def print_comparison(found: Comparison) -> None:
    """Print the differences between two sets, and the names that only one set has."""
    from rich.table import Table

    n = next(iter(found.metrics.values())).n
    table = Table(title=f"{n} pairs by name; 95 % interval of the difference")
    for column in ("measure", "first", "second", "difference", "its interval", "first higher"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    for measure, row in found.metrics.items():
        cells = (row.first, row.second, row.difference, row.interval, row.first_higher)
        table.add_row(measure, *map(_cell, cells))
    _show(table)
    for side, names in (("first", found.only_first), ("second", found.only_second)):
        for name in names:
            typer.echo(f"only in the {side}: {name}")


def print_quality(quality: Scores) -> None:
    """Print distances, semantic agreement and DeSync."""
    from rich.table import Table

    if quality.distances:
        table = Table(
            title="distance to the reference; with few clips the Fréchet distance is biased upwards"
        )
        columns = (
            "measure", "Fréchet", "interval", "floor", "kernel", "its spread", "n", "n reference", "dimension"
        )  # fmt: skip
        for column in columns:
            table.add_column(column, justify="left" if column == "measure" else "right")
        for name, row in quality.distances.items():
            cells = (
                row.frechet, row.frechet_interval, row.floor, row.kernel, row.kernel_interval, row.n,
                row.n_reference, row.dimension,
            )  # fmt: skip
            table.add_row(name, *map(_cell, cells))
        _show(table)
    for name, row in quality.distances.items():
        if row.warning:
            typer.echo(f"{name}: {row.warning}")
    print_agreements(quality.semantics)
    if quality.desync is not None:
        off = quality.desync
        short = f", {off.short} of them shorter than the network's window" if off.short else ""
        chance = f"chance level {off.chance:.2f}"
        typer.echo(
            f"DeSync, absolute mean: {off.value:.3f} s ({_cell(off.interval)}), {chance}, n {off.n}{short}"
        )
        typer.echo(f"DeSync, signed mean: {off.signed:+.3f} s ({_cell(off.signed_interval)})")


def _show(table: Table) -> None:
    from rich.console import Console

    # A pipe has no width, and rich's default of 80 columns would truncate numbers.
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(table)


def print_agreements(agreements: Mapping[str, Control]) -> None:
    """Print one line per agreement, with the value for shuffled pairs."""
    for name, agreed in agreements.items():
        chance = "" if agreed.shuffled is None else f", shuffled {agreed.shuffled:.3f}"
        typer.echo(f"{name}: {agreed.value:.3f} ({_cell(agreed.interval)}){chance}, n {agreed.n}")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.3f}"
    return "{low:.3f} to {high:.3f}".format(**asdict(value))


def print_seams(seams: dict[str, Agreement]) -> None:
    """Print one line per measure of the seams between kept and generated parts."""
    for measure, mean in seams.items():
        typer.echo(f"seam, {measure}: {mean.value:.2f} ({_cell(mean.interval)}), n {mean.n}")

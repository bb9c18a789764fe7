"""The commands that study a coupling: ``gamma``, ``experiment``, ``limits``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kinetophone.cli.options import AllowPickle, Device
from kinetophone.cli.shared import given, quiet_libraries
from kinetophone.errors import RequestError


def gamma(
    bundle: Annotated[str, typer.Argument(help="A bundle's name or folder.", show_default=False)],
    count: Annotated[int, typer.Option(help="Number of clips to measure on, from 2.")] = 32,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder written by kinetophone data encode; default: val clips of --domain."),
    ] = None,
    domain: Annotated[
        Literal["hits", "hits16", "bows"],
        typer.Option(help="Procedural data set to measure on, without --data."),
    ] = "hits",
    keep: Annotated[
        bool, typer.Option("--store", help="Store the result in the bundle's kinetophone.json, for γ auto.")
    ] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="JSON file for all results.")] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG file for a plot of the map.")] = None,
    device: Device = None,
    allow_pickle: AllowPickle = False,
) -> None:
    """Choose γ from the information that audio and video share at all pairs of noise levels."""
    if count < 2:
        raise RequestError([f"count is {count}; it must be at least 2"])
    from kinetophone.bundle.spec import BundleSpec
    from kinetophone.tasks.request import check_writable

    spec = BundleSpec.read(bundle)
    assert spec.folder is not None
    described = spec.file or spec.folder / "kinetophone.json"
    for path in (json_path, plot, described if keep else None):
        if path is not None:
            check_writable(path)
    from kinetophone.bundle.auto_gamma import draw, find_gamma, store
    from kinetophone.bundle.load import Bundle as Loaded
    from kinetophone.files import write_json

    quiet_libraries()
    loaded = Loaded.from_pretrained(bundle, allow_pickle=allow_pickle, **given(device=device))
    choice, _, results = find_gamma(loaded, count, data, domain)
    typer.echo(f"{choice.clips} clips; gain of audio, gain of video, and difference to the best γ, in nats")
    for row in zip(choice.gammas, choice.nats.audio, choice.nats.video, choice.behind,
                   choice.behind_error, strict=True):  # fmt: skip
        typer.echo("γ {:5.2f}  {:7.2f}  {:7.2f}  {:6.2f} ± {:.2f}".format(*row))
    typer.echo(
        f"audio first {choice.limits[0]:.2f}, video first {choice.limits[1]:.2f} nats; "
        f"best γ {choice.best:.2f}; auto {choice.gamma:.2f}"
    )
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        write_json(results, json_path)
        typer.echo(json_path)
    if plot is not None:
        draw(results, plot)
        typer.echo(plot)
    if keep:
        store(bundle, choice.gamma)
        typer.echo(described)


def experiment(
    paths: Annotated[list[Path], typer.Argument(help="YAML files of experiments.", show_default=False)],
    prompts: Annotated[
        int | None,
        typer.Option(help="Number of prompts, instead of that in the file; results are stored separately."),
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Only this seed; can be repeated.")] = None,
    row: Annotated[list[str] | None, typer.Option(help="Only this row; can be repeated.")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Start no new cell after this time; finished cells are kept.")
    ] = None,
    device: Device = None,
    workers: Annotated[int | None, typer.Option(help="Number of processes for event detection.")] = None,
    collect: Annotated[
        bool, typer.Option("--collect", help="Only write the tables of existing results.")
    ] = False,
) -> None:
    """Train, sample and evaluate a grid of couplings, settings and seeds; resumes where it stopped."""
    import time

    from kinetophone.study.experiment import load_experiment

    chosen = [load_experiment(path, prompts) for path in paths]
    for one in chosen:
        if unknown := sorted(set(row or ()) - one.rows.keys()):
            raise RequestError([f"{one.name} has no row {', '.join(unknown)}; it has {', '.join(one.rows)}"])
        if absent := sorted(set(seed or ()) - set(one.seeds)):
            raise RequestError([f"{one.name} has no seed {', '.join(map(str, absent))}; it has {one.seeds}"])
    from kinetophone.bundle.load import fastest_device
    from kinetophone.precision import emulated
    from kinetophone.study.cells import check_recipes, make
    from kinetophone.study.measures import MAIN_METRIC
    from kinetophone.study.table import write

    quiet_libraries()
    cells = [
        cell
        for one in chosen
        for cell in one.cells()
        if (not row or cell.row in row) and (not seed or cell.seed in seed)
    ]
    for cell in cells:
        check_recipes(cell)
    for one in [] if collect else chosen:
        left = any(cell.experiment is one and cell.result() is None for cell in cells)
        if left and (told := emulated(one.precision, device or fastest_device())):
            typer.echo(f"{one.name}: {told}", err=True)
    ends = time.monotonic() + 60 * minutes if minutes is not None else None
    for cell in [] if collect else cells:
        where = f"{cell.experiment.name}: {cell.row}, seed {cell.seed}"
        if cell.result() is not None:
            typer.echo(f"{where}: already done")
            continue
        if ends is not None and time.monotonic() > ends:
            typer.echo(f"{where}: skipped, out of time")
            continue
        typer.echo(f"{where}: running")
        measure = MAIN_METRIC[cell.experiment.domain]
        found = make(cell, device=device, workers=workers)["synchrony"][measure]
        typer.echo(f"{where}: {measure} {found['value']:.3f}, shuffled {found['shuffled']:.3f}")
        write(cell.experiment)
    for one in chosen:
        write(one)
        typer.echo(one.results / "table.md")


def limits(
    bundle: Annotated[str, typer.Argument(help="A bundle's name or folder.", show_default=False)] = "hits",
    count: Annotated[int, typer.Option(help="Number of prompts, from 4.")] = 256,
    out: Annotated[
        Path, typer.Option(help="Folder for NAME-COUNT.json and .md; existing results are reused.")
    ] = Path("docs/results/limits"),
    split: Annotated[str, typer.Option(help="Split: val for tuning, test for reporting.")] = "test",
    steps: Annotated[int | None, typer.Option(help="Sampling steps; default: that of the bundle.")] = None,
    device: Device = None,
    workers: Annotated[int | None, typer.Option(help="Number of processes for event detection.")] = None,
    allow_pickle: AllowPickle = False,
) -> None:
    """Find the part of a bundle that limits its quality: replace one part at a time with ground truth."""
    from kinetophone.bundle.spec import BundleSpec
    from kinetophone.hits.scene import SPLITS
    from kinetophone.tasks.request import GenerateRequest, check_writable

    if count < 4:
        raise RequestError([f"count is {count}; distances need at least 4"])
    if split not in SPLITS:
        raise RequestError([f"split is '{split}'; it must be one of {', '.join(SPLITS)}"])
    GenerateRequest(prompts=("a",), bundle=bundle, options=given(steps=steps)).validate()
    folder = BundleSpec.read(bundle).folder
    assert folder is not None
    path = out / f"{Path(bundle).name}-{count}.json"
    check_writable(path)
    from kinetophone.pipeline import Kinetophone
    from kinetophone.study.limits import limits as find_limits
    from kinetophone.study.limits import markdown

    quiet_libraries()
    pipe = Kinetophone.from_pretrained(bundle, allow_pickle=allow_pickle, **given(device=device))
    found = find_limits(pipe, folder, count, path, split=split, workers=workers, **given(steps=steps))
    path.with_suffix(".md").write_text(markdown(found), encoding="utf-8")
    typer.echo(markdown(found))
    typer.echo(path)

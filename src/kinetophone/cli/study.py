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
        typer.Option(help="Folder of kinetophone data encode; val clips of a domain where not given."),
    ] = None,
    domain: Annotated[
        Literal["hits", "bows"], typer.Option(help="Procedural clips to measure on, without --data.")
    ] = "hits",
    keep: Annotated[
        bool, typer.Option("--store", help="Write it into the bundle's kinetophone.json, for γ auto.")
    ] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="File for all the numbers.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture of the map to write, .png.")] = None,
    device: Device = None,
    allow_pickle: AllowPickle = False,
) -> None:
    """Choose γ: measure how much sound and picture tell of each other at all pairs of noise levels."""
    if count < 2:
        raise RequestError([f"count is {count}; it must be at least 2"])
    from kinetophone.bundle.spec import BundleSpec
    from kinetophone.tasks.request import check_writable

    folder = BundleSpec.read(bundle).folder
    assert folder is not None
    for path in (json_path, plot, folder / "kinetophone.json" if keep else None):
        if path is not None:
            check_writable(path)
    from kinetophone.bundle.auto_gamma import draw, find_gamma, store
    from kinetophone.bundle.load import Bundle as Loaded
    from kinetophone.data.shards import write_json

    quiet_libraries()
    loaded = Loaded.from_pretrained(bundle, allow_pickle=allow_pickle, **given(device=device))
    choice, _, results = find_gamma(loaded, count, data, domain)
    typer.echo(f"{choice.clips} clips; nats gained by sound, by picture, and behind the best")
    for row in zip(choice.gammas, choice.nats.audio, choice.nats.video, choice.behind,
                   choice.behind_error, strict=True):  # fmt: skip
        typer.echo("γ {:5.2f}  {:7.2f}  {:7.2f}  {:6.2f} ± {:.2f}".format(*row))
    typer.echo(
        f"sound first {choice.limits[0]:.2f}, picture first {choice.limits[1]:.2f} nats; "
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
        store(folder, choice.gamma)
        typer.echo(folder / "kinetophone.json")


def experiment(
    paths: Annotated[list[Path], typer.Argument(help="Experiments, YAML files.", show_default=False)],
    prompts: Annotated[
        int | None, typer.Option(help="Number of prompts instead of the file's; kept apart.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Only this seed; may be given again.")] = None,
    row: Annotated[list[str] | None, typer.Option(help="Only this row; may be given again.")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Begin no cell later than this; what is done stays.")
    ] = None,
    device: Device = None,
    workers: Annotated[int | None, typer.Option(help="Processes of the detectors.")] = None,
    collect: Annotated[
        bool, typer.Option("--collect", help="Make nothing new, only the tables of what is there.")
    ] = False,
) -> None:
    """Train, sample and measure a grid of couplings, settings and seeds; go on where it stopped."""
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
    from kinetophone.study.measures import MAIN
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
            typer.echo(f"{where}: there already")
            continue
        if ends is not None and time.monotonic() > ends:
            typer.echo(f"{where}: left for another time")
            continue
        typer.echo(f"{where}: making it")
        measure = MAIN[cell.experiment.domain]
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
        Path, typer.Option(help="Folder for NAME-COUNT.json and .md; sets it holds are not made again.")
    ] = Path("docs/results/limits"),
    split: Annotated[str, typer.Option(help="Of hits: test to report, val to look.")] = "test",
    steps: Annotated[int | None, typer.Option(help="Sampling steps; the bundle's where not given.")] = None,
    device: Device = None,
    workers: Annotated[int | None, typer.Option(help="Processes of the detectors.")] = None,
    allow_pickle: AllowPickle = False,
) -> None:
    """Say which part of a bundle limits it: put the truth in for one part at a time."""
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

"""The commands ``evaluate`` and ``compare``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kinetophone.cli.options import CLOCKS, MODEL, SAMPLING, Group, takes
from kinetophone.cli.shared import RayAddress, WorkerCount, check_at_least_one, given
from kinetophone.cli.tables import (
    print_agreements,
    print_comparison,
    print_lags,
    print_quality,
    print_report,
    print_seams,
)
from kinetophone.errors import RequestError
from kinetophone.metrics.registry import all_metrics

if TYPE_CHECKING:
    from kinetophone.hits.generated import GeneratedReport
    from kinetophone.metrics.features import Extractor
    from kinetophone.metrics.kept import Kept


# One option per metric for the weights of its network.
NETWORKS = Group(
    {
        metric.source: (Annotated[str | None, typer.Option(help=metric.source_help)], None)
        for metric in all_metrics().values()
        if not metric.of_bundle
    }
)


@takes(networks=NETWORKS, sampling=(SAMPLING, CLOCKS), model=MODEL)
def evaluate(
    networks: dict[str, str],
    sampling: dict[str, Any],
    model: dict[str, Any],
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of clips with audio, or of videos and .wav files with the same names.",
            show_default=False,
        ),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Folder of reference clips for distances such as FVD.")
    ] = None,
    captions: Annotated[
        Path | None, typer.Option(help="CSV with the columns file and caption, for text similarity.")
    ] = None,
    metrics: Annotated[
        str,
        typer.Option(
            help=f"Metrics in addition to alignment, separated by commas: {', '.join(all_metrics())}."
        ),
    ] = "",
    allow_torchscript: Annotated[
        bool,
        typer.Option("--allow-torchscript", help="Load networks that are TorchScript, which can run code."),
    ] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="JSON file for all results.")] = None,
    html_path: Annotated[
        Path | None, typer.Option("--report", help="HTML file for a report with every clip.")
    ] = None,
    events: Annotated[
        Path | None,
        typer.Option(
            help="Ground-truth event times: events.json, or a folder of *_times.txt; default: from FOLDER."
        ),
    ] = None,
    generate_count: Annotated[
        int | None,
        typer.Option("--generate", help="Instead of a folder: generate this many clips from hits prompts."),
    ] = None,
    task: Annotated[
        str,
        typer.Option(
            help="With --generate: the task, with input from true clips: generate (caption only), sound "
            "(video), picture (audio), animate (first frame), extend (first 1.5 s)."
        ),
    ] = "generate",
    split: Annotated[
        str, typer.Option(help="Split of the prompts for --generate: val for tuning, test for reporting.")
    ] = "test",
    held_out: Annotated[
        bool,
        typer.Option(
            "--held-out", help="With --generate: prompts in wording that training never sees; 16 fps."
        ),
    ] = False,
    uncoupled: Annotated[
        bool,
        typer.Option("--uncoupled", help="With --generate: also evaluate with the coupling switched off."),
    ] = False,
    replacement: Annotated[
        bool,
        typer.Option(
            "--replacement",
            help="With --task sound or picture, as a baseline: noise the given track in each step.",
        ),
    ] = False,
    keep: Annotated[Path | None, typer.Option(help="Folder for the generated clips.")] = None,
    table: Annotated[
        bool,
        typer.Option(
            "--table",
            help="Also print the lag of each clip, with metric desync beside the network's offsets.",
        ),
    ] = False,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="Compute AV-Align's optical flow as published, at the size of the files; slower.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of sampling, shuffling and bootstrap.")] = 0,
    workers: WorkerCount = None,
    ray: RayAddress = None,
) -> None:
    """Measure the synchrony of clips, with shuffled pairs as a baseline."""
    if (folder is None) == (generate_count is None):
        raise RequestError(["give either a folder of clips or --generate with a number"])
    if folder is None and (reference or captions or metrics or html_path or ray or exact or table):
        raise RequestError(
            ["--reference, --captions, --metrics, --report, --table, --exact, --ray need a folder of clips"]
        )
    if workers is not None:
        check_at_least_one("workers", workers)
    for path in (json_path, html_path):
        if path is not None:
            from kinetophone.tasks.request import check_writable

            check_writable(path)
    results: dict[str, Any] = {}
    kept = None
    if folder is not None:
        consent = {"allow_torchscript": allow_torchscript, "allow_pickle": model["allow_pickle"]}
        extractor = _extractor(metrics, model["bundle"], reference, captions, networks, consent)
        if json_path is not None:
            from kinetophone.metrics.kept import Kept

            # Beside the results until they are written, so that a killed command goes on.
            kept = Kept(json_path.with_name(f".{json_path.name}.clips.jsonl"))
        results = _evaluate_folder(
            folder, reference, captions, extractor, events, seed, workers, ray, html_path, exact, table, kept
        )
    else:
        assert generate_count is not None
        check_at_least_one("generate", generate_count)
        options = {**sampling, **given(replacement=replacement or None)}
        for name, made in _evaluate_generated(
            generate_count,
            task,
            split,
            held_out,
            model,
            uncoupled,
            keep,
            seed,
            workers,
            options,
        ).items():
            print_report(name, made.synchrony)
            print_agreements(made.materials | made.adherence)
            print_seams(made.seams)
            results[name] = made.to_dict()
    if json_path is not None:
        _write_json(results, json_path)
        if kept is not None:
            kept.remove()
        typer.echo(json_path)


def compare(
    first: Annotated[Path, typer.Argument(help="Folder of clips, or a JSON file of evaluate.")],
    second: Annotated[
        Path, typer.Argument(help="Clips of another system for the same prompts, with the same names.")
    ],
    json_path: Annotated[Path | None, typer.Option("--json", help="JSON file for all results.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    workers: WorkerCount = None,
) -> None:
    """Compare two sets of clips for the same prompts, paired by clip."""
    if workers is not None:
        check_at_least_one("workers", workers)
    if json_path is not None:
        from kinetophone.tasks.request import check_writable

        check_writable(json_path)
    for path in (first, second):
        if not path.exists():
            raise RequestError(
                [f"'{path}' does not exist; give a folder of clips or a JSON file of evaluate"]
            )
    from kinetophone.metrics.compare import compare as compare_rows
    from kinetophone.metrics.compare import read_rows
    from kinetophone.metrics.evaluate import evaluate as score_clips
    from kinetophone.metrics.sources import find_clips

    sets = []
    for path in (first, second):
        if path.is_file():
            sets.append(read_rows(path))
            continue
        report = score_clips(find_clips(path), seed=seed, workers=workers, progress=True)
        for item in report.unscored:
            typer.echo(f"not scored: {path / item.name}: {item.reason}")
        sets.append(list(report.rows))
    found = compare_rows(*sets, seed=seed)
    print_comparison(found)
    if json_path is not None:
        _write_json(found.to_dict(), json_path)
        typer.echo(json_path)


_NEEDED = {
    "reference": "--reference DIR",
    "captions": "--captions FILE",
    "either": "--captions FILE, --reference DIR, or both",
}


def _extractor(
    metrics: str,
    bundle: str,
    reference: Path | None,
    captions: Path | None,
    networks: dict[str, str],
    consent: dict[str, bool],
) -> Extractor | None:
    """The networks of the requested metrics, checked before clips are read; None without metrics."""
    wanted = [name.strip() for name in metrics.split(",") if name.strip()]
    there = all_metrics()
    known = [there[name] for name in wanted if name in there]
    problems = [
        f"metric '{name}' is unknown; choose from {', '.join(there)}" for name in wanted if name not in there
    ]
    given_sets = {"reference": reference is not None, "captions": captions is not None, "": True}
    given_sets["either"] = given_sets["reference"] or given_sets["captions"]
    for metric in known:
        if not metric.of_bundle and metric.source not in networks:
            problems.append(f"metric {metric.name} needs --{metric.source}")
        if not given_sets[metric.needs]:
            problems.append(f"metric {metric.name} needs {_NEEDED[metric.needs]}")
    if reference is not None and not any(metric.needs in ("reference", "either") for metric in known):
        able = [name for name, metric in there.items() if metric.needs in ("reference", "either")]
        problems.append(f"--reference is for the metrics {', '.join(able)}; name one with --metrics")
    if problems:
        raise RequestError(problems)
    if not wanted:
        return None
    from kinetophone.bundle.spec import BundleSpec
    from kinetophone.metrics.features import Extractor

    sources = {metric.source: networks.get(metric.source) for metric in known}
    for metric in known:
        if metric.of_bundle:
            sources[metric.source] = str(BundleSpec.read(bundle).folder)
    extractor = Extractor(**sources, texts=captions is not None, **consent)  # type: ignore[arg-type]
    extractor.check()
    return extractor


def _evaluate_folder(
    folder: Path,
    reference: Path | None,
    captions: Path | None,
    extractor: Extractor | None,
    events: Path | None,
    seed: int,
    workers: int | None,
    ray: str | None,
    html_path: Path | None,
    exact: bool,
    table: bool,
    kept: Kept | None,
) -> dict[str, Any]:
    from kinetophone.data.sources import first_few
    from kinetophone.metrics.evaluate import detect, score
    from kinetophone.metrics.sources import (
        find_clips,
        find_truth,
        read_captions,
        read_truth,
        unmatched,
        unread_files,
    )

    files = find_clips(folder)
    events = find_truth(folder) if events is None else events
    truth = None if events is None else read_truth(events)
    if names := unread_files(folder):
        typer.echo(f"{len(names)} files have an unsupported type: {first_few(names)}", err=True)
    texts = None if captions is None else read_captions(captions)
    for line in unmatched([file.name for file in files], texts) if texts is not None else ():
        typer.echo(line, err=True)
    others = None if reference is None else find_clips(reference)
    found = detect(files, workers=workers, ray=ray, progress=True, features=extractor, exact=exact, kept=kept)
    report = score(found, truth=truth, seed=seed)
    print_report("clips", report)
    scored = [item for item in found if not hasattr(item, "reason")]
    if table:
        print_lags(scored, report.rows)
    results: dict[str, Any] = {"clips": report.to_dict()}
    if extractor is not None:
        compared: list[Any] = []
        if others is not None:
            for item in detect(
                others, workers=workers, ray=ray, progress=True, features=extractor, kept=kept
            ):
                if hasattr(item, "reason"):
                    typer.echo(f"not used as reference: {item.name}: {item.reason}")
                else:
                    compared.append(item)
        quality = extractor.score(scored, None if others is None else compared, texts, seed=seed)
        print_quality(quality)
        results["quality"] = asdict(quality)
    if html_path is not None:
        from kinetophone.metrics.report import write_report

        typer.echo(write_report(results, folder, html_path, captions=texts or {}))
    return results


def _evaluate_generated(
    count: int,
    task: str,
    split: str,
    held_out: bool,
    model: dict[str, Any],
    uncoupled: bool,
    keep: Path | None,
    seed: int,
    workers: int | None,
    options: dict[str, Any],
) -> dict[str, GeneratedReport]:
    """Reports on clips generated from a split's prompts, and on the ground-truth clips."""
    from kinetophone.bundle.spec import BundleSpec
    from kinetophone.data.domains import domain, world_of
    from kinetophone.hits import SPLITS
    from kinetophone.tasks.request import GenerateRequest
    from kinetophone.tasks.task import find_task

    if split not in SPLITS:
        raise RequestError([f"split is '{split}'; it must be one of {', '.join(SPLITS)}"])
    find_task(task)
    GenerateRequest(prompts=("test",), bundle=model["bundle"], seed=seed, options=options).validate()
    spec = BundleSpec.read(model["bundle"])
    world = domain(world_of(spec.fps))
    if held_out and not hasattr(world, "HELD_OUT"):
        raise RequestError(
            [f"--held-out needs a bundle of hits16, 16 frames a second; {spec.name} has {float(spec.fps):g}"]
        )
    from kinetophone.cli.make import load_pipeline
    from kinetophone.hits.generated import evaluate_generated

    return evaluate_generated(
        load_pipeline(**model),
        spec.folder,
        count,
        task=find_task(task),
        split=split,
        held_out=held_out,
        uncoupled=uncoupled,
        seed=seed,
        workers=workers,
        keep=keep,
        progress=True,
        **options,
    )


def _write_json(content: dict[str, Any], path: Path) -> None:
    from kinetophone.files import replacing

    with replacing(path) as partial:
        Path(partial).write_text(json_text(content) + "\n", encoding="utf-8")


def json_text(content: Any, margin: str = "") -> str:
    """JSON that is easy to read and to diff: one line per list entry, and short values on one line."""
    line = json.dumps(content)
    if len(line) <= 100 or not isinstance(content, dict | list | tuple):
        return line
    deeper = margin + " "
    if isinstance(content, dict):
        lines = [f"{json.dumps(key)}: {json_text(value, deeper)}" for key, value in content.items()]
        return "{\n" + ",\n".join(deeper + entry for entry in lines) + f"\n{margin}}}"
    if not any(isinstance(entry, dict | list | tuple) for entry in content):
        return line
    return "[\n" + ",\n".join(deeper + json.dumps(entry) for entry in content) + f"\n{margin}]"

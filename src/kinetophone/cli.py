"""The command line: parses, checks, calls, shows. What it does is done elsewhere.

No heavy import at the top, so that ``kinetophone --help`` and every error about the input come at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from kinetophone import __version__, cli_data
from kinetophone.errors import RequestError, UserError

if TYPE_CHECKING:
    from kinetophone.metrics.evaluate import Report
    from kinetophone.metrics.generated import Agreement, GeneratedReport
    from kinetophone.pipeline import Kinetophone

app = typer.Typer(
    help="Sounding video: picture and sound generated together, in sync.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="Make data sets.", no_args_is_help=True)
app.add_typer(data, name="data")
convert = typer.Typer(help="Bring weights from elsewhere into our layout.", no_args_is_help=True)
app.add_typer(convert, name="convert")

USER_ERROR = 2
Dtype = Literal["float32", "bfloat16", "float16"]
Offload = Literal["none", "model", "sequential"]


@contextmanager
def _user_errors() -> Iterator[None]:
    """Show an error the user can cure as its message, one line per cause, and exit with 2."""
    try:
        yield
    except (UserError, OSError) as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    for line in message.splitlines():
        typer.echo(f"error: {line}", err=True)
    raise typer.Exit(USER_ERROR)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Sounding video: picture and sound generated together, in sync."""


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What is to be seen and heard.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write: .mp4, .wav, .gif or .png (contact sheet).")
    ],
    bundle: Annotated[str, typer.Option(help="Model: a bundle's name or folder.")] = "hits",
    seed: Annotated[int, typer.Option(help="Same seed, same clip.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Sampling steps; more is slower and finer.")] = None,
    gamma: Annotated[
        float | None, typer.Option(help="Timestep adjustment between sound and picture; 1 is none.")
    ] = None,
    guidance_audio: Annotated[
        float | None, typer.Option(help="How closely the sound follows the prompt; 1 is no guidance.")
    ] = None,
    guidance_video: Annotated[
        float | None, typer.Option(help="How closely the picture follows the prompt; 1 is no guidance.")
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames per second; the bundle's where not given.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="Length; the bundle's where not given.")] = None,
    count: Annotated[int, typer.Option(help="Number of clips; more than one are numbered.")] = 1,
    device: Annotated[
        str | None, typer.Option(help="Such as cpu or cuda; the best there is if not given.")
    ] = None,
    sheet: Annotated[
        bool, typer.Option("--sheet", help="Also write a contact sheet beside each clip.")
    ] = False,
    negative_prompt: Annotated[str | None, typer.Option(help="What is not wanted.")] = None,
    dtype: Annotated[Dtype, typer.Option(help="Of the networks; decoders always use float32.")] = "float32",
    offload: Annotated[
        Offload, typer.Option(help="Keep on the device only the model or the layer that is computing.")
    ] = "none",
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read pickled weights of bases, as tensors only.")
    ] = False,
) -> None:
    """Make sounding clips from a text."""
    from kinetophone.request import GenerateRequest

    with _user_errors():
        _check_at_least_one("count", count)
        request = GenerateRequest(
            prompts=(prompt,) * count,
            bundle=bundle,
            seconds=seconds,
            fps=fps,
            steps=steps,
            gamma=gamma,
            guidance_audio=guidance_audio,
            guidance_video=guidance_video,
            seed=seed,
            output=output,
        )
        time = request.validate()
        options = _given(
            steps=steps,
            gamma=gamma,
            guidance_audio=guidance_audio,
            guidance_video=guidance_video,
            negative_prompt=negative_prompt,
        )
        _quiet_libraries()
        pipe = _load(bundle, device, dtype, offload, allow_pickle)
        clips = pipe(
            [prompt] * count, progress=True, seed=seed, **_given(seconds=time.duration_s, fps=fps), **options
        )
        for number, clip in enumerate(clips):
            path = output if count == 1 else output.with_stem(f"{output.stem}-{number}")
            typer.echo(clip.save(path))
            if sheet and path.suffix.lower() != ".png":
                typer.echo(clip.sheet(path.with_suffix(".png"), title=prompt))


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe, a YAML file.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for checkpoints, logs and samples; the recipe's where not given."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Go on from the last checkpoint, or start again.")
    ] = True,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only show how many parameters, how much memory and how many steps."),
    ] = False,
) -> None:
    """Train what a recipe says."""
    with _user_errors():
        if not recipe.is_file():
            known = ", ".join(str(path) for path in sorted(Path("recipes").glob("*.yaml")))
            cure = f"; there are {known}" if known else ""
            raise FileNotFoundError(f"recipe '{recipe}' does not exist{cure}")
        from kinetophone import training
        from kinetophone.training.recipe import load_recipe

        try:
            load_recipe(recipe)
        except ValueError as error:
            raise UserError(str(error)) from error
        if dry_run:
            for line in training.dry_run(recipe):
                typer.echo(line)
            return
        _quiet_libraries()
        training.run(recipe, out=out, resume=resume)


@app.command()
def pack(
    folder: Annotated[
        Path, typer.Argument(help="Trained components, such as runs/hits.", show_default=False)
    ],
    out: Annotated[Path, typer.Argument(help="Folder of the bundle to write.", show_default=False)],
) -> None:
    """Pack trained components into a bundle in half precision."""
    with _user_errors():
        from kinetophone.request import BundleSpec, check_writable

        BundleSpec.read(folder)
        check_writable(out / "kinetophone.json")
        import torch

        from kinetophone.pipeline import Kinetophone

        Kinetophone.from_pretrained(folder, device="cpu").save_pretrained(out, torch.float16)
        typer.echo(out)


@convert.command()
def reference(
    source: Annotated[Path, typer.Argument(help="The authors' pipeline folder.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Folder of the bundle to write.", show_default=False)],
    audio_base: Annotated[
        str | None, typer.Option(help="Folder or Hub id, for parts of the audio base that the folder lacks.")
    ] = None,
    video_base: Annotated[str | None, typer.Option(help="The same for the video base.")] = None,
    motion_adapter: Annotated[
        str | None, typer.Option(help="Folder or Hub id, for a video base that is an image model.")
    ] = None,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read pickled weights, as tensors only.")
    ] = False,
) -> None:
    """Convert the checkpoint published with arXiv 2409.17550 to a bundle."""
    with _user_errors():
        from kinetophone.request import check_writable

        check_writable(out / "kinetophone.json")
        from kinetophone.convert import convert_reference

        _quiet_libraries()
        bases = _given(audio_base=audio_base, video_base=video_base, motion_adapter=motion_adapter)
        typer.echo(convert_reference(source, out, allow_pickle=allow_pickle, **bases))


@data.command()
def hits(
    out: Annotated[Path, typer.Option(help="Folder for the clips, captions.csv and events.json.")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    count: Annotated[int, typer.Option(help="Number of clips.")] = 100,
    size: Annotated[int, typer.Option(help="Height and width in pixels.")] = 64,
) -> None:
    """Write clips of the procedural data set: a tool strikes things, with exact strike times."""
    with _user_errors():
        _check_at_least_one("count", count)
        if size < 32 or size % 8:
            raise RequestError([f"size is {size}; it must be a multiple of 8 and at least 32, such as 64"])
        from kinetophone.data.hits import SPLITS
        from kinetophone.data.hits.write import write_split

        if split not in SPLITS:
            raise RequestError([f"split is '{split}'; it must be one of {', '.join(SPLITS)}"])
        write_split(split, count, out, size)
        typer.echo(out)


data.command()(_user_errors()(cli_data.prepare))
data.command()(_user_errors()(cli_data.encode))


@app.command()
def evaluate(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of sounding clips.", show_default=False)
    ] = None,
    generate_count: Annotated[
        int | None, typer.Option("--generate", help="Instead, generate clips from this many test prompts.")
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="File for all the numbers.")] = None,
    events: Annotated[
        Path | None, typer.Option(help="True strike times; the folder's events.json where not given.")
    ] = None,
    bundle: Annotated[str, typer.Option(help="Model for --generate.")] = "hits",
    steps: Annotated[int | None, typer.Option(help="Sampling steps for --generate.")] = None,
    gamma: Annotated[float | None, typer.Option(help="Timestep adjustment for --generate.")] = None,
    device: Annotated[str | None, typer.Option(help="Device for --generate.")] = None,
    uncoupled: Annotated[
        bool,
        typer.Option("--uncoupled", help="With --generate: the same again with the coupling switched off."),
    ] = False,
    keep: Annotated[Path | None, typer.Option(help="Folder to keep the generated clips in.")] = None,
    seed: Annotated[int, typer.Option(help="Of the generation, the shuffles and the bootstrap.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes; as many as cores where not given.")] = None,
) -> None:
    """Measure the synchrony of clips, each number beside that of shuffled pairs."""
    with _user_errors():
        if (folder is None) == (generate_count is None):
            raise RequestError(["give either a folder of clips or --generate with a number"])
        if workers is not None:
            _check_at_least_one("workers", workers)
        if json_path is not None:
            from kinetophone.request import check_writable

            check_writable(json_path)
        results = {}
        if folder is not None:
            report = _evaluate_folder(folder, events, seed, workers)
            _print_report("clips", report)
            results["clips"] = report.to_dict()
        else:
            assert generate_count is not None
            _check_at_least_one("generate", generate_count)
            options = _given(steps=steps, gamma=gamma)
            for name, made in _evaluate_generated(
                generate_count, bundle, device, uncoupled, keep, seed, workers, options
            ).items():
                _print_report(name, made.synchrony)
                _print_materials(made.materials)
                results[name] = made.to_dict()
        if json_path is not None:
            _write_json(results, json_path)
            typer.echo(json_path)


def _evaluate_folder(folder: Path, events: Path | None, seed: int, workers: int | None) -> Report:
    from kinetophone.metrics.evaluate import evaluate as score_clips
    from kinetophone.metrics.evaluate import find_clips, read_truth

    files = find_clips(folder)
    if events is None and (folder / "events.json").is_file():
        events = folder / "events.json"
    truth = None if events is None else read_truth(events)
    return score_clips(files, truth=truth, seed=seed, workers=workers, progress=True)


def _evaluate_generated(
    count: int,
    bundle: str,
    device: str | None,
    uncoupled: bool,
    keep: Path | None,
    seed: int,
    workers: int | None,
    options: dict[str, Any],
) -> dict[str, GeneratedReport]:
    """Generated clips of the test prompts, beside the true clips those prompts describe."""
    from kinetophone.request import BundleSpec, GenerateRequest

    GenerateRequest(prompts=("test",), bundle=bundle, seed=seed, **options).validate()
    from kinetophone.metrics.generated import evaluate_generated
    from kinetophone.pipeline import Kinetophone

    spec = BundleSpec.read(bundle)
    _quiet_libraries()
    pipe = Kinetophone.from_pretrained(bundle, **_given(device=device))
    return evaluate_generated(
        pipe,
        spec.folder,
        count,
        size=spec.size,
        uncoupled=uncoupled,
        seed=seed,
        workers=workers,
        keep=keep,
        progress=True,
        **options,
    )


def _load(bundle: str, device: str | None, dtype: Dtype, offload: Offload, allow_pickle: bool) -> Kinetophone:
    import torch

    from kinetophone.pipeline import Kinetophone

    # Offloaded networks start on the CPU and visit the device.
    pipe = Kinetophone.from_pretrained(
        bundle,
        dtype=getattr(torch, dtype),
        allow_pickle=allow_pickle,
        **_given(device=device if offload == "none" else "cpu"),
    )
    if offload == "model":
        pipe.enable_model_cpu_offload(device or "cuda")
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device or "cuda")
    return pipe


def _quiet_libraries() -> None:
    """No bar for each of a dozen small weight files; warnings of the libraries stay."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def _write_json(content: dict[str, Any], path: Path) -> None:
    from kinetophone.media.write import replacing

    with replacing(path) as partial:
        Path(partial).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _print_report(name: str, report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    rates = ", ".join(f"{number} at {rate} fps" for rate, number in report.fps.items()) or "none"
    table = Table(title=f"{name}: {report.clips} clips, scored: {rates}; tolerance one frame, 95 % intervals")
    for column in ("measure", "value", "interval", "shuffled", "its range", "above", "its interval", "n"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    for measure, row in report.metrics.items():
        cells = (
            row.value,
            row.interval,
            row.shuffled,
            row.shuffled_range,
            row.above,
            row.above_interval,
            row.n,
        )
        table.add_row(measure, *map(_cell, cells))
    for measure, mean in report.detectors.items():
        cells = (mean.value, mean.interval, None, None, None, None, mean.n)
        table.add_row(f"{measure} (against truth)", *map(_cell, cells))
    # A pipe has no width; a table cut to 80 columns would lose numbers.
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(table)
    for clip in report.unscored:
        typer.echo(f"not scored: {clip.name}: {clip.reason}")


def _print_materials(materials: dict[str, Agreement]) -> None:
    for pair, share in materials.items():
        low, high = share.interval.low, share.interval.high
        typer.echo(
            f"material agreement {pair}: {share.value:.3f} ({low:.3f} to {high:.3f}), chance 0.2, n {share.n}"
        )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.3f}"
    return "{low:.3f} to {high:.3f}".format(**asdict(value))


def _check_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise RequestError([f"{name} is {value}; it must be at least 1"])


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given; the others are left to the defaults of what is called."""
    return {name: value for name, value in options.items() if value is not None}

"""The command line. Commands parse and check their input, call the library and print results.

Heavy packages are not imported at the top, so that ``--help`` and input errors appear at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinetophone import __version__
from kinetophone.cli import app as cli_app
from kinetophone.cli import data as cli_data
from kinetophone.cli.make import commands
from kinetophone.cli.measure import compare, evaluate
from kinetophone.cli.options import AllowPickle, Device, Dtype
from kinetophone.cli.shared import AudioBase, Commands, MotionAdapter, VideoBase, given, quiet_libraries
from kinetophone.cli.study import experiment, gamma, limits
from kinetophone.cli.sync import sync

app = typer.Typer(
    cls=Commands,
    help="Generate video with sound: audio and video are sampled together, in sync.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="Make data sets.", no_args_is_help=True)
app.add_typer(data, name="data")
convert = typer.Typer(help="Convert weights from other projects.", no_args_is_help=True)
app.add_typer(convert, name="convert")
for name, command in commands():
    app.command(name)(command)
for command in (evaluate, compare, sync, gamma, experiment, limits, cli_app.app):
    app.command()(command)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; goes before the command's name.")
    ] = False,
) -> None:
    """Generate video with sound: audio and video are sampled together, in sync."""


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe, a YAML file.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for checkpoints, logs and samples; default: that of the recipe."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Resume from the last checkpoint, or start over.")
    ] = True,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only show the number of parameters, the memory and the number of steps."
        ),
    ] = False,
) -> None:
    """Train the stage that a recipe describes."""
    if not recipe.is_file():
        known = ", ".join(str(path) for path in sorted(Path("recipes").glob("*.yaml")))
        cure = f"; choose from {known}" if known else ""
        raise FileNotFoundError(f"recipe '{recipe}' does not exist{cure}")
    from kinetophone import training

    if dry_run:
        for line in training.requirements(recipe):
            typer.echo(line)
        return
    quiet_libraries()
    training.run(recipe, out=out, resume=resume)


@app.command()
def doctor(
    bundle: Annotated[str, typer.Option(help="Bundle to check.")] = "hits",
    audio_base: AudioBase = None,
    video_base: VideoBase = None,
    motion_adapter: MotionAdapter = None,
    device: Device = None,
    dtype: Dtype = "float32",
    allow_pickle: AllowPickle = False,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Download missing files; by default no weights are downloaded.")
    ] = False,
) -> None:
    """Check this machine and the models before a long job; exit status 1 if something will fail."""
    from kinetophone.doctor import Question, examine

    question = Question(
        bundle=bundle, audio_base=audio_base, video_base=video_base, motion_adapter=motion_adapter,
        device=device, dtype=dtype, allow_pickle=allow_pickle, fetch=fetch,
    )  # fmt: skip
    failed = 0
    for row in examine(question):
        typer.echo(f"{row.state:<5} {row.check:<28} {row.found}")
        if row.remedy:
            typer.echo(f"{'':<34} -> {row.remedy}")
        failed += row.state == "FAIL"
    if failed:
        typer.echo(f"{failed} of these checks failed", err=True)
        raise typer.Exit(1)


@app.command()
def pack(
    folder: Annotated[
        Path, typer.Argument(help="Folder of trained components, such as runs/hits.", show_default=False)
    ],
    out: Annotated[
        Path,
        typer.Argument(
            help="Folder of the bundle to write; or NAME.safetensors, for the coupling with the names of its "
            "bases.",
            show_default=False,
        ),
    ],
    allow_pickle: AllowPickle = False,
) -> None:
    """Pack trained components into a bundle with half-precision weights."""
    from kinetophone.bundle.spec import BundleSpec
    from kinetophone.tasks.request import check_writable

    BundleSpec.read(folder)
    adapter = out.suffix == ".safetensors"
    check_writable(out if adapter else out / "kinetophone.json")
    import torch

    if adapter:
        from kinetophone.bundle.adapter import pack_adapter

        pack_adapter(folder, out, torch.float16)
        typer.echo(out)
        return
    from kinetophone.pipeline import Kinetophone

    pipe = Kinetophone.from_pretrained(folder, device="cpu", allow_pickle=allow_pickle)
    pipe.save_pretrained(out, torch.float16)
    typer.echo(out)


@app.command()
def push(
    bundle: Annotated[str, typer.Argument(help="A bundle's name or folder.", show_default=False)],
    repository: Annotated[str, typer.Argument(help="Hub id, such as you/hits.", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be uploaded.")] = False,
) -> None:
    """Upload a bundle with its model card to the Hugging Face Hub."""
    from kinetophone.bundle.push import bundle_files
    from kinetophone.bundle.push import push as push_bundle

    if dry_run:
        folder, files = bundle_files(bundle)
        for file in files:
            typer.echo(f"{(folder / file).stat().st_size:>12,}  {file}")
        return
    typer.echo(push_bundle(bundle, repository, private=private))


@convert.command()
def reference(
    source: Annotated[Path, typer.Argument(help="The authors' pipeline folder.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Folder of the bundle to write.", show_default=False)],
    audio_base: Annotated[
        str | None,
        typer.Option(help="Folder or Hub id, for parts of the audio base missing from the folder."),
    ] = None,
    video_base: Annotated[str | None, typer.Option(help="The same for the video base.")] = None,
    motion_adapter: Annotated[
        str | None, typer.Option(help="Folder or Hub id, for a video base that is an image model.")
    ] = None,
    allow_pickle: AllowPickle = False,
    ema: Annotated[
        bool, typer.Option("--ema", help="Use the moving average (EMA) of the weights, not the last ones.")
    ] = False,
) -> None:
    """Convert the checkpoint published with arXiv 2409.17550 to a bundle."""
    from kinetophone.tasks.request import check_writable

    check_writable(out / "kinetophone.json")
    from kinetophone.reference.convert import convert_reference

    bases = given(audio_base=audio_base, video_base=video_base, motion_adapter=motion_adapter)
    for note in convert_reference(source, out, allow_pickle=allow_pickle, ema=ema, **bases):
        typer.echo(note, err=True)
    typer.echo(out)


@convert.command()
def metric(
    name: Annotated[str, typer.Argument(help="i3d, vggish, synchformer or imagebind.", show_default=False)],
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="Published state dict, or owner/name/file on the Hub.", show_default=False
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, .safetensors.")],
    allow_pickle: AllowPickle = False,
) -> None:
    """Convert the weights of a network for a metric of evaluate."""
    from kinetophone.tasks.request import check_writable

    check_writable(output)
    from kinetophone.metrics.networks.convert import convert_metric

    convert_metric(name, source, output, allow_pickle=allow_pickle)
    typer.echo(output)


data.command()(cli_data.hits)
data.command()(cli_data.hits16)
data.command()(cli_data.bows)
data.command()(cli_data.prepare)
data.command()(cli_data.encode)

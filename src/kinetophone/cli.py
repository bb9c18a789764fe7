"""The command line: parses, checks, calls, shows. What it does is done elsewhere.

No heavy import at the top, so that ``kinetophone --help`` and every error about the input come at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kinetophone import __version__
from kinetophone.cli_measure import compare, evaluate
from kinetophone.cli_shared import check_at_least_one, given, quiet_libraries, user_errors
from kinetophone.errors import RequestError, UserError

if TYPE_CHECKING:
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
app.command()(evaluate)
app.command()(compare)

Dtype = Literal["float32", "bfloat16", "float16"]
Offload = Literal["none", "model", "sequential"]


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

    with user_errors():
        check_at_least_one("count", count)
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
        options = given(
            steps=steps,
            gamma=gamma,
            guidance_audio=guidance_audio,
            guidance_video=guidance_video,
            negative_prompt=negative_prompt,
        )
        quiet_libraries()
        pipe = _load(bundle, device, dtype, offload, allow_pickle)
        clips = pipe(
            [prompt] * count, progress=True, seed=seed, **given(seconds=time.duration_s, fps=fps), **options
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
) -> None:
    """Train what a recipe says."""
    with user_errors():
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
        training.run(recipe, out=out, resume=resume)


@app.command()
def pack(
    folder: Annotated[
        Path, typer.Argument(help="Trained components, such as runs/hits.", show_default=False)
    ],
    out: Annotated[Path, typer.Argument(help="Folder of the bundle to write.", show_default=False)],
) -> None:
    """Pack trained components into a bundle in half precision."""
    with user_errors():
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
    with user_errors():
        from kinetophone.request import check_writable

        check_writable(out / "kinetophone.json")
        from kinetophone.convert import convert_reference

        quiet_libraries()
        bases = given(audio_base=audio_base, video_base=video_base, motion_adapter=motion_adapter)
        typer.echo(convert_reference(source, out, allow_pickle=allow_pickle, **bases))


@data.command()
def hits(
    out: Annotated[Path, typer.Option(help="Folder for the clips, captions.csv and events.json.")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    count: Annotated[int, typer.Option(help="Number of clips.")] = 100,
    size: Annotated[int, typer.Option(help="Height and width in pixels.")] = 64,
) -> None:
    """Write clips of the procedural data set: a tool strikes things, with exact strike times."""
    with user_errors():
        check_at_least_one("count", count)
        if size < 32 or size % 8:
            raise RequestError([f"size is {size}; it must be a multiple of 8 and at least 32, such as 64"])
        from kinetophone.data.hits import SPLITS
        from kinetophone.data.hits.write import write_split

        if split not in SPLITS:
            raise RequestError([f"split is '{split}'; it must be one of {', '.join(SPLITS)}"])
        write_split(split, count, out, size)
        typer.echo(out)


def _load(bundle: str, device: str | None, dtype: Dtype, offload: Offload, allow_pickle: bool) -> Kinetophone:
    import torch

    from kinetophone.pipeline import Kinetophone

    # Offloaded networks start on the CPU and visit the device.
    pipe = Kinetophone.from_pretrained(
        bundle,
        dtype=getattr(torch, dtype),
        allow_pickle=allow_pickle,
        **given(device=device if offload == "none" else "cpu"),
    )
    if offload == "model":
        pipe.enable_model_cpu_offload(device or "cuda")
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device or "cuda")
    return pipe

"""Options shared by commands. A command takes a group of them as one dictionary."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from kinetophone.errors import RequestError

Prompt = Annotated[str, typer.Argument(help="Description of the result.", show_default=False)]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "--out",
        "-o",
        help="File to write: .mp4, .mov, .webm, .wav, .gif or .png (contact sheet).",
    ),
]
Bundle = Annotated[str, typer.Option(help="Model: a bundle's name, folder or Hub id.")]
Seconds = Annotated[float | None, typer.Option(help="Length; default: that of the bundle.")]
Seed = Annotated[int, typer.Option(help="Seed of the noise; the same seed gives the same clip.")]
AudioTrack = Annotated[
    int | None,
    typer.Option(help="Number of the audio track in a file, from 1; default: the file's default track."),
]
Sheet = Annotated[bool, typer.Option("--sheet", help="Also write a contact sheet for each clip.")]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda; default: the fastest available.")]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"],
    typer.Option(help="Dtype of the networks; decoders always use float32."),
]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Read pickled weights, as tensors only.")]


def _gamma(text: str) -> Any:
    from kinetophone.tasks.request import read_gamma

    return read_gamma(text)


def _scales(text: str) -> Any:
    from kinetophone.tasks.request import read_scales

    try:
        return read_scales(text)
    except RequestError as error:
        raise typer.BadParameter(str(error)) from None


@dataclass(frozen=True)
class Group:
    """Options by name: annotation and default."""

    options: dict[str, tuple[Any, Any]]


# Sampling options, with the names that the pipeline uses.
SAMPLING = Group(
    {
        "steps": (
            Annotated[int | None, typer.Option(help="Sampling steps; more are slower but finer.")], None
        ),
        "stepper": (
            Annotated[
                Literal["ddim", "dpmpp_2m", "unipc"] | None,
                typer.Option(help="Solver: ddim, or dpmpp_2m or unipc, of higher order, for fewer steps."),
            ],
            None,
        ),
        "guidance": (
            Annotated[
                Any,
                typer.Option(
                    parser=_scales,
                    metavar="NUMBER[,NUMBER]",
                    help="Guidance scale, for both modalities or for audio and video each; 1 is off.",
                ),
            ],
            None,
        ),
        "guidance_sync": (
            Annotated[
                Any,
                typer.Option(
                    parser=_scales,
                    metavar="NUMBER[,NUMBER]",
                    help="Cross-modal guidance scale, for both or for audio and video each; 1 is off.",
                ),
            ],
            None,
        ),
        "negative_prompt": (Annotated[str | None, typer.Option(help="Description of what to avoid.")], None),
    }
)  # fmt: skip
# Timestep adjustment; it has no effect if one modality is given completely.
CLOCKS = Group(
    {
        "gamma": (
            Annotated[
                Any,
                typer.Option(
                    parser=_gamma,
                    metavar="FLOAT|auto",
                    help="Timestep adjustment of audio and video; 1 is off, auto is the bundle's value.",
                ),
            ],
            None,
        ),
        "clock": (
            Annotated[
                Literal["h3", "equal-shifts"] | None,
                typer.Option(
                    help="Instead of gamma: h3 has the audio ahead by 2.77 in log SNR, as MiniMax-H3; "
                    "equal-shifts gives both the same SNR."
                ),
            ],
            None,
        ),
    }
)
# The model and its device, with the names that ``load_pipeline`` uses.
MODEL = Group(
    {
        "bundle": (Bundle, "hits"),
        "device": (Device, None),
        "dtype": (Dtype, "float32"),
        "offload": (
            Annotated[
                Literal["none", "model", "sequential"],
                typer.Option(help="Keep only the running model or layer on the device, to save memory."),
            ],
            "none",
        ),
        "allow_pickle": (AllowPickle, False),
        "text_cache": (
            Annotated[
                Path | None,
                typer.Option(
                    help="Folder for text states: text encoders are loaded only for new texts, and dropped "
                    "again."
                ),
            ],
            None,
        ),
    }
)


def takes(**groups: Group | tuple[Group, ...]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the options of ``groups`` to a command, which receives each group as a dictionary.

    Options that were not given and have no default are missing from the dictionary.
    """
    merged = {
        name: {
            k: v for group in (some if isinstance(some, tuple) else (some,)) for k, v in group.options.items()
        }
        for name, some in groups.items()
    }

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**values: Any) -> None:
            for name, options in merged.items():
                own = {option: values.pop(option) for option in options}
                values[name] = {k: v for k, v in own.items() if v is not None}
            command(**values)

        own = inspect.signature(command, eval_str=True).parameters.values()
        shared = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for options in merged.values()
            for name, (kind, default) in options.items()
        ]
        kept = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in own if p.name not in merged]
        run.__signature__ = inspect.Signature([*kept, *shared])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in (*kept, *shared)}
        return run

    return decorate

"""The options that commands share, declared once: a command takes a group of them as one argument."""

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

Prompt = Annotated[str, typer.Argument(help="What is to be seen and heard.", show_default=False)]
Output = Annotated[
    Path,
    typer.Option(
        "--output", "-o", help="File to write: .mp4, .mov, .webm, .wav, .gif or .png (contact sheet)."
    ),
]
Bundle = Annotated[str, typer.Option(help="Model: a bundle's name, folder or Hub id.")]
Seconds = Annotated[float | None, typer.Option(help="Length; the bundle's where not given.")]
Seed = Annotated[int, typer.Option(help="Same seed, same clip.")]
AudioTrack = Annotated[
    int | None,
    typer.Option(help="Which of a file's audio tracks, counted from 1; its default one if not given."),
]
Sheet = Annotated[bool, typer.Option("--sheet", help="Also write a contact sheet beside each clip.")]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda; the best there is if not given.")]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"],
    typer.Option(help="Of the networks; decoders always use float32."),
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
    """Options by name: their annotation, and what they are where not given."""

    options: dict[str, tuple[Any, Any]]


# How to sample; those that are given, as the pipeline takes them.
SAMPLING = Group(
    {
        "steps": (
            Annotated[int | None, typer.Option(help="Sampling steps; more is slower and finer.")], None
        ),
        "stepper": (
            Annotated[
                Literal["ddim", "dpmpp_2m"] | None,
                typer.Option(help="Solver: ddim, or dpmpp_2m, of second order, which needs fewer steps."),
            ],
            None,
        ),
        "guidance": (
            Annotated[
                Any,
                typer.Option(
                    parser=_scales,
                    metavar="NUMBER[,NUMBER]",
                    help="How closely both follow the prompt, or audio and video each; 1 is no guidance.",
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
                    help="How closely audio and video follow each other, or each of them; 1 is no guidance.",
                ),
            ],
            None,
        ),
        "negative_prompt": (Annotated[str | None, typer.Option(help="What is not wanted.")], None),
    }
)  # fmt: skip
# The clocks; of no use where one modality is given as a whole.
CLOCKS = Group(
    {
        "gamma": (
            Annotated[
                Any,
                typer.Option(
                    parser=_gamma,
                    metavar="FLOAT|auto",
                    help="Timestep adjustment between audio and video; 1 is none, auto the bundle's own.",
                ),
            ],
            None,
        )
    }
)
# The model, and where it computes; as ``load_pipeline`` takes them.
MODEL = Group(
    {
        "bundle": (Bundle, "hits"),
        "device": (Device, None),
        "dtype": (Dtype, "float32"),
        "offload": (
            Annotated[
                Literal["none", "model", "sequential"],
                typer.Option(help="Keep on the device only the model or the layer that is computing."),
            ],
            "none",
        ),
        "allow_pickle": (AllowPickle, False),
    }
)


def takes(**groups: Group | tuple[Group, ...]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of ``groups``: it gets each group as a dictionary, by the group's name.

    Options that were not given and have no default are left out of the dictionary.
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

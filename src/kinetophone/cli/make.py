"""The commands that generate clips: ``generate``, ``sound``, and one for each other task."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kinetophone.cli.lean import quick_start
from kinetophone.cli.options import (
    CLOCKS,
    MODEL,
    SAMPLING,
    AudioTrack,
    Output,
    Prompt,
    Seconds,
    Seed,
    Sheet,
    takes,
)
from kinetophone.cli.shared import ModelWorkerCount, RayAddress, given, model_workers, quiet_libraries
from kinetophone.errors import MediaError, RequestError
from kinetophone.tasks.task import Task, all_tasks

if TYPE_CHECKING:
    from kinetophone.media.clip import Clip
    from kinetophone.pipeline import Kinetophone
    from kinetophone.tasks.request import Script

_MOST_GAIN = 4
_MOST_CLIPS = 10_000  # per command


def commands() -> list[tuple[str, Callable[..., None]]]:
    """Names and functions of the commands, one per task."""
    written = {"generate": generate, "sound": sound}
    return [(name, written.get(name) or command_of(task)) for name, task in all_tasks().items()]


@takes(sampling=(SAMPLING, CLOCKS), model=MODEL)
def generate(
    output: Output,
    sampling: dict[str, Any],
    model: dict[str, Any],
    prompt: Annotated[str | None, typer.Argument(help="Description of the clip.", show_default=False)] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Instead of a prompt: a CSV file with the columns prompt and, optionally, seed, seconds, "
            "file. The output is a folder; clips that exist are not made again, unless by something else."
        ),
    ] = None,
    shard: Annotated[
        str,
        typer.Option(help="With --prompts: make only a part, such as 2/8 on the second of 8 machines."),
    ] = "1/1",
    workers: ModelWorkerCount = None,
    ray: RayAddress = None,
    script: Annotated[
        Path | None,
        typer.Option(
            help="Instead of a prompt: a file of timed prompts, with lines such as '4.5 a drum is hit'."
        ),
    ] = None,
    seed: Seed = 0,
    fps: Annotated[float | None, typer.Option(help="Frames per second; default: that of the bundle.")] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Length, up to ten minutes; default: that of the bundle.")
    ] = None,
    count: Annotated[int, typer.Option(help="Number of clips; several files are numbered.")] = 1,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Clips sampled at once; default: that of the bundle.", metavar="INTEGER"),
    ] = None,
    only: Annotated[
        Literal["audio"] | None,
        typer.Option(help="audio: generate audio alone, without the video networks; writes a .wav."),
    ] = None,
    stream: Annotated[
        bool,
        typer.Option("--stream", help="Generate a long clip window by window, and write each at once."),
    ] = False,
    sheet: Sheet = False,
) -> None:
    """Make clips with audio and video from a text."""
    if not 1 <= count <= _MOST_CLIPS:
        raise RequestError([f"count is {count}; it must be 1 to {_MOST_CLIPS}"])
    options = {**sampling, **given(batch_size=batch_size)}
    if prompts is not None:
        alone: dict[str, Any] = {
            "a prompt": prompt,
            "--script": script,
            "--only": only,
            "--stream": stream,
            "--sheet": sheet,
        }
        alone |= {"--count": count > 1, "--seconds": seconds, "--fps": fps, "--seed": seed}
        if extra := [name for name, value in alone.items() if value]:
            raise RequestError([f"--prompts does not go with {', '.join(extra)}"])
        _generate_all(prompts, shard, workers, ray, output, options, model)
        return
    if shard != "1/1" or workers is not None or ray is not None:
        raise RequestError(["--shard, --workers and --ray divide the clips of --prompts; give both"])
    text = _text(prompt, script)
    paths = _numbered(output, count)
    time = _check(text, model, paths[-1], seed, options, seconds=seconds, fps=fps)
    from kinetophone.bundle.spec import BundleSpec
    from kinetophone.media.write import VIDEO_SUFFIXES, video_writer, write_wav

    if stream and (count > 1 or sheet or only or output.suffix.lower() not in VIDEO_SUFFIXES):
        suffixes = ", ".join(VIDEO_SUFFIXES)
        raise RequestError([f"--stream writes one video ({suffixes}); omit --count, --only and --sheet"])
    if only and (sheet or output.suffix.lower() != ".wav"):
        raise RequestError(["--only audio writes a .wav and no sheet"])
    pipe = load_pipeline(**model)
    more: dict[str, Any] = {"seconds": time.duration_s, **options}
    if only:
        for number, path in enumerate(paths):
            made = pipe.audio(text, progress=True, seed=seed + number, **more)
            typer.echo(write_wav(made.waveform, made.sample_rate, path))
        return
    more |= given(fps=fps)
    if stream:
        with video_writer(output) as add:
            for part in pipe.stream(text, progress=True, seed=seed, **more):
                add(part)
        typer.echo(output)
        return
    at_once = batch_size or BundleSpec.read(model["bundle"]).defaults["batch_size"]
    for first in range(0, count, at_once):  # write each batch at once, so that an interrupt loses only one
        some = paths[first : first + at_once]
        clips = pipe([text] * len(some), progress=True, seed=seed + first, **more)
        for clip, path in zip(clips, some, strict=True):
            _write(clip, path, sheet, text if isinstance(text, str) else text.at(0))


def _generate_all(
    table: Path,
    shard: str,
    workers: int | None,
    ray: str | None,
    folder: Path,
    options: dict[str, Any],
    model: dict[str, Any],
) -> None:
    from kinetophone.bundle.spec import BundleSpec
    from kinetophone.tasks.common.bulk import check_lines, make_all, read_prompts
    from kinetophone.workers import check_all_done

    part, _, parts = shard.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise RequestError([f"shard is '{shard}'; give part/parts, such as 2/8"])
    if folder.suffix and not folder.is_dir():
        raise RequestError([f"output is '{folder}'; with --prompts it is a folder"])
    where = model_workers(workers, ray, model.get("device"))
    lines = read_prompts(table)
    spec = BundleSpec.read(model["bundle"])
    check_lines(lines, spec, folder, options)
    failed = make_all(
        lines,
        spec,
        folder,
        partial(load_pipeline, **model),
        options,
        part=(int(part), int(parts)),
        workers=where,
        **given(dtype=model.get("dtype")),
    )
    typer.echo(folder)
    check_all_done(failed, "clips", folder)


def _numbered(output: Path, count: int) -> list[Path]:
    if count == 1:
        return [output]
    return [output.with_stem(f"{output.stem}-{number}") for number in range(count)]


@takes(sampling=SAMPLING, model=MODEL)
def sound(
    videos: Annotated[
        list[Path],
        typer.Argument(
            help="One or more videos; their own audio, if any, is ignored.",
            show_default=False,
            metavar="VIDEO...",
        ),
    ],
    prompt: Prompt,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="File to write, as for generate; a folder for several videos.",
        ),
    ],
    sampling: dict[str, Any],
    model: dict[str, Any],
    seed: Seed = 0,
    start: Annotated[float, typer.Option("--from", help="Start at this second of the video.")] = 0,
    end: Annotated[
        float | None, typer.Option("--to", help="End at this second; default: the end of the video.")
    ] = None,
    keep_original: Annotated[
        float | None,
        typer.Option(
            metavar="GAIN",
            help="Mix in the video's own audio with this gain: 1 is unchanged, 0.3 is quieter.",
        ),
    ] = None,
    audio_track: AudioTrack = None,
    sheet: Sheet = False,
) -> None:
    """Make the audio for a video of any length, size and frame rate."""
    targets = _targets(videos, output)
    for path in targets:
        _check(prompt, model, path, seed, sampling)
    _check_between(start, end)
    if keep_original is not None and not 0 <= keep_original <= _MOST_GAIN:
        raise RequestError([f"keep-original is {keep_original:g}; it must be 0 to {_MOST_GAIN}"])
    if audio_track is not None and keep_original is None:
        raise RequestError(["--audio-track selects the track for --keep-original; give both"])
    from kinetophone.bundle.spec import BundleSpec
    from kinetophone.media.container import audio_stream, open_media
    from kinetophone.media.mix import mixed
    from kinetophone.tasks.common.silent import SilentVideo, read_silent, save_with_audio, shown

    spec = BundleSpec.read(model["bundle"])

    def read(path: Path, target: Path) -> SilentVideo:
        if keep_original is not None:
            with open_media(path) as file:
                audio_stream(path, file, audio_track)
        silent = read_silent(path, target, spec, (start, end))
        if silent.refused:
            typer.echo(
                f"'{path}' is encoded again: its video cannot be copied into a {target.suffix}", err=True
            )
        return silent

    ready = [read(videos[0], targets[0])]  # so that errors show before a model is loaded
    pipe = load_pipeline(**model)
    failures = []
    for path, target in zip(videos, targets, strict=True):
        try:
            silent = ready.pop() if ready else read(path, target)
            clip = pipe.sound(silent.video, prompt, seed=seed, progress=True, **sampling)
            if keep_original is not None:
                clip = mixed(clip, silent.video, path, keep_original, audio_track)
            if silent.span is None:
                _write(clip, target, sheet, prompt)
                continue
            typer.echo(save_with_audio(clip, silent, target))
            if sheet:
                typer.echo(shown(silent, target).sheet(target.with_suffix(".png"), title=prompt))
        except (RequestError, MediaError, OSError) as error:
            if len(videos) == 1:
                raise
            named = str(path) in str(error)
            # Continue with the other videos.
            failures.append(str(error) if named else f"'{path}': {error}")
    if failures:
        raise RequestError(failures)


def _targets(videos: list[Path], output: Path) -> list[Path]:
    """The file to write for each video."""
    if len(videos) == 1 and not output.is_dir():
        return [output]
    if output.suffix and not output.is_dir():
        raise RequestError([f"'{output}' is one file, for {len(videos)} videos; name a folder"])
    targets = [output / f"{video.stem}.mp4" for video in videos]
    for target, video in zip(targets, videos, strict=True):
        if targets.count(target) > 1:
            raise RequestError([f"'{video}' and another video would both be written to '{target}'"])
        if target.exists() and target.samefile(video):
            raise RequestError([f"'{video}' would be overwritten; name another folder"])
    return targets


def _check_between(start: float, end: float | None) -> None:
    if not 0 <= start < math.inf:
        raise RequestError([f"from is {start:g}; it must be a second of the video, 0 or later"])
    if end is not None and not start < end < math.inf:
        raise RequestError([f"to is {end:g}; it must be later than from, which is {start:g}"])


def command_of(task: Task) -> Callable[..., None]:
    """Build the command of a task, with the arguments and options that the task declares."""

    def run(
        prompt: str,
        output: Path,
        sampling: dict[str, Any],
        model: dict[str, Any],
        media: Path | None = None,
        seconds: float | None = None,
        keep: list[str] | None = None,
        seed: int = 0,
        audio_track: int | None = None,
        sheet: bool = False,
    ) -> None:
        asked = {} if task.seconds == "no" else {"seconds": seconds}
        time = _check(prompt, model, output, seed, sampling, **asked)
        from kinetophone.tasks.request import read_stretch
        from kinetophone.tasks.task import read_media

        more: dict[str, Any] = {"keep": [read_stretch(text) for text in keep]} if keep else {}
        if task.seconds != "no":
            more["seconds"] = time.duration_s
        own = None if task.takes is None else read_media(task.takes, media, audio_track)
        pipe = load_pipeline(**model)
        clip = pipe.run(task, prompt, own, seed=seed, progress=True, **more, **sampling)
        _write(clip, output, sheet, prompt)

    kinds: dict[str, Any] = {"prompt": Prompt, "output": Output, "seed": Seed, "sheet": Sheet}
    if task.takes is not None:
        kinds["media"] = Annotated[
            Path, typer.Argument(metavar=task.takes.upper(), help=task.takes_help, show_default=False)
        ]
    if task.seconds != "no":
        kinds["seconds"] = (
            Seconds
            if task.seconds == "optional"
            else Annotated[
                float, typer.Option(help="Length of the result, counted from the start of the clip.")
            ]
        )
    if task.keeps:
        kinds["keep"] = Annotated[
            list[str] | None,
            typer.Option(help="Interval of the clip to keep, such as 0-1.5; can be repeated. Default: all."),
        ]
    if task.takes in ("audio", "clip"):
        kinds["audio_track"] = AudioTrack
    defaults: dict[str, Any] = {"keep": None, "seed": 0, "audio_track": None, "sheet": False}
    if task.seconds == "optional":
        defaults["seconds"] = None
    order = ("media", "prompt", "output", "seconds", "keep", "seed", "audio_track", "sheet")
    groups = [
        Parameter(name, Parameter.KEYWORD_ONLY, annotation=dict[str, Any]) for name in ("sampling", "model")
    ]
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            Parameter(
                name,
                Parameter.KEYWORD_ONLY,
                annotation=kinds[name],
                default=defaults.get(name, Parameter.empty),
            )
            for name in order
            if name in kinds
        ]
        + groups
    )
    run.__doc__ = task.help
    sampling = (SAMPLING, CLOCKS) if task.clocks else (SAMPLING,)
    return takes(sampling=sampling, model=MODEL)(run)


def _text(prompt: str | None, script: Path | None) -> str | Script:
    from kinetophone.tasks.request import Script

    if (prompt is None) == (script is None):
        raise RequestError(["give either a prompt or --script"])
    return Script.read(script) if script is not None else prompt or ""


def _check(
    prompt: str | Script,
    model: dict[str, Any],
    output: Path,
    seed: int,
    options: dict[str, Any],
    **more: Any,
) -> Any:
    """Run all checks that need no model; returns the length and rates of a clip."""
    from kinetophone.tasks.request import GenerateRequest

    return GenerateRequest(
        prompts=(prompt,), bundle=model["bundle"], output=output, seed=seed, options=options, **more
    ).validate()


def load_pipeline(
    bundle: str,
    device: str | None = None,
    dtype: str = "float32",
    offload: str = "none",
    allow_pickle: bool = False,
    text_cache: Path | None = None,
) -> Kinetophone:
    """Load a bundle with the values of the command-line options."""
    with quick_start():
        import torch

        from kinetophone.bundle.load import offload_device
        from kinetophone.pipeline import Kinetophone
        from kinetophone.precision import emulated

        quiet_libraries()
        if offload != "none":
            offload_device(device)  # raises errors before weights are read
        # Offloaded networks are loaded on the CPU and moved to the device when they run.
        pipe = Kinetophone.from_pretrained(
            bundle,
            dtype=getattr(torch, dtype),
            allow_pickle=allow_pickle,
            **given(device=device if offload == "none" else "cpu", text_cache=text_cache),
        )
    if offload == "model":
        pipe.enable_model_cpu_offload(device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device)
    if told := emulated(dtype, pipe.device):
        typer.echo(told, err=True)
    return pipe


def _write(clip: Clip, path: Path, sheet: bool, title: str) -> None:
    from kinetophone.media.write import VIDEO_SUFFIXES, channel_layout

    if clip.audio.ndim == 2 and path.suffix.lower() in VIDEO_SUFFIXES:
        count = clip.audio.shape[1]
        if channel_layout(path, count, clip.layout) is None:
            typer.echo(f"{path.suffix} cannot store {count} channels: they are written as mono", err=True)
    typer.echo(clip.save(path))
    if sheet and path.suffix.lower() != ".png":
        typer.echo(clip.sheet(path.with_suffix(".png"), title=title))

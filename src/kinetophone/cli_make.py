"""The commands that make clips: generate, sound, picture, animate, extend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kinetophone.av import AV
from kinetophone.cli_shared import AllowPickle, check_at_least_one, given, quiet_libraries
from kinetophone.errors import RequestError

if TYPE_CHECKING:
    from kinetophone.media.clip import Clip
    from kinetophone.pipeline import Kinetophone
    from kinetophone.request import Script

# What all of them take.
Prompt = Annotated[str, typer.Argument(help="What is to be seen and heard.", show_default=False)]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="File to write: .mp4, .wav, .gif or .png (contact sheet).")
]
Bundle = Annotated[str, typer.Option(help="Model: a bundle's name, folder or Hub id.")]
Seed = Annotated[int, typer.Option(help="Same seed, same clip.")]
Steps = Annotated[int | None, typer.Option(help="Sampling steps; more is slower and finer.")]


def _gamma(text: str) -> Any:
    from kinetophone.request import read_gamma

    return read_gamma(text)


Gamma = Annotated[
    Any,
    typer.Option(
        parser=_gamma,
        metavar="FLOAT|auto",
        help="Timestep adjustment between sound and picture; 1 is none, auto the bundle's own.",
    ),
]


def _scales(text: str) -> float | AV[float]:
    from kinetophone.request import read_scales

    try:
        return read_scales(text)
    except RequestError as error:
        raise typer.BadParameter(str(error)) from None


GuidanceAudio = Annotated[
    float | None, typer.Option(help="How closely the sound follows the prompt; 1 is no guidance.")
]
GuidanceVideo = Annotated[
    float | None, typer.Option(help="How closely the picture follows the prompt; 1 is no guidance.")
]
GuidanceSync = Annotated[
    Any,
    typer.Option(
        parser=_scales,
        metavar="NUMBER[,NUMBER]",
        help="How closely sound and picture follow each other, or each of them; 1 is no guidance.",
    ),
]
NegativePrompt = Annotated[str | None, typer.Option(help="What is not wanted.")]
Sheet = Annotated[bool, typer.Option("--sheet", help="Also write a contact sheet beside each clip.")]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda; the best there is if not given.")]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"],
    typer.Option(help="Of the networks; decoders always use float32."),
]
Offload = Annotated[
    Literal["none", "model", "sequential"],
    typer.Option(help="Keep on the device only the model or the layer that is computing."),
]


def generate(
    output: Output,
    prompt: Annotated[
        str | None, typer.Argument(help="What is to be seen and heard.", show_default=False)
    ] = None,
    bundle: Bundle = "hits",
    script: Annotated[
        Path | None,
        typer.Option(help="Instead of a prompt: a file with lines such as '4.5 a drum is hit'."),
    ] = None,
    seed: Seed = 0,
    steps: Steps = None,
    gamma: Gamma = None,
    guidance_audio: GuidanceAudio = None,
    guidance_video: GuidanceVideo = None,
    guidance_sync: GuidanceSync = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames per second; the bundle's where not given.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Length, up to ten minutes; the bundle's where not given.")
    ] = None,
    count: Annotated[int, typer.Option(help="Number of clips; more than one are numbered.")] = 1,
    batch_size: Annotated[
        int | None, typer.Option(help="Clips made at once; the bundle's where not given.", metavar="INTEGER")
    ] = None,
    stream: Annotated[
        bool,
        typer.Option("--stream", help="Make a long clip window by window, each written as it is done."),
    ] = False,
    device: Device = None,
    sheet: Sheet = False,
    negative_prompt: NegativePrompt = None,
    dtype: Dtype = "float32",
    offload: Offload = "none",
    allow_pickle: AllowPickle = False,
) -> None:
    """Make sounding clips from a text."""
    check_at_least_one("count", count)
    text = _text(prompt, script)
    options = given(
        steps=steps, gamma=gamma, guidance_audio=guidance_audio, guidance_video=guidance_video,
        guidance_sync=guidance_sync, batch_size=batch_size,
    )  # fmt: skip
    time = _check(text, bundle, output, seed, options, seconds=seconds, fps=fps)
    if stream and (count > 1 or sheet or output.suffix.lower() != ".mp4"):
        raise RequestError(["--stream writes one .mp4; leave --count and --sheet out"])
    pipe = load_pipeline(bundle, device, dtype, offload, allow_pickle)
    more = given(seconds=time.duration_s, fps=fps, negative_prompt=negative_prompt)
    if stream:
        from kinetophone.media.write import mp4_writer

        with mp4_writer(output) as add:
            for part in pipe.stream(text, progress=True, seed=seed, **more, **options):
                add(part)
        typer.echo(output)
        return
    clips = pipe([text] * count, progress=True, seed=seed, **more, **options)
    for number, clip in enumerate(clips):
        path = output if count == 1 else output.with_stem(f"{output.stem}-{number}")
        _write(clip, path, sheet, prompt or text.at(0))  # type: ignore[union-attr]


def sound(
    video: Annotated[
        Path, typer.Argument(help="Video; its own sound, if any, is not heard.", show_default=False)
    ],
    prompt: Prompt,
    output: Output,
    bundle: Bundle = "hits",
    seed: Seed = 0,
    steps: Steps = None,
    guidance_audio: GuidanceAudio = None,
    guidance_sync: GuidanceSync = None,
    device: Device = None,
    sheet: Sheet = False,
    negative_prompt: NegativePrompt = None,
    dtype: Dtype = "float32",
    offload: Offload = "none",
    allow_pickle: AllowPickle = False,
) -> None:
    """Make the sound of a silent video, of any length, size and frame rate."""
    options = given(steps=steps, guidance_audio=guidance_audio, guidance_sync=guidance_sync)
    _check(prompt, bundle, output, seed, options)
    from kinetophone.media.read import read_picture
    from kinetophone.media.write import check_rate
    from kinetophone.request import LONGEST_S

    picture = read_picture(video, longest_s=LONGEST_S)
    check_rate(output, picture.fps)
    pipe = load_pipeline(bundle, device, dtype, offload, allow_pickle)
    clip = pipe.sound(
        picture, prompt, seed=seed, progress=True, **given(negative_prompt=negative_prompt), **options
    )
    _write(clip, output, sheet, prompt)


def picture(
    sound: Annotated[Path, typer.Argument(help="Sound, or a file with one.", show_default=False)],
    prompt: Prompt,
    output: Output,
    bundle: Bundle = "hits",
    seed: Seed = 0,
    steps: Steps = None,
    guidance_video: GuidanceVideo = None,
    guidance_sync: GuidanceSync = None,
    device: Device = None,
    sheet: Sheet = False,
    negative_prompt: NegativePrompt = None,
    dtype: Dtype = "float32",
    offload: Offload = "none",
    allow_pickle: AllowPickle = False,
) -> None:
    """Make the picture of a sound, of any length and sample rate; the sound is kept."""
    options = given(steps=steps, guidance_video=guidance_video, guidance_sync=guidance_sync)
    _check(prompt, bundle, output, seed, options)
    from kinetophone.media.read import read_sound
    from kinetophone.request import LONGEST_S

    heard = read_sound(sound, longest_s=LONGEST_S)
    pipe = load_pipeline(bundle, device, dtype, offload, allow_pickle)
    clip = pipe.picture(
        heard, prompt, seed=seed, progress=True, **given(negative_prompt=negative_prompt), **options
    )
    _write(clip, output, sheet, prompt, heard.channels)


def animate(
    image: Annotated[
        Path, typer.Argument(help="Image, or a video whose first frame to take.", show_default=False)
    ],
    prompt: Prompt,
    output: Output,
    bundle: Bundle = "hits",
    seconds: Annotated[float | None, typer.Option(help="Length; the bundle's where not given.")] = None,
    seed: Seed = 0,
    steps: Steps = None,
    gamma: Gamma = None,
    guidance_audio: GuidanceAudio = None,
    guidance_video: GuidanceVideo = None,
    guidance_sync: GuidanceSync = None,
    device: Device = None,
    sheet: Sheet = False,
    negative_prompt: NegativePrompt = None,
    dtype: Dtype = "float32",
    offload: Offload = "none",
    allow_pickle: AllowPickle = False,
) -> None:
    """Make a sounding clip that begins with an image."""
    options = given(
        steps=steps, gamma=gamma, guidance_audio=guidance_audio, guidance_video=guidance_video,
        guidance_sync=guidance_sync,
    )  # fmt: skip
    time = _check(prompt, bundle, output, seed, options, seconds=seconds)
    from kinetophone.media.read import read_image

    first = read_image(image)
    pipe = load_pipeline(bundle, device, dtype, offload, allow_pickle)
    more = given(seconds=time.duration_s, negative_prompt=negative_prompt)
    clip = pipe.animate(first, prompt, seed=seed, progress=True, **more, **options)
    _write(clip, output, sheet, prompt)


def extend(
    clip: Annotated[Path, typer.Argument(help="Sounding clip.", show_default=False)],
    prompt: Prompt,
    seconds: Annotated[float, typer.Option(help="Length of the result, from the clip's start.")],
    output: Output,
    bundle: Bundle = "hits",
    keep: Annotated[
        list[str] | None,
        typer.Option(
            help="Stretch of the clip to keep, such as 0-1.5; may be given again. All, if not given."
        ),
    ] = None,
    seed: Seed = 0,
    steps: Steps = None,
    gamma: Gamma = None,
    guidance_audio: GuidanceAudio = None,
    guidance_video: GuidanceVideo = None,
    guidance_sync: GuidanceSync = None,
    device: Device = None,
    sheet: Sheet = False,
    negative_prompt: NegativePrompt = None,
    dtype: Dtype = "float32",
    offload: Offload = "none",
    allow_pickle: AllowPickle = False,
) -> None:
    """Continue a clip, or fill in what is not kept of it, picture and sound together."""
    options = given(
        steps=steps, gamma=gamma, guidance_audio=guidance_audio, guidance_video=guidance_video,
        guidance_sync=guidance_sync,
    )  # fmt: skip
    _check(prompt, bundle, output, seed, options, seconds=seconds)
    from kinetophone.media.read import read_clip
    from kinetophone.request import LONGEST_S, read_stretch

    stretches = [read_stretch(text) for text in keep] if keep else None
    own = read_clip(clip, longest_s=LONGEST_S)
    pipe = load_pipeline(bundle, device, dtype, offload, allow_pickle)
    longer = pipe.extend(
        own,
        prompt,
        seconds=seconds,
        keep=stretches,
        seed=seed,
        progress=True,
        **given(negative_prompt=negative_prompt),
        **options,
    )
    _write(longer, output, sheet, prompt)


def _text(prompt: str | None, script: Path | None) -> str | Script:
    from kinetophone.request import Script

    if (prompt is None) == (script is None):
        raise RequestError(["give either a prompt or --script"])
    return Script.read(script) if script is not None else prompt or ""


def _check(
    prompt: str | Script, bundle: str, output: Path, seed: int, options: dict[str, Any], **more: Any
) -> Any:
    """Everything that can be checked before a model is loaded; returns the time of a clip."""
    from kinetophone.request import GenerateRequest

    return GenerateRequest(
        prompts=(prompt,), bundle=bundle, output=output, seed=seed, **options, **more
    ).validate()


def load_pipeline(
    bundle: str,
    device: str | None,
    dtype: str = "float32",
    offload: str = "none",
    allow_pickle: bool = False,
) -> Kinetophone:
    """Load a bundle as the options of the command line say."""
    import torch

    from kinetophone.bundle import offload_device
    from kinetophone.pipeline import Kinetophone
    from kinetophone.precision import emulated

    quiet_libraries()
    if offload != "none":
        offload_device(device)  # before anything is read
    # Offloaded networks start on the CPU and visit the device.
    pipe = Kinetophone.from_pretrained(
        bundle,
        dtype=getattr(torch, dtype),
        allow_pickle=allow_pickle,
        **given(device=device if offload == "none" else "cpu"),
    )
    if offload == "model":
        pipe.enable_model_cpu_offload(device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device)
    if told := emulated(dtype, pipe.device):
        typer.echo(told, err=True)
    return pipe


def _write(clip: Clip, path: Path, sheet: bool, title: str, channels: Any = None) -> None:
    typer.echo(clip.save(path, channels))
    if sheet and path.suffix.lower() != ".png":
        typer.echo(clip.sheet(path.with_suffix(".png"), title=title))

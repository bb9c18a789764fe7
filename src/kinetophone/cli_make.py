"""The commands that make clips: generate, sound, picture, animate, extend."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kinetophone.av import AV
from kinetophone.cli_shared import AllowPickle, given, quiet_libraries
from kinetophone.errors import MediaError, RequestError
from kinetophone.sampling.settings import Stepper

if TYPE_CHECKING:
    from kinetophone.media.clip import Clip
    from kinetophone.media.read import Picture
    from kinetophone.pipeline import Kinetophone
    from kinetophone.request import Script

_MOST_GAIN = 4
_MOST_CLIPS = 10_000  # of one command

# What all of them take.
Prompt = Annotated[str, typer.Argument(help="What is to be seen and heard.", show_default=False)]
Output = Annotated[
    Path,
    typer.Option(
        "--output", "-o", help="File to write: .mp4, .mov, .webm, .wav, .gif or .png (contact sheet)."
    ),
]
Bundle = Annotated[str, typer.Option(help="Model: a bundle's name, folder or Hub id.")]
Seed = Annotated[int, typer.Option(help="Same seed, same clip.")]
Steps = Annotated[int | None, typer.Option(help="Sampling steps; more is slower and finer.")]
StepperName = Annotated[
    Stepper | None,
    typer.Option(help="How a step is made: ddim, or dpmpp_2m, of second order, which needs fewer steps."),
]


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
AudioTrack = Annotated[
    int | None, typer.Option(help="Which of a file's sounds, counted from 1; its default one if not given.")
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
    stepper: StepperName = None,
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
    only: Annotated[
        Literal["audio"] | None,
        typer.Option(help="audio: a sound without a picture, as a .wav; the picture is not computed."),
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
    if not 1 <= count <= _MOST_CLIPS:
        raise RequestError([f"count is {count}; it must be 1 to {_MOST_CLIPS}"])
    text = _text(prompt, script)
    options = given(
        steps=steps, stepper=stepper, gamma=gamma, guidance_audio=guidance_audio,
        guidance_video=guidance_video, guidance_sync=guidance_sync, batch_size=batch_size,
    )  # fmt: skip
    paths = _numbered(output, count)
    time = _check(text, bundle, paths[-1], seed, options, seconds=seconds, fps=fps)
    from kinetophone.media.write import FILM_SUFFIXES, film_writer, write_wav
    from kinetophone.request import BundleSpec

    if stream and (count > 1 or sheet or only or output.suffix.lower() not in FILM_SUFFIXES):
        films = ", ".join(FILM_SUFFIXES)
        raise RequestError([f"--stream writes one film ({films}); leave --count, --only and --sheet out"])
    if only and (sheet or output.suffix.lower() != ".wav"):
        raise RequestError(["--only audio writes a .wav, of which there is no sheet"])
    pipe = load_pipeline(bundle, device, dtype, offload, allow_pickle)
    more = given(seconds=time.duration_s, negative_prompt=negative_prompt)
    if only:
        for number, path in enumerate(paths):
            made = pipe.audio(text, progress=True, seed=seed + number, **more, **options)
            typer.echo(write_wav(made.waveform, made.sample_rate, path))
        return
    more |= given(fps=fps)
    if stream:
        with film_writer(output) as add:
            for part in pipe.stream(text, progress=True, seed=seed, **more, **options):
                add(part)
        typer.echo(output)
        return
    at_once = batch_size or BundleSpec.read(bundle).defaults["batch_size"]
    for first in range(0, count, at_once):  # written as they are made: an interrupt loses no more than these
        some = paths[first : first + at_once]
        clips = pipe([text] * len(some), progress=True, seed=seed + first, **more, **options)
        for clip, path in zip(clips, some, strict=True):
            _write(clip, path, sheet, prompt or text.at(0))  # type: ignore[union-attr]


def _numbered(output: Path, count: int) -> list[Path]:
    if count == 1:
        return [output]
    return [output.with_stem(f"{output.stem}-{number}") for number in range(count)]


def sound(
    videos: Annotated[
        list[Path],
        typer.Argument(
            help="Video, or several; their own sound, if any, is not heard.",
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
            help="File to write, as for generate; for several videos a folder.",
        ),
    ],
    bundle: Bundle = "hits",
    seed: Seed = 0,
    steps: Steps = None,
    stepper: StepperName = None,
    guidance_audio: GuidanceAudio = None,
    guidance_sync: GuidanceSync = None,
    start: Annotated[float, typer.Option("--from", help="Begin at this second of the video.")] = 0,
    end: Annotated[
        float | None, typer.Option("--to", help="End at this second; at the video's end if not given.")
    ] = None,
    keep_original: Annotated[
        float | None,
        typer.Option(
            metavar="GAIN",
            help="Mix the video's own sound in, this loud: 1 as it is, 0.3 softer.",
        ),
    ] = None,
    audio_track: AudioTrack = None,
    device: Device = None,
    sheet: Sheet = False,
    negative_prompt: NegativePrompt = None,
    dtype: Dtype = "float32",
    offload: Offload = "none",
    allow_pickle: AllowPickle = False,
) -> None:
    """Make the sound of a silent video, of any length, size and frame rate."""
    options = given(steps=steps, stepper=stepper, guidance_audio=guidance_audio, guidance_sync=guidance_sync)
    targets = _targets(videos, output)
    for path in targets:
        _check(prompt, bundle, path, seed, options)
    _check_between(start, end)
    if keep_original is not None and not 0 <= keep_original <= _MOST_GAIN:
        raise RequestError([f"keep-original is {keep_original:g}; it must be 0 to {_MOST_GAIN}"])
    if audio_track is not None and keep_original is None:
        raise RequestError(["--audio-track chooses what --keep-original keeps; give both"])
    from kinetophone.media.container import open_media, sound_stream
    from kinetophone.media.mix import mixed
    from kinetophone.media.read import read_picture
    from kinetophone.media.write import check_rate
    from kinetophone.request import LONGEST_S

    def read(video: Path, path: Path) -> Picture:
        if keep_original is not None:
            with open_media(video) as file:
                sound_stream(video, file, audio_track)
        picture = read_picture(video, longest_s=LONGEST_S, between=(start, end))
        check_rate(path, picture.fps)
        return picture

    ready = [read(videos[0], targets[0])]  # before a model is loaded
    pipe = load_pipeline(bundle, device, dtype, offload, allow_pickle)
    failures = []
    for video, path in zip(videos, targets, strict=True):
        try:
            picture = ready.pop() if ready else read(video, path)
            clip = pipe.sound(
                picture, prompt, seed=seed, progress=True, **given(negative_prompt=negative_prompt), **options
            )
            channels, layout = None, None
            if keep_original is not None:
                clip, channels, layout = mixed(clip, picture, video, keep_original, audio_track)
            _write(clip, path, sheet, prompt, channels, layout)
        except (RequestError, MediaError, OSError) as error:
            if len(videos) == 1:
                raise
            named = str(video) in str(error)
            failures.append(str(error) if named else f"'{video}': {error}")  # the others are made
    if failures:
        raise RequestError(failures)


def _targets(videos: list[Path], output: Path) -> list[Path]:
    """The file that is written of each video."""
    if len(videos) == 1 and not output.is_dir():
        return [output]
    if output.suffix and not output.is_dir():
        raise RequestError([f"'{output}' is one file, for {len(videos)} videos; name a folder"])
    targets = [output / f"{video.stem}.mp4" for video in videos]
    for target, video in zip(targets, videos, strict=True):
        if targets.count(target) > 1:
            raise RequestError([f"'{video}' and another video would both be written to '{target}'"])
        if target.exists() and target.samefile(video):
            raise RequestError([f"'{video}' would be written over; name another folder"])
    return targets


def _check_between(start: float, end: float | None) -> None:
    if not 0 <= start < math.inf:
        raise RequestError([f"from is {start:g}; it must be a second of the video, 0 or later"])
    if end is not None and not start < end < math.inf:
        raise RequestError([f"to is {end:g}; it must be later than from, which is {start:g}"])


def picture(
    sound: Annotated[Path, typer.Argument(help="Sound, or a file with one.", show_default=False)],
    prompt: Prompt,
    output: Output,
    bundle: Bundle = "hits",
    seed: Seed = 0,
    steps: Steps = None,
    stepper: StepperName = None,
    guidance_video: GuidanceVideo = None,
    guidance_sync: GuidanceSync = None,
    audio_track: AudioTrack = None,
    device: Device = None,
    sheet: Sheet = False,
    negative_prompt: NegativePrompt = None,
    dtype: Dtype = "float32",
    offload: Offload = "none",
    allow_pickle: AllowPickle = False,
) -> None:
    """Make the picture of a sound, of any length and sample rate; the sound is kept."""
    options = given(steps=steps, stepper=stepper, guidance_video=guidance_video, guidance_sync=guidance_sync)
    _check(prompt, bundle, output, seed, options)
    from kinetophone.media.read import read_sound
    from kinetophone.request import LONGEST_S

    heard = read_sound(sound, longest_s=LONGEST_S, audio_track=audio_track)
    pipe = load_pipeline(bundle, device, dtype, offload, allow_pickle)
    clip = pipe.picture(
        heard, prompt, seed=seed, progress=True, **given(negative_prompt=negative_prompt), **options
    )
    _write(clip, output, sheet, prompt, heard.channels, heard.layout)


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
    stepper: StepperName = None,
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
        steps=steps, stepper=stepper, gamma=gamma, guidance_audio=guidance_audio,
        guidance_video=guidance_video, guidance_sync=guidance_sync,
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
    stepper: StepperName = None,
    gamma: Gamma = None,
    guidance_audio: GuidanceAudio = None,
    guidance_video: GuidanceVideo = None,
    guidance_sync: GuidanceSync = None,
    audio_track: AudioTrack = None,
    device: Device = None,
    sheet: Sheet = False,
    negative_prompt: NegativePrompt = None,
    dtype: Dtype = "float32",
    offload: Offload = "none",
    allow_pickle: AllowPickle = False,
) -> None:
    """Continue a clip, or fill in what is not kept of it, picture and sound together."""
    options = given(
        steps=steps, stepper=stepper, gamma=gamma, guidance_audio=guidance_audio,
        guidance_video=guidance_video, guidance_sync=guidance_sync,
    )  # fmt: skip
    _check(prompt, bundle, output, seed, options, seconds=seconds)
    from kinetophone.media.read import read_clip
    from kinetophone.request import LONGEST_S, read_stretch

    stretches = [read_stretch(text) for text in keep] if keep else None
    own = read_clip(clip, longest_s=LONGEST_S, audio_track=audio_track)
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


def _write(
    clip: Clip, path: Path, sheet: bool, title: str, channels: Any = None, layout: str | None = None
) -> None:
    from kinetophone.media.write import FILM_SUFFIXES, channel_layout

    film = path.suffix.lower() in FILM_SUFFIXES
    if channels is not None and film and channel_layout(path, channels.shape[1], layout) is None:
        count = channels.shape[1]
        typer.echo(f"{path.suffix} has no place for {count} channels: they are written as one", err=True)
    typer.echo(clip.save(path, channels, layout))
    if sheet and path.suffix.lower() != ".png":
        typer.echo(clip.sheet(path.with_suffix(".png"), title=title))

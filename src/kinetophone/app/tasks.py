"""Requests to the app, and running them: the same tasks as on the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from kinetophone import __version__
from kinetophone.app.uploads import NOUNS, Limits, read_upload
from kinetophone.av import AV
from kinetophone.errors import RequestError
from kinetophone.tasks.request import GenerateRequest, Script, read_gamma, read_scales, read_stretch
from kinetophone.tasks.task import find_task
from kinetophone.text import read_json

if TYPE_CHECKING:
    from kinetophone.diffusion.sample import Progress
    from kinetophone.media.clip import Clip
    from kinetophone.pipeline import Kinetophone

_NOT_OPTIONS = ("task", "bundle", "kinetophone", "prompt", "script", "stream", "seed", "seconds", "keep")
_SCALES = ("guidance", "guidance_sync")

SCORES = ("event_f1", "contact_f1", "synchrony", "av_align_svg")  # metrics shown for a single clip
PREVIEW_EVERY = 2  # steps; a preview costs a tenth of a step of the included bundle


def _gamma(value: Any) -> Any:
    return read_gamma(value) if isinstance(value, str) else value


def _checked_scales(value: Any) -> Any:
    """Parse one number; two numbers ("6,4") remain a text, for display and for JSON."""
    if not isinstance(value, str):
        return value
    scales = read_scales(value)
    return value if isinstance(scales, AV) else scales


class Settings(BaseModel):
    """One request, which is also saved with each result; None means the bundle's default.

    As on the command line, ``gamma`` can be "auto", and a guidance scale can be two numbers, such as "6,4".
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    prompt: str = ""
    script: str | None = None
    stream: bool = False
    seed: int = 0
    negative_prompt: str | None = None
    seconds: float | None = None
    keep: str | None = None
    steps: int | None = None
    gamma: Annotated[float | str | None, BeforeValidator(_gamma)] = None
    clock: str | None = None
    guidance: Annotated[float | str | None, BeforeValidator(_checked_scales)] = None
    guidance_sync: Annotated[float | str | None, BeforeValidator(_checked_scales)] = None
    bundle: str | None = None
    kinetophone: str = __version__

    @classmethod
    def of(cls, values: dict[str, Any]) -> Settings:
        """Settings from plain values; numbers can be texts, and empty texts count as not given.

        Raises:
            RequestError: A value is unknown or has the wrong type; lists every problem.
        """
        try:
            given = {k: v for k, v in values.items() if v is not None}
            return cls(**{k: v for k, v in given.items() if not isinstance(v, str) or v or k == "prompt"})
        except ValidationError as error:
            said = {e["loc"][:1]: e["msg"].lower().removeprefix("value error, ") for e in error.errors()}
            raise RequestError(f"{'.'.join(map(str, p)):.40}: {text}" for p, text in said.items()) from None

    @classmethod
    def read(cls, path: Path, task: str) -> Settings:
        """Read saved settings of ``task``.

        Raises:
            RequestError: The file has no settings, or those of another task.
        """
        try:
            values = read_json(path)
        except RequestError:
            values = None
        if not isinstance(values, dict):
            raise RequestError([f"'{path.name}' does not hold saved settings (JSON)"])
        found = cls.of(values)
        if found.task != task:
            raise RequestError([f"'{path.name}' has settings of '{found.task}': load them in that tab"])
        return found

    @property
    def options(self) -> dict[str, Any]:
        """The sampling options that were given."""
        given = {k: v for k, v in self.model_dump(exclude_none=True).items() if k not in _NOT_OPTIONS}
        return given | {
            name: read_scales(given[name]) for name in _SCALES if isinstance(given.get(name), str)
        }


@dataclass(frozen=True, slots=True)
class Step:
    """Progress of a job; ``preview`` is a result of ``Kinetophone.preview``, or None between previews."""

    step: int
    steps: int
    preview: AV[np.ndarray] | None


@dataclass(frozen=True, slots=True)
class Part:
    """The video file of the finished part of a streamed clip."""

    video_file: Path


@dataclass(frozen=True, slots=True)
class Result:
    """A clip and its files: ``clip.mp4``, ``clip.wav`` and ``settings.json``."""

    clip: Clip
    files: tuple[Path, ...]


def perform(
    pipe: Kinetophone,
    settings: Settings,
    upload: Path | None,
    limits: Limits,
    folder: Path,
    report: Callable[[Step | Part | None], None],
    read: Callable[[Path, str], Any] | None = None,
) -> Result:
    """Run a request and write its files to ``folder``.

    Args:
        pipe: the model.
        settings: the request.
        upload: the input file, if the task takes one.
        limits: limits for a single user.
        folder: an empty folder for the files.
        report: called after each step, and with each finished part.
        read: reads an upload of a kind; default: :func:`kinetophone.app.uploads.read_upload`.

    Raises:
        UserError: The request is invalid; raised before anything is computed.
    """
    longest = limits.longest_s
    if settings.seconds is not None and settings.seconds > longest:
        raise RequestError([f"seconds is {settings.seconds:g}; this server allows at most {longest:g}"])
    # Check before a file is decoded; the pipeline checks its arguments again.
    task = find_task(settings.task)
    text: str | Script = settings.prompt
    if settings.script is not None:
        text = Script.parse(settings.script, "the script")
    if task.seconds == "required" and settings.seconds is None:
        raise RequestError(["seconds is missing; give the length of the result"])
    GenerateRequest(
        prompts=(text,),
        bundle=pipe.spec,
        seconds=settings.seconds,
        seed=settings.seed,
        options=settings.options,
    ).validate()
    given = None
    if task.takes is not None:
        if upload is None:
            raise RequestError([f"there is no file; upload a {NOUNS[task.takes]} first"])
        given = read_upload(upload, task.takes, limits) if read is None else read(upload, task.takes)

    def part(video_file: Clip) -> None:
        report(Part(video_file.save(folder / f"part-{len(list(folder.iterdir()))}.mp4")))

    clip = _made(pipe, settings, text, given, lambda progress: report(_step(pipe, progress)), part)
    files = [clip.save(folder / f"clip{suffix}") for suffix in (".mp4", ".wav")]
    saved = folder / "settings.json"
    known = settings.model_copy(update={"bundle": pipe.spec.name})
    saved.write_text(known.model_dump_json(indent=1, exclude_none=True) + "\n", encoding="utf-8")
    return Result(clip, (*files, saved))


def _made(
    pipe: Kinetophone,
    settings: Settings,
    text: str | Script,
    given: Any,
    callback: Callable[[Progress], None],
    part: Callable[[Clip], None],
) -> Clip:
    common: dict[str, Any] = {
        "seed": settings.seed,
        "progress": False,
        "callback": callback,
        **settings.options,
    }
    if settings.task == "generate" and settings.stream:
        made: Clip | None = None
        seconds = settings.seconds or float(pipe.spec.frames / pipe.spec.fps)
        for clip in pipe.stream(text, seconds=seconds, **common):
            made = clip if made is None else _after(made, clip)
            part(made)
        assert made is not None
        return made
    parts = [part for part in (settings.keep or "").split(",") if part.strip()]
    keep = [read_stretch(part.strip()) for part in parts] or None
    task = find_task(settings.task)
    return pipe.run(task, text, given, seconds=settings.seconds, keep=keep, **common)


def _after(clip: Clip, following: Clip) -> Clip:
    return replace(
        clip,
        video=np.concatenate([clip.video, following.video]),
        audio=np.concatenate([clip.audio, following.audio]),
    )


def _step(pipe: Kinetophone, progress: Progress) -> Step:
    shown = progress.step % PREVIEW_EVERY == 0 and progress.step < progress.steps
    return Step(progress.step, progress.steps, pipe.preview(progress.x0_hat) if shown else None)


def measure(clip: Clip, name: str) -> dict[str, Any]:
    """Events, curves and scores of one clip, with the names of ``kinetophone evaluate``.

    Raises:
        RequestError: The clip has no events to align.
    """
    from kinetophone.metrics.evaluate import METRICS, Unscored, detect_one

    found = detect_one(clip, name)
    if isinstance(found, Unscored):
        raise RequestError([f"{name} cannot be measured: {found.reason}"])
    scores = {key: round(METRICS[key](found, found), 4) for key in SCORES}
    return {k: v for k, v in asdict(found).items() if k != "features"} | scores

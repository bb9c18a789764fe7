"""What a task is: what it is given, what is sampled, and how its clip is finished.

Each task is a file of this package with a :data:`TASK`. The command line, the app, its HTTP interface and the
evaluation take their tasks from :func:`all_tasks`: a new file is a new command and a new tab.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from kinetophone.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

    from kinetophone.av import AV
    from kinetophone.bundle.load import Bundle
    from kinetophone.diffusion.inpainting import Given
    from kinetophone.media.clip import Clip
    from kinetophone.media.timing import ClipTime

Kind = Literal["video", "audio", "image", "clip"]
Stretches = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class TaskInput:
    """What a task is given beside its prompt.

    Attributes:
        media: Of the task's kind, as it is read: a ``Video``, an ``Audio``, an image (H, W, 3) or a ``Clip``.
        seconds: Length of the result.
        keep: Stretches of the clip to keep, (from, to) in seconds, of both modalities or of each.
    """

    media: Any = None
    seconds: Any = None
    keep: Stretches | AV[Stretches] | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is sampled, and what is made of it.

    Attributes:
        time: Of the clip that is sampled.
        given: Latents that are known, of each modality; None where nothing is.
        finish: Makes the clip of the sampled latents.
    """

    time: ClipTime
    given: AV[Given | None] | None
    finish: Callable[[AV[Tensor]], Clip]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task.

    Attributes:
        name: Of the command, the tab and the HTTP endpoint.
        title: In the app.
        help: What it does, in one line.
        plan: ``plan(bundle, time, given)`` -> the plan. ``time`` is that of the clip asked for.
        takes: Kind of media it is made for; None if there is none.
        takes_help: What the command line says of that argument.
        seconds: Whether the length can be asked for.
        keeps: Whether stretches of the clip may be kept.
        clocks: Whether γ matters: not where one modality is given as a whole.
        of_truth: How to pose the task for a true clip, to measure what is made; None: it is not measured.
        scored_from_s: From which second on the result is scored.
        given_modality: The modality that is the true clip's own, whose events the result is scored against.
    """

    name: str
    title: str
    help: str
    plan: Callable[[Bundle, ClipTime, TaskInput], Plan]
    takes: Kind | None = None
    takes_help: str = ""
    seconds: Literal["no", "optional", "required"] = "no"
    keeps: bool = False
    clocks: bool = True
    of_truth: Callable[[Clip], TaskInput] | None = None
    scored_from_s: float = 0.0
    given_modality: Literal["audio", "video"] | None = None


@cache
def all_tasks() -> dict[str, Task]:
    """Every task by name, ``generate`` first, then as their files are named."""
    import kinetophone.tasks as package

    found = pkgutil.iter_modules(package.__path__)
    names = [m.name for m in found if not m.ispkg and m.name not in ("task", "request")]
    tasks = [importlib.import_module(f"{package.__name__}.{name}").TASK for name in names]
    return {task.name: task for task in sorted(tasks, key=lambda task: task.name != "generate")}


def find_task(name: str) -> Task:
    """The task of that name.

    Raises:
        RequestError: there is none.
    """
    tasks = all_tasks()
    if name not in tasks:
        raise RequestError([f"there is no task '{name}'; there are {', '.join(tasks)}"])
    return tasks[name]


def read_media(kind: Kind, media: Any, audio_track: int | None = None) -> Any:
    """``media`` as tasks take it: files are read, clips are taken apart, images are brought to one form.

    Args:
        kind: what it shall be.
        media: a file; or a ``Clip``, ``Video``, ``Audio``, PIL image or array, as the kind allows.
        audio_track: number of a file's audio stream, from 1; its default one if not given.

    Raises:
        MediaError: the file can't be read.
        RequestError: it is of another kind.
    """
    from kinetophone.bundle.spec import LONGEST_S
    from kinetophone.media.clip import Clip
    from kinetophone.media.images import as_image
    from kinetophone.media.read import Audio, Video, read_audio, read_clip, read_video

    if kind == "image":
        return as_image(media)
    if kind == "video":
        if isinstance(media, Clip):
            return Video(media.video, media.time.fps)
        return media if isinstance(media, Video) else read_video(media, longest_s=LONGEST_S)
    if kind == "audio":
        if isinstance(media, Clip):
            return Audio(media.audio, media.sample_rate)
        return (
            media
            if isinstance(media, Audio)
            else read_audio(media, longest_s=LONGEST_S, audio_track=audio_track)
        )
    if isinstance(media, Clip):
        return media
    return read_clip(media, longest_s=LONGEST_S, audio_track=audio_track)

"""The definition of a task: its input, what is sampled, and how the result is built.

Each task is a file of this package with a :data:`TASK`. The command line, the app, its HTTP interface and the
evaluation get their tasks from :func:`all_tasks`, so a new file adds a command and a tab.
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
    """The input of a task in addition to its prompt.

    Attributes:
        media: By the task's kind: a ``Video``, an ``Audio``, an image (H, W, 3) or a ``Clip``.
        seconds: Length of the result.
        keep: Intervals of the clip to keep, (from, to) in seconds, for both modalities or for each.
    """

    media: Any = None
    seconds: Any = None
    keep: Stretches | AV[Stretches] | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to sample, and how to build the result.

    Attributes:
        time: Length and rates of the clip that is sampled.
        given: Known latents of each modality; None where nothing is known.
        finish: Builds the clip from the sampled latents.
    """

    time: ClipTime
    given: AV[Given | None] | None
    finish: Callable[[AV[Tensor]], Clip]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task.

    Attributes:
        name: Name of the command, the tab and the HTTP endpoint.
        title: Title in the app.
        help: What it does, in one line.
        plan: ``plan(bundle, time, given)`` -> :class:`Plan`. ``time`` is that of the requested clip.
        takes: Kind of the input media; None if there is none.
        takes_help: Help text of that argument on the command line.
        seconds: Whether the caller chooses the length.
        keeps: Whether intervals of the clip can be kept.
        clocks: Whether γ has an effect; False if one modality is given completely.
        of_truth: Builds the input from a ground-truth clip, for evaluation; None: not evaluated.
        scored_from_s: The result is scored from this second on.
        given_modality: The modality taken from the ground-truth clip; its events are the reference.
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
    """All tasks by name: ``generate`` first, then in alphabetical order."""
    import kinetophone.tasks as package

    found = pkgutil.iter_modules(package.__path__)
    names = [m.name for m in found if not m.ispkg and m.name not in ("task", "request")]
    tasks = [importlib.import_module(f"{package.__name__}.{name}").TASK for name in names]
    return {task.name: task for task in sorted(tasks, key=lambda task: task.name != "generate")}


def find_task(name: str) -> Task:
    """The task with this name.

    Raises:
        RequestError: there is no such task.
    """
    tasks = all_tasks()
    if name not in tasks:
        raise RequestError([f"there is no task '{name}'; choose from {', '.join(tasks)}"])
    return tasks[name]


def read_media(kind: Kind, media: Any, audio_track: int | None = None) -> Any:
    """Convert ``media`` to what a task of this kind takes; reads files and splits clips.

    Args:
        kind: kind of the result.
        media: a file; or a ``Clip``, ``Video``, ``Audio``, PIL image or array that fits the kind.
        audio_track: number of the audio stream in a file, from 1; default: the file's default stream.

    Returns:
        A ``Video``, an ``Audio``, an image (H, W, 3) or a ``Clip``, by ``kind``.

    Raises:
        MediaError: the file cannot be read.
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
            return Audio(media.audio, media.sample_rate, layout=media.layout)
        return (
            media
            if isinstance(media, Audio)
            else read_audio(media, longest_s=LONGEST_S, audio_track=audio_track, mono=False)
        )
    if isinstance(media, Clip):
        return media
    return read_clip(media, longest_s=LONGEST_S, audio_track=audio_track, mono=False)

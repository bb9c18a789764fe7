"""Evaluation of the model: clips generated from ``hits`` prompts, and baselines to compare them with.

Three sets are made from the same prompts: samples of a task, samples without coupling (each base on its own,
same seeds), and the real clips. For each set, synchrony is measured with its shuffled control, and so is the
agreement of the materials in the video, the audio and the prompt, and whether the clips do what their prompts
say. If a task is given one real modality, the generated one is also scored against the ground-truth strikes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kinetophone.data.domains import as_clip, domain, world_of
from kinetophone.errors import RequestError
from kinetophone.hits.adherence import adherence
from kinetophone.media.clip import Clip
from kinetophone.metrics.control import Control, Interval, bootstrap_interval
from kinetophone.metrics.evaluate import ClipEvents, Report, detect, score
from kinetophone.metrics.features import Extractor
from kinetophone.metrics.seams import audio_jump, level_step, video_jump
from kinetophone.progress import track
from kinetophone.tasks.task import Task, find_task

if TYPE_CHECKING:
    from kinetophone.pipeline import Kinetophone

SEAMS = {
    "jump of the waveform, dB": audio_jump,
    "step of the level, dB": level_step,
    "change of the pixels, levels": video_jump,
}


@dataclass(frozen=True, slots=True)
class Agreement:
    """A mean over clips, such as a fraction, with its 95 % bootstrap confidence interval and count."""

    value: float
    interval: Interval
    n: int


@dataclass(frozen=True, slots=True)
class GeneratedReport:
    """Scores of a set of clips.

    Attributes:
        synchrony: Synchrony of audio and video.
        materials: How often the materials in the video, the audio and the prompt agree.
        adherence: How often the clips do what their prompts say.
        seams: For the task "extend": mean steps at the start of the new part, by the names in ``SEAMS``.
    """

    synchrony: Report
    materials: dict[str, Control]
    adherence: dict[str, Control]
    seams: dict[str, Agreement] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and dictionaries, ready for JSON."""
        return {
            "synchrony": self.synchrony.to_dict(),
            "materials": {k: asdict(v) for k, v in self.materials.items()},
            "adherence": {k: asdict(v) for k, v in self.adherence.items()},
            "seams": {k: asdict(v) for k, v in self.seams.items()},
        }


def evaluate_generated(
    pipe: Kinetophone,
    folder: Path | None,
    count: int,
    *,
    task: Task | None = None,
    split: str = "test",
    held_out: bool = False,
    uncoupled: bool = False,
    seed: int = 0,
    workers: int | None = None,
    keep: Path | None = None,
    progress: bool = False,
    **options: Any,
) -> dict[str, GeneratedReport]:
    """Generate clips and score them. The prompts are those of the world with the bundle's frame rate.

    Args:
        pipe: The model.
        folder: Its bundle with the classifiers; without it materials are not classified.
        count: Number of prompts, from the first clips of ``split``.
        task: What to generate for each real clip; from its caption only if not given. If the task keeps the
            beginning of the real clip, only the rest is scored, in all sets.
        split: "test" for reported results, "val" for choosing settings.
        held_out: Prompts in wording that training never sees; ``hits16`` only.
        uncoupled: Also score samples without coupling.
        seed: Seed of the first clip, the shuffles and the bootstrap.
        workers: Number of processes for the detectors.
        keep: Folder to save the generated clips to as mp4, with a subfolder per set.
        progress: Show progress bars.
        **options: Passed to the pipeline, e.g. ``steps`` or ``gamma``.

    Returns:
        Reports by set: "generated", "uncoupled" (if requested) and "true". The task "extend" also has "cut",
        each real clip continued by another one, as a baseline with hard seams.
    """
    task = task or find_task("generate")
    world_name = world_of(pipe.spec.fps)
    world = domain(world_name)
    more = {"wording": world.HELD_OUT} if held_out else {}
    true = [world.make_clip(split, i, pipe.spec.size, **more) for i in range(count)]
    whole = [as_clip(clip, world_name) for clip in true]
    prompts = [clip.caption for clip in true]
    sets = {"generated": _make(pipe, task, whole, prompts, seed, progress, options)}
    if uncoupled:
        off = {**options, "coupled": False}
        sets["uncoupled"] = _make(pipe, task, whole, prompts, seed, progress, off)
    if keep is not None:
        for name, clips in sets.items():
            for i, clip in enumerate(clips):
                clip.save(keep / name / f"{i:04d}.mp4")
    sets["true"] = whole
    truth = {str(i): clip.events()["strikes_s"] for i, clip in enumerate(true)}
    seams: dict[str, dict[str, Agreement]] = {}
    if seam_s := task.scored_from_s:
        pairs = zip(whole, whole[1:] + whole[:1], strict=True)
        sets["cut"] = [_spliced(a, b, seam_s) for a, b in pairs]
        seams = {name: _seams(clips, seam_s, seed) for name, clips in sets.items()}
        sets = {name: [_after(clip, seam_s) for clip in clips] for name, clips in sets.items()}
        truth = {i: [t - seam_s for t in times if t >= seam_s] for i, times in truth.items()}
    extractor = Extractor(hits=str(folder)) if folder and (folder / "classifiers").is_dir() else None
    captions = {str(i): clip.caption for i, clip in enumerate(true)}
    said = {str(i): clip.said for i, clip in enumerate(true)}
    reports = {}
    for name, clips in sets.items():
        known = truth if name == "true" or task.given_modality else None
        found = detect(clips, workers=workers, progress=progress, features=extractor)
        scored = [item for item in found if isinstance(item, ClipEvents)]
        agreed = extractor.score(scored, captions=captions, seed=seed).semantics if extractor else {}
        done = {} if task.scored_from_s else adherence(scored, said, world.TEMPI, seed)
        reports[name] = GeneratedReport(
            score(found, truth=known, seed=seed), agreed, done, seams.get(name, {})
        )
    return reports


def _make(
    pipe: Kinetophone,
    task: Task,
    true: Sequence[Clip],
    prompts: Sequence[str],
    seed: int,
    progress: bool,
    options: dict[str, Any],
) -> list[Clip]:
    if task.name == "generate":
        return pipe(prompts, seed=seed, progress=progress, **options)
    if task.of_truth is None:
        raise RequestError([f"task {task.name} has no true clips to compare with"])
    pairs = list(zip(true, prompts, strict=True))
    made = []
    for i, (clip, prompt) in enumerate(track(pairs, len(pairs), task.name) if progress else pairs):
        given = task.of_truth(clip)
        more: dict[str, Any] = {"seconds": given.seconds, "keep": given.keep, "seed": seed + i, **options}
        more["progress"] = False  # the bar is over clips
        made.append(pipe.run(task, prompt, given.media, **more))
    return made


def _after(clip: Clip, second: float) -> Clip:
    frame, sample = round(second * clip.fps), round(second * clip.sample_rate)
    return replace(clip, video=clip.video[frame:], audio=clip.audio[sample:])


def _spliced(a: Clip, b: Clip, seam_s: float) -> Clip:
    """``a`` up to the seam, then ``b``."""
    frame, sample = round(seam_s * a.fps), round(seam_s * a.sample_rate)
    return replace(
        a,
        video=np.concatenate([a.video[:frame], b.video[frame:]]),
        audio=np.concatenate([a.audio[:sample], b.audio[sample:]]),
    )


def _seams(clips: Sequence[Clip], seam_s: float, seed: int) -> dict[str, Agreement]:
    steps = {name: [measure(clip, seam_s) for clip in clips] for name, measure in SEAMS.items()}
    return {name: _mean(values, seed) for name, values in steps.items()}


def _mean(values: Sequence[float], seed: int) -> Agreement:
    return Agreement(float(np.mean(values)), bootstrap_interval(values, rng=seed), len(values))

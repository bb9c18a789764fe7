"""Measuring the model itself: clips generated from ``hits`` prompts, beside what to compare them with.

Three sets of the same prompts: samples of a task, samples with the coupling switched off (each base alone,
same seeds), and the true clips. Synchrony of each, with its shuffled control; and how often the material
seen, that heard and that asked for agree. In a task where one true modality is given, what is made
is scored against the true strikes, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kinetophone.errors import RequestError
from kinetophone.hits import FPS, SAMPLE_RATE, make_clip
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
    """A mean over clips, such as a share, with its 95 % bootstrap interval and count."""

    value: float
    interval: Interval
    n: int


@dataclass(frozen=True, slots=True)
class GeneratedReport:
    """A set of clips, measured.

    Attributes:
        synchrony: Of sound and picture.
        materials: How often the materials seen, heard and asked for agree.
        seams: Of the task "extend": mean steps where the new part begins, by the names in ``SEAMS``.
    """

    synchrony: Report
    materials: dict[str, Control]
    seams: dict[str, Agreement] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and dictionaries, ready for JSON."""
        return {
            "synchrony": self.synchrony.to_dict(),
            "materials": {k: asdict(v) for k, v in self.materials.items()},
            "seams": {k: asdict(v) for k, v in self.seams.items()},
        }


def evaluate_generated(
    pipe: Kinetophone,
    folder: Path | None,
    count: int,
    *,
    task: Task | None = None,
    split: str = "test",
    size: int = 64,
    uncoupled: bool = False,
    seed: int = 0,
    workers: int | None = None,
    keep: Path | None = None,
    progress: bool = False,
    **options: Any,
) -> dict[str, GeneratedReport]:
    """Generate and measure.

    Args:
        pipe: the model.
        folder: its bundle, with the classifiers; without them materials are not judged.
        count: the first ``count`` clips of ``split`` give the prompts.
        task: what is made for each true clip; from its caption alone if not given. Where the task keeps the
            beginning of the true clip, only what follows is scored, of the true clips too.
        split: "test" to report, "val" to choose settings by.
        size: side of the true clips, in pixels.
        uncoupled: measure samples with the coupling switched off, too.
        seed: of the first clip, the shuffles and the bootstrap.
        workers: processes of the detectors.
        keep: folder for the generated clips as mp4, in a folder per set.
        progress: show progress bars.
        **options: passed to the pipeline, e.g. ``steps`` or ``gamma``.

    Returns:
        Reports by set: "generated", "uncoupled" (if asked for) and "true"; of the task "extend" also "cut",
        each true clip continued by another one, which shows what a seam without any care is.
    """
    task = task or find_task("generate")
    true = [make_clip(split, i, size) for i in range(count)]
    whole = [Clip(video=c.video, fps=FPS, audio=c.audio, sample_rate=SAMPLE_RATE) for c in true]
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
    reports = {}
    for name, clips in sets.items():
        known = truth if name == "true" or task.given_modality else None
        found = detect(clips, workers=workers, progress=progress, features=extractor)
        scored = [item for item in found if isinstance(item, ClipEvents)]
        agreed = extractor.score(scored, captions=captions, seed=seed).semantics if extractor else {}
        reports[name] = GeneratedReport(score(found, truth=known, seed=seed), agreed, seams.get(name, {}))
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
        raise RequestError([f"task {task.name} has no true clips to be measured by"])
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
    """``a`` up to the seam, ``b`` from there."""
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

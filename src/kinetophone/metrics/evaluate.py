"""Scores a set of sounding clips for synchrony: ours, someone else's, or true ones.

Two steps. ``detect`` reads a clip and reduces it to its events, in parallel; ``score`` compares the events,
with all the shuffled pairs, which is cheap then. ``evaluate`` does both.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from kinetophone.errors import MediaError
from kinetophone.media.clip import Clip
from kinetophone.metrics.alignment import (
    EventScore,
    audio_peaks,
    av_align_svg,
    event_f1,
    flow_curve,
    video_peaks,
)
from kinetophone.metrics.control import Control, Interval, bootstrap_interval, shuffled_control
from kinetophone.metrics.detectors import onsets_from_audio, strikes_from_flow

MEDIA_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")

# Starting a process costs about as much as reading a few small clips.
_FEWEST_CLIPS_FOR_WORKERS = 8


@dataclass(frozen=True, slots=True)
class ClipEvents:
    """What is left of a clip for scoring it; all times in seconds.

    Attributes:
        name: File name, or the number of a clip that is in memory only.
        fps: Frames per second; its inverse is the tolerance.
        audio_peaks_s: Onsets by the published detector.
        video_peaks_s: Flow peaks by the published detector.
        onsets_s: Onsets by our detector.
        strikes_s: Strikes by our detector.
    """

    name: str
    fps: float
    audio_peaks_s: tuple[float, ...]
    video_peaks_s: tuple[float, ...]
    onsets_s: tuple[float, ...]
    strikes_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Unscored:
    """A clip that could not be scored, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over clips with its 95 % bootstrap interval."""

    value: float
    interval: Interval
    n: int


@dataclass(frozen=True, slots=True)
class Report:
    """Synchrony of a set of clips.

    Attributes:
        clips: Number of clips given.
        unscored: Those without a score, with the reason.
        fps: Number of scored clips per frame rate; every tolerance is one frame.
        seed: Of the shuffles and the bootstrap.
        shuffles: Number of shuffled sets in each control.
        metrics: ``event_f1``, ``event_precision`` (share of onsets with a strike), ``event_recall`` (share of
            strikes with an onset) and ``av_align_svg``, means over clips, each with its control. Empty where
            no clip could be scored.
        detectors: F1 of our detectors against the true events, ``audio_f1`` and ``video_f1``, where those
            are known.
        rows: The scores of each clip.
    """

    clips: int
    unscored: tuple[Unscored, ...]
    fps: dict[str, int]
    seed: int
    shuffles: int
    metrics: dict[str, Control] = field(default_factory=dict)
    detectors: dict[str, Mean] = field(default_factory=dict)
    rows: tuple[dict[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and dictionaries, ready for JSON."""
        return asdict(self)


def _synchrony(audio: ClipEvents, video: ClipEvents) -> EventScore:
    """Onsets of one clip's sound against the strikes of one clip's picture, at one frame of the picture."""
    return event_f1(audio.onsets_s, video.strikes_s, 1.0 / video.fps)


def _or_zero(measure: Callable[[EventScore], float]) -> Callable[[ClipEvents, ClipEvents], float]:
    # A shuffled pair can be a silent sound and a still picture: nothing in sync, so 0 and not 1.
    def of_pair(audio: ClipEvents, video: ClipEvents) -> float:
        counts = _synchrony(audio, video)
        return measure(counts) if counts.hits else 0.0

    return of_pair


METRICS: dict[str, Callable[[ClipEvents, ClipEvents], float]] = {
    "event_f1": _or_zero(lambda counts: counts.f1),
    "event_precision": _or_zero(lambda counts: counts.precision),
    "event_recall": _or_zero(lambda counts: counts.recall),
    "av_align_svg": lambda audio, video: av_align_svg(audio.audio_peaks_s, video.video_peaks_s, video.fps),
}


def evaluate(
    clips: Sequence[Clip | str | os.PathLike[str]],
    *,
    truth: Mapping[str, Sequence[float]] | None = None,
    seed: int = 0,
    shuffles: int = 20,
    workers: int | None = None,
    progress: bool = False,
) -> Report:
    """Read, detect and score.

    Args:
        clips: Clips in memory, which are named ``"0"``, ``"1"`` and so on, or paths of files.
        truth: True strike times in seconds, by name (for a file: its name without folders).
        seed: Of the shuffles and the bootstrap.
        shuffles: Number of shuffled sets in each control, at least 20.
        workers: Number of processes; as many as cores, but one for a few clips, where not given.
        progress: Show a progress bar on the standard error stream.
    """
    found = detect(clips, workers=workers, progress=progress)
    return score(found, truth=truth, seed=seed, shuffles=shuffles)


def detect(
    clips: Sequence[Clip | str | os.PathLike[str]], *, workers: int | None = None, progress: bool = False
) -> list[ClipEvents | Unscored]:
    """The events of each clip, in order; arguments as in ``evaluate``. A bad clip does not stop the rest."""
    if workers is None:
        workers = 1 if len(clips) < _FEWEST_CLIPS_FOR_WORKERS else (os.cpu_count() or 1)
    if workers < 1:
        raise ValueError(f"workers is {workers}; it must be at least 1")
    jobs = [(clip, str(number)) for number, clip in enumerate(clips)]
    return list(_with_bar(_run(jobs, min(workers, len(jobs))), total=len(jobs), show=progress))


def detect_one(clip: Clip | str | os.PathLike[str], name: str = "0") -> ClipEvents | Unscored:
    """The events of one clip; of a file, the name is the file's."""
    if not isinstance(clip, Clip):
        from kinetophone.media.read import read_clip

        name = Path(clip).name
        try:
            clip = read_clip(clip)
        except (OSError, MediaError) as error:
            return Unscored(name, str(error))
    fps, flow = float(clip.fps), flow_curve(clip.video)
    events = ClipEvents(
        name=name,
        fps=fps,
        audio_peaks_s=_times(audio_peaks(clip.audio, clip.sample_rate)),
        video_peaks_s=_times(video_peaks(flow, fps)),
        onsets_s=_times(onsets_from_audio(clip.audio, clip.sample_rate)),
        strikes_s=_times(strikes_from_flow(flow, fps, width_px=clip.video.shape[2])),
    )
    if not events.onsets_s and not events.strikes_s:
        return Unscored(name, "neither an onset in the sound nor a strike in the picture was found")
    return events


def score(
    found: Sequence[ClipEvents | Unscored],
    *,
    truth: Mapping[str, Sequence[float]] | None = None,
    seed: int = 0,
    shuffles: int = 20,
) -> Report:
    """Score detected events; arguments as in ``evaluate``."""
    events = [item for item in found if isinstance(item, ClipEvents)]
    # Each measure gets the same shuffles, so that their controls can be compared.
    metrics = {
        name: shuffled_control(measure, events, events, np.random.default_rng(seed), shuffles=shuffles)
        for name, measure in METRICS.items()
        if events
    }
    against_truth = [
        (event_f1(clip.onsets_s, true, 1.0 / clip.fps), event_f1(clip.strikes_s, true, 1.0 / clip.fps))
        for clip in events
        if (true := (truth or {}).get(clip.name)) is not None
    ]
    detectors = {
        name: _mean([pair[index].f1 for pair in against_truth], seed)
        for index, name in enumerate(("audio_f1", "video_f1"))
        if against_truth
    }
    rates = [f"{clip.fps:g}" for clip in events]
    return Report(
        clips=len(found),
        unscored=tuple(item for item in found if isinstance(item, Unscored)),
        fps={rate: rates.count(rate) for rate in sorted(set(rates))},
        seed=seed,
        shuffles=shuffles,
        metrics=metrics,
        detectors=detectors,
        rows=tuple(
            asdict(clip) | {name: measure(clip, clip) for name, measure in METRICS.items()} for clip in events
        ),
    )


def find_clips(folder: str | os.PathLike[str]) -> list[Path]:
    """The media files of a folder, not of those in it, by name.

    Raises:
        MediaError: There is no such folder, or no media file in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise MediaError(f"'{folder}' is not a folder; name one that holds clips")
    files = sorted(path for path in root.iterdir() if path.suffix.lower() in MEDIA_SUFFIXES)
    if not files:
        raise MediaError(f"'{folder}' holds no clip; looked for {', '.join(MEDIA_SUFFIXES)}")
    return files


def read_truth(path: str | os.PathLike[str]) -> dict[str, list[float]]:
    """True strike times by file name, from an ``events.json``: ``{"clips": {name: {"strikes_s": [...]}}}``.

    Raises:
        FileNotFoundError: There is no such file.
        MediaError: It is not JSON of that form.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"'{path}' does not exist")
    try:
        clips = json.loads(Path(path).read_text(encoding="utf-8"))["clips"]
        return {str(name): [float(time) for time in clip["strikes_s"]] for name, clip in clips.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        form = '{"clips": {"<file name>": {"strikes_s": [0.5, 1.25]}}}'
        raise MediaError(f"'{path}' is not an event list ({error!r}); its form is {form}") from error


def _times(seconds: Any) -> tuple[float, ...]:
    return tuple(round(float(time), 6) for time in seconds)


def _mean(values: list[float], seed: int) -> Mean:
    return Mean(float(np.mean(values)), bootstrap_interval(values, seed), len(values))


def _detect_job(job: tuple[Clip | str | os.PathLike[str], str]) -> ClipEvents | Unscored:
    return detect_one(*job)


def _one_thread() -> None:
    """Workers already fill the cores; OpenCV's own threads would only get in each other's way."""
    import cv2

    cv2.setNumThreads(1)


def _run(jobs: list, workers: int) -> Iterator[ClipEvents | Unscored]:
    if workers <= 1:
        yield from map(_detect_job, jobs)
        return
    # Forking a process in which torch or OpenCV has started threads can hang; spawning cannot.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        yield from pool.map(_detect_job, jobs, chunksize=max(1, len(jobs) // (8 * workers)))


def _with_bar(items: Iterator, *, total: int, show: bool) -> Iterator:
    from rich.console import Console
    from rich.progress import track

    return iter(track(items, "Reading clips", total=total, console=Console(stderr=True), disable=not show))

"""Synchrony scores for a set of clips, generated or real.

There are two steps. ``detect`` reads each clip once, in parallel, and reduces it to its events and curves.
``score`` compares these, including all shuffled pairs, which is cheap. ``evaluate`` does both. Only a few
kilobytes per clip are kept in memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kinetophone.media.clip import Clip
from kinetophone.media.onsets import onset_strength, onsets_from_audio
from kinetophone.metrics.alignment import (
    LEAST_FLOW_2025,
    EventScore,
    audio_peaks,
    av_align_2023,
    av_align_2025,
    av_align_svg,
    event_f1,
    flow_curve,
    video_peaks,
)
from kinetophone.metrics.contacts import SIDE_PX, contact_curve, contacts_from_curve
from kinetophone.metrics.control import (
    Control,
    Interval,
    bootstrap_statistic,
    shuffled_control,
)
from kinetophone.metrics.detectors import strikes_from_flow
from kinetophone.metrics.sources import (
    find_clips,
    read,
    read_small,
    read_truth,
    sound_beside,
    truth_of,
    why_unscorable,
)
from kinetophone.metrics.synchrony import find_lag, lag_evidence, synchrony
from kinetophone.workers import Failed, Workers, over_shards

if TYPE_CHECKING:
    from kinetophone.metrics.kept import Kept

__all__ = ["ClipEvents", "Report", "Unscored", "detect", "evaluate", "find_clips", "read_truth", "score"]

# Starting a process costs about as much as reading a few small clips.
_FEWEST_CLIPS_FOR_WORKERS = 8

Features = Callable[[Clip], dict[str, np.ndarray]]


@dataclass(frozen=True, slots=True)
class ClipEvents:
    """Events and curves of a clip, as needed for scoring. All times are in seconds.

    Attributes:
        name: File name, or the index of a clip in memory.
        fps: Frames per second; its inverse is the tolerance.
        audio_peaks_s: Audio onsets from the published detector.
        video_peaks_s: Flow peaks from the published detector.
        onsets_s: Audio onsets from our detector.
        strikes_s: Strikes from our detector for the ``hits`` domain.
        contacts_s: Contacts from our detector for any footage.
        video_peaks_2025_s: Flow peaks for the 2025 formula.
        flow: Mean flow into each frame, pixels per frame.
        contact: The contact curve, one value per frame.
        strength: Onset strength of the audio, every 10 ms.
        features: Network features by name, each (windows, dimension); not part of the report.
    """

    name: str
    fps: float
    audio_peaks_s: tuple[float, ...]
    video_peaks_s: tuple[float, ...]
    onsets_s: tuple[float, ...]
    strikes_s: tuple[float, ...]
    contacts_s: tuple[float, ...] = ()
    video_peaks_2025_s: tuple[float, ...] = ()
    flow: tuple[float, ...] = ()
    contact: tuple[float, ...] = ()
    strength: tuple[float, ...] = ()
    features: dict[str, np.ndarray] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Unscored:
    """A clip that could not be scored, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class SetLag:
    """Audio lag of a set of clips, estimated from all of them together.

    Attributes:
        value: Lag in seconds, positive if the audio is later than the video.
        interval: 95 % bootstrap confidence interval over clips.
        n: Number of clips.
    """

    value: float
    interval: Interval
    n: int


@dataclass(frozen=True, slots=True)
class Report:
    """Synchrony of a set of clips.

    Attributes:
        clips: Number of clips given.
        unscored: Clips without a score, with the reason.
        fps: Number of scored clips per frame rate. The tolerance is one frame unless stated otherwise.
        seed: Seed of the shuffles and the bootstrap.
        shuffles: Number of shuffled sets in each control.
        metrics: Means over clips of all metrics in ``METRICS``, with controls. Empty if no clip could be
            scored.
        detectors: F1, precision and recall of our detectors against the ground truth, if it is known:
            ``audio_`` (onsets), ``video_`` (strikes of ``hits``) and ``contact_``, with a tolerance of one
            frame, ``_50ms`` or ``_100ms``. The control uses the ground truth of other clips.
        lag: Audio lag of the set; None if nothing correlates.
        rows: Scores, events and rounded video curves of each clip.
    """

    clips: int
    unscored: tuple[Unscored, ...]
    fps: dict[str, int]
    seed: int
    shuffles: int
    metrics: dict[str, Control] = field(default_factory=dict)
    detectors: dict[str, Control] = field(default_factory=dict)
    lag: SetLag | None = None
    rows: tuple[dict[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and dictionaries, ready for JSON."""
        return asdict(self)


Pair = Callable[[ClipEvents, ClipEvents], float]
Counts = Callable[[ClipEvents, ClipEvents], EventScore]


def _strikes(audio: ClipEvents, video: ClipEvents) -> EventScore:
    """Match the onsets of one clip to the strikes of another, with a tolerance of one frame."""
    return event_f1(audio.onsets_s, video.strikes_s, 1.0 / video.fps)


def _contacts(audio: ClipEvents, video: ClipEvents, tolerance_s: float | None = None) -> EventScore:
    """Match onsets to contacts, with a tolerance of one frame or in seconds."""
    return event_f1(audio.onsets_s, video.contacts_s, tolerance_s or 1.0 / video.fps)


def _or_zero(counts_of: Counts, measure: Callable[[EventScore], float]) -> Pair:
    # A shuffled pair can be silent audio with a static video. It is not in sync, so it scores 0 and not 1.
    def of_pair(audio: ClipEvents, video: ClipEvents) -> float:
        counts = counts_of(audio, video)
        return measure(counts) if counts.hits else 0.0

    return of_pair


def _f1(counts: EventScore) -> float:
    return counts.f1


def _precision(counts: EventScore) -> float:
    return counts.precision


def _recall(counts: EventScore) -> float:
    return counts.recall


# Every metric takes the audio of one clip and the video of one clip. Precision is the fraction of onsets with
# a video event, recall the fraction of video events with an onset.
METRICS: dict[str, Pair] = {
    "event_f1": _or_zero(_strikes, _f1),
    "event_precision": _or_zero(_strikes, _precision),
    "event_recall": _or_zero(_strikes, _recall),
    "contact_f1": _or_zero(_contacts, _f1),
    "contact_precision": _or_zero(_contacts, _precision),
    "contact_recall": _or_zero(_contacts, _recall),
    "contact_f1_50ms": _or_zero(partial(_contacts, tolerance_s=0.05), _f1),
    "contact_f1_100ms": _or_zero(partial(_contacts, tolerance_s=0.1), _f1),
    "synchrony": lambda audio, video: synchrony(video.contact, video.fps, audio.strength),
    "av_align_svg": lambda audio, video: av_align_svg(audio.audio_peaks_s, video.video_peaks_s, video.fps),
    "av_align_2023": lambda audio, video: av_align_2023(audio.audio_peaks_s, video.video_peaks_s, video.fps),
    "av_align_2025": lambda audio, video: av_align_2025(
        audio.audio_peaks_s, video.video_peaks_2025_s, video.fps
    ),
}


def evaluate(
    clips: Sequence[Clip | str | os.PathLike[str]],
    *,
    truth: Mapping[str, Sequence[float]] | None = None,
    seed: int = 0,
    shuffles: int = 20,
    workers: int | None = None,
    ray: str | None = None,
    progress: bool = False,
    exact: bool = False,
) -> Report:
    """Read and score a set of clips.

    Args:
        clips: Clips in memory, which are named ``"0"``, ``"1"`` and so on, or paths of files.
        truth: Ground-truth strike times in seconds, by name (for a file, its name without folders).
        seed: Seed of the shuffles and the bootstrap.
        shuffles: Number of shuffled sets in each control, at least 20.
        workers: Number of processes. By default one per core, or a single one for a few clips.
        ray: Address of a Ray cluster, which reads the clips instead of this machine.
        progress: Show a progress bar on the standard error stream.
        exact: Compute AV-Align's flow as published, see ``flow_curve``, on frames of the files' own size.

    Returns:
        The report. Clips that could not be scored are listed in it.
    """
    found = detect(clips, workers=workers, ray=ray, progress=progress, exact=exact)
    return score(found, truth=truth, seed=seed, shuffles=shuffles)


def detect(
    clips: Sequence[Clip | str | os.PathLike[str]],
    *,
    workers: int | None = None,
    ray: str | None = None,
    progress: bool = False,
    features: Features | None = None,
    kept: Kept | None = None,
    exact: bool = False,
) -> list[ClipEvents | Unscored]:
    """Detect the events of each clip; other arguments are as in ``evaluate``.

    Args:
        clips: Clips or paths.
        workers: Number of processes.
        ray: Address of a Ray cluster.
        progress: Show a progress bar.
        features: Called in the worker with each scorable clip, so that a clip is decoded only once. It must
            be picklable. Frames then have the files' own size.
        exact: As in ``evaluate``.
        kept: What an earlier run has detected in files is taken from it, and the rest is added.

    Returns:
        One entry per clip, in order. A clip that cannot be read becomes ``Unscored``.
    """
    if workers is None and ray is None and len(clips) < _FEWEST_CLIPS_FOR_WORKERS:
        workers = 1
    jobs = [(clip, str(number)) for number, clip in enumerate(clips)]
    what = "reading clips" if progress else None
    # One file of each folder, since folders of clips may be read-only.
    seen = {
        path.parent: path for clip in clips if not isinstance(clip, Clip) and (path := Path(clip)).exists()
    }
    setup = partial(_detector, features, exact)
    found: dict[int, ClipEvents | Unscored] = {}
    keys: dict[int, str] = {}
    if kept is not None:
        settings = kept.settings(setup, getattr(features, "sources", {}))
        for index, clip in enumerate(clips):
            if not isinstance(clip, Clip):
                keys[index] = kept.key(Path(clip), settings)
                if (known := kept.get(keys[index])) is not None:
                    found[index] = known
    todo = [index for index in range(len(jobs)) if index not in found]
    shards = [jobs[index] for index in todo]
    for number, one in over_shards(setup, shards, Workers(workers, ray), what, shared=seen.values()):
        index, (clip, name) = todo[number], shards[number]
        if isinstance(one, Failed):
            one = Unscored(name if isinstance(clip, Clip) else Path(clip).name, one.reason)
        elif kept is not None and index in keys:
            kept.add(keys[index], one)
        found[index] = one
    return [found[index] for index in range(len(jobs))]


def detect_one(
    clip: Clip | str | os.PathLike[str],
    name: str = "0",
    features: Features | None = None,
    exact: bool = False,
) -> ClipEvents | Unscored:
    """Detect the events of one clip; a file's name replaces ``name``."""
    scale = 1.0
    if not isinstance(clip, Clip):
        name = Path(clip).name
        try:
            if exact or features is not None:
                clip = read(clip)
            else:
                clip, scale = read_small(clip, SIDE_PX, sound=sound_beside(clip))
        except (OSError, ValueError) as error:
            return Unscored(name, str(error))
    reason = why_unscorable(clip)
    if reason is not None:
        return Unscored(name, reason)
    fps, contact = float(clip.fps), contact_curve(clip.video)
    flow = scale * flow_curve(clip.video, exact=exact)
    audio = clip.mono
    events = ClipEvents(
        name=name,
        fps=fps,
        audio_peaks_s=_rounded(audio_peaks(audio, clip.sample_rate)),
        video_peaks_s=_rounded(video_peaks(flow, fps)),
        onsets_s=_rounded(onsets_from_audio(audio, clip.sample_rate)),
        strikes_s=_rounded(strikes_from_flow(flow, fps, width_px=round(scale * clip.video.shape[2]))),
        contacts_s=_rounded(contacts_from_curve(contact, fps)),
        video_peaks_2025_s=_rounded(video_peaks(flow, fps, least_flow=LEAST_FLOW_2025)),
        flow=_rounded(flow),
        contact=_rounded(contact),
        strength=_rounded(onset_strength(audio, clip.sample_rate)),
        features={} if features is None else features(clip),
    )
    if not (events.onsets_s or events.strikes_s or events.contacts_s):
        return Unscored(name, "neither an onset in the audio nor a strike in the video was found")
    return events


def score(
    found: Sequence[ClipEvents | Unscored],
    *,
    truth: Mapping[str, Sequence[float]] | None = None,
    seed: int = 0,
    shuffles: int = 20,
) -> Report:
    """Score the result of ``detect``; arguments are as in ``evaluate``."""
    events = [item for item in found if isinstance(item, ClipEvents)]
    # All metrics use the same shuffles, so that their controls are comparable.
    metrics = {
        name: shuffled_control(measure, events, events, np.random.default_rng(seed), shuffles=shuffles)
        for name, measure in METRICS.items()
        if events
    }
    evidence = np.array([lag_evidence(clip.contact, clip.fps, clip.strength) for clip in events])
    rates = [f"{clip.fps:g}" for clip in events]
    return Report(
        clips=len(found),
        unscored=tuple(item for item in found if isinstance(item, Unscored)),
        fps={rate: rates.count(rate) for rate in sorted(set(rates))},
        seed=seed,
        shuffles=shuffles,
        metrics=metrics,
        detectors=_against_truth(events, truth or {}, seed, shuffles),
        lag=_lag_of_set(evidence, seed),
        rows=tuple(_row(clip, lags) for clip, lags in zip(events, evidence, strict=True)),
    )


def _against_truth(
    events: Sequence[ClipEvents], truth: Mapping[str, Sequence[float]], seed: int, shuffles: int
) -> dict[str, Control]:
    pairs = [(clip, true) for clip in events if (true := truth_of(clip.name, truth)) is not None]
    if not pairs:
        return {}
    clips, truths = [clip for clip, _ in pairs], [times_s for _, times_s in pairs]
    detectors = {"audio": "onsets_s", "video": "strikes_s", "contact": "contacts_s"}
    measures = {"f1": _f1, "precision": _precision, "recall": _recall}
    found = {}
    for suffix, tolerance_s in {"": None, "_50ms": 0.05, "_100ms": 0.1}.items():
        for detector, events_of in detectors.items():
            for name, measure in measures.items():
                found[f"{detector}_{name}{suffix}"] = shuffled_control(
                    partial(_agreement, measure, events_of, tolerance_s),
                    truths, clips, np.random.default_rng(seed), shuffles=shuffles,
                )  # fmt: skip
    return found


def _agreement(
    measure: Callable[[EventScore], float],
    events_of: str,
    tolerance_s: float | None,
    true_s: Sequence[float],
    clip: ClipEvents,
) -> float:
    """Score a detector's events in ``clip`` against ground truth, its own or that of another clip."""
    return measure(event_f1(getattr(clip, events_of), true_s, tolerance_s or 1.0 / clip.fps))


def _lag_of_set(evidence: np.ndarray, seed: int) -> SetLag | None:
    lag = find_lag(evidence.sum(axis=0)) if len(evidence) else None
    if lag is None:
        return None

    def of_sample(sample: np.ndarray) -> float:
        found = find_lag(sample.sum(axis=0))
        return lag.lag_s if found is None else found.lag_s

    return SetLag(lag.lag_s, bootstrap_statistic(evidence, of_sample, seed), len(evidence))


def _row(clip: ClipEvents, evidence: np.ndarray) -> dict[str, Any]:
    lag = find_lag(evidence)
    row = {name: value for name, value in asdict(clip).items() if name not in ("features", "strength")}
    # Rounded for display; the scores use the exact curves.
    row |= {name: tuple(round(value, 3) for value in row[name]) for name in ("flow", "contact")}
    row |= {name: measure(clip, clip) for name, measure in METRICS.items()}
    return row | {
        "lag_s": None if lag is None else lag.lag_s,
        "lag_interval": None if lag is None else asdict(lag.interval),
    }


def _rounded(values: Any) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)


def _detector(
    features: Features | None, exact: bool, neighbours: int
) -> Callable[[tuple[Clip | str | os.PathLike[str], str]], ClipEvents | Unscored]:
    """What reads a clip in a worker that shares its machine with ``neighbours`` in all."""
    if neighbours > 1:
        import cv2

        from kinetophone.media.container import share_memory

        cv2.setNumThreads(1)
        share_memory(neighbours)
    return lambda job: detect_one(*job, features, exact)

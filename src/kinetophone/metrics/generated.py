"""Measuring the model itself: clips generated from ``hits`` prompts, beside what to compare them with.

Three sets of the same prompts: joint samples, samples with the coupling switched off (each base alone, same
seeds), and the true clips. Synchrony of each, with its shuffled control; and how often the material seen, the
material heard and the material asked for agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kinetophone.data.hits import FPS, SAMPLE_RATE, make_clip
from kinetophone.media.clip import Clip
from kinetophone.metrics.control import Interval, bootstrap_interval
from kinetophone.metrics.evaluate import Report, evaluate
from kinetophone.metrics.hits import MaterialJudge

if TYPE_CHECKING:
    from kinetophone.pipeline import Kinetophone


@dataclass(frozen=True, slots=True)
class Agreement:
    """A share of clips, with its 95 % bootstrap interval and count; chance is 1 in 5 materials."""

    value: float
    interval: Interval
    n: int


@dataclass(frozen=True, slots=True)
class GeneratedReport:
    """Synchrony of a set of clips, and agreement of materials (picture-text, sound-text, picture-sound)."""

    synchrony: Report
    materials: dict[str, Agreement]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and dictionaries, ready for JSON."""
        return {
            "synchrony": self.synchrony.to_dict(),
            "materials": {k: asdict(v) for k, v in self.materials.items()},
        }


def evaluate_generated(
    pipe: Kinetophone,
    folder: Path | None,
    count: int,
    *,
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
        split: "test" to report, "val" to choose settings by.
        size: side of the true clips, in pixels.
        uncoupled: measure samples with the coupling switched off, too.
        seed: of the first clip, the shuffles and the bootstrap.
        workers: processes of the detectors.
        keep: folder for the generated clips as mp4, in a folder per set.
        progress: show progress bars.
        **options: passed to the pipeline, e.g. ``steps`` or ``gamma``.

    Returns:
        Reports by set: "generated", "uncoupled" (if asked for) and "true".
    """
    true = [make_clip(split, i, size) for i in range(count)]
    prompts = [clip.caption for clip in true]
    sets = {"generated": pipe(prompts, seed=seed, progress=progress, **options)}
    if uncoupled:
        sets["uncoupled"] = pipe(prompts, seed=seed, progress=progress, coupled=False, **options)
    if keep is not None:
        for name, clips in sets.items():
            for i, clip in enumerate(clips):
                clip.save(keep / name / f"{i:04d}.mp4")
    sets["true"] = [Clip(video=c.video, fps=FPS, audio=c.audio, sample_rate=SAMPLE_RATE) for c in true]
    truth = {str(i): clip.events()["strikes_s"] for i, clip in enumerate(true)}
    judge = MaterialJudge(folder) if folder and (folder / "classifiers").is_dir() else None
    asked = [clip.scene.material for clip in true]
    reports = {}
    for name, clips in sets.items():
        known = truth if name == "true" else None
        synchrony = evaluate(clips, truth=known, seed=seed, workers=workers, progress=progress)
        materials = material_agreement(judge, clips, asked, seed) if judge else {}
        reports[name] = GeneratedReport(synchrony, materials)
    return reports


def material_agreement(
    judge: MaterialJudge, clips: Sequence[Clip], asked: Sequence[str], seed: int
) -> dict[str, Agreement]:
    """How often two of seen, heard and asked-for material are the same; ``asked`` has one entry per clip."""
    seen = [judge.picture(clip) for clip in clips]
    heard = [judge.sound(clip) for clip in clips]
    pairs = {"picture-text": (seen, asked), "sound-text": (heard, asked), "picture-sound": (seen, heard)}
    result = {}
    for name, (a, b) in pairs.items():
        same = np.array([x == y for x, y in zip(a, b, strict=True)], np.float64)
        result[name] = Agreement(float(same.mean()), bootstrap_interval(same, rng=seed), len(same))
    return result

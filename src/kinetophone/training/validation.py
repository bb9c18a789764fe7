"""Validation during coupling training: generated clips are saved and their synchrony is measured."""

from __future__ import annotations

import json
from pathlib import Path

from kinetophone.media.clip import Clip

MEASURES = ("event_f1", "av_align_svg")


def validate(clips: list[Clip], folder: Path, step: int) -> dict[str, float]:
    """Write ``clips`` as ``folder/validation/STEP-N.mp4`` and score them against shuffled pairs.

    The full report is written to ``folder/validation/STEP.json``. Without PyAV or librosa, which training
    does not require, nothing is scored.

    Returns:
        ``event_f1`` and ``av_align_svg``, their chance levels as ``…_shuffled``, and ``clips_scored``;
        empty if nothing was scored.
    """
    try:
        from kinetophone.metrics.evaluate import evaluate

        out = folder / "validation"
        out.mkdir(exist_ok=True)
        for number, clip in enumerate(clips):
            clip.save(out / f"{step}-{number}.mp4")
        report = evaluate(clips, workers=1)
    except ImportError:
        return {}
    (out / f"{step}.json").write_text(json.dumps(report.to_dict(), indent=1) + "\n")
    numbers: dict[str, float] = {}
    for name in MEASURES:
        if name in report.metrics:
            control = report.metrics[name]
            numbers |= {name: control.value, "clips_scored": control.n}
            if control.shuffled is not None:
                numbers[f"{name}_shuffled"] = control.shuffled
    return numbers

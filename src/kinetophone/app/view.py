"""HTML views of a job: progress with a preview, and the sync strip and scores of the result."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import numpy as np

from kinetophone.metrics.alignment import event_f1
from kinetophone.metrics.strip import EVENT, ONSET, jpeg_uri, strip_svg

if TYPE_CHECKING:
    from kinetophone.app.tasks import Step
    from kinetophone.av import AV
    from kinetophone.media.clip import Clip

# Detectors of events in the video: (curve, events, F1 score, label).
DETECTORS = {
    "strikes": ("flow", "strikes_s", "event_f1", "strikes: bursts of optical flow, for hits clips"),
    "contacts": (
        "contact",
        "contacts_s",
        "contact_f1",
        "contacts: motion stops or reverses, for any footage",
    ),
}
_PREVIEW_PX = 640
_FLOOR, _CEILING = -11.5, 2.0  # range of log-mel values: the clamp, and a loud clip


def progress_html(step: Step, picture: str) -> str:
    """The state of a running job.

    Args:
        step: the progress.
        picture: the last preview from :func:`preview_html`, or "".
    """
    said = f"step {step.step} of {step.steps}"
    bar = f'<progress value="{step.step}" max="{step.steps}" style="width:100%"></progress>'
    return f'<div role="status">{said}{bar}{picture}</div>'


def preview_html(preview: AV[np.ndarray]) -> str:
    """A preview as one image: a row of frames above the spectrogram, with low frequencies at the bottom."""
    import cv2

    frames = np.concatenate(list(preview.video), axis=1)
    levels = (preview.audio.T[::-1] - _FLOOR) / (_CEILING - _FLOOR)
    grey = np.clip(255 * levels, 0, 255).astype(np.uint8)
    coloured = cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_MAGMA), cv2.COLOR_BGR2RGB)
    mel = cv2.resize(coloured, (frames.shape[1], max(1, frames.shape[1] // 8)))
    source = jpeg_uri(np.concatenate([frames, mel]), _PREVIEW_PX)
    label = "the clean estimate so far: frames above the spectrogram"
    return f'<img src="{source}" alt="{label}" style="width:100%"><small>{label}</small>'


def waiting_html(text: str) -> str:
    """A status line without an image."""
    return f'<div role="status">{html.escape(text)}</div>'


def result_html(clip: Clip, found: dict[str, Any], detector: str) -> str:
    """The sync strip of a clip, with its F1.

    Args:
        clip: the clip.
        found: the result of :func:`kinetophone.app.tasks.measure`.
        detector: "strikes" or "contacts".
    """
    curve, events, score, _ = DETECTORS[detector]
    matches = event_f1(found["onsets_s"], found[events], 1.0 / found["fps"])
    label = f"frames, waveform with onsets, {curve} curve with {detector}"
    strip = strip_svg(clip, found[curve], found["onsets_s"], found[events], label)
    name = "event F1" if detector == "strikes" else "contact F1"
    return (
        f'<figure style="margin:0">{strip}<figcaption><b>{name} {found[score]:.2f}</b>: '
        f"{matches.hits} matches within one frame of {matches.predicted} "
        f'<span style="color:{ONSET}">onsets heard</span> and {matches.true} '
        f'<span style="color:{EVENT}">{detector} seen</span>. A single clip has no shuffled '
        "baseline: chance can reach 0.2 or more.</figcaption></figure>"
    )

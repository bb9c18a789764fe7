"""What the app shows of a job as HTML: how far it is, with a preview; its result's strip and scores."""

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

# What is drawn as events in the picture: (curve, its events, F1, what it is for).
DETECTORS = {
    "strikes": ("flow", "strikes_s", "event_f1", "strikes: bursts of the flow, for hits clips"),
    "contacts": (
        "contact",
        "contacts_s",
        "contact_f1",
        "contacts: where motion stops or turns, for any footage",
    ),
}
_PREVIEW_PX = 640
_FLOOR, _CEILING = -11.5, 2.0  # of a log-mel: its clamp, and what is as loud as clips get


def progress_html(step: Step, picture: str) -> str:
    """The state of a running job.

    Args:
        step: where it is.
        picture: what :func:`preview_html` gave for the last preview, or nothing.
    """
    said = f"step {step.step} of {step.steps}"
    bar = f'<progress value="{step.step}" max="{step.steps}" style="width:100%"></progress>'
    return f'<div role="status">{said}{bar}{picture}</div>'


def preview_html(preview: AV[np.ndarray]) -> str:
    """A preview as one picture: frames in a row, the spectrogram beneath, low notes at the bottom."""
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
    """A line instead of a picture."""
    return f'<div role="status">{html.escape(text)}</div>'


def result_html(clip: Clip, found: dict[str, Any], detector: str) -> str:
    """The strip of a clip, with its F1.

    Args:
        clip: the clip.
        found: what :func:`kinetophone.app.tasks.measure` gave.
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
        f'<span style="color:{EVENT}">{detector} seen</span>. One clip has no control: '
        "chance can be 0.2 and more.</figcaption></figure>"
    )

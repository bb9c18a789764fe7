"""Analysis of what limits a bundle, by replacing its parts with ground truth one at a time.

Each set has one clip per prompt. Starting from the real clips, every set uses one more part of the bundle.
The loss from one set to the next is caused by that part.

Distances from the real clips of the same prompts can't be compared between sets: a clip that only went
through an autoencoder is closer to them than any generated clip can be. Each set is therefore also compared
with the same number of *other* real clips. There the real clips show the score of a perfect model, and those
that went through an autoencoder the score of a perfect U-Net.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kinetophone.data.domains import as_clip
from kinetophone.files import write_json
from kinetophone.hits import HitsClip
from kinetophone.media.clip import Clip, fit_audio
from kinetophone.media.mel import HOP, log_mel
from kinetophone.media.read import Audio, Video
from kinetophone.progress import track
from kinetophone.study.experiment import fingerprint, result_settings
from kinetophone.study.measures import (
    MAIN_METRIC,
    count_accuracy,
    material_accuracy,
    measure_clips,
    true_clips,
)
from kinetophone.study.table import difference, with_interval
from kinetophone.text import markdown_table

if TYPE_CHECKING:
    from kinetophone.pipeline import Kinetophone

MEASURE = MAIN_METRIC["hits"]
DISTANCES = ("hits-FVD", "hits-FAD")


@dataclass(frozen=True)
class Part:
    """A part of the bundle, and the two sets whose difference is its loss.

    Attributes:
        name: Name of the part.
        without: Name of the set in which ground truth replaces the part.
        having: Name of the same set with the part.
    """

    name: str
    without: str
    having: str


PARTS = (
    Part("video autoencoder", "true", "video autoencoder"),
    Part("vocoder", "true", "vocoder"),
    Part("audio autoencoder", "vocoder", "audio autoencoder, vocoder"),
    Part("sound for a picture", "audio autoencoder, vocoder", "true picture, sound made"),
    Part("picture for a sound", "video autoencoder", "true sound, picture made"),
    Part("both at once, after the sound", "true picture, sound made", "both made"),
    Part("both at once, after the picture", "true sound, picture made", "both made"),
)


def reconstructed_frames(pipe: Kinetophone, clip: HitsClip) -> np.ndarray:
    """Encode and decode the frames of a real clip with the video autoencoder."""
    video = pipe.bases.video
    return video.decode(video.encode(torch.from_numpy(clip.video)[None]))[0]


def reconstructed_audio(pipe: Kinetophone, clip: HitsClip) -> np.ndarray:
    """Reconstruct the audio of a real clip with the audio autoencoder and the vocoder."""
    audio, samples = pipe.bases.audio, len(clip.audio)
    latents = audio.encode(torch.from_numpy(clip.audio)[None])
    made = latents[:, :, : -(-samples // (HOP * audio.factor))]  # without the U-Net's padding
    return audio.decode(made, samples)[0]


def with_audio(clip: HitsClip, waveform: np.ndarray) -> Clip:
    """A real clip with other audio."""
    return replace(as_clip(clip), audio=fit_audio(waveform, len(clip.audio)))


def clip_makers(pipe: Kinetophone, **sampling: Any) -> dict[str, Callable[[HitsClip, int], Clip]]:
    """Functions by set name that make a clip from a real clip and its index (the noise seed)."""

    common: dict[str, Any] = {"progress": False, **sampling}

    def through_vocoder(clip: HitsClip) -> np.ndarray:
        with torch.no_grad():
            mel = log_mel(torch.from_numpy(clip.audio)[None]).to(pipe.device)
            return pipe.bases.audio.vocoder(mel)[0].clamp(-1, 1).cpu().numpy()

    def audio_made(clip: HitsClip, seed: int) -> Clip:
        return pipe.sound(Video(clip.video, as_clip(clip).time.fps), clip.caption, seed=seed, **common)

    def video_made(clip: HitsClip, seed: int) -> Clip:
        sound = Audio(clip.audio, as_clip(clip).sample_rate)
        return pipe.picture(sound, clip.caption, seed=seed, **common)

    return {
        "true": lambda clip, seed: as_clip(clip),
        "video autoencoder": lambda clip, seed: replace(
            as_clip(clip), video=reconstructed_frames(pipe, clip)
        ),
        "vocoder": lambda clip, seed: with_audio(clip, through_vocoder(clip)),
        "audio autoencoder, vocoder": lambda clip, seed: with_audio(clip, reconstructed_audio(pipe, clip)),
        "true picture, sound made": audio_made,
        "true sound, picture made": video_made,
        "both made": lambda clip, seed: pipe(clip.caption, seed=seed, **common)[0],
    }


def limits(
    pipe: Kinetophone,
    bundle: Path,
    count: int,
    path: Path,
    *,
    split: str = "test",
    workers: int | None = None,
    **sampling: Any,
) -> dict[str, Any]:
    """Make and score all sets, and compute the loss of each part. Sets that ``path`` has are not made again.

    Args:
        pipe: The loaded bundle.
        bundle: Its folder, with the classifiers.
        count: Number of prompts, the first of ``split``, at least 4. The next ``count`` clips are the other
            real clips.
        path: JSON file to write after each set.
        split: Split of hits.
        workers: Number of processes for the detectors.
        **sampling: Sampling options.

    Returns:
        ``sets`` by name, as from :func:`kinetophone.study.measures.measure_clips`, and ``parts``: the event
        F1 that each part loses, paired by clip, with a 95 % confidence interval.
    """
    made_of = [
        fingerprint(bundle, coupling=True),
        count,
        split,
        {**result_settings(pipe.spec.defaults), **sampling},
    ]
    others = range(count, 2 * count)
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if found.get("made_of") != made_of:
        found = {"made_of": made_of, "sets": {}}
    true = true_clips("hits", split, range(count), pipe.spec.size)
    for name, make in clip_makers(pipe, **sampling).items():
        if name in found["sets"]:
            continue
        clips = [make(clip, i) for i, clip in enumerate(track(true, count, name))]
        found["sets"][name] = measure_clips(clips, "hits", split, str(bundle), workers, others=others)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(found, path)
    sets = {name: [result | {"seed": 0}] for name, result in found["sets"].items()}
    found["parts"] = {part.name: difference(sets[part.without], sets[part.having], MEASURE) for part in PARTS}
    write_json(found, path)
    return found


def markdown(found: dict[str, Any]) -> str:
    """Both tables as Markdown, and the part that loses most."""
    far = [f"{name}, others" for name in DISTANCES]
    columns = ["set", "event F1", "shuffled", "synchrony", *DISTANCES, *far, "seen", "heard", "count", "n"]
    cells = []
    for name, result in found["sets"].items():
        f1, clips = result["synchrony"][MEASURE], result["clips"]
        from_others = [result["distances_from_others"][key] for key in DISTANCES]
        row = [
            name,
            f"{f1['value']:.3f}",
            f"{f1['shuffled']:.3f}",
            f"{result['synchrony']['synchrony']['value']:.3f}",
            *[f"{result['distances'][key]['frechet']:.2f}" for key in DISTANCES],
            *[f"{away['frechet']:.2f} ({away['kernel']:.3f})" for away in from_others],
            *[f"{material_accuracy(clips, side):.3f}" for side in ("seen", "heard")],
            "" if (count := count_accuracy(clips)) is None else f"{count:.3f}",
            str(f1["n"]),
        ]
        cells.append(row)
    lines = markdown_table(columns, cells)
    told = "Distances are Fréchet's, from the true clips of the prompts and from as many other true clips;"
    lines += ["", told, "in brackets the kernel distance from those, which has no bias.", ""]
    ranked = sorted(found["parts"].items(), key=lambda item: -item[1]["value"])
    lines += markdown_table(
        ["part", "event F1 it loses"], [[name, with_interval(lost, sign="+")] for name, lost in ranked]
    )
    lines += ["", f"What loses most: **{ranked[0][0]}**.", ""]
    return "\n".join(lines)

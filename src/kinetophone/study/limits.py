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
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kinetophone.data.domains import as_clip, world_of
from kinetophone.files import write_json
from kinetophone.media.clip import Clip, fit_audio
from kinetophone.media.mel import log_mel
from kinetophone.media.read import Audio, Video
from kinetophone.progress import track
from kinetophone.study.experiment import fingerprint, result_settings
from kinetophone.study.measures import (
    count_accuracy,
    material_accuracy,
    measure_clips,
    true_clips,
)
from kinetophone.study.table import difference, with_interval
from kinetophone.text import markdown_table

if TYPE_CHECKING:
    from kinetophone.pipeline import Kinetophone

MEASURE = "event_f1"
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


def parts_of(pipe: Kinetophone) -> list[Part]:
    """The parts of a bundle; its audio may have a vocoder, or an autoencoder of waveforms."""
    own = [Part("video autoencoder", "true", "video autoencoder")]
    if _has_vocoder(pipe):
        decoded = "audio autoencoder, vocoder"
        own += [Part("vocoder", "true", "vocoder"), Part("audio autoencoder", "vocoder", decoded)]
    else:
        decoded = "audio autoencoder"
        own.append(Part("audio autoencoder", "true", decoded))
    return [
        *own,
        Part("sound for a picture", decoded, "true picture, sound made"),
        Part("picture for a sound", "video autoencoder", "true sound, picture made"),
        Part("both at once, after the sound", "true picture, sound made", "both made"),
        Part("both at once, after the picture", "true sound, picture made", "both made"),
    ]


def _has_vocoder(pipe: Kinetophone) -> bool:
    return hasattr(pipe.bases.audio, "vocoder")


def clip_makers(pipe: Kinetophone, world: str, **sampling: Any) -> dict[str, Callable[[Any, int], Clip]]:
    """Functions by set name that make a clip from a real clip and its index (the noise seed)."""
    audio, video = pipe.bases.audio, pipe.bases.video
    common: dict[str, Any] = {"progress": False, **sampling}

    def true(clip: Any, seed: int) -> Clip:
        return as_clip(clip, world)

    def video_decoded(clip: Any, seed: int) -> Clip:
        frames = video.decode(video.encode(torch.from_numpy(clip.video)[None]))[0]
        return replace(as_clip(clip, world), video=frames[: len(clip.video)])

    def with_audio(clip: Any, waveform: np.ndarray) -> Clip:
        return replace(as_clip(clip, world), audio=fit_audio(waveform, len(clip.audio)))

    def through_vocoder(clip: Any, seed: int) -> Clip:
        with torch.no_grad():
            mel = log_mel(torch.from_numpy(clip.audio)[None]).to(pipe.device)
            return with_audio(clip, audio.vocoder(mel)[0].clamp(-1, 1).cpu().numpy())

    def audio_decoded(clip: Any, seed: int) -> Clip:
        samples = len(clip.audio)
        latents = audio.encode(torch.from_numpy(clip.audio)[None])
        whole = math.ceil(samples * audio.latents_per_second / audio.sample_rate)  # without padding
        return with_audio(clip, audio.decode(latents[:, :, :whole], samples)[0])

    def audio_made(clip: Any, seed: int) -> Clip:
        return pipe.sound(Video(clip.video, as_clip(clip, world).time.fps), clip.caption, seed=seed, **common)

    def video_made(clip: Any, seed: int) -> Clip:
        sound = Audio(clip.audio, as_clip(clip, world).sample_rate)
        return pipe.picture(sound, clip.caption, seed=seed, **common)

    with_vocoder = {"vocoder": through_vocoder, "audio autoencoder, vocoder": audio_decoded}
    return {
        "true": true,
        "video autoencoder": video_decoded,
        **(with_vocoder if _has_vocoder(pipe) else {"audio autoencoder": audio_decoded}),
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
        split: Split of the world of strikes that the bundle was trained on.
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
    world = world_of(pipe.spec.fps)
    true = true_clips(world, split, range(count), pipe.spec.size)
    for name, make in clip_makers(pipe, world, **sampling).items():
        if name in found["sets"]:
            continue
        clips = [make(clip, i) for i, clip in enumerate(track(true, count, name))]
        found["sets"][name] = measure_clips(clips, world, split, str(bundle), workers, others=others)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(found, path)
    sets = {name: [result | {"seed": 0}] for name, result in found["sets"].items()}
    found["parts"] = {
        part.name: difference(sets[part.without], sets[part.having], MEASURE) for part in parts_of(pipe)
    }
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

"""Steps that all tasks share: windows, encoding given media, sampling, and decoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kinetophone.av import AV, MODALITIES
from kinetophone.bundle.load import Bundle
from kinetophone.bundle.spec import LONGEST_S
from kinetophone.diffusion.clocks import path_of
from kinetophone.diffusion.guidance import guided
from kinetophone.diffusion.inpainting import Given
from kinetophone.diffusion.sample import Progress, initial_noise, sample_joint
from kinetophone.diffusion.settings import Settings
from kinetophone.diffusion.windows import Window, plan_causal_windows, plan_windows, whole, windowed
from kinetophone.errors import RequestError
from kinetophone.media.clip import fit_audio
from kinetophone.media.timing import ClipTime
from kinetophone.tasks.common.cores import divided
from kinetophone.tasks.request import Script

if TYPE_CHECKING:
    from kinetophone.bases.protocol import Times


def fitting_time(bundle: Bundle, frames: int) -> ClipTime:
    """Length and rates of a clip of ``frames`` frames at the bundle's frame rate.

    Raises:
        RequestError: the clip is too long.
    """
    time = ClipTime(fps=bundle.spec.fps, frames=frames, sample_rate=bundle.spec.sample_rate)
    if time.duration_s > LONGEST_S:
        raise RequestError([f"it lasts {time.duration_s:g} s; at most {LONGEST_S} s can be done at once"])
    return time


def windows_of(bundle: Bundle, time: ClipTime) -> list[Window]:
    """The windows that cover a clip; one if the model can generate it in a single pass."""
    one = replace(time, frames=bundle.spec.window(time.frames))
    audio, video = bundle.bases.audio, bundle.bases.video
    window = AV(audio=audio.latent_length(one.samples), video=video.latent_length(one.frames))
    if video.frame_step > 1:  # a causal autoencoder encodes its first latent differently
        per_latent = video.frame_step * audio.latents_per_second / time.fps
        return plan_causal_windows(video.latent_length(time.frames), window, per_latent)
    return plan_windows(time.frames, window, audio.latents_per_second / time.fps)


def encode_frames(bundle: Bundle, frames: np.ndarray, windows: Sequence[Window]) -> Tensor:
    """Encode frames (T, H, W, 3); the last frame is repeated to the end of the windows."""
    missing = max(0, bundle.bases.video.frame_length(whole(windows).video) - len(frames))
    frames = np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)])
    return bundle.bases.video.encode(torch.from_numpy(frames)[None])


def encode_waveform(bundle: Bundle, waveform: np.ndarray, windows: Sequence[Window]) -> Tensor:
    """Encode a waveform, padded with silence to the end of the windows; it has the channels of the base."""
    length = whole(windows).audio
    padded = fit_audio(waveform, bundle.bases.audio.sample_length(length))
    return bundle.bases.audio.encode(torch.from_numpy(padded)[None])[:, :, :length]


def sample(
    bundle: Bundle,
    prompts: Sequence[str | Script],
    time: ClipTime,
    seeds: Sequence[int],
    settings: Settings,
    callback: Callable[[Progress], None] | None,
    given: AV[Given | None] | None = None,
) -> AV[Tensor]:
    """Sample clean latents, one clip per prompt, up to the end of the windows that cover ``time``."""
    windows = windows_of(bundle, time)
    total = whole(windows)
    shapes: AV[Sequence[int]] = AV(
        audio=_of_length(bundle.bases.audio.latent_shape(1), total.audio),
        video=_of_length(bundle.bases.video.latent_shape(1, bundle.spec.size), total.video),
    )
    if given is not None and settings.replacement:
        given = given.map(lambda track: None if track is None else replace(track, clean=False))
    prepare_texts(bundle, prompts, time, settings)
    complete = [m for m in MODALITIES if given and (g := getattr(given.swap(), m)) and g.complete]
    only = complete[0] if complete else None  # the modality to sample if the other one is given completely
    negative = _text(bundle, [settings.negative_prompt] * len(prompts), time)
    said = [tuple(text_at(bundle, prompt, window, time) for prompt in prompts) for window in windows]
    encoded = {texts: _text(bundle, list(texts), time) for texts in dict.fromkeys(said)}
    path = path_of(bundle.processes, settings, bundle.spec.sampling)
    noise = initial_noise(shapes, seeds, device=bundle.device)
    leak: AV[Tensor | None] = bundle.leaks.map(
        lambda leak, known: None if leak is None else leak.draw(seeds, known), given or AV.both(None)
    )
    with divided(bundle.device) if only is None else nullcontext() as run:
        predicts = [
            guided(
                bundle.model,
                encoded[texts],
                negative,
                settings.guidance,
                sync=settings.guidance_sync,
                coupled=settings.coupled,
                only=only,
                times=times_in(bundle, window, time),
                sync_from=settings.sync_from,
                run=run,
            )
            for window, texts in zip(windows, said, strict=True)
        ]
        predict = windowed(windows, predicts)
        return sample_joint(predict, noise, path, bundle.processes, callback, given, leak, settings.stepper)


def prepare_texts(
    bundle: Bundle, prompts: Sequence[str | Script], time: ClipTime, settings: Settings
) -> None:
    """With a cache of text states: encode all texts of these clips now, with one loading of each encoder."""
    scripts = [
        [prompt] if isinstance(prompt, str) else [text for _, text in prompt.lines] for prompt in prompts
    ]
    said = [text for script in scripts for text in script]
    for base in (bundle.bases.audio, bundle.bases.video):
        if base.texts is not None:
            base.conditioning([settings.negative_prompt, *said], time.duration_s)


def decode(bundle: Bundle, latents: AV[Tensor], time: ClipTime) -> tuple[np.ndarray, np.ndarray]:
    """Decode frames (B, T, H, W, 3) and waveforms (B, N) or (B, N, C), cut to the length of ``time``."""
    video, audio = bundle.bases.video, bundle.bases.audio
    parts: list[Callable[[], np.ndarray]] = [
        partial(video.decode, latents.video[:, :, : video.latent_length(time.frames)]),
        partial(audio.decode, latents.audio, time.samples),
    ]
    with divided(bundle.device) as run:
        frames, waveforms = run(parts) if run else [part() for part in parts]
    return frames[:, : time.frames], waveforms


def times_in(bundle: Bundle, window: Window, time: ClipTime) -> AV[Times]:
    """Times of a window's latents, in seconds since the window's first frame."""
    times = bundle.latent_times(window.length, time.fps)
    begins = window.start.video * bundle.bases.video.frame_step / time.fps
    late = float(window.start.audio / bundle.bases.audio.latents_per_second - begins)
    return times.replaced("audio", times.audio.shifted(late)) if late else times


def text_at(bundle: Bundle, prompt: str | Script, window: Window, time: ClipTime) -> str:
    """The text of ``prompt`` that holds in the middle of ``window``."""
    if isinstance(prompt, str):
        return prompt
    middle = window.start.video + window.length.video / 2
    return prompt.at(middle * bundle.bases.video.frame_step * time.frame_s)


def _text(bundle: Bundle, texts: list[str], time: ClipTime) -> AV[Any]:
    return bundle.bases.map(lambda base: base.conditioning(texts, time.duration_s))


def _of_length(shape: Sequence[int], length: int) -> tuple[int, ...]:
    """The latent shape (C, T, …) with another length along time."""
    return (shape[0], length, *shape[2:])

"""What a user calls: prompts in, sounding clips out; a sound for a video, a video for a sound, longer clips.

from kinetophone import Kinetophone

pipe = Kinetophone.from_pretrained("hits")
clip = pipe("a drumstick hits a metal bowl three times")[0]
clip.save("bowl.mp4")
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from kinetophone.av import AV, MODALITIES
from kinetophone.bundle import Bundle
from kinetophone.errors import RequestError
from kinetophone.joint.clocks import local_grids, snr_grids
from kinetophone.keep import (
    MEETING_S,
    Stretches,
    check_stretches,
    crossfaded,
    joined,
    kept_frames,
    kept_latents,
    mirrored,
    spliced,
)
from kinetophone.media.clip import Clip, fit_audio
from kinetophone.media.images import as_image
from kinetophone.media.mel import HOP
from kinetophone.media.read import (
    Picture,
    Sound,
    read_clip,
    read_picture,
    read_sound,
    resample_frames,
    resample_sound,
)
from kinetophone.media.timing import ClipTime
from kinetophone.progress import step_bar
from kinetophone.request import LONGEST_S, GenerateRequest, Script
from kinetophone.sampling.given import Given
from kinetophone.sampling.guidance import guided
from kinetophone.sampling.joint import Progress, initial_noise, sample_joint
from kinetophone.sampling.settings import SamplingOptions, Settings, check_names
from kinetophone.sampling.windows import Window, carried, plan_windows, whole, window_seed, windowed


class Kinetophone(Bundle):
    """Makes sounding clips: from a text, from a silent video, from a sound, from the beginning of a clip."""

    def __call__(
        self,
        prompt: str | Script | Sequence[str | Script],
        *,
        seconds: float | Fraction | None = None,
        fps: float | Fraction | None = None,
        seed: int = 0,
        progress: bool = False,
        callback: Callable[[Progress], None] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> list[Clip]:
        """Make one clip per prompt.

        Args:
            prompt: what is to be seen and heard, or several such.
            seconds: length; the bundle's own if not given. Clips longer than the model was trained for are
                made of overlapping windows.
            fps: frame rate; the bundle's own if not given.
            seed: of the first clip; clip i uses ``seed + i``, whatever the batch.
            progress: show a progress bar.
            callback: called after each step; what it raises ends the call.
            **options: see :class:`kinetophone.sampling.settings.SamplingOptions`.

        Returns:
            The clips, in the order of the prompts.

        Raises:
            RequestError: if something can't be done, before anything is computed.
            FloatingPointError: if a latent becomes non-finite; says at which step.
        """
        texts = (prompt,) if isinstance(prompt, str | Script) else tuple(prompt)
        time = self._checked(texts, seconds, fps, seed, options)
        settings = Settings.of(self.spec, options)
        clips: list[Clip] = []
        batch = settings.batch_size
        with step_bar(progress, settings.steps * -(-len(texts) // batch), callback) as advance:
            for start in range(0, len(texts), batch):
                part = texts[start : start + batch]
                seeds = [seed + start + i for i in range(len(part))]
                latents = self._sample(part, time, seeds, settings, advance)
                frames, sound = self._decoded(latents, time)
                clips += [
                    Clip(video=v, fps=time.fps, audio=a, sample_rate=time.sample_rate)
                    for v, a in zip(frames, sound, strict=True)
                ]
        return clips

    def stream(
        self,
        prompt: str | Script,
        *,
        seconds: float | Fraction,
        fps: float | Fraction | None = None,
        seed: int = 0,
        progress: bool = False,
        callback: Callable[[Progress], None] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Iterator[Clip]:
        """Make a long clip part by part, as its windows are done; memory does not grow with its length.

        Each window continues the second half of the one before, where a call of the pipeline fuses all of
        them in every step. So what is seen later never changes what was seen earlier.

        Args:
            prompt: what is to be seen and heard.
            seconds: length of the whole.
            fps: frame rate; the bundle's own if not given.
            seed: of the noise.
            progress: show a progress bar.
            callback: called after each step; what it raises ends the call.
            **options: see :class:`kinetophone.sampling.settings.SamplingOptions`.

        Yields:
            Parts that follow one another without a gap; together they last ``seconds``.

        Raises:
            RequestError: if something can't be done, before anything is computed.
        """
        time = self._checked((prompt,), seconds, fps, seed, options)
        settings = Settings.of(self.spec, options)
        windows = self._windows(time)
        one = replace(time, frames=windows[0].length.video)
        given: AV[Given | None] | None = None
        tail, done = np.empty(0, np.float32), 0
        with step_bar(progress, settings.steps * len(windows), callback) as advance:
            for k, window in enumerate(windows):
                text = _text_at(prompt, window, time)
                latents = self._sample((text,), one, [window_seed(seed, k)], settings, advance, given)
                made, sound = self._decoded(latents, one)
                upto = time.frames
                if k + 1 < len(windows):
                    following = windows[k + 1].start
                    given = latents.map(carried, following.map(operator.sub, window.start))
                    # The middle of what both windows have, where both know what lies on either side.
                    upto = (following.video + window.end.video) // 2
                first, length = window.start.video, time.sample_at(upto) - time.sample_at(done)
                heard = sound[0, time.sample_at(done) - time.sample_at(first) :]
                yield Clip(
                    video=made[0, done - first : upto - first],
                    fps=time.fps,
                    audio=crossfaded(tail, heard[:length]),
                    sample_rate=time.sample_rate,
                )
                tail, done = heard[length : length + round(MEETING_S * time.sample_rate)], upto

    def audio(
        self,
        prompt: str | Script,
        *,
        seconds: float | Fraction | None = None,
        seed: int = 0,
        progress: bool = False,
        callback: Callable[[Progress], None] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Sound:
        """Make a sound without a picture, by the audio base alone: none of the video networks computes.

        Args:
            prompt: what is to be heard.
            seconds: length; the bundle's own if not given.
            seed: of the noise.
            progress: show a progress bar.
            callback: called after each step; what it raises ends the call.
            **options: see :class:`kinetophone.sampling.settings.SamplingOptions`; those of the picture and of
                the coupling change nothing.

        Raises:
            RequestError: if something can't be done, before anything is computed.
        """
        time = self._checked((prompt,), seconds, None, seed, options)
        settings = replace(Settings.of(self.spec, options), coupled=False)
        windows = self._windows(time)
        shape = self.bases.video.latent_shape(whole(windows).video, self.spec.size)
        nothing = Given.all_of(torch.zeros(1, *shape))  # there is nothing left to sample of it
        with step_bar(progress, settings.steps, callback) as advance:
            latents = self._sample((prompt,), time, [seed], settings, advance, AV(audio=None, video=nothing))
        return Sound(self.bases.audio.decode(latents.audio, time.samples)[0], time.sample_rate)

    def sound(
        self,
        video: str | os.PathLike[str] | Picture | Clip,
        prompt: str | Script,
        *,
        seed: int = 0,
        progress: bool = False,
        callback: Callable[[Progress], None] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Clip:
        """Make the sound of a silent video, of any length, size and frame rate.

        The model sees the picture at its own rate and size (the middle of it, where the shape differs), clean
        from the first step to the last; only the sound is sampled.

        Args:
            video: a file, what ``read_picture`` gives, or a clip, whose own sound is not heard.
            prompt: what is to be heard.
            seed: of the noise.
            progress: show a progress bar.
            callback: called after each step; what it raises ends the call.
            **options: see :class:`kinetophone.sampling.settings.SamplingOptions`.

        Returns:
            The video's own frames, with sound exactly as long.

        Raises:
            MediaError: if the file can't be read.
            RequestError: if something else can't be done, before anything is computed.
        """
        self._checked((prompt,), None, None, seed, options)
        if isinstance(video, Clip):
            video = Picture(video.video, video.fps)
        picture = video if isinstance(video, Picture) else read_picture(video, longest_s=LONGEST_S)
        own = ClipTime(fps=picture.fps, frames=len(picture.frames), sample_rate=self.spec.sample_rate)
        side = (self.spec.size, self.spec.size)
        frames = resample_frames(picture.frames, own.fps, self.spec.fps, side)
        time = self._fitting(len(frames))
        windows = self._windows(time)
        settings = Settings.of(self.spec, options)
        given: AV[Given | None] = AV(audio=None, video=Given.all_of(self._encoded_frames(frames, windows)))
        with step_bar(progress, settings.steps, callback) as advance:
            latents = self._sample((prompt,), time, [seed], settings, advance, given)
        sound = self.bases.audio.decode(latents.audio, time.samples)[0]
        return Clip(
            video=picture.frames,
            fps=own.fps,
            audio=fit_audio(sound, own.samples),
            sample_rate=own.sample_rate,
        )

    def picture(
        self,
        sound: str | os.PathLike[str] | Sound | Clip,
        prompt: str | Script,
        *,
        seed: int = 0,
        progress: bool = False,
        callback: Callable[[Progress], None] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Clip:
        """Make the picture of a sound, of any length and sample rate.

        The sound enters clean from the first step to the last; only the picture is sampled.

        Args:
            sound: a file, what ``read_sound`` gives, or a clip, whose own picture is not seen.
            prompt: what is to be seen.
            seed: of the noise.
            progress: show a progress bar.
            callback: called after each step; what it raises ends the call.
            **options: see :class:`kinetophone.sampling.settings.SamplingOptions`.

        Returns:
            The sound as it was, but for silence up to the end of the last frame, with a picture.

        Raises:
            MediaError: if the file can't be read.
            RequestError: if something else can't be done, before anything is computed.
        """
        self._checked((prompt,), None, None, seed, options)
        if isinstance(sound, Clip):
            sound = Sound(sound.audio, sound.sample_rate)
        heard = sound if isinstance(sound, Sound) else read_sound(sound, longest_s=LONGEST_S)
        duration = Fraction(len(heard.waveform), heard.sample_rate)
        time = self._fitting(math.ceil(duration * self.spec.fps))
        windows = self._windows(time)
        settings = Settings.of(self.spec, options)
        waveform = resample_sound(heard.waveform, heard.sample_rate, time.sample_rate)
        given: AV[Given | None] = AV(audio=Given.all_of(self._encoded_sound(waveform, windows)), video=None)
        with step_bar(progress, settings.steps, callback) as advance:
            latents = self._sample((prompt,), time, [seed], settings, advance, given)
        own = ClipTime(fps=time.fps, frames=time.frames, sample_rate=heard.sample_rate)
        return Clip(
            video=self.bases.video.decode(latents.video)[0, : time.frames],
            fps=own.fps,
            audio=fit_audio(heard.waveform, own.samples),
            sample_rate=own.sample_rate,
        )

    def animate(
        self,
        image: Any,
        prompt: str | Script,
        *,
        seconds: float | Fraction | None = None,
        seed: int = 0,
        progress: bool = False,
        callback: Callable[[Progress], None] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Clip:
        """Make a sounding clip that begins with an image.

        Args:
            image: a file, a PIL image or an array (:func:`kinetophone.media.images.as_image`); its middle is
                brought to the model's size.
            prompt: what is to be seen and heard.
            seconds: length; the bundle's own if not given.
            seed: of the noise.
            progress: show a progress bar.
            callback: called after each step; what it raises ends the call.
            **options: see :class:`kinetophone.sampling.settings.SamplingOptions`.

        Returns:
            The clip; its first frame is the image.

        Raises:
            MediaError: if the file can't be read.
            RequestError: if something else can't be done, before anything is computed.
        """
        time = self._checked((prompt,), seconds, None, seed, options)
        frames = resample_frames(as_image(image)[None], time.fps, time.fps, (self.spec.size, self.spec.size))
        windows = self._windows(time)
        first = torch.arange(whole(windows).video) == 0
        given: AV[Given | None] = AV(audio=None, video=Given(self._encoded_frames(frames, windows), first))
        settings = Settings.of(self.spec, options)
        with step_bar(progress, settings.steps, callback) as advance:
            latents = self._sample((prompt,), time, [seed], settings, advance, given)
        made, sound = self._decoded(latents, time)
        video = joined(made[0], frames, first[: time.frames].numpy(), time.fps)
        return Clip(video=video, fps=time.fps, audio=sound[0], sample_rate=time.sample_rate)

    def extend(
        self,
        clip: str | os.PathLike[str] | Clip,
        prompt: str | Script,
        *,
        seconds: float | Fraction,
        keep: Stretches | AV[Stretches] | None = None,
        seed: int = 0,
        progress: bool = False,
        callback: Callable[[Progress], None] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Clip:
        """Continue a clip, or fill in what is not kept of it, picture and sound together.

        Args:
            clip: a file or a clip; it is brought to the model's frame rate, size and sample rate.
            prompt: what is to be seen and heard in the whole.
            seconds: length of the result, from the start of ``clip``.
            keep: stretches of ``clip`` to keep, (from, to) in seconds; all of it if not given. An ``AV``
                keeps other stretches of the picture than of the sound.
            seed: of the noise.
            progress: show a progress bar.
            callback: called after each step; what it raises ends the call.
            **options: see :class:`kinetophone.sampling.settings.SamplingOptions`.

        Returns:
            The clip of ``seconds``; its kept frames and samples are those given.

        Raises:
            MediaError: if the file can't be read.
            RequestError: if something else can't be done, before anything is computed.
        """
        time = self._checked((prompt,), seconds, None, seed, options)
        own = clip if isinstance(clip, Clip) else read_clip(clip, longest_s=LONGEST_S)
        stretches: AV[Stretches] = (
            keep if isinstance(keep, AV) else AV.both([(0.0, own.duration_s)] if keep is None else keep)
        )
        check_stretches(stretches, own.duration_s, time.duration_s)
        side = (self.spec.size, self.spec.size)
        frames = resample_frames(own.video, own.fps, time.fps, side)[: time.frames]
        waveform = resample_sound(own.audio, own.sample_rate, time.sample_rate)[: time.samples]
        windows = self._windows(time)
        total = whole(windows)
        settings = Settings.of(self.spec, options)
        kept = AV(
            audio=kept_latents(stretches.audio, total.audio, self.bases.audio.latents_per_second),
            video=kept_frames(stretches.video, total.video, time.fps),
        )
        seen = mirrored(waveform, stretches.audio, time.sample_rate, time.samples)
        given: AV[Given | None] = AV(
            audio=Given(self._encoded_sound(seen, windows), kept.audio),
            video=Given(self._encoded_frames(frames, windows), kept.video),
        )
        with step_bar(progress, settings.steps, callback) as advance:
            latents = self._sample((prompt,), time, [seed], settings, advance, given)
        made, sound = self._decoded(latents, time)
        video = joined(made[0], frames, kept.video[: time.frames].numpy(), time.fps)
        audio = spliced(sound[0], waveform, stretches.audio, time.sample_rate)
        return Clip(video=video, fps=time.fps, audio=audio, sample_rate=time.sample_rate)

    def _checked(
        self,
        prompts: tuple[str | Script, ...],
        seconds: float | Fraction | None,
        fps: float | Fraction | None,
        seed: int,
        options: SamplingOptions,
    ) -> ClipTime:
        check_names(options)
        numbers: dict[str, Any] = {
            k: v for k, v in options.items() if k not in ("negative_prompt", "coupled", "replacement")
        }
        return GenerateRequest(
            prompts=prompts, bundle=self.spec, seconds=seconds, fps=fps, seed=seed, **numbers
        ).validate()

    def _fitting(self, frames: int) -> ClipTime:
        """The time of a clip of ``frames`` frames at the bundle's rate, however short."""
        time = ClipTime(fps=self.spec.fps, frames=frames, sample_rate=self.spec.sample_rate)
        if time.duration_s > LONGEST_S:
            raise RequestError([f"it lasts {time.duration_s:g} s; at most {LONGEST_S} s can be done at once"])
        return time

    def _windows(self, time: ClipTime) -> list[Window]:
        one = replace(time, frames=self.spec.window(time.frames))
        window = AV(audio=self.bases.audio.latent_shape(one.samples)[1], video=one.frames)
        return plan_windows(time.frames, window, self.bases.audio.latents_per_second / time.fps)

    def _encoded_frames(self, frames: np.ndarray, windows: list[Window]) -> Tensor:
        """Latents of frames (T, H, W, 3), the last one held to the end of the windows."""
        missing = max(0, whole(windows).video - len(frames))
        frames = np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)])
        return self.bases.video.encode(torch.from_numpy(frames)[None])

    def _encoded_sound(self, waveform: np.ndarray, windows: list[Window]) -> Tensor:
        """Latents of a waveform (N,), silent from its end to the end of the windows."""
        length = whole(windows).audio
        padded = fit_audio(waveform, length * HOP * self.bases.audio.factor)
        return self.bases.audio.encode(torch.from_numpy(padded)[None])[:, :, :length]

    def _sample(
        self,
        prompts: Sequence[str | Script],
        time: ClipTime,
        seeds: Sequence[int],
        settings: Settings,
        callback: Callable[[Progress], None] | None,
        given: AV[Given | None] | None = None,
    ) -> AV[Tensor]:
        """Clean latents of one clip per prompt, up to the end of the windows that cover ``time``."""
        windows = self._windows(time)
        total = whole(windows)
        channels, _, bins = self.bases.audio.latent_shape(1)
        shapes: AV[Sequence[int]] = AV(
            audio=(channels, total.audio, bins),
            video=self.bases.video.latent_shape(total.video, self.spec.size),
        )
        if given is not None and settings.replacement:
            given = given.map(lambda track: None if track is None else replace(track, clean=False))
        complete = [m for m in MODALITIES if given and (g := getattr(given.swap(), m)) and g.complete]
        only = complete[0] if complete else None  # the modality whose other one is all there
        negative = self._text([settings.negative_prompt] * len(prompts))
        predicts = [
            guided(
                self.model,
                self._text([_text_at(prompt, window, time) for prompt in prompts]),
                negative,
                settings.guidance,
                sync=settings.sync,
                coupled=settings.coupled,
                only=only,
                rates=self.rates(time.fps),
            )
            for window in windows
        ]
        schedulers = self.bases.map(lambda base: base.scheduler)
        if settings.snr_offset is None:
            grids = local_grids(schedulers, settings.steps, settings.gamma, self.spec.sampling)
        else:
            grids = snr_grids(schedulers, settings.steps, settings.snr_offset)
        noise = initial_noise(shapes, seeds, device=self.device)
        leak: AV[Tensor | None] = self.leaks.map(
            lambda leak, known: None if leak is None else leak.draw(seeds, known), given or AV.both(None)
        )
        predict = windowed(windows, predicts)
        return sample_joint(predict, noise, grids, self.schedules, callback, given, leak, settings.stepper)

    def _decoded(self, latents: AV[Tensor], time: ClipTime) -> tuple[np.ndarray, np.ndarray]:
        """Frames (B, T, H, W, 3) and waveforms (B, N) of ``time``: what windows reached beyond it is cut."""
        return (
            self.bases.video.decode(latents.video[:, :, : time.frames]),
            self.bases.audio.decode(latents.audio, time.samples),
        )

    def _text(self, texts: list[str]) -> AV[Tensor]:
        return self.bases.map(lambda base: base.encode_prompt(texts))


def _text_at(prompt: str | Script, window: Window, time: ClipTime) -> str:
    """The text that holds in the middle of ``window``."""
    if isinstance(prompt, str):
        return prompt
    return prompt.at((window.start.video + window.length.video / 2) * time.frame_s)

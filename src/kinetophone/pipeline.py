"""The pipeline: audio-video clips from text, audio for a video, video for audio, and longer clips.

from kinetophone import Kinetophone

pipe = Kinetophone.from_pretrained("hits")
clip = pipe("a drumstick hits a metal bowl three times")[0]
clip.save("bowl.mp4")
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Unpack

import numpy as np
import torch

from kinetophone.av import AV
from kinetophone.bundle.load import Bundle
from kinetophone.diffusion.inpainting import Given
from kinetophone.diffusion.sample import Progress
from kinetophone.diffusion.settings import SamplingOptions
from kinetophone.diffusion.windows import carried, whole, window_seed
from kinetophone.errors import RequestError, UnknownWordsWarning, warn
from kinetophone.media.clip import Clip
from kinetophone.media.read import Audio, Video
from kinetophone.media.timing import ClipTime
from kinetophone.progress import check_bar_options, step_bar
from kinetophone.tasks import animate, extend, picture, sound
from kinetophone.tasks.common.keep import CROSSFADE_S, crossfaded
from kinetophone.tasks.common.sampling import decode, prepare_texts, sample, text_at, windows_of
from kinetophone.tasks.request import GenerateRequest, Script
from kinetophone.tasks.task import Stretches, Task, TaskInput, read_media

_MOST_WORDS = 10  # words listed in a warning


class Kinetophone(Bundle):
    """Generates clips with audio and video, from text or from one given modality.

    A call makes clips from prompts; :meth:`sound`, :meth:`picture`, :meth:`animate` and :meth:`extend` also
    take a video, audio, an image or a clip.

    Every call emits one :class:`kinetophone.errors.UnknownWordsWarning` if its prompts have words that the
    bundle's text encoders have not seen in training, as far as that is known.
    """

    _bar_config: Mapping[str, Any] = MappingProxyType({})

    def set_progress_bar_config(self, **kwargs: Any) -> None:
        """Set the options of progress bars for all further calls, as in diffusers.

        ``progress=True`` or ``progress=False`` of a call takes precedence over ``disable`` here. Without
        either, bars are shown only in a terminal or a notebook.

        Args:
            **kwargs: options of tqdm: ``disable``, ``desc``, ``leave``, ``file``, ``ncols``, …; they replace
                those of an earlier call.

        Raises:
            RequestError: tqdm has no such option.
        """
        check_bar_options(kwargs)
        self._bar_config = kwargs

    def __call__(
        self,
        prompt: str | Script | Sequence[str | Script],
        *,
        seconds: float | Fraction | None = None,
        fps: float | Fraction | None = None,
        seed: int | Sequence[int] = 0,
        progress: bool | None = None,
        callback: Callable[[Progress], None] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> list[Clip]:
        """Generate one clip per prompt.

        Args:
            prompt: one description of audio and video, or several.
            seconds: length; default: that of the bundle. Clips longer than the model was trained for are
                generated in overlapping windows.
            fps: frame rate; default: that of the bundle.
            seed: seed of the first clip, clip i uses ``seed + i`` for every batch size; or one for each.
            progress: whether to show a progress bar; see :meth:`set_progress_bar_config`.
            callback: called after each step; an exception from it ends the call.
            **options: see :class:`kinetophone.diffusion.settings.SamplingOptions`.

        Returns:
            The clips, in the order of the prompts.

        Raises:
            RequestError: an argument is invalid; raised before anything is computed.
            FloatingPointError: latents became infinite or NaN; names the step.
        """
        texts = (prompt,) if isinstance(prompt, str | Script) else tuple(prompt)
        seeds = list(seed) if isinstance(seed, Sequence) else [seed + i for i in range(len(texts))]
        if len(seeds) != len(texts):
            raise RequestError([f"there are {len(seeds)} seeds for {len(texts)} prompts; give one for each"])
        time = self._checked(texts, seconds, fps, min(seeds, default=0), options)
        settings = self.spec.settings(options)
        clips: list[Clip] = []
        batch = settings.batch_size
        prepare_texts(self, texts, time, settings)
        with self._bar(progress, settings.steps * -(-len(texts) // batch), callback) as advance:
            for start in range(0, len(texts), batch):
                part = texts[start : start + batch]
                latents = sample(self, part, time, seeds[start : start + batch], settings, advance)
                frames, audio = decode(self, latents, time)
                clips += [
                    Clip(video=v, fps=time.fps, audio=a, sample_rate=time.sample_rate)
                    for v, a in zip(frames, audio, strict=True)
                ]
        return clips

    def stream(
        self,
        prompt: str | Script,
        *,
        seconds: float | Fraction,
        fps: float | Fraction | None = None,
        seed: int = 0,
        progress: bool | None = None,
        callback: Callable[[Progress], None] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Iterator[Clip]:
        """Generate a long clip window by window; memory does not grow with its length.

        Each window continues the second half of the previous one. A call of the pipeline, by contrast, fuses
        all windows in every step.

        Args:
            prompt: a description of audio and video.
            seconds: total length.
            fps: frame rate; default: that of the bundle.
            seed: seed of the noise.
            progress: whether to show a progress bar; see :meth:`set_progress_bar_config`.
            callback: called after each step; an exception from it ends the call.
            **options: see :class:`kinetophone.diffusion.settings.SamplingOptions`.

        Yields:
            Consecutive parts without gaps; together they last ``seconds``.

        Raises:
            RequestError: an argument is invalid; raised before anything is computed.
        """
        time = self._checked((prompt,), seconds, fps, seed, options)
        settings = self.spec.settings(options)
        windows = windows_of(self, time)
        if len(windows) > 1 and self.bases.video.frame_step > 1:
            raise RequestError(
                ["stream needs a video base with one latent per frame; call the pipeline instead"]
            )
        one = time if len(windows) == 1 else replace(time, frames=windows[0].length.video)
        given: AV[Given | None] | None = None
        tail: np.ndarray | None = None
        done = 0
        with self._bar(progress, settings.steps * len(windows), callback) as advance:
            for k, window in enumerate(windows):
                text = text_at(self, prompt, window, time)
                latents = sample(self, (text,), one, [window_seed(seed, k)], settings, advance, given)
                made, audio = decode(self, latents, one)
                upto = time.frames
                if k + 1 < len(windows):
                    following = windows[k + 1].start
                    given = latents.map(carried, following.map(operator.sub, window.start))
                    # Cut in the middle of the overlap, where both windows have context on either side.
                    upto = (following.video + window.end.video) // 2
                first, length = window.start.video, time.sample_at(upto) - time.sample_at(done)
                samples = audio[0, time.sample_at(done) - time.sample_at(first) :]
                yield Clip(
                    video=made[0, done - first : upto - first],
                    fps=time.fps,
                    audio=samples[:length] if tail is None else crossfaded(tail, samples[:length]),
                    sample_rate=time.sample_rate,
                )
                tail, done = samples[length : length + round(CROSSFADE_S * time.sample_rate)], upto

    def audio(
        self,
        prompt: str | Script,
        *,
        seconds: float | Fraction | None = None,
        seed: int = 0,
        progress: bool | None = None,
        callback: Callable[[Progress], None] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Audio:
        """Generate audio without video, with the audio base alone; no video network runs.

        Args:
            prompt: a description of the audio.
            seconds: length; default: that of the bundle.
            seed: seed of the noise.
            progress: whether to show a progress bar; see :meth:`set_progress_bar_config`.
            callback: called after each step; an exception from it ends the call.
            **options: see :class:`kinetophone.diffusion.settings.SamplingOptions`; those for the video and
                for the coupling have no effect.

        Returns:
            An ``Audio`` at the bundle's sample rate.

        Raises:
            RequestError: an argument is invalid; raised before anything is computed.
        """
        time = self._checked((prompt,), seconds, None, seed, options)
        settings = replace(self.spec.settings(options), coupled=False)
        windows = windows_of(self, time)
        channels, _, *side = self.bases.video.latent_shape(1, self.spec.size)
        nothing = Given.all_of(
            torch.zeros(1, channels, whole(windows).video, *side)
        )  # there is nothing left to sample of it
        with self._bar(progress, settings.steps, callback) as advance:
            latents = sample(self, (prompt,), time, [seed], settings, advance, AV(None, nothing))
        return Audio(self.bases.audio.decode(latents.audio, time.samples)[0], time.sample_rate)

    def run(
        self,
        task: Task,
        prompt: str | Script,
        media: Any = None,
        *,
        seconds: float | Fraction | None = None,
        keep: Stretches | AV[Stretches] | None = None,
        seed: int = 0,
        progress: bool | None = None,
        callback: Callable[[Progress], None] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Clip:
        """Run a task; :meth:`sound`, :meth:`picture`, :meth:`animate` and :meth:`extend` call this.

        Args:
            task: from :func:`kinetophone.tasks.task.find_task`.
            prompt: a description of the result.
            media: the input, in any form that :func:`kinetophone.tasks.task.read_media` accepts.
            seconds: length, for tasks that let the caller choose it; default: that of the bundle.
            keep: intervals of the clip to keep, for tasks that support it.
            seed: seed of the noise.
            progress: whether to show a progress bar; see :meth:`set_progress_bar_config`.
            callback: called after each step; an exception from it ends the call.
            **options: see :class:`kinetophone.diffusion.settings.SamplingOptions`.

        Returns:
            The clip.

        Raises:
            MediaError: the file cannot be read.
            RequestError: another argument is invalid; raised before anything is computed.
        """
        if task.seconds == "required" and seconds is None:
            raise RequestError(["seconds is missing; give the length of the result"])
        time = self._checked((prompt,), seconds, None, seed, options)
        given = TaskInput(
            media=None if task.takes is None else read_media(task.takes, media), seconds=seconds, keep=keep
        )
        settings = self.spec.settings(options)
        plan = task.plan(self, time, given)
        with self._bar(progress, settings.steps, callback) as advance:
            return plan.finish(sample(self, (prompt,), plan.time, [seed], settings, advance, plan.given))

    def sound(
        self,
        video: str | os.PathLike[str] | Video | Clip,
        prompt: str | Script,
        *,
        seed: int = 0,
        progress: bool | None = None,
        callback: Callable[[Progress], None] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Clip:
        """Generate audio for a video of any length, size and frame rate.

        Args:
            video: a file, a result of ``read_video``, or a clip, whose own audio is ignored.
            prompt: a description of the audio.
            seed: see :meth:`run`, which also lists the errors.
            progress: see :meth:`run`.
            callback: see :meth:`run`.
            **options: see :meth:`run`.

        Returns:
            A ``Clip`` with the unchanged frames and generated audio of the same duration.
        """
        common: Any = {"seed": seed, "progress": progress, "callback": callback, **options}
        return self.run(sound.TASK, prompt, video, **common)

    def picture(
        self,
        audio: str | os.PathLike[str] | Audio | Clip,
        prompt: str | Script,
        *,
        seed: int = 0,
        progress: bool | None = None,
        callback: Callable[[Progress], None] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Clip:
        """Generate video for audio of any length and sample rate.

        Args:
            audio: a file, a result of ``read_audio``, or a clip, whose own frames are ignored.
            prompt: a description of the video.
            seed: see :meth:`run`, which also lists the errors.
            progress: see :meth:`run`.
            callback: see :meth:`run`.
            **options: see :meth:`run`.

        Returns:
            A ``Clip`` with generated frames and the unchanged audio, padded with silence to the end of the
            last frame.
        """
        common: Any = {"seed": seed, "progress": progress, "callback": callback, **options}
        return self.run(picture.TASK, prompt, audio, **common)

    def animate(
        self,
        image: Any,
        prompt: str | Script,
        *,
        seconds: float | Fraction | None = None,
        seed: int = 0,
        progress: bool | None = None,
        callback: Callable[[Progress], None] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Clip:
        """Generate a clip with audio and video that starts with a given image.

        Args:
            image: a file, a PIL image or an array (:func:`kinetophone.media.images.as_image`); it is
                center-cropped and resized to the model's size.
            prompt: a description of audio and video.
            seconds: length; default: that of the bundle.
            seed: see :meth:`run`, which also lists the errors.
            progress: see :meth:`run`.
            callback: see :meth:`run`.
            **options: see :meth:`run`.

        Returns:
            The clip; its first frame is the image.
        """
        common: Any = {"seed": seed, "progress": progress, "callback": callback, **options}
        return self.run(animate.TASK, prompt, image, seconds=seconds, **common)

    def extend(
        self,
        clip: str | os.PathLike[str] | Clip,
        prompt: str | Script,
        *,
        seconds: float | Fraction,
        keep: Stretches | AV[Stretches] | None = None,
        seed: int = 0,
        progress: bool | None = None,
        callback: Callable[[Progress], None] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Clip:
        """Continue a clip, or regenerate parts of it, audio and video together.

        Args:
            clip: a file or a clip; it is resampled to the model's frame rate, size and sample rate.
            prompt: a description of the entire result.
            seconds: length of the result, counted from the start of ``clip``.
            keep: intervals of ``clip`` to keep, (from, to) in seconds; default: the entire clip. An ``AV``
                keeps different intervals of audio and video.
            seed: see :meth:`run`, which also lists the errors.
            progress: see :meth:`run`.
            callback: see :meth:`run`.
            **options: see :meth:`run`.

        Returns:
            A clip of ``seconds``; the kept frames and samples are unchanged apart from resampling.
        """
        common: Any = {"seed": seed, "progress": progress, "callback": callback, **options}
        return self.run(extend.TASK, prompt, clip, seconds=seconds, keep=keep, **common)

    def _bar(
        self, progress: bool | None, total: int, callback: Callable[[Progress], None] | None
    ) -> AbstractContextManager[Callable[[Progress], None] | None]:
        return step_bar(progress, total, callback, self._bar_config)

    def _checked(
        self,
        prompts: tuple[str | Script, ...],
        seconds: float | Fraction | None,
        fps: float | Fraction | None,
        seed: int,
        options: SamplingOptions,
    ) -> ClipTime:
        time = GenerateRequest(
            prompts=prompts, bundle=self.spec, seconds=seconds, fps=fps, seed=seed, options=options
        ).validate()
        self._warn_of_unknown_words(prompts)
        return time

    def _warn_of_unknown_words(self, prompts: tuple[str | Script, ...]) -> None:
        texts = [
            text
            for prompt in dict.fromkeys(prompts)
            for text in ([prompt] if isinstance(prompt, str) else [text for _, text in prompt.lines])
        ]
        unknown: AV[list[str]] = self.bases.map(lambda base: base.unknown_words(texts))
        if words := list(dict.fromkeys(unknown.audio + unknown.video)):
            more = f" and {len(words) - _MOST_WORDS} more" if len(words) > _MOST_WORDS else ""
            listed = ", ".join(words[:_MOST_WORDS]) + more
            warn(
                UnknownWordsWarning(
                    f"bundle '{self.spec.name}' has never seen these words of the prompt: {listed}"
                )
            )

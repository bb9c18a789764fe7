"""What a user calls: prompts in, sounding clips out; a sound for a video, a video for a sound, longer clips.

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
from kinetophone.tasks.common.keep import MEETING_S, crossfaded
from kinetophone.tasks.common.sampling import decode, sample, text_at, windows_of
from kinetophone.tasks.request import GenerateRequest, Script
from kinetophone.tasks.task import Stretches, Task, TaskInput, read_media

_MOST_WORDS = 10  # that a warning lists


class Kinetophone(Bundle):
    """Makes sounding clips: from a text, from a silent video, from a sound, from the beginning of a clip.

    Every call warns once, with an :class:`kinetophone.errors.UnknownWordsWarning`, of words of its prompts
    that the bundle's text encoders are known never to have seen.
    """

    _bar_config: Mapping[str, Any] = MappingProxyType({})

    def set_progress_bar_config(self, **kwargs: Any) -> None:
        """Say how the progress bars of all further calls look, as of a pipeline of diffusers.

        Whether there is one: ``progress=True`` or ``progress=False`` of a call comes first, then ``disable``
        here; where neither is given, bars are shown at a terminal and in a notebook only.

        Args:
            **kwargs: options of tqdm's bars: ``disable``, ``desc``, ``leave``, ``file``, ``ncols``, …; those
                of an earlier call are forgotten.

        Raises:
            RequestError: if bars have no such option.
        """
        check_bar_options(kwargs)
        self._bar_config = kwargs

    def __call__(
        self,
        prompt: str | Script | Sequence[str | Script],
        *,
        seconds: float | Fraction | None = None,
        fps: float | Fraction | None = None,
        seed: int = 0,
        progress: bool | None = None,
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
            progress: whether a progress bar is shown; see :meth:`set_progress_bar_config`.
            callback: called after each step; what it raises ends the call.
            **options: see :class:`kinetophone.diffusion.settings.SamplingOptions`.

        Returns:
            The clips, in the order of the prompts.

        Raises:
            RequestError: if something can't be done, before anything is computed.
            FloatingPointError: if a latent becomes non-finite; says at which step.
        """
        texts = (prompt,) if isinstance(prompt, str | Script) else tuple(prompt)
        time = self._checked(texts, seconds, fps, seed, options)
        settings = self.spec.settings(options)
        clips: list[Clip] = []
        batch = settings.batch_size
        with self._bar(progress, settings.steps * -(-len(texts) // batch), callback) as advance:
            for start in range(0, len(texts), batch):
                part = texts[start : start + batch]
                seeds = [seed + start + i for i in range(len(part))]
                latents = sample(self, part, time, seeds, settings, advance)
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
        """Make a long clip part by part, as its windows are done; memory does not grow with its length.

        Each window continues the second half of the one before, where a call of the pipeline fuses all of
        them in every step. So what is seen later never changes what was seen earlier.

        Args:
            prompt: what is to be seen and heard.
            seconds: length of the whole.
            fps: frame rate; the bundle's own if not given.
            seed: of the noise.
            progress: whether a progress bar is shown; see :meth:`set_progress_bar_config`.
            callback: called after each step; what it raises ends the call.
            **options: see :class:`kinetophone.diffusion.settings.SamplingOptions`.

        Yields:
            Parts that follow one another without a gap; together they last ``seconds``.

        Raises:
            RequestError: if something can't be done, before anything is computed.
        """
        time = self._checked((prompt,), seconds, fps, seed, options)
        settings = self.spec.settings(options)
        windows = windows_of(self, time)
        one = replace(time, frames=windows[0].length.video)
        given: AV[Given | None] | None = None
        tail, done = np.empty(0, np.float32), 0
        with self._bar(progress, settings.steps * len(windows), callback) as advance:
            for k, window in enumerate(windows):
                text = text_at(prompt, window, time)
                latents = sample(self, (text,), one, [window_seed(seed, k)], settings, advance, given)
                made, audio = decode(self, latents, one)
                upto = time.frames
                if k + 1 < len(windows):
                    following = windows[k + 1].start
                    given = latents.map(carried, following.map(operator.sub, window.start))
                    # The middle of what both windows have, where both know what lies on either side.
                    upto = (following.video + window.end.video) // 2
                first, length = window.start.video, time.sample_at(upto) - time.sample_at(done)
                samples = audio[0, time.sample_at(done) - time.sample_at(first) :]
                yield Clip(
                    video=made[0, done - first : upto - first],
                    fps=time.fps,
                    audio=crossfaded(tail, samples[:length]),
                    sample_rate=time.sample_rate,
                )
                tail, done = samples[length : length + round(MEETING_S * time.sample_rate)], upto

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
        """Make a sound without a picture, by the audio base alone: none of the video networks computes.

        Args:
            prompt: what is to be heard.
            seconds: length; the bundle's own if not given.
            seed: of the noise.
            progress: whether a progress bar is shown; see :meth:`set_progress_bar_config`.
            callback: called after each step; what it raises ends the call.
            **options: see :class:`kinetophone.diffusion.settings.SamplingOptions`; those of the video and of
                the coupling change nothing.

        Raises:
            RequestError: if something can't be done, before anything is computed.
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
        """Do a task; :meth:`sound`, :meth:`picture`, :meth:`animate` and :meth:`extend` are this for theirs.

        Args:
            task: from :func:`kinetophone.tasks.task.find_task`.
            prompt: what is to be seen and heard.
            media: what it is made for, in any form that :func:`kinetophone.tasks.task.read_media` takes.
            seconds: length, for tasks that can be asked for one; the bundle's own if not given.
            keep: stretches of the clip to keep, for tasks that keep some.
            seed: of the noise.
            progress: whether a progress bar is shown; see :meth:`set_progress_bar_config`.
            callback: called after each step; what it raises ends the call.
            **options: see :class:`kinetophone.diffusion.settings.SamplingOptions`.

        Returns:
            The clip.

        Raises:
            MediaError: if the file can't be read.
            RequestError: if something else can't be done, before anything is computed.
        """
        if task.seconds == "required" and seconds is None:
            raise RequestError(["seconds is not given; say how long the result shall be"])
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
        """Make the sound of a silent video, of any length, size and frame rate.

        Args:
            video: a file, what ``read_video`` gives, or a clip, whose own audio is not heard.
            prompt: what is to be heard.
            seed, progress, callback, **options: see :meth:`run`, also for what it raises.

        Returns:
            A clip of the video's own frames, with audio exactly as long.
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
        """Make the picture of a sound, of any length and sample rate.

        Args:
            audio: a file, what ``read_audio`` gives, or a clip, whose own frames are not seen.
            prompt: what is to be seen.
            seed, progress, callback, **options: see :meth:`run`, also for what it raises.

        Returns:
            A clip of the audio as it was, but for silence up to the end of the last frame, with frames.
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
        """Make a sounding clip that begins with an image.

        Args:
            image: a file, a PIL image or an array (:func:`kinetophone.media.images.as_image`); its middle is
                brought to the model's size.
            prompt: what is to be seen and heard.
            seconds: length; the bundle's own if not given.
            seed, progress, callback, **options: see :meth:`run`, also for what it raises.

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
        """Continue a clip, or fill in what is not kept of it, video and audio together.

        Args:
            clip: a file or a clip; it is brought to the model's frame rate, size and sample rate.
            prompt: what is to be seen and heard in the whole.
            seconds: length of the result, from the start of ``clip``.
            keep: stretches of ``clip`` to keep, (from, to) in seconds; all of it if not given. An ``AV``
                keeps other stretches of the video than of the audio.
            seed, progress, callback, **options: see :meth:`run`, also for what it raises.

        Returns:
            The clip of ``seconds``; its kept frames and samples are those given.
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

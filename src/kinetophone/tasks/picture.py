"""Task "picture": the video is sampled for given audio, which is clean in every step."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

from kinetophone.av import AV
from kinetophone.tasks.task import Plan, Task, TaskInput

if TYPE_CHECKING:
    from torch import Tensor

    from kinetophone.bundle.load import Bundle
    from kinetophone.diffusion.inpainting import Given
    from kinetophone.media.clip import Clip
    from kinetophone.media.timing import ClipTime


def plan(bundle: Bundle, time: ClipTime, given: TaskInput) -> Plan:
    """Fix all audio latents; the result has the original audio, not a decoded one."""
    from kinetophone.diffusion.inpainting import Given
    from kinetophone.media.clip import Clip, as_channels, fit_audio
    from kinetophone.media.read import resample_audio
    from kinetophone.media.timing import ClipTime
    from kinetophone.tasks.common.sampling import encode_waveform, fitting_time, windows_of

    audio = given.media
    duration = Fraction(len(audio.waveform), audio.sample_rate)
    made = fitting_time(bundle, math.ceil(duration * bundle.spec.fps))
    heard = as_channels(audio.waveform, bundle.bases.audio.channels)
    waveform = resample_audio(heard, audio.sample_rate, made.sample_rate)
    known: AV[Given | None] = AV(
        audio=Given.all_of(encode_waveform(bundle, waveform, windows_of(bundle, made))), video=None
    )
    own = ClipTime(fps=made.fps, frames=made.frames, sample_rate=audio.sample_rate)

    def finish(latents: AV[Tensor]) -> Clip:
        return Clip(
            video=bundle.bases.video.decode(latents.video)[0, : made.frames],
            fps=own.fps,
            audio=fit_audio(audio.waveform, own.samples),
            sample_rate=own.sample_rate,
            layout=audio.layout,
        )

    return Plan(time=made, given=known, finish=finish)


def _of_truth(clip: Clip) -> TaskInput:
    from kinetophone.media.read import Audio

    return TaskInput(media=Audio(clip.audio, clip.sample_rate, layout=clip.layout))


TASK = Task(
    name="picture",
    title="Video for audio",
    help="Make the video for audio of any length and sample rate; the audio is kept.",
    plan=plan,
    takes="audio",
    takes_help="An audio file, or any file with an audio track.",
    clocks=False,
    of_truth=_of_truth,
    given_modality="audio",
)

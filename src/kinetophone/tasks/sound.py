"""Task "sound": the audio is sampled for a given video.

The video is resampled to the model's frame rate and size, center-cropped if the shape differs. It is clean in
every step.
"""

from __future__ import annotations

from dataclasses import replace
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
    """Fix all video latents; the result has the original frames, not decoded ones."""
    from kinetophone.diffusion.inpainting import Given
    from kinetophone.media.clip import Clip, fit_audio
    from kinetophone.media.read import resample_frames
    from kinetophone.media.timing import ClipTime
    from kinetophone.tasks.common.sampling import encode_frames, windows_of

    video, spec = given.media, bundle.spec
    own = ClipTime(fps=video.fps, frames=len(video.frames), sample_rate=spec.sample_rate)
    frames = resample_frames(video.frames, own.fps, spec.fps, (spec.size, spec.size))
    made = replace(own, fps=spec.fps, frames=len(frames))  # of any length: the frames are small
    known: AV[Given | None] = AV(
        audio=None, video=Given.all_of(encode_frames(bundle, frames, windows_of(bundle, made)))
    )

    def finish(latents: AV[Tensor]) -> Clip:
        audio = bundle.bases.audio.decode(latents.audio, made.samples)[0]
        return Clip(
            video=video.frames,
            fps=own.fps,
            audio=fit_audio(audio, own.samples),
            sample_rate=own.sample_rate,
        )

    return Plan(time=made, given=known, finish=finish)


def _of_truth(clip: Clip) -> TaskInput:
    from kinetophone.media.read import Video

    return TaskInput(media=Video(clip.video, clip.time.fps))


TASK = Task(
    name="sound",
    title="Audio for a video",
    help="Make the audio for a video of any length, size and frame rate.",
    plan=plan,
    takes="video",
    takes_help="A video; its own audio, if any, is ignored.",
    clocks=False,
    of_truth=_of_truth,
    given_modality="video",
)

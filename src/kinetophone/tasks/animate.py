"""Task "animate": the first frame is given; all other frames and the audio are sampled."""

from __future__ import annotations

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
    """Fix the first video latent; the image is center-cropped and resized to the model's size."""
    import numpy as np
    import torch

    from kinetophone.diffusion.inpainting import Given
    from kinetophone.diffusion.windows import whole
    from kinetophone.media.clip import Clip
    from kinetophone.media.read import resample_frames
    from kinetophone.tasks.common.keep import joined
    from kinetophone.tasks.common.sampling import decode, encode_frames, windows_of

    side = (bundle.spec.size, bundle.spec.size)
    frames = resample_frames(given.media[None], time.fps, time.fps, side)
    windows = windows_of(bundle, time)
    first = torch.arange(whole(windows).video) == 0
    known: AV[Given | None] = AV(audio=None, video=Given(encode_frames(bundle, frames, windows), first))

    def finish(latents: AV[Tensor]) -> Clip:
        made, audio = decode(bundle, latents, time)
        video = joined(made[0], frames, np.arange(time.frames) == 0, time.fps)
        return Clip(video=video, fps=time.fps, audio=audio[0], sample_rate=time.sample_rate)

    return Plan(time=time, given=known, finish=finish)


TASK = Task(
    name="animate",
    title="Animate an image",
    help="Make a clip with audio and video that starts with an image.",
    plan=plan,
    takes="image",
    takes_help="An image, or a video whose first frame is used.",
    seconds="optional",
    of_truth=lambda clip: TaskInput(media=clip.video[0]),
)

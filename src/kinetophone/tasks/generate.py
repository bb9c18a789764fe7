"""Task "generate": both modalities are sampled from a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kinetophone.tasks.task import Plan, Task, TaskInput

if TYPE_CHECKING:
    from torch import Tensor

    from kinetophone.av import AV
    from kinetophone.bundle.load import Bundle
    from kinetophone.media.clip import Clip
    from kinetophone.media.timing import ClipTime


def plan(bundle: Bundle, time: ClipTime, given: TaskInput) -> Plan:
    """Sample everything; no latents are fixed."""
    from kinetophone.media.clip import Clip
    from kinetophone.tasks.common.sampling import decode

    def finish(latents: AV[Tensor]) -> Clip:
        frames, audio = decode(bundle, latents, time)
        return Clip(video=frames[0], fps=time.fps, audio=audio[0], sample_rate=time.sample_rate)

    return Plan(time=time, given=None, finish=finish)


TASK = Task(
    name="generate",
    title="Generate",
    help="Make clips with audio and video from a text.",
    plan=plan,
    seconds="optional",
    of_truth=lambda clip: TaskInput(),
)

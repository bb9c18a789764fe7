"""Task "extend": intervals of a clip are kept; the rest of both modalities is sampled."""

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
    from kinetophone.tasks.task import Stretches

KEPT_S = 1.5  # seconds kept of a ground-truth clip in evaluation; the rest is scored


def plan(bundle: Bundle, time: ClipTime, given: TaskInput) -> Plan:
    """Fix the latents of the kept intervals; their frames and samples are copied from the clip."""
    from kinetophone.diffusion.inpainting import Given
    from kinetophone.diffusion.windows import whole
    from kinetophone.media.clip import Clip, as_channels
    from kinetophone.media.read import resample_audio, resample_frames
    from kinetophone.tasks.common.keep import (
        check_stretches,
        joined,
        kept_frames,
        kept_latents,
        mirrored,
        spliced,
        whole_latents,
    )
    from kinetophone.tasks.common.sampling import decode, encode_frames, encode_waveform, windows_of

    own, keep = given.media, given.keep
    stretches: AV[Stretches] = (
        keep if isinstance(keep, AV) else AV.both([(0.0, own.duration_s)] if keep is None else keep)
    )
    check_stretches(stretches, own.duration_s, time.duration_s)
    side = (bundle.spec.size, bundle.spec.size)
    frames = resample_frames(own.video, own.time.fps, time.fps, side)[: time.frames]
    waveform = resample_audio(own.audio, own.sample_rate, time.sample_rate)[: time.samples]
    windows = windows_of(bundle, time)
    total = whole(windows)
    video_base = bundle.bases.video
    seen_frames = kept_frames(stretches.video, video_base.frame_length(total.video), time.fps)
    kept = AV(
        audio=kept_latents(stretches.audio, total.audio, bundle.bases.audio.latents_per_second),
        video=whole_latents(seen_frames, video_base.latent_times(total.video, time.fps), time.fps),
    )
    heard = as_channels(waveform, bundle.bases.audio.channels)
    seen = mirrored(heard, stretches.audio, time.sample_rate, time.samples)
    known: AV[Given | None] = AV(
        audio=Given(encode_waveform(bundle, seen, windows), kept.audio),
        video=Given(encode_frames(bundle, frames, windows), kept.video),
    )

    def finish(latents: AV[Tensor]) -> Clip:
        made, audio = decode(bundle, latents, time)
        video = joined(made[0], frames, seen_frames[: time.frames].numpy(), time.fps)
        whole_audio = spliced(audio[0], waveform, stretches.audio, time.sample_rate)
        return Clip(
            video=video,
            fps=time.fps,
            audio=whole_audio,
            sample_rate=time.sample_rate,
            layout=own.layout,
        )

    return Plan(time=time, given=known, finish=finish)


TASK = Task(
    name="extend",
    title="Extend",
    help="Continue a clip, or regenerate parts of it, audio and video together.",
    plan=plan,
    takes="clip",
    takes_help="A clip with audio and video.",
    seconds="required",
    keeps=True,
    of_truth=lambda clip: TaskInput(media=clip, seconds=clip.duration_s, keep=[(0, KEPT_S)]),
    scored_from_s=KEPT_S,
)

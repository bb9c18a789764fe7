"""How clips are sampled, apart from what they show: the options of every call, and a bundle's own values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict, get_args

from kinetophone.av import AV
from kinetophone.errors import RequestError

if TYPE_CHECKING:
    from kinetophone.request import BundleSpec


Stepper = Literal["ddim", "dpmpp_2m"]
STEPPER_NAMES: tuple[Stepper, ...] = get_args(Stepper)


class SamplingOptions(TypedDict, total=False):
    """What a call may set; the bundle's own value holds for what it does not.

    Attributes:
        steps: Denoising steps, 1 to 1000.
        stepper: How a step is made of the estimate: "ddim", or "dpmpp_2m", of second order, which needs fewer
            steps; see :mod:`kinetophone.sampling.steppers`.
        gamma: Timestep adjustment γ > 0; above 1 the picture is denoised ahead of the sound. "auto" is the
            bundle's own, from ``kinetophone gamma``.
        snr_offset: Instead of gamma: how much the picture's log SNR lies above the sound's at every step.
        guidance_audio: Classifier-free guidance scale of the sound; 1 is none.
        guidance_video: The same of the picture.
        guidance_sync: Cross-modal guidance scale, of both or of each; 1 is none, above 1 a modality follows
            the other more closely.
        negative_prompt: What guidance leads away from.
        batch_size: Clips denoised at once, which costs memory and changes nothing else.
        coupled: False samples each base by itself, without the connectors: for comparison.
        replacement: True noises a given track to the clock's level in each step, as for a model that was
            never trained with a clean one: for comparison.
    """

    steps: int
    stepper: Stepper
    gamma: float | Literal["auto"]
    snr_offset: float
    guidance_audio: float
    guidance_video: float
    guidance_sync: float | AV[float]
    negative_prompt: str
    batch_size: int
    coupled: bool
    replacement: bool


@dataclass(frozen=True, slots=True)
class Settings:
    """A value for every option."""

    steps: int
    stepper: Stepper
    gamma: float
    snr_offset: float | None
    guidance: AV[float]
    sync: AV[float]
    negative_prompt: str
    batch_size: int
    coupled: bool
    replacement: bool

    @classmethod
    def of(cls, spec: BundleSpec, options: SamplingOptions) -> Settings:
        """``options``, the rest from ``spec``."""
        values = {**spec.defaults, **{k: v for k, v in options.items() if v is not None}}
        return cls(
            steps=int(values["steps"]),
            stepper=values.get("stepper", "ddim"),
            gamma=spec.gamma(values["gamma"]),
            snr_offset=values.get("snr_offset"),
            guidance=AV(audio=float(values["guidance_audio"]), video=float(values["guidance_video"])),
            sync=_of_each(values["guidance_sync"]),
            negative_prompt=values["negative_prompt"],
            batch_size=int(values["batch_size"]),
            coupled=bool(values.get("coupled", True)),
            replacement=bool(values.get("replacement", False)),
        )


# What pipelines of diffusers call it, and what to write here.
_ELSEWHERE = {
    "num_inference_steps": "steps",
    "guidance_scale": "guidance_audio and guidance_video, one of each modality",
    "generator": "seed, a number",
    "num_videos_per_prompt": "a list of prompts, one for each clip",
    "num_waveforms_per_prompt": "a list of prompts, one for each clip",
    "num_frames": "seconds",
    "audio_length_in_s": "seconds",
    "audio_end_in_s": "seconds",
    "frame_rate": "fps",
    "scheduler": "stepper",
    "callback_on_step_end": "callback",
    "height": "nothing: the bundle has one size",
    "width": "nothing: the bundle has one size",
    "output_type": "nothing: the clip has arrays, and frames for PIL images",
    "return_dict": "nothing: a list of clips is returned",
}


def check_names(options: Mapping[str, object]) -> None:
    """Refuse options that there are not, each with what to write instead where that is known.

    Raises:
        RequestError: Some are not those of :class:`SamplingOptions`.
    """
    unknown = [name for name in options if name not in SamplingOptions.__annotations__]
    known = ", ".join(SamplingOptions.__annotations__)
    problems = [
        f"there is no option {name}; write {_ELSEWHERE[name]}"
        if name in _ELSEWHERE
        else f"there is no option {name}; there are {known}"
        for name in unknown
    ]
    if problems:
        raise RequestError(problems)


def _of_each(scale: float | AV[float] | dict[str, float]) -> AV[float]:
    """One scale for both, or one of each, which a bundle's description holds as a dictionary."""
    if isinstance(scale, dict):
        scale = AV(**scale)
    return scale.map(float) if isinstance(scale, AV) else AV.both(float(scale))

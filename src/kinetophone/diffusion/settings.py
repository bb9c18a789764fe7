"""Sampling options and their validation.

This module does not import torch, so that options are checked before anything heavy is imported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

from kinetophone.av import AV

Stepper = Literal["ddim", "dpmpp_2m", "unipc"]
STEPPER_NAMES: tuple[Stepper, ...] = get_args(Stepper)

Clock = Literal["h3", "equal-shifts"]
CLOCKS: dict[str, float] = {"h3": 2 * math.log(3 / 12), "equal-shifts": 0.0}
"""Clocks of published joint models, as offsets of log SNR (video minus audio) in every step.

A flow model with the shift s has the log SNR -2·ln(s) - 2·logit(u) at the position u of its schedule. So two
shifts on one schedule are the offset 2·ln(s_audio / s_video).

- "h3", -2.77: MiniMax-H3 (August 2026) has the shift 12 on the video and 3 on the audio.
- "equal-shifts", 0: one shift for both, as in Ovi, and in MOVA by default (5 and 5).
"""

MOST_STEPS = 1000  # number of training timesteps of the published bases
_MOST_GUIDANCE = 1000
_MOST_GAMMA = 1000
_MOST_BATCH = 10_000

# Settings of the published experiments (arXiv 2409.17550), for pairs of bases without their own defaults.
PUBLISHED_DEFAULTS: dict[str, Any] = {
    "steps": 50,
    "stepper": "ddim",
    "gamma": 1.5,
    "guidance": {"audio": 2.5, "video": 7.5},
    "guidance_sync": 1.0,
    "sync_from": 0.0,
    "negative_prompt": "bad quality, worse quality",
    "batch_size": 1,
}


class SamplingOptions(TypedDict, total=False):
    """Sampling options of a call; the bundle's defaults apply to the rest.

    Attributes:
        steps: Denoising steps, 1 to 1000.
        stepper: "ddim", or "dpmpp_2m" or "unipc", solvers of higher order that need fewer steps; see
            :mod:`kinetophone.diffusion.steppers`.
        gamma: Timestep adjustment γ > 0; above 1, the video is denoised ahead of the audio. "auto" is the
            bundle's own value, from ``kinetophone gamma``.
        snr_offset: Instead of gamma: log SNR of the video minus that of the audio, in every step.
        clock: Instead of gamma: the clock of a published joint model, "h3" or "equal-shifts"; see
            :data:`CLOCKS`.
        clock_table: Instead of gamma: pairs of noise levels (audio, video) from (1, 1) to (0, 0), evenly
            spaced in the global clock.
        guidance: Classifier-free guidance scale, one number for both modalities or an ``AV`` with one for
            each; 1 disables it.
        guidance_sync: Cross-modal guidance scale, for both or for each; 1 disables it. Above 1, a modality
            follows the other more closely.
        sync_from: Noise level, 0 to 1, below which cross-modal guidance is off.
        negative_prompt: Text that guidance steers away from.
        batch_size: Clips denoised at once; affects memory only.
        coupled: False samples each base on its own, without the coupling; for comparison.
        replacement: True noises a given track to the level of each step instead of keeping it clean; for
            comparison with models that were not trained with clean tracks.
    """

    steps: int
    stepper: Stepper
    gamma: float | Literal["auto"]
    snr_offset: float
    clock: Clock
    clock_table: Sequence[tuple[float, float]]
    guidance: float | AV[float]
    guidance_sync: float | AV[float]
    sync_from: float
    negative_prompt: str
    batch_size: int
    coupled: bool
    replacement: bool


@dataclass(frozen=True, slots=True)
class Settings:
    """Values of all sampling options; ``gamma`` is a number, and a named clock is its ``snr_offset``."""

    steps: int
    stepper: Stepper
    gamma: float
    snr_offset: float | None
    clock_table: Sequence[tuple[float, float]] | None
    guidance: AV[float]
    guidance_sync: AV[float]
    sync_from: float
    negative_prompt: str
    batch_size: int
    coupled: bool
    replacement: bool

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Settings:
        """Settings from options; those in ``PUBLISHED_DEFAULTS`` are required."""
        return cls(
            steps=int(options["steps"]),
            stepper=options["stepper"],
            gamma=float(options["gamma"]),
            snr_offset=CLOCKS[clock] if (clock := options.get("clock")) else options.get("snr_offset"),
            clock_table=options.get("clock_table"),
            guidance=each(options["guidance"]),
            guidance_sync=each(options["guidance_sync"]),
            sync_from=float(options["sync_from"]),
            negative_prompt=options["negative_prompt"],
            batch_size=int(options["batch_size"]),
            coupled=bool(options.get("coupled", True)),
            replacement=bool(options.get("replacement", False)),
        )


# Option names of other pipelines, and their equivalents here.
_ELSEWHERE = {
    "num_inference_steps": "use steps",
    "guidance_scale": "use guidance, a number or AV(audio=…, video=…)",
    "guidance_audio": "use guidance=AV(audio=…, video=…)",
    "guidance_video": "use guidance=AV(audio=…, video=…)",
    "generator": "use seed, a number",
    "num_videos_per_prompt": "use a list of prompts, one for each clip",
    "num_waveforms_per_prompt": "use a list of prompts, one for each clip",
    "num_frames": "use seconds",
    "audio_length_in_s": "use seconds",
    "audio_end_in_s": "use seconds",
    "frame_rate": "use fps",
    "scheduler": "use stepper",
    "callback_on_step_end": "use callback",
    "height": "omit it: the bundle has one size",
    "width": "omit it: the bundle has one size",
    "output_type": "omit it: the clip has arrays, and frames for PIL images",
    "return_dict": "omit it: a list of clips is returned",
}


def option_problems(options: Mapping[str, Any]) -> list[str]:
    """Problems with sampling options, one line each; options may be missing or None."""
    known = ", ".join(SamplingOptions.__annotations__)
    problems = [
        f"there is no option {name}; {_ELSEWHERE[name]}"
        if name in _ELSEWHERE
        else f"there is no option {name}; choose from {known}"
        for name in options
        if name not in SamplingOptions.__annotations__
    ]
    given = {name: value for name, value in options.items() if value is not None}
    steps, gamma, offset = given.get("steps"), given.get("gamma"), given.get("snr_offset")
    if steps is not None and not 1 <= steps <= MOST_STEPS:
        problems.append(f"steps is {steps}; it must be 1 to {MOST_STEPS}")
    if given.get("stepper", "ddim") not in STEPPER_NAMES:
        problems.append(f"stepper is '{given['stepper']}'; it must be {' or '.join(STEPPER_NAMES)}")
    if isinstance(gamma, str) and gamma != "auto":
        problems.append(f"gamma is '{gamma}'; it must be a number above 0, or auto")
    elif not (gamma is None or gamma == "auto" or 1 / _MOST_GAMMA <= gamma <= _MOST_GAMMA):
        problems.append(
            f"gamma is {gamma:g}; it must be above 0 (1 keeps both clocks equal), "
            f"{1 / _MOST_GAMMA:g} to {_MOST_GAMMA}"
        )
    if offset is not None and not math.isfinite(offset):
        problems.append(f"snr-offset is {offset:g}; it must be finite (0 gives both the same SNR)")
    if given.get("clock", "h3") not in CLOCKS:
        problems.append(f"clock is '{given['clock']}'; it must be {' or '.join(CLOCKS)}")
    clocks = [name for name in ("gamma", "snr_offset", "clock", "clock_table") if name in given]
    if len(clocks) > 1:
        problems.append(f"give {' or '.join(clocks).replace('_', '-')}, not both")
    if not 0 <= given.get("sync_from", 0) <= 1:
        problems.append(f"sync-from is {given['sync_from']:g}; it must be a noise level, 0 to 1")
    for name in ("guidance", "guidance_sync"):
        scale = given.get(name, 1)
        if isinstance(scale, dict) and scale.keys() != {"audio", "video"}:
            problems.append(f"{name} must be a number, or one for audio and one for video")
            continue
        pair = each(scale)
        problems += [
            f"{name.replace('_', '-')} is {value:g}; it must be at least 0, at most {_MOST_GUIDANCE} "
            "(1 leaves the prediction as it is)"
            for value in dict.fromkeys((pair.audio, pair.video))
            if not 0 <= value <= _MOST_GUIDANCE
        ]
    batch = given.get("batch_size")
    if batch is not None and not 1 <= batch <= _MOST_BATCH:
        problems.append(f"batch-size is {batch}; it must be at least 1, at most {_MOST_BATCH}")
    if not isinstance(given.get("negative_prompt", ""), str):
        problems.append("negative_prompt must be a text")
    return problems


def default_problems(settings: Mapping[str, Any]) -> list[str]:
    """Problems with the ``defaults`` of a bundle, one line each; options may be missing."""
    names = ", ".join(PUBLISHED_DEFAULTS)
    problems = [f"'{key}' is not one of {names}" for key in settings if key not in PUBLISHED_DEFAULTS]
    known = {key: value for key, value in settings.items() if key in PUBLISHED_DEFAULTS}
    try:
        return problems + option_problems(known)
    except (TypeError, ValueError):
        return [*problems, "steps, gamma, guidance scales and batch_size must be numbers"]


def renamed(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """``defaults`` of a bundle with current names; older bundles have one guidance key per modality."""
    new = dict(defaults)
    old = {name: new.pop(f"guidance_{name}") for name in ("audio", "video") if f"guidance_{name}" in new}
    if old:
        new["guidance"] = {**PUBLISHED_DEFAULTS["guidance"], **old}
    return new


def each(scale: Any) -> AV[float]:
    """Convert a scale to an ``AV``: one number for both, an ``AV``, or a mapping from JSON or YAML."""
    if isinstance(scale, Mapping):
        scale = AV(**scale)
    return scale.map(float) if isinstance(scale, AV) else AV.both(float(scale))

"""Each base alone, sampled by our sampler, equals diffusers' own pipeline for it."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AnimateDiffPipeline,
    AudioLDMPipeline,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    MotionAdapter,
    StableAudioPipeline,
    UniPCMultistepScheduler,
    WanPipeline,
)
from torch import Tensor

from kinetophone.av import AV
from kinetophone.bases.load import load_audio_base, load_video_base
from kinetophone.diffusion.process import Discrete, Flow
from kinetophone.diffusion.sample import sample_joint
from kinetophone.diffusion.settings import Stepper

PROMPT, NEGATIVE = "a drumstick hits metal", "bad quality"
# DDIM of diffusers finds the previous timestep by subtraction: right where the steps divide 1000.
STEPS, GUIDANCE, FRAMES, SIZE = 5, 3.0, 9, 32
OPTIONS: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
PUBLISHED: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def alone(
    denoiser: Any,
    text: Any,
    nothing: Any,
    noise: Tensor,
    levels: Tensor,
    process: Any = None,
    stepper: Stepper = "ddim",
) -> Tensor:
    """What the joint sampler makes with one base; the audio latents are empty."""

    @torch.no_grad()
    def predict(latents: AV[Tensor], at: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Tensor]:
        level = torch.as_tensor(at.video, dtype=torch.float64).reshape(-1).expand(len(noise))
        with_text, without = (denoiser(latents.video, level, given) for given in (text, nothing))
        return AV(audio=latents.audio, video=without + GUIDANCE * (with_text - without))

    path = AV.both(levels)
    processes = AV(audio=Flow(), video=process or denoiser.process)
    noises = AV(audio=torch.zeros(1, 1, 1, 1), video=noise)
    return sample_joint(predict, noises, path, processes, stepper=stepper).video


def close(ours: Tensor | np.ndarray, theirs: Tensor | np.ndarray) -> float:
    ours, theirs = torch.as_tensor(ours), torch.as_tensor(theirs)
    return float((ours - theirs).norm() / theirs.norm())


class WholeTimes(Flow):
    """A flow whose network is told whole timesteps, as by the schedulers of diffusers of higher order."""

    def network_time(self, level: Tensor) -> Tensor:
        return super().network_time(level).floor()


FLOW: dict[str, Any] = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}


@pytest.mark.parametrize(
    ("scheduler", "stepper"),
    [
        (FlowMatchEulerDiscreteScheduler(shift=3.0), "ddim"),
        (DPMSolverMultistepScheduler(**FLOW), "dpmpp_2m"),
        (UniPCMultistepScheduler(**FLOW), "unipc"),  # what the folders of Wan name
    ],
    ids=["euler", "dpmpp_2m", "unipc"],
)
def test_equal_to_wan_pipeline(
    models: Path, monkeypatch: pytest.MonkeyPatch, scheduler: Any, stepper: Stepper
) -> None:
    # Older diffusers clean prompts with ftfy without asking whether it is installed.
    as_it_is = SimpleNamespace(fix_text=lambda text: text)
    monkeypatch.setattr("diffusers.pipelines.wan.pipeline_wan.ftfy", as_it_is, raising=False)
    base = load_video_base(models / "wan")
    pipe = WanPipeline(base.tokenizer, base.text_encoder, base.vae, scheduler, base.transformer)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, *base.latent_shape(FRAMES, SIZE), generator=torch.Generator().manual_seed(3))
    text, nothing = (base.encode_prompt([said]) for said in (PROMPT, NEGATIVE))
    theirs_text, theirs_nothing = pipe.encode_prompt(PROMPT, NEGATIVE, max_sequence_length=text.shape[1])
    assert torch.allclose(text, theirs_text, atol=1e-6)
    assert torch.allclose(nothing, theirs_nothing, atol=1e-6)
    theirs = [
        pipe(
            prompt_embeds=text,
            negative_prompt_embeds=nothing,
            height=SIZE,
            width=SIZE,
            num_frames=FRAMES,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            latents=noise,
            output_type=kind,
        ).frames
        for kind in ("latent", "np")
    ]
    denoiser = base.denoiser()
    # The grid is the scheduler's, as levels of the process: its network time is 1000 times its sigma.
    levels = levels_of(denoiser.process, pipe.scheduler.sigmas[:-1].double())
    if not pipe.scheduler.timesteps.is_floating_point():
        denoiser.process = WholeTimes(shift=3.0)
        assert denoiser.process.network_time(levels).tolist() == pipe.scheduler.timesteps.tolist()
    ours = alone(denoiser, text, nothing, noise, levels, stepper=stepper)
    assert close(ours, theirs[0]) < 1e-4
    pixels = base.decode(ours).astype(np.float32) / 255
    assert np.abs(pixels - theirs[1]).max() <= 0.5 / 255 + 1e-4


def levels_of(process: Any, sigmas: Tensor) -> Tensor:
    """The levels at which a flow's network is told these times, by bisection."""
    low, high = torch.zeros_like(sigmas), torch.ones_like(sigmas)
    for _ in range(60):
        middle = (low + high) / 2
        above = process.network_time(middle).double() / 1000 > sigmas
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return high


class Deterministic(EDMDPMSolverMultistepScheduler):
    """Stable Audio's solver without its noise: EDM's, which tells the network the noise as that one does."""

    def precondition_noise(self, sigma: Tensor | float) -> Tensor:
        return torch.atan(torch.as_tensor(sigma)) / math.pi * 2


@pytest.mark.parametrize(("order", "stepper"), [(1, "ddim"), (2, "dpmpp_2m")])
def test_equal_to_stable_audio_pipeline(models: Path, order: int, stepper: Stepper) -> None:
    base = load_audio_base(models / "stable_audio")
    scheduler = Deterministic(
        sigma_min=0.3,
        sigma_max=500.0,
        sigma_data=1.0,
        sigma_schedule="exponential",
        prediction_type="v_prediction",
        solver_order=order,
    )
    pipe = StableAudioPipeline(
        base.vae, base.text_encoder, base.projection_model, base.tokenizer, base.transformer, scheduler
    )
    pipe.set_progress_bar_config(disable=True)
    length = base.transformer.config.sample_size
    noise = torch.randn(1, 8, length, generator=torch.Generator().manual_seed(3))
    seconds = 1.5
    theirs = pipe(
        PROMPT,
        negative_prompt=NEGATIVE,
        audio_end_in_s=seconds,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        latents=noise,
        output_type="latent",
    ).audios
    heard = pipe(
        PROMPT,
        negative_prompt=NEGATIVE,
        audio_end_in_s=seconds,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        latents=noise,
        output_type="np",
    ).audios
    text, nothing = (base.encode_prompt([said], seconds) for said in (PROMPT, NEGATIVE))
    sigmas = pipe.scheduler.sigmas[:-1].double()
    levels = levels_of(base.denoiser().process, 2 / math.pi * sigmas.atan() / 1000)
    ours = alone(base.denoiser(), text, nothing, noise, levels, stepper=stepper)
    assert close(ours, theirs) < 1e-4
    samples = round(seconds * base.sample_rate)
    made = base.decode(ours, samples)
    assert made.shape == (1, samples, 2)
    assert close(made.transpose(0, 2, 1), np.clip(heard, -1, 1)) < 1e-4


def test_equal_to_audioldm_pipeline(models: Path) -> None:
    base = load_audio_base(models / "audioldm")
    scheduler = DDIMScheduler(**PUBLISHED)
    pipe = AudioLDMPipeline(
        base.vae, base.text_encoder, base.tokenizer, base.unet, scheduler, vocoder=base.vocoder
    )
    pipe.set_progress_bar_config(disable=True)
    seconds = 0.64
    samples = round(seconds * base.sample_rate)
    noise = torch.randn(1, *base.latent_shape(samples), generator=torch.Generator().manual_seed(3))
    theirs = pipe(
        PROMPT, negative_prompt=NEGATIVE, audio_length_in_s=seconds, latents=noise, **OPTIONS
    ).audios
    text, nothing = (base.encode_prompt([said]) for said in (PROMPT, NEGATIVE))
    process = Discrete.from_scheduler(scheduler, None)
    ours = alone(base.denoiser(), text, nothing, noise, process.level(scheduler.timesteps), process)
    assert close(base.decode(ours, samples), np.clip(theirs, -1, 1)) < 1e-4


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear"])
def test_equal_to_animatediff_pipeline(models: Path, beta_schedule: str) -> None:
    base = load_video_base(models / "animatediff")
    scheduler = DDIMScheduler(**{**PUBLISHED, "beta_schedule": beta_schedule})
    pipe = AnimateDiffPipeline(
        base.vae,
        base.text_encoder,
        base.tokenizer,
        base.unet,
        MotionAdapter.from_pretrained(models / "adapter"),
        scheduler,
    )
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, *base.latent_shape(8, SIZE), generator=torch.Generator().manual_seed(3))
    theirs = pipe(
        PROMPT,
        negative_prompt=NEGATIVE,
        num_frames=8,
        height=SIZE,
        width=SIZE,
        latents=noise,
        output_type="latent",
        **OPTIONS,
    ).frames
    text, nothing = (base.encode_prompt([said]) for said in (PROMPT, NEGATIVE))
    process = Discrete.from_scheduler(scheduler, None)
    ours = alone(base.denoiser(), text, nothing, noise, process.level(scheduler.timesteps), process)
    assert close(ours, theirs) < 1e-4

"""Training the coupling on pairs, the bases frozen (arXiv 2409.17550, section 3; options of later work).

Each U-Net is trained at its own noise level; the copy of a latent that a connector reads has a level of its
own, drawn independently, with the same noise (method: one trained model serves any γ). Self-conditioning
makes its estimate at the connector's level, as sampling does (the published code makes it at the U-Net's).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from kinetophone.av import AV
from kinetophone.bases.components import load_network
from kinetophone.bases.load import load_audio_base, load_video_base
from kinetophone.data.hits import FPS
from kinetophone.data.latents import load_latents
from kinetophone.joint.clocks import DEFAULT_GAMMA, T_MAX, local_grids
from kinetophone.joint.coupling import Coupling
from kinetophone.joint.model import JointModel
from kinetophone.request import BundleSpec
from kinetophone.sampling.ddim import NoiseSchedule, add_noise, clean_estimate
from kinetophone.sampling.guidance import guided
from kinetophone.sampling.joint import initial_noise, sample_joint
from kinetophone.training import diffusion
from kinetophone.training.clips import load_clips
from kinetophone.training.diffusion import (
    SAMPLE_PROMPTS,
    channels_last,
    drop_texts,
    noise_loss,
    random_timesteps,
)
from kinetophone.training.recipe import Recipe
from kinetophone.training.samples import mel_picture, save_wav

GUIDANCE = AV(audio=2.0, video=2.0)  # of samples, and the bundle's default


class CouplingStage:
    """Noise prediction of both frozen U-Nets with the coupling between them.

    Options: ``self_conditioning`` and ``connector_dropout`` (rates), ``aligned_share`` (share of batches
    whose connector levels lie near the sampler's path instead of anywhere), ``snr_gamma`` as in
    ``noise_loss``.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.bundle = recipe, Path(recipe.bundle)
        self.device = torch.device(recipe.loop.device)
        self.bases: AV = AV(
            audio=load_audio_base(self.bundle / "audio").to(self.device),
            video=load_video_base(self.bundle / "video").to(self.device),
        )
        for base in (self.bases.audio, self.bases.video):
            base.unet.requires_grad_(False)
            channels_last(base.unet)
        clips = load_clips(recipe)
        vaes = self.bases.map(lambda base: base.vae.cpu())
        self.latents = load_latents(clips, recipe.data.split, Path(recipe.data.cache), vaes.video, vaes.audio)
        unets: AV[nn.Module] = self.bases.map(lambda base: base.unet)
        self.coupling = (
            load_network(self.bundle / "coupling", Coupling, dtype=torch.float32)
            if recipe.continued
            else Coupling.for_unets(unets, **recipe.model)
        )
        channels_last(self.coupling)
        self.model = JointModel(unets, self.coupling).to(self.device)
        self.schedules = self.bases.map(lambda base: NoiseSchedule.from_scheduler(base.scheduler))
        self.trained: dict[str, nn.Module] = {"coupling": self.coupling}

    def _connector_timesteps(
        self, t: AV[Tensor], rng: np.random.Generator, generator: torch.Generator
    ) -> AV[Tensor]:
        """Levels of what the connectors read.

        Anywhere, or where the sampler would be when the *other* U-Net is at its ``t`` under some γ around the
        default.
        """
        batch = len(t.audio)
        if rng.random() >= self.recipe.options["aligned_share"]:
            return AV(random_timesteps(batch, generator), random_timesteps(batch, generator))
        gamma = DEFAULT_GAMMA * float(np.exp(rng.uniform(-0.5, 0.5)))
        as_levels = AV(audio=t.video / T_MAX, video=t.audio / T_MAX)
        local = AV(audio=as_levels.audio ** (1 / gamma), video=as_levels.video**gamma)
        return local.map(lambda u: (u * T_MAX).long().clamp(0, T_MAX - 1))

    def _text(self, texts: list[str]) -> AV[Tensor]:
        return self.bases.map(lambda base: base.encode_prompt(texts))

    def loss(self, rng: np.random.Generator, generator: torch.Generator) -> dict[str, Tensor]:
        options, batch = self.recipe.options, self.recipe.loop.batch_size
        index, texts = self.latents.draw(rng, batch)
        clean: AV[Tensor] = AV(audio=self.latents.audio, video=self.latents.video).map(
            lambda array: torch.from_numpy(array[index]).float().to(self.device)
        )
        text = self._text(drop_texts(texts, rng))
        t = AV(random_timesteps(batch, generator), random_timesteps(batch, generator))
        t_con = self._connector_timesteps(t, rng, generator)
        t, t_con = (pair.map(lambda x: x.to(self.device)) for pair in (t, t_con))
        noise: AV[Tensor] = clean.map(lambda x: torch.randn(x.shape, generator=generator).to(self.device))

        def at(levels: AV[Tensor]) -> AV[Tensor]:
            return clean.map(
                lambda x, e, s, level: add_noise(x, e, s.alpha(level).to(x.device)),
                noise,
                self.schedules,
                levels,
            )

        noisy, seen = at(t), at(t_con)
        x0_hat = None
        if rng.random() < options["self_conditioning"]:
            with torch.no_grad():
                eps = self.model(seen, t_con, text, self.model.features(seen, t_con, None))
                x0_hat = seen.map(
                    lambda x, e, s, level: clean_estimate(x, e, s.alpha(level).to(x.device)),
                    eps, self.schedules, t_con,
                )  # fmt: skip
        features = self.model.features(seen, t_con, x0_hat)
        coupled = AV(
            *(
                torch.from_numpy(rng.random(batch) >= options["connector_dropout"]).to(self.device)
                for _ in range(2)
            )
        )
        eps = self.model(noisy, t, text, features, coupled)
        losses: AV[Tensor] = eps.map(
            lambda e, n, s, level: noise_loss(e, n, s.alpha(level), options["snr_gamma"]),
            noise, self.schedules, t,
        )  # fmt: skip
        return {"loss": losses.audio + losses.video, "audio": losses.audio, "video": losses.video}

    def sample(self, folder: Path, step: int) -> None:
        prompts = list(SAMPLE_PROMPTS)
        shapes: AV[Sequence[int]] = AV(audio=self.latents.audio.shape[1:], video=self.latents.video.shape[1:])
        text, empty = self._text(prompts), self._text([""] * len(prompts))
        grids = local_grids(self.bases.map(lambda base: base.scheduler), diffusion.SAMPLE_STEPS)
        noise = initial_noise(shapes, list(range(len(prompts))), device=self.device)
        z = sample_joint(guided(self.model, text, empty, GUIDANCE), noise, grids, self.schedules)
        frames = self.bases.video.decode(z.video.cpu())
        mel = self.bases.audio.decode_mel(z.audio.cpu())
        rows = []
        for clip, spectrum in zip(frames, mel, strict=True):
            strip = np.concatenate(list(clip), axis=1)
            picture = cv2.resize(
                mel_picture(spectrum[None]), (strip.shape[1], 64), interpolation=cv2.INTER_AREA
            )
            rows += [strip[..., ::-1], picture]
        cv2.imwrite(str(folder / f"sample-{step}.png"), np.concatenate(rows))
        with torch.no_grad():
            save_wav(self.bases.audio.vocoder.cpu()(mel).flatten(), folder / f"sample-{step}.wav")

    def export(self) -> None:
        self.coupling.save_pretrained(self.bundle / "coupling")
        _, _, frames, side, _ = self.latents.video.shape
        BundleSpec(
            name=self.bundle.name,
            folder=self.bundle,
            fps=Fraction(FPS),
            frames=frames,
            size=side * self.bases.video.factor,
            sample_rate=self.bases.audio.sample_rate,
            fps_choices=(Fraction(FPS),),
            min_frames=frames,
            max_frames=frames,
            defaults={
                "steps": diffusion.SAMPLE_STEPS, "gamma": DEFAULT_GAMMA, "guidance_audio": GUIDANCE.audio,
                "guidance_video": GUIDANCE.video, "negative_prompt": "",
            },
        ).write(self.bundle)  # fmt: skip

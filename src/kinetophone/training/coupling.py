"""Training the coupling on audio-video pairs with frozen bases (arXiv 2409.17550, section 3).

Each U-Net has its own noise level. The connectors read copies of the latents with the same noise but at
independently drawn levels, so that one trained model works for any γ. The self-conditioning estimate is made
at the connector's level, as in sampling; the published code makes it at the U-Net's level.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from kinetophone.av import AV, MODALITIES
from kinetophone.bases.load import load_audio_base, load_video_base
from kinetophone.bases.protocol import Denoiser, Times
from kinetophone.bundle.spec import CONFIG_NAME, BundleSpec, same_bases
from kinetophone.coupling.coupling import Coupling
from kinetophone.coupling.model import JointModel
from kinetophone.data.domains import DOMAINS, domain
from kinetophone.data.encode import EncodedClips, load_encoded
from kinetophone.data.latents import LatentArrays, load_latents
from kinetophone.diffusion.clocks import path_of
from kinetophone.diffusion.guidance import guided
from kinetophone.diffusion.process import Process
from kinetophone.diffusion.sample import initial_noise, sample_joint
from kinetophone.diffusion.settings import PUBLISHED_DEFAULTS
from kinetophone.errors import RequestError
from kinetophone.hub.components import load_network
from kinetophone.media.clip import Clip, fit_audio
from kinetophone.media.timing import ClipTime, as_fps
from kinetophone.training.clips import load_clips
from kinetophone.training.diffusion import (
    SAMPLE_PROMPTS,
    WHOLE,
    channels_last,
    drop_texts,
    min_snr,
    noise_loss,
    plain_attention,
    sample_prompts,
    save_memory,
    standard_normal,
)
from kinetophone.training.levels import LevelErrors, base_errors
from kinetophone.training.recipe import Recipe, frozen_dtype
from kinetophone.training.samples import mel_image, save_wav
from kinetophone.training.validation import validate

CLIPS_FOR_ERRORS = 32


class CouplingStage:
    """Trains the coupling on the noise prediction losses of both U-Nets; see ``CouplingOptions``."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.bundle = recipe, Path(recipe.bundle)
        self.device = torch.device(recipe.loop.device)
        named, dtype = recipe.bases, frozen_dtype(recipe)
        self.bases: AV = AV(
            audio=load_audio_base(
                named.audio or self.bundle / "audio", dtype=dtype, allow_pickle=named.allow_pickle
            ).to(self.device),
            video=load_video_base(
                named.video or self.bundle / "video",
                motion_adapter=named.motion_adapter or None,
                dtype=dtype,
                allow_pickle=named.allow_pickle,
            ).to(self.device),
        )
        trains = recipe.options.train
        for base in (self.bases.audio, self.bases.video):
            base.network.requires_grad_(trains in ("all", "scratch"))
            plain_attention(base.network)
            # torch 2.13 crashes on a CPU when the backward pass goes through frozen channels-last
            # convolutions to trained motion modules before them.
            if base is self.bases.audio or trains != "motion":
                channels_last(base.network)
        self.latents = self._load_latents(self.bases.map(lambda base: base.vae.cpu()))
        networks: AV[nn.Module] = self.bases.map(lambda base: base.network)
        denoisers: AV[Denoiser] = self.bases.map(lambda base: base.denoiser())
        rates = AV(
            audio=float(self.bases.audio.latents_per_second),
            video=float(self.fps) / self.bases.video.frame_step,
        )
        self.coupling = (
            load_network(self.bundle / "coupling", Coupling, dtype=torch.float32)
            if recipe.continued
            else Coupling.for_denoisers(denoisers, rates, **recipe.model)
        )
        channels_last(self.coupling)
        self.model = JointModel(denoisers, self.coupling).to(self.device)
        self.processes: AV[Process] = self.model.denoisers.map(lambda denoiser: denoiser.process)
        self.trained: dict[str, nn.Module] = {"coupling": self.coupling}
        if trains == "motion":
            self._thaw_motion(networks.video)
        elif trains != "coupling":
            self.trained |= {"audio": networks.audio, "video": networks.video}
        self.learns = AV(*(name in self.trained for name in MODALITIES))
        self.errors = self._base_errors() if recipe.options.relative else None
        if trains == "scratch":  # only now: the loss weights come from the errors of the trained bases
            networks.map(_randomise)
        if recipe.loop.gradient_checkpointing:
            save_memory([networks.audio, networks.video, self.coupling])

    @property
    def times(self) -> AV[Times]:
        """Start and end time of each latent step of a clip."""
        lengths = AV(audio=self.latents.audio.shape[2], video=self.latents.video.shape[2])
        return self.bases.map(lambda base, steps: base.latent_times(steps, self.fps), lengths)

    def _load_latents(self, vaes: AV[Any]) -> LatentArrays:
        data = self.recipe.data
        if data.source not in DOMAINS:
            encoded = load_encoded(Path(data.source), data.count, vaes)
            self.fps, self.prompts = as_fps(encoded.fps), sorted(encoded.texts)[1 : 1 + len(SAMPLE_PROMPTS)]
            return encoded
        self.fps, self.prompts = Fraction(domain(data.source).FPS), sample_prompts(data.source)
        clips = load_clips(self.recipe)
        latents = load_latents(clips, data.split, Path(data.cache), vaes)
        if not data.materials:
            return latents
        return latents.only([i for i, s in enumerate(clips.scenes) if s["material"] in data.materials])

    def _thaw_motion(self, unet: nn.Module) -> None:
        modules = [p for name, p in unet.named_parameters() if "motion" in name]
        if not modules:
            raise RequestError(
                [f"'options.train' motion: a {type(unet).__name__} has no motion modules; choose another"]
            )
        for parameter in modules:
            parameter.requires_grad_(True)
        self.trained["video"] = unet

    def _base_errors(self) -> AV[LevelErrors]:
        clips = slice(0, CLIPS_FOR_ERRORS)
        text = self._text([captions[0] for captions in self.latents.captions[clips]])
        clean: AV[Tensor] = AV(audio=self.latents.audio, video=self.latents.video).map(
            lambda array: torch.from_numpy(np.array(array[clips])).float().to(self.device)
        )
        with self.autocast():
            return base_errors(self.model, clean, text, self.processes)

    def autocast(self) -> torch.autocast:
        """Autocast for forward passes outside the training loop; frozen weights may be half precision."""
        dtype = frozen_dtype(self.recipe)
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def _weights(self, levels: AV[Tensor]) -> AV[Tensor]:
        """Loss weights at the given noise levels."""
        if self.errors is not None:
            return levels.map(lambda level, errors: 1 / errors.at(level), self.errors)
        gamma = self.recipe.options.snr_gamma
        return self.processes.map(lambda process, level: min_snr(process, level, gamma), levels)

    def _levels(self, batch: int, generator: torch.Generator) -> AV[Tensor]:
        """Draw the noise levels of the two U-Nets."""
        power = self.recipe.options.timestep_power
        levels: AV[Tensor] = self.processes.map(lambda process: process.draw(batch, generator, power))
        drawn = self.recipe.options.noise_levels
        if drawn == "shared":
            return AV.both(levels.audio)
        if drawn == "mixed":
            same = torch.rand(batch, generator=generator) < 0.5
            return AV(audio=levels.audio, video=torch.where(same, levels.audio, levels.video))
        return levels

    def _given(self, batch: int, rng: np.random.Generator) -> AV[Tensor]:
        """Choose the samples whose audio or video is given clean; never both of the same sample."""
        rate = self.recipe.options.one_clean
        u = torch.from_numpy(rng.random(batch))
        return AV(audio=u < rate / 2, video=(u >= rate / 2) & (u < rate))

    def _connector_levels(
        self, levels: AV[Tensor], rng: np.random.Generator, generator: torch.Generator
    ) -> AV[Tensor]:
        """Draw the noise levels of the latents that the connectors read.

        They are either independent or on the sampler's path: the level that the sampler reaches when the
        *other* network is at its level, for a γ between 0.37 and 2.7. Either modality may lead.
        """
        batch = len(levels.audio)
        if rng.random() >= self.recipe.options.aligned_share:
            return self.processes.map(lambda process: process.draw(batch, generator))
        gamma = float(np.exp(rng.uniform(-1, 1)))
        local = AV(audio=levels.video ** (1 / gamma), video=levels.audio**gamma)
        return local.map(lambda u, process: u.clamp(process.least, process.most), self.processes)

    def _text(self, texts: list[str]) -> AV[Tensor]:
        if isinstance(self.latents, EncodedClips):
            return self.latents.text(texts).map(lambda states: states.to(self.device))
        return self.bases.map(lambda base: base.encode_prompt(texts))

    def _predict(
        self,
        x: AV[Tensor],
        levels: AV[Tensor],
        text: AV[Any],
        features: AV[Tensor],
        wanted: AV[Tensor],
        coupled: AV[Tensor] | None = None,
    ) -> AV[tuple[Tensor, Tensor]]:
        """Estimates of x0 and ε of ``x`` at ``levels``; each network runs on its ``wanted`` samples only.

        The network output for the other samples is 0. A network without wanted samples runs on all of them,
        because distributed training needs every parameter in the graph.
        """
        rows: AV[Tensor] = wanted.map(lambda w: (w if w.any() else ~w).nonzero().flatten())

        def of(pair: AV[Any], rows: AV[Tensor] = rows) -> AV[Any]:
            return pair.map(
                lambda whole, some: tree_map(lambda t: t.index_select(0, some.to(t.device)), whole), rows
            )

        features = of(features, rows.swap())  # each network reads the feature of the other modality
        output: AV[Tensor] = self.model(
            of(x), of(levels), of(text), features, coupled and of(coupled), times=self.times
        )
        whole = output.map(
            lambda o, z, some: torch.zeros_like(z, dtype=o.dtype).index_copy(0, some, o), x, rows
        )
        return self.processes.map(lambda process, *of: process.split(*of), x, whole, levels)

    def loss(
        self, rng: np.random.Generator, generator: torch.Generator, part: slice = WHOLE
    ) -> dict[str, Tensor]:
        options, batch = self.recipe.options, self.recipe.loop.batch_size
        # Random numbers are drawn for the entire batch, then sliced, so that the split does not matter.
        index, texts = self.latents.draw(rng, batch)
        clean: AV[Tensor] = AV(audio=self.latents.audio, video=self.latents.video).map(
            lambda array: torch.from_numpy(array[index[part]]).float().to(self.device)
        )
        texts = drop_texts(texts, rng, options.text_dropout)[part]
        levels = self._levels(batch, generator)
        seen_levels = self._connector_levels(levels, rng, generator)
        levels, seen_levels = (pair.map(lambda x: x[part]) for pair in (levels, seen_levels))
        noise: AV[Tensor] = clean.map(lambda x: standard_normal(x, batch, part, generator))
        estimated = rng.random() < options.self_conditioning
        coupled = AV(
            *(torch.from_numpy(rng.random(batch) >= options.connector_dropout)[part] for _ in range(2))
        ).map(lambda x: x.to(self.device))
        given = self._given(batch, rng).map(lambda x: x[part].to(self.device))
        asked: AV[Tensor] = given.map(torch.logical_not)

        def at(own: AV[Tensor]) -> AV[Tensor]:
            return self.processes.map(lambda process, *of: process.noised(*of), clean, noise, own)

        noisy, seen = at(levels), at(seen_levels)
        seen_levels = seen_levels.map(
            lambda level, known, process: level.masked_fill(known.cpu(), process.least), given, self.processes
        )
        seen = seen.map(_replace_known, given, clean)
        text = self._text(texts)
        x0_hat = None
        if estimated:
            x, own = (seen, seen_levels) if options.estimate_at == "connector" else (noisy, levels)
            with torch.no_grad():
                split = self._predict(x, own, text, self.model.features(seen, own, None), asked)
                x0_hat = split.map(lambda estimates, *of: _replace_known(estimates[0], *of), given, clean)
        features = self.model.features(seen, seen_levels, x0_hat)
        # With a frozen U-Net, samples without coupling give no gradient, so they are skipped.
        counts = asked.map(lambda a, c, learns: a if learns else a & c, coupled, self.learns)
        split = self._predict(noisy, levels, text, features, counts, coupled)
        losses: AV[Tensor] = split.map(
            lambda estimates, *of: noise_loss(estimates[1], *of), noise, self._weights(levels), counts
        )
        return {"loss": losses.audio + losses.video, "audio": losses.audio, "video": losses.video}

    def sample(self, folder: Path, step: int) -> dict[str, float]:
        prompts = self.prompts
        shapes: AV[Sequence[int]] = AV(audio=self.latents.audio.shape[1:], video=self.latents.video.shape[1:])
        spec = self._spec()
        settings = spec.settings({})
        text, negative = self._text(prompts), self._text([settings.negative_prompt] * len(prompts))
        path = path_of(self.processes, settings, spec.sampling)
        noise = initial_noise(shapes, list(range(len(prompts))), device=self.device)
        predict = guided(
            self.model, text, negative, settings.guidance, sync=settings.guidance_sync, times=self.times,
            sync_from=settings.sync_from,
        )  # fmt: skip
        with self.autocast():
            z = sample_joint(predict, noise, path, self.processes)
        frames = self.bases.video.decode(z.video.cpu())
        mel = self.bases.audio.decode_mel(z.audio.cpu())
        rows = []
        for clip, spectrum in zip(frames, mel, strict=True):
            strip = np.concatenate(list(clip), axis=1)
            picture = cv2.resize(
                mel_image(spectrum[None]), (strip.shape[1], 64), interpolation=cv2.INTER_AREA
            )
            rows += [strip[..., ::-1], picture]
        cv2.imwrite(str(folder / f"sample-{step}.png"), np.concatenate(rows))
        with torch.no_grad():
            sound = self.bases.audio.vocoder.cpu()(mel)
        save_wav(sound.flatten(), folder / f"sample-{step}.wav")
        time = ClipTime(self.fps, frames.shape[1], self.bases.audio.sample_rate)
        clips = [
            Clip(video, time.fps, fit_audio(audio, time.samples), time.sample_rate)
            for video, audio in zip(frames, sound.clamp(-1, 1).numpy(), strict=True)
        ]
        return validate(clips, folder, step)

    def export(self) -> None:
        self.coupling.save_pretrained(self.bundle / "coupling")
        for name in self.trained.keys() - {"coupling"}:
            base = getattr(self.bases, name)
            if getattr(self.recipe.bases, name):  # the named base has the old U-Net: write all components
                base.save_pretrained(self.bundle / name)
            else:
                base.network.save_pretrained(self.bundle / name / base.NETWORK)
        self._spec().write(self.bundle)

    def _spec(self) -> BundleSpec:
        """The description of the bundle; see ``Recipe.sampling`` for its sampling defaults."""
        bases: dict[str, dict[str, Any]] = {
            name: {key: value for key, value in base.reference.items() if value is not None}
            for name, base in (("audio", self.bases.audio), ("video", self.bases.video))
            if getattr(self.recipe.bases, name) and name not in self.trained
        }
        before = _description(self.bundle)
        if before is not None and not same_bases(before.bases, bases):
            before = None
        origin = before or self._origin()
        defaults = dict(origin.defaults if origin else PUBLISHED_DEFAULTS)
        if before is None:  # afterwards they may have been tuned in the bundle
            defaults |= self.recipe.sampling
        _, _, frames, side, _ = self.latents.video.shape
        return BundleSpec(
            name=self.bundle.name,
            folder=self.bundle,
            fps=self.fps,
            frames=frames,
            size=side * self.bases.video.factor,
            sample_rate=self.bases.audio.sample_rate,
            fps_choices=(self.fps,),
            min_frames=frames,
            max_frames=frames,
            sampling=origin.sampling if origin else "trailing",
            auto_gamma=before.auto_gamma if before else None,
            defaults=defaults,
            bases=bases,
        )

    def _origin(self) -> BundleSpec | None:
        """The description of the bundle that both bases come from, or None if they don't share one."""
        places = {Path(base.reference["name"]).parent for base in (self.bases.audio, self.bases.video)}
        return _description(places.pop()) if len(places) == 1 else None


def _description(folder: Path) -> BundleSpec | None:
    return BundleSpec.read(folder) if (folder / CONFIG_NAME).is_file() else None


def _randomise(unet: nn.Module) -> None:
    """Replace the weights with those of a newly initialised network."""
    unet.load_state_dict(type(unet).from_config(unet.config).state_dict())  # type: ignore[attr-defined]


def _replace_known(x: Tensor, known: Tensor, clean: Tensor) -> Tensor:
    """Take ``clean`` for the samples where ``known`` is True and ``x`` for the others."""
    return torch.where(known.view(-1, *[1] * (x.dim() - 1)), clean, x)

"""Training the coupling on audio-video pairs with frozen bases (arXiv 2409.17550, section 3).

Each network has its own noise level. The connectors read copies of the latents with the same noise but at
independently drawn levels, so that one trained model works for any γ. The self-conditioning estimate is made
at the connector's level, as in sampling; the published code makes it at the U-Net's level.

The loss is the squared error of the estimated noise ε, for any base: what a network predicts (ε, v or a flow)
and its process only scale the error of its output.
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
from kinetophone.bases.protocol import Conditioning, Denoiser, Times
from kinetophone.bundle.spec import CONFIG_NAME, BundleSpec, same_bases
from kinetophone.coupling.coupling import Coupling
from kinetophone.coupling.model import JointModel
from kinetophone.data.domains import DOMAINS, domain
from kinetophone.data.encoded import EncodedClips, load_encoded
from kinetophone.data.latents import LatentArrays, load_latents
from kinetophone.diffusion.clocks import path_of
from kinetophone.diffusion.guidance import guided
from kinetophone.diffusion.process import Process
from kinetophone.diffusion.sample import initial_noise, sample_joint
from kinetophone.diffusion.settings import PUBLISHED_DEFAULTS
from kinetophone.errors import RequestError
from kinetophone.hub.components import load_network
from kinetophone.media.clip import Clip
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
from kinetophone.training.samples import save_wav, spectrogram
from kinetophone.training.validation import validate

CLIPS_FOR_ERRORS = 32


class CouplingStage:
    """Trains the coupling on the noise prediction losses of both U-Nets; see ``CouplingOptions``."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.bundle = recipe, Path(recipe.bundle)
        self.device = torch.device(recipe.loop.device)
        named, dtype = recipe.bases, frozen_dtype(recipe)
        # Encoded clips have the states of their texts, so text encoders stay on the disk.
        texts = None if recipe.data.source in DOMAINS else Path(recipe.data.source) / "texts"
        self.bases: AV = AV(
            audio=load_audio_base(
                named.audio or self.bundle / "audio",
                dtype=dtype,
                allow_pickle=named.allow_pickle,
                text_cache=texts,
            ),
            video=load_video_base(
                named.video or self.bundle / "video",
                motion_adapter=named.motion_adapter or None,
                dtype=dtype,
                allow_pickle=named.allow_pickle,
                text_cache=texts,
            ),
        )
        trains = recipe.options.train
        for base in (self.bases.audio, self.bases.video):
            base.network.to(self.device).requires_grad_(trains in ("all", "scratch"))
            plain_attention(base.network)
            # torch 2.13 crashes on a CPU when the backward pass goes through frozen channels-last
            # convolutions to trained motion modules before them.
            if base is self.bases.audio or trains != "motion":
                channels_last(base.network)
        self.latents = self._load_latents()
        if not isinstance(self.latents, EncodedClips):  # which has the conditioning of its texts
            for base in (self.bases.audio, self.bases.video):
                for name in base.TEXT & base.networks.keys():
                    base.networks[name].to(self.device)
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
        # Saved in checkpoints and shared by all processes: the weights of the loss must not change in a run.
        self.start = _packed(self._base_errors()) if recipe.options.relative else {}
        if trains == "scratch":  # only now: the loss weights come from the errors of the trained bases
            networks.map(_randomise)
        if recipe.loop.gradient_checkpointing:
            save_memory([networks.audio, networks.video, self.coupling])

    @property
    def time(self) -> ClipTime:
        """Length and rates of a clip."""
        frames = self.bases.video.frame_length(self.latents.video.shape[2])
        return ClipTime(self.fps, frames, self.bases.audio.sample_rate)

    @property
    def times(self) -> AV[Times]:
        """Start and end time of each latent step of a clip."""
        lengths = AV(audio=self.latents.audio.shape[2], video=self.latents.video.shape[2])
        return self.bases.map(lambda base, steps: base.latent_times(steps, self.fps), lengths)

    def _load_latents(self) -> LatentArrays:
        data = self.recipe.data
        if data.source not in DOMAINS:
            encoded = load_encoded(Path(data.source), data.count, self.bases)
            self.fps, self.prompts = as_fps(encoded.fps), sorted(encoded.texts)[1 : 1 + len(SAMPLE_PROMPTS)]
            return encoded
        self.fps, self.prompts = Fraction(domain(data.source).FPS), sample_prompts(data.source)
        clips = load_clips(self.recipe)
        vaes: AV[Any] = self.bases.map(lambda base: base.vae)
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

    @property
    def errors(self) -> AV[LevelErrors]:
        """The bases' own errors, with the option ``relative``."""
        return AV(*(LevelErrors(*self.start[name].double().numpy()) for name in MODALITIES))

    def _weights(self, levels: AV[Tensor]) -> AV[Tensor]:
        """Weights of the squared errors of the outputs at the given noise levels."""
        if self.start:
            return self.errors.map(lambda errors, *of: errors.weight(*of), self.processes, levels)
        gamma = self.recipe.options.snr_gamma
        return self.processes.map(
            lambda process, level: process.noise_error_scale(level) * min_snr(process, level, gamma), levels
        )

    def _levels(self, batch: int, generator: torch.Generator) -> AV[Tensor]:
        """Draw the noise levels of the two networks, each as its base was trained."""
        power = self.recipe.options.timestep_power
        levels: AV[Tensor] = self.processes.map(lambda process: process.draw(batch, generator, power))
        drawn = self.recipe.options.noise_levels
        if drawn == "independent":
            return levels
        shared = levels.audio.clamp(self.processes.video.least, self.processes.video.most)
        if drawn == "mixed":
            same = torch.rand(batch, generator=generator) < 0.5
            shared = torch.where(same, shared, levels.video)
        return AV(audio=levels.audio, video=shared)

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

    def _text(self, texts: list[str]) -> AV[Conditioning]:
        if isinstance(self.latents, EncodedClips) and self.latents.texts.keys() >= set(texts):
            text = self.latents.text(texts)
        else:
            text = self.bases.map(lambda base: base.conditioning(texts, self.time.duration_s))
        return text.map(lambda states: tree_map(lambda tensor: tensor.to(self.device), states))

    def _predict(
        self,
        x: AV[Tensor],
        levels: AV[Tensor],
        text: AV[Any],
        features: AV[Tensor],
        wanted: AV[Tensor],
        coupled: AV[Tensor] | None = None,
    ) -> AV[Tensor]:
        """The outputs of both networks for ``x`` at ``levels``; each runs on its ``wanted`` samples only.

        The output for the other samples is 0. A network without wanted samples runs on all of them,
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
        return output.map(
            lambda o, z, some: torch.zeros_like(z, dtype=o.dtype).index_copy(0, some, o), x, rows
        )

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
                output = self._predict(x, own, text, self.model.features(seen, own, None), asked)
                x0_hat = self.processes.map(
                    lambda process, known, real, *of: _replace_known(process.split(*of)[0], known, real),
                    given, clean, x, output, own,
                )  # fmt: skip
        features = self.model.features(seen, seen_levels, x0_hat)
        # With a frozen network, samples without coupling give no gradient, so they are skipped.
        counts = asked.map(lambda a, c, learns: a if learns else a & c, coupled, self.learns)
        output = self._predict(noisy, levels, text, features, counts, coupled)
        target: AV[Tensor] = self.processes.map(
            lambda process, *of: process.target(*of), clean, noise, levels
        )
        losses: AV[Tensor] = output.map(noise_loss, target, self._weights(levels), counts)
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
        time = self.time
        frames = self.bases.video.decode(z.video.cpu())
        sound = self.bases.audio.decode(z.audio.cpu(), time.samples)
        rows = []
        for clip, waveform in zip(frames, sound, strict=True):
            strip = np.concatenate(list(clip), axis=1)
            picture = cv2.resize(
                spectrogram(waveform, time.sample_rate), (strip.shape[1], 64), interpolation=cv2.INTER_AREA
            )
            rows += [strip[..., ::-1], picture]
        cv2.imwrite(str(folder / f"sample-{step}.png"), np.concatenate(rows))
        save_wav(np.concatenate(list(sound)), folder / f"sample-{step}.wav", time.sample_rate)
        clips = [
            Clip(video, time.fps, audio, time.sample_rate) for video, audio in zip(frames, sound, strict=True)
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
        frames, side = self.time.frames, self.latents.video.shape[-1]
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
            frame_step=self.bases.video.frame_step,
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


def _packed(errors: AV[LevelErrors]) -> dict[str, Tensor]:
    """The errors as tensors (2, K), for a checkpoint."""
    found = {"audio": errors.audio, "video": errors.video}
    return {name: torch.from_numpy(np.stack([of.angles, of.errors])) for name, of in found.items()}


def _randomise(unet: nn.Module) -> None:
    """Replace the weights with those of a newly initialised network."""
    unet.load_state_dict(type(unet).from_config(unet.config).state_dict())  # type: ignore[attr-defined]


def _replace_known(x: Tensor, known: Tensor, clean: Tensor) -> Tensor:
    """Take ``clean`` for the samples where ``known`` is True and ``x`` for the others."""
    return torch.where(known.view(-1, *[1] * (x.dim() - 1)), clean, x)

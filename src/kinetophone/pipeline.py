"""What a user calls: prompts in, sounding clips out.

from kinetophone import Kinetophone

pipe = Kinetophone.from_pretrained("hits")
clip = pipe("a drumstick hits a metal bowl three times")[0]
clip.save("bowl.mp4")
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kinetophone.av import AV
from kinetophone.bases.animatediff import AnimateDiff
from kinetophone.bases.audioldm import AudioLDM
from kinetophone.bases.components import save_component
from kinetophone.joint.clocks import local_grids
from kinetophone.joint.coupling import Coupling
from kinetophone.joint.model import JointModel
from kinetophone.media.clip import Clip
from kinetophone.request import CONFIG_NAME, BundleSpec, GenerateRequest
from kinetophone.sampling.ddim import NoiseSchedule
from kinetophone.sampling.joint import Progress, guided, initial_noise, sample_joint

BATCH = 8  # clips denoised together: more gain nothing on a CPU and cost memory


class Kinetophone:
    """A joint model with its bases: text to sounding clips.

    Args:
        bases: audio and video base models, frozen.
        coupling: the trained connectors and inserted blocks that tie them.
        spec: what clips the bundle makes.
        defaults: ``steps``, ``gamma``, ``guidance_audio``, ``guidance_video`` and ``negative_prompt`` used
            where a call names none.
    """

    def __init__(
        self, bases: AV[Any], coupling: Coupling, spec: BundleSpec, defaults: dict[str, Any]
    ) -> None:
        self.bases, self.coupling, self.spec, self.defaults = bases, coupling, spec, defaults
        self.model = JointModel(bases.map(lambda base: base.unet), coupling).eval().requires_grad_(False)
        self.schedules: AV[NoiseSchedule] = bases.map(
            lambda base: NoiseSchedule.from_scheduler(base.scheduler)
        )

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], device: str | None = None) -> Kinetophone:
        """Load a bundle that ships, by name, or any folder of the same layout.

        Args:
            name_or_path: e.g. "hits".
            device: "cpu", "cuda", "mps" …; the fastest that is there if not given.

        Raises:
            RequestError: if there is no such bundle.
            ValueError: if a component is missing or does not fit the others.
        """
        spec = BundleSpec.read(name_or_path)
        settings = json.loads((spec.folder / CONFIG_NAME).read_text(encoding="utf-8"))
        bases: AV[Any] = AV(
            audio=AudioLDM.from_pretrained(spec.folder / "audio"),
            video=AnimateDiff.from_pretrained(spec.folder / "video"),
        )
        coupling = Coupling.from_pretrained(spec.folder / "coupling", torch_dtype=torch.float32)
        return cls(bases, coupling, spec, settings["defaults"]).to(device or _fastest_device())

    def save_pretrained(self, folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> None:
        """Write everything as a bundle: diffusers layout, weights in safetensors of ``dtype``."""
        root = Path(folder)
        self.bases.audio.save_pretrained(root / "audio", dtype)
        self.bases.video.save_pretrained(root / "video", dtype)
        save_component(self.coupling, root / "coupling", dtype)
        shutil.copyfile(self.spec.folder / CONFIG_NAME, root / CONFIG_NAME)
        if (self.spec.folder / "classifiers").is_dir():
            shutil.copytree(self.spec.folder / "classifiers", root / "classifiers", dirs_exist_ok=True)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return torch.device(self.coupling.device)

    def to(self, device: torch.device | str) -> Kinetophone:
        """Move every network to ``device``."""
        self.bases.audio.to(device)
        self.bases.video.to(device)
        self.coupling.to(device)
        return self

    def __call__(
        self,
        prompts: str | Sequence[str],
        *,
        seconds: float | Fraction | None = None,
        fps: float | Fraction | None = None,
        steps: int | None = None,
        gamma: float | None = None,
        guidance_audio: float | None = None,
        guidance_video: float | None = None,
        negative_prompt: str | None = None,
        seed: int = 0,
        coupled: bool = True,
        progress: bool = False,
    ) -> list[Clip]:
        """Make one clip per prompt.

        Args:
            prompts: what is to be seen and heard.
            seconds: length; the bundle's own if not given.
            fps: frame rate; the bundle's own if not given.
            steps: denoising steps.
            gamma: timestep adjustment γ > 0; above 1 the picture is denoised ahead of the sound.
            guidance_audio: classifier-free guidance scale of the sound; 1 is none.
            guidance_video: classifier-free guidance scale of the picture; 1 is none.
            negative_prompt: what guidance leads away from.
            seed: of the first clip; clip i uses ``seed + i``, whatever the batch.
            coupled: False samples each base by itself, without the connectors: for comparison.
            progress: show a progress bar.

        Returns:
            The clips, in the order of the prompts.

        Raises:
            RequestError: if something can't be done, before anything is computed.
            FloatingPointError: if a latent becomes non-finite; says at which step.
        """
        texts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        time = GenerateRequest(
            prompts=texts, bundle=self.spec.folder, seconds=seconds, fps=fps, steps=steps, gamma=gamma,
            guidance_audio=guidance_audio, guidance_video=guidance_video, seed=seed,
        ).validate()  # fmt: skip

        def chosen(name: str, given: Any) -> Any:
            return self.defaults[name] if given is None else given

        steps, gamma = chosen("steps", steps), chosen("gamma", gamma)
        guidance = AV(
            audio=float(chosen("guidance_audio", guidance_audio)),
            video=float(chosen("guidance_video", guidance_video)),
        )
        negative = chosen("negative_prompt", negative_prompt)
        shapes: AV[Sequence[int]] = AV(
            audio=self.bases.audio.latent_shape(time.samples),
            video=self.bases.video.latent_shape(time.frames, self.spec.size),
        )
        grids = local_grids(self.bases.map(lambda base: base.scheduler), steps, gamma)
        clips: list[Clip] = []
        with _Bar(progress, steps * -(-len(texts) // BATCH)) as bar:
            for start in range(0, len(texts), BATCH):
                part = list(texts[start : start + BATCH])
                noise = initial_noise(
                    shapes, [seed + start + i for i in range(len(part))], device=self.device
                )
                predict = guided(
                    self.model,
                    self._text(part),
                    self._text([negative] * len(part)),
                    guidance,
                    coupled=coupled,
                )
                latents = sample_joint(predict, noise, grids, self.schedules, callback=bar.advance)
                frames = self.bases.video.decode(latents.video)
                sound = self.bases.audio.decode(latents.audio, time.samples)
                clips += [
                    Clip(video=v, fps=time.fps, audio=a, sample_rate=time.sample_rate)
                    for v, a in zip(frames, sound, strict=True)
                ]
        return clips

    def _text(self, texts: list[str]) -> AV[Tensor]:
        return self.bases.map(lambda base: base.encode_prompt(texts))


class _Bar:
    """A rich progress bar over denoising steps, or nothing."""

    def __init__(self, shown: bool, total: int) -> None:
        self.total, self.bar = total, None
        if shown:
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("denoising"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
            self.bar = Progress(*columns, TimeRemainingColumn())

    def __enter__(self) -> _Bar:
        if self.bar is not None:
            self.bar.start()
            self.task = self.bar.add_task("denoising", total=self.total)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    @property
    def advance(self) -> Callable[[Progress], None] | None:
        """A sampler's callback that moves the bar one step on."""
        if self.bar is None:
            return None
        bar = self.bar
        return lambda _: bar.advance(self.task)


def _fastest_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"

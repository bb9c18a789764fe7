"""A loaded bundle: two frozen bases, the coupling between them, and what clips they make.

Loading, saving and where it computes; what is made with it is in :mod:`kinetophone.pipeline`.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from kinetophone.av import AV, MODALITIES
from kinetophone.bases.load import load_audio_base, load_video_base
from kinetophone.bases.protocol import Denoiser, Times
from kinetophone.bundle.spec import BundleSpec
from kinetophone.coupling.coupling import Coupling
from kinetophone.coupling.model import JointModel
from kinetophone.diffusion.clocks import Spacing
from kinetophone.diffusion.process import Discrete, Process
from kinetophone.diffusion.signal_leak import SignalLeak
from kinetophone.errors import RequestError
from kinetophone.hub.components import cast, component_class, load_network, save_component
from kinetophone.hub.locate import locate
from kinetophone.media.timing import as_fps

Offload = Literal["model", "sequential"]
# Components by when they compute: what encodes a text, what denoises, what decodes.
_BEFORE = ("text_encoder", "projection_model")
_NETWORKS = ("unet", "transformer")
_AFTER = ("vae", "vocoder")
_USUAL_S = 4
MOST_FRAMES = 64  # of video bases whose positions in time have no limit of their own


class Bundle:
    """A joint model with its bases.

    Args:
        bases: audio and video base models, frozen.
        coupling: the trained connectors and inserted blocks that tie them.
        spec: what clips the bundle makes.
        leaks: of each base, the trace of a clip that its sampling starts from; None: of neither.

    Raises:
        RequestError: if the coupling was made for other bases.
    """

    def __init__(
        self,
        bases: AV[Any],
        coupling: Coupling,
        spec: BundleSpec,
        leaks: AV[SignalLeak | None] | None = None,
    ) -> None:
        self.bases, self.coupling, self.spec = bases, coupling, spec
        self.leaks: AV[SignalLeak | None] = leaks or AV.both(None)
        denoisers: AV[Denoiser] = bases.map(lambda base: base.denoiser())
        if spec.sampling == "reference":
            denoisers.map(_keep_first_noise, bases)
        self.model = JointModel(denoisers, coupling).eval().requires_grad_(False)
        self._offload: tuple[Offload, torch.device] | None = None

    @property
    def components(self) -> dict[str, Any]:
        """Everything it is made of, by name: ``audio.unet``, ``video.vae``, …, ``coupling``."""
        parts = {
            f"{modality}.{name}": getattr(getattr(self.bases, modality), name)
            for modality in MODALITIES
            for name in getattr(self.bases, modality).COMPONENTS
        }
        return {**parts, "coupling": self.coupling}

    def __repr__(self) -> str:
        parts = "".join(f"\n  {name}: {type(part).__name__}" for name, part in self.components.items())
        return f"{type(self).__name__} '{self.spec.name}' on {self.device}{parts}"

    @property
    def processes(self) -> AV[Process]:
        """The noise process of each base."""
        return self.model.denoisers.map(lambda denoiser: denoiser.process)

    def latent_times(self, lengths: AV[int], fps: float | Fraction) -> AV[Times]:
        """When each of so many latents begins and ends, in seconds, at a frame rate."""
        return self.bases.map(lambda base, steps: base.latent_times(steps, fps), lengths)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        device: str | None = None,
        dtype: torch.dtype = torch.float32,
        allow_pickle: bool = False,
    ) -> Self:
        """Load a bundle that ships, by name, or any other, by its folder or Hub id.

        Args:
            name_or_path: e.g. "hits".
            device: "cpu", "cuda", "mps" …; the fastest that is there if not given.
            dtype: of the networks; autoencoders and vocoder always run in float32.
            allow_pickle: whether pickled weights of the bases may be fetched and read.

        Raises:
            RequestError: if there is no such bundle, or a component is missing, damaged or does not fit.
        """
        spec = BundleSpec.read(name_or_path)
        assert spec.folder is not None
        target = usable_device(device)
        options: dict[str, Any] = {"dtype": dtype, "allow_pickle": allow_pickle}
        # The coupling first: it is small, and what is wrong with it shows before the bases are read.
        coupling = load_coupling(spec.folder / "coupling", dtype)
        places = {name: {"name": spec.folder / name, **spec.bases.get(name, {})} for name in MODALITIES}
        bases: AV[Any] = AV(
            audio=load_audio_base(**places["audio"], **options),
            video=load_video_base(**places["video"], **options),
        )
        leaks = AV(*(SignalLeak.load(spec.folder / name) for name in MODALITIES))
        return cls(bases, coupling, spec, leaks).to(target)

    @classmethod
    def from_bases(
        cls,
        *,
        video: str | os.PathLike[str],
        audio: str | os.PathLike[str],
        coupling: str | os.PathLike[str] | Coupling | None = None,
        kind: str = "cmc_pe",
        motion_adapter: str | os.PathLike[str] | None = None,
        fps: float | Fraction | None = None,
        frames: int | None = None,
        size: int = 256,
        sampling: Spacing = "trailing",
        device: str | None = None,
        dtype: torch.dtype = torch.float32,
        allow_pickle: bool = False,
    ) -> Self:
        """Put two base models together.

        Args:
            video: folder or Hub id of a video model (``UNetMotionModel``, ``UNet3DConditionModel``,
                ``WanTransformer3DModel``), or of an image model that gets a motion adapter.
            audio: folder or Hub id of an AudioLDM or a Stable Audio.
            coupling: folder or Hub id of a trained coupling; if not given a fresh one, which leaves both
                bases as they are.
            kind: of a fresh coupling, see :class:`Coupling`.
            motion_adapter: folder or Hub id, for an image model; AnimateDiff's own if not given.
            fps: frames per second the coupling was trained at; those that the video model was trained at if
                not given.
            frames: length in frames; those of 4 seconds, or as many as the video model makes, if not given.
            size: height and width in pixels.
            sampling: "trailing", or "reference" for couplings trained with the published implementation.
            device: "cpu", "cuda", "mps" …; the fastest that is there if not given.
            dtype: of the networks; autoencoders and vocoder always run in float32.
            allow_pickle: whether pickled weights may be fetched and read.

        Raises:
            RequestError: if something is missing, damaged or does not fit the rest.
        """
        try:
            asked = None if fps is None else as_fps(fps)
        except ValueError as error:
            raise RequestError([str(error)]) from None
        target = usable_device(device)
        options: dict[str, Any] = {"dtype": dtype, "allow_pickle": allow_pickle}
        ready = coupling if isinstance(coupling, Coupling) else None
        if coupling is not None and ready is None:
            ready = load_coupling(coupling, dtype)
        bases: AV[Any] = AV(
            audio=load_audio_base(audio, **options),
            video=load_video_base(video, motion_adapter=motion_adapter, **options),
        )
        rate = asked or Fraction(bases.video.FPS)
        if ready is None:
            rates = AV(
                audio=float(bases.audio.latents_per_second), video=float(rate) / bases.video.frame_step
            )
            ready = Coupling.for_denoisers(bases.map(lambda base: base.denoiser()), rates, coupling=kind)
            ready = cast(ready, dtype)
        step = bases.video.frame_step
        most = bases.video.max_frames or MOST_FRAMES
        most -= (most - 1) % step
        problems = []
        if size < 1 or size % bases.video.multiple:
            problems.append(f"size is {size}; this video base needs a multiple of {bases.video.multiple}")
        if frames is not None and not 1 <= frames <= most:
            problems.append(f"frames is {frames}; this video base makes 1 to {most}")
        elif frames is not None and (frames - 1) % step:
            below = frames - (frames - 1) % step
            problems.append(
                f"frames is {frames}; this video base makes 1 frame and {step} for each further latent: "
                f"{below} or {min(below + step, most)}"
            )
        if problems:
            raise RequestError(problems)
        spec = BundleSpec(
            name=f"{bases.video.reference['name']} + {bases.audio.reference['name']}",
            folder=None,
            fps=rate,
            frames=frames or _usual_frames(rate, most, step),
            size=size,
            sample_rate=bases.audio.sample_rate,
            fps_choices=(rate,),
            min_frames=1,
            max_frames=most,
            frame_step=step,
            sampling=sampling,
        )
        return cls(bases, ready, spec).to(target)

    def save_pretrained(self, folder: str | os.PathLike[str], dtype: torch.dtype | None = None) -> None:
        """Write everything as a bundle: diffusers layout, weights in safetensors of ``dtype`` (their own)."""
        root = Path(folder)
        dtype = dtype or self.coupling.dtype
        offload = self._offload
        if offload is not None:  # layers that wait have no weights of their own
            self.to("cpu")
        self.bases.audio.save_pretrained(root / "audio", dtype)
        self.bases.video.save_pretrained(root / "video", dtype)
        save_component(self.coupling, root / "coupling", dtype)
        if offload is not None:
            self._enable(*offload)
        for name in MODALITIES:
            if (leak := getattr(self.leaks, name)) is not None:
                leak.save(root / name, dtype)
        replace(self.spec, bases={}).write(root)
        classifiers = self.spec.folder and self.spec.folder / "classifiers"
        if classifiers and classifiers.is_dir():
            shutil.copytree(classifiers, root / "classifiers", dirs_exist_ok=True)

    def save_coupling(self, folder: str | os.PathLike[str]) -> None:
        """Write a bundle without its bases: the coupling, and where the bases are (name and revision)."""
        root = Path(folder)
        save_component(self.coupling, root / "coupling", self.coupling.dtype)
        references = self.bases.map(lambda base: {k: v for k, v in base.reference.items() if v is not None})
        replace(self.spec, bases={"audio": references.audio, "video": references.video}).write(root)

    def preview(self, x0_hat: AV[Tensor], frames: int = 8) -> AV[np.ndarray]:
        """What an estimate of clean latents looks like, quickly: for showing while sampling.

        Args:
            x0_hat: such as a sampler's callback is given: audio (B, C, L, M), video (B, C, T, H, W).
            frames: of the clip, evenly spread.

        Returns:
            Of the first clip: audio its log-mel (time, 64), video uint8 (frames, H, W, 3).
        """
        first = x0_hat.map(lambda x: x[:1])
        return AV(
            audio=self.bases.audio.decode_mel(first.audio)[0].float().cpu().numpy(),
            video=self.bases.video.stills(first.video, frames)[0],
        )

    @property
    def device(self) -> torch.device:
        """Where the networks compute."""
        return self._offload[1] if self._offload else torch.device(self.coupling.device)

    def to(self, device: torch.device | str) -> Self:
        """Move every network to ``device``; ends offloading.

        Raises:
            RequestError: if there is no such device.
        """
        usable_device(device)
        if self._offload is not None:
            from accelerate.hooks import remove_hook_from_module

            for network in (
                self.model,
                *self._around("text_encoder", "projection_model", "unet", "transformer", "vae", "vocoder"),
            ):
                remove_hook_from_module(network, recurse=True)
            self._offload = None
        self.bases.audio.to(device)
        self.bases.video.to(device)
        self.coupling.to(device)
        return self

    def enable_model_cpu_offload(self, device: torch.device | str | None = None) -> None:
        """Keep on ``device`` only what is computing: text models, then the joint model, then the decoders.

        Saves the memory of the parts that wait, at the price of moving each once a batch.

        Args:
            device: where it computes; the fastest that is there if not given.

        Raises:
            RequestError: if there is no such device, or none but the CPU.
        """
        self._enable("model", offload_device(device))

    def enable_sequential_cpu_offload(self, device: torch.device | str | None = None) -> None:
        """Keep on ``device`` only the coupling and the layer that computes: least memory, much slower.

        Args and errors are those of :meth:`enable_model_cpu_offload`.
        """
        self._enable("sequential", offload_device(device))

    def _enable(self, offload: Offload, device: torch.device) -> None:
        from accelerate.big_modeling import cpu_offload, cpu_offload_with_hook

        self.to("cpu")
        if offload == "model":
            hook = None
            for network in (*self._around(*_BEFORE), self.model, *self._around(*_AFTER)):
                _, hook = cpu_offload_with_hook(network, device, prev_module_hook=hook)
        else:
            for network in self._around(
                "text_encoder", "projection_model", "unet", "transformer", "vae", "vocoder"
            ):
                cpu_offload(network, device)
            # Small, and its layers read one another's weights, which offloading layer by layer forbids.
            self.coupling.to(device)
        self._offload = (offload, device)

    def _around(self, *names: str) -> list[nn.Module]:
        """Networks of both bases by name: what surrounds the joint model."""
        both = (self.bases.audio.networks, self.bases.video.networks)
        return [networks[name] for name in names for networks in both if name in networks]


def _usual_frames(rate: Fraction, most: int, step: int) -> int:
    """The frames of a clip of some four seconds that a video base can make."""
    frames = min(round(_USUAL_S * rate), most)
    return frames - (frames - 1) % step


def _keep_first_noise(denoiser: Denoiser, base: Any) -> None:
    """The reference leaves the noise of its schedule's first timestep in; ours removes it."""
    denoiser.process = Discrete.from_scheduler(base.scheduler, None)


def load_coupling(name_or_path: str | os.PathLike[str], dtype: torch.dtype) -> Coupling:
    """Load a trained coupling from a folder or the Hub (there or in its sub-folder "coupling").

    Raises:
        RequestError: if there is none, or its weights are damaged or incomplete.
    """
    source = locate(name_or_path, ["", "coupling"])
    inner = source.folder / "coupling"
    folder = inner if inner.is_dir() else source.folder
    found = component_class(folder)
    if found != "Coupling":
        raise RequestError([f"'{name_or_path}' holds {f'a {found}' if found else 'no coupling'}"])
    return load_network(folder, Coupling, dtype=dtype)


def fastest_device() -> str:
    """Where networks go if nothing else is asked for."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def usable_device(device: torch.device | str | None) -> torch.device:
    """``device``, or the fastest one if None.

    Raises:
        RequestError: if torch has no such device here.
    """
    try:
        found = torch.device(device or fastest_device())
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise RequestError(
            [f"there is no device '{device}' here: torch {torch.__version__} finds {fastest_device()}"]
        ) from None
    return found


def offload_device(device: torch.device | str | None) -> torch.device:
    """Where offloaded networks compute.

    Raises:
        RequestError: if there is no such device, or none but the CPU and it was not named.
    """
    found = usable_device(device)
    if device is None and found.type == "cpu":
        raise RequestError(["offloading needs a GPU to compute on, and torch finds none: leave it out"])
    return found

"""A loaded bundle: two frozen bases, the coupling between them, and the spec of its clips.

This module covers loading, saving and devices; generation is in :mod:`kinetophone.pipeline`.
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
from kinetophone.bundle.adapter import read_adapter, write_adapter
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
# Components by when they run: before the denoising loop, in it, and after it.
_BEFORE = ("text_encoder", "projection_model")
_NETWORKS = ("unet", "transformer")
_AFTER = ("vae", "vocoder")
_USUAL_S = 4
MOST_FRAMES = 64  # for video bases that do not limit the number of frames themselves


class Bundle:
    """A joint model with its bases.

    Args:
        bases: audio and video base models, frozen.
        coupling: the trained connectors and inserted blocks.
        spec: the clips that the bundle can make, and its defaults.
        leaks: signal leak of each base (:mod:`kinetophone.diffusion.signal_leak`); None: none for both.

    Raises:
        RequestError: the coupling belongs to other bases.
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
            if not all(isinstance(one.process, Discrete) for one in (denoisers.audio, denoisers.video)):
                raise RequestError(["sampling 'reference' is for bases with DDPM schedulers; use 'trailing'"])
            denoisers.map(_keep_first_noise, bases)
        self.model = JointModel(denoisers, coupling).eval().requires_grad_(False)
        self._offload: tuple[Offload, torch.device] | None = None

    @property
    def components(self) -> dict[str, Any]:
        """All components by name: ``audio.unet``, ``video.vae``, …, ``coupling``."""
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
        """Start and end of each latent in seconds, for ``lengths`` latents at a frame rate."""
        return self.bases.map(lambda base, steps: base.latent_times(steps, fps), lengths)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        device: str | None = None,
        dtype: torch.dtype = torch.float32,
        allow_pickle: bool = False,
        text_cache: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Load an included bundle by name, or any other by its folder or Hub id.

        Args:
            name_or_path: e.g. "hits".
            device: "cpu", "cuda", "mps" …; default: the fastest available.
            dtype: dtype of the networks; autoencoders and vocoder always run in float32.
            allow_pickle: download and read pickled weights of the bases, as tensors only.
            text_cache: folder for text states, created if necessary. A text encoder is then loaded only for
                texts whose states are not there, and dropped again; default: it stays in memory.

        Raises:
            RequestError: there is no such bundle, or a component is missing, damaged or does not fit.
        """
        spec = BundleSpec.read(name_or_path)
        assert spec.folder is not None
        target = usable_device(device)
        options: dict[str, Any] = {"dtype": dtype, "allow_pickle": allow_pickle, "text_cache": text_cache}
        # The coupling comes first: it is small, so its errors show before the large bases are read.
        coupling = coupling_of(spec, dtype)
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
        text_cache: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Combine two base models.

        Args:
            video: folder or Hub id of a video model (``UNetMotionModel``, ``UNet3DConditionModel``,
                ``WanTransformer3DModel``), or of an image model that gets a motion adapter.
            audio: folder or Hub id of an AudioLDM or a Stable Audio.
            coupling: a coupling, or adapter, folder or Hub id of a trained one; default: an untrained
                coupling, which does not change the output of the bases.
            kind: kind of an untrained coupling, see :class:`Coupling`.
            motion_adapter: folder or Hub id, for an image model; default: that of AnimateDiff.
            fps: frames per second the coupling was trained at; default: those the video model was trained at.
            frames: length in frames; default: those of 4 seconds, or the most that the video model supports.
            size: height and width in pixels.
            sampling: "trailing", or "reference" for couplings trained with the published implementation.
            device: "cpu", "cuda", "mps" …; default: the fastest available.
            dtype: dtype of the networks; autoencoders and vocoder always run in float32.
            allow_pickle: download and read pickled weights, as tensors only.
            text_cache: see :meth:`from_pretrained`.

        Raises:
            RequestError: something is missing, damaged or does not fit the other parts.
        """
        try:
            asked = None if fps is None else as_fps(fps)
        except ValueError as error:
            raise RequestError([str(error)]) from None
        target = usable_device(device)
        options: dict[str, Any] = {"dtype": dtype, "allow_pickle": allow_pickle, "text_cache": text_cache}
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
        most = _most_frames(bases.video.max_frames, step)
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
            frames=frames or usual_frames(rate, bases.video.max_frames, step),
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
        """Write the bundle with its bases, in diffusers layout with safetensors weights.

        Args:
            folder: created if necessary.
            dtype: dtype of the stored weights; default: that of the coupling.
        """
        root = Path(folder)
        dtype = dtype or self.coupling.dtype
        offload = self._offload
        if offload is not None:  # offloaded layers hold no weights
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

    def save_adapter(self, file: str | os.PathLike[str], dtype: torch.dtype | None = None) -> None:
        """Write the coupling and the names and revisions of its bases as one safetensors file.

        Args:
            file: the file; :meth:`from_pretrained` takes it, or a folder where it is named
                ``kinetophone.safetensors``.
            dtype: dtype of the stored weights; default: that of the coupling.

        Raises:
            RequestError: the name of the file has another suffix.
        """
        references = self.bases.map(lambda base: {k: v for k, v in base.reference.items() if v is not None})
        spec = replace(self.spec, bases={"audio": references.audio, "video": references.video})
        write_adapter(Path(file), self.coupling, spec, dtype or self.coupling.dtype)

    def save_coupling(self, folder: str | os.PathLike[str]) -> None:
        """Write a bundle without its bases: the coupling, and references to the bases (name and revision)."""
        root = Path(folder)
        save_component(self.coupling, root / "coupling", self.coupling.dtype)
        references = self.bases.map(lambda base: {k: v for k, v in base.reference.items() if v is not None})
        replace(self.spec, bases={"audio": references.audio, "video": references.video}).write(root)

    def preview(self, x0_hat: AV[Tensor], frames: int = 8) -> AV[np.ndarray]:
        """A quick preview of an estimate of clean latents, for display during sampling.

        Args:
            x0_hat: estimate from a sampler's callback: audio (B, C, L, M), video (B, C, T, H, W).
            frames: number of frames to decode, evenly spaced.

        Returns:
            For the first clip: audio as log-mel (time, 64), video as uint8 (frames, H, W, 3).
        """
        first = x0_hat.map(lambda x: x[:1])
        return AV(
            audio=self.bases.audio.decode_mel(first.audio)[0].float().cpu().numpy(),
            video=self.bases.video.stills(first.video, frames)[0],
        )

    @property
    def device(self) -> torch.device:
        """The device on which the networks run."""
        return self._offload[1] if self._offload else torch.device(self.coupling.device)

    def to(self, device: torch.device | str) -> Self:
        """Move every network to ``device``; disables offloading.

        Raises:
            RequestError: the device is not available.
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
        """Keep only the running part on ``device``: text encoders, then the joint model, then the decoders.

        This saves the memory of the other parts, but moves each part once per batch.

        Args:
            device: where the networks run; default: the fastest available.

        Raises:
            RequestError: the device is not available, or no device is given and there is only the CPU.
        """
        self._enable("model", offload_device(device))

    def enable_sequential_cpu_offload(self, device: torch.device | str | None = None) -> None:
        """Keep only the coupling and the running layer on ``device``: least memory, but much slower.

        Arguments and errors are those of :meth:`enable_model_cpu_offload`.
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
                cpu_offload(network, device, preload_module_classes=_weight_normed(network))
            # Small, and its layers access each other's weights, which rules out offloading it by layer.
            self.coupling.to(device)
        self._offload = (offload, device)

    def _around(self, *names: str) -> list[nn.Module]:
        """Networks of both bases with these names, in this order."""
        both = (self.bases.audio.networks, self.bases.video.networks)
        return [networks[name] for name in names for networks in both if name in networks]


def _weight_normed(network: nn.Module) -> list[str]:
    """Classes of the parts of ``network`` with weight norm.

    These have to be moved as a whole: a layer's weight is computed before a hook of the layer would move what
    it is computed from.
    """
    parts = network.children()
    return [type(part).__name__ for part in parts if any(hasattr(m, "weight_g") for m in part.modules())]


def usual_frames(rate: Fraction, most: int | None, step: int) -> int:
    """The frames of a clip of some four seconds that a video base can make.

    Args:
        rate: frames a second.
        most: the most that the base can make; None if it has no limit of its own.
        step: lengths are 1 plus a multiple of this.
    """
    frames = min(round(_USUAL_S * rate), _most_frames(most, step))
    return frames - (frames - 1) % step


def _most_frames(most: int | None, step: int) -> int:
    frames = most or MOST_FRAMES
    return frames - (frames - 1) % step


def _keep_first_noise(denoiser: Denoiser, base: Any) -> None:
    """End sampling at the noise of timestep 0, as the reference does; by default all noise is removed."""
    denoiser.process = Discrete.from_scheduler(base.scheduler, None)


def coupling_of(spec: BundleSpec, dtype: torch.dtype) -> Coupling:
    """The coupling of a bundle.

    Raises:
        RequestError: it is missing or damaged.
    """
    assert spec.folder is not None
    return load_coupling(spec.file or spec.folder / "coupling", dtype)


def load_coupling(name_or_path: str | os.PathLike[str], dtype: torch.dtype) -> Coupling:
    """Load a trained coupling from an adapter, a folder or the Hub, or from the sub-folder "coupling" there.

    Raises:
        RequestError: there is none, or its weights are damaged or incomplete.
    """
    if os.fspath(name_or_path).endswith(".safetensors"):
        return read_adapter(Path(name_or_path), dtype)
    source = locate(name_or_path, ["", "coupling"])
    inner = source.folder / "coupling"
    folder = inner if inner.is_dir() else source.folder
    found = component_class(folder)
    if found != "Coupling":
        raise RequestError([f"'{name_or_path}' holds {f'a {found}' if found else 'no coupling'}"])
    return load_network(folder, Coupling, dtype=dtype)


def fastest_device() -> str:
    """The default device: "cuda", "mps" or "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def usable_device(device: torch.device | str | None) -> torch.device:
    """``device``, or the fastest one if None.

    Raises:
        RequestError: torch cannot use the device on this machine.
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
    """The device on which offloaded networks run; the fastest one if None.

    Raises:
        RequestError: the device is not available, or no device is given and there is only the CPU.
    """
    found = usable_device(device)
    if device is None and found.type == "cpu":
        raise RequestError(["offloading needs a GPU, and torch finds none: omit it"])
    return found

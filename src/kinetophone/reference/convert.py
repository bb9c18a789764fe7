"""Conversion of the authors' released checkpoint (arXiv 2409.17550) to a bundle, as safetensors.

The checkpoint is a diffusers pipeline folder. ``unet_svg`` has the connectors and inserted blocks, ``unet_a``
and ``unet_v`` have the U-Nets (the video U-Net with tuned motion modules). Other folders have the remaining
components of the bases, with the modality as suffix (``vae_a``, ``vae_v`` …). A training run also leaves
folders ``checkpoint-N``, with an exponential moving average next to the weights (``unet_ema``). The weights
are pickles; see :mod:`kinetophone.hub.weights`.
"""

from __future__ import annotations

import inspect
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from kinetophone.av import AV, MODALITIES
from kinetophone.bases.animatediff import MOTION_ADAPTER
from kinetophone.bases.audioldm import AudioLDM
from kinetophone.bases.load import load_audio_base, load_video_base
from kinetophone.bases.unet import SUPPORTED
from kinetophone.bases.video import VideoBase
from kinetophone.bundle.load import Bundle
from kinetophone.bundle.spec import CONFIG_NAME, BundleSpec
from kinetophone.coupling.coupling import Coupling
from kinetophone.diffusion.settings import PUBLISHED_DEFAULTS
from kinetophone.errors import RequestError
from kinetophone.hub.components import component_class, quiet
from kinetophone.hub.weights import differences, find_weights, is_weight_file, read_folder
from kinetophone.reference import settings as reference
from kinetophone.text import read_json

# The bases that the released checkpoint was trained on, for components that its folder lacks.
PUBLISHED_BASES = AV(audio="cvssp/audioldm-m-full", video="SG161222/Realistic_Vision_V5.1_noVAE")
_COMPONENTS: AV[dict[str, tuple[str, ...]]] = AV(audio=AudioLDM.COMPONENTS, video=VideoBase.COMPONENTS)
_CONNECTORS = "unet_svg"  # the authors' folder, and the class named in its configuration
_CONNECTORS_CLASS = "UNetModelSVG"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Release:
    """The authors' files that are converted.

    Attributes:
        connectors: Folder of the connectors' weights.
        settings: Configuration of the connectors.
        places: Folders to search for the bases' components, the nearest first.
        notes: Choices that were made, one line each.
    """

    connectors: Path
    settings: dict[str, Any]
    places: tuple[Path, ...]
    notes: tuple[str, ...]


def convert_reference(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    audio_base: str | os.PathLike[str] = PUBLISHED_BASES.audio,
    video_base: str | os.PathLike[str] = PUBLISHED_BASES.video,
    motion_adapter: str | os.PathLike[str] | None = None,
    ema: bool = False,
    allow_pickle: bool = False,
) -> list[str]:
    """Convert the authors' pipeline folder to a bundle for ``Kinetophone.from_pretrained``.

    The bundle is written under a temporary name, loaded once as a check, and only then renamed to ``out``.

    Args:
        source: The authors' folder, a folder that contains it, or a training run's ``checkpoint-N``.
        out: The bundle's folder; must be empty or not exist.
        audio_base: Source of audio base components that ``source`` lacks.
        video_base: Source of video base components that ``source`` lacks.
        motion_adapter: Motion adapter for a ``video_base`` that is an image model.
        ema: Use the moving average of a checkpoint instead of its last weights.
        allow_pickle: Allow pickled weights, read as tensors only.

    Returns:
        Choices that were made, one line each.

    Raises:
        RequestError: ``source`` is not the authors' folder, or its tensors do not match its configuration;
            the error lists missing and unexpected names and wrong shapes.
    """
    target = Path(out)
    release = find_release(Path(source), ema)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        what = "holds a bundle already" if (target / CONFIG_NAME).exists() else "exists and is not empty"
        raise RequestError([f"'{target}' {what}: name another folder"])
    target.absolute().parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.absolute().parent))
    try:
        with quiet():
            notes = _write(release, unfinished, AV(audio_base, video_base), motion_adapter, allow_pickle)
        Bundle.from_pretrained(unfinished, device="cpu", dtype=torch.float16)
        unfinished.chmod(0o755)  # mkdtemp allows access by one user only
        unfinished.replace(target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return [*release.notes, *notes]


def find_release(source: Path, ema: bool = False) -> Release:
    """Find the authors' files in ``source``, one level below it, or in its latest ``checkpoint-N``.

    Raises:
        RequestError: There are none, or several pipelines of which none is the latest.
    """
    if not source.is_dir():
        raise RequestError([f"there is no folder '{source}'"])
    notes = []
    root = source
    # At most two steps: from an archive's folder to the run in it, and from a run to its latest checkpoint.
    while _variants(root)[0] is None and (inside := [folder for folder in _folders(root) if _holds(folder)]):
        finished = [folder for folder in inside if not _CHECKPOINT.fullmatch(folder.name)]
        if len(finished) > 1:
            names = ", ".join(folder.name for folder in finished)
            raise RequestError([f"'{root}' has several pipelines ({names}): name one of them"])
        root = finished[0] if finished else max(inside, key=_steps)
        notes.append(f"took {root.name}" + (f", one of {len(inside)}" if len(inside) > 1 else ""))
    plain, average = _variants(root)
    if plain is None and average is None:
        raise RequestError(
            [f"'{source}' is not the authors' pipeline folder: it has no folder {_CONNECTORS}"]
        )
    if ema and average is None:
        others = [folder for folder in _folders(root) if _CHECKPOINT.fullmatch(folder.name)]
        instead = f"name {max(others, key=_steps)}" if others else "leave --ema out"
        raise RequestError([f"'{root}' has no moving average (a folder such as unet_ema): {instead}"])
    chosen = average if ema or plain is None else plain
    assert chosen is not None
    if average is not None:
        if chosen is average:
            notes.append(f"took the moving average, {average.name}")
        else:
            notes.append(
                f"took the last weights, {chosen.name}; --ema takes the moving average, {average.name}"
            )
    settings = next((s for folder in (plain, average) if folder and (s := _settings(folder))), {})
    places = tuple(dict.fromkeys((root, root.parent, source)))
    return Release(chosen, settings, places, tuple(notes))


def _folders(root: Path) -> list[Path]:
    return [path for path in sorted(root.iterdir()) if path.is_dir()]


def _holds(folder: Path) -> bool:
    """Whether ``folder``, or a checkpoint in it, has connectors."""
    checkpoints = [inner for inner in _folders(folder) if _CHECKPOINT.fullmatch(inner.name)]
    return any(_variants(folder)) or any(any(_variants(inner)) for inner in checkpoints)


def _variants(root: Path) -> tuple[Path | None, Path | None]:
    """Folders in ``root`` with the connectors' weights and with their moving average."""
    found = [
        folder
        for folder in _folders(root)
        if folder.name == _CONNECTORS or component_class(folder) == _CONNECTORS_CLASS
    ]
    averages = [folder for folder in found if "ema" in folder.name.split("_")]
    plain = [folder for folder in found if folder not in averages]
    plain.sort(key=lambda folder: folder.name != _CONNECTORS)
    if plain and not averages and _CHECKPOINT.fullmatch(root.name):  # some runs have one average for all
        averages = [folder for folder in [root.parent / "unet_ema"] if folder.is_dir()]
    return plain[0] if plain else None, averages[0] if averages else None


def _steps(checkpoint: Path) -> int:
    match = _CHECKPOINT.fullmatch(checkpoint.name)
    assert match is not None
    return int(match[1])


def _write(
    release: Release,
    target: Path,
    bases: AV[str | os.PathLike[str]],
    motion_adapter: str | os.PathLike[str] | None,
    allow_pickle: bool,
) -> list[str]:
    """Write the bundle; returns the choices that were made."""
    joint = read_folder(release.connectors, allow_pickle)
    joint = {name.removeprefix("module."): tensor for name, tensor in joint.items()}
    notes: list[str] = []
    unets: dict[str, nn.Module] = {}
    configs: dict[str, dict[str, Any]] = {}
    for modality in MODALITIES:
        prefixes = (f"unet_{modality}.", f"unet_{modality[0]}.")
        inner = {
            name.removeprefix(prefix): joint.pop(name)
            for prefix in prefixes
            for name in list(joint)
            if name.startswith(prefix)
        }
        folder = _place(release.places, "unet", modality)
        nested = release.settings.get(f"unet_{modality}_config")
        base = getattr(bases, modality)
        if folder is not None:
            configs[modality] = _settings(folder)
            unet = _empty_unet(configs[modality], modality, folder)
            complete = inner.keys() >= unet.state_dict().keys()
            tensors = {**({} if complete else read_folder(folder, allow_pickle)), **inner}
            unets[modality] = _filled(unet, tensors, folder)
        elif (
            nested
            and inner
            and inner.keys() >= _empty_unet(nested, modality, release.connectors).state_dict().keys()
        ):
            configs[modality] = nested
            unets[modality] = _filled(
                _empty_unet(nested, modality, release.connectors), inner, release.connectors
            )
        else:  # the base's own U-Net, with the tensors that were trained
            loaded = _load_base(base, motion_adapter, modality, allow_pickle).unet
            configs[modality] = nested or dict(loaded.config)
            unets[modality] = _filled(loaded, {**loaded.state_dict(), **inner}, release.connectors)
            trained = f"{len(inner)} tensors" if inner else "nothing"
            notes.append(f"took the {modality} U-Net of '{base}', with {trained} of the checkpoint's own")
    coupling = _empty_coupling(AV(**unets), release.settings, AV(**configs))
    _filled(coupling, joint, release.connectors)
    coupling.save_pretrained(target / "coupling")
    for modality in MODALITIES:
        unets[modality].save_pretrained(target / modality / "unet")  # type: ignore[operator]
        rest = {
            name: _place(release.places, name, modality)
            for name in getattr(_COMPONENTS, modality)
            if name != "unet"
        }
        missing = [name for name, place in rest.items() if place is None]
        if missing:
            base = getattr(bases, modality)
            loaded = _load_base(base, motion_adapter, modality, allow_pickle)
            notes.append(f"took {', '.join(missing)} of the {modality} base from '{base}'")
        for name, place in rest.items():
            if place is None:
                getattr(loaded, name).save_pretrained(target / modality / name)
            else:
                _copy_component(place, target / modality / name, allow_pickle)
    _spec(target, _gamma(release)).write(target)
    return notes


def _settings(folder: Path) -> dict[str, Any]:
    config = folder / "config.json"
    if not config.is_file():
        return {}
    return dict(read_json(config))


def _empty_unet(config: Mapping[str, Any], modality: str, folder: Path) -> nn.Module:
    """Build the U-Net of a configuration, without weights."""
    allowed = [cls.__name__ for cls in getattr(SUPPORTED, modality)]
    found = config.get("_class_name")
    if found not in allowed:
        raise RequestError([f"'{folder}' is a {found}, but the {modality} U-Net is {' or '.join(allowed)}"])
    with torch.device("meta"):
        unet: nn.Module = _configured(getattr(diffusers, str(found)), config)
    return unet


def _configured(kind: Any, config: Mapping[str, Any]) -> Any:
    """Create a ``kind`` from the settings that it knows; other versions may have saved more."""
    known = inspect.signature(kind.__init__).parameters
    with quiet():
        return kind.from_config({key: value for key, value in config.items() if key in known})


def _empty_coupling(unets: AV[Any], settings: Mapping[str, Any], configs: AV[dict[str, Any]]) -> Coupling:
    with torch.device("meta"):
        return reference.coupling_for(unets, reference.read_settings(settings, configs))


def _filled(module: nn.Module, tensors: Mapping[str, Tensor], folder: Path) -> nn.Module:
    """Load ``tensors`` into ``module`` after checking names and shapes."""
    problems = differences(module, tensors, folder)
    if problems:
        raise RequestError(problems)
    # Copied, because weights that are views of one buffer cannot be saved.
    module.load_state_dict({name: x.clone().contiguous() for name, x in tensors.items()}, assign=True)
    return module


def _place(roots: tuple[Path, ...], component: str, modality: str) -> Path | None:
    """Folder of a component of one base in the authors' files; None if it is missing."""
    names = [f"{component}_{modality[0]}", f"{component}_{modality}"]
    if component == "vocoder":  # only one of the bases has one
        names.append(component)
    return next((root / name for root in roots for name in names if (root / name).is_dir()), None)


def _load_base(
    base: str | os.PathLike[str],
    motion_adapter: str | os.PathLike[str] | None,
    modality: str,
    allow_pickle: bool,
) -> Any:
    if modality == "audio":
        return load_audio_base(base, allow_pickle=allow_pickle)
    whole = Path(base).is_dir() and component_class(Path(base) / "unet") != "UNet2DConditionModel"
    adapter = motion_adapter or (None if whole else MOTION_ADAPTER)
    return load_video_base(base, motion_adapter=adapter, allow_pickle=allow_pickle)


def _copy_component(place: Path, target: Path, allow_pickle: bool) -> None:
    """Copy a component's folder; weights become safetensors, and schedulers those of diffusers."""
    from safetensors.torch import save_file

    if (place / "scheduler_config.json").is_file():
        _configured(DDIMScheduler, read_json(place / "scheduler_config.json")).save_pretrained(target)
        return
    target.mkdir(parents=True, exist_ok=True)
    for file in place.iterdir():
        if file.suffix in (".json", ".txt", ".model") and not is_weight_file(file.name):
            shutil.copyfile(file, target / file.name)
    if find_weights(place) is not None:
        tensors = {name: x.clone().contiguous() for name, x in read_folder(place, allow_pickle).items()}
        is_diffusers = "_class_name" in _settings(place)
        name = "diffusion_pytorch_model.safetensors" if is_diffusers else "model.safetensors"
        save_file(tensors, target / name, metadata={"format": "pt"})


def _gamma(release: Release) -> float:
    """γ from the authors' schedulers; the published value if they have none or disagree."""
    found = set()
    for modality in MODALITIES:
        place = _place(release.places, "scheduler", modality)
        if place is not None and (place / "scheduler_config.json").is_file():
            found.add(read_json(place / "scheduler_config.json").get("gamma"))
    kept = found.pop() if len(found) == 1 else None
    return float(kept) if isinstance(kept, int | float) and kept > 0 else PUBLISHED_DEFAULTS["gamma"]


def _spec(folder: Path, gamma: float) -> BundleSpec:
    """Bundle description with the published setting: 4 s of 256 px at 8 fps."""
    return BundleSpec(
        name=folder.name,
        folder=folder,
        fps=Fraction(8),
        frames=32,
        size=256,
        sample_rate=16_000,
        fps_choices=(Fraction(4), Fraction(8)),
        min_frames=1,
        max_frames=32,
        sampling="reference",
        defaults={**PUBLISHED_DEFAULTS, "gamma": gamma},
    )

"""The authors' released checkpoint (arXiv 2409.17550) as a bundle of ours: safetensors in diffusers layout.

Theirs is a diffusers pipeline folder: ``unet_svg`` holds the connectors and inserted blocks, ``unet_a`` and
``unet_v`` the U-Nets (the video one with tuned motion modules), further folders the rest of the bases, named
after the modality (``vae_a``, ``vae_v`` …). Its weights are pickles. They are read as tensors only
(``torch.load(weights_only=True)``), and only when that is asked for.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from kinetophone.av import AV, MODALITIES
from kinetophone.bases.animatediff import MOTION_ADAPTER
from kinetophone.bases.audioldm import AudioLDM
from kinetophone.bases.components import component_class
from kinetophone.bases.load import load_audio_base, load_video_base
from kinetophone.bases.video import VideoBase
from kinetophone.errors import RequestError
from kinetophone.joint import reference
from kinetophone.joint.model import SUPPORTED
from kinetophone.request import CONFIG_NAME, PUBLISHED_DEFAULTS, BundleSpec

# The pair that the released checkpoint was trained on, for components that its folder does not hold.
PUBLISHED_BASES = AV(audio="cvssp/audioldm-m-full", video="SG161222/Realistic_Vision_V5.1_noVAE")
_COMPONENTS: AV[dict[str, tuple[str, ...]]] = AV(audio=AudioLDM.COMPONENTS, video=VideoBase.COMPONENTS)
_LISTED = 5  # differing tensors named in an error


def convert_reference(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    audio_base: str | os.PathLike[str] = PUBLISHED_BASES.audio,
    video_base: str | os.PathLike[str] = PUBLISHED_BASES.video,
    motion_adapter: str | os.PathLike[str] | None = None,
    allow_pickle: bool = False,
) -> Path:
    """Convert the authors' pipeline folder to a bundle, which ``Kinetophone.from_pretrained`` loads.

    Args:
        source: their folder.
        out: the bundle's folder; must not hold a bundle yet.
        audio_base: where to take the components of the audio base from that ``source`` lacks.
        video_base: the same of the video base.
        motion_adapter: for a ``video_base`` that is an image model.
        allow_pickle: read pickled weights, as tensors only.

    Returns:
        ``out``.

    Raises:
        RequestError: if ``source`` is not theirs, or its tensors are not those of its own configuration;
            lists missing and surplus names and wrong shapes.
    """
    root, target = Path(source), Path(out)
    if not (root / "unet_svg").is_dir():
        raise RequestError([f"'{root}' is not the authors' pipeline folder: it holds no folder unet_svg"])
    if (target / CONFIG_NAME).exists():
        raise RequestError([f"'{target}' holds a bundle already: name another folder"])
    joint = read_weights(root / "unet_svg", allow_pickle)
    unets: dict[str, nn.Module] = {}
    for modality in MODALITIES:
        folder, prefixes = _place(root, "unet", modality), (f"unet_{modality}.", f"unet_{modality[0]}.")
        inner = {
            name.removeprefix(prefix): joint.pop(name)
            for prefix in prefixes
            for name in list(joint)
            if name.startswith(prefix)
        }
        if folder is None:
            raise RequestError([f"'{root}' has no {modality} U-Net: unet_{modality[0]} is missing"])
        unets[modality] = _filled(
            _empty_unet(folder, modality), inner or read_weights(folder, allow_pickle), folder
        )
    pair: AV[Any] = AV(**unets)
    with torch.device("meta"):
        coupling = reference.coupling_for(pair, _settings(root / "unet_svg"))
    _filled(coupling, joint, root / "unet_svg")
    target.mkdir(parents=True, exist_ok=True)
    coupling.save_pretrained(target / "coupling")
    for modality, base in (("audio", audio_base), ("video", video_base)):
        unets[modality].save_pretrained(target / modality / "unet")  # type: ignore[operator]
        places = {name: _place(root, name, modality) for name in getattr(_COMPONENTS, modality)}
        _copy_rest(places, base, motion_adapter, target / modality, modality, allow_pickle)
    _spec(target).write(target)
    return target


def read_weights(folder: Path, allow_pickle: bool) -> dict[str, Tensor]:
    """All tensors of a folder's weight files, on the CPU.

    Raises:
        RequestError: if there are none, they are pickled and ``allow_pickle`` is not set, or they are damaged
            or hold more than tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    safe, pickled = sorted(folder.glob("*.safetensors")), sorted(folder.glob("*.bin"))
    if not safe and not pickled:
        raise RequestError([f"'{folder}' has no weights (*.safetensors or *.bin)"])
    if not safe and not allow_pickle:
        raise RequestError(
            [
                f"'{folder}' has only pickled weights ({pickled[0].name}), which can run code: "
                "allow_pickle (--allow-pickle) reads them, as tensors only"
            ]
        )
    tensors: dict[str, Tensor] = {}
    for file in safe or pickled:
        try:
            found = load_file(file) if safe else torch.load(file, map_location="cpu", weights_only=True)
        except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise RequestError([f"'{file}' is damaged or holds more than tensors ({reason})"]) from None
        if not isinstance(found, dict) or not all(isinstance(x, Tensor) for x in found.values()):
            raise RequestError([f"'{file}' holds no weights by name"])
        tensors |= found
    return tensors


def _settings(folder: Path) -> dict[str, Any]:
    config = folder / "config.json"
    return dict(json.loads(config.read_text(encoding="utf-8"))) if config.is_file() else {}


def _empty_unet(folder: Path, modality: str) -> nn.Module:
    """The U-Net that ``folder`` describes, without weights."""
    allowed = [cls.__name__ for cls in getattr(SUPPORTED, modality)]
    found = component_class(folder)
    if found not in allowed:
        raise RequestError([f"'{folder}' is a {found}, but the {modality} U-Net is {' or '.join(allowed)}"])
    cls: Any = getattr(diffusers, str(found))
    with torch.device("meta"):
        unet: nn.Module = cls.from_config(cls.load_config(folder))
    return unet


def _filled(module: nn.Module, tensors: Mapping[str, Tensor], folder: Path) -> nn.Module:
    """``module`` with ``tensors`` as its weights, after comparing names and shapes."""
    wanted = {name: tuple(x.shape) for name, x in module.state_dict().items()}
    given = {name: tuple(x.shape) for name, x in tensors.items()}
    both = wanted.keys() & given.keys()
    different = {
        "lacks": sorted(wanted.keys() - both),
        "has, without a place for them,": sorted(given.keys() - both),
        "has in another shape": [
            f"{name} {given[name]}, expected {wanted[name]}"
            for name in sorted(both)
            if given[name] != wanted[name]
        ],
    }
    problems = [
        f"'{folder}' {what} {len(names)} tensors: {', '.join(names[:_LISTED])}"
        + (" …" if len(names) > _LISTED else "")
        for what, names in different.items()
        if names
    ]
    if problems:
        raise RequestError(problems)
    module.load_state_dict(dict(tensors), assign=True)
    return module


def _place(root: Path, component: str, modality: str) -> Path | None:
    """Where their folder keeps a component of one base; None if it does not."""
    names = (f"{component}_{modality[0]}", f"{component}_{modality}", component)
    return next((root / name for name in names if (root / name).is_dir()), None)


def _copy_rest(
    places: Mapping[str, Path | None],
    base: str | os.PathLike[str],
    motion_adapter: str | os.PathLike[str] | None,
    target: Path,
    modality: str,
    allow_pickle: bool,
) -> None:
    """Write the components beside the U-Net: theirs where they have all of them, else the base's own."""
    rest = {name: place for name, place in places.items() if name != "unet"}
    if all(rest.values()):
        for name, place in rest.items():
            assert place is not None
            _copy_component(place, target / name, allow_pickle)
        return
    loaded: Any
    if modality == "audio":
        loaded = load_audio_base(base, allow_pickle=allow_pickle)
    else:
        whole = Path(base).is_dir() and component_class(Path(base) / "unet") != "UNet2DConditionModel"
        adapter = motion_adapter or (None if whole else MOTION_ADAPTER)
        loaded = load_video_base(base, motion_adapter=adapter, allow_pickle=allow_pickle)
    for name in rest:
        getattr(loaded, name).save_pretrained(target / name)


def _copy_component(place: Path, target: Path, allow_pickle: bool) -> None:
    """Copy a component's folder; pickled weights become safetensors."""
    from safetensors.torch import save_file

    target.mkdir(parents=True, exist_ok=True)
    for file in place.iterdir():
        if file.is_file() and not file.name.endswith((".bin", ".bin.index.json")):
            shutil.copyfile(file, target / file.name)
    if list(place.glob("*.bin")) and not list(place.glob("*.safetensors")):
        tensors = {name: x.contiguous().clone() for name, x in read_weights(place, allow_pickle).items()}
        is_diffusers = "_class_name" in _settings(place)
        name = "diffusion_pytorch_model.safetensors" if is_diffusers else "model.safetensors"
        save_file(tensors, target / name, metadata={"format": "pt"})


def _spec(folder: Path) -> BundleSpec:
    """The published setting: 4 s of 256 px at 8 frames per second."""
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
        defaults=dict(PUBLISHED_DEFAULTS),
    )

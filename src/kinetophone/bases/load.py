"""Load a base by its name. The class of its network determines its family."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from kinetophone.bases.animatediff import AnimateDiff
from kinetophone.bases.audioldm import AudioLDM
from kinetophone.bases.stable_audio import StableAudio
from kinetophone.bases.texts import TextCache
from kinetophone.bases.unet3d import UNet3D
from kinetophone.bases.wan import Wan
from kinetophone.errors import RequestError, reason
from kinetophone.hub.components import component_class
from kinetophone.hub.locate import locate, small_file

FAMILIES: dict[str, tuple[Any, ...]] = {
    "audio": (AudioLDM, StableAudio),
    "video": (AnimateDiff, UNet3D, Wan),
}


def load_audio_base(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    allow_pickle: bool = False,
    text_cache: str | os.PathLike[str] | None = None,
) -> Any:
    """Load an audio model from a folder or the Hub.

    Args:
        name: local folder or Hub id.
        revision: branch, tag or commit on the Hub.
        dtype: dtype of the networks; autoencoder and vocoder are always float32.
        allow_pickle: whether pickled weights may be downloaded and read.
        text_cache: folder of text states, see :class:`kinetophone.bases.texts.TextCache`; the text encoder
            is then loaded, and downloaded, only for texts without states there.

    Returns:
        A base of one of the audio families in ``FAMILIES``.

    Raises:
        RequestError: if the model is not found or its family is not supported.
    """
    family = family_of(os.fspath(name), revision, "audio")
    return _load(family, name, revision, text_cache, dtype=dtype, allow_pickle=allow_pickle)


def load_video_base(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    motion_adapter: str | os.PathLike[str] | None = None,
    adapter_revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    allow_pickle: bool = False,
    text_cache: str | os.PathLike[str] | None = None,
) -> Any:
    """Load a video model from a folder or the Hub.

    Args:
        name: local folder or Hub id.
        revision: branch, tag or commit on the Hub.
        motion_adapter: folder or Hub id of motion modules for an image model, see :class:`AnimateDiff`.
        adapter_revision: branch, tag or commit of the motion modules on the Hub.
        dtype: dtype of the networks; autoencoder and vocoder are always float32.
        allow_pickle: whether pickled weights may be downloaded and read.
        text_cache: see :func:`load_audio_base`.

    Returns:
        A base of one of the video families in ``FAMILIES``.

    Raises:
        RequestError: if the model is not found or its family is not supported.
    """
    family = family_of(os.fspath(name), revision, "video")
    options: dict[str, Any] = {"dtype": dtype, "allow_pickle": allow_pickle}
    if family is AnimateDiff:
        options |= {"motion_adapter": motion_adapter, "adapter_revision": adapter_revision}
    elif motion_adapter is not None:
        raise RequestError([f"'{name}' has its own motion modules; omit the motion adapter"])
    return _load(family, name, revision, text_cache, **options)


def _load(
    family: Any,
    name: str | os.PathLike[str],
    revision: str | None,
    text_cache: str | os.PathLike[str] | None,
    *,
    dtype: torch.dtype,
    allow_pickle: bool,
    **options: Any,
) -> Any:
    options |= {"dtype": dtype, "allow_pickle": allow_pickle}
    if text_cache is None:
        return family.from_source(locate(name, family.COMPONENTS, revision, allow_pickle), **options)
    components = [part for part in family.COMPONENTS if part != "text_encoder"]
    source = locate(name, components, revision, allow_pickle)
    base = family.from_source(source, text_encoder=False, **options)
    # The files of a commit never change; those of a folder are read.
    known = source.revision or base.text_fingerprint()
    base.texts = TextCache(
        Path(text_cache), source, known, family.COMPONENTS["text_encoder"], dtype, allow_pickle
    )
    return base


def family_of(name: str, revision: str | None, modality: str, folder: str = "") -> Any:
    """The family of a model, from the configuration of its network, the only file that is downloaded.

    Args:
        name: local folder or Hub id.
        revision: branch, tag or commit on the Hub.
        modality: "audio" or "video".
        folder: sub-folder that holds the base.

    Raises:
        RequestError: if the model is not found or its family is not supported.
    """
    families = FAMILIES[modality]
    found = []
    for place in dict.fromkeys(family.NETWORK for family in families):
        try:
            config = small_file(name, f"{folder}/{place}/config.json".lstrip("/"), revision)
        except ConnectionError as error:
            raise RequestError(
                [
                    f"the Hub cannot be reached for '{name}', which was not downloaded before "
                    f"({reason(error)}): connect to the internet, or give a local folder"
                ]
            ) from error
        if config is None:
            continue
        named = component_class(Path(config).parent)
        for family in families:
            if place == family.NETWORK and named in family.NETWORKS:
                return family
        found.append(f"a {named} in {place}/")
    known = [name for family in families for name in family.NETWORKS]
    raise RequestError(
        [
            f"'{name}' has {' and '.join(found) or 'no network in unet/ or transformer/'}; {modality} "
            f"bases need {' or '.join(known)}"
        ]
    )

"""Loading a base by what it is called, whatever its family."""

from __future__ import annotations

import os
from typing import Any

import torch

from kinetophone.bases.animatediff import AnimateDiff
from kinetophone.bases.audioldm import AudioLDM
from kinetophone.bases.unet3d import UNet3D
from kinetophone.bases.video import VideoBase
from kinetophone.errors import RequestError
from kinetophone.hub.components import component_class
from kinetophone.hub.locate import locate


def load_audio_base(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    allow_pickle: bool = False,
) -> AudioLDM:
    """Load an AudioLDM from a folder or the Hub.

    Raises:
        RequestError: if it is not there or not an AudioLDM.
    """
    source = locate(name, AudioLDM.COMPONENTS, revision, allow_pickle)
    return AudioLDM.from_source(source, dtype=dtype, allow_pickle=allow_pickle)


def load_video_base(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    motion_adapter: str | os.PathLike[str] | None = None,
    adapter_revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    allow_pickle: bool = False,
) -> VideoBase:
    """Load a video model from a folder or the Hub; the class of its U-Net says which family it is of.

    Args:
        name: folder or Hub id.
        revision: on the Hub.
        motion_adapter: motion modules for an image model, see :class:`AnimateDiff`.
        adapter_revision: of the motion modules on the Hub.
        dtype: of the networks.
        allow_pickle: whether pickled weights may be fetched and read.

    Raises:
        RequestError: if it is not there or of no family that is supported.
    """
    source = locate(name, VideoBase.COMPONENTS, revision, allow_pickle)
    found = component_class(source.folder / "unet")
    options: dict[str, Any] = {"dtype": dtype, "allow_pickle": allow_pickle}
    if found in UNet3D.UNETS:
        if motion_adapter is not None:
            raise RequestError([f"'{name}' has a {found}, which takes no motion adapter: leave it out"])
        return UNet3D.from_source(source, **options)
    if found in AnimateDiff.UNETS:
        return AnimateDiff.from_source(
            source, motion_adapter=motion_adapter, adapter_revision=adapter_revision, **options
        )
    raise RequestError(
        [
            f"'{name}' has {f'a {found}' if found else 'nothing'} in unet/, where a video base has "
            + " or ".join((*AnimateDiff.UNETS, *UNet3D.UNETS))
        ]
    )

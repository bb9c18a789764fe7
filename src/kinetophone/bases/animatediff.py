"""AnimateDiff (arXiv 2307.04725): a latent image model with motion modules, ``UNetMotionModel``.

It is either one complete model, or an image model of the Stable Diffusion 1.5 type and a ``MotionAdapter``
that was trained for it (``guoyww/animatediff-motion-adapter-v1-5-2``, ``…-v1-5-3``).
"""

from __future__ import annotations

import os
from typing import Any, ClassVar

import torch

from kinetophone.bases.video import VideoBase
from kinetophone.errors import RequestError
from kinetophone.hub.components import component_class, load_network, quiet
from kinetophone.hub.locate import Source, locate

MOTION_ADAPTER = "guoyww/animatediff-motion-adapter-v1-5-2"
# The schedule that the adapters were trained with. It differs from that of the image model.
SCHEDULE = {
    "beta_schedule": "linear",
    "timestep_spacing": "linspace",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


class AnimateDiff(VideoBase):
    """A base of ``UNetMotionModel``, a CLIP text encoder and an image autoencoder."""

    NETWORKS: ClassVar[tuple[str, ...]] = ("UNetMotionModel", "UNet2DConditionModel")

    @classmethod
    def from_source(
        cls,
        source: Source,
        *,
        motion_adapter: str | os.PathLike[str] | None = None,
        adapter_revision: str | None = None,
        dtype: torch.dtype = torch.float32,
        allow_pickle: bool = False,
        text_encoder: bool = True,
    ) -> AnimateDiff:
        """Load the components from ``source``.

        Args:
            source: a complete AnimateDiff model, or an image model that gets motion modules.
            motion_adapter: folder or Hub id of the motion modules for an image model; the published ones if
                not given.
            adapter_revision: branch, tag or commit of the motion modules on the Hub.
            dtype: dtype of the U-Net and the text encoder; the autoencoder is always float32.
            allow_pickle: whether pickled weights may be downloaded and read.
            text_encoder: see :meth:`Base.from_source`.

        Raises:
            RequestError: if a component is missing, has an unsupported class, or does not fit the others.
        """
        reference: dict[str, Any] = {"name": source.name, "revision": source.revision}
        whole = component_class(source.folder / "unet") == "UNetMotionModel"
        if whole and motion_adapter is not None:
            raise RequestError([f"'{source.name}' has its own motion modules; omit the motion adapter"])
        adapter_source = None
        if not whole:  # located before the image model is loaded, which takes long
            adapter_source = locate(motion_adapter or MOTION_ADAPTER, [""], adapter_revision, allow_pickle)
            reference["motion_adapter"] = adapter_source.name
            reference["adapter_revision"] = adapter_source.revision
        parts = cls.load_parts(source, dtype, allow_pickle, text_encoder)
        if adapter_source is not None:
            parts["unet"] = _with_motion(parts["unet"], adapter_source, dtype, allow_pickle)
            parts["scheduler"] = type(parts["scheduler"]).from_config(
                {**parts["scheduler"].config, **SCHEDULE}
            )
        return cls(**parts, reference=reference)


def _with_motion(image_unet: Any, source: Source, dtype: torch.dtype, allow_pickle: bool) -> Any:
    from diffusers import MotionAdapter, UNetMotionModel

    found = component_class(source.folder)
    if found != "MotionAdapter":
        raise RequestError([f"'{source.name}' is a {found or 'folder without a model'}, not a MotionAdapter"])
    adapter = load_network(source.folder, MotionAdapter, dtype=dtype, allow_pickle=allow_pickle)
    widths, wanted = list(adapter.config.block_out_channels), list(image_unet.config.block_out_channels)
    if widths != wanted:
        raise RequestError(
            [f"the motion adapter '{source.name}' has widths {widths}, but the image model {wanted}"]
        )
    with quiet():
        return UNetMotionModel.from_unet2d(image_unet, adapter).to(dtype).eval()

"""The U-Nets of diffusers as denoisers.

Video: ``UNetMotionModel`` and ``UNet3DConditionModel``. Audio: ``UNet2DConditionModel``. All use a DDPM
process. Their sites are the down and up blocks of each level.

Shape legend: B batch, C latent channels, T video frames, H, W video latent size, L audio latent steps,
M mel bins of the audio latent, S text tokens, D text width.
"""

from __future__ import annotations

from typing import Any

from diffusers import UNet2DConditionModel, UNet3DConditionModel, UNetMotionModel
from torch import Tensor

from kinetophone.av import AV, MODALITIES
from kinetophone.bases.protocol import Conditioning, Denoiser, Shared, Site
from kinetophone.diffusion.process import Discrete

SUPPORTED = AV(audio=(UNet2DConditionModel,), video=(UNetMotionModel, UNet3DConditionModel))


def denoisers(unets: AV[Any], schedulers: AV[Any] | None = None) -> AV[Denoiser]:
    """Make denoisers of a pair of U-Nets.

    Args:
        unets: the networks.
        schedulers: their diffusers schedulers; the default DDPM process of diffusers if not given.

    Raises:
        TypeError: if the class of a U-Net is not supported.
    """
    from diffusers import DDIMScheduler

    for modality in MODALITIES:
        unet, allowed = getattr(unets, modality), getattr(SUPPORTED, modality)
        if not isinstance(unet, allowed):
            raise TypeError(
                f"the {modality} U-Net is a {type(unet).__name__}, which is not supported: "
                f"use {' or '.join(cls.__name__ for cls in allowed)}"
            )
    schedulers = schedulers or AV.both(DDIMScheduler(clip_sample=False))
    return AV(
        audio=AudioUNet(unets.audio, Discrete.from_scheduler(schedulers.audio)),
        video=VideoUNet(unets.video, Discrete.from_scheduler(schedulers.video)),
    )


class _UNet(Denoiser):
    @property
    def latent_channels(self) -> int:
        return int(self.network.config.in_channels)

    @property
    def time_width(self) -> int:
        return int(self.network.time_embedding.linear_2.out_features)

    def sites(self) -> tuple[Site, ...]:
        widths = list(self.network.config.block_out_channels)
        down = [
            Site(f"down_blocks.{i}", width, "map", read=_first, write=_skipped)
            for i, width in enumerate(widths)
        ]
        return (*down, *(Site(f"up_blocks.{j}", width, "map") for j, width in enumerate(reversed(widths))))

    def embed_time(self, level: Tensor) -> Tensor:
        unet = self.network
        embedding = unet.time_embedding(unet.time_proj(self.network_time(level)).to(unet.dtype))
        activation = getattr(unet, "time_embed_act", None)
        return embedding if activation is None else activation(embedding)

    def _down_to(self, first: str) -> list[str]:
        """Paths of the down blocks, up to the first conditioned one."""
        paths = [f"down_blocks.{i}" for i in range(len(self.network.down_blocks))]
        return paths[: paths.index(first) + 1] if first in paths else paths

    @property
    def multiple(self) -> int:
        """Total downsampling factor: the sides of a map must be multiples of it."""
        return int(2 ** (len(self.network.config.block_out_channels) - 1))


class AudioUNet(_UNet):
    """Audio U-Net on latents (B, C, L, M). The conditioning is a text embedding (B, D), as class labels."""

    per_frame, latent_dims = False, 4

    def shared(self, first: str) -> tuple[Shared, ...]:
        # The text is part of the embedding of the level. The first convolution is not worth it.
        return tuple(Shared(path, "conditioning") for path in self._down_to(first))

    def __call__(self, x: Tensor, level: Tensor, conditioning: Conditioning) -> Tensor:
        time = self.network_time(level)
        return self.network(
            x, time, encoder_hidden_states=None, class_labels=conditioning, return_dict=False
        )[0]

    def check(self, x: Tensor) -> None:
        multiple, (length, bins) = self.multiple, x.shape[2:]
        if length % multiple or bins % multiple:
            raise ValueError(
                f"audio latents are {length} × {bins} (time × mel), but the audio U-Net needs multiples of "
                f"{multiple}: pad with zeros to {-(-length // multiple) * multiple} × "
                f"{-(-bins // multiple) * multiple} and cut after generation"
            )


class VideoUNet(_UNet):
    """Video U-Net on latents (B, C, T, H, W). The conditioning is the text's hidden states (B, S, D)."""

    per_frame, latent_dims = True, 5

    def shared(self, first: str) -> tuple[Shared, ...]:
        network, found, conditioned = self.network, ["conv_in"], False
        if hasattr(network, "transformer_in"):  # UNet3DConditionModel: over time, without text
            found.append("transformer_in")
        shared = [Shared(path, "latents") for path in found]
        for path in self._down_to(first):
            conditioned |= bool(getattr(network.get_submodule(path), "has_cross_attention", False))
            shared.append(Shared(path, "conditioning" if conditioned else "latents"))
        keys_and_values = ("attn2.to_k", "attn2.to_v")
        return (
            *shared,
            *(
                Shared(path, "text")
                for path, _ in network.named_modules()
                if path.endswith(keys_and_values) and ".attentions." in path
            ),
        )

    def __call__(self, x: Tensor, level: Tensor, conditioning: Conditioning) -> Tensor:
        assert isinstance(conditioning, Tensor)
        if isinstance(self.network, UNetMotionModel):
            # It repeats the timestep embedding for each frame, but expects the text already repeated.
            # UNet3DConditionModel repeats both (diffusers 0.42).
            conditioning = conditioning.repeat_interleave(x.shape[2], dim=0)
        time = self.network_time(level)
        return self.network(x, time, encoder_hidden_states=conditioning, return_dict=False)[0]


def _first(output: Any) -> Tensor:
    return output[0]


def _skipped(output: Any, changed: Tensor) -> Any:
    """Replace a down block's output, which is also its last skip connection."""
    return changed, (*output[1][:-1], changed)

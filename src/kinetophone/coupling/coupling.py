"""The coupling: all new parameters that turn two frozen diffusion models into one joint model.

Each modality has a connector that reads its latent (``connector_out_<modality>``). Each site of a network
has a block that conditions it on the feature of the other modality. For a U-Net the block is named
``connector_in_<modality>.<0 down, 1 up>.<block>.0``, for a transformer ``connector_in_<modality>.<k>``.

A coupling is a diffusers model: it saves to, and loads from, a folder of ``config.json`` and safetensors. For
U-Nets its parameter names are those of the checkpoint published with arXiv 2409.17550.

Shape legend: B batch, K feature channels, T' feature time steps, E width of a timestep embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from kinetophone.av import AV
from kinetophone.bases.protocol import Denoiser
from kinetophone.coupling.blocks import BLOCKS
from kinetophone.coupling.connectors import AudioConnector, NormAxis, VideoConnector
from kinetophone.coupling.settings import (
    InsertedSite,
    differences,
    fitting,
    head_dims,
    inserted_sites,
    problems,
)
from kinetophone.coupling.times import Alignment, SiteTimes
from kinetophone.errors import RequestError


class Coupling(ModelMixin, ConfigMixin):
    """Connectors and blocks for a pair of networks. A new coupling does not change their outputs.

    The architecture follows arXiv 2409.17550. :meth:`for_denoisers` derives the arguments from the networks.

    Args:
        audio_channels: channels of the audio latent.
        video_channels: channels of the video latent.
        audio_widths: ``block_out_channels`` of the audio U-Net. For a transformer it is one number: the unit
            of the connector's widths.
        video_widths: the same for the video network.
        audio_with_connector: whether blocks are conditioned, one flag per level of the audio U-Net.
        video_with_connector: the same for the video U-Net.
        audio_sites: path and width of each conditioned block of an audio transformer; None for a U-Net.
        video_sites: the same for a video transformer.
        audio_time_width: width of the audio network's timestep embedding; 4 times its first width if not
            given.
        video_time_width: the same for the video network.
        audio_stack: only CMC-PE: number of audio feature steps within one step of the video network that an
            encoding includes.
        video_stack: the same for video feature steps within one step of the audio network.
        substeps: number of features per video latent step, except the first. For a causal latent it is the
            number of frames per step.
        coupling: "cmc_pe" is the method. "in_place" is CMC-PE before the self-attention that a transformer
            block already has. "cross_attention" is the CoDi-style baseline with one token.
            "timed_cross_attention" attends to the whole time series, with rotary embeddings of the times.
        connector_input: "x_pred" (the noisy latent and the last estimate of the clean latent) or "x_cur" (the
            noisy latent only).
        connector_channels: feature channels K.
        channel_mult: width of each connector level, in units of the first width of its U-Net.
        num_blocks: residual blocks of each connector level.
        head_dim: width of an attention head in the inserted blocks; or a pair, for audio and video.
        feature_norm: axis along which a feature has unit L2 norm. "channel": a unit vector at each time.
            "time": each channel is a unit time series, as in the published checkpoint. The token of
            "cross_attention" is always normalised over its channels.
        temporal_norm: axis of the statistics in the video connector's temporal attention; "time" as in the
            published checkpoint.
        window: only CMC-PE: number of feature steps on either side that an encoding includes.
        alignment: "seconds": a moment of one modality is aligned with the same moment of the other.
            "stretched", which the published checkpoint needs: one modality is spread evenly over the other,
            padding included; see :mod:`kinetophone.coupling.times`. The default is for configurations saved
            before this setting existed; :meth:`for_denoisers` uses "seconds".
        ff_mult: only cross-attentions: inner width of a block's feed-forward, in units of the block's width.
            :func:`matched_ff_mult` gives the value that matches the size of a CMC-PE coupling.

    Raises:
        RequestError: if settings are invalid or inconsistent; it lists all problems.
    """

    config_name = "config.json"
    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        audio_channels: int = 8,
        video_channels: int = 4,
        audio_widths: Sequence[int] = (192, 384, 576, 960),
        video_widths: Sequence[int] = (320, 640, 1280, 1280),
        audio_with_connector: Sequence[bool] = (False, False, True, True),
        video_with_connector: Sequence[bool] = (False, False, True, True),
        coupling: str = "cmc_pe",
        connector_input: str = "x_pred",
        connector_channels: int = 1280,
        channel_mult: Sequence[int] = (2, 4),
        num_blocks: Sequence[int] = (1, 1),
        head_dim: int | Sequence[int] = 8,
        feature_norm: NormAxis = "channel",
        temporal_norm: NormAxis = "channel",
        window: int = 0,
        ff_mult: float = 4.0,
        alignment: Alignment = "stretched",
        audio_sites: Sequence[Sequence[Any]] | None = None,
        video_sites: Sequence[Sequence[Any]] | None = None,
        audio_time_width: int | None = None,
        video_time_width: int | None = None,
        audio_stack: int = 1,
        video_stack: int = 1,
        substeps: int = 1,
    ) -> None:
        super().__init__()
        if found := problems(self.config):
            raise RequestError(found)
        self.gradient_checkpointing = False
        inputs = 2 if connector_input == "x_pred" else 1
        make_block, own = BLOCKS[coupling]
        widths = head_dims(self.config)
        # In this order, because that of the parameters must be the published one.
        for modality, other in (("video", "audio"), ("audio", "video")):
            given = {**self.config, "stack": self.config[f"{other}_stack"]}
            settings: dict[str, Any] = {key: given[key] for key in own}
            blocks: dict[str, nn.Module] = {
                site.name: make_block(
                    site.channels, connector_channels, getattr(widths, modality), **settings
                )
                for site in self.sites(modality)
            }
            self.add_module(f"connector_in_{modality}", _nested(blocks, self.config[f"{modality}_sites"]))
        self.connector_out_video = VideoConnector(
            inputs * video_channels,
            video_widths[0],
            channel_mult,
            num_blocks,
            connector_channels,
            temporal_norm,
            video_time_width,
            substeps,
        )
        self.connector_out_audio = AudioConnector(
            inputs * audio_channels,
            audio_widths[0],
            channel_mult,
            num_blocks,
            connector_channels,
            audio_time_width,
        )

    @classmethod
    def for_denoisers(
        cls,
        denoisers: AV[Denoiser],
        rates: AV[float] | None = None,
        *,
        coupling: str = "cmc_pe",
        with_connector: Sequence[bool] | AV[Sequence[bool]] | None = None,
        **settings: Any,
    ) -> Coupling:
        """Make a new coupling for two networks, of a size that fits them.

        Args:
            denoisers: the denoisers of the bases.
            rates: latent steps a second of each modality; see :func:`~kinetophone.coupling.settings.fitting`.
            coupling: kind of the coupling, as in :class:`Coupling`.
            with_connector: only for U-Nets: one flag per level, the same for both or a pair; by default the
                deeper half.
            **settings: further arguments of :class:`Coupling`, by name.

        Returns:
            The coupling, on the CPU in float32.
        """
        found = fitting(denoisers, rates, coupling, with_connector, settings.get("channel_mult"))
        return cls(**{"coupling": coupling, "alignment": "seconds", **found, **settings})

    def sites(self, modality: str) -> tuple[InsertedSite, ...]:
        """The conditioned sites of that modality's network, in the order of the forward pass."""
        return inserted_sites(self.config, modality)

    @property
    def in_place(self) -> bool:
        """Whether blocks act on the input of the networks' own self-attention, not on a block's output."""
        return bool(getattr(BLOCKS[self.config.coupling][0], "in_place", False))

    def features(self, latents: AV[Tensor], embeddings: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Tensor]:
        """Run both connectors. ``features.audio`` is made *from* audio and conditions the *video* network.

        Args:
            latents: noisy latents, audio (B, C, L, M) and video (B, C, T, H, W).
            embeddings: timestep embedding (B, E) of each network at the noise level of its latent.
            x0_hat: estimates of the clean latents, in the shapes of the latents; zeros if None. Ignored with
                "x_cur".

        Returns:
            Time series (B, K, T'); with "cross_attention" one token (B, 1, K).
        """
        inputs = latents
        if self.config.connector_input == "x_pred":
            x0_hat = latents.map(torch.zeros_like) if x0_hat is None else x0_hat
            inputs = latents.map(lambda x, x0: torch.cat([x, x0.to(x.dtype)], dim=1), x0_hat)
        # Some bases keep their time embedding in float32.
        embeddings = embeddings.map(lambda embedding, x: embedding.to(x.dtype), inputs)
        return AV(
            audio=self._normalised(self.connector_out_audio(inputs.audio, embeddings.audio)),
            video=self._normalised(self.connector_out_video(inputs.video, embeddings.video)),
        )

    def condition(
        self, name: str, x: Tensor, feature: Tensor, per_frame: bool, times: SiteTimes | None = None
    ) -> Tensor:
        """Condition the tokens of a site on the other modality's feature.

        Args:
            name: name of an inserted block, from :meth:`sites`.
            x: tokens (B, R, S, C): R steps along time of S positions each.
            feature: the feature made from the *other* modality.
            per_frame: whether tokens attend to one another within a step only (video), or within the whole
                clip (audio).
            times: times of the site's and the feature's steps; None with the alignment "stretched".

        Returns:
            The conditioned tokens, in the shape of ``x``.
        """
        block = self.get_submodule(name)
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(block, x, feature, per_frame, times)
        return block(x, feature, per_frame, times)

    def check(self, denoisers: AV[Denoiser]) -> None:
        """Check that this coupling was made for networks like these.

        Raises:
            RequestError: if it was not; its line has all differences.
        """
        if found := differences(self.config, denoisers, attention=self.in_place):
            remedy = "use those that it was trained with, or make a new coupling with Coupling.for_denoisers"
            raise RequestError([f"the coupling belongs to other bases ({'; '.join(found)}): {remedy}"])

    def _normalised(self, series: Tensor) -> Tensor:
        """Time series (B, K, T') -> feature of unit norm, in the form that the inserted blocks take."""
        if self.config.coupling == "cross_attention":
            return F.normalize(series.mean(dim=2), dim=1)[:, None]
        return F.normalize(series, dim=2 if self.config.feature_norm == "time" else 1)


def _nested(blocks: dict[str, nn.Module], listed: Any) -> nn.ModuleList:
    """Nest blocks according to their names: a list for a transformer, down and up stages for a U-Net."""
    if listed is not None:
        return nn.ModuleList(blocks.values())
    stages = [nn.ModuleDict(), nn.ModuleDict()]
    for name, block in blocks.items():
        _, stage, index, _ = name.split(".")
        stages[int(stage)][index] = nn.ModuleList([block])
    return nn.ModuleList(stages)


def trainable(module: nn.Module) -> int:
    """Number of trainable parameters, without the unused queries and keys of a single-token attention."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def matched_ff_mult(denoisers: AV[Denoiser], like: Coupling, **settings: Any) -> float:
    """The ``ff_mult`` with which a cross-attention has as many trainable parameters as ``like``.

    Args:
        denoisers: the denoisers of the bases.
        like: the coupling to match.
        **settings: settings of the cross-attention, as in :meth:`Coupling.for_denoisers`.

    Raises:
        RequestError: if the cross-attention is larger than ``like`` even with an ``ff_mult`` of 1/8.
    """
    small, large = (
        trainable(Coupling.for_denoisers(denoisers, ff_mult=mult, **settings)) for mult in (1.0, 2.0)
    )
    mult = 1 + (trainable(like) - small) / (large - small)  # the number of parameters is linear in ff_mult
    if mult < 1 / 8:
        sizes = f"{small:,} parameters, too many to match {trainable(like):,}"
        raise RequestError([f"with ff_mult 1 this coupling has {sizes}"])
    return round(mult, 2)

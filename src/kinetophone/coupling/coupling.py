"""The coupling: all new parameters that turn two frozen diffusion models into one joint model.

Each modality has a connector that reads its latent (``connector_out_<modality>``). Each site of a network
has a block that conditions it on the feature of the other modality. For a U-Net the block is named
``connector_in_<modality>.<0 down, 1 up>.<block>.0``, for a transformer ``connector_in_<modality>.<k>``.

A coupling is a diffusers model: it saves to, and loads from, a folder of ``config.json`` and safetensors. For
U-Nets its parameter names are those of the checkpoint published with arXiv 2409.17550.

Shape legend: B batch, K feature channels, T' feature time steps, E width of a timestep embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from kinetophone.av import AV, MODALITIES
from kinetophone.bases.protocol import Denoiser
from kinetophone.bases.protocol import Site as NetworkSite
from kinetophone.coupling.blocks.cmc_pe import CMCPEBlock
from kinetophone.coupling.blocks.cross_attention import CrossAttentionBlock
from kinetophone.coupling.blocks.in_place import InPlaceBlock
from kinetophone.coupling.blocks.timed_attention import TimedCrossAttentionBlock
from kinetophone.coupling.connectors import FRAME_SHIFT_GROUPS, AudioConnector, NormAxis, VideoConnector
from kinetophone.coupling.times import ALIGNMENTS, Alignment, SiteTimes
from kinetophone.errors import RequestError

# The block of each kind of coupling, and the settings that only this block takes.
BLOCKS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "cmc_pe": (CMCPEBlock, ("window", "stack")),
    "in_place": (InPlaceBlock, ("stack",)),
    "cross_attention": (CrossAttentionBlock, ("ff_mult",)),
    "timed_cross_attention": (TimedCrossAttentionBlock, ("ff_mult",)),
}
OWN_DEFAULTS = {"window": 0, "ff_mult": 4.0}
# For transformers: the unit of the connectors' widths, the feature channels, the number of conditioned
# blocks if blocks are inserted, and the maximal number of feature steps stacked within one step of a site.
_TOKEN_WIDTH, _TOKEN_FEATURES, _SITES, _MOST_STACKED = 128, 32, 8, 4
CONNECTOR_INPUTS = ("x_pred", "x_cur")
NORM_AXES = ("time", "channel")


@dataclass(frozen=True, slots=True)
class Site:
    """Where a block of the coupling acts.

    Attributes:
        path: Path of the module in the network. The block acts on its output, or on its self-attention's
            input.
        channels: Width C of the tokens there.
        name: Name of the block within the coupling.
    """

    path: str
    channels: int
    name: str


def sites_of(modality: str, widths: Sequence[int], with_connector: Sequence[bool]) -> tuple[Site, ...]:
    """Sites of a U-Net: the outputs of the down blocks and up blocks of the flagged levels.

    Up block j has the width of level -(j + 1) and uses that level's flag. The mid block has no site.

    Args:
        modality: "audio" or "video".
        widths: ``block_out_channels`` of the U-Net.
        with_connector: one flag per level.

    Returns:
        Sites in the order of the forward pass.
    """
    levels = list(zip(widths, with_connector, strict=True))
    return tuple(
        Site(f"{stage}_blocks.{i}", width, f"connector_in_{modality}.{k}.{i}.0")
        for k, (stage, order) in enumerate((("down", levels), ("up", levels[::-1])))
        for i, (width, flag) in enumerate(order)
        if flag
    )


def fitting(widths: AV[list[int]], channel_mult: Sequence[int] | None = None) -> dict[str, Any]:
    """Settings for a :class:`Coupling` whose size fits two U-Nets.

    Each connector has two levels fewer than the shallower U-Net, but at least one. Widths double from level
    to level. Features are as wide as the last level of the video connector. The published U-Nets have four
    levels and get the published settings: connector levels 2 and 4 times as wide as the U-Net's first level,
    1280 feature channels and attention heads of width 8. U-Nets with two levels get one connector level, as
    wide as the U-Net's first.

    Args:
        widths: ``block_out_channels`` of the audio and the video U-Net.
        channel_mult: width of each connector level in units of the U-Net's first width; replaces the default.

    Returns:
        The arguments ``connector_channels``, ``channel_mult``, ``num_blocks`` and ``head_dim`` of a coupling.
    """
    levels = min(len(widths.audio), len(widths.video)) - 2
    multiples = list(channel_mult or [2 ** (k + 1) for k in range(levels)] or [1])
    return {
        "connector_channels": widths.video[0] * multiples[-1],
        "channel_mult": multiples,
        "num_blocks": [1] * len(multiples),
        "head_dim": 8 if levels > 1 else math.gcd(32, *widths.audio, *widths.video),
    }


def _default_flags(widths: Sequence[int]) -> list[bool]:
    """Flags for the deeper half of a U-Net's levels, as published; for both levels if it has only two."""
    return [2 * i >= len(widths) or len(widths) == 2 for i in range(len(widths))]


def _spread(sites: Sequence[NetworkSite], count: int) -> list[NetworkSite]:
    """At most ``count`` sites, evenly spaced in the middle two thirds of a network's depth."""
    first, last = len(sites) // 6, len(sites) - len(sites) // 6
    middle = sites[first:last]
    chosen = sorted({int((k + 0.5) * len(middle) / count) for k in range(count)})
    return [middle[i] for i in chosen]


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
        problems = self._problems()
        if problems:
            raise RequestError(problems)
        self.gradient_checkpointing = False
        inputs = 2 if connector_input == "x_pred" else 1
        make_block, own = BLOCKS[coupling]
        # In this order, because that of the parameters must be the published one.
        for modality, other in (("video", "audio"), ("audio", "video")):
            given = {**self.config, "stack": self.config[f"{other}_stack"]}
            settings: dict[str, Any] = {key: given[key] for key in own}
            blocks: dict[str, nn.Module] = {
                site.name: make_block(
                    site.channels, connector_channels, getattr(self.head_dims, modality), **settings
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
    def for_unets(
        cls,
        unets: AV[Any],
        *,
        with_connector: Sequence[bool] | AV[Sequence[bool]] | None = None,
        **settings: Any,
    ) -> Coupling:
        """Make a new coupling for two U-Nets, of a size that fits them; see :func:`fitting`.

        Args:
            unets: the base U-Nets; channels and widths are read from their configurations.
            with_connector: one flag per level, the same for both U-Nets or a pair; by default the deeper
                half.
            **settings: further arguments of :class:`Coupling`, by name.

        Returns:
            The coupling, on the CPU in float32.
        """
        widths: AV[list[int]] = unets.map(lambda unet: list(unet.config.block_out_channels))
        if with_connector is None:
            flags = widths.map(_default_flags)
        elif isinstance(with_connector, AV):
            flags = with_connector.map(list)
        else:
            flags = AV.both(list(with_connector))
        return cls(
            audio_channels=unets.audio.config.in_channels,
            video_channels=unets.video.config.in_channels,
            audio_widths=widths.audio,
            video_widths=widths.video,
            audio_with_connector=flags.audio,
            video_with_connector=flags.video,
            **{"alignment": "seconds", **fitting(widths, settings.get("channel_mult")), **settings},
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

        In a U-Net the blocks of the deeper levels are conditioned. In a transformer, "in_place" conditions
        all blocks. The other couplings condition eight blocks in the middle two thirds. See :func:`fitting`
        for sizes.

        Args:
            denoisers: the denoisers of the bases.
            rates: latent steps a second of each modality. If given, and if the audio rate is higher than that
                of a video transformer, up to 4 audio feature steps are stacked per video latent step.
            coupling: kind of the coupling, as in :class:`Coupling`.
            with_connector: only for U-Nets: one flag per level, the same for both or a pair.
            **settings: further arguments of :class:`Coupling`, by name.

        Returns:
            The coupling, on the CPU in float32.
        """
        flags: AV[Any] = with_connector if isinstance(with_connector, AV) else AV.both(with_connector)
        own: AV[dict[str, Any]] = denoisers.map(lambda one, given: _fitted(one, coupling, given), flags)
        widths: AV[list[int]] = own.map(lambda found: found["widths"])
        found: dict[str, Any] = {"alignment": "seconds", **fitting(widths, settings.get("channel_mult"))}
        if any(of["sites"] for of in (own.audio, own.video)):
            inside = {int(width) for of in (own.audio, own.video) for width in of["inside"]}
            found |= {"head_dim": math.gcd(64, *inside), "connector_channels": _TOKEN_FEATURES}
            if own.video["sites"] and rates is not None and "stack" in BLOCKS[coupling][1]:
                found["audio_stack"] = min(_MOST_STACKED, max(1, math.ceil(rates.audio / rates.video)))
        for modality in MODALITIES:
            found |= {f"{modality}_{key}": value for key, value in getattr(own, modality).items()}
            found.pop(f"{modality}_inside")
        found["substeps"] = denoisers.video.substeps
        return cls(coupling=coupling, **{**found, **settings})

    @property
    def head_dims(self) -> AV[int]:
        """Width of an attention head in the inserted blocks of each network."""
        width = self.config.head_dim
        return AV.both(width) if isinstance(width, int) else AV(*width)

    def sites(self, modality: str) -> tuple[Site, ...]:
        """The conditioned sites of that modality's network, in the order of the forward pass."""
        config, listed = self.config, self.config[f"{modality}_sites"]
        if listed is None:
            return sites_of(modality, config[f"{modality}_widths"], config[f"{modality}_with_connector"])
        return tuple(
            Site(path, width, f"connector_in_{modality}.{k}") for k, (path, width) in enumerate(listed)
        )

    @property
    def in_place(self) -> bool:
        """Whether blocks act on the input of the networks' own self-attention, not on a block's output."""
        return bool(getattr(BLOCKS[self.config.coupling][0], "in_place", False))

    def inserted(self, modality: str) -> dict[str, str]:
        """For each conditioned module of that modality's network: its path, and the name of the block."""
        return {site.path: site.name for site in self.sites(modality)}

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
            name: name of an inserted block, from :meth:`inserted`.
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
            RequestError: if it was not; it lists all differences.
        """
        problems = []
        for modality in MODALITIES:
            denoiser, widths = getattr(denoisers, modality), list(self.config[f"{modality}_widths"])
            channels, there = self.config[f"{modality}_channels"], denoiser.latent_channels
            if there != channels:
                problems.append(
                    f"the {modality} latents have {there} channels, the coupling was made for {channels}"
                )
            found = {site.path: site.width for site in denoiser.sites()}
            attended = {site.path for site in denoiser.sites() if site.attention}
            if (listed := self.config[f"{modality}_sites"]) is not None:
                made_for = {site.path: site.channels for site in self.sites(modality)}
                same = made_for.items() <= found.items()
            else:
                every = sites_of(modality, widths, [True] * len(widths))
                made_for = {site.path: site.channels for site in every}
                same = found == made_for
            if self.in_place and not {site.path for site in self.sites(modality)} <= attended:
                problems.append(
                    f"the {modality} base has no self-attention that the coupling 'in_place' could condition"
                )
            if not same and listed is not None:
                problems.append(
                    f"the {modality} base has {_said(found)}, the coupling was made for {_said(made_for)}"
                )
            elif not same:
                own = [found[path] for path in found if path.startswith("down_blocks")]
                problems.append(
                    f"the {modality} base has widths {own or sorted(set(found.values()))}, "
                    f"the coupling was made for {widths}"
                )
            expected = self.config[f"{modality}_time_width"] or 4 * widths[0]
            if denoiser.time_width != expected:
                problems.append(
                    f"the {modality} base embeds timesteps in {denoiser.time_width} channels, the coupling "
                    f"expects {expected}"
                )
        if problems:
            remedy = (
                "use the bases that the coupling was trained with, "
                "or make a new coupling with Coupling.for_denoisers"
            )
            raise RequestError([*problems, remedy])

    def _normalised(self, series: Tensor) -> Tensor:
        """Time series (B, K, T') -> feature of unit norm, in the form that the inserted blocks take."""
        if self.config.coupling == "cross_attention":
            return F.normalize(series.mean(dim=2), dim=1)[:, None]
        return F.normalize(series, dim=2 if self.config.feature_norm == "time" else 1)

    def _problems(self) -> list[str]:
        """Problems with the configuration, one line each."""
        config, problems = self.config, []
        choices = {
            "coupling": tuple(BLOCKS),
            "connector_input": CONNECTOR_INPUTS,
            "feature_norm": NORM_AXES,
            "temporal_norm": NORM_AXES,
            "alignment": ALIGNMENTS,
        }
        for key, allowed in choices.items():
            if config[key] not in allowed:
                problems.append(f"{key} is {config[key]!r}, not one of {', '.join(map(repr, allowed))}")
        for key, default in OWN_DEFAULTS.items():
            if config[key] < 0 or (key == "ff_mult" and not config[key]):
                problems.append(
                    f"{key} is {config[key]}: it must be {'0 or more' if not default else 'positive'}"
                )
            elif config[key] != default and key not in BLOCKS.get(config.coupling, (None, (key,)))[1]:
                problems.append(
                    f"{key} is {config[key]}, which the coupling {config.coupling!r} does not have"
                )
        for key in ("audio_stack", "video_stack", "substeps"):
            if config[key] < 1:
                problems.append(f"{key} is {config[key]}: it must be positive")
            elif (
                config[key] > 1
                and key != "substeps"
                and "stack" not in BLOCKS.get(config.coupling, (None, ("stack",)))[1]
            ):
                problems.append(
                    f"{key} is {config[key]}, which the coupling {config.coupling!r} does not have"
                )
        if not isinstance(config.head_dim, int) and len(config.head_dim) != 2:
            return [*problems, f"head_dim is {config.head_dim}: give one width, or one for each modality"]
        for modality in MODALITIES:
            widths, flags = config[f"{modality}_widths"], config[f"{modality}_with_connector"]
            head_dim = getattr(self.head_dims, modality)
            if config.coupling == "timed_cross_attention" and head_dim % 2:
                problems.append(
                    f"head_dim is {head_dim}: rotary embeddings rotate pairs of channels, so it must be even"
                )
            listed = config[f"{modality}_sites"]
            if listed is not None:
                bad = sorted({width for _, width in listed if width % max(head_dim, 1)})
                if bad and not self.in_place:
                    problems.append(f"head_dim {head_dim} does not divide the {modality} widths {bad}")
                if not listed:
                    problems.append(f"{modality}_sites conditions no block: name at least one")
            elif len(widths) != len(flags):
                problems.append(
                    f"{modality}_with_connector has {len(flags)} flags for {len(widths)} U-Net levels"
                )
            elif head_dim < 1:
                problems.append(f"head_dim is {head_dim}: attention heads need a positive width")
            elif not any(flags):
                problems.append(f"{modality}_with_connector conditions no level: set at least one flag")
            else:
                bad = sorted({w for w, flag in zip(widths, flags, strict=True) if flag and w % head_dim})
                if bad:
                    problems.append(f"head_dim {head_dim} does not divide the {modality} widths {bad}")
        if len(config.channel_mult) != len(config.num_blocks) or not config.channel_mult:
            problems.append(
                f"channel_mult {list(config.channel_mult)} and num_blocks {list(config.num_blocks)} "
                "must each have one entry per connector level"
            )
        if min([*config.channel_mult, *config.num_blocks], default=1) < 1:
            problems.append("channel_mult and num_blocks must be positive")
        odd = [m for m in config.channel_mult if m * config.video_widths[0] % FRAME_SHIFT_GROUPS]
        if odd:
            problems.append(
                f"channel_mult {odd} times the first video width {config.video_widths[0]} is not a multiple "
                f"of {FRAME_SHIFT_GROUPS}, which the frame shift needs"
            )
        return problems


def _nested(blocks: dict[str, nn.Module], listed: Any) -> nn.ModuleList:
    """Nest blocks according to their names: a list for a transformer, down and up stages for a U-Net."""
    if listed is not None:
        return nn.ModuleList(blocks.values())
    stages = [nn.ModuleDict(), nn.ModuleDict()]
    for name, block in blocks.items():
        _, stage, index, _ = name.split(".")
        stages[int(stage)][index] = nn.ModuleList([block])
    return nn.ModuleList(stages)


def _fitted(denoiser: Denoiser, coupling: str, given: Sequence[bool] | None) -> dict[str, Any]:
    """Settings of a coupling that depend on a network, with names without the modality."""
    found = denoiser.sites()
    if found[0].layout == "map":
        widths = [site.width for site in found[: len(found) // 2]]
        flags = _default_flags(widths) if given is None else list(given)
        time_width = None if denoiser.time_width == 4 * widths[0] else denoiser.time_width
        inside = [width for width, flag in zip(widths, flags, strict=False) if flag]
        sites = None
    else:
        widths, flags, time_width = [_TOKEN_WIDTH], [], denoiser.time_width
        chosen = list(found) if coupling == "in_place" else _spread(found, _SITES)
        sites, inside = [[site.path, site.width] for site in chosen], [site.width for site in chosen]
    return {
        "channels": denoiser.latent_channels,
        "widths": widths,
        "with_connector": flags,
        "sites": sites,
        "time_width": time_width,
        "inside": inside,
    }


def _said(sites: dict[str, int]) -> str:
    """Describe sites briefly, for an error message."""
    blocks, widths = sorted(sites, key=lambda path: (len(path), path)), sorted(set(sites.values()))
    return f"{len(blocks)} blocks from {blocks[0]} to {blocks[-1]} of width {' or '.join(map(str, widths))}"


def trainable(module: nn.Module) -> int:
    """Number of trainable parameters, without the unused queries and keys of a single-token attention."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def matched_ff_mult(unets: AV[Any], like: Coupling, **settings: Any) -> float:
    """The ``ff_mult`` with which a cross-attention has as many trainable parameters as ``like``.

    Args:
        unets: the base U-Nets.
        like: the coupling to match.
        **settings: settings of the cross-attention, as in :meth:`Coupling.for_unets`.

    Raises:
        RequestError: if the cross-attention is larger than ``like`` even with an ``ff_mult`` of 1/8.
    """
    small, large = (trainable(Coupling.for_unets(unets, ff_mult=mult, **settings)) for mult in (1.0, 2.0))
    mult = 1 + (trainable(like) - small) / (large - small)  # the number of parameters is linear in ff_mult
    if mult < 1 / 8:
        sizes = f"{small:,} parameters, too many to match {trainable(like):,}"
        raise RequestError([f"with ff_mult 1 this coupling has {sizes}"])
    return round(mult, 2)

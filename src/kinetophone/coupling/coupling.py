"""The coupling: every new parameter that turns two frozen diffusion models into one joint model.

A connector per modality reads that modality's latent (``connector_out_<modality>``); a block per site
conditions that modality's network with the feature made from the other one: of a U-Net
``connector_in_<modality>.<0 down, 1 up>.<block>.0``, of a transformer ``connector_in_<modality>.<k>``. A
coupling is a diffusers model: it saves to and loads from a folder of ``config.json`` and safetensors. Its
parameter names for U-Nets are those of the checkpoint published with arXiv 2409.17550.

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

# The block of each coupling, and the settings of its own that it takes.
BLOCKS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "cmc_pe": (CMCPEBlock, ("window", "stack")),
    "in_place": (InPlaceBlock, ("stack",)),
    "cross_attention": (CrossAttentionBlock, ("ff_mult",)),
    "timed_cross_attention": (TimedCrossAttentionBlock, ("ff_mult",)),
}
OWN_DEFAULTS = {"window": 0, "ff_mult": 4.0}
# Of couplings for transformers: unit of the connectors' widths, feature channels, blocks that are conditioned
# where one is inserted, and the most feature steps that are told within one step of a site.
_TOKEN_WIDTH, _TOKEN_FEATURES, _SITES, _MOST_STACKED = 128, 32, 8, 4
CONNECTOR_INPUTS = ("x_pred", "x_cur")
NORM_AXES = ("time", "channel")


@dataclass(frozen=True, slots=True)
class Site:
    """Where a block of the coupling acts.

    Attributes:
        path: Of the network's module that it is inserted behind, or acts in.
        channels: Width there.
        name: Of the block's parameters within the coupling.
    """

    path: str
    channels: int
    name: str


def sites_of(modality: str, widths: Sequence[int], with_connector: Sequence[bool]) -> tuple[Site, ...]:
    """Sites of a U-Net: behind flagged down blocks, and behind the up blocks of the same levels.

    Up block j has the width of level -(j + 1) and uses that level's flag. There is none at the mid block.

    Args:
        modality: "audio" or "video".
        widths: ``block_out_channels`` of the U-Net.
        with_connector: a flag per level.

    Returns:
        Sites in the order in which the U-Net passes them.
    """
    levels = list(zip(widths, with_connector, strict=True))
    return tuple(
        Site(f"{stage}_blocks.{i}", width, f"connector_in_{modality}.{k}.{i}.0")
        for k, (stage, order) in enumerate((("down", levels), ("up", levels[::-1])))
        for i, (width, flag) in enumerate(order)
        if flag
    )


def fitting(widths: AV[list[int]], channel_mult: Sequence[int] | None = None) -> dict[str, Any]:
    """Settings of a :class:`Coupling` whose size follows that of the U-Nets.

    Each connector has two levels less than the shallower U-Net, at least one. Their widths double from level
    to level; features are as wide as the video connector's last level. For the published U-Nets, of four
    levels, these are the published settings: levels 2 and 4 times as wide as a U-Net's first, 1280 feature
    channels, heads 8 wide. U-Nets of two levels get one connector level, of the U-Net's first width.

    Args:
        widths: ``block_out_channels`` of the audio and the video U-Net.
        channel_mult: the connectors' levels, where they are chosen already.
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
    """The deeper half of a U-Net's levels, as published; both levels where there are only two."""
    return [2 * i >= len(widths) or len(widths) == 2 for i in range(len(widths))]


def _spread(sites: Sequence[NetworkSite], count: int) -> list[NetworkSite]:
    """At most ``count`` sites, evenly spread over the middle two thirds of a network's depth."""
    first, last = len(sites) // 6, len(sites) - len(sites) // 6
    middle = sites[first:last]
    chosen = sorted({int((k + 0.5) * len(middle) / count) for k in range(count)})
    return [middle[i] for i in chosen]


class Coupling(ModelMixin, ConfigMixin):
    """Connectors and blocks for a pair of networks. A fresh coupling leaves both exactly as they are.

    :meth:`for_denoisers` reads what belongs to the networks from them.

    Args:
        audio_channels: channels of the audio latent.
        video_channels: channels of the video latent.
        audio_widths: ``block_out_channels`` of the audio U-Net; of a transformer one number, the unit of the
            connector's widths.
        video_widths: as ``audio_widths``.
        audio_with_connector: per level of the audio U-Net, whether its blocks are conditioned.
        video_with_connector: per level of the video U-Net, whether its blocks are conditioned.
        audio_sites: of an audio transformer: path and width of each block that is conditioned.
        video_sites: of a video transformer, likewise.
        audio_time_width: width of the audio network's timestep embedding; 4 times its first width if not
            given.
        video_time_width: of the video network's, likewise.
        audio_stack: of CMC-PE: audio feature steps that are told within a step of the video network.
        video_stack: video feature steps that are told within a step of the audio network.
        substeps: features of each video latent but the first: as many as a causal latent has frames.
        coupling: "cmc_pe" (the method), "in_place" (CMC-PE before the self-attention that a transformer's
            block has), "cross_attention" (the CoDi-style baseline: one token), or "timed_cross_attention" (to
            the whole time series, with rotary times).
        connector_input: "x_pred", the noisy latent and the last clean estimate, or "x_cur", the latent alone.
        connector_channels: feature channels K.
        channel_mult: width of each connector level, in units of the first width of its U-Net.
        num_blocks: residual blocks of each connector level.
        head_dim: width of an attention head in the inserted blocks; two numbers are those of audio and video.
        feature_norm: axis of unit L2 norm of a CMC-PE feature. "channel": a unit vector at each time. "time":
            each channel is a unit time series, as in the published checkpoint. The cross-attention token is
            always normalised over its channels.
        temporal_norm: axis of the statistics in the video connector's temporal attention; "time" as in the
            published checkpoint.
        window: of CMC-PE: feature steps before and after that an encoding is made of.
        alignment: "seconds": a moment of one modality meets the same moment of the other. "stretched", as the
            published checkpoint needs it: one is spread evenly over the other, padding included; see
            :mod:`kinetophone.coupling.times`. The default is that of couplings saved before there was one;
            :meth:`for_denoisers` makes them with "seconds".
        ff_mult: of the cross-attentions: inner width of the blocks' feed-forward, in units of their width.
            How to make them as large as a CMC-PE coupling is: :func:`matched_ff_mult`.

    Raises:
        RequestError: if settings contradict one another, with all contradictions.
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
        # In the order of the published parameter list.
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
        """A fresh coupling that fits two U-Nets, of a size that follows theirs; see :func:`fitting`.

        Args:
            unets: the base U-Nets; channels and widths are read from their configurations.
            with_connector: a flag per level, for both U-Nets or for each.
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
        """A fresh coupling that fits two networks, of a size that follows theirs.

        In a U-Net the blocks of the deeper levels are conditioned, see :func:`fitting`. In a transformer all
        blocks are where the coupling acts in place, else eight of the middle two thirds.

        Args:
            denoisers: of the bases.
            rates: latents a second of each modality. With them, audio that is faster than the latents of a
                video transformer is stacked, up to 4 steps a latent.
            coupling: kind of the blocks.
            with_connector: of U-Nets a flag per level, for both or for each.
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
        """Width of an attention head in the inserted blocks of each U-Net."""
        width = self.config.head_dim
        return AV.both(width) if isinstance(width, int) else AV(*width)

    def sites(self, modality: str) -> tuple[Site, ...]:
        """The sites in the network of ``modality``, in the order in which it passes them."""
        config, listed = self.config, self.config[f"{modality}_sites"]
        if listed is None:
            return sites_of(modality, config[f"{modality}_widths"], config[f"{modality}_with_connector"])
        return tuple(
            Site(path, width, f"connector_in_{modality}.{k}") for k, (path, width) in enumerate(listed)
        )

    @property
    def in_place(self) -> bool:
        """Whether its blocks act before the networks' own self-attention, not behind their blocks."""
        return bool(getattr(BLOCKS[self.config.coupling][0], "in_place", False))

    def inserted(self, modality: str) -> dict[str, str]:
        """Paths of the modules of that modality's network that a block is inserted behind, and its name."""
        return {site.path: site.name for site in self.sites(modality)}

    def features(self, latents: AV[Tensor], embeddings: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Tensor]:
        """Run both connectors: ``features.audio`` is made *from* audio, to condition the *video* U-Net.

        Args:
            latents: noisy latents, audio (B, C, L, M) and video (B, C, T, H, W).
            embeddings: timestep embedding (B, E) of each U-Net at its connector's timestep.
            x0_hat: estimates of the clean latents, as the latents; None is zeros. Unused with "x_cur".

        Returns:
            Time series (B, K, T'); for "cross_attention" one token (B, 1, K).
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
        """The tokens of a site, conditioned by the other modality's feature.

        Args:
            name: of an inserted block, from :meth:`inserted`.
            x: tokens (B, R, S, C): R steps along time of S positions each.
            feature: the feature made from the *other* modality.
            per_frame: whether a set of tokens that attend to one another is a step, as in video, or the clip.
            times: of the site's steps and of the feature's; None with the alignment "stretched".

        Returns:
            The conditioned tokens, in the shape of ``x``.
        """
        block = self.get_submodule(name)
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(block, x, feature, per_frame, times)
        return block(x, feature, per_frame, times)

    def check(self, denoisers: AV[Denoiser]) -> None:
        """Make sure that this coupling was made for networks like these.

        Raises:
            RequestError: if it was not, with all differences.
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
                    f"the {modality} base has no self-attention that the coupling 'in_place' could act in"
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
                "use the bases that the coupling was trained with, or make one with Coupling.for_denoisers"
            )
            raise RequestError([*problems, remedy])

    def _normalised(self, series: Tensor) -> Tensor:
        """Time series (B, K, T') -> feature of unit norm, in the form the inserted blocks take."""
        if self.config.coupling == "cross_attention":
            return F.normalize(series.mean(dim=2), dim=1)[:, None]
        return F.normalize(series, dim=2 if self.config.feature_norm == "time" else 1)

    def _problems(self) -> list[str]:
        """What is wrong with the configuration, one line each."""
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
            return [*problems, f"head_dim is {config.head_dim}: give one width, or those of audio and video"]
        for modality in MODALITIES:
            widths, flags = config[f"{modality}_widths"], config[f"{modality}_with_connector"]
            head_dim = getattr(self.head_dims, modality)
            if config.coupling == "timed_cross_attention" and head_dim % 2:
                problems.append(f"head_dim is {head_dim}: rotary times turn pairs of channels, make it even")
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
                "must have one entry per connector level each"
            )
        if min([*config.channel_mult, *config.num_blocks], default=1) < 1:
            problems.append("channel_mult and num_blocks must be positive")
        odd = [m for m in config.channel_mult if m * config.video_widths[0] % FRAME_SHIFT_GROUPS]
        if odd:
            problems.append(
                f"channel_mult {odd} times the first video width {config.video_widths[0]} is no multiple of "
                f"{FRAME_SHIFT_GROUPS}, which the frame shift needs"
            )
        return problems


def _nested(blocks: dict[str, nn.Module], listed: Any) -> nn.ModuleList:
    """Blocks by their names: a list for a transformer, down and up stages for a U-Net."""
    if listed is not None:
        return nn.ModuleList(blocks.values())
    stages = [nn.ModuleDict(), nn.ModuleDict()]
    for name, block in blocks.items():
        _, stage, index, _ = name.split(".")
        stages[int(stage)][index] = nn.ModuleList([block])
    return nn.ModuleList(stages)


def _fitted(denoiser: Denoiser, coupling: str, given: Sequence[bool] | None) -> dict[str, Any]:
    """What a coupling needs to know of a network: names without the modality."""
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
    """Sites in a few words."""
    blocks, widths = sorted(sites, key=lambda path: (len(path), path)), sorted(set(sites.values()))
    return f"{len(blocks)} blocks from {blocks[0]} to {blocks[-1]} of width {' or '.join(map(str, widths))}"


def trainable(module: nn.Module) -> int:
    """Number of parameters that learn: the dead queries and keys of a single-token attention do not count."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def matched_ff_mult(unets: AV[Any], like: Coupling, **settings: Any) -> float:
    """The ``ff_mult`` with which a cross-attention has as many parameters that learn as ``like``.

    Args:
        unets: the base U-Nets.
        like: the coupling to be compared with.
        **settings: of the cross-attention, as in :meth:`Coupling.for_unets`.

    Raises:
        RequestError: if it has more than ``like`` with hardly any feed-forward at all.
    """
    small, large = (trainable(Coupling.for_unets(unets, ff_mult=mult, **settings)) for mult in (1.0, 2.0))
    mult = 1 + (trainable(like) - small) / (large - small)  # parameters grow linearly
    if mult < 1 / 8:
        sizes = f"{small:,} parameters, more than the {trainable(like):,} to be matched"
        raise RequestError([f"with ff_mult 1 this coupling has {sizes}"])
    return round(mult, 2)

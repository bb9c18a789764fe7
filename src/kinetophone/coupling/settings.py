"""Settings of a coupling: the sites of its blocks, sizes that fit two networks, and what is checked.

The configuration of a coupling has one entry for each argument of
:class:`~kinetophone.coupling.coupling.Coupling`. The functions here read it before anything is built.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from kinetophone.av import AV, MODALITIES
from kinetophone.bases.protocol import Denoiser, Site
from kinetophone.coupling.blocks import BLOCKS
from kinetophone.coupling.connectors import FRAME_SHIFT_GROUPS, NormAxis
from kinetophone.coupling.times import ALIGNMENTS

# For transformers: the unit of the connectors' widths, the feature channels, the number of conditioned
# blocks if blocks are inserted, and the maximal number of feature steps stacked within one step of a site.
_TOKEN_WIDTH, _TOKEN_FEATURES, _SITES, _MOST_STACKED = 128, 32, 8, 4
# Settings with a fixed set of values, and the defaults of those that only some blocks take.
_CHOICES = {
    "coupling": BLOCKS,
    "connector_input": ("x_pred", "x_cur"),
    "feature_norm": get_args(NormAxis),
    "temporal_norm": get_args(NormAxis),
    "alignment": ALIGNMENTS,
}
_OWN_DEFAULTS = {"window": 0, "ff_mult": 4.0}


# Where blocks act


@dataclass(frozen=True, slots=True)
class InsertedSite:
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


def inserted_sites(config: Mapping[str, Any], modality: str) -> tuple[InsertedSite, ...]:
    """The conditioned sites of a modality's network, in the order of the forward pass.

    Args:
        config: configuration of the coupling.
        modality: "audio" or "video".
    """
    if (listed := config[f"{modality}_sites"]) is None:
        return unet_sites(modality, config[f"{modality}_widths"], config[f"{modality}_with_connector"])
    return tuple(
        InsertedSite(path, width, f"connector_in_{modality}.{k}") for k, (path, width) in enumerate(listed)
    )


def unet_sites(
    modality: str, widths: Sequence[int], with_connector: Sequence[bool]
) -> tuple[InsertedSite, ...]:
    """Conditioned sites of a U-Net: the outputs of the down blocks and up blocks of the flagged levels.

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
        InsertedSite(f"{stage}_blocks.{i}", width, f"connector_in_{modality}.{k}.{i}.0")
        for k, (stage, order) in enumerate((("down", levels), ("up", levels[::-1])))
        for i, (width, flag) in enumerate(order)
        if flag
    )


def head_dims(config: Mapping[str, Any]) -> AV[int]:
    """Width of an attention head in the blocks of each network."""
    width = config["head_dim"]
    return AV.both(width) if isinstance(width, int) else AV(*width)


# Sizes that fit


def fitting(
    denoisers: AV[Denoiser],
    rates: AV[float] | None = None,
    coupling: str = "cmc_pe",
    with_connector: Sequence[bool] | AV[Sequence[bool]] | None = None,
    channel_mult: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Settings for a coupling whose size fits two networks.

    In a U-Net, the blocks of the deeper levels are conditioned. Each connector has two levels fewer than the
    shallower U-Net, but at least one. Widths double from level to level. Features are as wide as the last
    level of the video connector. The published U-Nets have four levels and get the published settings:
    connector levels 2 and 4 times as wide as the U-Net's first level, 1280 feature channels and attention
    heads of width 8. U-Nets with two levels get one connector level, as wide as the U-Net's first.

    In a transformer, "in_place" conditions all blocks. The other couplings condition eight blocks in the
    middle two thirds.

    Args:
        denoisers: the denoisers of the bases.
        rates: latent steps a second of each modality. If given, and if the audio rate is higher than that of
            a video transformer, up to 4 audio feature steps are stacked per video latent step.
        coupling: kind of the coupling.
        with_connector: one flag per level of both U-Nets, or a pair; replaces the default.
        channel_mult: width of each connector level in units of the U-Net's first width; replaces the default.

    Returns:
        Arguments of :class:`~kinetophone.coupling.coupling.Coupling`.
    """
    flags: AV[Any] = with_connector if isinstance(with_connector, AV) else AV.both(with_connector)
    own: AV[dict[str, Any]] = denoisers.map(lambda one, given: _fitting_one(one, coupling, given), flags)
    widths: AV[list[int]] = own.map(lambda one: one["widths"])
    inside: AV[list[int]] = own.map(lambda one: one.pop("inside"))
    levels = min(len(widths.audio), len(widths.video)) - 2
    multiples = list(channel_mult or [2 ** (k + 1) for k in range(levels)] or [1])
    found: dict[str, Any] = {
        "connector_channels": widths.video[0] * multiples[-1],
        "channel_mult": multiples,
        "num_blocks": [1] * len(multiples),
        "head_dim": 8 if levels > 1 else math.gcd(32, *widths.audio, *widths.video),
        "substeps": denoisers.video.substeps,
    }
    if own.audio["sites"] or own.video["sites"]:
        found |= {
            "head_dim": math.gcd(64, *inside.audio, *inside.video),
            "connector_channels": _TOKEN_FEATURES,
        }
    if own.video["sites"] and rates is not None and _takes(coupling, "stack"):
        found["audio_stack"] = min(_MOST_STACKED, max(1, math.ceil(rates.audio / rates.video)))
    for modality in MODALITIES:
        found |= {f"{modality}_{key}": value for key, value in getattr(own, modality).items()}
    return found


def _fitting_one(denoiser: Denoiser, coupling: str, given: Sequence[bool] | None) -> dict[str, Any]:
    """Settings that depend on one network, named without the modality, and the widths of its sites."""
    found = denoiser.sites()
    if found[0].layout == "map":
        widths = [site.width for site in found[: len(found) // 2]]
        # As published: the deeper half of the levels, or both if there are only two.
        deeper = [2 * i >= len(widths) or len(widths) == 2 for i in range(len(widths))]
        flags = deeper if given is None else list(given)
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


def _spread(sites: Sequence[Site], count: int) -> list[Site]:
    """At most ``count`` sites, evenly spaced in the middle two thirds of a network's depth."""
    first, last = len(sites) // 6, len(sites) - len(sites) // 6
    middle = sites[first:last]
    chosen = sorted({int((k + 0.5) * len(middle) / count) for k in range(count)})
    return [middle[i] for i in chosen]


def _takes(coupling: str, setting: str) -> bool:
    """Whether the block of a kind of coupling takes a setting; True for a kind that does not exist."""
    return coupling not in BLOCKS or setting in BLOCKS[coupling][1]


# Checks


def problems(config: Mapping[str, Any]) -> list[str]:
    """What is invalid or inconsistent in the configuration of a coupling, one line each."""
    found = [
        f"{key} is {config[key]!r}, not one of {', '.join(map(repr, allowed))}"
        for key, allowed in _CHOICES.items()
        if config[key] not in allowed
    ]
    found += _problems_of_blocks(config)
    heads = config["head_dim"]
    if not isinstance(heads, int) and len(heads) != 2:
        return [*found, f"head_dim is {heads}: give one width, or one for each modality"]
    for modality in MODALITIES:
        found += _problems_of_sites(config, modality)
    return found + _problems_of_connectors(config)


def _problems_of_blocks(config: Mapping[str, Any]) -> list[str]:
    """Problems with the settings that only some blocks take."""
    found, kind = [], config["coupling"]
    for key, default in _OWN_DEFAULTS.items():
        if config[key] < 0 or (key == "ff_mult" and not config[key]):
            found.append(f"{key} is {config[key]}: it must be {'0 or more' if not default else 'positive'}")
        elif config[key] != default and not _takes(kind, key):
            found.append(f"{key} is {config[key]}, which the coupling {kind!r} does not have")
    for key in ("audio_stack", "video_stack", "substeps"):
        if config[key] < 1:
            found.append(f"{key} is {config[key]}: it must be positive")
        elif config[key] > 1 and key != "substeps" and not _takes(kind, "stack"):
            found.append(f"{key} is {config[key]}, which the coupling {kind!r} does not have")
    return found


def _problems_of_sites(config: Mapping[str, Any], modality: str) -> list[str]:
    """Problems with the conditioned sites of one network and with the attention heads there."""
    widths, flags = config[f"{modality}_widths"], config[f"{modality}_with_connector"]
    head_dim, listed = getattr(head_dims(config), modality), config[f"{modality}_sites"]
    found = []
    if config["coupling"] == "timed_cross_attention" and head_dim % 2:
        found.append(
            f"head_dim is {head_dim}: rotary embeddings rotate pairs of channels, so it must be even"
        )
    if head_dim < 1:
        return [*found, f"head_dim is {head_dim}: attention heads need a positive width"]
    if listed is None and len(widths) != len(flags):
        return [*found, f"{modality}_with_connector has {len(flags)} flags for {len(widths)} U-Net levels"]
    sites = inserted_sites(config, modality)
    if not sites and listed is None:
        found.append(f"{modality}_with_connector conditions no level: set at least one flag")
    elif not sites:
        found.append(f"{modality}_sites conditions no block: name at least one")
    bad = sorted({site.channels for site in sites if site.channels % head_dim})
    if bad and (listed is None or config["coupling"] != "in_place"):
        found.append(f"head_dim {head_dim} does not divide the {modality} widths {bad}")
    return found


def _problems_of_connectors(config: Mapping[str, Any]) -> list[str]:
    """Problems with the sizes of the connectors."""
    multiples, blocks, width = config["channel_mult"], config["num_blocks"], config["video_widths"][0]
    found = []
    if len(multiples) != len(blocks) or not multiples:
        found.append(
            f"channel_mult {list(multiples)} and num_blocks {list(blocks)} "
            "must each have one entry per connector level"
        )
    if min([*multiples, *blocks], default=1) < 1:
        found.append("channel_mult and num_blocks must be positive")
    if odd := [multiple for multiple in multiples if multiple * width % FRAME_SHIFT_GROUPS]:
        found.append(
            f"channel_mult {odd} times the first video width {width} is not a multiple "
            f"of {FRAME_SHIFT_GROUPS}, which the frame shift needs"
        )
    return found


def differences(config: Mapping[str, Any], denoisers: AV[Denoiser], *, attention: bool) -> list[str]:
    """How two networks differ from those that a coupling was made for, one line each.

    Args:
        config: configuration of the coupling.
        denoisers: the denoisers of the networks.
        attention: whether the coupling acts on the networks' own self-attention.
    """
    problems = []
    for modality in MODALITIES:
        denoiser, widths = getattr(denoisers, modality), list(config[f"{modality}_widths"])
        channels, there = config[f"{modality}_channels"], denoiser.latent_channels
        if there != channels:
            problems.append(
                f"the {modality} latents have {there} channels, the coupling was made for {channels}"
            )
        found = {site.path: site.width for site in denoiser.sites()}
        attended = {site.path for site in denoiser.sites() if site.attention}
        sites = inserted_sites(config, modality)
        if attention and not {site.path for site in sites} <= attended:
            problems.append(
                f"the {modality} base has no self-attention that the coupling 'in_place' could condition"
            )
        if config[f"{modality}_sites"] is not None:
            made_for = {site.path: site.channels for site in sites}
            if not made_for.items() <= found.items():
                problems.append(
                    f"the {modality} base has {_said(found)}, the coupling was made for {_said(made_for)}"
                )
        elif found != {
            site.path: site.channels for site in unet_sites(modality, widths, [True] * len(widths))
        }:
            own = [found[path] for path in found if path.startswith("down_blocks")]
            problems.append(
                f"the {modality} base has widths {own or sorted(set(found.values()))}, "
                f"the coupling was made for {widths}"
            )
        expected = config[f"{modality}_time_width"] or 4 * widths[0]
        if denoiser.time_width != expected:
            problems.append(
                f"the {modality} base embeds timesteps in {denoiser.time_width} channels, the coupling "
                f"expects {expected}"
            )
    return problems


def _said(sites: dict[str, int]) -> str:
    """Describe sites briefly, for an error message."""
    blocks, widths = sorted(sites, key=lambda path: (len(path), path)), sorted(set(sites.values()))
    return f"{len(blocks)} blocks from {blocks[0]} to {blocks[-1]} of width {' or '.join(map(str, widths))}"

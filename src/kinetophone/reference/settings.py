"""Settings of the published implementation of arXiv 2409.17550, including its quirks.

Its checkpoint needs them: features and temporal attention are normalised over time, attention heads have
width 8, each modality steps on its own scheduler's grid, and the noise of the first timestep is left in at
the end. Our own models are trained without these quirks (see ``Coupling`` and ``clocks.reference_path``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import DDIMScheduler

from kinetophone.av import AV, MODALITIES
from kinetophone.bases.unet import denoisers
from kinetophone.coupling.coupling import Coupling
from kinetophone.errors import RequestError

SAMPLING = "reference"
QUIRKS: dict[str, Any] = {"feature_norm": "time", "temporal_norm": "time", "alignment": "stretched"}
# Its coupling settings, by their original names, with its defaults.
SETTINGS: dict[str, Any] = {
    "connector_in_type": "additive",
    "connector_out_input": "x_pred",
    "connector_channel": 1280,
    "channel_mult_connector": [2, 4],
    "num_blocks_connector": [1, 1],
    "with_connector": [False, False, True, True],
    "attention_head_dim": 8,
}
# Settings that can differ between the two U-Nets.
_PER_UNET = ("with_connector", "attention_head_dim")
COUPLINGS = {"additive": "cmc_pe", "attn": "cross_attention"}


def read_settings(config: Mapping[str, Any], unets: AV[dict[str, Any]] | None = None) -> AV[dict[str, Any]]:
    """Read the settings for each U-Net from the configuration written by its ``save_pretrained``.

    By default the head width of the inserted blocks is the U-Net's ``attention_head_dim``. This is a quirk:
    in Stable Diffusion 1.5 that number is the number of heads.

    Args:
        config: Configuration of ``unet_svg``. Its settings are at the top level, or nested in
            ``connector_audio_config`` and ``connector_video_config`` with the U-Nets' own in
            ``unet_audio_config`` and ``unet_video_config``.
        unets: Configurations of the U-Nets, if ``config`` does not have them.

    Returns:
        The settings, by the names in :data:`SETTINGS`.

    Raises:
        RequestError: A U-Net has heads of more than one width.
    """
    found: AV[dict[str, Any]] = AV({}, {})
    for modality in MODALITIES:
        unet = {
            **(getattr(unets, modality) if unets else {}),
            **(config.get(f"unet_{modality}_config") or {}),
        }
        own = {
            **SETTINGS,
            "attention_head_dim": unet.get("attention_head_dim") or SETTINGS["attention_head_dim"],
        }
        for settings in (config, config.get(f"connector_{modality}_config") or {}):
            own |= {key: settings[key] for key in SETTINGS if settings.get(key) is not None}
        width = own["attention_head_dim"]
        if not isinstance(width, int):
            if len(set(width)) != 1:
                raise RequestError(
                    [f"the {modality} U-Net has attention_head_dim {list(width)}: one width is supported"]
                )
            own["attention_head_dim"] = width[0]
        getattr(found, modality).update(own)
    return found


def coupling_for(unets: AV[Any], settings: Mapping[str, Any] | AV[dict[str, Any]]) -> Coupling:
    """Build a new coupling in the same way as the published implementation.

    Args:
        unets: The base U-Nets.
        settings: Settings by the names in :data:`SETTINGS`, for both U-Nets together or for each. Missing
            settings have the published defaults.

    Raises:
        RequestError: The settings ask for something that the published implementation does not have.
    """
    each = settings if isinstance(settings, AV) else AV.both(dict(settings))
    chosen: AV[dict[str, Any]] = each.map(lambda own: {**SETTINGS, **own})
    differing = [k for k in SETTINGS if k not in _PER_UNET and chosen.audio[k] != chosen.video[k]]
    if differing:
        raise RequestError(
            [
                f"{key} is {chosen.audio[key]!r} for audio and {chosen.video[key]!r} for video: "
                "both must be the same"
                for key in differing
            ]
        )
    kind = chosen.audio["connector_in_type"]
    if kind not in COUPLINGS:
        raise RequestError([f"connector_in_type is {kind!r}, not one of {', '.join(map(repr, COUPLINGS))}"])
    widths = chosen.map(lambda own: int(own["attention_head_dim"]))
    return Coupling.for_denoisers(
        denoisers(unets),
        coupling=COUPLINGS[kind],
        connector_input=chosen.audio["connector_out_input"],
        connector_channels=chosen.audio["connector_channel"],
        channel_mult=chosen.audio["channel_mult_connector"],
        num_blocks=chosen.audio["num_blocks_connector"],
        with_connector=chosen.map(lambda own: own["with_connector"]),
        head_dim=widths.audio if widths.audio == widths.video else [widths.audio, widths.video],
        **QUIRKS,
    )


def schedulers() -> AV[DDIMScheduler]:
    """Noise schedules of the published pair, AudioLDM and AnimateDiff."""
    common = {"steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False}
    return AV(
        audio=DDIMScheduler(
            beta_start=0.0015,
            beta_end=0.0195,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            **common,
        ),
        video=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="linear", timestep_spacing="linspace", **common
        ),
    )

"""The published implementation of arXiv 2409.17550 under one name: its settings, quirks included.

Its checkpoint needs them: features and temporal attention normalised over time, attention heads of width 8,
each modality stepping on its own scheduler's grid, the noise of the first timestep left in at the end. Our
own models are trained with the corrections (see ``Coupling`` and ``clocks.local_grids``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import DDIMScheduler

from kinetophone.av import AV
from kinetophone.errors import RequestError
from kinetophone.joint.clocks import Spacing
from kinetophone.joint.coupling import Coupling

SAMPLING: Spacing = "reference"
QUIRKS: dict[str, Any] = {"feature_norm": "time", "temporal_norm": "time"}
# Its settings of a coupling, by their names there, and its defaults.
SETTINGS: dict[str, Any] = {
    "connector_in_type": "additive",
    "connector_out_input": "x_pred",
    "connector_channel": 1280,
    "channel_mult_connector": [2, 4],
    "num_blocks_connector": [1, 1],
    "with_connector": [False, False, True, True],
    "attention_head_dim": 8,
}
COUPLINGS = {"additive": "cmc_pe", "attn": "cross_attention"}


def coupling_for(unets: AV[Any], settings: Mapping[str, Any]) -> Coupling:
    """A fresh coupling as the published implementation builds it.

    Args:
        unets: the base U-Nets.
        settings: its settings by its names, see :data:`SETTINGS`; those left out have its defaults.

    Raises:
        RequestError: if it asks for something the published implementation does not have.
    """
    chosen = {**SETTINGS, **{key: settings[key] for key in SETTINGS if key in settings}}
    kind = chosen["connector_in_type"]
    if kind not in COUPLINGS:
        raise RequestError([f"connector_in_type is {kind!r}, not one of {', '.join(map(repr, COUPLINGS))}"])
    return Coupling.for_unets(
        unets,
        coupling=COUPLINGS[kind],
        connector_input=chosen["connector_out_input"],
        connector_channels=chosen["connector_channel"],
        channel_mult=chosen["channel_mult_connector"],
        num_blocks=chosen["num_blocks_connector"],
        with_connector=chosen["with_connector"],
        head_dim=chosen["attention_head_dim"],
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

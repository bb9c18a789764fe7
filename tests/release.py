"""Folders in the layout that the published pipeline saves: pickles, its own names and nested settings.

    python tests/release.py OUT [--coupling additive] [--family animatediff] [--half] [--checkpoint]

makes one with tiny networks and random weights, to convert.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tiny
from kinetophone.av import AV
from kinetophone.coupling.coupling import Coupling
from kinetophone.hub.components import quiet
from kinetophone.reference import settings as reference

# Settings that its configuration keeps in ``connector_audio_config`` and ``connector_video_config``. The
# width of a head is not among them: it is the U-Net's own.
NESTED = (
    "connector_in_type",
    "connector_out_input",
    "connector_channel",
    "channel_mult_connector",
    "num_blocks_connector",
    "with_connector",
)
SETTINGS: dict[str, Any] = {
    "connector_in_type": "additive",
    "connector_channel": 32,
    "channel_mult_connector": [1],
    "num_blocks_connector": [1],
    "with_connector": [False, True],
}


def make(root: Path, kind: str = "additive", family: str = "animatediff", **layout: Any) -> Coupling:
    """Write a folder like theirs; returns its coupling, with random weights."""
    torch.manual_seed(0)
    parts = AV(audio=tiny.audioldm(), video=getattr(tiny, family)())
    for components, scheduler in zip(
        (parts.audio, parts.video), (reference.schedulers().audio, reference.schedulers().video), strict=True
    ):
        components["scheduler"] = scheduler
    settings = SETTINGS | {"connector_in_type": kind}
    unets = parts.map(lambda components: components["unet"])
    configs = unets.map(lambda unet: dict(unet.config))
    coupling = reference.coupling_for(unets, reference.read_settings(settings, configs))
    with torch.no_grad():
        for parameter in coupling.parameters():
            parameter.normal_(0, 0.1)
    write(root, parts, coupling, settings, **layout)
    return coupling


def write(
    root: Path,
    parts: AV[dict[str, Any]],
    coupling: Coupling,
    settings: dict[str, Any],
    *,
    dtype: torch.dtype = torch.float32,
    flat: bool = False,
    inner: bool = False,
    gamma: float | None = None,
) -> Path:
    """Write a whole pipeline folder.

    Args:
        root: the folder.
        parts: components of both bases.
        coupling: the connectors and inserted blocks.
        settings: their settings, by the published names.
        dtype: of the weights.
        flat: keep the tensors of a file as views of one buffer.
        inner: keep the U-Nets' weights in ``unet_svg``, not in folders of their own.
        gamma: what the schedulers say of γ.
    """
    joint = dict(coupling.state_dict())
    for modality, components in (("audio", parts.audio), ("video", parts.video)):
        for name, component in components.items():
            folder = root / (name if name == "vocoder" else f"{name}_{modality[0]}")
            component.save_pretrained(folder)
            for weights in folder.glob("*.safetensors"):
                weights.unlink()
            if name == "scheduler":
                _foreign_scheduler(folder / "scheduler_config.json", gamma, modality)
            elif isinstance(component, torch.nn.Module):
                state = component.state_dict()
                if name == "unet" and inner:
                    joint |= {f"unet_{modality}.{key}": x for key, x in state.items()}
                else:
                    transformers = name in ("vocoder", "text_encoder")
                    stem = "pytorch_model" if transformers else "diffusion_pytorch_model"
                    save(state, folder / f"{stem}.bin", dtype, flat)
    connectors = root / "unet_svg"
    connectors.mkdir(parents=True)
    nested = {key: settings[key] for key in NESTED if key in settings}
    unets = {f"unet_{m}_config": dict(getattr(parts, m)["unet"].config) for m in ("audio", "video")}
    config = {f"connector_{m}_config": nested for m in ("audio", "video")} | unets
    (connectors / "config.json").write_text(
        json.dumps({"_class_name": "UNetModelSVG", **config}, default=list)
    )
    save(joint, connectors / "diffusion_pytorch_model.bin", dtype, flat)
    return root


def checkpoint(root: Path, step: int, scale: float = 1.0, average: str = "inside") -> Path:
    """Put the connectors of a whole folder into ``checkpoint-N``, beside them ones ``scale`` times as large.

    The latter are ``unet_ema``, in the checkpoint or (``average="beside"``) next to it.
    """
    folder = root / f"checkpoint-{step}"
    shutil.copytree(root / "unet_svg", folder / "unet_svg")
    ema = shutil.copytree(root / "unet_svg", (folder if average == "inside" else root) / "unet_ema")
    file = next(ema.glob("*.bin"))
    torch.save({name: x * scale for name, x in torch.load(file, weights_only=True).items()}, file)
    return folder


def save(state: dict[str, Tensor], file: Path, dtype: torch.dtype, flat: bool) -> None:
    """Pickle a state dict, as views of one buffer if ``flat``."""
    state = {name: x.detach().to(dtype) if x.is_floating_point() else x for name, x in state.items()}
    if flat:
        buffer = torch.cat([x.flatten() for x in state.values() if x.is_floating_point()])
        start = 0
        for name, x in state.items():
            if x.is_floating_point():
                state[name] = buffer[start : start + x.numel()].view(x.shape)
                start += x.numel()
    torch.save(state, file)


def _foreign_scheduler(file: Path, gamma: float | None, modality: str) -> None:
    config = json.loads(file.read_text())
    config |= {"_class_name": "DDIMSchedulerRev", "gamma": gamma}
    if modality == "video":
        config["skip_prk_steps"] = True
    file.write_text(json.dumps(config))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--coupling", choices=["additive", "attn"], default="additive")
    parser.add_argument("--family", choices=["animatediff", "unet3d"], default="animatediff")
    parser.add_argument("--half", action="store_true", help="weights in float16, views of one buffer")
    parser.add_argument("--checkpoint", action="store_true", help="add a checkpoint-100 with unet_ema")
    asked = parser.parse_args()
    dtype = torch.float16 if asked.half else torch.float32
    with quiet():
        make(asked.out, asked.coupling, asked.family, dtype=dtype, flat=asked.half)
    if asked.checkpoint:
        checkpoint(asked.out, 100, 2.0)

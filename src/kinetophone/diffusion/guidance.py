"""Guidance: away from the negative text, and away from what each base would do without the other.

Guidance is linear in what the networks predict, so it is the same for noise, v and flow.

Shape legend: B batch; latents (B, C, time, …), levels (B,) in [0, 1] on the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from kinetophone.av import AV, MODALITIES
from kinetophone.diffusion.sample import Predict

Conditioning = Tensor | Mapping[str, Tensor]
"""What a base is told of a text: a tensor (B, …), or several by name."""


class Denoiser(Protocol):
    """What guidance needs of a joint model."""

    @property
    def dtype(self) -> torch.dtype:
        """Of its latents."""

    def features(self, latents: AV[Tensor], levels: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Tensor]:
        """What each modality tells the other."""

    def __call__(self, *inputs: Any) -> AV[Tensor]:
        """Both networks' outputs, see ``JointModel.forward``."""


def guided(
    model: Denoiser,
    text_cond: AV[Conditioning],
    text_uncond: AV[Conditioning] | None,
    guidance: AV[float],
    *,
    sync: AV[float] | None = None,
    coupled: bool = True,
    only: str | None = None,
    times: AV[Any] | None = None,
    sync_from: float = 0.0,
) -> Predict:
    """A ``predict`` with classifier-free guidance (arXiv 2207.12598) and cross-modal guidance per modality.

    With outputs u for the negative, c for the text, and a for the text with the coupling off:

        output = u + guidance · (c - u) + (sync - 1) · (c - a)

    A modality's branches go through its network in one batch; a scale of 1 skips the branch that it would
    need, and a is skipped below the level ``sync_from``. The connectors run once a step: their features
    depend on no text, so the branches share them.

    Args:
        model: the joint model.
        text_cond: what is wanted, as the bases encode it.
        text_uncond: the negative, in the same shapes; may be None if no guidance needs it.
        guidance: scale per modality; 1 is the conditional prediction, 0 the unconditional one.
        sync: scale of cross-modal guidance per modality; 1, the default, is none. Above 1 a modality is led
            by the other more than it was trained to be.
        coupled: False leaves the connectors out: each base by itself, whatever ``sync`` is.
        only: "audio" or "video": predict that modality alone, the other being given.
        times: of each modality's latents, see ``JointModel.forward``.
        sync_from: cross-modal guidance acts at this level and above. Near the clean end the other modality
            takes little off the error, and a pass with the coupling off costs as much there as anywhere.

    Returns:
        The prediction for :func:`kinetophone.diffusion.sample.sample_joint`, in the model's dtype.

    Raises:
        ValueError: if guidance needs a ``text_uncond`` that is missing or of another shape.
    """
    _check_texts(text_cond, text_uncond, guidance)
    sync = sync or AV.both(1.0)

    def predict(latents: AV[Tensor], levels: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Tensor]:
        branches: AV[list[str]] = guidance.map(
            lambda scale, synchrony, level: [
                *(["uncond"] if scale != 1 else []),
                "cond",
                *(["apart"] if coupled and synchrony != 1 and float(level.max()) >= sync_from else []),
            ],
            sync, levels,
        )  # fmt: skip
        text: AV[Conditioning] = text_cond.map(
            lambda cond, uncond, names: _joined([uncond if name == "uncond" else cond for name in names]),
            text_uncond or AV.both(None), branches,
        )  # fmt: skip
        latents = latents.map(lambda x: x.to(model.dtype))
        features, masks = None, None
        if coupled:
            features = model.features(latents, levels, x0_hat)
            # The audio feature goes to the video U-Net and must have its batch, and the other way round.
            features = features.map(_tiled, branches.swap())
            masks = latents.map(_coupled_branches, branches)
        tiled = (x.map(_tiled, branches) for x in (latents, levels))
        output = model(*tiled, text, features, masks, only, times)
        return output.map(_combined, branches, guidance, sync)

    return predict


def _check_texts(
    text_cond: AV[Conditioning], text_uncond: AV[Conditioning] | None, guidance: AV[float]
) -> None:
    for modality in MODALITIES:
        if getattr(guidance, modality) == 1:
            continue
        if text_uncond is None:
            raise ValueError(f"{modality} guidance is {getattr(guidance, modality)}, which needs text_uncond")
        cond, uncond = (
            [tuple(x.shape) for x in tree_leaves(getattr(text, modality))]
            for text in (text_cond, text_uncond)
        )
        if cond != uncond:
            raise ValueError(
                f"{modality} text_uncond has shape {', '.join(map(str, uncond))}, text_cond "
                f"{', '.join(map(str, cond))}: encode one negative per sample, to the same length"
            )


def _joined(texts: list[Conditioning]) -> Conditioning:
    return tree_map(lambda *parts: torch.cat(parts), *texts)


def _tiled(x: Tensor, branches: list[str]) -> Tensor:
    return torch.cat([x] * len(branches)) if len(branches) > 1 else x


def _coupled_branches(x: Tensor, branches: list[str]) -> Tensor | None:
    """For each sample of each branch, whether it sees the other modality; None if all do."""
    if "apart" not in branches:
        return None
    flags = torch.tensor([name != "apart" for name in branches], device=x.device)
    return flags.repeat_interleave(x.shape[0])


def _combined(output: Tensor, branches: list[str], scale: float, sync: float) -> Tensor:
    parts = dict(zip(branches, output.chunk(len(branches)), strict=True))
    cond = parts["cond"]
    result = cond
    if "uncond" in parts:
        result = parts["uncond"] + scale * (cond - parts["uncond"])
    if "apart" in parts:
        result = result + (sync - 1) * (cond - parts["apart"])
    return result

"""Guidance: away from the negative text, and away from what each base would do without the other.

Shape legend: B batch; audio latents (B, C, L, M), video latents (B, C, T, H, W), timesteps (B,).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kinetophone.av import AV, MODALITIES
from kinetophone.coupling.model import JointModel
from kinetophone.diffusion.sample import Predict

# Cross-modal guidance acts from this timestep on. Below it the other modality takes little off the error any
# more (docs/results/maps), and a pass with the coupling off costs as much there as anywhere.
SYNC_FROM = 300


def guided(
    model: JointModel,
    text_cond: AV[Tensor],
    text_uncond: AV[Tensor] | None,
    guidance: AV[float],
    *,
    sync: AV[float] | None = None,
    coupled: bool = True,
    only: str | None = None,
    rates: AV[float] | None = None,
) -> Predict:
    """A ``predict`` with classifier-free guidance (arXiv 2207.12598) and cross-modal guidance per modality.

    With noise predictions u for the negative, c for the text, and a for the text with the coupling off:

        ε = u + guidance · (c - u) + (sync - 1) · (c - a)

    A modality's branches go through its U-Net in one batch; a scale of 1 skips the branch that it would
    need, and a is skipped below timestep ``SYNC_FROM``. The connectors run once a step: their features depend
    on no text, so the branches share them.

    Args:
        model: the joint model.
        text_cond: what is wanted: audio (B, D), video (B, S, D).
        text_uncond: the negative, in the same shapes; may be None if no guidance needs it.
        guidance: scale per modality; 1 is the conditional prediction, 0 the unconditional one.
        sync: scale of cross-modal guidance per modality; 1, the default, is none. Above 1 a modality is led
            by the other more than it was trained to be.
        coupled: False leaves the connectors out: each base by itself, whatever ``sync`` is.
        only: "audio" or "video": predict that modality alone, the other being given.
        rates: latents per second of each modality, see :meth:`JointModel.forward`.

    Returns:
        The noise prediction for :func:`kinetophone.diffusion.sample.sample_joint`, in the model's dtype.

    Raises:
        ValueError: if guidance needs a ``text_uncond`` that is missing or of another shape.
    """
    _check_texts(text_cond, text_uncond, guidance)
    sync = sync or AV.both(1.0)

    def predict(latents: AV[Tensor], timesteps: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Tensor]:
        branches: AV[list[str]] = guidance.map(
            lambda scale, synchrony, t: [
                *(["uncond"] if scale != 1 else []),
                "cond",
                *(["apart"] if coupled and synchrony != 1 and int(t.max()) >= SYNC_FROM else []),
            ],
            sync, timesteps,
        )  # fmt: skip
        text: AV[Tensor] = text_cond.map(
            lambda cond, uncond, names: torch.cat([uncond if name == "uncond" else cond for name in names]),
            text_uncond or AV.both(None), branches,
        )  # fmt: skip
        dtype = model.coupling.dtype
        latents = latents.map(lambda x: x.to(dtype))
        features, masks = None, None
        if coupled:
            features = model.features(latents, timesteps, x0_hat)
            # The audio feature goes to the video U-Net and must have its batch, and the other way round.
            features = features.map(_tiled, branches.swap())
            masks = latents.map(_coupled_branches, branches)
        tiled = (x.map(_tiled, branches) for x in (latents, timesteps))
        eps = model(*tiled, text, features, masks, only, rates)
        return eps.map(_combined, branches, guidance, sync)

    return predict


def _check_texts(text_cond: AV[Tensor], text_uncond: AV[Tensor] | None, guidance: AV[float]) -> None:
    for modality in MODALITIES:
        if getattr(guidance, modality) == 1:
            continue
        if text_uncond is None:
            raise ValueError(f"{modality} guidance is {getattr(guidance, modality)}, which needs text_uncond")
        cond, uncond = getattr(text_cond, modality), getattr(text_uncond, modality)
        if cond.shape != uncond.shape:
            raise ValueError(
                f"{modality} text_uncond has shape {tuple(uncond.shape)}, text_cond {tuple(cond.shape)}: "
                "encode one negative per sample, to the same length"
            )


def _tiled(x: Tensor, branches: list[str]) -> Tensor:
    return torch.cat([x] * len(branches)) if len(branches) > 1 else x


def _coupled_branches(x: Tensor, branches: list[str]) -> Tensor | None:
    """For each sample of each branch, whether it sees the other modality; None if all do."""
    if "apart" not in branches:
        return None
    flags = torch.tensor([name != "apart" for name in branches], device=x.device)
    return flags.repeat_interleave(x.shape[0])


def _combined(eps: Tensor, branches: list[str], scale: float, sync: float) -> Tensor:
    parts = dict(zip(branches, eps.chunk(len(branches)), strict=True))
    cond = parts["cond"]
    result = cond
    if "uncond" in parts:
        result = parts["uncond"] + scale * (cond - parts["uncond"])
    if "apart" in parts:
        result = result + (sync - 1) * (cond - parts["apart"])
    return result

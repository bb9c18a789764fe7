"""Classifier-free guidance by text, and cross-modal guidance by the other modality.

Guidance is linear in the output of the networks, so it is the same for noise, v and flow prediction.

Shape legend: B batch; latents (B, C, time, …), levels (B,) in [0, 1] on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from kinetophone.av import AV, MODALITIES
from kinetophone.diffusion.sample import Predict

Conditioning = Tensor | Mapping[str, Tensor]
"""The text conditioning of a base: a tensor (B, …), or several by name."""
Run = Callable[[Sequence[Callable[[], Any]]], list[Any]]
"""Runs independent functions and returns their results in the same order."""


@dataclass(frozen=True, slots=True)
class Branches:
    """The branches in a network's batch, one after the other, with the same latents and levels.

    Attributes:
        texts: For each branch, the number of the first one with the same text.
        coupled: How many are coupled; they come first.
    """

    texts: tuple[int, ...]
    coupled: int

    @classmethod
    def of(cls, names: Sequence[str]) -> Branches:
        """Those of the names "uncond", "cond" and "apart", in this order; each may be missing."""
        texts = tuple(names.index("cond" if name == "apart" else name) for name in names)
        return cls(texts, len(names) - ("apart" in names))


class Denoiser(Protocol):
    """The part of the joint model's interface that guidance uses."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its latents."""

    def features(self, latents: AV[Tensor], levels: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Tensor]:
        """The connector features that each modality passes to the other."""

    def __call__(self, *inputs: Any, **options: Any) -> AV[Tensor]:
        """The outputs of both networks, see ``JointModel.forward``."""


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
    run: Run | None = None,
) -> Predict:
    """A ``predict`` function with classifier-free guidance (arXiv 2207.12598) and cross-modal guidance.

    Let u be the output for the negative prompt, c that for the prompt, and a that for the prompt with the
    coupling off. Then:

        output = u + guidance · (c - u) + (sync - 1) · (c - a)

    The branches u, c and a of a modality form one batch. A scale of 1 skips the branch it would need, and a
    is skipped below the level ``sync_from``. The connectors run once per step: their features do not depend
    on the text, so all branches share them. So they do what the networks compute before they differ.

    Args:
        model: the joint model.
        text_cond: the prompt as encoded by each base.
        text_uncond: the negative prompt, in the same shapes; None if no guidance needs it.
        guidance: scale per modality; 1 is the conditional prediction, 0 the unconditional one.
        sync: scale of cross-modal guidance per modality; 1, the default, disables it. Above 1, a modality
            follows the other more closely than in training.
        coupled: False disables the coupling and ``sync``, so each base predicts on its own.
        only: "audio" or "video": predict only that modality, because the other one is given.
        times: times of each modality's latents, see ``JointModel.forward``.
        sync_from: cross-modal guidance applies at this level and above. At low noise the other modality
            reduces the error only a little, but a forward pass with the coupling off costs the same.
        run: runs both networks at the same time, e.g. in two threads; default: one after the other.

    Returns:
        The prediction for :func:`kinetophone.diffusion.sample.sample_joint`, in the model's dtype.

    Raises:
        ValueError: guidance needs a ``text_uncond``, which is missing or has another shape.
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
        latents = latents.map(lambda x: x.to(model.dtype))
        features = model.features(latents, levels, x0_hat) if coupled else None

        def outputs(branches: AV[list[str]], only: str | None) -> AV[Tensor]:
            text: AV[Conditioning] = text_cond.map(
                lambda cond, uncond, names: _joined([uncond if name == "uncond" else cond for name in names]),
                text_uncond or AV.both(None), branches,
            )  # fmt: skip
            shared: AV[Branches] = branches.map(Branches.of)
            # Audio features go to the video network, to its coupled branches, and vice versa.
            made = features and features.map(lambda x, own: torch.cat([x] * own.coupled), shared.swap())
            tiled = (x.map(lambda x, names: torch.cat([x] * len(names)), branches) for x in (latents, levels))
            return model(*tiled, text, made, only=only, times=times, branches=shared)

        if run is None or only is not None:
            output = outputs(branches, only)
        else:  # the video's network is the larger one
            video, audio = run([partial(outputs, branches, modality) for modality in ("video", "audio")])
            output = AV(audio.audio, video.video)
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
            sorted(tuple(x.shape) for x in tree_leaves(getattr(text, modality)))
            for text in (text_cond, text_uncond)
        )
        if cond != uncond:
            raise ValueError(
                f"{modality} text_uncond has shape {', '.join(map(str, uncond))}, text_cond "
                f"{', '.join(map(str, cond))}: encode one negative prompt per sample, to the same length"
            )


def _joined(texts: list[Conditioning]) -> Conditioning:
    return tree_map(lambda *parts: torch.cat(parts), *texts)


def _combined(output: Tensor, branches: list[str], scale: float, sync: float) -> Tensor:
    parts = dict(zip(branches, output.chunk(len(branches)), strict=True))
    cond = parts["cond"]
    result = cond
    if "uncond" in parts:
        result = parts["uncond"] + scale * (cond - parts["uncond"])
    if "apart" in parts:
        result = result + (sync - 1) * (cond - parts["apart"])
    return result

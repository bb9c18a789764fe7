"""Pretraining of the connectors: each learns to predict the other modality's latents from its own.

When a coupling is trained, a connector learns through a frozen network. Every step needs a pass through both
networks, and the gradient is weak while the inserted blocks still output zero. This stage trains the features
directly to predict the other modality's latents at the same moment. The prediction head is as small as the
layer that reads the feature in CMC-PE (``ConditionedSelfAttention.proj_c``), sees as many feature steps for
each latent, and is discarded afterwards. A step is about ten times as fast, and coupling training then starts
from features that carry timing.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from kinetophone.av import AV, MODALITIES
from kinetophone.bases.protocol import Times
from kinetophone.coupling.blocks.cmc_pe import stacked
from kinetophone.coupling.times import SiteTimes
from kinetophone.errors import RequestError
from kinetophone.training.coupling import CouplingStage
from kinetophone.training.diffusion import WHOLE, standard_normal
from kinetophone.training.options import CouplingOptions
from kinetophone.training.recipe import Recipe

SHOWN_CLIPS, SHOWN_LEVELS = 96, (0.001, 0.3, 0.5, 0.7, 0.9)
EPS = 1e-3  # relative to the latents' unit scale; some series are almost constant


class ConnectorStage:
    """Trains both connectors of a coupling on cross-modal prediction at all noise levels."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.whole = CouplingStage(dataclasses.replace(recipe, options=CouplingOptions()))
        coupling, latents = self.whole.coupling, self.whole.latents
        if coupling.config.coupling == "cross_attention":
            raise RequestError(
                ["a cross_attention coupling has one token for the entire clip, so its connectors can't "
                 "predict timing: train it with the stage coupling only"]
            )  # fmt: skip
        self.clean: AV = AV(audio=latents.audio, video=latents.video)
        some: AV[Tensor] = self.clean.map(lambda x: _targets(torch.from_numpy(np.array(x[:256])).float()))
        # Each connector predicts the other modality, hence the swap.
        self.spread: AV[Tensor] = some.swap().map(lambda x: x.std(dim=(0, 2), keepdim=True) + EPS)
        self.stack = AV(audio=coupling.config.audio_stack, video=coupling.config.video_stack)
        self.heads: AV[nn.Module] = some.swap().map(
            lambda x, stack: FeedForward(coupling.config.connector_channels * stack, dim_out=x.shape[1]),
            self.stack,
        )
        self.heads.map(lambda head: head.to(self.whole.device))
        self.trained: dict[str, nn.Module] = {
            "connector_out_audio": coupling.connector_out_audio,
            "connector_out_video": coupling.connector_out_video,
            "head_audio": self.heads.audio,
            "head_video": self.heads.video,
        }

    def loss(
        self, rng: np.random.Generator, generator: torch.Generator, part: slice = WHOLE
    ) -> dict[str, Tensor]:
        """Errors of both predictions as fractions of the targets' variance; 1 means nothing was learned."""
        stage, batch = self.whole, self.recipe.loop.batch_size
        index, _ = stage.latents.draw(rng, batch)
        clean: AV[Tensor] = self.clean.map(
            lambda array: torch.from_numpy(array[index[part]]).float().to(stage.device)
        )
        levels: AV[Tensor] = stage.processes.map(lambda process: process.draw(batch, generator)[part])
        noise: AV[Tensor] = clean.map(lambda x: standard_normal(x, batch, part, generator))
        errors: AV[Tensor] = self._squared(noise, levels, clean).map(
            lambda error: (error[:, 0].mean() + error[:, 1:].mean()) / 2
        )
        return {"loss": errors.audio + errors.video, "from_audio": errors.audio, "from_video": errors.video}

    def _squared(self, noise: AV[Tensor], levels: AV[Tensor], clean: AV[Tensor]) -> AV[Tensor]:
        """Errors (B, D, time) in units of the variance; ``audio`` has the errors of video predictions."""
        processes = self.whole.processes
        seen: AV[Tensor] = processes.map(lambda process, *of: process.noised(*of), clean, noise, levels)
        features = self.whole.model.features(seen, levels, None)
        times: AV[Times | None] = self.whole.times
        if self.whole.coupling.config.alignment == "stretched":
            times = AV.both(None)
        targets: AV[Tensor] = clean.swap().map(_targets)
        return features.map(_squared_error, times, self.heads, targets, times.swap(), self.spread, self.stack)

    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """Unexplained fraction of the first series' variance at some noise levels, on training clips."""
        stage = self.whole
        clean: AV[Tensor] = self.clean.map(
            lambda array: torch.from_numpy(np.array(array[:SHOWN_CLIPS])).float().to(stage.device)
        )
        generator = torch.Generator().manual_seed(0)
        noise: AV[Tensor] = clean.map(lambda x: standard_normal(x, len(x), WHOLE, generator))
        left = {}
        for u in SHOWN_LEVELS:
            levels = clean.map(lambda x, u=u: torch.full((len(x),), u, dtype=torch.float64))
            with stage.autocast():
                errors = self._squared(noise, levels, clean)
            for name in MODALITIES:
                left[f"from_{name}_at_{u:g}"] = float(getattr(errors, name)[:, 0].mean())
        return left

    def export(self) -> None:
        self.whole.export()


def _targets(x: Tensor) -> Tensor:
    """Prediction targets (B, D, time) for clean latents (B, C, time, …).

    The first series is the RMS change from the previous step, which peaks at every event. The others are
    the latents minus their mean over the clip.
    """
    series = x.movedim(2, -1).flatten(1, -2)
    steps = series.diff(dim=2).square().mean(dim=1, keepdim=True).sqrt()
    moved = torch.cat([steps[:, :, :1], steps], dim=2)
    return torch.cat([moved, series - series.mean(dim=2, keepdim=True)], dim=1)


def _squared_error(
    feature: Tensor,
    own: Times | None,
    head: nn.Module,
    target: Tensor,
    other: Times | None,
    spread: Tensor,
    stack: int,
) -> Tensor:
    """Errors of a prediction from a feature (B, K, T'); ``own`` and ``other`` are times of the latents."""
    steps = target.shape[2]
    at = None if own is None or other is None else SiteTimes.of(other, steps, own, feature.shape[2])
    held = stacked(feature, steps, at, stack).transpose(1, 2)
    return (head(held).transpose(1, 2).float() - target / spread.to(target)).square()

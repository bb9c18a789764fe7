"""Training of the classifiers of :mod:`kinetophone.hits.classifiers` on real clips.

Blur and noise as augmentation make them insensitive to the sharpness of generated clips.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinetophone.hits.classifiers import MATERIAL, SEEN, AttributeClassifier, audio_input, video_input
from kinetophone.media.mel import HOP, SAMPLE_RATE, log_mel
from kinetophone.training.clips import load_clips
from kinetophone.training.recipe import Recipe


def _roughen(x: Tensor, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
    """Blur half of the batches, add noise to all."""
    if rng.random() < 0.5:
        x = F.interpolate(F.avg_pool2d(x, 2), size=x.shape[2:], mode="bilinear")
    return x + rng.uniform(0, 0.2) * torch.randn(x.shape, generator=generator)


class _ClassifierStage(ABC):
    name: str

    def __init__(self, recipe: Recipe, channels: int, labels: Mapping[str, tuple[str, ...]]) -> None:
        self.recipe = recipe
        self.clips = load_clips(recipe)
        scenes = self.clips.scenes
        self.targets = {
            name: torch.tensor([values.index(scene[name]) for scene in scenes])
            for name, values in labels.items()
        }
        self.net = AttributeClassifier(channels, labels)
        self.trained: dict[str, nn.Module] = {"net": self.net}

    @abstractmethod
    def _input(self, index: np.ndarray, rng: np.random.Generator) -> Tensor: ...

    def loss(self, rng: np.random.Generator, generator: torch.Generator) -> dict[str, Tensor]:
        index = rng.integers(len(self.clips), size=self.recipe.loop.batch_size)
        logits = self.net.by_attribute(self.net(_roughen(self._input(index, rng), rng, generator)))
        told = {name: (logits[name], target[index]) for name, target in self.targets.items()}
        losses = [F.cross_entropy(*pair, label_smoothing=0.05) for pair in told.values()]
        right = {name: (one.argmax(1) == target).float().mean() for name, (one, target) in told.items()}
        return {"loss": torch.stack(losses).sum(), **right}

    def sample(self, folder: Path, step: int) -> None:  # noqa: B027
        """No samples; accuracy is logged."""

    def export(self) -> None:
        self.net.save(Path(self.recipe.bundle) / "classifiers" / f"{self.name}.safetensors")


class VideoClassifier(_ClassifierStage):
    """Trains the classifier of single frames: material, and in ``hits16`` object, colour and tool too."""

    name = "picture"

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe, 3, MATERIAL if recipe.data.source == "hits" else SEEN)

    def _input(self, index: np.ndarray, rng: np.random.Generator) -> Tensor:
        frames = self.clips.video.shape[1]
        return video_input(np.stack([self.clips.video[i, int(rng.integers(frames))] for i in index]))


class AudioClassifier(_ClassifierStage):
    """Trains the classifier of the log-mel of entire clips."""

    name = "sound"

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe, 1, MATERIAL)

    def _input(self, index: np.ndarray, rng: np.random.Generator) -> Tensor:
        if len(self.clips.mel):
            return audio_input(torch.from_numpy(np.stack([self.clips.mel[i] for i in index])))
        heard = torch.from_numpy(self.clips.waveforms(index, SAMPLE_RATE))
        return audio_input(log_mel(heard[:, : heard.shape[1] // HOP * HOP]))

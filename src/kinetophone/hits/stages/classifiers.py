"""Training of the material classifiers of :mod:`kinetophone.hits.classifiers` on real clips.

Blur and noise as augmentation make them insensitive to the sharpness of generated clips.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from kinetophone.hits.classifiers import NAMES, MaterialClassifier, audio_input, video_input
from kinetophone.training.clips import load_clips
from kinetophone.training.recipe import Recipe


def _roughen(x: Tensor, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
    """Blur half of the batches, add noise to all."""
    if rng.random() < 0.5:
        x = F.interpolate(F.avg_pool2d(x, 2), size=x.shape[2:], mode="bilinear")
    return x + rng.uniform(0, 0.2) * torch.randn(x.shape, generator=generator)


class _ClassifierStage(ABC):
    name: str

    def __init__(self, recipe: Recipe, channels: int) -> None:
        self.recipe = recipe
        self.clips = load_clips(recipe)
        self.labels = np.array([NAMES.index(scene["material"]) for scene in self.clips.scenes])
        self.net = MaterialClassifier(channels)
        self.trained: dict[str, nn.Module] = {"net": self.net}

    @abstractmethod
    def _input(self, index: np.ndarray, rng: np.random.Generator) -> Tensor: ...

    def loss(self, rng: np.random.Generator, generator: torch.Generator) -> dict[str, Tensor]:
        index = rng.integers(len(self.clips), size=self.recipe.loop.batch_size)
        logits = self.net(_roughen(self._input(index, rng), rng, generator))
        target = torch.from_numpy(self.labels[index])
        accuracy = (logits.argmax(1) == target).float().mean()
        return {"loss": F.cross_entropy(logits, target, label_smoothing=0.05), "accuracy": accuracy}

    def sample(self, folder: Path, step: int) -> None:  # noqa: B027
        """No samples; accuracy is logged."""

    def export(self) -> None:
        path = Path(self.recipe.bundle) / "classifiers" / f"{self.name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.half().contiguous() for k, v in self.net.state_dict().items()}, path)


class VideoClassifier(_ClassifierStage):
    """Trains the classifier of single frames."""

    name = "picture"

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe, 3)

    def _input(self, index: np.ndarray, rng: np.random.Generator) -> Tensor:
        return video_input(np.stack([self.clips.video[i, int(rng.integers(32))] for i in index]))


class AudioClassifier(_ClassifierStage):
    """Trains the classifier of the log-mel of entire clips."""

    name = "sound"

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe, 1)

    def _input(self, index: np.ndarray, rng: np.random.Generator) -> Tensor:
        return audio_input(torch.from_numpy(np.stack([self.clips.mel[i] for i in index])))

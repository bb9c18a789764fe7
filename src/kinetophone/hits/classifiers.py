"""Small classifiers of the worlds of strikes: what is seen in a video, and the material heard in its audio.

They ship with a bundle (``classifiers/``), and are used to compare a clip with its prompt. Their accuracy on
real clips is the upper limit, and is printed next to every result.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinetophone.hits.scene import MATERIALS, TOOLS

NAMES = tuple(MATERIALS)
# Attributes of a scene that a classifier can tell apart, with their values.
MATERIAL = {"material": NAMES}
SEEN = {
    **MATERIAL,
    "object": tuple(noun for nouns, _ in MATERIALS.values() for noun in nouns),
    "colour": tuple(sorted({colour for _, colours in MATERIALS.values() for colour in colours})),
    "tool": TOOLS,
}
FRAME_SIDE = 32


class AttributeClassifier(nn.Module):
    """Maps images (B, C, H, W) to logits: three strided convolutions and global pooling.

    Args:
        channels: channels of the images.
        labels: the values of each attribute. The logits of all attributes follow each other.
    """

    def __init__(self, channels: int, labels: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.labels = {name: tuple(values) for name, values in labels.items()}
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(((channels, 24), (24, 48), (48, 64))):
            layers += [
                nn.Conv2d(a, b, 5 if i == 0 else 3, stride=2, padding=1),
                nn.GroupNorm(8, b),
                nn.SiLU(),
            ]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(2 * 64, sum(len(values) for values in self.labels.values()))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """Features before the last layer, (B, 128): mean and maximum of each channel over all positions."""
        x = self.body(x)
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)

    def by_attribute(self, logits: Tensor) -> dict[str, Tensor]:
        """Logits (B, values) of each attribute."""
        parts = logits.split([len(values) for values in self.labels.values()], dim=1)
        return dict(zip(self.labels, parts, strict=True))

    def save(self, path: Path) -> None:
        """Write the weights in half precision, with the labels as metadata."""
        from safetensors.torch import save_file

        path.parent.mkdir(parents=True, exist_ok=True)
        weights = {k: v.half().contiguous() for k, v in self.state_dict().items()}
        save_file(weights, path, {"labels": json.dumps(self.labels)})


def load_classifiers(folder: str | os.PathLike[str]) -> dict[str, AttributeClassifier]:
    """The classifiers of a bundle: "picture" of single frames, "sound" of log-mels.

    Raises:
        ValueError: the bundle has none.
    """
    from safetensors import safe_open

    nets = {}
    for name, channels, recipe in (("picture", 3, "video"), ("sound", 1, "audio")):
        path = Path(folder) / "classifiers" / f"{name}.safetensors"
        if not path.is_file():
            raise ValueError(
                f"the bundle has no classifier at {path}: train it with recipes/hits-{recipe}-classifier.yaml"
            )
        with safe_open(path, "pt") as file:
            # The first bundles have no labels: they tell materials only.
            labels = json.loads((file.metadata() or {}).get("labels", json.dumps(MATERIAL)))
            nets[name] = AttributeClassifier(channels, labels)
            nets[name].load_state_dict({key: file.get_tensor(key).float() for key in file.keys()})  # noqa: SIM118
        nets[name].eval()
    return nets


def video_input(frames: np.ndarray) -> Tensor:
    """Convert frames, uint8 (T, H, W, 3) of any size, to (T, 3, 32, 32) in [-1, 1]."""
    small = [cv2.resize(frame, (FRAME_SIDE, FRAME_SIDE), interpolation=cv2.INTER_AREA) for frame in frames]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def audio_input(mel: Tensor) -> Tensor:
    """Convert a log-mel (B, frames, 64) to (B, 1, frames / 2, 64), scaled to about unit variance."""
    return F.avg_pool2d(mel[:, None].float(), (2, 1)).add(9.5).div(3)


def material_named(prompt: str) -> str | None:
    """The material that a prompt names, by words that only its objects have; None if it names none."""
    words = set(prompt.lower().replace(",", " ").split())
    keys = {"metal": "metal", "wooden": "wood", "wood": "wood", "glass": "glass", "drum": "drum"}
    keys |= {"cushion": "cloth", "pillow": "cloth"}
    found = {material for word, material in keys.items() if word in words}
    return found.pop() if len(found) == 1 else None

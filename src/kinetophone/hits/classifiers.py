"""Small classifiers of the ``hits`` domain: the material in the video and the material in the audio.

They ship with the bundle (``classifiers/``), and are used to compare the materials in a clip with the
material in its prompt. Their accuracy on real clips is the upper limit, and is printed next to every result.
"""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinetophone.hits.captions import NUMBERS
from kinetophone.hits.scene import MATERIALS
from kinetophone.media.clip import Clip
from kinetophone.media.mel import HOP, SAMPLE_RATE, log_mel

NAMES = tuple(MATERIALS)
FRAME_SIDE = 32


class MaterialClassifier(nn.Module):
    """Maps images (B, C, H, W) to logits (B, materials): three strided convolutions and global pooling."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(((channels, 24), (24, 48), (48, 64))):
            layers += [
                nn.Conv2d(a, b, 5 if i == 0 else 3, stride=2, padding=1),
                nn.GroupNorm(8, b),
                nn.SiLU(),
            ]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(2 * 64, len(NAMES))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """Features before the last layer, (B, 128): mean and maximum of each channel over all positions."""
        x = self.body(x)
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)


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


def count_named(prompt: str) -> int | None:
    """The number of strikes that a prompt names; None if it names none."""
    words = prompt.lower().replace(",", " ").split()
    single = {"once": 1, "twice": 2}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word in single:
            return single[word]
        if following in ("time", "times"):
            known = {**{number: i for i, number in enumerate(NUMBERS)}, **{str(i): i for i in range(10)}}
            return known.get(word)
    return None


class MaterialJudge:
    """Both classifiers, loaded from a bundle."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        from safetensors.torch import load_file

        self.nets = {"picture": MaterialClassifier(3), "sound": MaterialClassifier(1)}
        for name, net in self.nets.items():
            path = Path(folder) / "classifiers" / f"{name}.safetensors"
            if not path.is_file():
                raise ValueError(
                    f"the bundle has no classifier at {path}: "
                    f"train it with recipes/hits-{name}-classifier.yaml"
                )
            net.load_state_dict({k: v.float() for k, v in load_file(path).items()})
            net.eval()

    @torch.no_grad()
    def picture(self, clip: Clip) -> str:
        """The material in the video, from logits averaged over frames."""
        return NAMES[int(self.nets["picture"](video_input(clip.video)).mean(0).argmax())]

    @torch.no_grad()
    def sound(self, clip: Clip) -> str:
        """The material in the audio."""
        if clip.sample_rate != SAMPLE_RATE:
            raise ValueError(
                f"the audio is at {clip.sample_rate} Hz: resample the clip to {SAMPLE_RATE} Hz first"
            )
        whole = len(clip.audio) // HOP * HOP
        return NAMES[
            int(self.nets["sound"](audio_input(log_mel(torch.from_numpy(clip.audio[None, :whole])))).argmax())
        ]

"""I3D (Carreira and Zisserman 2017, "Quo Vadis, Action Recognition?"): Inception-v1 with 3-D kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 400  # of Kinetics-400

# Channels of each Inception block: 1 x 1, two of 3 x 3 x 3 (reduced first, then full), and the pooled branch.
_MIXED = {
    "Mixed_3b": (64, (96, 128), (16, 32), 32),
    "Mixed_3c": (128, (128, 192), (32, 96), 64),
    "Mixed_4b": (192, (96, 208), (16, 48), 64),
    "Mixed_4c": (160, (112, 224), (24, 64), 64),
    "Mixed_4d": (128, (128, 256), (24, 64), 64),
    "Mixed_4e": (112, (144, 288), (32, 64), 64),
    "Mixed_4f": (256, (160, 320), (32, 128), 128),
    "Mixed_5b": (256, (160, 320), (32, 128), 128),
    "Mixed_5c": (384, (192, 384), (48, 128), 128),
}
# Kernel and stride of the pooling before a block.
_POOLS = {
    "Conv3d_2b_1x1": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}


class I3D(nn.Module):
    """Maps frames (N, 3, T, H, W) in [-1, 1] to logits (N, 400) of Kinetics' classes, averaged over time.

    T must be at least 9, H and W at least 193. Parameters have the names of the PyTorch conversions
    (``i3d_pretrained_400.pt``, ``rgb_imagenet.pt``).
    """

    def __init__(self) -> None:
        super().__init__()
        self.blocks = ["Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3", *_MIXED]
        self.add_module("Conv3d_1a_7x7", _Unit(3, 64, 7, stride=2))
        self.add_module("Conv3d_2b_1x1", _Unit(64, 64, 1))
        self.add_module("Conv3d_2c_3x3", _Unit(64, 192, 3))
        channels = 192
        for name, widths in _MIXED.items():
            block = _Mixed(channels, *widths)
            self.add_module(name, block)
            channels = block.channels
        self.logits = _Logits(channels)

    def forward(self, frames: Tensor) -> Tensor:
        x = frames
        for name in self.blocks:
            if name in _POOLS:
                x = _max_pool(x, *_POOLS[name])
            x = self.get_submodule(name)(x)
        return self.logits(F.avg_pool3d(x, (2, 7, 7), stride=1))

    @staticmethod
    def select(tensors: dict[str, Any]) -> dict[str, Any]:
        """Select the weights used here from a state dict: counters of training steps are dropped."""
        return {name: x for name, x in tensors.items() if not name.endswith(".num_batches_tracked")}


class _Unit(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(channels, out_channels, kernel, stride=stride, bias=False)
        self.bn = nn.BatchNorm3d(out_channels, eps=1e-3)
        self.bn.register_buffer("num_batches_tracked", None)  # missing in older files; only for training

    def forward(self, x: Tensor) -> Tensor:
        padded = _pad(x, self.conv3d.kernel_size, self.conv3d.stride)
        return F.relu(self.bn(self.conv3d(padded)))


class _Mixed(nn.Module):
    """Inception block: four parallel branches."""

    def __init__(
        self, channels: int, direct: int, middle: tuple[int, int], narrow: tuple[int, int], pooled: int
    ) -> None:
        super().__init__()
        self.channels = direct + middle[1] + narrow[1] + pooled
        self.b0 = _Unit(channels, direct, 1)
        self.b1a = _Unit(channels, middle[0], 1)
        self.b1b = _Unit(middle[0], middle[1], 3)
        self.b2a = _Unit(channels, narrow[0], 1)
        self.b2b = _Unit(narrow[0], narrow[1], 3)
        self.b3b = _Unit(channels, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = _max_pool(x, (3, 3, 3), (1, 1, 1))
        branches = [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)]
        return torch.cat(branches, dim=1)


class _Logits(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(channels, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3d(x).mean(dim=(2, 3, 4))


def _pad(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Pad ``x`` with zeros as TensorFlow's SAME does: a layer returns ceil(size / stride) positions.

    If the padding is odd, the end gets one more zero.
    """
    padding: list[int] = []
    for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        missing = max(0, (-(-size // s) - 1) * s + k - size)
        padding = [missing // 2, missing - missing // 2, *padding]
    return F.pad(x, padding)


def _max_pool(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    # Padding with zeros is correct, because the input comes from a ReLU.
    return F.max_pool3d(_pad(x, kernel, stride), kernel, stride)

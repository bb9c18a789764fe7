"""What the inserted blocks share: the layout of their tokens, self-attention, the output projection.

Module nesting follows the published parameter names.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kinetophone.coupling.connectors import attention, group_norm, zero_init
from kinetophone.coupling.times import SiteTimes


class SelfAttention(nn.Module):
    """Multi-head self-attention; q, k, v without bias, output with bias.

    Args:
        channels: width C.
        head_dim: width of a head; there are C / head_dim of them.

    Raises:
        ValueError: if heads of that width do not fill the channels.
    """

    def __init__(self, channels: int, head_dim: int) -> None:
        super().__init__()
        if head_dim < 1 or channels % head_dim:
            raise ValueError(
                f"head_dim is {head_dim}, which does not divide the width {channels} of a conditioned "
                "block: choose a common divisor of the widths of all conditioned U-Net blocks"
            )
        self.head_dim = head_dim
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """N sets of S tokens (N, S, C) -> (N, S, C)."""
        q, k, v = (
            projection(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (N, heads, S, head_dim)
            for projection in (self.to_q, self.to_k, self.to_v)
        )
        attended = attention(q, k, v)
        return self.to_out[0](attended.transpose(1, 2).flatten(2))


class InsertedBlock(nn.Module):
    """Frame of a block inserted at a site: group norm, 1×1 convolution, layers, 1×1 convolution, residual.

    The last convolution starts at zero, so a fresh block is the identity.

    Args:
        channels: width C of the site's map.
        layers: what acts on the tokens, called as ``layers(tokens, feature, times)``.
        norm_over_frames: statistics of the group norm over all frames of a clip rather than per frame.
    """

    def __init__(self, channels: int, layers: nn.Module, norm_over_frames: bool) -> None:
        super().__init__()
        self.norm = group_norm(channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([layers])
        self.proj_out = zero_init(nn.Conv2d(channels, channels, 1))
        self.norm_over_frames = norm_over_frames

    def forward(
        self, x: Tensor, feature: Tensor, frames: int | None, times: SiteTimes | None = None
    ) -> Tensor:
        """Condition a map on the other modality's feature.

        Args:
            x: map of the site: audio (B, C, L, M), video (B·T, C, H, W), batch-major.
            feature: what the coupling makes of the other modality, see :class:`Coupling`.
            frames: T for video, None for audio.
            times: of the map's rows and the feature's steps, see :func:`kinetophone.coupling.times.at_site`.
                None spreads the feature evenly over the map.

        Returns:
            The conditioned map, in the shape of ``x``.
        """
        images, channels, height, width = x.shape
        clips = images // frames if frames is not None and self.norm_over_frames else images
        # In three dimensions, because torch's channels-last group norm on CPUs takes E[x²] - E[x]², which
        # loses a small variance to rounding: in a 1×1 map a group has only C/32 values, and it shows.
        stacked = x.unflatten(0, (clips, -1)).transpose(1, 2).flatten(2)  # (clips, C, frames·H·W)
        tokens = self.norm(stacked).transpose(1, 2).reshape(images, height * width, channels)
        tokens = F.linear(tokens, self.proj_in.weight.flatten(1), self.proj_in.bias)
        time_steps = height if frames is None else frames
        tokens = self.transformer_blocks[0](tokens, feature, time_steps, times)
        tokens = F.linear(tokens, self.proj_out.weight.flatten(1), self.proj_out.bias)
        return x + tokens.unflatten(1, (height, width)).permute(0, 3, 1, 2)

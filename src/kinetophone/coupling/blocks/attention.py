"""Parts that the inserted blocks share: self-attention and the frame of a block.

The module nesting follows the published parameter names.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kinetophone.coupling.connectors import attention, group_norm, zero_init
from kinetophone.coupling.times import SiteTimes


class SelfAttention(nn.Module):
    """Multi-head self-attention. The query, key and value projections have no bias; the output has one.

    Args:
        channels: width C.
        head_dim: width of a head; there are C / head_dim heads.

    Raises:
        ValueError: if ``head_dim`` does not divide ``channels``.
    """

    def __init__(self, channels: int, head_dim: int) -> None:
        super().__init__()
        if head_dim < 1 or channels % head_dim:
            raise ValueError(
                f"head_dim is {head_dim}, which does not divide the width {channels} of a conditioned "
                "block; choose a common divisor of the widths of all conditioned U-Net blocks"
            )
        self.head_dim = head_dim
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """N sets of S tokens (N, S, C) -> (N, S, C); tokens attend within their set."""
        q, k, v = (
            projection(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (N, heads, S, head_dim)
            for projection in (self.to_q, self.to_k, self.to_v)
        )
        attended = attention(q, k, v)
        return self.to_out[0](attended.transpose(1, 2).flatten(2))


class InsertedBlock(nn.Module):
    """A block inserted at a site: group norm, 1×1 convolution, layers, 1×1 convolution, residual.

    The last convolution is zero-initialised, so a new block is the identity.

    Args:
        channels: width C of the site.
        layers: the layers on sets of tokens, called as ``layers(tokens, feature, rows, times)``.
        norm_over_frames: whether the group norm's statistics are over all frames of a clip, not per frame.
    """

    def __init__(self, channels: int, layers: nn.Module, norm_over_frames: bool) -> None:
        super().__init__()
        self.norm = group_norm(channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([layers])
        self.proj_out = zero_init(nn.Conv2d(channels, channels, 1))
        self.norm_over_frames = norm_over_frames

    def forward(self, x: Tensor, feature: Tensor, per_frame: bool, times: SiteTimes | None = None) -> Tensor:
        """Condition the tokens of a site on the other modality's feature.

        Args:
            x: tokens (B, R, S, C): R steps along time of S positions each.
            feature: feature of the other modality, as from :meth:`Coupling.features`.
            per_frame: whether tokens attend to one another within a step only (video), or within the whole
                clip (audio).
            times: times of the site's and the feature's steps; None spreads the feature evenly over the site.

        Returns:
            The conditioned tokens, in the shape of ``x``.
        """
        batch, rows, _, channels = x.shape
        # The norm gets three dimensions, because torch's channels-last group norm on CPUs computes the
        # variance as E[x²] - E[x]². Rounding then destroys a small variance. This matters in a 1×1 map,
        # where a group has only C/32 values.
        stacked = x.permute(0, 3, 1, 2)  # (B, C, R, S)
        if per_frame and not self.norm_over_frames:
            stacked = stacked.transpose(1, 2).flatten(0, 1)[:, :, None]  # (B·R, C, 1, S)
        tokens = self.norm(stacked.flatten(2)).transpose(1, 2)
        tokens = tokens.reshape(batch * rows if per_frame else batch, -1, channels)
        tokens = F.linear(tokens, self.proj_in.weight.flatten(1), self.proj_in.bias)
        tokens = self.transformer_blocks[0](tokens, feature, rows, times)
        tokens = F.linear(tokens, self.proj_out.weight.flatten(1), self.proj_out.bias)
        return x + tokens.view(x.shape)

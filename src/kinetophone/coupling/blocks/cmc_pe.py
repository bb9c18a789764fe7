"""CMC-PE: the other modality's feature as a positional encoding (arXiv 2409.17550, section 3.2).

The feature is a time series. The vector of each time step is projected and added to all tokens of that time,
like a positional encoding, just before a self-attention. So the attention weights can depend on *when*
something happens in the other modality.

With a window, the encoding of a time step also includes the feature steps shortly before and after it.

Shape legend: B batch, N sets of S tokens of width C (video: N = B·T frames of S = H·W pixels; audio: N = B
clips of S = L·M positions), K feature channels, T' feature time steps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from kinetophone.coupling.blocks.attention import InsertedBlock, SelfAttention
from kinetophone.coupling.connectors import group_norm
from kinetophone.coupling.times import SiteTimes


class ConditionedSelfAttention(SelfAttention):
    """Self-attention on tokens to which the other modality's feature at their time is added.

    Args:
        channels: width C of the tokens.
        feature_channels: width K of the feature.
        head_dim: width of a head.
        window: feature steps that an encoding includes on either side; 0 is the published block.
        stack: number of feature steps within one step of the site that an encoding includes. It is for sites
            whose time steps are much longer than those of the feature; 1 is the published block.
    """

    def __init__(
        self, channels: int, feature_channels: int, head_dim: int, window: int = 0, stack: int = 1
    ) -> None:
        super().__init__(channels, head_dim)
        self.window, self.stack = window, stack
        self.norm = group_norm(channels, eps=1e-6)
        # Gated (exact GELU), of inner width 4K. With a window or a stack it is narrower, so that the number
        # of parameters stays the same and couplings can be compared.
        inputs = (2 * window + 1) * stack * feature_channels
        share = (2 * feature_channels + channels + 2) / (2 * inputs + channels + 2)
        self.proj_c = FeedForward(inputs, dim_out=channels, inner_dim=round(4 * feature_channels * share))

    def encoding(self, feature: Tensor, time_steps: int, times: SiteTimes | None = None) -> Tensor:
        """Feature (B, K, T') -> encoding (B, time_steps, C); a feature step applies until the next begins."""
        if self.window:
            steps = feature.shape[2]
            padded = F.pad(feature, (self.window, self.window))  # zeros before and after the clip
            feature = torch.cat([padded[..., k : k + steps] for k in range(2 * self.window + 1)], dim=1)
        if self.stack > 1:
            feature = stacked(feature, time_steps, times, self.stack)
            return self.norm(self.proj_c(feature.transpose(1, 2)).transpose(1, 2)).transpose(1, 2)
        projected = self.norm(self.proj_c(feature.transpose(1, 2)).transpose(1, 2))
        if times is not None:
            return projected.index_select(2, times.held(feature.device)).transpose(1, 2)
        return F.interpolate(projected, size=time_steps, mode="nearest").transpose(1, 2)

    def forward(
        self,
        x: Tensor,
        feature: Tensor | None = None,
        time_steps: int = 1,
        times: SiteTimes | None = None,
    ) -> Tensor:
        """Tokens (N, S, C), time-major within a clip, and feature (B, K, T') -> (N, S, C)."""
        if feature is not None:
            by_time = x.reshape(feature.shape[0], time_steps, -1, x.shape[-1])
            x = (by_time + self.encoding(feature, time_steps, times)[:, :, None]).reshape(x.shape)
        return super().forward(x)


class CMCPELayers(nn.Module):
    """Conditioned self-attention, self-attention and feed-forward, each after a layer norm.

    Each residual connection adds the *normalised* input. The published implementation does so, and its
    weights expect it.
    """

    def __init__(
        self, channels: int, feature_channels: int, head_dim: int, window: int = 0, stack: int = 1
    ) -> None:
        super().__init__()
        self.attn_c = ConditionedSelfAttention(channels, feature_channels, head_dim, window, stack)
        self.ff = FeedForward(channels)
        self.attn_s = SelfAttention(channels, head_dim)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.norm3 = nn.LayerNorm(channels)

    def forward(self, x: Tensor, feature: Tensor, time_steps: int, times: SiteTimes | None = None) -> Tensor:
        """Tokens (N, S, C) and feature (B, K, T') -> (N, S, C)."""
        x = self.norm1(x)
        x = self.attn_c(x, feature, time_steps, times) + x
        x = self.norm2(x)
        x = self.attn_s(x) + x
        x = self.norm3(x)
        return self.ff(x) + x


class CMCPEBlock(InsertedBlock):
    """The CMC-PE block of one site. It takes the feature as a time series (B, K, T').

    Args:
        channels: width C of the site.
        feature_channels: width K of the feature.
        head_dim: width of an attention head.
        window, stack: see :class:`ConditionedSelfAttention`.
    """

    def __init__(
        self, channels: int, feature_channels: int, head_dim: int, window: int = 0, stack: int = 1
    ) -> None:
        layers = CMCPELayers(channels, feature_channels, head_dim, window, stack)
        super().__init__(channels, layers, norm_over_frames=True)


def stacked(feature: Tensor, rows: int, times: SiteTimes | None, count: int) -> Tensor:
    """The feature steps within each row of a site, (B, K, T') -> (B, count·K, rows).

    A single feature step per row would lose when within the row something happens.

    Args:
        feature: the feature (B, K, T').
        rows: number of the site's steps.
        times: times of the site's and the feature's steps; None spreads the feature evenly over the site.
        count: number of feature steps per row.
    """
    if times is None:
        held = F.interpolate(feature, size=rows * count, mode="nearest")
    else:
        held = feature.index_select(2, times.held(feature.device, count))
    return held.unflatten(2, (rows, count)).permute(0, 3, 1, 2).flatten(1, 2)

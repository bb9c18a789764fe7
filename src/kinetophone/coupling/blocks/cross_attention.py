"""Cross-attention to a single token: the baseline coupling, after CoDi (arXiv 2305.11846).

The other modality is pooled over time and space to a single vector. A softmax over one token is 1, so the
cross-attention adds the same vector at every pixel of every frame. It can tell *what* is in the other
modality but never *when*. It exists for comparison.

Shape legend: N sets of S tokens of width C, K feature channels.
"""

from __future__ import annotations

from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from kinetophone.coupling.blocks.attention import InsertedBlock, SelfAttention
from kinetophone.coupling.times import SiteTimes


class SingleTokenAttention(nn.Module):
    """Cross-attention whose context is one token.

    ``to_q`` and ``to_k`` cannot affect the output. They exist because the published checkpoint has them. They
    are never used and require no gradient. So weight decay leaves them alone, a distributed wrapper does not
    wait for their gradients, and they do not count as trainable parameters.
    """

    def __init__(self, channels: int, feature_channels: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(channels, channels, bias=False).requires_grad_(False)
        self.to_k = nn.Linear(feature_channels, channels, bias=False).requires_grad_(False)
        self.to_v = nn.Linear(feature_channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, context: Tensor) -> Tensor:
        """Context (B, 1, K) -> output (B, 1, C), the same for every token."""
        return self.to_out[0](self.to_v(context))


class CrossAttentionLayers(nn.Module):
    """The usual pre-norm transformer layer: self-attention, cross-attention, feed-forward."""

    def __init__(self, channels: int, feature_channels: int, head_dim: int, ff_mult: float = 4.0) -> None:
        super().__init__()
        self.attn1 = SelfAttention(channels, head_dim)
        self.ff = FeedForward(channels, inner_dim=round(ff_mult * channels))
        self.attn2 = SingleTokenAttention(channels, feature_channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels).requires_grad_(False)  # feeds only attn2.to_q
        self.norm3 = nn.LayerNorm(channels)

    def forward(self, x: Tensor, feature: Tensor, time_steps: int, times: SiteTimes | None = None) -> Tensor:
        """Tokens (N, S, C) and feature (B, 1, K) -> (N, S, C); steps and times are ignored."""
        x = x + self.attn1(self.norm1(x))
        attended = self.attn2(feature)
        x = x + attended.repeat_interleave(x.shape[0] // attended.shape[0], dim=0)
        return x + self.ff(self.norm3(x))


class CrossAttentionBlock(InsertedBlock):
    """The cross-attention block of one site. It takes the feature as one token (B, 1, K).

    Args:
        channels: width C of the site.
        feature_channels: width K of the feature.
        head_dim: width of an attention head.
        ff_mult: inner width of the feed-forward in units of C; the setting that makes this block larger.

    Raises:
        ValueError: if ``head_dim`` does not divide ``channels``.
    """

    def __init__(self, channels: int, feature_channels: int, head_dim: int, ff_mult: float = 4.0) -> None:
        layers = CrossAttentionLayers(channels, feature_channels, head_dim, ff_mult)
        super().__init__(channels, layers, norm_over_frames=False)

"""CMC-PE in place: the encoding is added to the input of the frozen network's own self-attention.

What CMC-PE inserts is an encoding and a self-attention that sees it. A transformer's block has the
self-attention already: all that is trained at a site is the map from the other modality's feature to the
encoding, zero at first, so that a fresh coupling changes nothing. Of the width of Wan2.1-1.3B that is
0.2 million parameters a site.

Shape legend: B batch, R steps along time of S positions each, width C; K feature channels, T' feature steps.
"""

from __future__ import annotations

from torch import Tensor, nn

from kinetophone.coupling.blocks.cmc_pe import stacked
from kinetophone.coupling.connectors import zero_init
from kinetophone.coupling.times import SiteTimes


class InPlaceBlock(nn.Module):
    """The encoding of one site.

    Args:
        channels: width C of the site.
        feature_channels: width K of the feature.
        head_dim: of no use: the attention is the network's own.
        stack: feature steps within a step of the site that its encoding is made of.
    """

    in_place = True

    def __init__(self, channels: int, feature_channels: int, head_dim: int, stack: int = 1) -> None:
        super().__init__()
        self.stack = stack
        # A feature has unit norm at each step: of its entries each is small.
        self.norm = nn.LayerNorm(stack * feature_channels)
        self.proj = zero_init(nn.Linear(stack * feature_channels, channels))

    def forward(self, x: Tensor, feature: Tensor, per_frame: bool, times: SiteTimes | None = None) -> Tensor:
        """Tokens (B, R, S, C) and feature (B, K, T') -> tokens with the encoding of their time added."""
        held = stacked(feature, x.shape[1], times, self.stack).transpose(1, 2)  # (B, R, stack·K)
        return x + self.proj(self.norm(held))[:, :, None].to(x.dtype)

"""CMC-PE in place: the encoding is added to the input of the frozen network's own self-attention.

CMC-PE inserts an encoding and a self-attention that reads it. A transformer block already has a
self-attention. So at each site only the projection from the other modality's feature to the encoding is
trained. It is zero-initialised, so a new coupling changes nothing. At the width of Wan2.1-1.3B it has 0.2
million parameters per site.

Shape legend: B batch, R steps along time of S positions each, width C; K feature channels, T' feature steps.
"""

from __future__ import annotations

from torch import Tensor, nn

from kinetophone.coupling.blocks.cmc_pe import stacked
from kinetophone.coupling.connectors import zero_init
from kinetophone.coupling.times import SiteTimes


class InPlaceBlock(nn.Module):
    """The encoding of one site, added to its tokens.

    Args:
        channels: width C of the site.
        feature_channels: width K of the feature.
        head_dim: ignored, because the attention is the network's own.
        stack: number of feature steps within one step of the site that an encoding includes.
    """

    in_place = True

    def __init__(self, channels: int, feature_channels: int, head_dim: int, stack: int = 1) -> None:
        super().__init__()
        self.stack = stack
        # A feature has unit norm at each step, so its single entries are small.
        self.norm = nn.LayerNorm(stack * feature_channels)
        self.proj = zero_init(nn.Linear(stack * feature_channels, channels))

    def forward(self, x: Tensor, feature: Tensor, per_frame: bool, times: SiteTimes | None = None) -> Tensor:
        """Tokens (B, R, S, C) and feature (B, K, T') -> tokens with the encoding of their time added."""
        held = stacked(feature, x.shape[1], times, self.stack).transpose(1, 2)  # (B, R, stack·K)
        return x + self.proj(self.norm(held))[:, :, None].to(x.dtype)

"""The blocks that a coupling inserts into the base networks, one file per kind."""

from __future__ import annotations

from torch import nn

from kinetophone.coupling.blocks.cmc_pe import CMCPEBlock
from kinetophone.coupling.blocks.cross_attention import CrossAttentionBlock
from kinetophone.coupling.blocks.in_place import InPlaceBlock
from kinetophone.coupling.blocks.timed_attention import TimedCrossAttentionBlock

# The block of each kind of coupling, and the settings that only this block takes.
BLOCKS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "cmc_pe": (CMCPEBlock, ("window", "stack")),
    "in_place": (InPlaceBlock, ("stack",)),
    "cross_attention": (CrossAttentionBlock, ("ff_mult",)),
    "timed_cross_attention": (TimedCrossAttentionBlock, ("ff_mult",)),
}

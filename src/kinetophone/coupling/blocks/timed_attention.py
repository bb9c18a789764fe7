"""Time-aligned cross-attention: each position looks at the other modality's whole time series.

Later joint models (UniAVGen, JavisDiT++) do this instead of adding an encoding. Queries attend to the steps
of the feature. Rotary embeddings (arXiv 2104.09864) of the times of both, in seconds, tell the attention how
far apart they are. The two time axes may have different rates.

Shape legend: B batch, N sets of S tokens of width C (video: N = B·T frames; audio: N = B clips of L·M
positions), K feature channels, T' feature time steps, d head width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from kinetophone.coupling.blocks.attention import InsertedBlock, SelfAttention
from kinetophone.coupling.connectors import SINUSOID_FPS
from kinetophone.coupling.times import SiteTimes

# Periods of the rotations of a head's channel pairs: from 0.25 s (two frames at 8 fps) to 64 s.
SHORTEST_S, LONGEST_S = 0.25, 64.0


def step_times(steps: int, frames: int, like: Tensor) -> Tensor:
    """Midpoints (steps,), in seconds, of ``steps`` equal parts of a clip of ``frames`` frames.

    As in the connectors, frames / 8 are taken as seconds, at any frame rate of the clip.
    """
    return (torch.arange(steps, device=like.device) + 0.5) * (frames / SINUSOID_FPS / steps)


def rotated(x: Tensor, times_s: Tensor) -> Tensor:
    """Rotary embedding of times.

    Args:
        x: queries or keys (…, steps, d).
        times_s: times (steps,) in seconds.

    Returns:
        ``x`` with each channel pair (k, k + d/2) rotated by its frequency times the time.
    """
    half = x.shape[-1] // 2
    ratio = torch.linspace(0, 1, half, device=x.device)
    period_s = SHORTEST_S * (LONGEST_S / SHORTEST_S) ** ratio
    angle = 2 * math.pi * times_s[:, None] / period_s
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class TimedCrossAttention(nn.Module):
    """Multi-head attention of tokens to the feature's steps, with rotary embeddings of the times of both.

    Args:
        channels: width C of the tokens.
        feature_channels: width K of the feature.
        head_dim: width d of a head, even.
    """

    def __init__(self, channels: int, feature_channels: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        # A feature has unit norm at each step. Without this norm, keys and values would be almost zero.
        self.norm = nn.LayerNorm(feature_channels)
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(feature_channels, channels, bias=False)
        self.to_v = nn.Linear(feature_channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor, feature: Tensor, time_steps: int, times: SiteTimes | int) -> Tensor:
        """Tokens (N, S, C), time-major within a clip, and feature (B, K, T') -> (N, S, C).

        ``times`` are those of the site's and the feature's steps. If it is the length of the clip in frames,
        both are spread evenly over the clip.
        """
        context = self.norm(feature.transpose(1, 2))  # (B, T', K)
        q, k, v = (
            projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, heads, steps, d)
            for projected in (
                self.to_q(x.reshape(feature.shape[0], -1, x.shape[-1])),
                self.to_k(context),
                self.to_v(context),
            )
        )
        if isinstance(times, SiteTimes):
            of_rows, of_steps = times.middles(x.device)
        else:
            of_rows, of_steps = step_times(time_steps, times, x), step_times(k.shape[2], times, x)
        q = rotated(q, of_rows.repeat_interleave(q.shape[2] // time_steps))
        k = rotated(k, of_steps)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.to_out[0](attended.transpose(1, 2).flatten(2)).reshape(x.shape)


class TimedCrossAttentionLayers(nn.Module):
    """The usual pre-norm transformer layer: self-attention, time-aligned cross-attention, feed-forward."""

    def __init__(self, channels: int, feature_channels: int, head_dim: int, ff_mult: float) -> None:
        super().__init__()
        self.attn1 = SelfAttention(channels, head_dim)
        self.attn2 = TimedCrossAttention(channels, feature_channels, head_dim)
        self.ff = FeedForward(channels, inner_dim=round(ff_mult * channels))
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.norm3 = nn.LayerNorm(channels)

    def forward(self, x: Tensor, feature: Tensor, time_steps: int, times: SiteTimes | None = None) -> Tensor:
        """Tokens (N, S, C) and feature (B, K, T') -> (N, S, C)."""
        # Video has one set of tokens per frame. Audio has one per clip; its feature has a step per frame.
        of_video = x.shape[0] == feature.shape[0] * time_steps
        frames = time_steps if of_video else feature.shape[2]
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), feature, time_steps, frames if times is None else times)
        return x + self.ff(self.norm3(x))


class TimedCrossAttentionBlock(InsertedBlock):
    """The time-aligned cross-attention block of one site. It takes the feature as a time series (B, K, T').

    Args:
        channels: width C of the site.
        feature_channels: width K of the feature.
        head_dim: width of an attention head, even.
        ff_mult: inner width of the feed-forward in units of C; the setting that makes this block larger.
    """

    def __init__(self, channels: int, feature_channels: int, head_dim: int, ff_mult: float = 4.0) -> None:
        layers = TimedCrossAttentionLayers(channels, feature_channels, head_dim, ff_mult)
        super().__init__(channels, layers, norm_over_frames=False)

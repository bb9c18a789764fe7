"""Connectors: one encoder per modality, from its noisy latent to features that condition the other modality.

A connector reads the latent of its own modality. With self-conditioning, it also reads the last estimate of
the clean latent. It returns a time series of features. The coupling normalises the series and conditions the
*other* network with it. A connector never reads activations of a base network. So once both connectors have
run, the forward passes of the two networks in a step are independent.

The design follows arXiv 2409.17550, section 3.2, and its released implementation. Module nesting and
parameter names are the same, so that the published checkpoint loads.

Shape legend: B batch, T video frames, H, W video latent size, L audio latent steps, M mel bins of the audio
latent, D width of the layer, E width of the timestep embedding, K feature channels, P = H·W pixels,
N images of a 2-D layer (B·T for video, batch-major; B for audio).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)
NormAxis = Literal["time", "channel"]

TEMPORAL_HEADS = 8
FRAME_SHIFT_GROUPS = 8
# The sinusoid of the temporal attention takes frame index / 8 as seconds, at any frame rate of the clip.
SINUSOID_FPS = 8.0
# The lower bound of variances. They are clamped to it; it is not added to them.
MIN_VARIANCE = 1e-5


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """GroupNorm with 32 groups, or the largest divisor of 32 that also divides ``channels``.

    The published widths are all multiples of 32. The fallback is for small bases, e.g. 48 = 96 / 2 channels.
    """
    return nn.GroupNorm(math.gcd(32, channels), channels, eps=eps)


def zero_init(module: M) -> M:
    """Set all parameters to zero, so that a residual branch that ends here initially adds nothing.

    Returns:
        ``module`` itself.
    """
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention.

    This is torch's fused kernel, except in training on a CPU. There, the backward pass of the fused kernel
    takes two to seven times as long as that of the explicit products. In all other cases the explicit
    products would take twice the time and three times the memory of the fused kernel, at the published head
    width of 8.

    Args:
        q: queries (N, heads, S, width).
        k: keys (N, heads, S', width).
        v: values (N, heads, S', width).
        bias: added to the logits, (heads, S, S'); none if not given.

    Returns:
        Attended values (N, heads, S, width).
    """
    if q.device.type == "cpu" and torch.is_grad_enabled():
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return (logits if bias is None else logits + bias).softmax(dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias[None])


class ResBlock(nn.Module):
    """2-D residual block conditioned on the timestep, as in guided-diffusion U-Nets.

    Args:
        in_channels: width of the input.
        out_channels: width of the output.
        embedding_dim: width E of the timestep embedding.
    """

    def __init__(self, in_channels: int, out_channels: int, embedding_dim: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            group_norm(in_channels, eps=1e-5),
            nn.SiLU(),
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding_dim, out_channels))
        self.out_layers = nn.Sequential(
            group_norm(out_channels, eps=1e-5),
            nn.SiLU(),
            nn.Identity(),  # in place of the published dropout, so that the convolution is named out_layers.3
            zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        self.skip_connection: nn.Module = (
            nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(N, D, h, w) and timestep embedding (B, E) -> (N, D', h, w); N is a multiple of B."""
        shift = self.emb_layers(embedding)
        if x.shape[0] != shift.shape[0]:
            shift = shift.repeat_interleave(x.shape[0] // shift.shape[0], dim=0)
        h = self.in_layers(x) + shift[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Downsample(nn.Module):
    """Strided convolution that halves the last two axes: height and width of video, time and mel of audio."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D, h, w) -> (N, D, ceil(h/2), ceil(w/2))."""
        return self.op(x)


class GainNorm(nn.Module):
    """Normalisation by the mean and the biased variance over one axis, with a gain per channel and no bias.

    Args:
        shape: shape of the gain, with the channels first.
        axis: "channel" for statistics over channels, "time" for statistics of each channel over time.
    """

    def __init__(self, shape: Sequence[int], axis: NormAxis) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(*shape))
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) -> (N, T, D)."""
        variance, mean = torch.var_mean(
            x, dim=-1 if self.axis == "channel" else -2, correction=0, keepdim=True
        )
        return (x - mean) * variance.clamp(min=MIN_VARIANCE).rsqrt() * self.g.flatten()


class RelativePositionBias(nn.Module):
    """Bias per head for attention over time: an MLP of the signed log distance between two frames."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Sequential(nn.Linear(1, width), nn.SiLU()),
            nn.Sequential(nn.Linear(width, width), nn.SiLU()),
            nn.Linear(width, TEMPORAL_HEADS),
        )

    def forward(self, frames: int, like: Tensor) -> Tensor:
        """Bias (heads, T, T) for query frame i (rows) and key frame j (columns); depends only on i - j.

        It has the device and dtype of ``like``.
        """
        distance = torch.arange(1 - frames, frames, device=like.device)  # the 2T - 1 values of i - j
        signed_log = distance.sign() * (distance.abs() + 1).float().log()
        bias = self.net(signed_log[:, None].to(like.dtype))  # (2T - 1, heads)
        frame = torch.arange(frames, device=like.device)
        return bias[frame[:, None] - frame + frames - 1].permute(2, 0, 1)


class TemporalAttention(nn.Module):
    """Multi-head self-attention over time, separately at each pixel.

    The projections have no biases, and the output projection is zero-initialised. Each of the eight heads is
    a quarter of the input's width, so the inner width is twice that of the input.
    """

    def __init__(self, channels: int, norm_axis: NormAxis) -> None:
        super().__init__()
        inner = TEMPORAL_HEADS * (channels // 4)
        self.norm = GainNorm([channels], norm_axis)
        self.to_q = nn.Linear(channels, inner, bias=False)
        self.to_kv = nn.Linear(channels, 2 * inner, bias=False)
        self.to_out = zero_init(nn.Linear(inner, channels, bias=False))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(N, T, D) and bias (heads, T, T), added to the scaled logits -> (N, T, D)."""
        x = self.norm(x)
        q, k, v = (
            projected.unflatten(-1, (TEMPORAL_HEADS, -1)).transpose(1, 2)  # (N, heads, T, width)
            for projected in (self.to_q(x), *self.to_kv(x).chunk(2, dim=-1))
        )
        attended = attention(q, k, v, bias)
        return self.to_out(attended.transpose(1, 2).flatten(2))


class TemporalFeedForward(nn.Module):
    """Gated feed-forward that delays the upper half of its channels by one frame.

    The parameters have the names and shapes of 1×1×1 convolutions. They are applied as matrix products on
    tokens.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = 8 * channels // 3
        self.proj_in = nn.ModuleList([nn.Conv3d(channels, 2 * inner, 1, bias=False)])
        self.proj_out = nn.ModuleList(
            [GainNorm([inner, 1, 1, 1], "channel"), nn.Conv3d(inner, channels, 1, bias=False)]
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) -> (N, T, D)."""
        value, gate = F.linear(x, self.get_parameter("proj_in.0.weight").flatten(1)).chunk(2, dim=-1)
        stay, move = (value * F.gelu(gate)).chunk(2, dim=-1)  # with an odd number, the extra one stays
        h = torch.cat([stay, F.pad(move, (0, 0, 1, -1))], dim=-1)
        return F.linear(self.proj_out[0](h), self.get_parameter("proj_out.1.weight").flatten(1))


class FrameShift(nn.Module):
    """Residual per-frame convolution; its output channels form groups g = 0…7, each delayed by g frames.

    The convolution is zero-initialised.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_layers = nn.Sequential(
            group_norm(channels, eps=1e-5),
            nn.SiLU(),
            zero_init(nn.Conv2d(channels, channels, 3, padding=1)),
        )

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """(B·T, D, h, w) -> (B·T, D, h, w)."""
        groups = self.out_layers(x).unflatten(0, (-1, frames)).chunk(FRAME_SHIFT_GROUPS, dim=2)
        delays = [min(g, frames) for g in range(len(groups))]  # groups are (B, T, D/8, h, w)
        shifted = [
            F.pad(group, (0, 0, 0, 0, 0, 0, delay, -delay)) if delay else group
            for group, delay in zip(groups, delays, strict=True)
        ]
        return x + torch.cat(shifted, dim=2).flatten(0, 1)


class TemporalBlock(nn.Module):
    """Residual attention, feed-forward and frame shift: the part of a video connector that mixes frames.

    Args:
        channels: width D, a multiple of 8.
        norm_axis: axis over which the attention's normalisation takes its statistics. "time" is each channel
            over the frames, as in the published implementation. "channel" is the usual layer norm.
    """

    def __init__(self, channels: int, norm_axis: NormAxis) -> None:
        super().__init__()
        self.frameshiftblock = FrameShift(channels)
        self.temporal_attn = TemporalAttention(channels, norm_axis)
        self.temporal_rel_pos_bias = RelativePositionBias(channels // 2)
        self.ff = TemporalFeedForward(channels)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """(B·T, D, h, w) -> (B·T, D, h, w)."""
        images, channels, height, width = x.shape
        batch = images // frames
        # Transposed once each way, because attention and feed-forward both take (pixels, time, channels).
        tokens = x.permute(0, 2, 3, 1).reshape(batch, frames, height * width, channels)
        tokens = tokens.transpose(1, 2).flatten(0, 1)  # (B·P, T, D)
        time = sinusoid(frames, channels, tokens)
        tokens = tokens + self.temporal_attn(tokens + time, self.temporal_rel_pos_bias(frames, tokens))
        tokens = tokens + self.ff(tokens)
        x = tokens.unflatten(0, (batch, -1)).transpose(1, 2).reshape(images, height, width, channels)
        return self.frameshiftblock(x.permute(0, 3, 1, 2), frames)


def sinusoid(frames: int, width: int, like: Tensor) -> Tensor:
    """Sinusoidal embedding (T, width) of the frames' times, sines first.

    A frame's time is its index / 8, in seconds. The device and dtype are those of ``like``.
    """
    half = width // 2
    step = math.log(10000) / (half - 1)
    frequency = torch.exp(torch.arange(half, device=like.device) * -step)
    phase = torch.arange(frames, device=like.device)[:, None] / SINUSOID_FPS * frequency
    return torch.cat([phase.sin(), phase.cos()], dim=-1).to(like.dtype)


def encoder_layers(
    in_channels: int,
    base_channels: int,
    channel_mult: Sequence[int],
    num_blocks: Sequence[int],
    out_channels: int,
    embedding_dim: int,
    block: Callable[[int, int, int], nn.Sequential],
) -> list[nn.Sequential]:
    """The layers of a connector: first convolution, levels of blocks with strided convolutions between, head.

    Args:
        in_channels: channels of the input.
        base_channels: C0, first width of the modality's U-Net.
        channel_mult: width of each level in units of C0; between two levels is one strided convolution.
        num_blocks: residual blocks of each level.
        out_channels: feature channels K.
        embedding_dim: width of the timestep embedding.
        block: called as ``block(input width, output width, embedding width)``; returns one block.

    Returns:
        One module per number in the published parameter names.
    """
    width = base_channels // 2
    layers = [nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1))]
    for level, (mult, blocks) in enumerate(zip(channel_mult, num_blocks, strict=True)):
        if level:
            layers.append(nn.Sequential(Downsample(width)))
        for _ in range(blocks):
            layers.append(block(width, mult * base_channels, embedding_dim))
            width = mult * base_channels
    head = nn.Conv2d(width, out_channels, 3, padding=1)
    layers.append(nn.Sequential(group_norm(width, eps=1e-5), nn.SiLU(), head))
    return layers


class AudioConnector(nn.ModuleList):
    """Encoder of the audio latent: (B, C, L, M) -> time series (B, K, L').

    L' is L / 2^(levels - 1), rounded up at each halving.

    Args:
        in_channels: channels of the input: those of the latent, twice as many with self-conditioning.
        base_channels: C0, first width of the audio U-Net.
        channel_mult: width of each level in units of C0; time and mel are halved between two levels.
        num_blocks: residual blocks of each level.
        out_channels: feature channels K.
        embedding_dim: width E of the timestep embedding; 4·C0 if not given.
    """

    def __init__(
        self,
        in_channels: int,
        base_channels: int,
        channel_mult: Sequence[int],
        num_blocks: Sequence[int],
        out_channels: int,
        embedding_dim: int | None = None,
    ) -> None:
        def block(width_in: int, width: int, embedding: int) -> nn.Sequential:
            return nn.Sequential(ResBlock(width_in, width, embedding))

        embedding_dim = embedding_dim or 4 * base_channels
        super().__init__(
            encoder_layers(
                in_channels, base_channels, channel_mult, num_blocks, out_channels, embedding_dim, block
            )
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Latent (B, C, L, M), or (B, C, L), and timestep embedding (B, E) -> (B, K, L')."""
        if x.dim() == 3:
            x = x[..., None]
        # Channels-last makes narrow convolutions several times faster on a CPU and costs nothing elsewhere.
        h = x.contiguous(memory_format=torch.channels_last)
        for layer in self:
            first = next(layer.children())
            h = first(h, embedding) if isinstance(first, ResBlock) else layer(h)
        return h.mean(dim=3)


class VideoConnector(nn.ModuleList):
    """Encoder of the video latent: (B, C, T, H, W) -> time series (B, K, T).

    It applies the audio connector's layers to each frame, with a temporal block after every residual block.
    The statistics of its group norms are per frame. Only space is halved between levels, never time.

    Args:
        in_channels: channels of the input: those of the latent, twice as many with self-conditioning.
        base_channels: C0, first width of the video U-Net.
        channel_mult: width of each level in units of C0; space is halved between two levels.
        num_blocks: residual blocks of each level.
        out_channels: feature channels K.
        norm_axis: axis of the temporal attention's normalisation, see :class:`TemporalBlock`.
        embedding_dim: width E of the timestep embedding; 4·C0 if not given.
        substeps: r, features per latent step. With r > 1 the latent is causal: its first step is a single
            frame and gets one feature. Each later step gets one feature for each of its r frames.
    """

    def __init__(
        self,
        in_channels: int,
        base_channels: int,
        channel_mult: Sequence[int],
        num_blocks: Sequence[int],
        out_channels: int,
        norm_axis: NormAxis,
        embedding_dim: int | None = None,
        substeps: int = 1,
    ) -> None:
        def block(width_in: int, width: int, embedding: int) -> nn.Sequential:
            pair = nn.Sequential(ResBlock(width_in, width, embedding), TemporalBlock(width, norm_axis))
            return nn.Sequential(pair)

        channels, embedding_dim = out_channels * substeps, embedding_dim or 4 * base_channels
        super().__init__(
            encoder_layers(
                in_channels, base_channels, channel_mult, num_blocks, channels, embedding_dim, block
            )
        )
        self.substeps = substeps

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Latent (B, C, T, H, W) and timestep embedding (B, E) -> (B, K, T), or (B, K, r·(T - 1) + 1)."""
        frames = x.shape[2]
        h = x.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        for layer in self:
            first = next(layer.children())
            if isinstance(first, nn.Sequential):
                residual, temporal = first
                h = temporal(residual(h, embedding), frames)
            else:
                h = layer(h)
        series = h.mean(dim=(2, 3)).unflatten(0, (-1, frames)).transpose(1, 2)  # (B, K·substeps, T)
        if self.substeps == 1:
            return series
        finer = series.unflatten(1, (-1, self.substeps)).transpose(2, 3).flatten(2)
        return finer[:, :, self.substeps - 1 :]  # the first latent is a single frame

"""Connectors: what their layers do with time, and sizes that the published model does not have."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kinetophone.coupling.connectors import (
    AudioConnector,
    FrameShift,
    GainNorm,
    RelativePositionBias,
    TemporalAttention,
    TemporalBlock,
    TemporalFeedForward,
    VideoConnector,
    group_norm,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("levels", "steps"), [(1, 8), (2, 4), (3, 2)])
def test_audio_connector_halves_time_between_levels(levels: int, steps: int) -> None:
    connector = AudioConnector(8, 32, [1] * levels, [1] * levels, 48)
    assert connector(torch.randn(2, 8, 8, 4), torch.randn(2, 128)).shape == (2, 48, steps)


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("frames", [1, 3, 10])
def test_video_connector_keeps_time(levels: int, frames: int) -> None:
    connector = VideoConnector(4, 32, [2] * levels, [1] * levels, 48, "channel")
    assert connector(torch.randn(2, 4, frames, 4, 4), torch.randn(2, 128)).shape == (2, 48, frames)


def test_group_norm_has_32_groups_where_it_can() -> None:
    assert [group_norm(width, 1e-5).num_groups for width in (32, 320, 48, 80)] == [32, 32, 16, 16]


def test_a_temporal_block_starts_as_its_feed_forward_alone() -> None:
    block = TemporalBlock(16, "channel")
    x = torch.randn(2 * 5, 16, 2, 2)
    tokens = x.unflatten(0, (2, 5)).permute(0, 3, 4, 1, 2).reshape(-1, 5, 16)
    expected = (tokens + block.ff(tokens)).reshape(2, 2, 2, 5, 16).permute(0, 3, 4, 1, 2).flatten(0, 1)
    torch.testing.assert_close(block(x, 5), expected)


@pytest.mark.parametrize("frames", [3, 8, 12])
def test_frame_shift_delays_group_g_by_g_frames(frames: int) -> None:
    block = FrameShift(16)
    block.out_layers = nn.Identity()  # so that what is shifted is the input itself
    x = torch.randn(2 * frames, 16, 2, 2)
    shifted = (block(x, frames) - x).unflatten(0, (2, frames))
    clips = x.unflatten(0, (2, frames))
    for g in range(8):
        group = slice(2 * g, 2 * g + 2)
        assert not shifted[:, :g, group].any()
        torch.testing.assert_close(shifted[:, g:, group], clips[:, : max(frames - g, 0), group])


def test_feed_forward_moves_the_smaller_half_one_frame_later() -> None:
    feed_forward = TemporalFeedForward(8)  # inner width 21: 11 channels stay, 10 move
    x = torch.zeros(1, 4, 8)
    x[0, 1] = torch.randn(8)
    seen = []
    feed_forward.proj_out[0].register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    feed_forward(x)
    (h,) = seen
    assert h.shape[-1] == 21
    assert h[0, :, :11].any(-1).tolist() == [False, True, False, False]
    assert h[0, :, 11:].any(-1).tolist() == [False, False, True, False]


def test_gain_norm_takes_its_statistics_along_its_axis() -> None:
    x = torch.randn(3, 7, 16) * 5 + 2
    torch.testing.assert_close(
        GainNorm([16], "channel")(x), F.layer_norm(x, [16], eps=0), atol=1e-4, rtol=1e-4
    )
    over_time = GainNorm([16], "time")(x)
    torch.testing.assert_close(over_time.mean(1), torch.zeros(3, 16), atol=1e-5, rtol=0)
    torch.testing.assert_close(over_time.var(1, correction=0), torch.ones(3, 16))


def test_gain_norm_clamps_a_vanishing_variance() -> None:
    assert torch.equal(GainNorm([4], "time")(torch.ones(1, 1, 4)), torch.zeros(1, 1, 4))
    small = torch.tensor([[[1e-4], [-1e-4]]])  # variance 1e-8, taken as 1e-5
    torch.testing.assert_close(GainNorm([1], "time")(small), small / 1e-5**0.5)


def test_relative_bias_depends_on_i_minus_j_alone() -> None:
    net = RelativePositionBias(8)
    bias = net(5, torch.zeros(()))
    assert bias.shape == (8, 5, 5)
    torch.testing.assert_close(bias[:, 1:, 1:], bias[:, :-1, :-1])
    signed_log = torch.tensor([[torch.tensor(4.0).log()]])  # query 3, key 0: |Δ| + 1 = 4
    torch.testing.assert_close(bias[:, 3, 0], net.net(signed_log)[0])


def test_temporal_attention_equals_explicit_softmax() -> None:
    attention = TemporalAttention(16, "channel")
    nn.init.normal_(attention.to_out.weight)
    x, bias = torch.randn(3, 5, 16), torch.randn(8, 5, 5)
    h = attention.norm(x)
    q = attention.to_q(h).view(3, 5, 8, 4)
    k, v = (part.view(3, 5, 8, 4) for part in attention.to_kv(h).chunk(2, dim=-1))
    weights = (torch.einsum("nihd,njhd->nhij", q / 2, k) + bias).softmax(-1)
    expected = attention.to_out(torch.einsum("nhij,njhd->nihd", weights, v).flatten(2))
    torch.testing.assert_close(attention(x, bias), expected)

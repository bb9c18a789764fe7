"""The inserted blocks: what reaches the map, where and when."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from kinetophone.coupling.blocks.attention import SelfAttention
from kinetophone.coupling.blocks.cmc_pe import CMCPEBlock, ConditionedSelfAttention
from kinetophone.coupling.blocks.cross_attention import CrossAttentionBlock
from kinetophone.coupling.blocks.timed_attention import TimedCrossAttentionBlock, rotated, step_times

BLOCKS = (CMCPEBlock, partial(CMCPEBlock, window=1), CrossAttentionBlock, TimedCrossAttentionBlock)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def feature_of(block: Callable[..., nn.Module], batch: int, steps: int = 4) -> torch.Tensor:
    return torch.randn(batch, 1, 24) if block is CrossAttentionBlock else torch.randn(batch, 24, steps)


@pytest.mark.parametrize("make", BLOCKS)
@pytest.mark.parametrize(("shape", "per_frame"), [((2, 6, 3, 32), False), ((2, 5, 6, 32), True)])
def test_a_fresh_block_is_the_identity(
    make: Callable[..., nn.Module], shape: tuple[int, ...], per_frame: bool
) -> None:
    x = torch.randn(shape)
    assert torch.equal(make(32, 24, 8)(x, feature_of(make, 2), per_frame), x)


@pytest.mark.parametrize("make", BLOCKS)
def test_memory_format_and_batch_do_not_matter(make: Callable[..., nn.Module]) -> None:
    block, x, feature = make(32, 24, 8), torch.randn(2, 5, 6, 32), feature_of(make, 2)
    nn.init.normal_(block.proj_out.weight)
    expected = block(x, feature, True)
    other = x.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)  # the memory of a map, not of tokens
    torch.testing.assert_close(block(other, feature, True), expected)
    torch.testing.assert_close(block(x[1:], feature[1:], True), expected[1:])


def test_group_norm_is_exact_where_a_map_has_one_pixel() -> None:
    # Means far above a small spread, in channels-last memory, where torch's own kernel is off by percents.
    block = CMCPEBlock(64, 24, 8)
    x = 3 + 1e-3 * torch.randn(2, 1, 1, 64)
    seen = []
    block.norm.register_forward_hook(lambda _module, _args, output: seen.append(output))
    block(x, torch.randn(2, 24, 4), True)
    exact = block.norm.double()(x.double().flatten(1, 2).transpose(1, 2))
    torch.testing.assert_close(seen[0].double(), exact.detach(), atol=1e-3, rtol=1e-3)


def test_encoding_holds_each_feature_step() -> None:
    attention = ConditionedSelfAttention(32, 24, 8)
    feature = torch.randn(2, 24, 2)
    encoding = attention.encoding(feature, 6)
    assert encoding.shape == (2, 6, 32)
    assert torch.equal(encoding[:, 0], encoding[:, 2])
    assert torch.equal(encoding[:, 3], encoding[:, 5])
    assert not torch.allclose(encoding[:, 2], encoding[:, 3])


@pytest.mark.parametrize("make", BLOCKS)
def test_who_can_tell_when(make: Callable[..., nn.Module]) -> None:
    block, x = make(32, 24, 8), torch.randn(1, 1, 4, 32)
    nn.init.normal_(block.proj_out.weight)
    same_frames = x.expand(2, 4, -1, -1)  # nothing in the tokens themselves tells the frames apart
    out = block(same_frames, feature_of(make, 2), True)
    assert torch.allclose(out[:, 0], out[:, 3], atol=1e-5) == (make is CrossAttentionBlock)


def test_an_encoding_is_made_of_its_window_alone() -> None:
    for window in (0, 1, 2):
        attention = ConditionedSelfAttention(32, 24, 8, window)
        attention.norm = nn.Identity()  # its statistics are of the whole clip
        feature = torch.randn(1, 24, 9)
        changed = feature.clone()
        changed[..., 4] += 1
        moved = (attention.encoding(changed, 9) - attention.encoding(feature, 9)).abs().amax(2)[0] > 0
        assert moved.tolist() == [abs(step - 4) <= window for step in range(9)]


def test_a_window_makes_a_block_no_larger() -> None:
    sizes = [sum(p.numel() for p in CMCPEBlock(64, 48, 8, window).parameters()) for window in range(4)]
    assert max(sizes) / min(sizes) < 1.02


def test_rotations_depend_on_differences_of_time_alone() -> None:
    q, k = torch.randn(2, 1, 8)
    times = torch.tensor([0.5])
    at = [float(rotated(q, times + shift) @ rotated(k, times + shift + 0.3).T) for shift in (0.0, 1.7, 3.1)]
    assert at == pytest.approx([at[0]] * 3, abs=1e-5)
    assert step_times(4, 16, q).tolist() == [0.25, 0.75, 1.25, 1.75]
    # Steps of two rates are on one axis: a frame's middle is the middle of the two steps that fill it.
    torch.testing.assert_close(step_times(12, 6, q).reshape(6, 2).mean(1), step_times(6, 6, q))


def test_single_token_attention_has_no_use_for_queries_and_keys() -> None:
    block = CrossAttentionBlock(32, 24, 8)
    layers = block.transformer_blocks[0]
    frozen = {name for name, parameter in layers.named_parameters() if not parameter.requires_grad}
    assert frozen == {"attn2.to_q.weight", "attn2.to_k.weight", "norm2.weight", "norm2.bias"}
    context = torch.randn(2, 1, 24)
    q, k, v = layers.attn2.to_q(torch.randn(2, 9, 32)), layers.attn2.to_k(context), layers.attn2.to_v(context)
    explicit = layers.attn2.to_out[0](torch.nn.functional.scaled_dot_product_attention(q, k, v))
    torch.testing.assert_close(explicit, layers.attn2(context).expand(-1, 9, -1))


def test_head_dim_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="head_dim is 12, which does not divide the width 32"):
        SelfAttention(32, 12)

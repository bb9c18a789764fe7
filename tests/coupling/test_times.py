"""True times: a moment of one modality meets the same moment of the other, padding or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from kinetophone.av import AV
from kinetophone.bases.protocol import Times
from kinetophone.coupling.blocks.cmc_pe import ConditionedSelfAttention
from kinetophone.coupling.coupling import Coupling
from kinetophone.coupling.model import JointModel
from kinetophone.coupling.times import SiteTimes

CPU = torch.device("cpu")


def at_site(rows: int, own: int, rate: float, steps: int, other: int, other_rate: float) -> SiteTimes:
    return SiteTimes.of(Times.even(own, rate), rows, Times.even(other, other_rate), steps)


def test_the_last_frame_of_a_padded_clip_reads_its_own_moment() -> None:
    # 4 s at 25 latents a second, padded to 104: spread evenly, frame 31 reads latent 100, which is at 4.0 s.
    picture = at_site(32, 32, 8.0, 104, 104, 25.0)
    assert picture.held(CPU)[[0, 1, 16, 31]].tolist() == [0, 3, 50, 96]
    sound = at_site(104, 104, 25.0, 32, 32, 8.0)
    assert sound.held(CPU)[[0, 3, 4, 50, 99]].tolist() == [0, 0, 1, 16, 31]
    assert sound.held(CPU)[100:].tolist() == [31] * 4, "what pads the sound keeps the last frame's"


def test_where_nothing_is_padded_both_alignments_are_the_same() -> None:
    # The bundle that ships: 4 s are 32 frames and 100 latents, and so they were when it was trained.
    for rows, length, rate, steps, other_length, other_rate in (
        (32, 32, 8.0, 100, 100, 25.0),
        (100, 100, 25.0, 32, 32, 8.0),
        (50, 100, 25.0, 32, 32, 8.0),
    ):
        held = at_site(rows, length, rate, steps, other_length, other_rate).held(CPU)
        spread = F.interpolate(torch.arange(float(steps))[None, None], size=rows, mode="nearest")
        assert held.tolist() == spread[0, 0].long().tolist()


@given(
    frames=st.integers(1, 48),
    fps=st.sampled_from([5.0, 8.0, 12.5, 16.0, 24.0, 30.0]),
    padding=st.integers(0, 15),
    halved=st.sampled_from([1, 2, 4]),
)
def test_a_step_holds_from_its_beginning_to_the_next(
    frames: int, fps: float, padding: int, halved: int
) -> None:
    length = -(-(round(frames / fps * 25) + padding + 1) // 4) * 4
    times = at_site(frames, frames, fps, length // halved, length, 25.0)
    held, rows, steps = times.held(CPU), times.rows.starts, times.steps
    assert bool((steps.starts[held] <= rows + 1e-5).all())
    inside = held < len(steps.starts) - 1
    assert bool((rows < steps.ends[held] + 1e-5)[inside].all())
    torch.testing.assert_close(steps.ends - steps.starts, torch.full_like(steps.starts, halved / 25.0))


def test_rows_that_a_network_halved_keep_their_moments() -> None:
    whole, half = at_site(104, 104, 25.0, 32, 32, 8.0), at_site(52, 104, 25.0, 32, 32, 8.0)
    assert half.held(CPU).tolist() == whole.held(CPU)[::2].tolist()


def test_an_encoding_moves_with_what_it_encodes() -> None:
    layer = ConditionedSelfAttention(16, 8, 8)
    feature = torch.randn(1, 8, 104)
    times = at_site(32, 32, 8.0, 104, 104, 25.0)
    encoded = layer.encoding(feature, 32, times)
    later = feature.clone()
    later[:, :, 96] += 1.0
    changed = (layer.encoding(later, 32, times) - encoded).abs().sum(dim=2)[0]
    # The group norm spreads a little of it; the frame itself moves most.
    assert int(changed.argmax()) == 31


@pytest.mark.parametrize("coupling", ["cmc_pe", "timed_cross_attention", "cross_attention"])
def test_the_times_decide_what_meets_what(
    coupling: str,
    unets: AV[Any],
    inputs: Any,
    trained: Callable[..., JointModel],
) -> None:
    model = trained(unets, coupling=coupling, alignment="seconds")
    args = (inputs.latents, inputs.levels, inputs.text)
    with torch.no_grad():
        features = model.features(inputs.latents, inputs.levels, None)
        one, same, other = (
            model(*args, features, times=AV(audio=Times.even(8, rate), video=Times.even(3, 8.0)))
            for rate in (25.0, 25.0, 6.0)
        )
    assert torch.equal(one.video, same.video)
    assert torch.equal(one.video, other.video) == (coupling == "cross_attention"), "one token has no time"


def test_a_coupling_that_aligns_by_seconds_needs_times(
    unets: AV[Any], inputs: Any, trained: Callable[..., JointModel]
) -> None:
    model = trained(unets, alignment="seconds")
    features = model.features(inputs.latents, inputs.levels, None)
    with pytest.raises(ValueError, match="give times, those of each modality"):
        model(inputs.latents, inputs.levels, inputs.text, features)


def test_a_coupling_saved_before_there_was_a_choice_keeps_its_mapping(
    unets: AV[Any], fresh: Callable[..., Coupling]
) -> None:
    config = dict(fresh(unets).config)
    config.pop("alignment")
    assert Coupling.from_config(config).config.alignment == "stretched"

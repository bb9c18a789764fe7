"""Shuffles and intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinetophone.metrics.control import (
    bootstrap_interval,
    derangement,
    holm,
    shuffled_control,
    shuffled_scores,
)


@given(st.integers(2, 40), st.integers(0, 1000))
def test_a_derangement_moves_everything(n: int, seed: int) -> None:
    order = derangement(n, seed)
    assert sorted(order) == list(range(n))
    assert not np.any(order == np.arange(n))


def test_derangements_are_equally_likely() -> None:
    rng = np.random.default_rng(0)
    seen = [tuple(derangement(4, rng).tolist()) for _ in range(1800)]
    counts = [seen.count(order) for order in set(seen)]
    assert len(counts) == 9  # there are nine of four
    assert min(counts) > 150


def test_one_clip_cannot_be_shuffled() -> None:
    with pytest.raises(ValueError, match=r"n is 1; shuffling .* needs at least 2"):
        derangement(1, 0)


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        interval = bootstrap_interval(rng.normal(1.0, 1.0, 40), rng, resamples=400)
        covered += interval.low <= 1.0 <= interval.high
    assert 0.90 <= covered / 200 <= 0.98


def test_interval_is_reproducible_and_exact_for_equal_values() -> None:
    assert bootstrap_interval([1, 2, 3], 5) == bootstrap_interval([1, 2, 3], 5)
    interval = bootstrap_interval([0.5, 0.5], 0)
    assert (interval.low, interval.high) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("values", "message"), [([], "at least one"), ([1.0, float("nan")], "not all finite")]
)
def test_interval_refuses_what_has_none(values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values, 0)


def test_shuffled_scores_pair_each_picture_with_anothers_sound() -> None:
    scores = shuffled_scores(lambda a, v: float(a == v), range(5), range(5), 0, shuffles=30)
    assert scores.shape == (30, 5)
    assert not scores.any()


def test_control_of_a_perfect_and_of_a_blind_measure() -> None:
    items = list(range(10))
    perfect = shuffled_control(lambda a, v: float(a == v), items, items, 0)
    assert (perfect.value, perfect.shuffled, perfect.above, perfect.n) == (1.0, 0.0, 1.0, 10)
    blind = shuffled_control(lambda a, v: 0.5, items, items, 0)
    assert blind.above == 0.0
    assert blind.above_interval is not None
    assert blind.above_interval.low <= 0.0 <= blind.above_interval.high


def test_control_of_one_clip_is_none() -> None:
    control = shuffled_control(lambda a, v: 1.0, [0], [0], 0)
    assert (control.value, control.n, control.shuffled, control.above) == (1.0, 1, None, None)


def test_control_needs_enough_shuffles_and_pairs() -> None:
    with pytest.raises(ValueError, match="shuffles is 19; fewer than 20"):
        shuffled_control(lambda a, v: 1.0, [0, 1], [0, 1], 0, shuffles=19)
    with pytest.raises(ValueError, match="1 audio and 2 video items"):
        shuffled_control(lambda a, v: 1.0, [0], [0, 1], 0)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([]) == []

"""Distances between feature sets, against closed forms and in expectation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from kinetophone.metrics.distance import distance, frechet_distance, gaussian_frechet, kernel_distance


def spd(rng: np.random.Generator, dimension: int) -> np.ndarray:
    root = rng.normal(size=(dimension, dimension))
    return root @ root.T / dimension


def test_one_dimension_by_hand() -> None:
    # (1 - 4)^2 + (2 - 3)^2, with standard deviations 2 and 3.
    assert gaussian_frechet([1.0], [[4.0]], [4.0], [[9.0]]) == pytest.approx(10.0)


def test_diagonal_covariances_by_the_closed_form() -> None:
    one, other = np.array([1.0, 4.0, 0.0]), np.array([9.0, 1.0, 2.0])
    expected = 3 * 0.25 + ((np.sqrt(one) - np.sqrt(other)) ** 2).sum()
    assert gaussian_frechet(np.zeros(3), np.diag(one), np.full(3, 0.5), np.diag(other)) == pytest.approx(
        expected
    )


@given(st.integers(1, 12), st.integers(0, 1000))
def test_it_equals_the_matrix_root(dimension: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = spd(rng, dimension), spd(rng, dimension)
    shift = rng.normal(size=dimension)
    expected = shift @ shift + np.trace(one + other - 2 * sqrtm(one @ other).real)
    assert gaussian_frechet(shift, one, np.zeros(dimension), other) == pytest.approx(expected, abs=1e-5)


def test_fewer_samples_than_dimensions_stay_finite_and_at_least_zero() -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(size=(10, 64))
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(one, rng.normal(size=(10, 64))) > 0


def test_large_samples_reach_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(0, 1, (20_000, 4)), rng.normal(0.5, 2, (20_000, 4))
    assert frechet_distance(one, other) == pytest.approx(4 * 0.25 + 4 * 1.0, rel=0.05)


def test_the_kernel_distance_is_unbiased_at_fifty() -> None:
    rng = np.random.default_rng(0)
    found = [kernel_distance(rng.normal(size=(50, 16)), rng.normal(size=(50, 16))) for _ in range(400)]
    standard_error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 3 * standard_error
    assert min(found) < 0 < max(found)
    shifted = [kernel_distance(rng.normal(size=(50, 16)), rng.normal(1, 1, size=(50, 16))) for _ in range(20)]
    assert np.mean(shifted) > 10 * np.std(found)


def test_the_floor_is_what_the_same_distribution_scores() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(300, 16))
    true = [frechet_distance(rng.normal(size=(200, 16)), rng.normal(size=(300, 16))) for _ in range(20)]
    found = distance(rng.normal(size=(200, 16)), reference)
    assert found.floor == pytest.approx(np.mean(true), rel=0.1)
    far = distance(rng.normal(0.3, 1, size=(200, 16)), reference)
    assert far.frechet_interval.low > far.floor == pytest.approx(found.floor, rel=0.05)


def test_the_interval_has_the_spread_of_other_samples() -> None:
    rng = np.random.default_rng(1)
    samples = [(rng.normal(0.3, 1, size=(200, 8)), rng.normal(size=(200, 8))) for _ in range(60)]
    spread = np.std([frechet_distance(*pair) for pair in samples])
    widths = [np.diff([(i := distance(*pair).frechet_interval).low, i.high]) for pair in samples[:8]]
    assert np.mean(widths) / 3.92 == pytest.approx(spread, rel=0.35)


def test_few_vectors_are_warned_of() -> None:
    rng = np.random.default_rng(0)
    few = distance(rng.normal(size=(20, 16)), rng.normal(size=(60, 16)))
    assert (few.n, few.n_reference, few.dimension) == (20, 60, 16)
    assert few.warning is not None
    assert "20 vectors for 16 dimensions" in few.warning
    assert distance(rng.normal(size=(40, 16)), rng.normal(size=(60, 16))).warning is None


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (np.zeros((3, 2)), np.zeros((9, 2)), r"the set has shape \(3, 2\); a distance needs at least 4"),
        (np.zeros((9, 2)), np.zeros((9, 3)), "have 2 and 3 dimensions"),
        (np.full((9, 2), np.nan), np.zeros((9, 2)), "the set's features are not all finite"),
    ],
)
def test_refusals(one: np.ndarray, other: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distance(one, other)

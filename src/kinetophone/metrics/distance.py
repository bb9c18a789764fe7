"""Distances between two sets of feature vectors: Fréchet and kernel.

The Fréchet distance is biased upwards if there are few samples relative to the dimension. Even two sets from
the same distribution do not score 0, so what they would score, the floor, is estimated too. The kernel
distance is unbiased for every number of samples. Both are reported, with a warning if the number of samples
is below twice the dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kinetophone.errors import UserError
from kinetophone.metrics.control import Interval, as_generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.floating]

# Larger sets are subsampled for the kernel distance, which computes N x N matrices.
_MOST_KERNEL_ROWS = 4000

# Random halves for the interval and for the floor of the Fréchet distance.
_FRECHET_HALVES = 20


@dataclass(frozen=True, slots=True)
class Distance:
    """Distances of a set of feature vectors from a reference set.

    Attributes:
        frechet: Fréchet distance of the Gaussians fitted to both sets, at least 0; biased upwards.
        frechet_interval: 95 % confidence interval, from random halves of both sets (the delete-half
            jackknife). It is centred on the biased value, not on the distance of the distributions.
        floor: What a set of the same size from the distribution of the reference would score: the mean
            distance between two halves of the reference, scaled to the sizes of both sets, because the bias
            falls with the inverse of the size.
        kernel: Unbiased squared maximum mean discrepancy. For two sets from the same distribution it is
            around 0 and can be negative.
        kernel_interval: Central 95 % of the kernel distances of random halves of both sets.
        n: Number of vectors in the set.
        n_reference: Number of vectors in the reference.
        dimension: Dimension of the features.
        warning: A caveat about the numbers, or None.
    """

    frechet: float
    frechet_interval: Interval
    floor: float
    kernel: float
    kernel_interval: Interval
    n: int
    n_reference: int
    dimension: int
    warning: str | None


def distance(features: Array, reference: Array, *, seed: int = 0) -> Distance:
    """Compute both distances between two sets of vectors, (N, D) and (M, D), with N and M at least 4.

    Args:
        features: The set, (N, D).
        reference: The reference set, (M, D).
        seed: Seed for subsampling and for the random halves.

    Returns:
        The distances, with the sizes of the sets.

    Raises:
        UserError: The dimensions differ, a set is too small, or a value is not finite.
    """
    for name, rows in (("set", features), ("reference", reference)):
        if rows.ndim != 2 or len(rows) < 4:
            raise UserError(f"the {name} has shape {rows.shape}; a distance needs at least 4 vectors")
        if not np.isfinite(rows).all():
            raise UserError(f"the {name}'s features are not all finite")
    if features.shape[1] != reference.shape[1]:
        raise UserError(f"the features have {features.shape[1]} and {reference.shape[1]} dimensions")
    generator, dimension = as_generator(seed), features.shape[1]
    one, other = (_thinned(rows, generator) for rows in (features, reference))
    halves = [
        kernel_distance(*(rows[generator.permutation(len(rows))[: len(rows) // 2]] for rows in (one, other)))
        for _ in range(50)
    ]
    low, high = np.quantile(halves, [0.025, 0.975])
    whole = frechet_distance(features, reference)
    spread = 1.96 * float(
        np.std(
            [
                frechet_distance(_split(features, generator)[0], _split(reference, generator)[0])
                for _ in range(_FRECHET_HALVES)
            ]
        )
    )
    fewest = min(len(features), len(reference))
    warning = None
    if fewest < 2 * dimension:
        warning = (
            f"{fewest} vectors for {dimension} dimensions: the Fréchet distance is mostly bias; "
            f"compare only sets of equal size, or read the kernel distance"
        )
    return Distance(
        frechet=whole,
        frechet_interval=Interval(max(0.0, whole - spread), whole + spread),
        floor=_floor(reference, len(features), generator),
        kernel=kernel_distance(one, other),
        kernel_interval=Interval(float(low), float(high)),
        n=len(features),
        n_reference=len(reference),
        dimension=dimension,
        warning=warning,
    )


def frechet_distance(features: Array, reference: Array) -> float:
    """Fréchet distance between Gaussians fitted to two sets of vectors (N, D) and (M, D), N, M >= 2."""
    one, other = (np.asarray(rows, np.float64) for rows in (features, reference))
    return gaussian_frechet(
        one.mean(axis=0),
        np.atleast_2d(np.cov(one, rowvar=False)),
        other.mean(axis=0),
        np.atleast_2d(np.cov(other, rowvar=False)),
    )


def gaussian_frechet(mean: Array, covariance: Array, other_mean: Array, other_covariance: Array) -> float:
    """Fréchet distance |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) of two Gaussians (Dowson and Landau 1982).

    The trace of the root is computed as the sum of the square roots of the eigenvalues of C^(1/2) C' C^(1/2),
    which is symmetric and positive semidefinite. This avoids a matrix square root, which can fail or become
    complex for singular covariances. Computed in float64.
    """
    mean, other_mean = np.asarray(mean, np.float64), np.asarray(other_mean, np.float64)
    values, vectors = np.linalg.eigh(np.asarray(covariance, np.float64))
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    product = root @ np.asarray(other_covariance, np.float64) @ root
    roots = np.sqrt(np.maximum(np.linalg.eigvalsh((product + product.T) / 2), 0.0)).sum()
    shift = mean - other_mean
    whole = shift @ shift + np.trace(covariance) + np.trace(other_covariance) - 2 * roots
    return float(max(whole, 0.0))


def kernel_distance(features: Array, reference: Array) -> float:
    """Unbiased squared maximum mean discrepancy, kernel (x.y / D + 1)^3 (Binkowski et al. 2018, eq. 4).

    Args:
        features: (N, D), N >= 2.
        reference: (M, D), M >= 2.

    Returns:
        The distance; it can be slightly negative.
    """
    one, other = (np.asarray(rows, np.float64) for rows in (features, reference))
    within_one, within_other = _kernel(one, one), _kernel(other, other)
    n, m = len(one), len(other)
    return float(
        (within_one.sum() - np.trace(within_one)) / (n * (n - 1))
        + (within_other.sum() - np.trace(within_other)) / (m * (m - 1))
        - 2 * _kernel(one, other).mean()
    )


def _kernel(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    return (one @ other.T / one.shape[1] + 1.0) ** 3


def _split(rows: Array, generator: np.random.Generator) -> tuple[Array, Array]:
    """Two random halves of a set."""
    order, half = generator.permutation(len(rows)), len(rows) // 2
    return rows[order[:half]], rows[order[half:]]


def _floor(reference: Array, n: int, generator: np.random.Generator) -> float:
    """Estimated Fréchet distance of ``n`` more vectors of the reference's distribution from the reference."""
    m, half = len(reference), len(reference) // 2
    found = [frechet_distance(*_split(reference, generator)) for _ in range(_FRECHET_HALVES)]
    return float(np.mean(found)) * (1 / n + 1 / m) / (1 / half + 1 / (m - half))


def _thinned(rows: Array, generator: np.random.Generator) -> Array:
    if len(rows) <= _MOST_KERNEL_ROWS:
        return rows
    return rows[np.sort(generator.choice(len(rows), _MOST_KERNEL_ROWS, replace=False))]

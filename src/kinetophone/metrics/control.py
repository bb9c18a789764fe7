"""Chance levels from shuffled pairs, and bootstrap confidence intervals.

A synchrony metric means little on its own: with many events, any audio fits any video. Its control is the
same metric on shuffled pairs, the audio of one clip with the video of another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

A = TypeVar("A")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval, at 95 % unless stated otherwise, ends included."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Control:
    """A metric on true pairs, and its chance level on shuffled pairs.

    Attributes:
        value: Mean over the true pairs.
        interval: Bootstrap confidence interval of ``value`` over clips.
        n: Number of clips.
        shuffled: Mean over all shuffled pairs, the chance level; None for fewer than two clips.
        shuffled_range: Central 95 % of the means of single shuffles.
        above: ``value`` minus ``shuffled``.
        above_interval: Bootstrap confidence interval of ``above``, paired by clip: each video with its own
            audio minus the same video with other audio.
    """

    value: float
    interval: Interval
    n: int
    shuffled: float | None = None
    shuffled_range: Interval | None = None
    above: float | None = None
    above_interval: Interval | None = None


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number by Holm's method (1979), in the order given.

    If only those below 0.05 are claimed, the chance that any claim is wrong is below 0.05, whether or not the
    tests depend on each other.
    """
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values).tolist()):
        least = max(least, min(1.0, (len(p_values) - rank) * float(p_values[index])))
        corrected[index] = least
    return corrected


def as_generator(rng: int | np.random.Generator) -> np.random.Generator:
    """A NumPy generator from a seed, or the generator given."""
    return rng if isinstance(rng, np.random.Generator) else np.random.default_rng(rng)


def derangement(n: int, rng: int | np.random.Generator) -> NDArray[np.int64]:
    """A uniformly random permutation of 0 to n - 1 that leaves no element in place.

    Raises:
        ValueError: ``n`` is below 2, where no such permutation exists.
    """
    if n < 2:
        raise ValueError(f"n is {n}; shuffling without leaving one in place needs at least 2")
    generator = as_generator(rng)
    while True:  # about e tries on average for any n
        order = generator.permutation(n)
        if not np.any(order == np.arange(n)):
            return order


def bootstrap_interval(
    values: ArrayLike,
    rng: int | np.random.Generator,
    *,
    level: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """Percentile bootstrap confidence interval of the mean.

    Args:
        values: One finite value per independent unit (clip), (n,), n >= 1.
        rng: Seed or generator.
        level: Confidence level, the fraction of resampled means inside the interval.
        resamples: Number of resamples.

    Raises:
        ValueError: There is no value, or one is not finite.
    """
    sample = np.asarray(values, np.float64)
    if sample.ndim != 1 or not len(sample):
        raise ValueError(f"values have shape {sample.shape}; an interval needs a list of at least one")
    if not np.isfinite(sample).all():
        raise ValueError("values are not all finite; leave out what could not be scored")
    picks = as_generator(rng).integers(len(sample), size=(resamples, len(sample)))
    low, high = np.quantile(sample[picks].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def bootstrap_statistic(
    values: ArrayLike,
    statistic: Callable[[NDArray[np.float64]], float],
    rng: int | np.random.Generator,
    *,
    level: float = 0.95,
    resamples: int = 1000,
) -> Interval:
    """Percentile bootstrap confidence interval of any statistic of independent units.

    Args:
        values: One entry per unit along the first axis, at least one.
        statistic: Computes the statistic of a resample, an array of the same shape as ``values``.
        rng: Seed or generator.
        level: Confidence level, the fraction of resampled statistics inside the interval.
        resamples: Number of resamples.
    """
    sample, generator = np.asarray(values, np.float64), as_generator(rng)
    found = [statistic(sample[generator.integers(len(sample), size=len(sample))]) for _ in range(resamples)]
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def shuffled_scores(
    score: Callable[[A, V], float],
    audio: Sequence[A],
    video: Sequence[V],
    rng: int | np.random.Generator,
    *,
    shuffles: int = 20,
) -> NDArray[np.float64]:
    """Scores of mismatched pairs.

    Args:
        score: Metric of one pair.
        audio: The audio of n clips, n >= 2.
        video: The video of the same clips, in the same order.
        rng: Seed or generator.
        shuffles: Number of derangements, at least 1.

    Returns:
        (shuffles, n): entry (k, i) scores video i with the audio of another clip.
    """
    generator = as_generator(rng)
    orders = [derangement(len(video), generator) for _ in range(shuffles)]
    return np.array([[score(audio[j], video[i]) for i, j in enumerate(order)] for order in orders])


def shuffled_control(
    score: Callable[[A, V], float],
    audio: Sequence[A],
    video: Sequence[V],
    rng: int | np.random.Generator,
    *,
    shuffles: int = 20,
) -> Control:
    """A metric on true pairs, with its chance level on shuffled pairs.

    Args:
        score: Metric of one pair, finite.
        audio: The audio of n clips, n >= 1.
        video: The video of the same clips, in the same order.
        rng: Seed or generator.
        shuffles: Number of derangements, at least 20.

    Returns:
        The means and their confidence intervals; without a chance level for a single clip.

    Raises:
        ValueError: The lists differ in length or are empty, or there are fewer than 20 shuffles.
    """
    if len(audio) != len(video) or not audio:
        raise ValueError(f"{len(audio)} audio and {len(video)} video items; each clip needs one of each")
    if shuffles < 20:
        raise ValueError(f"shuffles is {shuffles}; fewer than 20 make the control too noisy")
    generator = as_generator(rng)
    values = np.array([score(*pair) for pair in zip(audio, video, strict=True)])
    value, interval, n = float(values.mean()), bootstrap_interval(values, generator), len(values)
    if n < 2:
        return Control(value=value, interval=interval, n=n)
    others = shuffled_scores(score, audio, video, generator, shuffles=shuffles)
    low, high = np.quantile(others.mean(axis=1), [0.025, 0.975])
    return Control(
        value=value,
        interval=interval,
        n=n,
        shuffled=float(others.mean()),
        shuffled_range=Interval(float(low), float(high)),
        above=float(value - others.mean()),
        above_interval=bootstrap_interval(values - others.mean(axis=0), generator),
    )

"""What chance gives, and how sure a number is: shuffled pairs and bootstrap intervals.

A measure of synchrony means nothing alone: with many events, any sound fits any picture. Its control is the
same measure over shuffled pairs, the sound of one clip with the picture of another.
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
    """A 95 % interval (or that of another level), ends included."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Control:
    """A measure on true pairs beside the same measure on shuffled ones.

    Attributes:
        value: Mean over the true pairs.
        interval: Its bootstrap interval over clips.
        n: Number of clips.
        shuffled: Mean over all shuffled pairs; None for fewer than two clips, which cannot be shuffled.
        shuffled_range: Range of the shuffles' means without the outermost 5 %: what one shuffled set scores.
        above: True minus shuffled.
        above_interval: Its bootstrap interval, clip by clip: each picture with its own sound, against the
            same picture with others' sounds.
    """

    value: float
    interval: Interval
    n: int
    shuffled: float | None = None
    shuffled_range: Interval | None = None
    above: float | None = None
    above_interval: Interval | None = None


def as_generator(rng: int | np.random.Generator) -> np.random.Generator:
    """A NumPy generator from a seed, or the generator given."""
    return rng if isinstance(rng, np.random.Generator) else np.random.default_rng(rng)


def derangement(n: int, rng: int | np.random.Generator) -> NDArray[np.int64]:
    """A random permutation of 0 to n - 1 that leaves no element in place, all such equally likely.

    Raises:
        ValueError: ``n`` is below 2: there is none.
    """
    if n < 2:
        raise ValueError(f"n is {n}; shuffling without leaving one in place needs at least 2")
    generator = as_generator(rng)
    while True:  # about e tries, whatever n is
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
    """Percentile bootstrap interval of the mean.

    Args:
        values: One finite value per independent unit (clip), (n,), n >= 1.
        rng: Seed or generator.
        level: Share of the resampled means inside the interval.
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
    """Percentile bootstrap interval of any statistic of independent units.

    Args:
        values: One entry per unit along the first axis, at least one.
        statistic: Of a resample, an array of the same shape.
        rng: Seed or generator.
        level: Share of the resampled statistics inside the interval.
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
    """Scores of pairs that do not belong together.

    Args:
        score: Measure of one pair.
        audio: Sounds, n of them, n >= 2.
        video: Pictures, in the order of their sounds.
        rng: Seed or generator.
        shuffles: Number of derangements, at least 1.

    Returns:
        (shuffles, n): entry (k, i) is picture i with another's sound.
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
    """A measure on pairs that belong together, beside its value on pairs that do not.

    Args:
        score: Measure of one pair, finite.
        audio: Sounds, n of them, n >= 1.
        video: Pictures, in the order of their sounds.
        rng: Seed or generator.
        shuffles: Number of derangements, at least 20.

    Raises:
        ValueError: The lists differ in length or are empty, or there are fewer than 20 shuffles.
    """
    if len(audio) != len(video) or not audio:
        raise ValueError(f"{len(audio)} sounds and {len(video)} pictures; there must be one of each per clip")
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

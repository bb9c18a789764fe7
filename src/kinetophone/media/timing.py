"""Timing of a clip: one frozen value from which all lengths are derived.

Video and audio always have the same length, because only the number of frames is chosen. The number of audio
samples is derived from it, only here, in exact rational arithmetic. This works for every frame rate, also for
30000/1001.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from numbers import Rational
from typing import TYPE_CHECKING, Any, Self

DEFAULT_SAMPLE_RATE = 16_000

FrameRate = float | Fraction | Rational | str

# Broadcast rates have the denominator 1001 (29.97 is 30000/1001); none in use has a larger one.
_MAX_FPS_DENOMINATOR = 1001


class ExactRate(float):
    """A frame rate for other libraries: a float, which most of them insist on, that keeps the exact fraction.

    It equals that fraction and the float nearest to it. What is computed with it is a float;
    ``Fraction(rate)`` and :func:`as_fps` give the fraction back.

    Attributes:
        exact: The fraction.
    """

    __slots__ = ("exact",)
    exact: Fraction

    def __new__(cls, fps: FrameRate) -> Self:
        """A rate from anything that :func:`as_fps` takes."""
        exact = as_fps(fps)
        rate = super().__new__(cls, exact)
        rate.exact = exact
        return rate

    @property
    def numerator(self) -> int:
        """Of the exact fraction."""
        return self.exact.numerator

    @property
    def denominator(self) -> int:
        """Of the exact fraction."""
        return self.exact.denominator

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ExactRate):
            return self.exact == other.exact
        return self.exact == other if isinstance(other, Rational) else super().__eq__(other)

    def __ne__(self, other: object) -> bool:  # float has its own, which would not ask __eq__
        return not self == other

    def __hash__(self) -> int:
        return hash(self.exact)

    def __repr__(self) -> str:
        return str(self.exact)

    __str__ = __repr__

    def __getnewargs__(self) -> Any:  # copies and pickles are exact, too
        return (self.exact,)


Rational.register(ExactRate)  # so that fractions read and compare it exactly


def as_fps(fps: FrameRate) -> Fraction:
    """Convert a frame rate to an exact fraction.

    Integers and fractions are kept. A float becomes the nearest fraction whose denominator is at most
    1001, so ``29.97002997`` becomes ``30000/1001`` and ``21.5`` becomes ``43/2``. Strings such as
    ``"30000/1001"`` are parsed.

    Raises:
        ValueError: The rate is not a finite number above zero.
    """
    try:
        exact = Fraction(fps if isinstance(fps, (Rational, str)) else float(fps))
    except (ValueError, TypeError, OverflowError, ZeroDivisionError):
        raise ValueError(f"fps is {fps!r}; it must be a finite number above 0, such as 30000/1001") from None
    if not isinstance(fps, Rational):
        exact = exact.limit_denominator(_MAX_FPS_DENOMINATOR)
    if exact <= 0:
        raise ValueError(f"fps is {float(exact):g}; it must be above 0, such as 8 or 30000/1001")
    return exact


@dataclass(frozen=True, slots=True)
class ClipTime:
    """Frame rate, number of frames and sample rate of a clip; all other lengths are derived from these.

    Attributes:
        fps: Frames per second, exact. Anything ``as_fps`` takes is converted.
        frames: Number of video frames, at least 1.
        sample_rate: Audio samples per second, at least 1.
    """

    fps: Fraction
    frames: int
    sample_rate: int = DEFAULT_SAMPLE_RATE

    if TYPE_CHECKING:  # the initialiser accepts more types than the field has

        def __init__(self, fps: FrameRate, frames: int, sample_rate: int = DEFAULT_SAMPLE_RATE) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "fps", as_fps(self.fps))
        for name in ("frames", "sample_rate"):
            value = getattr(self, name)
            if isinstance(value, bool) or int(value) != value or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
            object.__setattr__(self, name, int(value))

    @classmethod
    def from_seconds(
        cls,
        seconds: float | Fraction,
        fps: float | Fraction,
        sample_rate: int = DEFAULT_SAMPLE_RATE,
        *,
        nearest: bool = False,
    ) -> ClipTime:
        """The timing of a clip of ``seconds`` at ``fps``.

        Args:
            seconds: Length in seconds, above 0.
            fps: Frames per second, above 0.
            sample_rate: Audio samples per second.
            nearest: Round to the nearest whole number of frames (at least 1).

        Raises:
            ValueError: ``seconds`` is not a finite number above 0, or is not a whole number of frames and
                ``nearest`` is False.
        """
        rate = as_fps(fps)
        if not math.isfinite(seconds) or seconds <= 0:
            raise ValueError(f"seconds is {float(seconds):g}; it must be a finite number above 0")
        exact = Fraction(seconds) * rate
        frames = max(1, math.floor(exact + Fraction(1, 2)))
        # Floats such as 0.1 are not exact decimals, so a millionth of a frame is tolerated.
        if not nearest and abs(exact - frames) > Fraction(1, 10**6):
            raise ValueError(
                f"{float(seconds):g} s at {float(rate):g} fps is {float(exact):.3f} frames; "
                f"{frames} frames last {float(frames / rate):.6g} s"
            )
        return cls(fps=rate, frames=frames, sample_rate=sample_rate)

    @property
    def duration(self) -> Fraction:
        """Length of the clip in seconds, exact."""
        return self.frames / self.fps

    @property
    def duration_s(self) -> float:
        """Length of the clip in seconds."""
        return float(self.duration)

    @property
    def frame_s(self) -> float:
        """Length of one frame in seconds."""
        return float(1 / self.fps)

    @property
    def samples(self) -> int:
        """Number of audio samples: the length of the video in samples, rounded once (halves up)."""
        return self.sample_at(self.frames)

    def sample_at(self, frame: int) -> int:
        """Index of the audio sample at which ``frame`` starts, rounded to the nearest one (halves up).

        Frame ``i`` spans the samples ``sample_at(i)`` up to ``sample_at(i + 1)``, exclusive. Frames have no
        gaps or overlaps, and each span differs from its exact length by less than a sample.
        """
        return math.floor(frame * self.sample_rate / self.fps + Fraction(1, 2))

    def frame_time_s(self, frame: int) -> float:
        """Start time of ``frame`` in seconds."""
        return float(frame / self.fps)

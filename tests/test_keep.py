"""What is kept of a clip, in frames, latents and samples."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kinetophone.keep import kept_frames, kept_latents, spliced


def test_frames_are_kept_whole_and_latents_away_from_the_border() -> None:
    assert kept_frames([(0, 0.5)], 8, Fraction(8)).nonzero().flatten().tolist() == [0, 1, 2, 3]
    assert kept_frames([(0.1, 0.6)], 8, Fraction(8)).nonzero().flatten().tolist() == [1, 2, 3]
    assert kept_latents([(0, 0.5)], 12, Fraction(12)).nonzero().flatten().tolist() == [0, 1, 2, 3, 4]
    assert kept_latents([(0.25, 1)], 12, Fraction(12)).nonzero().flatten().tolist() == [
        4,
        5,
        6,
        7,
        8,
        9,
        10,
        11,
    ]
    assert not kept_latents([(0.5, 0.6)], 12, Fraction(12)).any()


@given(start=st.floats(0, 2), length=st.floats(0.01, 2), fps=st.sampled_from([8, 25, 30]))
def test_no_frame_that_sticks_out_is_kept(start: float, length: float, fps: int) -> None:
    kept = kept_frames([(start, start + length)], 4 * fps, Fraction(fps)).nonzero().flatten().tolist()
    for k in kept:
        assert k / fps >= start - 1e-5
        assert (k + 1) / fps <= start + length + 1e-5
    assert len(kept) >= length * fps - 2


def test_kept_samples_are_exact_and_join_without_a_step() -> None:
    rate = 16_000
    t = np.arange(rate) / rate
    original = (0.5 * np.sin(2 * np.pi * 50 * t)).astype(np.float32)
    made = original + np.float32(0.3)
    result = spliced(made, original, [(0.25, 0.5)], rate)
    np.testing.assert_array_equal(result[4_000:8_000], original[4_000:8_000])
    assert np.abs(np.diff(result)).max() < 0.02
    hard = made.copy()
    hard[4_000:8_000] = original[4_000:8_000]
    assert np.abs(np.diff(hard)).max() > 0.2, "the test would see a hard cut"
    np.testing.assert_allclose(result[:3_000], made[:3_000], atol=1e-3)

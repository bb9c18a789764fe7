"""What is kept of a clip, in frames, latents and samples."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from kinetophone.tasks.common.keep import joined, kept_frames, kept_latents, mirrored, spliced


def test_frames_are_kept_whole_and_latents_by_half() -> None:
    assert kept_frames([(0, 0.5)], 8, Fraction(8)).nonzero().flatten().tolist() == [0, 1, 2, 3]
    assert kept_frames([(0.1, 0.6)], 8, Fraction(8)).nonzero().flatten().tolist() == [1, 2, 3]
    for stretch, kept in {
        (0, 0.5): [0, 1, 2, 3, 4, 5],
        (0, 0.55): [0, 1, 2, 3, 4, 5, 6],  # more than half of the last one
        (0, 0.53): [0, 1, 2, 3, 4, 5],
        (0.25, 1): [3, 4, 5, 6, 7, 8, 9, 10, 11],
        (0.5, 0.53): [],
    }.items():
        assert kept_latents([stretch], 12, Fraction(12)).nonzero().flatten().tolist() == kept, stretch


def test_a_kept_sound_goes_on_as_its_own_mirror() -> None:
    original = np.arange(1, 11, dtype=np.float32)
    assert mirrored(original, [(0, 4)], 1, 10).tolist() == [1, 2, 3, 4, 4, 3, 2, 1, 1, 2]
    assert mirrored(original, [(2, 4), (8, 10)], 1, 11).tolist() == [4, 3, 3, 4, 4, 3, 10, 9, 9, 10, 10]
    assert mirrored(original, [], 1, 3).tolist() == [0, 0, 0]


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


def test_channels_are_spliced_one_by_one() -> None:
    rng = np.random.default_rng(0)
    left, right, mono = (rng.uniform(-0.3, 0.3, 4_000).astype(np.float32) for _ in range(3))
    stereo, stretch = np.stack([left, right], 1), [(0.1, 0.2)]
    made_mono = spliced(mono, stereo, stretch, 16_000)
    made_stereo = spliced(stereo, mono, stretch, 16_000)
    for channel, own in enumerate((left, right)):
        np.testing.assert_array_equal(made_mono[:, channel], spliced(mono, own, stretch, 16_000))
        np.testing.assert_array_equal(made_stereo[:, channel], spliced(own, mono, stretch, 16_000))
    np.testing.assert_array_equal(
        mirrored(stereo, stretch, 16_000, 5_000)[:, 1], mirrored(right, stretch, 16_000, 5_000)
    )


def scene(seed: int = 0) -> np.ndarray:
    """A still picture with fine detail, (32, 32, 3)."""
    rng = np.random.default_rng(seed)
    return np.clip(110 + 12 * rng.standard_normal((32, 32, 3)), 0, 255)


def test_made_frames_take_colours_and_detail_from_the_kept_ones_and_keep_what_moves() -> None:
    sharp = scene()
    soft = gaussian_filter(sharp, (2, 2, 0))
    original = np.repeat(sharp[None], 12, axis=0)
    made = np.repeat(soft[None], 24, axis=0)
    made[12:] += [20, -15, 10]  # guidance
    for k in range(12, 24):
        made[k, 4:8, k : k + 4] = 250  # something flies past
    original, made = (np.rint(x).clip(0, 255).astype(np.uint8) for x in (original, made))
    kept = np.arange(24) < 12
    result = joined(made, original, kept, Fraction(8))
    np.testing.assert_array_equal(result[:12], original)
    step = np.abs(result[12].astype(int) - result[11])[16:].mean()
    assert step < 4 < 12 < np.abs(made[12].astype(int) - original[11])[16:].mean()
    for k in range(12, 24):
        assert result[k, 5:7, k + 1 : k + 3].min() > 200
        assert result[k, 5:7, (k + 12) % 28 : (k + 12) % 28 + 2].max() < 180, "no ghost"
    # From behind it is the same.
    behind = joined(made[::-1], np.concatenate([made[:12], original]), kept[::-1], Fraction(8))
    np.testing.assert_array_equal(behind[::-1], result)
    # In a gap one border's colours turn into the other's.
    kept = (np.arange(24) < 8) | (np.arange(24) >= 20)
    both = np.repeat(original[:1], 24, axis=0)
    filled = joined(made, both, kept, Fraction(8))
    np.testing.assert_array_equal(filled[kept], both[kept])


def test_another_scene_gets_no_ghost_of_the_kept_one() -> None:
    original = np.repeat(scene(0)[None], 8, axis=0)
    original[:, 8:16, 8:16] = 30
    other = np.repeat(scene(1)[None], 16, axis=0)
    other[:8] = original
    original, made = (np.rint(x).astype(np.uint8) for x in (original, other))
    result = joined(made, original, np.arange(16) < 8, Fraction(8))
    ghost = np.abs(result[8:].astype(int) - made[8:])[:, 10:14, 10:14]
    assert ghost.mean() < 8


def ringing(seconds: float = 1.0) -> np.ndarray:
    """A strike at 0.1 s that rings on, at 16 kHz."""
    t = np.arange(round(seconds * 16_000)) / 16_000 - 0.1
    partials = sum(np.sin(2 * np.pi * hz * t) * np.exp(-t * decay) for hz, decay in ((523, 5), (1_370, 9)))
    noise = 1e-4 * np.random.default_rng(0).standard_normal(len(t))
    return (np.where(t > 0, 0.2 * partials, 0) + noise).astype(np.float32)


def test_a_kept_sound_rings_on_where_what_was_made_is_silent() -> None:
    original = ringing()
    made = original.copy()
    made[8_000:] = 0
    result = spliced(made, original[:8_000], [(0, 0.5)], 16_000)
    np.testing.assert_array_equal(result[:8_000], original[:8_000])
    assert level_of(result[8_000:8_800]) > 0.7 * level_of(original[8_000:8_800])
    assert level_of(result[8_000:]) < 1.5 * level_of(original[8_000:])
    assert (
        np.abs(result[8_000:8_800] - original[8_000:8_800]).max() < 0.4 * np.abs(original[8_000:8_800]).max()
    )


def test_nothing_rings_into_what_is_loud_already() -> None:
    original = ringing()
    made = np.roll(original, 6_500)  # strikes anew, just behind the border
    result = spliced(made, original, [(0, 0.5)], 16_000)
    np.testing.assert_allclose(result[9_000:], made[9_000:], atol=1e-3)


def level_of(sound: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))

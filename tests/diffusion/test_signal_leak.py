"""The trace of a clip in its noisiest latents: fitted, kept, drawn, and what sampling gains from it."""

import numpy as np
import pytest
import torch

from kinetophone.av import AV
from kinetophone.diffusion.clocks import power_path
from kinetophone.diffusion.inpainting import Given
from kinetophone.diffusion.process import Discrete
from kinetophone.diffusion.sample import initial_noise, sample_joint
from kinetophone.diffusion.signal_leak import SignalLeak
from kinetophone.reference import settings as reference

SCHEDULERS = reference.schedulers()
PROCESSES = SCHEDULERS.map(Discrete.from_scheduler)


@pytest.fixture(scope="module")
def clips():
    """Latents (N, C, T, H, W) whose colour is the clip's and whose noise is the frame's."""
    rng = np.random.default_rng(0)
    colour = 2 + 1.5 * rng.standard_normal((4000, 1, 1, 1, 1))
    return (colour + 0.3 * rng.standard_normal((4000, 2, 32, 2, 2))).astype(np.float16)


def test_draws_have_the_mean_and_the_covariance_of_the_clips_means_over_time(clips):
    drawn = SignalLeak.of(clips).draw(range(20_000))
    assert drawn.shape == (20_000, 2, 1, 2, 2)
    means = torch.from_numpy(clips.astype(np.float32)).mean(2).flatten(1)
    torch.testing.assert_close(drawn.flatten(1).mean(0), means.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(torch.cov(drawn.flatten(1).T), torch.cov(means.T), atol=0.1, rtol=0)


def test_a_seeds_draw_depends_on_it_alone_and_is_not_its_noise(clips):
    leak = SignalLeak.of(clips)
    assert torch.equal(leak.draw([5, 6, 7])[1], leak.draw([6])[0])
    off = leak.draw(range(500)).flatten(1) - leak.mean.flatten()
    white = torch.linalg.solve_triangular(leak.root, off.T, upper=False)
    noise = initial_noise(AV(audio=(8,), video=(1,)), range(500)).audio.T
    assert abs(float((white * noise).mean())) < 0.05


def test_a_stretch_that_is_known_says_what_the_clip_is_like(clips):
    leak, latents = SignalLeak.of(clips), torch.from_numpy(clips[:1]).float()
    keep = torch.arange(32) < 20
    known = leak.draw([1, 2], Given(latents, keep))
    torch.testing.assert_close(known, latents[:, :, :20].mean(2, keepdim=True))
    # Nothing is known, or all of it (and this is of no use): drawn as ever.
    for kept in (torch.zeros(32, dtype=torch.bool), torch.ones(32, dtype=torch.bool)):
        assert torch.equal(leak.draw([1, 2], Given(latents, kept)), leak.draw([1, 2]))


def test_one_that_never_varies_somewhere_can_be_drawn_from(clips):
    still = clips.copy()
    still[:, 0] = 1
    drawn = SignalLeak.of(still).draw(range(10))
    torch.testing.assert_close(drawn[:, 0], torch.ones_like(drawn[:, 0]), atol=0.02, rtol=0)


def test_it_is_what_it_was_when_read_back_and_a_base_may_have_none(clips, tmp_path):
    assert SignalLeak.load(tmp_path) is None
    leak = SignalLeak.of(clips)
    leak.save(tmp_path / "video")
    assert torch.equal(SignalLeak.load(tmp_path / "video").draw([3]), leak.draw([3]))


@pytest.mark.parametrize("leaking", [False, True])
def test_clips_get_their_colours_back(clips, leaking):
    """Of a base that knows its clips exactly: from pure noise their colours come out too alike."""
    x = torch.from_numpy(clips.astype(np.float32)).double()
    shape = x.shape[1:]
    mean, covariance = x.flatten(1).mean(0), torch.cov(x.flatten(1).T)
    values, vectors = torch.linalg.eigh(covariance)

    def exact(latents, levels, x0_hat):
        alpha = PROCESSES.video.coefficients(levels.video[:1])[0].square()
        off = latents.video.flatten(1) - alpha.sqrt() * mean
        solved = (off @ vectors / (alpha * values + 1 - alpha)) @ vectors.T
        return AV(audio=latents.audio, video=((1 - alpha).sqrt() * solved).unflatten(1, shape))

    seeds = range(400)
    noise = initial_noise(AV(audio=(1, 1, 1), video=shape), seeds, dtype=torch.float64)
    leak = AV(audio=None, video=SignalLeak.of(clips).draw(seeds)) if leaking else None
    out = sample_joint(exact, noise, power_path(PROCESSES, 25), PROCESSES, leak=leak)
    spread = float(out.video.flatten(1).mean(1).std()) / 1.5
    level = float(out.video.mean())
    if leaking:
        assert spread == pytest.approx(1, abs=0.1)
        assert level == pytest.approx(2, abs=0.2)
    else:
        assert spread < 0.8
        assert level < 1.6

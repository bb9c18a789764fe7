"""Windows over long clips: they cover everything, cut both tracks at one moment, and change nothing local."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kinetophone.av import AV
from kinetophone.diffusion.sample import initial_noise
from kinetophone.diffusion.windows import Window, plan_causal_windows, plan_windows, whole, windowed

RATE = Fraction(25, 16)  # audio latents per frame


@given(
    frames=st.integers(1, 500),
    size=st.sampled_from([8, 16, 32]),
    rate=st.sampled_from([RATE, Fraction(3, 2)]),
)
def test_windows_cover_the_clip_and_start_where_both_tracks_do(
    frames: int, size: int, rate: Fraction
) -> None:
    window = AV(audio=round(size * rate), video=size)
    plan = plan_windows(frames, window, rate)
    starts = [w.start.video for w in plan]
    assert starts[0] == 0
    assert len(plan) == 1 or whole(plan[:-1]).video < frames
    assert whole(plan).video >= frames
    for earlier, later in pairwise(plan):
        assert 0 < later.start.video - earlier.start.video <= size // 2 + rate.denominator
        if size // 2 >= rate.denominator:
            assert later.start.audio == later.start.video * rate


@given(latents=st.integers(1, 200), size=st.integers(2, 21), rate=st.sampled_from([Fraction(43, 8), RATE]))
def test_causal_windows_cover_the_clip_without_their_context(latents: int, size: int, rate: Fraction) -> None:
    plan = plan_causal_windows(latents, AV(audio=round(size * rate), video=size), rate)
    assert [w.head for w in plan] == [0] + [1] * (len(plan) - 1)
    assert whole(plan).video >= latents
    assert len(plan) == 1 or whole(plan[:-1]).video < latents
    for earlier, later in pairwise(plan):
        assert later.start.video < earlier.end.video, "the context latent is of the window before"
        assert abs(later.start.audio - later.start.video * rate) <= 0.5
    total = whole(plan)
    noise = initial_noise(AV(audio=(2, total.audio), video=(3, total.video, 2, 2)), [1])
    made = windowed(plan, [local] * len(plan))(noise, AV.both(torch.tensor([0.5])), noise)
    torch.testing.assert_close(made.audio, torch.tanh(noise.audio))
    torch.testing.assert_close(made.video, torch.tanh(noise.video))


def test_what_a_causal_window_makes_of_its_context_is_not_used() -> None:
    plan = plan_causal_windows(9, AV(audio=20, video=5), Fraction(4))

    def first_is_wrong(x: AV[Tensor], levels: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Tensor]:
        wrong = x.video.clone()
        wrong[:, :, 0] = 1e6 if float(x.video[0, 0, 0, 0, 0]) else 0.0
        return AV(audio=x.audio, video=wrong)

    total = whole(plan)
    latents = AV(
        audio=torch.zeros(1, 1, total.audio), video=torch.arange(total.video).view(1, 1, -1, 1, 1).float()
    )
    made = windowed(plan, [first_is_wrong] * len(plan))(latents, AV.both(torch.tensor([0.5])), None)
    torch.testing.assert_close(made.video, latents.video)


def local(latents: AV[Tensor], levels: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Tensor]:
    return latents.map(torch.tanh)


def test_a_prediction_without_context_is_the_same_in_windows() -> None:
    plan = plan_windows(70, AV(audio=50, video=32), RATE)
    assert [w.start for w in plan] == [AV(audio=0, video=0), AV(25, 16), AV(50, 32), AV(75, 48)]
    total = whole(plan)
    latents = initial_noise(AV(audio=(2, total.audio, 4), video=(3, total.video, 2, 2)), [1, 2])
    t = AV.both(torch.tensor([5, 5]))
    eps = windowed(plan, [local] * len(plan))(latents, t, latents)
    torch.testing.assert_close(eps.audio, torch.tanh(latents.audio))
    torch.testing.assert_close(eps.video, torch.tanh(latents.video))


def test_windows_fade_into_one_another() -> None:
    plan = plan_windows(48, AV(audio=50, video=32), RATE)
    latents = AV(audio=torch.zeros(1, 1, 75, 1), video=torch.zeros(1, 1, 48, 1, 1))

    def constant(value: float) -> object:
        return lambda x, t, x0: x.map(lambda y: torch.full_like(y, value))

    eps = windowed(plan, [constant(0.0), constant(1.0)])(latents, AV.both(torch.zeros(1)), None)  # type: ignore[list-item]
    track = eps.video.flatten()
    assert torch.equal(track[:16], torch.zeros(16))
    assert torch.equal(track[32:], torch.ones(16))
    assert (track.diff() >= 0).all()
    assert track.diff().max() < 0.1


def test_each_window_predicts_its_own_stretch() -> None:
    seen: list[float] = []

    def predict(latents: AV[Tensor], levels: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Tensor]:
        assert x0_hat is not None
        seen.append(float(x0_hat.video[0, 0, 0, 0, 0]))
        return latents

    plan = [Window(AV(25 * k, 16 * k), AV(50, 32)) for k in range(3)]
    ramp = AV(audio=torch.zeros(1, 1, 100, 1), video=torch.arange(64.0).view(1, 1, 64, 1, 1))
    windowed(plan, [predict] * 3)(ramp, AV.both(torch.zeros(1)), ramp)
    assert seen == [0, 16, 32]

"""A sound for a video, a video for a sound, continuation, long clips: on tiny models of the true classes."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from kinetophone import Kinetophone
from kinetophone.av import AV
from kinetophone.errors import RequestError
from kinetophone.media.clip import Clip
from kinetophone.media.read import Audio, Video
from kinetophone.media.timing import ClipTime
from kinetophone.tasks.common.sampling import windows_of
from kinetophone.tasks.request import Script


@pytest.fixture(scope="module")
def pipe(models: Path) -> Kinetophone:
    pipe = Kinetophone.from_bases(
        video=models / "animatediff", audio=models / "audioldm", device="cpu", frames=8, size=16
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in pipe.coupling.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return pipe


def movie(seconds: float, fps: int, height: int, width: int, seed: int = 0) -> Video:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (round(seconds * fps), height, width, 3), dtype=np.uint8)
    return Video(frames=frames, fps=Fraction(fps))


def noise(seconds: float, rate: int, seed: int = 0) -> Audio:
    rng = np.random.default_rng(seed)
    return Audio(waveform=rng.uniform(-0.5, 0.5, round(seconds * rate)).astype(np.float32), sample_rate=rate)


@pytest.mark.parametrize(("seconds", "fps"), [(0.7, 30), (1.0, 8), (2.3, 25)])
def test_a_sound_is_exactly_as_long_as_the_video_and_depends_on_it(
    pipe: Kinetophone, seconds: float, fps: int
) -> None:
    video = movie(seconds, fps, 38, 50)
    clip = pipe.sound(video, "a bowl", steps=2)
    assert clip.fps == fps
    np.testing.assert_array_equal(clip.video, video.frames)
    assert len(clip.audio) == round(len(video.frames) / fps * 16_000)
    assert not np.array_equal(clip.audio, pipe.sound(movie(seconds, fps, 38, 50, 1), "a bowl", steps=2).audio)
    deaf = [pipe.sound(movie(seconds, fps, 38, 50, s), "a bowl", steps=2, coupled=False) for s in (0, 1)]
    np.testing.assert_array_equal(deaf[0].audio, deaf[1].audio)


@pytest.mark.parametrize(("seconds", "rate"), [(0.33, 44_100), (1.0, 16_000), (1.9, 8_000)])
def test_a_picture_keeps_the_sound_and_depends_on_it(pipe: Kinetophone, seconds: float, rate: int) -> None:
    sound = noise(seconds, rate)
    clip = pipe.picture(sound, "a bowl", steps=2)
    assert clip.sample_rate == rate
    np.testing.assert_array_equal(clip.audio[: len(sound.waveform)], sound.waveform)
    assert 0 <= len(clip.audio) - len(sound.waveform) < rate / 8
    assert not clip.audio[len(sound.waveform) :].any()
    silence = Audio(waveform=0 * sound.waveform, sample_rate=rate)
    other = pipe.picture(silence, "a bowl", steps=2)
    assert not np.array_equal(clip.video, other.video)


def test_only_what_is_missing_is_predicted(pipe: Kinetophone) -> None:
    calls = []
    hooks = [
        getattr(pipe.bases, name).unet.register_forward_hook(lambda *_, name=name: calls.append(name))
        for name in ("audio", "video")
    ]
    pipe.sound(movie(1, 8, 16, 16), "a bowl", steps=2)
    assert calls == ["audio"] * 2
    calls.clear()
    pipe.picture(noise(1, 16_000), "a bowl", steps=2)
    assert calls == ["video"] * 2
    for hook in hooks:
        hook.remove()


def test_a_replaced_track_is_kept_but_never_enters_clean(pipe: Kinetophone) -> None:
    levels: list[AV[float]] = []
    clip = pipe.sound(
        movie(1, 8, 16, 16), "a bowl", steps=3, replacement=True,
        callback=lambda progress: levels.append(progress.levels),
    )  # fmt: skip
    assert all(level.video > 0.001 for level in levels)
    assert not np.array_equal(clip.audio, pipe.sound(movie(1, 8, 16, 16), "a bowl", steps=3).audio)


def clip_of(seconds: float) -> Clip:
    video, sound = movie(seconds, 8, 16, 16), noise(seconds, 16_000)
    return Clip(video=video.frames, fps=video.fps, audio=sound.waveform, sample_rate=16_000)


def test_a_continuation_keeps_every_frame_and_sample(pipe: Kinetophone) -> None:
    clip = clip_of(1)
    longer = pipe.extend(clip, "a bowl", seconds=2.5, steps=2)
    assert longer.video.shape == (20, 16, 16, 3)
    np.testing.assert_array_equal(longer.video[:8], clip.video)
    np.testing.assert_array_equal(longer.audio[:16_000], clip.audio)
    other = pipe.extend(clip_of(1), "a bowl", seconds=2.5, steps=2, seed=1)
    assert not np.array_equal(longer.video[8:], other.video[8:])
    assert not np.array_equal(longer.audio[16_000:], other.audio[16_000:])


def test_the_middle_is_filled_in_and_each_track_may_keep_its_own(pipe: Kinetophone) -> None:
    clip = clip_of(1)
    both = pipe.extend(clip, "a bowl", seconds=1, keep=[(0, 0.25), (0.75, 1)], steps=2)
    for part in (slice(0, 2), slice(6, 8)):
        np.testing.assert_array_equal(both.video[part], clip.video[part])
    assert not np.array_equal(both.video[2:6], clip.video[2:6])
    for samples in (slice(0, 4_000), slice(12_000, 16_000)):
        np.testing.assert_array_equal(both.audio[samples], clip.audio[samples])
    assert not np.array_equal(both.audio[4_000:12_000], clip.audio[4_000:12_000])
    dubbed = pipe.extend(clip, "a bowl", seconds=1, keep=AV(audio=[], video=[(0, 1)]), steps=2)
    np.testing.assert_array_equal(dubbed.video, clip.video)
    assert not np.allclose(dubbed.audio, clip.audio)


@pytest.mark.parametrize(
    ("keep", "seconds"),
    [([(0, 0.37)], 1.375), ([(0.61, 1)], 1), ([(0.13, 0.4), (0.71, 0.97)], 2), ([(0.2, 0.3)], 1)],
)
def test_whatever_is_kept_is_exact_and_only_that(
    pipe: Kinetophone, keep: list[tuple[float, float]], seconds: float
) -> None:
    clip = clip_of(1)
    made = pipe.extend(clip, "a bowl", seconds=seconds, keep=keep, steps=1)
    samples, frames = np.zeros(len(made.audio), bool), np.zeros(len(made.video), bool)
    for start, end in keep:
        samples[round(start * 16_000) : round(end * 16_000)] = True
        frames[int(np.ceil(start * 8)) : int(end * 8)] = True
    n, t = len(clip.audio), len(clip.video)
    np.testing.assert_array_equal(made.audio[samples], clip.audio[samples[:n].nonzero()[0]])
    np.testing.assert_array_equal(made.video[frames], clip.video[frames[:t].nonzero()[0]])
    assert (made.audio[:n] == clip.audio)[~samples[:n]].mean() < 0.01
    assert all((made.video[k] != clip.video[k]).any() for k in (~frames[:t]).nonzero()[0])


def test_what_is_beside_the_kept_stretches_is_not_looked_at(pipe: Kinetophone) -> None:
    clip, other = clip_of(1), noise(1, 16_000, seed=3).waveform
    kept = slice(4_000, 12_000)
    other[kept] = clip.audio[kept]
    one, two = (
        pipe.extend(c, "a bowl", seconds=1, keep=[(0.25, 0.75)], steps=1)
        for c in (clip, dataclasses.replace(clip, audio=other))
    )
    np.testing.assert_array_equal(one.audio, two.audio)
    np.testing.assert_array_equal(one.video, two.video)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seconds": 1}, r"all 1 s are kept: increase seconds, or keep less"),
        ({"seconds": 2, "keep": [(0.5, 3)]}, r"keep 0\.5 to 3 s is not an interval of the clip's 1 s"),
        (
            {"seconds": 2, "keep": [(0.5, 1), (0, 0.5)]},
            r"keep 0 to 0\.5 s is not after the previous interval",
        ),
    ],
)
def test_what_cannot_be_kept(pipe: Kinetophone, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        pipe.extend(clip_of(1), "a bowl", **options)


def test_an_animation_begins_with_the_image_and_depends_on_it(pipe: Kinetophone, tmp_path: Path) -> None:
    image = movie(0.125, 8, 16, 16).frames[0]
    clip = pipe.animate(image, "a bowl", steps=2)
    assert (clip.video.shape, len(clip.audio)) == ((8, 16, 16, 3), 16_000)
    np.testing.assert_array_equal(clip.video[0], image)
    other = pipe.animate(movie(0.125, 8, 16, 16, 1).frames[0], "a bowl", steps=2)
    assert not np.array_equal(clip.video[1:], other.video[1:])
    PIL.Image.fromarray(image).save(tmp_path / "image.png")
    np.testing.assert_array_equal(pipe.animate(tmp_path / "image.png", "a bowl", steps=2).video, clip.video)


def test_a_stream_is_one_clip_in_parts(pipe: Kinetophone) -> None:
    parts = list(pipe.stream("a bowl", seconds=3, steps=2, seed=5))
    assert [len(part.video) for part in parts] == [6, 4, 4, 4, 6]
    assert [len(part.audio) for part in parts] == [12_000, 8_000, 8_000, 8_000, 12_000]
    plain = pipe("a bowl", seconds=1, steps=2, seed=5)[0]
    np.testing.assert_array_equal(parts[0].video, plain.video[:6])
    np.testing.assert_array_equal(parts[0].audio, plain.audio[:12_000])
    # Nothing that follows changes what was there before.
    shorter = list(pipe.stream("a bowl", seconds=2, steps=2, seed=5))
    np.testing.assert_array_equal(shorter[1].video, parts[1].video)
    np.testing.assert_array_equal(shorter[1].audio, parts[1].audio)
    assert not np.array_equal(parts[2].video, parts[1].video)


def test_a_window_of_a_stream_continues_the_one_before(pipe: Kinetophone) -> None:
    seen: list[AV[torch.Tensor]] = []
    list(pipe.stream("a bowl", seconds=2, steps=2, callback=lambda p: seen.append(p.x0_hat)))
    windows = windows_of(pipe, ClipTime(fps=Fraction(8), frames=16, sample_rate=16_000))
    made = seen[1::2]  # the last step of each window
    assert len(made) == len(windows) == 3
    for k in (0, 1):
        for modality in ("audio", "video"):
            before, after = getattr(made[k], modality), getattr(made[k + 1], modality)
            by = getattr(windows[k + 1].start, modality) - getattr(windows[k].start, modality)
            torch.testing.assert_close(before[:, :, by:], after[:, :, :-by], rtol=0, atol=0)
            assert not torch.equal(before[:, :, -by:], after[:, :, -by:])


def test_a_script_speaks_to_the_windows_that_hold_its_times(pipe: Kinetophone) -> None:
    plain, early, late = (
        pipe(Script(lines), seconds=3, steps=1)[0]
        for lines in (
            ((0.0, "a bowl"),),
            ((0.0, "a drumstick hits metal"), (0.6, "a bowl")),
            ((0.0, "a bowl"), (2.4, "a drumstick hits metal")),
        )
    )
    assert plain.video.shape[0] == 24
    np.testing.assert_array_equal(plain.video, pipe("a bowl", seconds=3, steps=1)[0].video)
    assert not np.array_equal(plain.video[:4], early.video[:4])
    np.testing.assert_array_equal(plain.video[8:], early.video[8:])
    np.testing.assert_array_equal(plain.video[:16], late.video[:16])
    assert not np.array_equal(plain.video[20:], late.video[20:])


def test_a_script_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "script.txt"
    path.write_text("0 a stick hits a bowl\n\n4.5  a mallet hits a drum\n")
    script = Script.read(path)
    assert script.lines == ((0.0, "a stick hits a bowl"), (4.5, "a mallet hits a drum"))
    assert [script.at(s) for s in (0, 4, 4.5, 99)] == [script.lines[k][1] for k in (0, 0, 1, 1)]
    path.write_text("0 a bowl\nsoon a drum\n0 a glass\n3\n")
    with pytest.raises(RequestError) as caught:
        Script.read(path)
    assert [p.split(": ")[0].rpartition(", ")[2] for p in caught.value.problems] == [
        "line 2",
        "line 3",
        "line 4",
    ]
    with pytest.raises(RequestError, match="does not exist"):
        Script.read(tmp_path / "none.txt")

"""Features of networks and what is made of them; small networks stand in for those that are not shipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kinetophone
from kinetophone.data import hits
from kinetophone.errors import RequestError, UserError
from kinetophone.media import Clip
from kinetophone.metrics.evaluate import ClipEvents, detect
from kinetophone.metrics.features import Extractor, i3d_features, vggish_features, vggish_log_mel
from kinetophone.metrics.quality import distances, material_agreement

MakeClip = Callable[..., Clip]
BUNDLE = Path(kinetophone.__file__).parent / "bundles" / "hits"


class TinyI3D(nn.Module):
    """The calling convention of the I3D file; its features say what it was given."""

    def forward(self, x: Tensor, rescale: bool, resize: bool, return_features: bool) -> Tensor:
        assert not rescale
        assert not resize
        assert return_features
        shape = torch.tensor([x.shape[1], x.shape[2], x.shape[3], x.shape[4]]).float()
        return torch.cat([shape, x.amin()[None], x.amax()[None], x[0, :, 0].mean()[None]])[None]


class TinyVGGish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2))


@pytest.fixture
def i3d(tmp_path: Path) -> str:
    torch.jit.script(TinyI3D()).save(tmp_path / "i3d.pt")
    return str(tmp_path / "i3d.pt")


def test_i3d_is_given_what_it_expects(i3d: str) -> None:
    frames = np.zeros((40, 32, 48, 3), np.uint8)
    frames[24:, :, :, 0] = 255
    found = i3d_features(frames, i3d)
    assert found["fvd"].tolist() == [[3, 16, 224, 224, -1, -1, -1]]
    # Windows of 16 start at 0, 16 and 24: the last one ends with the clip, and is the bright one.
    assert found["fvd_whole"].shape == (3, 7)
    assert found["fvd_whole"][2].tolist() == pytest.approx([3, 16, 224, 224, -1, 1, -1 / 3])
    assert i3d_features(frames[:15], i3d)["fvd"].shape == (0, 0)


def test_vggish_hears_a_tone_where_it_is(tmp_path: Path) -> None:
    times = np.arange(3 * 44_100) / 44_100
    tone = (0.5 * np.sin(2 * np.pi * 1000 * times)).astype(np.float32)
    mel = vggish_log_mel(tone[:16_000])
    assert mel.shape == (98, 64)
    edges = np.linspace(*(1127 * np.log1p(np.array([125.0, 7500.0]) / 700)), 66)
    centre_hz = 700 * np.expm1(edges[1:-1] / 1127)
    # 1000 Hz at 44.1 kHz, read as 16 kHz, is 362.8 Hz.
    assert centre_hz[mel.mean(axis=0).argmax()] == pytest.approx(362.8, rel=0.1)
    assert vggish_log_mel(np.zeros(400, np.float32)) == pytest.approx(np.full((1, 64), np.log(0.01)))
    torch.jit.script(TinyVGGish()).save(tmp_path / "vggish.pt")
    clip = Clip(np.zeros((24, 8, 8, 3), np.uint8), 8, tone, 44_100)
    assert vggish_features(clip, str(tmp_path / "vggish.pt")).shape == (3, 64)


def test_networks_that_are_not_there_are_refused_before_any_clip_is_read(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"i3d\.pt' cannot be loaded .*give the network as TorchScript"):
        Extractor(i3d=str(tmp_path / "i3d.pt")).check()
    (tmp_path / "i3d.pt").write_bytes(b"no network")
    with pytest.raises(RequestError, match=r"i3d\.pt' cannot be loaded for its features"):
        Extractor(i3d=str(tmp_path / "i3d.pt")).check()
    with pytest.raises(RequestError, match="cannot be loaded for its features: the bundle has no classifier"):
        Extractor(hits=str(tmp_path)).check()


def procedural(first: int, count: int) -> list[Clip]:
    made = [hits.make_clip("val", first + index) for index in range(count)]
    return [Clip(clip.video, hits.FPS, clip.audio, hits.SAMPLE_RATE) for clip in made]


def reduced(clips: list[Clip], extractor: Extractor) -> list[ClipEvents]:
    """What a distance needs of clips, without looking for events in them."""
    return [
        ClipEvents(str(index), 8.0, (), (), (), (), features=extractor(clip))
        for index, clip in enumerate(clips)
    ]


def test_other_clips_of_one_world_are_nearer_than_noise() -> None:
    extractor = Extractor(hits=str(BUNDLE))
    extractor.check()
    rng = np.random.default_rng(0)
    clips = procedural(0, 12)
    noisy = [
        Clip(
            rng.integers(0, 256, clip.video.shape, dtype=np.uint8),
            clip.fps,
            rng.normal(0, 0.1, len(clip.audio)).clip(-1, 1).astype(np.float32),
            clip.sample_rate,
        )
        for clip in clips
    ]
    reference = reduced(procedural(12, 12), extractor)
    near = distances(reduced(clips, extractor), reference)
    far = distances(reduced(noisy, extractor), reference)
    assert set(near) == {"hits-FVD", "hits-FAD"}
    for name in near:
        assert near[name].frechet < far[name].frechet
        assert near[name].kernel < far[name].kernel
        assert near[name].warning is not None


def test_the_material_is_that_of_the_caption() -> None:
    clips = procedural(0, 10)
    captions = {f"{index}.mp4": hits.make_scene("val", index)[1] for index in range(10)}
    found = material_agreement(reduced(clips, Extractor(hits=str(BUNDLE))), captions)
    assert len(found) == 2
    for agreed in found.values():
        assert agreed.shuffled is not None
        assert agreed.value > agreed.shuffled + 0.3


def test_too_few_clips_for_a_distance(make_struck_clip: MakeClip) -> None:
    found = detect([make_struck_clip([1.0], size=64)], workers=1, features=Extractor(hits=str(BUNDLE)))
    assert found[0].features["hits_audio"].shape == (1, 128)  # type: ignore[union-attr]
    with pytest.raises(UserError, match="a distance needs at least 4 vectors"):
        distances(found, found)  # type: ignore[arg-type]

"""Features of networks and what is made of them; small networks stand in for those that are not shipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

import kinetophone
from kinetophone import hits
from kinetophone.cli import app
from kinetophone.errors import RequestError, UserError
from kinetophone.media import Clip
from kinetophone.metrics.evaluate import ClipEvents, detect
from kinetophone.metrics.features import Extractor
from kinetophone.metrics.kinds.desync import CHANCE_S, CROP_S, desync, mean_desync
from kinetophone.metrics.kinds.fad import vggish_features, vggish_log_mel
from kinetophone.metrics.kinds.fvd import i3d_features
from kinetophone.metrics.registry import Consent, Sample

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
    found = i3d_features(frames, i3d, True)
    assert found["fvd"].tolist() == [[3, 16, 224, 224, -1, -1, -1]]
    # Windows of 16 start at 0, 16 and 24: the last one ends with the clip, and is the bright one.
    assert found["fvd_whole"].shape == (3, 7)
    assert found["fvd_whole"][2].tolist() == pytest.approx([3, 16, 224, 224, -1, 1, -1 / 3])
    assert i3d_features(frames[:15], i3d, True)["fvd"].shape == (0, 0)


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
    assert vggish_features(clip, str(tmp_path / "vggish.pt"), True).shape == (3, 64)


def test_networks_that_are_not_there_are_refused_before_any_clip_is_read(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"^there is no file '.*i3d\.pt'"):
        Extractor(i3d=str(tmp_path / "i3d.pt")).check()
    (tmp_path / "i3d.pt").write_bytes(b"no network")
    with pytest.raises(RequestError, match=r"^'.*i3d\.pt' is neither TorchScript nor safetensors$"):
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
    near = extractor.score(reduced(clips, extractor), reference).distances
    far = extractor.score(reduced(noisy, extractor), reference).distances
    assert set(near) == {"hits-FVD", "hits-FAD"}
    for name in near:
        assert near[name].frechet < far[name].frechet
        assert near[name].kernel < far[name].kernel
        assert near[name].warning is not None


def test_the_material_is_that_of_the_caption() -> None:
    clips = procedural(0, 10)
    captions = {f"{index}.mp4": hits.make_scene("val", index)[1] for index in range(10)}
    extractor = Extractor(hits=str(BUNDLE))
    found = extractor.score(reduced(clips, extractor), captions=captions).semantics
    assert len(found) == 3
    for agreed in found.values():
        assert agreed.shuffled is not None
        assert agreed.value > agreed.shuffled + 0.3


def test_too_few_clips_for_a_distance(make_struck_clip: MakeClip) -> None:
    extractor = Extractor(hits=str(BUNDLE))
    found = detect([make_struck_clip([1.0], size=64)], workers=1, features=extractor)
    assert found[0].features["hits_audio"].shape == (1, 128)  # type: ignore[union-attr]
    with pytest.raises(UserError, match="a distance needs at least 4 vectors"):
        extractor.score(found, found)  # type: ignore[arg-type]


class TinySynchformer(nn.Module):
    """Finds the offset that is written into the brightness of the first frame; the segments must fit."""

    def forward(self, frames: Tensor, sound: Tensor) -> Tensor:
        assert list(frames.shape) == [1, 14, 16, 3, 224, 224]
        assert list(sound.shape) == [1, 14, 10240]
        # Half of each segment is the first half of the next.
        assert torch.equal(frames[:, 0, 8:], frames[:, 1, :8])
        assert torch.equal(sound[:, 0, 5120:], sound[:, 1, :5120])
        place = ((frames[0, 0, 0].mean() + 1) / 2 * 20).round().long()
        return torch.nn.functional.one_hot(place, 21)[None].float()


@pytest.fixture
def synchformer(tmp_path: Path) -> str:
    torch.jit.script(TinySynchformer()).save(tmp_path / "synchformer.pt")
    return str(tmp_path / "synchformer.pt")


def test_desync_takes_the_first_and_the_last_crop(synchformer: str) -> None:
    frames = np.zeros((60, 40, 60, 3), np.uint8)  # 6 s; the last 4.8 s begin with frame 12
    frames[12:] = 255
    sound = np.random.default_rng(0).normal(0, 0.1, 6 * 8000).astype(np.float32)
    found = desync(Clip(frames, 10, sound, 8000), synchformer, True)
    assert found[:, 0].tolist() == [-2.0, 2.0]
    assert CROP_S == 4.8
    assert pytest.approx(22 / 21) == CHANCE_S
    # A shorter clip is one crop.
    assert desync(Clip(frames[:40], 10, sound[:32_000], 8000), synchformer, True).shape == (1, 1)


def test_desync_is_the_mean_size_of_the_offsets_and_counts_short_clips() -> None:
    def clip(offsets: list[float], seconds: int) -> ClipEvents:
        found = {"desync": np.array(offsets, np.float32)[:, None]}
        return ClipEvents("a", 8.0, (), (), (), (), flow=(0.0,) * (8 * seconds), features=found)

    off = mean_desync(Sample([clip([-2.0, 1.0], 6), clip([0.5], 4)], None, {}, "", Consent()))
    assert off is not None
    assert (off.value, off.signed, off.n, off.short) == (1.0, 0.0, 2, 1)
    without = ClipEvents("a", 8.0, (), (), (), ())
    assert mean_desync(Sample([without], None, {}, "", Consent())) is None


def test_the_table_of_lags_has_the_offsets_of_desync_beside_ours(
    synchformer: str, tmp_path: Path, make_struck_clip: Callable[..., Clip]
) -> None:
    for name in ("a", "b"):
        make_struck_clip([0.5, 1.25, 3.0], size=64).save(tmp_path / "clips" / f"{name}.mp4")
    options = ["--metrics", "desync", "--synchformer", synchformer, "--allow-torchscript", "--workers", "1"]
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "clips"), "--table", *options])
    assert result.exit_code == 0, result.output
    lines = [line.split("│")[1:-1] for line in result.output.splitlines() if line.startswith("│ a.mp4")]
    lag, interval, signed, absolute = (cell.strip() for cell in lines[0][1:])
    assert abs(float(lag)) < 0.1
    assert " to " in interval
    assert float(absolute) == abs(float(signed))
    assert "DeSync, signed mean: " in result.output


class TinyBind(nn.Module):
    """Direction 0 for a loud, a bright or an early text, direction 1 for the other."""

    def __init__(self) -> None:
        super().__init__()
        self.audio_samples, self.frame_count, self.side = 32_000, 2, 24

    def _direction(self, first: Tensor) -> Tensor:
        return torch.stack([first, 1 - first], dim=-1).float() * 3

    @torch.jit.export
    def sound(self, x: Tensor) -> Tensor:
        assert list(x.shape) == [1, 32_000]
        return self._direction((x.abs().amax(1) > 0.5).float())

    @torch.jit.export
    def frames(self, x: Tensor) -> Tensor:
        assert list(x.shape) == [1, 2, 3, 24, 24]
        return self._direction((x.mean((1, 2, 3, 4)) > 0.5).float())

    @torch.jit.export
    def texts(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 77
        # Word 2 is "loud".
        return self._direction((x == 2).any(1).float())

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.fixture
def bind(tmp_path: Path) -> Path:
    folder = tmp_path / "bind"
    folder.mkdir()
    torch.jit.script(TinyBind()).save(folder / "model.pt")
    words = WordLevel({"[PAD]": 0, "[UNK]": 1, "loud": 2}, unk_token="[UNK]")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(folder)
    return folder


def test_sound_picture_and_text_in_one_space(bind: Path) -> None:
    extractor = Extractor(imagebind=str(bind), texts=True, allow_torchscript=True)
    extractor.check()
    clips, captions = [], {}
    for index in range(4):
        loud = index % 2
        seconds = 1 + 2 * index  # shorter than the window, and longer
        frames = np.full((8 * seconds, 32, 48, 3), 255 * loud, np.uint8)
        sound = np.full(8000 * seconds, 0.1 + 0.8 * loud, np.float32)
        found = extractor(Clip(frames, 8, sound, 8000))
        clips.append(ClipEvents(f"{index}.mp4", 8.0, (), (), (), (), features=found))
        captions[f"{index}.mp4"] = "a loud bang" if loud else "a soft thud"
    agreed = extractor.score(clips, captions=captions).semantics
    assert list(agreed) == ["ImageBind sound-picture", "ImageBind text-sound", "ImageBind text-picture"]
    for control in agreed.values():
        assert control.value == pytest.approx(1.0)
        assert control.shuffled is not None
        assert control.shuffled < 0.6
    assert list(extractor.score(clips).semantics) == ["ImageBind sound-picture"]


def test_a_space_that_lacks_a_part_is_refused_before_any_clip_is_read(bind: Path, synchformer: str) -> None:
    Path(synchformer).rename(bind / "model.pt")
    with pytest.raises(RequestError, match=r"its model\.pt lacks sound, frames, texts"):
        Extractor(languagebind=str(bind), allow_torchscript=True).check()

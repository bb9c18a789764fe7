"""Prepared clips are encoded by bases in every form their weights are published in."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import tiny
from kinetophone.cli import app
from kinetophone.data.prepare import Cut, prepare
from kinetophone.data.sources import find_sources
from videos import write_video


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("encode")
    (root / "videos").mkdir()
    write_video(root / "videos" / "a.mp4", size=(32, 32))
    cut = Cut(fps=8, seconds=1, size=32)
    prepare(find_sources(root / "videos", caption="a bowl"), root / "clips", cut, workers=1)
    return root / "clips"


@pytest.fixture
def bases(models):
    return models


def pickled(folder, out, wrap=lambda state: state):
    """A copy of a base whose weights are pickles, named as on the Hub."""
    shutil.copytree(folder, out)
    for file in out.rglob("*.safetensors"):
        torch.save(wrap(load_file(file)), file.with_name(file.name.replace(".safetensors", ".bin")))
        pickle = file.with_suffix(".bin")
        if pickle.name == "model.bin":
            pickle.rename(pickle.with_name("pytorch_model.bin"))
        file.unlink()
    return out


def encode(clips, out, audio, video, *options):
    names = ("--audio-base", audio, "--video-base", video, *options)
    return CliRunner().invoke(app, ["data", "encode", *map(str, (clips, out, *names))])


def latents(out):
    return {path.name: load_file(path) for path in sorted(out.glob("*.safetensors"))}


def same(ours, theirs, **tolerance):
    torch.testing.assert_close(latents(ours), latents(theirs), **tolerance)


def test_pickled_weights_are_read_by_consent_only(clips, bases, tmp_path):
    audio, video = bases / "audioldm", bases / "animatediff"
    plain = tmp_path / "plain"
    assert encode(clips, plain, audio, video).exit_code == 0
    for name, pair in {
        "both": (pickled(audio, tmp_path / "a"), pickled(video, tmp_path / "v")),
        "video": (audio, tmp_path / "v"),
    }.items():
        out = tmp_path / name
        done = encode(clips, out, *pair)
        assert done.exit_code == 2
        assert all(line.startswith("error: ") for line in done.stderr.splitlines())
        assert "--allow-pickle" in done.stderr
        assert not out.exists()
        done = encode(clips, out, *pair, "--allow-pickle")
        assert done.exit_code == 0, done.output
        same(out, plain)


def test_consent_goes_to_the_motion_adapter_too(clips, bases, tmp_path):
    pair = (bases / "audioldm", bases / "image")
    adapter = pickled(bases / "adapter", tmp_path / "adapter")
    done = encode(clips, tmp_path / "out", *pair, "--motion-adapter", adapter)
    assert done.exit_code == 2
    assert "--allow-pickle" in done.stderr
    assert not (tmp_path / "out").exists()
    done = encode(clips, tmp_path / "out", *pair, "--motion-adapter", adapter, "--allow-pickle")
    assert done.exit_code == 0, done.output


def test_a_pickle_that_runs_code_is_refused_with_consent_too(clips, bases, tmp_path):
    class Runs:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    audio = pickled(bases / "audioldm", tmp_path / "a", lambda state: {**state, "more": Runs()})
    done = encode(clips, tmp_path / "out", audio, bases / "animatediff", "--allow-pickle")
    assert done.exit_code == 2
    assert "is damaged or holds more than tensors" in done.stderr
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


def test_bases_with_only_a_half_precision_variant(clips, bases, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        audio, video = tiny.audioldm(), tiny.animatediff()
        for name, parts in (("audio", audio), ("video", video)):
            tiny.save(parts, tmp_path / "full" / name)
            halves = {
                k: part.half() if isinstance(part, torch.nn.Module) else part for k, part in parts.items()
            }
            tiny.save(halves, tmp_path / "half" / name, variant="fp16")
    assert {p.name for p in (tmp_path / "half").rglob("*.safetensors")} == {
        "diffusion_pytorch_model.fp16.safetensors",
        "model.fp16.safetensors",
    }
    for kind in ("full", "half"):
        done = encode(clips, tmp_path / f"by-{kind}", tmp_path / kind / "audio", tmp_path / kind / "video")
        assert done.exit_code == 0, done.output
    same(tmp_path / "by-half", tmp_path / "by-full", rtol=0.02, atol=0.02)


def test_latents_of_other_clips_are_not_kept(clips, bases, tmp_path):
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "b.mp4", size=(32, 32), seconds=2.25)
    cut = Cut(fps=8, seconds=1, size=32)
    prepare(find_sources(tmp_path / "videos", caption="a bowl"), tmp_path / "clips", cut, workers=1)
    pair = (bases / "audioldm", bases / "animatediff")
    for source in (clips, tmp_path / "clips"):
        done = encode(source, tmp_path / "out", *pair)
        assert done.exit_code == 0, done.output
    assert encode(tmp_path / "clips", tmp_path / "afresh", *pair).exit_code == 0
    same(tmp_path / "out", tmp_path / "afresh")
    written = [path.stat().st_mtime_ns for path in (tmp_path / "out").glob("latents-*")]
    assert encode(tmp_path / "clips", tmp_path / "out", *pair).exit_code == 0
    assert [path.stat().st_mtime_ns for path in (tmp_path / "out").glob("latents-*")] == written

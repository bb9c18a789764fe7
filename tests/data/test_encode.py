"""Prepared clips are encoded by bases in every form their weights are published in."""

import io
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import tiny
from kinetophone.av import AV
from kinetophone.bases.load import load_audio_base, load_video_base
from kinetophone.cli import app
from kinetophone.data.encoded import load_encoded
from kinetophone.data.prepare import Cut, prepare
from kinetophone.data.shards import read
from kinetophone.data.sources import find_sources
from kinetophone.errors import RequestError
from kinetophone.workers import Workers
from videos import write_video


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("encode")
    (root / "videos").mkdir()
    write_video(root / "videos" / "a.mp4", size=(32, 32))
    cut = Cut(fps=8, seconds=1, size=32)
    prepare(find_sources(root / "videos", caption="a bowl"), root / "clips", cut, workers=Workers(1))
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
    found = {path.name: load_file(path) for path in sorted(out.glob("*.safetensors"))}
    for shard in sorted(out.glob("*.tar")):
        for key, members in read(shard):
            arrays = (np.load(io.BytesIO(members[f"{name}.npy"])) for name in ("audio", "video"))
            found[key] = [torch.from_numpy(array) for array in arrays]
    return found


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
    prepare(find_sources(tmp_path / "videos", caption="a bowl"), tmp_path / "clips", cut, workers=Workers(1))
    pair = (bases / "audioldm", bases / "animatediff")
    for source in (clips, tmp_path / "clips"):
        done = encode(source, tmp_path / "out", *pair)
        assert done.exit_code == 0, done.output
    assert encode(tmp_path / "clips", tmp_path / "afresh", *pair).exit_code == 0
    same(tmp_path / "out", tmp_path / "afresh")
    written = [path.stat().st_mtime_ns for path in (tmp_path / "out").glob("latents-*")]
    assert encode(tmp_path / "clips", tmp_path / "out", *pair).exit_code == 0
    assert [path.stat().st_mtime_ns for path in (tmp_path / "out").glob("latents-*")] == written


def written(out):
    return {path.name: path.stat().st_mtime_ns for path in out.glob("*-0*")}


def made_again(clips, out, audio, video):
    """Names of the files of latents and text states that a run makes again."""
    before = written(out) if out.exists() else {}
    done = encode(clips, out, audio, video)
    assert done.exit_code == 0, done.output
    return {name for name, time in written(out).items() if before.get(name) != time}


def changed(base, out, part):
    """A copy of a base with other weights of the same shape in one of its networks."""
    shutil.copytree(base, out)
    (file,) = (out / part).glob("*.safetensors")
    tensors = load_file(file)
    save_file({n: x * 1.01 if x.is_floating_point() else x for n, x in tensors.items()}, file)
    return out


def test_files_are_made_again_if_and_only_if_what_made_them_has_changed(clips, bases, tmp_path, monkeypatch):
    audio, video, out = bases / "audioldm", bases / "animatediff", tmp_path / "out"
    both = {"latents-00000.tar", "texts-00000.safetensors"}
    assert made_again(clips, out, audio, video) == both
    assert made_again(clips, out, audio, video) == set()
    other = changed(audio, tmp_path / "vae", "vae")
    assert made_again(clips, out, other, video) == {"latents-00000.tar"}
    other = changed(audio, tmp_path / "text", "text_encoder")
    assert made_again(clips, out, other, video) == both  # the autoencoder is the first one again
    encoding = sys.modules["kinetophone.data.encode"]
    monkeypatch.setattr(encoding, "VERSION", encoding.VERSION + 1)
    assert made_again(clips, out, other, video) == both


def test_other_captions_of_the_same_clips_are_those_trained_on(clips, bases, tmp_path):
    (tmp_path / "videos").mkdir()
    shutil.copy(clips.parent / "videos" / "a.mp4", tmp_path / "videos")
    pair = AV(audio=load_audio_base(bases / "audioldm"), video=load_video_base(bases / "animatediff"))
    for caption in ("a bowl", "a bell"):
        sources = find_sources(tmp_path / "videos", caption=caption)
        prepare(sources, tmp_path / "clips", Cut(fps=8, seconds=1, size=32), Workers(1))
        made_again(tmp_path / "clips", tmp_path / "out", bases / "audioldm", bases / "animatediff")
        found = load_encoded(tmp_path / "out", 0, pair)
        assert found.captions == [[caption]]
        torch.testing.assert_close(found.text([caption]).video, pair.video.encode_prompt([caption], 1))


def test_a_damaged_shard_is_named_and_the_others_are_encoded(bases, tmp_path, monkeypatch):
    (tmp_path / "videos").mkdir()
    monkeypatch.setattr(sys.modules["kinetophone.data.prepare"], "_SOURCES_PER_SHARD", 1)
    for name in "abc":
        write_video(tmp_path / "videos" / f"{name}.mp4", size=(32, 32))
    clips, out = tmp_path / "clips", tmp_path / "out"
    sources = find_sources(tmp_path / "videos", caption="a bowl")
    prepare(sources, clips, Cut(fps=8, seconds=1, size=32), Workers(1))
    content = bytearray((clips / "clips-00001.tar").read_bytes())
    content[1000] ^= 255
    (clips / "clips-00001.tar").write_bytes(content)
    pair = (bases / "audioldm", bases / "animatediff")
    done = encode(clips, out, *pair)
    assert done.exit_code == 2
    first, last = done.stderr.splitlines()[-2:]
    assert "clips-00001.tar' is damaged; remove it, and run kinetophone data prepare again" in first
    assert last.startswith("error: 1 shard failed; all others are in")
    (clips / "clips-00001.tar").unlink()
    prepare(sources, clips, Cut(fps=8, seconds=1, size=32), Workers(1))
    assert made_again(clips, out, *pair) == {"latents-00001.tar"}
    # Latents that were changed or lost are not trained on.
    (out / "latents-00002.tar").write_bytes(b"")
    bases_ = AV(audio=load_audio_base(pair[0]), video=load_video_base(pair[1]))
    with pytest.raises(RequestError, match=r"latents-00002.tar' is incomplete; run kinetophone data encode"):
        load_encoded(out, 0, bases_)

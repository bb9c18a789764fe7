"""The shipped bundle through the public calls: same seed, same clip; lengths; errors before any compute."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import tiny
from kinetophone import Kinetophone, pipeline
from kinetophone.av import AV
from kinetophone.bundle.spec import BUNDLES
from kinetophone.cli import app
from kinetophone.diffusion.signal_leak import SignalLeak
from kinetophone.errors import RequestError
from kinetophone.hub.components import cast
from kinetophone.media.read import read_clip

PROMPTS = ("a drumstick hits a metal bowl three times", "a mallet taps a yellow cushion")


@pytest.fixture(scope="module")
def pipe():
    return Kinetophone.from_pretrained("hits", device="cpu")


def test_a_clip_and_its_file_have_the_promised_lengths(pipe, tmp_path):
    clip = pipe(PROMPTS[0], steps=2)[0]
    assert clip.video.shape == (32, 64, 64, 3)
    assert clip.audio.shape == (64_000,)
    read = read_clip(clip.save(tmp_path / "clip.mp4"))
    assert read.video.shape == clip.video.shape
    assert read.audio.shape == clip.audio.shape


def test_same_seed_same_clip_and_a_batch_gives_what_single_runs_give(pipe):
    batch = pipe(PROMPTS, steps=2, seed=5)
    again = pipe(PROMPTS, steps=2, seed=5)
    single = pipe(PROMPTS[1], steps=2, seed=6)[0]
    for one, two in zip(batch, again, strict=True):
        np.testing.assert_array_equal(one.video, two.video)
        np.testing.assert_array_equal(one.audio, two.audio)
    # Sums in another order: equal to rounding, which 8 bits may show as one level.
    assert np.abs(batch[1].video.astype(int) - single.video).max() <= 1
    np.testing.assert_allclose(batch[1].audio, single.audio, atol=1e-3)
    other = pipe(PROMPTS[1], steps=2, seed=7)[0]
    assert np.abs(batch[1].video.astype(int) - other.video).mean() > 1


def test_the_batch_size_changes_what_is_computed_at_once_and_nothing_else(pipe, monkeypatch):
    sizes = []
    sampled = pipeline.sample
    monkeypatch.setattr(
        pipeline, "sample", lambda pipe, part, *a: sizes.append(len(part)) or sampled(pipe, part, *a)
    )
    at_once = pipe([PROMPTS[0]] * 3, steps=1)
    in_twos = pipe([PROMPTS[0]] * 3, steps=1, batch_size=2)
    assert sizes == [3, 2, 1]
    for one, two in zip(at_once, in_twos, strict=True):
        assert np.abs(one.video.astype(int) - two.video).max() <= 1
    with pytest.raises(RequestError, match="batch-size is 0; it must be at least 1"):
        pipe(PROMPTS[0], batch_size=0)


def test_the_coupling_changes_both_modalities(pipe):
    joint, apart = (pipe(PROMPTS[0], steps=2, coupled=c)[0] for c in (True, False))
    assert np.abs(joint.video.astype(int) - apart.video).mean() > 0.5
    assert np.abs(joint.audio - apart.audio).max() > 1e-3


def test_a_bundle_starts_from_its_signal_leak_and_keeps_it(pipe, tmp_path):
    latents = np.random.default_rng(0).normal(3, 1, (600, 16, 4, 4, 4))
    leaky = Kinetophone(pipe.bases, pipe.coupling, pipe.spec, AV(audio=None, video=SignalLeak.of(latents)))
    bare = Kinetophone(pipe.bases, pipe.coupling, pipe.spec)
    bright, plain = (p(PROMPTS[0], steps=1)[0] for p in (leaky, bare))
    assert np.abs(bright.video.astype(int) - plain.video).mean() > 5
    leaky.save_pretrained(tmp_path / "leaky")
    again = Kinetophone.from_pretrained(tmp_path / "leaky", device="cpu")
    np.testing.assert_allclose(again(PROMPTS[0], steps=1)[0].video.astype(int), bright.video, atol=1)


def test_clocks_by_log_snr_are_others_than_those_by_gamma(pipe):
    matched, ahead, adjusted = (
        pipe(PROMPTS[0], steps=2, **clock)[0].audio for clock in ({"snr_offset": 0}, {"snr_offset": 2}, {})
    )
    assert np.abs(matched - ahead).max() > 1e-3
    assert np.abs(matched - adjusted).max() > 1e-3


def test_the_networks_learn_nothing_while_sampling(pipe):
    assert not any(p.requires_grad for p in pipe.model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seconds": 3}, "makes clips of 4 to 600 s"),
        ({"fps": 25}, "makes clips at 8 fps"),
        ({"gamma": -1}, "gamma is -1; it must be above 0"),
        ({"guidance": AV(1.0, -0.5)}, r"guidance is -0\.5; it must be at least 0"),
        ({"steps": 0}, "steps is 0; it must be 1 to 1000"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(pipe, options, message):
    with pytest.raises(RequestError, match=message):
        pipe(PROMPTS[0], **options)


def test_the_bundle_is_small_and_safe():
    files = [f for f in (BUNDLES / "hits").rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 48e6
    assert all(f.stat().st_size <= 16e6 for f in files)
    assert {f.suffix for f in files} <= {".safetensors", ".json", ".txt", ".md"}


def awake(pipe):
    """The pipe with a coupling that does something: a fresh one leaves the bases as they are."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in pipe.coupling.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return pipe


def from_bases(models, video="animatediff", **options):
    if video == "image":
        options["motion_adapter"] = models / "adapter"
    coupling = {"connector_channels": 32, "channel_mult": [1], "num_blocks": [1], "head_dim": 8}
    bases = {"video": models / video, "audio": models / "audioldm", "device": "cpu", "frames": 4, "size": 16}
    fresh = Kinetophone.from_bases(**{**bases, **options})
    with torch.random.fork_rng():
        torch.manual_seed(1)
        small = type(fresh.coupling).for_denoisers(fresh.model.denoisers, **coupling)
    fresh.model.detach()
    return awake(Kinetophone(fresh.bases, cast(small, fresh.coupling.dtype), fresh.spec))


@pytest.mark.parametrize("video", ["animatediff", "image", "unet3d"])
def test_text_to_mp4_with_every_family_of_video_base(models, tmp_path, video):
    pipe = from_bases(models, video)
    clips = pipe(["a drumstick hits a bowl", "metal"], steps=2)
    apart = pipe(["a drumstick hits a bowl", "metal"], steps=2, coupled=False)
    assert not np.array_equal(clips[0].video, apart[0].video)
    for i, clip in enumerate(clips):
        read = read_clip(clip.save(tmp_path / f"{i}.mp4"))
        assert read.video.shape == (4, 16, 16, 3)
        assert read.audio.shape == (8000,)


def test_a_pair_of_bases_makes_what_its_positions_in_time_allow(models):
    pipe = from_bases(models)
    assert pipe("a bowl", steps=1, seconds=1)[0].video.shape[0] == 8
    assert pipe("a bowl", steps=1, seconds=2)[0].video.shape[0] == 16, "windows of 8"
    with pytest.raises(RequestError) as caught:
        from_bases(models, frames=9, size=20)
    assert caught.value.problems == (
        "size is 20; this video base needs a multiple of 8",
        "frames is 9; this video base makes 1 to 8",
    )


def test_half_precision_makes_a_clip_near_that_of_full_precision(models):
    half = from_bases(models, dtype=torch.bfloat16)
    assert half.coupling.dtype == half.bases.video.unet.dtype == torch.bfloat16
    one, two = (pipe("a bowl", steps=2)[0] for pipe in (half, from_bases(models)))
    assert np.isfinite(one.audio).all()
    assert np.abs(one.video.astype(int) - two.video).mean() < 8


@pytest.mark.parametrize("way", ["model", "sequential"])
def test_offloading_changes_where_networks_wait_and_nothing_else(models, way):
    expected = from_bases(models)("a bowl", steps=2)[0]
    pipe = from_bases(models)
    getattr(pipe, f"enable_{way}_cpu_offload")("cpu")
    assert hasattr(pipe.bases.video.text_encoder, "_hf_hook")
    assert hasattr(pipe.bases.audio.vocoder, "_hf_hook")
    clip = pipe("a bowl", steps=2)[0]
    np.testing.assert_array_equal(clip.video, expected.video)
    np.testing.assert_allclose(clip.audio, expected.audio, atol=1e-7)


# Every way follows every other one, and itself where that does something.
ORDERS = [
    ("move", "model", "save", "sequential"),
    ("model", "sequential", "move", "save"),
    ("sequential", "save", "model", "move"),
    ("save", "move", "sequential", "model"),
    ("sequential", "sequential"),
    ("model", "model"),
]


def test_offloading_moving_and_saving_in_any_order(models, tmp_path):
    pipe = from_bases(models)
    expected = pipe("a bowl", steps=1, seconds=0.25)[0]
    whole = load_file(models / "audioldm" / "unet" / "diffusion_pytorch_model.safetensors")
    for number, order in enumerate(ORDERS):
        for way in order:
            if way == "move":
                pipe.to("cpu")
            elif way == "save":
                pipe.save_pretrained(tmp_path / str(number))
            else:
                getattr(pipe, f"enable_{way}_cpu_offload")("cpu")
        last = [way for way in order if way != "save"][-1]
        assert hasattr(pipe.bases.video.text_encoder, "_hf_hook") == (last != "move"), order
        np.testing.assert_array_equal(pipe("a bowl", steps=1, seconds=0.25)[0].video, expected.video)
        if "save" in order:
            saved = load_file(
                tmp_path / str(number) / "audio" / "unet" / "diffusion_pytorch_model.safetensors"
            )
            assert all(torch.equal(saved[name], x) for name, x in whole.items()), order


def test_devices_that_are_not_there_are_refused_before_anything_is_read(models, monkeypatch):
    monkeypatch.setattr("kinetophone.bundle.load.fastest_device", lambda: "cpu")
    pipe = from_bases(models)
    for way in ("model", "sequential"):
        with pytest.raises(RequestError, match="offloading needs a GPU"):
            getattr(pipe, f"enable_{way}_cpu_offload")()
        with pytest.raises(RequestError, match="there is no device 'xpu' here"):
            getattr(pipe, f"enable_{way}_cpu_offload")("xpu")
    with pytest.raises(RequestError, match="there is no device 'quantum'"):
        pipe.to("quantum")
    assert pipe("a bowl", steps=1)
    with pytest.raises(RequestError, match="there is no device 'xpu'"):
        Kinetophone.from_bases(audio="nowhere/at-all", video="nor/this", device="xpu")
    done = CliRunner().invoke(app, ["generate", "a", "--bundle", "hits", "--offload", "model", "-o", "x.mp4"])
    assert done.exit_code == 2
    assert "error: offloading needs a GPU, and" in done.output


def test_a_coupling_saved_without_its_bases_finds_them_again(models, tmp_path):
    pipe = from_bases(models, "image", sampling="reference")
    pipe.save_coupling(tmp_path / "coupled")
    assert not (tmp_path / "coupled" / "video").exists()
    again = Kinetophone.from_pretrained(tmp_path / "coupled", device="cpu")
    assert again.spec.sampling == "reference"
    for one, two in zip(pipe.coupling.parameters(), again.coupling.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)
    np.testing.assert_array_equal(pipe("a bowl", steps=2)[0].video, again("a bowl", steps=2)[0].video)


def test_everything_saved_is_a_bundle_of_its_own(models, tmp_path):
    pipe = from_bases(models)
    pipe.save_pretrained(tmp_path / "whole")
    again = Kinetophone.from_pretrained(tmp_path / "whole", device="cpu")
    one, two = (p("a bowl", steps=2)[0] for p in (pipe, again))
    np.testing.assert_array_equal(one.video, two.video)
    np.testing.assert_allclose(one.audio, two.audio, atol=1e-7)


def test_a_coupling_for_other_bases_is_refused(models, tmp_path):
    from_bases(models).save_coupling(tmp_path / "coupled")
    other = tiny.audioldm()
    shutil.copytree(models / "audioldm", tmp_path / "narrow")
    config = dict(other["unet"].config) | {"block_out_channels": (16, 64), "cross_attention_dim": (16, 64)}
    type(other["unet"]).from_config(config).save_pretrained(tmp_path / "narrow" / "unet")
    with pytest.raises(RequestError, match=r"the audio base has widths \[16, 64\], the coupling was made"):
        Kinetophone.from_bases(
            video=models / "animatediff",
            audio=tmp_path / "narrow",
            coupling=tmp_path / "coupled",
            device="cpu",
        )
    with pytest.raises(RequestError, match="holds no coupling"):
        Kinetophone.from_bases(
            video=models / "animatediff", audio=models / "audioldm", coupling=models, device="cpu"
        )


def test_the_final_noise_level_is_the_samplings(models):
    ends = AV(*(from_bases(models, sampling=name).processes.video for name in ("trailing", "reference")))
    assert ends.audio.final_alpha_cumprod == 1.0
    assert ends.video.final_alpha_cumprod < 1.0

"""Transformers as bases: coupled to one another and to U-Nets by the same protocol."""

from __future__ import annotations

import copy
import gc
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    StableAudioDiTModel,
    WanTransformer3DModel,
)
from torch import Tensor

from kinetophone import Kinetophone
from kinetophone.av import AV
from kinetophone.bases.load import load_audio_base, load_video_base
from kinetophone.bases.stable_audio import StableAudioDenoiser
from kinetophone.bases.wan import WanDenoiser
from kinetophone.coupling.coupling import Coupling
from kinetophone.diffusion.process import Cosine, Flow
from kinetophone.errors import RequestError
from kinetophone.media import Clip
from kinetophone.media.read import read_clip
from kinetophone.tasks.common.sampling import times_in, windows_of

PROMPT = "a drumstick hits metal"
KINDS = ("in_place", "cmc_pe", "timed_cross_attention", "cross_attention")


@pytest.fixture(scope="module")
def pair(models: Path) -> AV[Any]:
    return AV(audio=load_audio_base(models / "stable_audio"), video=load_video_base(models / "wan"))


def close(ours: Tensor | np.ndarray, theirs: Tensor | np.ndarray) -> float:
    ours, theirs = torch.as_tensor(ours), torch.as_tensor(theirs)
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_coupling_changes_nothing_and_a_trained_one_acts(pair: AV[Any], kind: str) -> None:
    model, inputs = coupled(pair, kind)
    off = predicted(model, *inputs, features=False)
    on = predicted(model, *inputs)
    assert torch.equal(off.video, on.video)
    assert torch.equal(off.audio, on.audio)
    stir(model.coupling)
    acting = predicted(model, *inputs)
    assert not torch.allclose(acting.video, off.video)
    assert not torch.allclose(acting.audio, off.audio)
    assert torch.equal(predicted(model, *inputs, features=False).video, off.video)


@pytest.mark.parametrize("kind", KINDS)
def test_two_threads_predict_what_one_does(pair: AV[Any], kind: str) -> None:
    model, (latents, *rest) = coupled(pair, kind)
    stir(model.coupling)
    calls: list[Any] = [(latents, True), (latents.map(torch.neg), True), (latents, False)]
    singly = [predicted(model, x, *rest, features=on) for x, on in calls]
    together = threading.Barrier(len(calls))

    def repeated(x: AV[Tensor], on: bool) -> list[AV[Tensor]]:
        together.wait()
        return [predicted(model, x, *rest, features=on) for _ in range(5)]

    with ThreadPoolExecutor(len(calls)) as pool:
        for one, many in zip(singly, pool.map(repeated, *zip(*calls, strict=True)), strict=True):
            for other in many:
                assert torch.equal(other.video, one.video)
                assert torch.equal(other.audio, one.audio)


@pytest.mark.parametrize("kind", KINDS)
def test_a_deep_copy_couples_by_itself(models: Path, kind: str) -> None:
    bases: AV[Any] = AV(audio=load_audio_base(models / "stable_audio"), video=load_video_base(models / "wan"))
    model, inputs = coupled(bases, kind)
    off = predicted(model, *inputs, features=False)
    stir(model.coupling)
    acting = predicted(model, *inputs)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.coupling.parameters():
            parameter.zero_()  # must not reach the copy
    # Not bit by bit: on a CPU, rounding depends on where weights lie in memory.
    assert close(predicted(copied, *inputs).video, acting.video) < 1e-5
    assert torch.equal(predicted(model, *inputs).video, off.video)
    del model, bases
    gc.collect()
    assert close(predicted(copied, *inputs).audio, acting.audio) < 1e-5 < close(off.audio, acting.audio)
    copied.detach()
    assert close(predicted(copied, *inputs).audio, off.audio) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_of_bases_gives_equal_gradients(models: Path, kind: str) -> None:
    found = []
    for saved in (False, True):
        bases: AV[Any] = AV(
            audio=load_audio_base(models / "stable_audio"), video=load_video_base(models / "wan")
        )
        model, inputs = coupled(bases, kind)
        stir(model.coupling)
        if saved:
            model.networks.map(lambda network: network.enable_gradient_checkpointing())
        model.train()
        latents, levels, text, times = inputs
        features = model.features(latents, levels, None)
        made = model(latents, levels, text, features, times=times)
        (made.audio.square().mean() + made.video.square().mean()).backward()
        found.append({name: p.grad for name, p in model.coupling.named_parameters() if p.grad is not None})
    usual, saving = found
    assert usual.keys() == saving.keys()
    assert any(grad.abs().max() > 0 for grad in usual.values())
    for name, grad in usual.items():
        assert torch.allclose(grad, saving[name], atol=1e-6, rtol=1e-4), name


def test_couplings_of_transformers_are_saved_and_are_for_their_networks(
    pair: AV[Any], models: Path, tmp_path: Path
) -> None:
    model, _ = coupled(pair, "in_place")
    stir(model.coupling)
    model.coupling.save_pretrained(tmp_path)
    loaded = Coupling.from_pretrained(tmp_path)
    assert isinstance(loaded, Coupling)
    for name, tensor in model.coupling.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])
    with pytest.raises(RequestError, match="the video base has") as caught:
        Kinetophone.from_bases(video=models / "animatediff", audio=models / "stable_audio", coupling=loaded)
    assert "the coupling was made for 4 blocks from blocks.0 to blocks.3 of width 48" in str(caught.value)
    with pytest.raises(RequestError, match="has no self-attention that the coupling 'in_place'"):
        Kinetophone.from_bases(
            video=models / "animatediff", audio=models / "stable_audio", kind="in_place", size=32
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("video", "audio", "kind"),
    [
        ("wan", "stable_audio", "in_place"),
        ("wan", "audioldm", "cmc_pe"),
        ("animatediff", "stable_audio", "timed_cross_attention"),
    ],
)
def test_any_two_bases_do_every_task(
    models: Path, tmp_path: Path, video: str, audio: str, kind: str, dtype: torch.dtype
) -> None:
    frames = 9 if video == "wan" else 8
    pipe = Kinetophone.from_bases(
        video=models / video, audio=models / audio, kind=kind, size=32, frames=frames, dtype=dtype
    )
    object.__setattr__(pipe.spec, "max_frames", frames)  # so that twice as much is a long clip
    stir(pipe.coupling)
    channels, fps = pipe.bases.audio.channels, pipe.spec.fps
    options: Any = {"steps": 2, "seed": 1}

    def check(clip: Clip, count: int, kept: int = channels) -> Clip:
        assert clip.video.shape == (count, 32, 32, 3)
        assert clip.audio.shape == ((clip.time.samples,) if kept == 1 else (clip.time.samples, kept))
        assert clip.audio.any()
        return clip

    clip = check(pipe(PROMPT, **options)[0], frames)
    assert clip.sample_rate == pipe.bases.audio.sample_rate
    assert clip.mono.shape == (clip.time.samples,)
    again = pipe(PROMPT, **options)[0]
    assert np.array_equal(clip.video, again.video)
    assert np.array_equal(clip.audio, again.audio)

    sounding = check(pipe.sound(clip, PROMPT, **options), frames)
    assert np.array_equal(sounding.video, clip.video)
    seen = check(pipe.picture(clip, PROMPT, **options), frames)
    assert np.array_equal(seen.audio, clip.audio)
    begun = check(pipe.animate(clip.video[0], PROMPT, **options), frames)
    assert np.array_equal(begun.video[0], clip.video[0])
    heard = pipe.audio(PROMPT, **options)
    assert heard.waveform.shape == clip.audio.shape

    # Long: in windows, from a text, for a video and as a continuation, of which the beginning is kept.
    twice = Fraction(2 * frames - 1 if video == "wan" else 2 * frames) / fps
    long = check(pipe(PROMPT, seconds=twice, **options)[0], int(twice * fps))
    assert len(windows_of(pipe, long.time)) > 1
    check(pipe.sound(long, PROMPT, **options), len(long.video))
    extended = check(pipe.extend(clip, PROMPT, seconds=twice, **options), len(long.video))
    assert np.array_equal(extended.video[:frames], clip.video)
    assert np.array_equal(extended.audio[: len(clip.audio)], clip.audio)
    given = replace(clip, audio=np.stack([clip.mono, -clip.mono], axis=1))
    kept = check(pipe.extend(given, PROMPT, seconds=twice, **options), len(long.video), 2)
    assert np.array_equal(kept.audio[: len(clip.audio)], given.audio)
    if video != "wan":
        parts = list(pipe.stream(PROMPT, seconds=twice, **options))
        assert sum(len(part.audio) for part in parts) == len(long.audio)
        assert {part.audio.shape[1:] for part in parts} == {clip.audio.shape[1:]}

    again = read_clip(clip.save(tmp_path / "clip.mp4"), mono=False)
    assert again.audio.shape[1:] == clip.audio.shape[1:]


@pytest.mark.parametrize(
    ("video", "audio", "kind"),
    [
        ("wan", "stable_audio", "in_place"),
        ("wan", "audioldm", "cmc_pe"),
        ("animatediff", "stable_audio", "cmc_pe"),
    ],
)
def test_offloading_moving_and_saving_in_any_order(
    models: Path, tmp_path: Path, video: str, audio: str, kind: str
) -> None:
    frames = 5 if video == "wan" else 4
    pipe = Kinetophone.from_bases(
        video=models / video, audio=models / audio, kind=kind, size=32, frames=frames
    )
    stir(pipe.coupling)
    expected = pipe(PROMPT, steps=1)[0]
    texts = AV(*(getattr(pipe.bases, name).text_encoder for name in ("audio", "video")))
    for way in ("model", "sequential", "save", "model", "move", "sequential"):
        if way == "move":
            pipe.to("cpu")
        elif way == "save":
            pipe.save_pretrained(tmp_path)
        else:
            getattr(pipe, f"enable_{way}_cpu_offload")("cpu")
        assert hasattr(texts.video, "_hf_hook") == hasattr(texts.audio, "_hf_hook") == (way != "move"), way
        clip = pipe(PROMPT, steps=1)[0]
        assert np.array_equal(clip.video, expected.video), way
        assert np.array_equal(clip.audio, expected.audio), way
    saved = Kinetophone.from_pretrained(tmp_path, device="cpu")(PROMPT, steps=1)[0]
    assert np.abs(saved.video.astype(int) - expected.video).max() <= 1
    assert close(saved.audio, expected.audio) < 1e-4


def test_clips_longer_than_a_window_and_what_happens_when(models: Path) -> None:
    pipe = Kinetophone.from_bases(
        video=models / "wan", audio=models / "stable_audio", kind="in_place", size=32, frames=9
    )
    object.__setattr__(pipe.spec, "max_frames", 17)
    (clip,) = pipe(PROMPT, seconds=2.5, steps=1, seed=1)
    assert len(clip.video) == 40
    assert len(clip.audio) == clip.time.samples
    time = pipe.spec.time(2.5)
    windows = windows_of(pipe, time)
    assert [(w.start, w.length.video, w.head) for w in windows[:2]] == [
        (AV(audio=0, video=0), 5, 0),
        (AV(audio=11, video=2), 5, 1),
    ]
    # Two latents are frames 0 to 4. The second window's first frame is frame 8, the last one of latent 2.
    times = times_in(pipe, windows[1], time)
    assert times.video.starts[:3].tolist() == [0, 1 / 16, 5 / 16]
    assert float(times.audio.starts[0]) == pytest.approx(11 / 21.5 - 8 / 16)
    with pytest.raises(RequestError, match="one latent per frame"):
        next(pipe.stream(PROMPT, seconds=2.5))
    with pytest.raises(RequestError, match=r"nearest are 0\.8125 and 1\.0625 s"):
        pipe(PROMPT, seconds=1)


def test_what_transformers_do_not_have_is_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="sampling 'reference' is for bases with DDPM schedulers"):
        Kinetophone.from_bases(
            video=models / "wan", audio=models / "audioldm", size=32, frames=9, sampling="reference"
        )
    twofold = tmp_path / "twofold"
    shutil.copytree(models / "wan", twofold)
    shutil.copytree(models / "wan" / "transformer", twofold / "transformer_2")
    with pytest.raises(RequestError, match="has two transformers"):
        load_video_base(twofold)


def test_lengths_that_a_causal_autoencoder_cannot_make(models: Path) -> None:
    with pytest.raises(RequestError, match=r"frames is 30; this video base makes .*: 29 or 33"):
        Kinetophone.from_bases(video=models / "wan", audio=models / "audioldm", size=32, frames=30)


def test_the_sizes_of_the_published_pair() -> None:
    """Wan2.1-T2V-1.3B and Stable Audio Open: the adapter in place is small, inserted blocks are not."""
    with torch.device("meta"):
        video = WanTransformer3DModel(
            num_attention_heads=12, attention_head_dim=128, ffn_dim=8960, num_layers=30, text_dim=4096
        )
        audio = StableAudioDiTModel()
        denoisers: AV[Any] = AV(
            audio=StableAudioDenoiser(audio, Cosine()), video=WanDenoiser(video, Flow(shift=3.0), 4)
        )
        rates = AV(audio=21.533, video=4.0)
        adapter, inserted = (
            Coupling.for_denoisers(denoisers, rates, coupling=kind) for kind in ("in_place", "cmc_pe")
        )
    count: Callable[[Any], int] = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    assert count(video) == 1_418_996_800
    assert count(audio) == 1_056_939_136
    sites = [child for name, child in adapter.named_children() if name.startswith("connector_in")]
    assert sum(map(count, sites)) == pytest.approx(7.1e6, rel=0.05)
    assert adapter.config.audio_stack == 4
    per_network = [count(child) for name, child in inserted.named_children() if "_in_" in name]
    assert per_network == pytest.approx([415e6, 415e6], rel=0.02)


def coupled(bases: AV[Any], kind: str) -> tuple[Any, Any]:
    from kinetophone.coupling.model import JointModel

    denoisers: AV[Any] = bases.map(lambda base: base.denoiser())
    with torch.random.fork_rng():
        torch.manual_seed(1)
        coupling = Coupling.for_denoisers(denoisers, AV(audio=21.5, video=4.0), coupling=kind)
        latents = AV(audio=torch.randn(1, 8, 22), video=torch.randn(1, 16, 3, 4, 4))
    model = JointModel(denoisers, coupling).eval().requires_grad_(False)
    coupling.requires_grad_(True)
    levels = AV.both(torch.full((1,), 0.6, dtype=torch.float64))
    text = bases.map(lambda base: base.encode_prompt([PROMPT], 1.0))
    times = AV(audio=bases.audio.latent_times(22, 16), video=bases.video.latent_times(3, 16))
    return model, (latents, levels, text, times)


@torch.no_grad()
def predicted(
    model: Any, latents: Any, levels: Any, text: Any, times: Any, features: bool = True
) -> AV[Tensor]:
    made = model.features(latents, levels, None) if features else None
    return model(latents, levels, text, made, times=times)


@torch.no_grad()
def stir(coupling: Coupling) -> None:
    """Weights where a fresh coupling has zeros."""
    generator = torch.Generator().manual_seed(7)
    for parameter in coupling.parameters():
        if not parameter.any():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)

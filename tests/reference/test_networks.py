"""The published pair, layer for layer but narrow, makes clips of any length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel, UNetMotionModel
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

import tiny
from kinetophone import Kinetophone
from kinetophone.reference import networks as published

WIDTHS = (8, 16, 16, 16)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``audio`` and ``video`` with the levels, blocks, kernels and strides of the published ones."""
    root = tmp_path_factory.mktemp("published")
    narrow = {"block_out_channels": WIDTHS, "norm_num_groups": 8}
    text = 16
    with torch.random.fork_rng():
        torch.manual_seed(0)
        heads = {"num_attention_heads": 2, "motion_num_attention_heads": 2, "cross_attention_dim": text}
        video = tiny.animatediff() | {
            "unet": UNetMotionModel(**{**published.MOTION_UNET, **narrow, **heads}),
            "vae": published.autoencoder(3, 4, WIDTHS, 8),
        }
        own = {"cross_attention_dim": WIDTHS, "projection_class_embeddings_input_dim": text}
        vocoder = SpeechT5HifiGanConfig(**published.VOCODER, upsample_initial_channel=32)
        audio = tiny.audioldm(text) | {
            "unet": UNet2DConditionModel(**{**published.AUDIO_UNET, **narrow, **own}),
            "vae": published.autoencoder(1, 8, WIDTHS[1:], 8),
            "vocoder": SpeechT5HifiGan(vocoder),
        }
        tiny.save(audio, root / "audio")
        tiny.save(video, root / "video")
    return root


@pytest.mark.parametrize("seconds", [4, 10, pytest.param(60, marks=pytest.mark.slow)])
def test_clips_of_any_length(pair: Path, seconds: int) -> None:
    pipe = Kinetophone.from_bases(
        audio=pair / "audio", video=pair / "video", size=64, sampling="reference", device="cpu"
    )
    (clip,) = pipe(["a drumstick hits a metal bowl"], seconds=seconds, steps=1, guidance=1)
    assert clip.video.shape == (8 * seconds, 64, 64, 3)
    assert clip.audio.shape == (16_000 * seconds,)
    assert np.isfinite(clip.audio).all()

"""The latents of procedural clips are those of the base that they are for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kinetophone.av import AV
from kinetophone.bases.load import load_audio_base, load_video_base
from kinetophone.data.arrays import ClipArrays
from kinetophone.data.latents import fingerprint, load_latents


def clips(frames: int, channels: int = 1) -> ClipArrays:
    rng = np.random.default_rng(0)
    sound = rng.normal(0, 3000, (3, frames * 1000, channels)).astype(np.int16)
    return ClipArrays(
        video=rng.integers(0, 256, (3, frames, 32, 32, 3), dtype=np.uint8),
        mel=np.zeros((3, 8, 64), np.float16),
        audio=sound if channels > 1 else sound[..., 0],
        scenes=[{"strikes_s": [0.25]}] * 3,
        made_by=f"{frames} frames, {channels} channels",
    )


def test_latents_of_transformers(models: Path, tmp_path: Path) -> None:
    video, audio = load_video_base(models / "wan"), load_audio_base(models / "stable_audio")
    vaes = AV(audio=audio.vae, video=video.vae)
    for channels in (1, 2):
        made = clips(9, channels)
        found = load_latents(made, "train", tmp_path / str(channels), vaes)
        assert (found.video.shape, found.audio.shape) == ((3, 16, 3, 4, 4), (3, 8, 13))
        frames = video.encode(torch.from_numpy(made.video))
        np.testing.assert_allclose(found.video, frames.numpy(), atol=5e-3, rtol=1e-2)
        # Drawn from the posterior, the same each time; at the rate of the base.
        sound = torch.from_numpy(made.waveforms(slice(None), audio.sample_rate))
        drawn = audio.encode(sound, torch.Generator().manual_seed(0))
        np.testing.assert_allclose(found.audio, drawn.numpy(), atol=5e-3, rtol=1e-2)
        assert not np.allclose(found.audio, audio.encode(sound).numpy(), atol=0.1)
        again = load_latents(made, "train", tmp_path / f"{channels}-again", vaes)
        assert np.array_equal(found.audio, again.audio)


def test_lengths_that_a_causal_autoencoder_cannot_make(models: Path, tmp_path: Path) -> None:
    vae: Any = load_video_base(models / "wan").vae
    with pytest.raises(ValueError, match=r"32 frames cannot be encoded: .* such as 29 or 33"):
        load_latents(clips(32), "train", tmp_path, AV(audio=None, video=vae))


def test_the_statistics_of_latents_are_part_of_what_made_them(models: Path) -> None:
    vae: Any = load_video_base(models / "wan").vae
    before = fingerprint(vae)
    vae.register_to_config(latents_std=[2 * std for std in vae.config.latents_std])
    assert fingerprint(vae) != before

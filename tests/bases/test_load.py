"""Bases of every family load from folders as they are on the Hub; what does not fit is named, all of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AnimateDiffPipeline, UNet3DConditionModel, UNetMotionModel

import tiny
from kinetophone.bases.load import load_audio_base, load_video_base
from kinetophone.errors import RequestError
from kinetophone.hub.locate import locate


@pytest.fixture
def copy(models: Path, tmp_path: Path):
    def make(name: str) -> Path:
        return shutil.copytree(models / name, tmp_path / name)

    return make


def test_an_image_model_gets_motion_modules_and_their_schedule(models: Path) -> None:
    base = load_video_base(models / "image", motion_adapter=models / "adapter")
    assert isinstance(base.unet, UNetMotionModel)
    config = base.scheduler.config
    assert (config.beta_schedule, config.timestep_spacing) == ("linear", "linspace")
    assert base.reference["motion_adapter"] == str(models / "adapter")
    assert base.max_frames == 8
    image = load_video_base(models / "animatediff")
    assert image.scheduler.config.beta_schedule == "scaled_linear"  # whole: its own


def test_a_text_to_video_model_is_recognised_by_its_unet(models: Path) -> None:
    base = load_video_base(models / "unet3d")
    assert isinstance(base.unet, UNet3DConditionModel)
    assert base.max_frames is None


def test_text_and_frames_go_in_and_out(models: Path) -> None:
    base = load_video_base(models / "animatediff")
    assert base.encode_prompt(["a drumstick hits a bowl", ""]).shape == (2, 8, 16)
    frames = torch.randint(0, 256, (2, 3, 16, 16, 3), dtype=torch.uint8)
    latents = base.encode(frames)
    assert latents.shape == (2, *base.latent_shape(3, 16)) == (2, 4, 3, 4, 4)
    assert base.decode(latents).shape == (2, 3, 16, 16, 3)


def test_sound_is_padded_for_the_unet_and_cut_again(models: Path) -> None:
    base = load_audio_base(models / "audioldm")
    samples = 160 * 4 * 5  # five latent positions: the U-Net needs six
    waveform = torch.rand(2, samples) - 0.5
    latents = base.encode(waveform)
    assert latents.shape == (2, *base.latent_shape(samples)) == (2, 8, 6, 16)
    assert not latents[:, :, 5:].any()
    sound = base.decode(latents, samples)
    assert sound.shape == (2, samples)
    # The decoder sees all that the U-Net made, as in the published implementation; the cut comes after.
    assert (base.decode(latents, 160 * 4 * 6)[:, :samples] == sound).all()
    assert (base.decode(latents[:, :, :5], samples) != sound).any()
    with pytest.raises(ValueError, match="latents of 3840 samples are too short for 8000"):
        base.decode(latents, 8000)
    norms = base.encode_prompt(["a metal bowl", "bad quality"]).norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones(2))


def test_networks_run_in_the_dtype_asked_for_but_decoders_in_float32(models: Path) -> None:
    base = load_audio_base(models / "audioldm", dtype=torch.bfloat16)
    assert base.unet.dtype == base.text_encoder.dtype == torch.bfloat16
    assert base.vae.dtype == base.vocoder.dtype == torch.float32
    latents = torch.randn(1, *base.latent_shape(3200), dtype=torch.bfloat16)
    assert torch.isfinite(torch.from_numpy(base.decode(latents, 3200))).all()


def test_a_base_of_the_wrong_class_is_told_with_all_that_is_wrong(models: Path) -> None:
    with pytest.raises(RequestError) as caught:
        load_audio_base(models / "image")
    assert len(caught.value.problems) == 2
    assert "text_encoder is a CLIPTextModel, but this base needs ClapTextModel" in caught.value.problems[0]
    assert "vocoder holds no config.json" in caught.value.problems[1]
    with pytest.raises(RequestError, match="has no network in unet/ or transformer/; video bases"):
        load_video_base(models / "adapter")


def test_motion_adapters_that_do_not_fit(models: Path, tmp_path: Path) -> None:
    tiny.motion_adapter((64, 64)).save_pretrained(tmp_path / "wide")
    with pytest.raises(RequestError, match=r"has widths \[64, 64\], but the image model \[32, 64\]"):
        load_video_base(models / "image", motion_adapter=tmp_path / "wide")
    with pytest.raises(RequestError, match="is a folder without a model, not a MotionAdapter"):
        load_video_base(models / "image", motion_adapter=models / "audioldm")
    with pytest.raises(RequestError, match="has its own motion modules"):
        load_video_base(models / "animatediff", motion_adapter=models / "adapter")
    with pytest.raises(RequestError, match="unet3d' has its own motion modules"):
        load_video_base(models / "unet3d", motion_adapter=models / "adapter")


def test_damaged_missing_and_incomplete_weights(copy) -> None:
    folder = copy("audioldm")
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    (folder / "vocoder" / "model.safetensors").unlink()
    with pytest.raises(RequestError) as caught:
        load_audio_base(folder)
    assert "diffusion_pytorch_model.safetensors is damaged" in caught.value.problems[0]
    assert "vocoder has no weights" in caught.value.problems[1]


def test_weights_that_lack_tensors_are_not_filled_with_noise(copy) -> None:
    from safetensors.torch import load_file, save_file

    folder = copy("animatediff")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    del tensors["conv_in.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(RequestError, match=r"lack 1 tensors, first conv_in\.weight"):
        load_video_base(folder)


def test_pickles_are_read_only_when_asked_for(copy, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = copy("animatediff")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(
        RequestError, match=r"only pickled weights \(unet/diffusion_pytorch_model\.bin\).* --allow-pickle"
    ):
        load_video_base(folder)
    base = load_video_base(folder, allow_pickle=True)
    assert isinstance(base.unet, UNetMotionModel)
    torch.save({"x": Trap(tmp_path / "sprung")}, weights.with_suffix(".bin"))
    with pytest.raises(RequestError, match=r"\.bin' is damaged or holds more than tensors"):
        load_video_base(folder, allow_pickle=True)
    assert not (tmp_path / "sprung").exists()


class Trap:
    """Makes a file where a pickle of it is read without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"prediction_type": "sample"}, "prediction_type is 'sample'; it must be epsilon or v_prediction"),
        ({"clip_sample": True}, "clip_sample is set"),
        ({"thresholding": True}, "thresholding is set"),
        ({"beta_schedule": "wavy"}, "wavy is not implemented"),
        ({"beta_start": "low"}, "has no usable scheduler"),
        ({"_class_name": "AutoencoderKL"}, "names the class 'AutoencoderKL', which is not a scheduler"),
    ],
)
@pytest.mark.parametrize("modality", ["audio", "video"])
def test_schedulers_that_cannot_be_followed_are_told_at_loading(copy, modality, changes, told) -> None:
    folder = copy("audioldm" if modality == "audio" else "animatediff")
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    with pytest.raises(RequestError, match=told) as caught:
        (load_audio_base if modality == "audio" else load_video_base)(folder)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("masked", [False, True])
def test_texts_are_encoded_as_by_diffusers_pipeline(models: Path, masked: bool) -> None:
    base = load_video_base(models / "animatediff")
    base.text_encoder.config.use_attention_mask = masked
    pipeline = AnimateDiffPipeline(
        **{name: getattr(base, name) for name in base.COMPONENTS}, motion_adapter=None
    )
    theirs, negative = pipeline.encode_prompt("a metal bowl", torch.device("cpu"), 1, True, "bad quality")
    torch.testing.assert_close(base.encode_prompt(["a metal bowl"]), theirs)
    torch.testing.assert_close(base.encode_prompt(["bad quality"]), negative)


def test_a_vocoder_for_another_sort_of_sound(copy) -> None:
    folder = copy("audioldm")
    config = folder / "vocoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"sampling_rate": 48_000}))
    with pytest.raises(RequestError, match="makes 48000 Hz from 64 mel bins with hop 160; only 16000 Hz"):
        load_audio_base(folder)


def test_a_folder_is_found_without_the_hub(models: Path) -> None:
    source = locate(models / "unet3d", ["unet"])
    assert (source.folder, source.revision) == (models / "unet3d", None)

"""Folders in diffusers layout: what is missing or foreign is named; what is saved is loaded again."""

import json
import math

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from safetensors.torch import load_file, save_file
from torch import nn

from kinetophone.bases.computing import decode_latents, encode_latents, in_chunks
from kinetophone.errors import RequestError
from kinetophone.hub.components import load_component, save_component


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 8],
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.5,
    ).eval()


def test_a_component_is_stored_small_and_runs_in_float32(vae, tmp_path):
    save_component(vae, tmp_path / "vae", torch.float16)
    assert vae.dtype == torch.float32
    loaded = load_component(tmp_path, "vae")
    assert loaded.dtype == torch.float32
    for one, two in zip(vae.state_dict().values(), loaded.state_dict().values(), strict=True):
        torch.testing.assert_close(one.half().float(), two, rtol=0, atol=0)


def test_a_scheduler_is_a_component_too(tmp_path):
    save_component(DDIMScheduler(beta_start=0.001, clip_sample=False), tmp_path / "scheduler", torch.float16)
    assert load_component(tmp_path, "scheduler").config.beta_start == 0.001


def test_latents_are_scaled_and_unscaled(vae):
    x = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        z = encode_latents(vae, x)
        torch.testing.assert_close(z, 0.5 * vae.encode(x).latent_dist.mode())
        torch.testing.assert_close(decode_latents(vae, z, batch=2), vae.decode(z / 0.5).sample)


def test_missing_and_unknown_components_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"vae holds no config\.json"):
        load_component(tmp_path, "vae")
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text(json.dumps({"_class_name": "AutoencoderOfTomorrow"}))
    with pytest.raises(
        ValueError, match="names the class 'AutoencoderOfTomorrow', which is not allowed for a vae"
    ):
        load_component(tmp_path, "vae")


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_that_are_not_finite_are_refused_at_loading(vae, tmp_path, value, dtype):
    save_component(vae, tmp_path / "vae", torch.float32)
    file = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["decoder.conv_out.weight"].view(-1)[3] = value
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(RequestError, match=r"are not finite in 1 tensors, first decoder\.conv_out\.weight"):
        load_component(tmp_path, "vae", dtype=dtype)


@pytest.mark.parametrize(
    ("name", "found"),
    [("vae", "DiffusionPipeline"), ("vae", "logging"), ("unet", 5), ("unet", ["UNet2DConditionModel"]),
     ("scheduler", "SchedulerMixin.from_pretrained"), ("scheduler", "UNet2DConditionModel"),
     ("vocoder", "AutoModel")],
)  # fmt: skip
def test_a_file_chooses_among_classes_that_are_known(tmp_path, name, found):
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text(json.dumps({"_class_name": found}))
    with pytest.raises(RequestError, match=r"names the class .*, which is not (allowed|a scheduler)"):
        load_component(tmp_path, name)


def test_saving_leaves_a_network_in_place(vae, tmp_path):
    assert isinstance(vae, nn.Module)
    before = vae.decoder.conv_out.bias.detach().clone()
    save_component(vae, tmp_path / "vae", torch.float32)
    torch.testing.assert_close(vae.decoder.conv_out.bias.detach(), before, rtol=0, atol=0)


@pytest.mark.parametrize("length", [7, 12, 13, 50])
@pytest.mark.parametrize(("rate", "step"), [(1, 1), (3, 1), (1, 2)])
def test_what_sees_little_is_the_same_in_chunks(length, rate, step):
    seen = []

    def compute(x):  # sees one position on either side
        seen.append(x.shape[1])
        around = nn.functional.pad(x, (0, 0, 1, 1))
        y = around[:, :-2] + 2 * x + 4 * around[:, 2:]
        return y[:, : y.shape[1] // step * step : step].repeat_interleave(rate, dim=1)

    x = torch.randn(2, length, 3)
    torch.testing.assert_close(in_chunks(compute, x, 12, 4, step), compute(x))
    assert len(seen) == 1 + -(-length // 12)
    assert max(seen[:-1]) <= 12 + 2 * 4

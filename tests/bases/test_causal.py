"""Long stretches of the causal autoencoder are its own encode and decode."""

import pytest
import torch
from diffusers import AutoencoderKLWan

from kinetophone.bases import causal


@pytest.fixture(params=[None, 2])
def vae(request):
    torch.manual_seed(0)
    patch = request.param
    channels = 3 * (patch or 1) ** 2
    model = AutoencoderKLWan(
        base_dim=8, z_dim=4, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[True, True],
        in_channels=channels, out_channels=channels, patch_size=patch,
        scale_factor_spatial=4 * (patch or 1), latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    return model.eval()


@pytest.mark.parametrize("pixels", [1, 16 * 16 * 8, 1 << 20])
@torch.no_grad()
def test_stretches_of_any_length_equal_the_autoencoders_own(vae, pixels, monkeypatch):
    monkeypatch.setattr(causal, "_PIXELS", pixels)
    frames = torch.rand(2, 3, 13, 16, 16) * 2 - 1
    own = vae.encode(frames).latent_dist
    mean, log_variance = causal.encode_causal(vae, frames)
    torch.testing.assert_close(mean, own.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(log_variance, own.logvar, rtol=1e-4, atol=1e-5)
    decoded = causal.decode_causal(vae, mean)
    torch.testing.assert_close(decoded.clamp(-1, 1), vae.decode(mean).sample, rtol=1e-4, atol=1e-5)


def test_gradients_pass_through_both_directions(vae):
    frames = torch.rand(1, 3, 9, 16, 16) * 2 - 1
    mean, log_variance = causal.encode_causal(vae, frames)
    (causal.decode_causal(vae, mean).square().mean() + log_variance.mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.parameters())

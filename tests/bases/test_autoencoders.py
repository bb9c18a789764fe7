"""The autoencoders of small bases: shapes, time, and what their files hold."""

from __future__ import annotations

import pytest
import torch

from kinetophone.bases import autoencoders
from kinetophone.bases.autoencoders import PatchAutoencoder, SpectralAutoencoder
from kinetophone.bases.causal import decode_causal, encode_causal
from kinetophone.errors import RequestError
from kinetophone.hub.components import load_component


def spectral(**settings):
    torch.manual_seed(0)
    small = {"width": 16, "latent_channels": 4, "encoder_blocks": 1, "decoder_blocks": 1}
    return SpectralAutoencoder(**small, **settings).eval()


def patches(**settings):
    torch.manual_seed(0)
    return PatchAutoencoder(z_dim=4, width=16, encoder_blocks=1, decoder_blocks=1, **settings).eval()


@pytest.mark.parametrize("channels", [1, 2])
def test_a_waveform_has_as_many_latents_as_whole_hops(channels):
    vae = spectral(audio_channels=channels)
    x = torch.rand(2, channels, 5 * vae.hop_length) - 0.5
    z = vae.encode(x).latent_dist.mode()
    assert z.shape == (2, 4, 5)
    assert vae.decode(z).sample.shape == x.shape


@pytest.mark.parametrize("settings", [{}, {"audio_channels": 2}, {"window": 1024, "hop": 256}])
def test_the_waveform_of_a_spectrum_is_the_waveform(settings):
    vae = spectral(**settings)
    x = torch.rand(2, vae.config.audio_channels, 3 * vae.hop_length) - 0.5
    torch.testing.assert_close(vae.waveform(vae.spectrum(x)), x, atol=1e-5, rtol=0)


def test_a_later_waveform_has_later_latents():
    vae = spectral()
    x = torch.rand(1, 1, 40 * vae.hop_length) - 0.5
    later = torch.nn.functional.pad(x, (3 * vae.hop_length, 0))
    with torch.no_grad():
        z, moved = (vae.encode(v).latent_dist.mode() for v in (x, later))
    torch.testing.assert_close(moved[..., 13:-10], z[..., 10:-10], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("frames", [1, 5, 17])
def test_the_first_latent_is_the_first_frame_alone(frames):
    vae = patches()
    x = torch.rand(2, 3, frames, 16, 24) * 2 - 1
    z, log_variance = encode_causal(vae, x)
    assert z.shape == log_variance.shape == (2, 4, (frames - 1) // 4 + 1, 2, 3)
    assert decode_causal(vae, z).shape == x.shape
    assert torch.equal(encode_causal(vae, x[:, :, :1])[0], z[:, :, :1])


def test_latents_and_frames_do_not_depend_on_what_follows():
    vae = patches()
    x = torch.rand(1, 3, 9, 16, 16)
    other = torch.cat([x[:, :, :5], torch.rand(1, 3, 4, 16, 16)], dim=2)
    z, z_other = (encode_causal(vae, v)[0] for v in (x, other))
    assert torch.equal(z[:, :, :2], z_other[:, :, :2])
    assert not torch.equal(z[:, :, 2], z_other[:, :, 2])
    assert torch.equal(decode_causal(vae, z)[:, :, :5], decode_causal(vae, z_other)[:, :, :5])


def test_a_long_clip_is_computed_in_stretches_without_a_seam(monkeypatch):
    vae = patches()
    x = torch.rand(1, 3, 4 * 39 + 1, 16, 16)
    with torch.no_grad():
        z = vae.encode(x).latent_dist.mean
        frames = vae.decode(z).sample
        monkeypatch.setattr(autoencoders, "_PIXELS", 10 * 4 * 16 * 16)
        torch.testing.assert_close(vae.encode(x).latent_dist.mean, z)
        torch.testing.assert_close(vae.decode(z).sample, frames)


@pytest.mark.parametrize("make", [spectral, patches])
def test_what_is_saved_is_loaded(make, tmp_path):
    vae = make()
    vae.save_pretrained(tmp_path / "vae")
    loaded = load_component(tmp_path, "vae", (type(vae).__name__,))
    assert type(loaded) is type(vae)
    assert all(torch.equal(x, loaded.state_dict()[name]) for name, x in vae.state_dict().items())
    with pytest.raises(RequestError, match="not allowed"):
        load_component(tmp_path, "vae", ("AutoencoderKL",))

"""Sound of any length through the bundle's and the published autoencoder and vocoder."""

import copy

import pytest
import torch
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

import tiny
from kinetophone.bases.audioldm import AudioLDM, receptive_frames
from kinetophone.bases.computing import decode_latents, encode_latents
from kinetophone.bases.load import load_audio_base
from kinetophone.bundle.spec import BUNDLES
from kinetophone.reference import networks as shapes


@pytest.fixture(scope="module")
def hits():
    return load_audio_base(BUNDLES / "hits" / "audio")


@pytest.fixture(scope="module")
def published():
    """AudioLDM's own layers, kernels and strides, narrow."""
    torch.manual_seed(0)
    vocoder = SpeechT5HifiGanConfig(**shapes.VOCODER, upsample_initial_channel=32)
    vae = shapes.autoencoder(1, 8, (4, 8, 8), norm_num_groups=4)
    parts = tiny.audioldm() | {"vocoder": SpeechT5HifiGan(vocoder).eval(), "vae": vae.eval()}
    with torch.no_grad():
        for module in parts["vocoder"].modules():  # at its first values it is all but silent
            if isinstance(module, torch.nn.Conv1d | torch.nn.ConvTranspose1d):
                module.weight.normal_(0, 0.7 / (module.weight[0].numel() ** 0.5))
    return AudioLDM(**parts)


@pytest.fixture(params=["hits", "published"])
def base(request):
    return request.getfixturevalue(request.param)


def mel_of(frames):
    t = torch.arange(frames)[:, None] / 100
    noise = torch.randn(1, frames, 64, generator=torch.Generator().manual_seed(0))
    return noise + 2 * torch.sin(0.7 * t + torch.arange(64) / 9) - 7


@pytest.mark.parametrize("frames", [20, 100, 400, 401, 2100])
def test_a_long_sound_comes_from_the_vocoder_as_it_would_as_a_whole(base, frames):
    mel = mel_of(frames)
    with torch.no_grad():
        whole = base.vocoder(mel)[:, : 160 * frames]
    made = base.vocoded(mel)
    assert made.shape == (1, 160 * frames)
    assert made.std() > 1e-3
    torch.testing.assert_close(made, whole, rtol=0, atol=1e-6)


def test_the_published_vocoder_makes_32_samples_more_than_its_frames(published):
    with torch.no_grad():
        assert published.vocoder(mel_of(10)).shape == (1, 1632)
    assert receptive_frames(published.vocoder.config) == 24


def test_a_sample_is_made_from_the_frames_within_reach_and_no_others(base):
    reach, at = receptive_frames(base.vocoder.config), 60
    vocoder = copy.deepcopy(base.vocoder).double()
    mel = mel_of(2 * at).double()
    changed = mel.clone()
    changed[:, at] += 3
    with torch.no_grad():
        apart = (vocoder(mel) - vocoder(changed))[0].abs().nonzero().flatten()
    first, last = int(apart[0]) // 160, int(apart[-1]) // 160
    assert at - reach <= first < at < last <= at + reach
    assert reach <= max(at - first, last - at) + 2  # and not by far: overlap is computed twice


@pytest.mark.parametrize("seconds", [4, 10, 60])
def test_a_sound_of_any_usual_length_goes_through_the_autoencoder_as_a_whole(base, seconds):
    frames = 100 * seconds
    mel = mel_of(frames)
    with torch.no_grad():
        whole = encode_latents(base.vae, mel[:, None])
        assert torch.equal(base.encode_mel(mel)[:, :, : whole.shape[2]], whole)
        assert torch.equal(base.decode_mel(whole), decode_latents(base.vae, whole)[:, 0])


@pytest.mark.parametrize("seconds", [4, 10, 60])
def test_the_published_layers_give_sound_of_the_length_asked_for(published, seconds):
    samples = 16_000 * seconds - 7
    latents = torch.randn(1, *published.latent_shape(samples))
    sound = published.decode(latents, samples)
    assert sound.shape == (1, samples)
    assert abs(sound).max() > 1e-3


def test_a_very_long_sound_goes_through_the_autoencoder_in_parts_without_an_edge(hits):
    mel = mel_of(8000)
    with torch.no_grad():
        whole = encode_latents(hits.vae, mel[:, None])
        z = hits.encode_mel(mel)[:, :, : whole.shape[2]]
        mel_of_whole, made = decode_latents(hits.vae, whole)[:, 0], hits.decode_mel(whole)
    for one, other in ((z.transpose(1, 2), whole.transpose(1, 2)), (made, mel_of_whole)):
        apart = (one - other).flatten(2).abs().mean(2)
        assert one.shape == other.shape
        # Norms over a part differ a little from those over the whole, nowhere much and never at once.
        assert apart.mean() < 0.02 * other.std()
        step, change = (x.diff(dim=1).flatten(2).abs().mean(2) for x in (one, other))
        assert (step - change).abs().max() < 0.05 * other.std()

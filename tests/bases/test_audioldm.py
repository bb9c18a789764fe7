"""Sound of any length through the bundle's own autoencoder and vocoder."""

import pytest
import torch

from kinetophone.bases.components import decode_latents, encode_latents
from kinetophone.bases.load import load_audio_base
from kinetophone.request import BUNDLES


@pytest.fixture(scope="module")
def base():
    return load_audio_base(BUNDLES / "hits" / "audio")


def mel_of(frames):
    # Rises and falls slowly, as sounds do; what is left of a stretch's edge would stand out.
    t = torch.arange(frames)[:, None] / 100
    noise = torch.randn(1, frames, 64, generator=torch.Generator().manual_seed(0))
    return noise + 2 * torch.sin(0.7 * t + torch.arange(64) / 9) - 7


@pytest.mark.parametrize("frames", [100, 400, 401, 2000])
def test_a_long_sound_comes_from_the_vocoder_as_it_would_as_a_whole(base, frames):
    mel = mel_of(frames)
    with torch.no_grad():
        torch.testing.assert_close(base.vocoded(mel), base.vocoder(mel), rtol=0, atol=1e-6)


@pytest.mark.parametrize("frames", [1024, 1032, 4000])
def test_a_long_sound_goes_through_the_autoencoder_in_stretches_without_an_edge(base, frames):
    mel = mel_of(frames)
    with torch.no_grad():
        whole = encode_latents(base.vae, mel[:, None])
        z = base.encode_mel(mel)[:, :, : whole.shape[2]]
        mel_of_whole, made = decode_latents(base.vae, whole)[:, 0], base.decode_mel(whole)
    if frames <= 1024:
        assert torch.equal(z, whole)
        assert torch.equal(made, mel_of_whole)
        return
    for one, other in ((z.transpose(1, 2), whole.transpose(1, 2)), (made, mel_of_whole)):
        apart = (one - other).flatten(2).abs().mean(2)
        assert one.shape == other.shape
        # Norms over a stretch differ a little from those over the whole, nowhere much and never at once.
        assert apart.mean() < 0.05 * other.std()
        step, change = (x.diff(dim=1).flatten(2).abs().mean(2) for x in (one, other))
        assert (step - change).abs().max() < 0.1 * other.std()

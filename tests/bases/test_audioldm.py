"""Sound of any length from the bundle's own vocoder."""

import pytest
import torch

from kinetophone.bases.load import load_audio_base
from kinetophone.request import BUNDLES


@pytest.mark.parametrize("frames", [100, 800, 801, 2000])
def test_a_long_sound_comes_in_stretches_as_it_would_as_a_whole(frames):
    base = load_audio_base(BUNDLES / "hits" / "audio")
    mel = torch.randn(1, frames, 64, generator=torch.Generator().manual_seed(0)) * 2 - 8
    with torch.no_grad():
        torch.testing.assert_close(base._vocoded(mel), base.vocoder(mel), rtol=0, atol=1e-6)

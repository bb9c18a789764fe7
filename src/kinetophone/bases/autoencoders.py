"""The autoencoders of small bases: an audio one that works on spectra, and a video one that works on patches.

They stand in the place of ``AutoencoderOobleck`` and ``AutoencoderKLWan``, and have their interface. They
are made of ConvNeXt blocks (arXiv 2201.03545), and learn much faster on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.autoencoder_oobleck import (
    AutoencoderOobleckOutput,
    OobleckDecoderOutput,
    OobleckDiagonalGaussianDistribution,
)
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor, nn
from torch.nn import functional as F

from kinetophone.hub.components import own_class

_LOUDEST = 6.0  # of the logarithm of a predicted magnitude, so that it stays finite
_QUIET = 3.0  # subtracted from it, so that a new decoder is quiet, not silent: silence is learned too easily
_POWER = 0.6  # by which magnitudes are compressed: quiet parts are heard as well
_LAYER_SCALE = 0.3
_PIXELS = 1 << 20  # of the frames that are encoded or decoded at once: little memory, as fast as any


class _Mix(nn.Module):
    """The part of a ConvNeXt block that mixes the channels, which are last."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.scale = nn.Parameter(torch.full((width,), _LAYER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.narrow(F.gelu(self.wide(self.norm(x))))


class _VideoBlock(nn.Module):
    """ConvNeXt block on (B, T, h, w, C) that also sees the two steps before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.past = nn.Parameter(torch.randn(2, width) * 0.2)
        self.mix = _Mix(width)

    def forward(self, x: Tensor) -> Tensor:
        images = x.flatten(0, 1).permute(0, 3, 1, 2)
        y = self.depthwise(images).permute(0, 2, 3, 1).unflatten(0, x.shape[:2])
        before = torch.cat([y[:, :1], y[:, :1], y], dim=1)
        steps = y.shape[1]
        y = y + self.past[0] * before[:, 1 : steps + 1] + self.past[1] * before[:, :steps]
        return x + self.mix(y)


class _AudioBlock(nn.Module):
    """ConvNeXt block on (B, C, L)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.mix = _Mix(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(self.depthwise(x).transpose(1, 2)).transpose(1, 2)


class _Head(nn.Module):
    """From the channels of the last block, which are last, to the output."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, channels)
        nn.init.normal_(self.out.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(x))


def _exact(x: Tensor) -> torch.autocast:
    """Fourier transforms stay in float32 whatever the precision of the networks."""
    return torch.autocast(x.device.type, enabled=False)


def _audio_blocks(count: int, width: int) -> nn.Sequential:
    return nn.Sequential(*(_AudioBlock(width) for _ in range(count)))


@own_class
class SpectralAutoencoder(ModelMixin, ConfigMixin):
    """Waveforms to latents and back through short-time spectra; decodes like Vocos (arXiv 2306.00814).

    Args:
        sampling_rate: of the waveform, in Hz.
        audio_channels: of the waveform.
        window: samples in a window of the spectrum.
        hop: samples from one window to the next.
        stride: windows per latent step, so that ``hop_length`` is ``hop * stride``.
        width: channels of the blocks.
        latent_channels: channels of the latents.
        encoder_blocks: blocks before the stride; one more follows it.
        decoder_blocks: blocks after the stride; one more precedes it.
    """

    @register_to_config
    def __init__(
        self,
        sampling_rate: int = 24_000,
        audio_channels: int = 1,
        window: int = 512,
        hop: int = 192,
        stride: int = 4,
        width: int = 256,
        latent_channels: int = 32,
        encoder_blocks: int = 2,
        decoder_blocks: int = 5,
    ) -> None:
        super().__init__()
        parts = 2 * audio_channels * (window // 2 + 1)  # real and imaginary, or magnitude and phase
        self.register_buffer("hann", torch.hann_window(window), persistent=False)
        self.encoder = nn.Sequential(
            nn.Conv1d(parts, width, 3, padding=1),
            _audio_blocks(encoder_blocks, width),
            nn.Conv1d(width, width, stride, stride=stride),
            _audio_blocks(1, width),
            nn.Conv1d(width, 2 * latent_channels, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv1d(latent_channels, width, 3, padding=1),
            _audio_blocks(1, width),
            nn.ConvTranspose1d(width, width, stride, stride=stride),
            _audio_blocks(decoder_blocks, width),
        )
        self.decoder_head = _Head(width, parts)

    @property
    def hop_length(self) -> int:
        """Samples per latent step."""
        return self.config.hop * self.config.stride

    def encode(self, x: Tensor) -> AutoencoderOobleckOutput:
        """The distribution of latents (B, C, L) of waveforms (B, channels, L · ``hop_length``) in [-1, 1]."""
        spectrum = self.spectrum(x)
        spectrum = spectrum * (spectrum.abs() + 1e-4) ** -_POWER
        parts = torch.cat([spectrum.real, spectrum.imag], dim=2).flatten(1, 2)
        parameters = self.encoder(parts.to(self.dtype))
        return AutoencoderOobleckOutput(latent_dist=OobleckDiagonalGaussianDistribution(parameters))

    def decode(self, z: Tensor) -> OobleckDecoderOutput:
        """Waveforms (B, channels, L · ``hop_length``), about in [-1, 1], of latents (B, C, L)."""
        parts = self.decoder_head(self.decoder(z.to(self.dtype)).transpose(1, 2)).transpose(1, 2)
        magnitude, phase = parts.float().unflatten(1, (self.config.audio_channels, -1)).chunk(2, dim=2)
        magnitude = (magnitude - _QUIET).clamp(max=_LOUDEST).exp()
        return OobleckDecoderOutput(
            sample=self.waveform(torch.complex(magnitude * phase.cos(), magnitude * phase.sin()))
        )

    def spectrum(self, x: Tensor) -> Tensor:
        """Complex spectra (B, channels, frequencies, L) of waveforms (B, channels, L · ``hop``)."""
        window, hop = self.config.window, self.config.hop
        with _exact(x):
            padded = F.pad(x.float().flatten(0, 1), (self._margin, self._margin))
            found = torch.stft(padded, window, hop, window=self.hann, center=False, return_complex=True)
        return found.unflatten(0, x.shape[:2])

    def waveform(self, spectrum: Tensor) -> Tensor:
        """The inverse of :meth:`spectrum`."""
        with _exact(spectrum):
            frames = torch.fft.irfft(spectrum.flatten(0, 1), n=self.config.window, dim=1)
            weight = self.hann.square()[None, :, None].expand(1, -1, frames.shape[2])
            sound = self._overlapped(frames * self.hann[:, None]) / self._overlapped(weight)
        return sound.unflatten(0, spectrum.shape[:2])

    @property
    def _margin(self) -> int:
        """Samples by which the first and the last window reach beyond the waveform."""
        return (self.config.window - self.config.hop) // 2

    def _overlapped(self, frames: Tensor) -> Tensor:
        """Sum of windows (B, window, frames) at their places, without the margins."""
        window, hop = self.config.window, self.config.hop
        length = (frames.shape[2] - 1) * hop + window
        whole = F.fold(frames, (1, length), (1, window), stride=(1, hop))[:, 0, 0]
        return whole[:, self._margin : length - self._margin]


@own_class
class PatchAutoencoder(ModelMixin, ConfigMixin):
    """Frames to latents and back, patch by patch; causal in time, like ``AutoencoderKLWan``.

    The first latent step is the first frame alone.

    Args:
        z_dim: channels of the latents.
        width: channels of the blocks.
        encoder_blocks: number of blocks of the encoder.
        decoder_blocks: number of blocks of the decoder.
        scale_factor_spatial: height and width of a patch, in pixels.
        scale_factor_temporal: frames per latent step.
        latents_mean: mean of each channel of the latents, for their normalisation.
        latents_std: standard deviation of each channel.
    """

    @register_to_config
    def __init__(
        self,
        z_dim: int = 16,
        width: int = 256,
        encoder_blocks: int = 2,
        decoder_blocks: int = 6,
        scale_factor_spatial: int = 8,
        scale_factor_temporal: int = 4,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
    ) -> None:
        super().__init__()
        values = 3 * scale_factor_temporal * scale_factor_spatial**2
        self.encoder = nn.Sequential(
            nn.Linear(values, width),
            *(_VideoBlock(width) for _ in range(encoder_blocks)),
            nn.Linear(width, 2 * z_dim),
        )
        self.decoder_in = nn.Conv2d(z_dim, width, 3, padding=1)
        self.decoder = nn.Sequential(
            *(_VideoBlock(width) for _ in range(decoder_blocks)), _Head(width, values)
        )

    def encode(self, x: Tensor) -> AutoencoderKLOutput:
        """The distribution of latents (B, C, T', h, w) of frames (B, 3, r·(T' - 1) + 1, H, W) in [-1, 1]."""
        r = self.config.scale_factor_temporal
        steps, pixels = (x.shape[2] - 1) // r + 1, x.shape[3] * x.shape[4]
        parts = [
            self._encode(x[:, :, r * begin : r * (end - 1) + 1])[:, :, start - begin :]
            for begin, start, end in self._stretches(steps, pixels, self.config.encoder_blocks)
        ]
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(torch.cat(parts, dim=2)))

    def decode(self, z: Tensor) -> DecoderOutput:
        """Frames (B, 3, r·(T' - 1) + 1, H, W), about in [-1, 1], of latents (B, C, T', h, w)."""
        r, p = self.config.scale_factor_temporal, self.config.scale_factor_spatial
        pixels = z.shape[3] * z.shape[4] * p * p
        parts = [
            self._decode(z[:, :, begin:end])[:, :, r * (start - begin) :]
            for begin, start, end in self._stretches(z.shape[2], pixels, self.config.decoder_blocks)
        ]
        return DecoderOutput(sample=torch.cat(parts, dim=2)[:, :, r - 1 :])

    def _stretches(self, steps: int, pixels: int, blocks: int) -> Iterator[tuple[int, int, int]]:
        """Divide a long clip: where each stretch begins to be computed, starts to be used, and ends.

        A block sees two steps before, and the first step of a stretch is computed as if nothing preceded it.
        """
        length = max(1, _PIXELS // (pixels * self.config.scale_factor_temporal))
        for start in range(0, steps, length):
            yield max(0, start - 2 * blocks - 1), start, min(start + length, steps)

    def _encode(self, x: Tensor) -> Tensor:
        r, p = self.config.scale_factor_temporal, self.config.scale_factor_spatial
        x = torch.cat([x[:, :, :1].expand(-1, -1, r - 1, -1, -1), x], dim=2).to(self.dtype)
        x = x.unflatten(4, (-1, p)).unflatten(3, (-1, p)).unflatten(2, (-1, r))  # B, 3, T', r, h, p, w, p
        return self.encoder(x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)).movedim(4, 1)

    def _decode(self, z: Tensor) -> Tensor:
        r, p = self.config.scale_factor_temporal, self.config.scale_factor_spatial
        images = z.transpose(1, 2).to(self.dtype).contiguous()
        x = self.decoder_in(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        x = self.decoder(x.permute(0, 1, 3, 4, 2).contiguous())
        x = x.unflatten(4, (3, r, p, p)).permute(0, 4, 1, 5, 2, 6, 3, 7)  # B, 3, T', r, h, p, w, p
        return x.flatten(6).flatten(4, 5).flatten(2, 3)

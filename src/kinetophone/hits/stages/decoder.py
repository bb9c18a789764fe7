"""Further training of the video autoencoder's decoder only: frames become sharper, latents stay the same.

Details that a latent does not determine are blurred by a decoder trained on absolute error. A patch
discriminator (PatchGAN, arXiv 1611.07004) recognises blur as fake, so the decoder learns edges instead. It is
trained on the inputs it will get: true latents, and the video base's estimates of them from noisy ones.

Shapes: latents (B, C, T, h, w) of clips, (N, C, h, w) of frames; frames (N, 3, S, S) in [-1, 1].
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderDC
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from kinetophone.bases.unet import VideoUNet
from kinetophone.errors import UserError
from kinetophone.hits.stages.autoencoders import edges
from kinetophone.hits.stages.video import VideoStage
from kinetophone.hub.components import load_component
from kinetophone.training.clips import draw_frame
from kinetophone.training.diffusion import channels_last, plain_attention
from kinetophone.training.recipe import Recipe
from kinetophone.training.samples import save_strips

FRAMES_OF_A_CLIP = 8
SYMMETRY_BREAKING_NOISE = 0.02  # relative standard deviation of the noise on duplicated channels' weights


class Discriminator(nn.Module):
    """Maps frames to a logit per patch, and returns the intermediate features too."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 128)
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(a, b, 4, stride=2, padding=1)) for a, b in pairwise(widths)
        )
        self.head = spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.head(x), features


def widened(vae: AutoencoderDC) -> AutoencoderDC:
    """Double the channels of an autoencoder's decoder and keep its output (Net2Net, arXiv 1511.05641).

    Every channel is duplicated, and layers that read the two copies take half of each. The mean square over
    channels, and therefore the RMS norm, does not change.
    """
    widths = [2 * width for width in vae.config.decoder_block_out_channels]
    wide = AutoencoderDC.from_config({**vae.config, "decoder_block_out_channels": widths})
    wide.encoder.load_state_dict(vae.encoder.state_dict())
    targets = wide.decoder.state_dict()
    state = {name: _twice(x, targets[name].shape) for name, x in vae.decoder.state_dict().items()}
    if vae.decoder.in_shortcut:
        # The shortcut repeats each latent channel 2 r times in a row, not r times twice; the parallel
        # convolution compensates for that.
        eye = torch.eye(vae.config.latent_channels)
        repeats = vae.decoder.in_shortcut_repeats
        was = eye.repeat_interleave(repeats, dim=0).repeat(2, 1)
        state["conv_in.weight"][:, :, 1, 1] += was - eye.repeat_interleave(2 * repeats, dim=0)
    wide.decoder.load_state_dict(state)
    return wide


def _twice(x: Tensor, shape: torch.Size) -> Tensor:
    if shape[0] != x.shape[0]:
        x = torch.cat([x, x])
    if x.dim() > 1 and shape[1] != x.shape[1]:
        x = torch.cat([x, x], dim=1) / 2
    return x.clone()


class VideoDecoder(VideoStage):
    """Trains the decoder; half of the frames in a batch are within a frame of a strike.

    Starts from the bundle's decoder, with twice its width if the recipe's ``model`` says so.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.unet: Any = load_component(self.bundle / "video", "unet").to(self.device)
        widths = recipe.model.get("decoder_block_out_channels")
        if widths and widths != list(self.vae.config.decoder_block_out_channels):
            self.vae = widened(self.vae)
            if widths != list(self.vae.config.decoder_block_out_channels):
                raise UserError(
                    "model: decoder_block_out_channels must be those of the decoder or their double, "
                    f"not {widths}"
                )
            with torch.no_grad():  # otherwise both copies would always get the same gradients
                for p in self.vae.decoder.parameters():
                    p.mul_(1 + SYMMETRY_BREAKING_NOISE * torch.randn(p.shape))
        self.vae = self.vae.to(self.device, memory_format=torch.channels_last)
        plain_attention(self.unet)
        # A copy: exports overwrite the bundle's decoder, so a resumed run could not read it from there.
        self.start = {name: x.detach().clone() for name, x in self.vae.decoder.state_dict().items()}
        self.trained: dict[str, nn.Module] = {"decoder": self.vae.decoder}
        if recipe.options.adversarial:
            self.discriminator = channels_last(Discriminator()).to(self.device)
            self.trained["discriminator"] = self.discriminator

    def loss(self, rng: np.random.Generator, generator: torch.Generator) -> dict[str, Tensor]:
        options = self.recipe.options
        z, x = self._batch(rng, generator)
        y = self.vae.decode(z / self.vae.config.scaling_factor).sample
        mae = (y - x).abs().mean()
        edge = sum((a - b).abs().mean() for a, b in zip(edges(y), edges(x), strict=True))
        if not options.adversarial:
            return {"loss": mae + edge, "mae": mae, "edge": edge}
        true, features = self.discriminator(x)
        false, _ = self.discriminator(y.detach())
        judged = F.relu(1 - true).mean() + F.relu(1 + false).mean()
        # One optimiser trains both, so the discriminator is detached in the decoder's loss.
        still = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        opinion, seen = functional_call(self.discriminator, still, (y,))
        matching = sum((a - b.detach()).abs().mean() for a, b in zip(seen, features, strict=True))
        loss = mae + edge + matching - options.adversarial * opinion.mean() + judged
        return {"loss": loss, "mae": mae, "edge": edge, "matching": matching, "judged": judged}

    @torch.no_grad()
    def _batch(self, rng: np.random.Generator, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents of frames, for some clips the base's estimates from noisy latents, and the true frames."""
        options = self.recipe.options
        index, texts = self.latents.draw(rng, -(-self.recipe.loop.batch_size // FRAMES_OF_A_CLIP))
        true = torch.from_numpy(self.latents.video[index]).float()
        z = true + options.latent_noise * torch.randn(true.shape, generator=generator)
        chosen = torch.from_numpy(np.flatnonzero(rng.random(len(index)) < options.estimated))
        if len(chosen):
            t = torch.from_numpy(rng.integers(options.most_noise, size=len(chosen)))
            noise = torch.randn(true[chosen].shape, generator=generator)
            level = self.process.level(t)
            xt = self.process.noised(true[chosen], noise, level)
            text = self._text([texts[i] for i in chosen])
            output = VideoUNet(self.unet, self.process)(xt.to(self.device), level, text)
            z[chosen], _ = self.process.split(xt, output.float().cpu(), level)
        frames, latents = [], []
        for row, i in enumerate(index):
            for _ in range(FRAMES_OF_A_CLIP):
                k = draw_frame(self.clips, int(i), rng)
                frames.append(self.clips.video[i, k])
                latents.append(z[row, :, k])
        x = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
        x = x.float().div(127.5).sub(1)
        z, x = (
            y.to(self.device).contiguous(memory_format=torch.channels_last) for y in (torch.stack(latents), x)
        )
        return z, x

    def sample(self, folder: Path, step: int) -> None:
        z, x = self._batch(np.random.default_rng(0), torch.Generator().manual_seed(0))
        y = self.vae.decode(z / self.vae.config.scaling_factor).sample.clamp(-1, 1)
        shown = torch.stack([x, y])[:, ::2][:, :16].cpu()
        save_strips(shown, folder / f"sample-{step}.png", scale=2)

    @torch.no_grad()
    def export(self) -> None:
        trained = {name: x.clone() for name, x in self.vae.decoder.state_dict().items()}
        kept = self.recipe.options.kept
        self.vae.decoder.load_state_dict(
            {name: x.lerp(self.start[name].to(x.device), kept) for name, x in trained.items()}
        )
        self.vae.save_pretrained(self.bundle / "video" / "vae")
        self.vae.decoder.load_state_dict(trained)

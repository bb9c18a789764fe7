"""LTX-Video as a base: the exercise of docs/add-a-base.md, solved in one file and compared with diffusers."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)
from torch import Tensor

import tiny
from kinetophone import Kinetophone
from kinetophone.av import AV
from kinetophone.bases import load
from kinetophone.bases.base import Base
from kinetophone.bases.computing import execution_device, tokenize
from kinetophone.bases.protocol import Conditioning, Denoiser, Site, Times
from kinetophone.diffusion.process import Flow
from kinetophone.diffusion.sample import sample_joint
from kinetophone.errors import RequestError


@dataclass
class LTX(Base):
    """LTX-Video (arXiv 2501.00103): a flow on 128 channels; a causal autoencoder, 8 frames a latent, T5 text.

    Shapes: frames uint8 (B, T, H, W, 3); latents float (B, C, T', h, w), normalised.
    """

    transformer: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    reference: dict[str, Any] = field(default_factory=dict)

    FPS: ClassVar[int] = 25
    NETWORK: ClassVar[str] = "transformer"
    NETWORKS: ClassVar[tuple[str, ...]] = ("LTXVideoTransformer3DModel",)
    COMPONENTS: ClassVar[dict[str, tuple[str, ...]]] = {
        "transformer": ("LTXVideoTransformer3DModel",),
        "vae": ("AutoencoderKLLTXVideo",),
        "text_encoder": ("T5EncoderModel",),
        "tokenizer": (),
        "scheduler": (),
    }
    max_frames: ClassVar[int] = 257

    def denoiser(self) -> Denoiser:
        # The published shift grows with the number of tokens; this is that of 4096 or more.
        shift = math.exp(self.scheduler.config.get("max_shift", 2.05))
        return LTXDenoiser(self.transformer, Flow(shift=shift), (self.frame_step, self.factor))

    @property
    def frame_step(self) -> int:
        return int(self.vae.temporal_compression_ratio)

    @property
    def factor(self) -> int:
        return int(self.vae.spatial_compression_ratio)

    @property
    def multiple(self) -> int:
        return self.factor

    def latent_length(self, frames: int) -> int:
        return -(-(frames - 1) // self.frame_step) + 1

    def frame_length(self, latents: int) -> int:
        return (latents - 1) * self.frame_step + 1

    def latent_shape(self, frames: int, size: int) -> tuple[int, int, int, int]:
        side = size // self.factor
        return (self.transformer.config.in_channels, self.latent_length(frames), side, side)

    def latent_times(self, steps: int, fps: float | Fraction) -> Times:
        edges = torch.tensor([0, *(self.frame_length(k + 1) for k in range(steps))], dtype=torch.float64)
        return Times(edges[:-1] / float(fps), edges[1:] / float(fps))

    @torch.no_grad()
    def encode_prompt(self, prompts: list[str], seconds: float | None = None) -> dict[str, Tensor]:
        tokens = tokenize(self.tokenizer, prompts, execution_device(self.text_encoder))
        states = self.text_encoder(tokens["input_ids"])[0]  # the mask is for the transformer alone
        return {"states": states, "mask": tokens["attention_mask"].to(states)}

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        missing = self.frame_length(self.latent_length(frames.shape[1])) - frames.shape[1]
        frames = torch.cat([frames, frames[:, -1:].expand(-1, missing, -1, -1, -1)], dim=1)
        x = frames.permute(0, 4, 1, 2, 3).float().div(127.5).sub(1).to(execution_device(self.vae))
        mean, deviation = self._statistics(x)
        return torch.cat([(self.vae.encode(one[None]).latent_dist.mode() - mean) / deviation for one in x])

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        latents = latents.float().to(execution_device(self.vae))
        mean, deviation = self._statistics(latents)
        made = torch.cat([self.vae.decode(one[None] * deviation + mean).sample for one in latents])
        return made.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 4, 1).cpu().numpy()

    def stills(self, latents: Tensor, count: int) -> np.ndarray:
        frames = self.decode(latents)
        shown = np.linspace(0, frames.shape[1] - 1, min(count, frames.shape[1])).round().astype(int)
        return frames[:, shown]

    def _statistics(self, like: Tensor) -> list[Tensor]:
        known = (self.vae.latents_mean, self.vae.latents_std / self.vae.config.scaling_factor)
        return [x.view(1, -1, 1, 1, 1).to(like) for x in known]


class LTXDenoiser(Denoiser):
    """Transformer on latents (B, C, T', h, w); the conditioning is from :meth:`LTX.encode_prompt`."""

    per_frame, latent_dims = True, 5

    def __init__(self, network: Any, process: Flow, factors: tuple[int, int]) -> None:
        super().__init__(network, process)
        self.frame_step, self.factor = factors

    @property
    def substeps(self) -> int:
        return self.frame_step

    @property
    def latent_channels(self) -> int:
        return int(self.network.config.in_channels)

    @property
    def time_width(self) -> int:
        return int(self.network.config.num_attention_heads * self.network.config.attention_head_dim)

    def sites(self) -> tuple[Site, ...]:
        return tuple(
            Site(f"transformer_blocks.{k}", self.time_width, "tokens", attention="attn1")
            for k in range(len(self.network.transformer_blocks))
        )

    def embed_time(self, level: Tensor) -> Tensor:
        time, dtype = self.network_time(level), self.network.proj_in.weight.dtype
        return self.network.time_embed(time, batch_size=len(time), hidden_dtype=dtype)[1]

    def __call__(self, x: Tensor, level: Tensor, conditioning: Conditioning) -> Tensor:
        assert not isinstance(conditioning, Tensor)
        steps, height, width = x.shape[2:]
        made = self.network(
            x.flatten(2).transpose(1, 2),
            conditioning["states"],
            self.network_time(level),
            conditioning["mask"],
            num_frames=steps,
            height=height,
            width=width,
            rope_interpolation_scale=(self.frame_step / LTX.FPS, self.factor, self.factor),
            return_dict=False,
        )[0]
        return made.transpose(1, 2).unflatten(2, (steps, height, width))


# The base ends here; what follows tests it.

PROMPT, NEGATIVE = "a drumstick hits metal", "bad quality"
SIZE, FRAMES = 64, 17


def components() -> dict[str, Any]:
    transformer = LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=4, attention_head_dim=12, cross_attention_dim=48,
        num_layers=3, caption_channels=16,
    )  # fmt: skip
    vae = AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4,
        layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5,
    )  # fmt: skip
    vae.latents_mean.copy_(torch.linspace(-0.5, 0.5, 8))
    vae.latents_std.copy_(torch.linspace(0.5, 2, 8))
    text = tiny.stable_audio()
    published: dict[str, Any] = {  # the configuration in the folder of LTX-Video
        "base_image_seq_len": 1024, "base_shift": 0.95, "max_image_seq_len": 4096, "max_shift": 2.05,
        "shift_terminal": 0.1, "use_dynamic_shifting": True,
    }  # fmt: skip
    return {
        "transformer": transformer.eval(),
        "vae": vae.eval(),
        "text_encoder": text["text_encoder"],
        "tokenizer": text["tokenizer"],
        "scheduler": FlowMatchEulerDiscreteScheduler(**published),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return tiny.save(components(), tmp_path_factory.mktemp("ltx"))


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(load.FAMILIES, "video", (*load.FAMILIES["video"], LTX))


def test_a_base_takes_150_lines() -> None:
    assert sum(len(inspect.getsourcelines(part)[0]) for part in (LTX, LTXDenoiser)) <= 150


@torch.no_grad()
def test_equal_to_ltx_pipeline(folder: Path) -> None:
    base = load.load_video_base(folder)
    assert isinstance(base, LTX)
    pipe = LTXPipeline(base.scheduler, base.vae, base.text_encoder, base.tokenizer, base.transformer)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, *base.latent_shape(FRAMES, SIZE), generator=torch.Generator().manual_seed(3))
    options: dict[str, Any] = {
        "negative_prompt": NEGATIVE, "height": SIZE, "width": SIZE, "num_frames": FRAMES, "frame_rate": 25,
        "num_inference_steps": 5, "guidance_scale": 3.0, "max_sequence_length": 8,
        "latents": noise.flatten(2).transpose(1, 2),
    }  # fmt: skip
    latents, pixels = (pipe(PROMPT, output_type=kind, **options).frames for kind in ("latent", "np"))

    denoiser = base.denoiser()
    assert isinstance(denoiser.process, Flow)
    shift, sigmas = denoiser.process.shift, pipe.scheduler.sigmas[:-1].double()
    levels = sigmas / (shift - (shift - 1) * sigmas)
    torch.testing.assert_close(denoiser.process.sigma(levels), sigmas)
    text, nothing = (base.encode_prompt([said]) for said in (PROMPT, NEGATIVE))

    def predict(x: AV[Tensor], at: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Tensor]:
        with_text, without = (denoiser(x.video, at.video, given) for given in (text, nothing))
        return AV(audio=x.audio, video=without + 3.0 * (with_text - without))

    start = AV(audio=torch.zeros(1, 1, 1), video=noise)
    processes = AV(audio=Flow(), video=denoiser.process)
    made = sample_joint(predict, start, AV.both(levels), processes).video
    theirs = latents.transpose(1, 2).unflatten(2, made.shape[2:])
    assert float((made - theirs).norm() / theirs.norm()) < 1e-4
    assert np.abs(base.decode(made) / 255 - pixels).max() <= 0.5 / 255 + 1e-4


@pytest.mark.parametrize("kind", ["in_place", "cmc_pe"])
def test_coupled_with_stable_audio(folder: Path, models: Path, kind: str) -> None:
    bases: dict[str, Any] = {"video": folder, "audio": models / "stable_audio", "kind": kind}
    pipe = Kinetophone.from_bases(**bases, size=SIZE, frames=9)
    alone = pipe(PROMPT, steps=2, seed=1)[0]
    uncoupled = pipe(PROMPT, steps=2, seed=1, coupled=False)[0]
    assert np.array_equal(alone.video, uncoupled.video), "a fresh coupling changes nothing"
    assert np.array_equal(alone.audio, uncoupled.audio)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in pipe.coupling.parameters():
            if not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    clip = pipe(PROMPT, steps=2, seed=1)[0]
    assert clip.video.shape == (9, SIZE, SIZE, 3)
    assert clip.audio.shape == (clip.time.samples, 2)
    assert not np.array_equal(clip.audio, alone.audio)
    assert np.array_equal(pipe.animate(clip.video[0], PROMPT, steps=1).video[0], clip.video[0])
    long = pipe.extend(clip, PROMPT, seconds=Fraction(17, 25), steps=1)
    assert np.array_equal(long.video[:9], clip.video)
    with pytest.raises(RequestError, match=r"nearest are 0\.36 and 0\.68 s"):
        pipe(PROMPT, seconds=0.48)

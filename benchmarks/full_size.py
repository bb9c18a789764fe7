"""Time and memory of the published pair of bases at full size, with random weights.

    python benchmarks/full_size.py [--size 256] [--frames 32] [--device cuda] [--dtype float16] [--json FILE]

No weights are downloaded. Text embeddings are random too, because text encoders are small. The rows are
measured one after the other in one process, so that their ratios are meaningful:

- ``bases``: one guided step of both U-Nets with the coupling off; ``joint``: the same with the coupling on;
- ``decode``: one frame and the entire audio;
- ``train``: a training step of the coupling on one clip with gradient checkpointing, like the 24 GB recipe.

Memory is the peak of the device on CUDA, or the peak of the process so far on a CPU. ``--narrow 32`` divides
every width, for a quick test of the benchmark itself. The exit status is 1 if any result is not finite.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kinetophone.av import AV
from kinetophone.bases.protocol import Times
from kinetophone.bases.unet import denoisers
from kinetophone.coupling.coupling import Coupling
from kinetophone.coupling.model import JointModel
from kinetophone.diffusion.clocks import power_path
from kinetophone.diffusion.guidance import guided
from kinetophone.diffusion.process import Process
from kinetophone.diffusion.sample import initial_noise, sample_joint
from kinetophone.media.mel import HOP, MEL_BINS, SAMPLE_RATE
from kinetophone.reference import networks as published
from kinetophone.reference import settings as reference


def narrowed(config: dict[str, Any], by: int) -> dict[str, Any]:
    """A U-Net's configuration with every width divided by ``by``."""
    if by == 1:
        return config
    widths = tuple(max(8, width // by // 8 * 8) for width in config["block_out_channels"])
    own = {key: widths for key, value in config.items() if isinstance(value, tuple) and type(value[0]) is int}
    heads = {key: 1 for key in config if key.endswith("num_attention_heads")}
    return {**config, **own, **heads, "norm_num_groups": 8}


class Bench:
    """Networks of the published classes with random weights, and measurements on them."""

    def __init__(self, args: argparse.Namespace) -> None:
        from diffusers import UNet2DConditionModel, UNetMotionModel

        self.args, self.rows, self.finite = args, [], True
        self.kind = getattr(torch, args.dtype)
        torch.manual_seed(0)
        with torch.device(args.device):
            audio, video = (narrowed(c, args.narrow) for c in (published.AUDIO_UNET, published.MOTION_UNET))
            self.unets: AV[Any] = AV(audio=UNet2DConditionModel(**audio), video=UNetMotionModel(**video))
            heads = {} if args.narrow == 1 else {"connector_channels": 32}
            self.coupling = Coupling.for_denoisers(denoisers(self.unets), **heads).to(args.device)
        for parameter in self.coupling.parameters():  # a new coupling has zero weights and would add nothing
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
        self.unets.map(lambda unet: unet.to(self.kind).requires_grad_(False).eval())
        self.model = JointModel(denoisers(self.unets, reference.schedulers()), self.coupling)
        samples = round(args.frames / 8 * SAMPLE_RATE)
        length = -(-samples // (HOP * 4 * 8)) * 8
        side = args.size // 8
        self.shapes = AV(audio=(8, length, MEL_BINS // 4), video=(4, args.frames, side, side))
        self.times = AV(Times.even(length, 25.0), Times.even(args.frames, 8.0))

    def text(self) -> AV[torch.Tensor]:
        drawn = AV(audio=torch.randn(1, 512), video=torch.randn(1, 77, 768))
        return drawn.map(lambda x: x.to(self.args.device, self.kind))

    def row(self, name: str, work: Callable[[], Any]) -> None:
        """Measure ``work``: one warm-up run, then ``--repeat`` timed runs."""
        cuda = self.args.device.startswith("cuda")
        seconds = []
        for number in range(1 + self.args.repeat):
            if cuda:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            results = work()
            if cuda:
                torch.cuda.synchronize()
            if number:
                seconds.append(time.perf_counter() - start)
        self.finite &= all(bool(torch.isfinite(x).all()) for x in results)
        peak = torch.cuda.max_memory_allocated() if cuda else 0
        peak = peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.rows.append(
            {
                "row": name,
                "seconds": statistics.median(seconds),
                "least": min(seconds),
                "most": max(seconds),
                "peak_gib": peak / 2**30,
            }
        )
        print(
            "{row:<10} {seconds:8.3f} s ({least:.3f} to {most:.3f}) {peak_gib:7.2f} GiB".format(
                **self.rows[-1]
            )
        )

    def sampling(self) -> None:
        processes: AV[Process] = self.model.denoisers.map(lambda denoiser: denoiser.process)
        noise = initial_noise(self.shapes, [0], device=self.args.device)
        path = power_path(processes, 1, 1.5)
        trained = self.coupling
        self.model.coupling = copy.deepcopy(trained).to(self.kind).eval()
        for name, coupled in (("bases", False), ("joint", True)):
            predict = guided(
                self.model, self.text(), self.text(), AV(audio=2.5, video=7.5), coupled=coupled,
                times=self.times,
            )  # fmt: skip

            def step(predict: Any = predict) -> list[torch.Tensor]:
                made = sample_joint(predict, noise, path, processes)
                return [made.audio, made.video]

            self.row(name, step)
        self.model.coupling = trained

    def decoding(self) -> None:
        with torch.device(self.args.device):
            around = published.around()
        channels, _, *side = self.shapes.video
        video_latents = torch.randn(1, channels, *side, device=self.args.device)
        audio_latents = torch.randn(1, *self.shapes.audio, device=self.args.device)

        @torch.no_grad()
        def decode() -> list[torch.Tensor]:
            mel = around.audio["vae"].decode(audio_latents).sample
            return [around.video["vae"].decode(video_latents).sample, around.audio["vocoder"](mel[:, 0])]

        self.row("decode", decode)

    def training(self) -> None:
        for network in (self.unets.audio, self.unets.video, self.coupling):
            network.enable_gradient_checkpointing()
            network.train()
        average = copy.deepcopy(self.coupling).requires_grad_(False)  # EMA of the weights
        optimizer = torch.optim.AdamW(self.coupling.parameters(), lr=1e-5)
        noise: AV[torch.Tensor] = self.shapes.map(
            lambda shape: torch.randn(1, *shape, device=self.args.device)
        )
        levels = AV.both(torch.tensor([0.5], dtype=torch.float64))
        text = self.text()
        device = self.args.device.split(":")[0]

        def step() -> list[torch.Tensor]:
            half = self.kind != torch.float32
            with torch.autocast(device, self.kind if half else torch.bfloat16, enabled=half):
                with torch.no_grad():
                    features = self.model.features(noise, levels, None)
                    estimate = self.model(noise, levels, text, features, times=self.times)
                features = self.model.features(noise, levels, estimate)
                eps = self.model(noise, levels, text, features, times=self.times)
                losses = eps.map(lambda e, n: (e.float() - n).square().mean(), noise)
            loss = losses.audio + losses.video
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(self.coupling.parameters()), 1e-4)
            return [loss.detach()]

        self.row("train", step)


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--narrow", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    bench = Bench(args)
    millions = AV(audio=bench.unets.audio, video=bench.unets.video).map(
        lambda unet: sum(p.numel() for p in unet.parameters()) / 1e6
    )
    new = sum(p.numel() for p in bench.coupling.parameters()) / 1e6
    name = torch.cuda.get_device_name() if args.device.startswith("cuda") else "CPU"
    print(
        f"audio {millions.audio:.1f} M, video {millions.video:.1f} M, coupling {new:.1f} M parameters; "
        f"{args.frames} frames of {args.size} pixels, {args.dtype}, {name}"
    )
    bench.sampling()
    if args.narrow == 1:
        bench.decoding()
    bench.training()
    if args.json:
        settings = {key: str(value) for key, value in vars(args).items() if key != "json"}
        args.json.write_text(
            json.dumps({"device": name, "settings": settings, "rows": bench.rows}, indent=1) + "\n"
        )
    if not bench.finite:
        print("NOT FINITE", file=sys.stderr)
    return 0 if bench.finite else 1


if __name__ == "__main__":
    sys.exit(main())

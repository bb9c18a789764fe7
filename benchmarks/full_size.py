"""Does the joint model run at its published size, with random weights, and what does it take?

    python benchmarks/full_size.py [--size 256] [--frames 8] [--steps 2] [--device cpu] [--dtype float32]

No weights are downloaded; text states are random too, the text models being small.
Prints seconds per step and peak memory: of the process on a CPU, of the device on CUDA. Exit status 1 if a
latent or a decoded value is not finite.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import torch

from kinetophone.av import AV
from kinetophone.bases import published
from kinetophone.joint import reference
from kinetophone.joint.clocks import local_grids
from kinetophone.joint.coupling import Coupling
from kinetophone.joint.model import JointModel
from kinetophone.media.mel import HOP, MEL_BINS, SAMPLE_RATE
from kinetophone.sampling.ddim import NoiseSchedule
from kinetophone.sampling.joint import guided, initial_noise, sample_joint


def main(size: int, frames: int, steps: int, device: str, dtype: str) -> int:
    """Returns the exit status."""
    kind = getattr(torch, dtype)
    torch.manual_seed(0)
    torch.set_default_dtype(kind)
    with torch.device(device):
        unets = published.unets()
        coupling = Coupling.for_unets(unets)
        for parameter in coupling.parameters():  # a fresh coupling adds exactly nothing
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
        model = JointModel(unets, coupling).eval().requires_grad_(False)
        torch.set_default_dtype(torch.float32)
        around = published.around()
    count = sum(p.numel() for p in model.parameters())
    print(f"{count / 1e9:.2f} billion parameters in U-Nets and coupling, {dtype} on {device}", flush=True)

    samples = round(frames / 8 * SAMPLE_RATE)
    length = -(-samples // (HOP * 4 * 8)) * 8
    shapes = AV(audio=(8, length, MEL_BINS // 4), video=(4, frames, size // 8, size // 8))
    schedulers = reference.schedulers()
    schedules = schedulers.map(NoiseSchedule.from_scheduler)
    generator = torch.Generator().manual_seed(0)

    def text() -> AV[torch.Tensor]:
        return AV(
            audio=torch.nn.functional.normalize(torch.randn(1, 512, generator=generator), dim=-1),
            video=torch.randn(1, 77, 768, generator=generator),
        ).map(lambda x: x.to(device, kind))

    noise = initial_noise(shapes, [0], device=torch.device(device))
    grids = local_grids(schedulers, steps, 1.5)
    start = time.monotonic()
    latents = sample_joint(
        guided(model, text(), text(), AV(audio=2.5, video=7.5)),
        noise,
        grids,
        schedules,
        callback=lambda _: print(f"  {time.monotonic() - start:.0f} s", flush=True),
    )
    seconds = (time.monotonic() - start) / steps
    with torch.no_grad():
        decoded = [
            around.video["vae"].decode(latents.video.float().transpose(1, 2).flatten(0, 1)[:1]).sample,
            around.audio["vae"].decode(latents.audio.float()).sample,
        ]
    finite = all(bool(torch.isfinite(x).all()) for x in (latents.audio, latents.video, *decoded))
    if device.startswith("cuda"):
        peak = torch.cuda.max_memory_allocated() / 1e9
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(
        f"{steps} steps at {size}², {frames} frames: {seconds:.1f} s a step, peak memory {peak:.1f} GB, "
        f"results {'finite' if finite else 'NOT FINITE'}"
    )
    return 0 if finite else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    sys.exit(main(**vars(parser.parse_args())))

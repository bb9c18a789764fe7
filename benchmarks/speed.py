"""How long a clip takes: the start, a warm clip, the bases alone, diffusers' own pipelines on the same bases.

    python benchmarks/speed.py --json docs/results/speed.json

The rows take turns within one run, so that their ratios hold on a machine whose speed drifts. Each has the
median and the range of its processor seconds, of its seconds, and of the ratio of its processor seconds to
those of ``bases``. Rows that end in ``, 2 threads`` are left out on one core.

- ``help``, ``start``: the commands ``kinetophone --help`` and ``generate --steps 1``, each in a new process;
- ``step``: a warm clip of one step, to be subtracted from ``start``;
- ``clip``: a warm clip with the bundle's own settings;
- ``joint``, ``bases``: the same without cross-modal guidance, with the coupling and without;
- ``diffusers``: AnimateDiffPipeline and AudioLDMPipeline one after the other, same bases, steps and guidance.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AnimateDiffPipeline, AudioLDMPipeline, AutoencoderKL, DDIMScheduler

from kinetophone import Kinetophone
from kinetophone.tasks.common.cores import cores

PROMPT = "a hammer hits a drum"


def command(*words: str) -> None:
    """Run the command line in a new process."""
    done = subprocess.run(
        [sys.executable, "-m", "kinetophone", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def peers(pipe: Kinetophone, steps: int) -> Callable[[], None]:
    """Both of diffusers' pipelines on the bases of a bundle, decoders included."""
    audio, video, settings = pipe.bases.audio, pipe.bases.video, pipe.spec.settings({})
    schedulers = pipe.bases.map(lambda base: DDIMScheduler.from_config(base.scheduler.config))
    # Only its factor is used: the latents are decoded by the bundle's own autoencoder, as in the other rows.
    levels = video.factor.bit_length()
    factor = AutoencoderKL(
        block_out_channels=[4] * levels,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        norm_num_groups=4,
    )
    of_video = AnimateDiffPipeline(
        factor, video.text_encoder, video.tokenizer, video.unet, None, schedulers.video
    )
    of_audio = AudioLDMPipeline(
        audio.vae, audio.text_encoder, audio.tokenizer, audio.unet, schedulers.audio, vocoder=audio.vocoder
    )
    for one in (of_video, of_audio):
        one.set_progress_bar_config(disable=True)
    size, frames = pipe.spec.size, pipe.spec.frames

    def run() -> None:
        text, nothing = (video.encode_prompt([said]) for said in (PROMPT, settings.negative_prompt))
        latents = of_video(
            prompt_embeds=text,
            negative_prompt_embeds=nothing,
            num_frames=frames,
            height=size,
            width=size,
            num_inference_steps=steps,
            guidance_scale=settings.guidance.video,
            output_type="latent",
        ).frames
        video.decode(latents)
        of_audio(
            PROMPT,
            negative_prompt=settings.negative_prompt,
            audio_length_in_s=float(frames / pipe.spec.fps),
            num_inference_steps=steps,
            guidance_scale=settings.guidance.audio,
        )

    return run


def rows_of(pipe: Kinetophone, steps: int, out: Path) -> dict[str, tuple[int, Callable[[], Any]]]:
    """Threads and work of each row."""
    clip = partial(pipe, PROMPT, progress=False)
    apart: dict[str, Any] = {"steps": steps, "guidance_sync": 1}
    warm: dict[str, Callable[[], Any]] = {
        "clip": partial(clip, steps=steps),
        "joint": partial(clip, **apart),
        "bases": partial(clip, coupled=False, **apart),
        "diffusers": peers(pipe, steps),
    }
    file = str(out / "clip.mp4")
    rows: dict[str, tuple[int, Callable[[], Any]]] = {
        "help": (1, partial(command, "--help")),
        "start": (1, partial(command, "generate", PROMPT, "-o", file, "--steps", "1")),
        "step": (1, partial(clip, steps=1)),
    }
    for threads in (1, 2)[: cores()]:
        rows |= {
            name if threads == 1 else f"{name}, 2 threads": (threads, work) for name, work in warm.items()
        }
    return rows


def measured(threads: int, work: Callable[[], Any]) -> tuple[float, float]:
    """Processor seconds, also those of child processes, and seconds."""
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for child processes
    before, start = _cpu_s(), time.perf_counter()
    work()
    return _cpu_s() - before, time.perf_counter() - start


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def summary(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", default="hits")
    parser.add_argument("--steps", type=int, help="of all rows of warm clips; default: the bundle's")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--rows", nargs="+", help="only these, and bases")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    pipe = Kinetophone.from_pretrained(args.bundle, device="cpu")
    steps = args.steps or pipe.spec.settings({}).steps
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_of(pipe, steps, Path(folder))
        rows = {name: row for name, row in rows.items() if not args.rows or name in {*args.rows, "bases"}}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
        for turn in range(args.repeat + 1):
            for name, row in rows.items():
                figures = measured(*row)
                if turn:  # the first turn warms up
                    found[name].append(figures)
    results = {}
    print(f"{steps} steps, {args.repeat} turns; median (least to most)")
    print(f"{'row':<22} {'CPU s':<26} {'s':<26} CPU s / those of bases")
    for name, figures in found.items():
        cpu, wall = ([one[k] for one in figures] for k in (0, 1))
        ratio = [one[0] / base[0] for one, base in zip(figures, found["bases"], strict=True)]
        results[name] = {"cpu_s": summary(cpu), "s": summary(wall), "ratio": summary(ratio)}
        shown = ["{median:.2f} ({least:.2f} to {most:.2f})".format(**one) for one in results[name].values()]
        print(f"{name:<22} {shown[0]:<26} {shown[1]:<26} {shown[2]}")
    if args.json:
        machine = {"cores": cores(), "torch": torch.__version__, "steps": steps, "repeat": args.repeat}
        args.json.write_text(json.dumps({**machine, "rows": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()

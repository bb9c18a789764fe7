"""A training small enough for tests that start processes: ``python toy_training.py OUT [--steps N] ...``.

A convolution and a linear layer learn to tell how bright noise is; the batch can be shared out.
"""

import argparse
import contextlib
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from kinetophone.cli.lean import quick_start

# A process of its own starts as that of a command does. Where a test imports this, no module is replaced.
with quick_start() if __name__ == "__main__" else contextlib.nullcontext():
    from kinetophone.training.loop import train
    from kinetophone.training.processes import Processes
    from kinetophone.training.recipe import LoopConfig


class Toy:
    """``nap_s`` seconds a step leave time to be killed in; pass ``poisoned`` of the loss is not a number."""

    def __init__(self, batch=8, nap_s=0.0, poisoned=None):
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1).to(memory_format=torch.channels_last),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(8 * 16, 1),
        )
        self.net[3].bias.requires_grad_(False)
        self.trained = {"net": self.net}
        self.start = {"shift": torch.zeros(1)}  # that of the first process counts
        self.batch, self.nap_s, self.exported = batch, nap_s, None
        self.poisoned, self.passes = poisoned, 0

    def loss(self, rng, generator, part=slice(None)):
        time.sleep(self.nap_s)
        x = torch.randn((self.batch, 3, 4, 4), generator=generator)[part]
        scale = torch.from_numpy(rng.random(self.batch).astype(np.float32))[part, None]
        loss = (self.net(x * scale[..., None, None]) - scale - self.start["shift"]).square().mean()
        self.passes += 1
        if self.passes == self.poisoned:
            loss = loss * float("nan")
        return {"loss": loss}

    def sample(self, folder, step):
        (folder / f"sample-{step}").touch()

    def export(self):
        self.exported = {k: v.clone() for k, v in self.net.state_dict().items()}


def config(**changes):
    usual = {"steps": 20, "batch_size": 8, "lr": 1e-3, "warmup": 2, "checkpoint_every": 1, "sample_every": 0}
    return LoopConfig(**({"log_every": 5} | usual | changes))


def train_slowly(out):
    """A run whose steps are slow enough to be killed in."""
    torch.set_num_threads(1)
    train(Toy(nap_s=0.05), config(), out)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--poison", type=int)
    parser.add_argument("--stop-at", type=int)
    given = parser.parse_args()
    torch.set_num_threads(1)
    stage = Toy(poisoned=given.poison)
    loop = config(steps=given.steps, accumulate=given.accumulate)
    processes = Processes.join("cpu")
    stage.start["shift"] += processes.rank
    train(stage, loop, given.out, stop_at=given.stop_at, processes=processes)
    if stage.exported is not None:
        torch.save(stage.exported, given.out / "exported.pt")
    processes.leave()


if __name__ == "__main__":
    main()

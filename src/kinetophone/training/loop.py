"""The training loop every stage shares: AdamW, warm-up and cosine, EMA, atomic checkpoints, logs.

A step's batch, noise and dropout are drawn from generators seeded by ``(seed, step)``, so a run that is
killed and resumed ends with the weights of one that was not.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from kinetophone.training.recipe import LoopConfig


class Stage(Protocol):
    """What is trained. ``trained`` holds the modules whose parameters learn, by component name."""

    trained: dict[str, nn.Module]

    def loss(self, rng: np.random.Generator, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of one batch; ``"loss"`` is the one to minimise, the others are logged."""

    def sample(self, folder: Path, step: int) -> None:
        """Write what the model makes now (pictures, sounds) into ``folder``."""

    def export(self) -> None:
        """Save the components in their ordinary layout; called with the averaged weights loaded."""


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the last checkpoint is kept."""


def learning_rate(config: LoopConfig, step: int) -> float:
    """Linear warm-up over ``warmup`` steps, then a cosine to zero at ``steps``."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@contextlib.contextmanager
def _precision(config: LoopConfig) -> Iterator[None]:
    """Autocast to bfloat16 where the recipe asks for it."""
    device = config.device.split(":")[0]
    with contextlib.ExitStack() as stack:
        if config.precision == "bfloat16":
            stack.enter_context(torch.autocast(device, torch.bfloat16))
            if device == "cpu":
                # The fused kernel's backward pass in bfloat16 took a third of a step's time on a CPU.
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


class Ema:
    """Exponential moving average of parameters, with the usual ramp ``(1 + n) / (10 + n)`` at the start."""

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.shadow = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.shadow, [p.detach() for p in self.parameters], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the averaged and the live weights; calling it twice restores both."""
        for shadow, parameter in zip(self.shadow, self.parameters, strict=True):
            live = parameter.detach().clone()
            parameter.copy_(shadow)
            shadow.copy_(live)


def train(
    stage: Stage, config: LoopConfig, out: Path, resume: bool = True, stop_at: int | None = None
) -> None:
    """Train ``stage`` to ``config.steps``, resuming from ``out/checkpoint.pt`` if it is there.

    Writes ``out/log.jsonl``, TensorBoard scalars, samples and checkpoints, and exports the components with
    averaged weights at each sampling and at the end. ``stop_at`` ends early, for tests of resuming.
    """
    out.mkdir(parents=True, exist_ok=True)
    named = {
        f"{name}.{key}": p
        for name, m in stage.trained.items()
        for key, p in m.named_parameters()
        if p.requires_grad
    }
    parameters = list(named.values())
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, foreach=True)
    ema = Ema(parameters, config.ema_decay)
    checkpoint = out / "checkpoint.pt"
    start = _restore(checkpoint, named, optimizer, ema) if resume and checkpoint.exists() else 0
    count = sum(p.numel() for p in parameters)
    print(
        f"{out.name}: {count / 1e6:.2f} M parameters, steps {start} to {config.steps}, output in {out}",
        flush=True,
    )
    writer = _tensorboard(out)
    end = config.steps if stop_at is None else min(stop_at, config.steps)
    sums: dict[str, float] = {}
    clock, seen = time.monotonic(), 0
    for step in range(start, end):
        rng = np.random.default_rng([config.seed, step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        with _precision(config):
            losses = stage.loss(rng, generator)
        if not torch.isfinite(losses["loss"]):
            raise NonFiniteLossError(
                f"the loss is {losses['loss'].item()} at step {step}; the last checkpoint is in {out}"
            )
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(parameters, config.grad_clip)
        optimizer.step()
        ema.update(step)
        for key, value in losses.items():
            sums[key] = sums.get(key, 0.0) + float(value.detach())
        seen += 1
        done = step + 1
        if done % config.log_every == 0 or done == end:
            now = time.monotonic()
            rate = seen / (now - clock)
            row: dict[str, Any] = {k: round(v / seen, 6) for k, v in sums.items()}
            _log(out, writer, done, row, rate, config)
            clock, sums, seen = now, {}, 0
        last = done == config.steps
        if last or (config.sample_every and done % config.sample_every == 0):
            ema.swap()
            if config.sample_every:
                with torch.no_grad():
                    stage.sample(out, done)
            stage.export()
            ema.swap()
        if done % config.checkpoint_every == 0 or done == end:
            _save(checkpoint, done, named, optimizer, ema)
    if writer:
        writer.close()


def _log(out: Path, writer: Any, step: int, row: dict[str, Any], rate: float, config: LoopConfig) -> None:
    left = (config.steps - step) / rate / 60
    text = " ".join(f"{k} {v:.4f}" for k, v in row.items())
    clips = rate * config.batch_size
    print(f"{out.name} {step}/{config.steps}  {text}  {clips:.1f} clips/s  {left:.1f} min left", flush=True)
    with (out / "log.jsonl").open("a") as log:
        log.write(
            json.dumps({"step": step, "time": round(time.time(), 1), "clips_per_s": round(clips, 2), **row})
            + "\n"
        )
    if writer:
        for key, value in row.items():
            writer.add_scalar(key, value, step)


def _tensorboard(out: Path) -> Any:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:  # a bare training machine: log.jsonl holds the same numbers
        return None
    return SummaryWriter(str(out / "tensorboard"))


def _save(
    path: Path, step: int, named: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, ema: Ema
) -> None:
    part = path.with_suffix(".part")
    state = {
        "step": step,
        "weights": {k: p.detach() for k, p in named.items()},
        "ema": dict(zip(named, ema.shadow, strict=True)),
        "optimizer": optimizer.state_dict(),
    }
    with part.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _restore(path: Path, named: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, ema: Ema) -> int:
    state = torch.load(path, weights_only=True)
    if state["weights"].keys() != named.keys():
        raise ValueError(f"{path} belongs to another model: move it away or train with --fresh")
    with torch.no_grad():
        for (key, parameter), shadow in zip(named.items(), ema.shadow, strict=True):
            parameter.copy_(state["weights"][key])
            shadow.copy_(state["ema"][key])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])

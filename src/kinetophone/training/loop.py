"""The training loop of all stages: AdamW, warm-up, EMA, gradient accumulation, checkpoints, processes.

The batch, noise and dropout of a step come from generators seeded by ``(seed, step)``. A run that is killed
and resumed therefore ends with the same weights as an uninterrupted one. Random numbers are always drawn for
the entire batch, even if only a part of it is computed, so the number of processes does not matter either.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from kinetophone.errors import UserError
from kinetophone.precision import emulated
from kinetophone.training import checkpoints
from kinetophone.training.monitor import Monitor
from kinetophone.training.processes import (
    Objective,
    Processes,
    full_parameters,
    full_tensor,
    local_shard,
    shard_like,
    sync_only_last,
)
from kinetophone.training.recipe import LoopConfig
from kinetophone.training.zero import Zero


class Stage(Protocol):
    """Something to train. ``trained`` maps component names to the modules that are optimised."""

    trained: dict[str, nn.Module]

    def loss(self, rng: np.random.Generator, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of one batch, as scalars; ``"loss"`` is minimised, the others are only logged.

        Divisible stages (``recipe.STAGES``) take a third argument, a slice: the part of the batch to compute.
        """

    def sample(self, folder: Path, step: int) -> Mapping[str, float] | None:
        """Write samples of the current model into ``folder``; returns metrics of them, if any."""

    def export(self) -> None:
        """Save the components into the bundle; called with the averaged weights loaded."""


@runtime_checkable
class KeepsStart(Protocol):
    """A stage that needs tensors from its start: those of the first process, also after a resume."""

    start: dict[str, Tensor]


class NonFiniteLossError(UserError):
    """Losses or gradients were NaN or infinite for too many steps in a row; the last checkpoint is kept."""


def learning_rate(config: LoopConfig, step: int) -> float:
    """Learning rate at ``step``: linear warm-up, then constant or a cosine decay to zero at the end."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _precision(config: LoopConfig) -> contextlib.AbstractContextManager[Any]:
    """Autocast to half precision if the recipe asks for it."""
    if config.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(config.device.split(":")[0], getattr(torch, config.precision))


class Run:
    """The weights, their moving average and the optimiser of a run: everything that is checkpointed."""

    def __init__(self, stage: Stage, config: LoopConfig, processes: Processes) -> None:
        self.config = config
        self.objective = processes.wrap(Objective(stage))
        # Collected after wrapping, because FSDP replaces the modules' parameters.
        self.named = {
            f"{name}.{key}": p
            for name, m in stage.trained.items()
            for key, p in m.named_parameters()
            if p.requires_grad
        }
        self.parameters = list(self.named.values())
        self.optimizer = _optimizer(self.parameters, config)
        self.zero = (
            Zero(self.objective, self.optimizer, config, processes.zero_stage)
            if processes.zero_stage
            else None
        )
        self.ema = EMAModel(self.parameters, decay=config.ema_decay)
        self.scaler = torch.amp.GradScaler(config.device.split(":")[0], enabled=config.precision == "float16")
        self.skipped = self.skipped_in_a_row = 0

    def step(self, step: int, parts: list[slice | None], processes: Processes) -> dict[str, float]:
        """Take one optimiser step.

        Returns:
            The mean losses; empty if the step was skipped because a loss or gradient was not finite.
        """
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        self.optimizer.zero_grad(set_to_none=True)
        row: dict[str, Tensor] = {}
        for number, part in enumerate(parts, start=1):
            rng = np.random.default_rng([config.seed, step])
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            last = number == len(parts)
            with sync_only_last(self.objective, last):
                with _precision(config):
                    losses = self.objective(rng, generator, part)
                loss = self.scaler.scale(losses["loss"] / len(parts))
                if self.zero:
                    self.zero.backward(loss, last)
                else:
                    loss.backward()
            for key, value in losses.items():
                row[key] = row.get(key, 0.0) + value.detach() / len(parts)
        means = processes.mean(row)
        # All processes decide alike, because losses and gradients are averaged over all of them.
        taken = self.zero.step() if self.zero else self._step(math.isfinite(means["loss"]))
        if taken:
            self.ema.optimization_step = step  # the decay grows with the step, also where some were skipped
            self.ema.step(self.parameters)
        self.skipped += not taken
        self.skipped_in_a_row = 0 if taken else self.skipped_in_a_row + 1
        return means if taken else {}

    def _step(self, finite: bool) -> bool:
        """Clip and take the step if loss and gradients are finite."""
        self.scaler.unscale_(self.optimizer)
        norm = full_tensor(nn.utils.clip_grad_norm_(self.parameters, self.config.grad_clip))
        taken = finite and bool(torch.isfinite(norm))
        if taken:
            self.scaler.step(self.optimizer)
        if self.scaler.is_enabled():
            self.scaler.update()
        return taken

    def state(self, step: int) -> dict[str, Any]:
        """The full state dict, gathered from all processes; every process must call this."""
        optimizer = self.zero.state() if self.zero else self.optimizer.state_dict()
        optimizer["state"] = {
            index: {key: full_tensor(value) for key, value in entry.items()}
            for index, entry in optimizer["state"].items()
        }
        return {
            "step": step,
            "weights": {k: full_tensor(p.detach()) for k, p in self.named.items()},
            "ema": {k: full_tensor(s) for k, s in zip(self.named, self.ema.shadow_params, strict=True)},
            "optimizer": optimizer,
            "scaler": self.scaler.state_dict(),
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
        }

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block, the parameters have their averaged values."""
        live = [p.detach().clone() for p in self.parameters]
        self.ema.copy_to(self.parameters)
        try:
            yield
        finally:
            for parameter, value in zip(self.parameters, live, strict=True):
                parameter.data.copy_(value)

    @torch.no_grad()
    def restore(self, state: dict[str, Any], path: Path) -> None:
        """Load ``state``; ``path`` is the file it was read from, for error messages."""
        if {k: v.shape for k, v in state["weights"].items()} != {k: p.shape for k, p in self.named.items()}:
            raise UserError(f"{path} belongs to another model: move it away or train with --fresh")
        for (key, parameter), shadow in zip(self.named.items(), self.ema.shadow_params, strict=True):
            local_shard(parameter.detach()).copy_(local_shard(shard_like(state["weights"][key], parameter)))
            local_shard(shadow).copy_(local_shard(shard_like(state["ema"][key], parameter)))
        self.skipped, self.skipped_in_a_row = state["skipped"], state["skipped_in_a_row"]
        if self.zero:
            self.zero.restore(state["optimizer"])
            return
        for index, entry in state["optimizer"]["state"].items():
            parameter = self.parameters[index]
            for key, value in entry.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape and value.dim():
                    entry[key] = shard_like(value, parameter)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])


def train(
    stage: Stage,
    config: LoopConfig,
    out: Path,
    resume: bool = True,
    *,
    stop_at: int | None = None,
    processes: Processes | None = None,
    made_by: Mapping[str, Any] | None = None,
) -> None:
    """Train ``stage`` to ``config.steps``, resuming from the newest checkpoint in ``out`` if there is one.

    Writes ``out/log.jsonl``, TensorBoard scalars, samples and checkpoints. Exports the components with
    averaged weights whenever samples are made and at the end.

    Args:
        stage: The stage to train.
        config: Settings of the loop.
        out: The run's folder.
        resume: False removes the checkpoints in ``out`` and starts from step 0.
        stop_at: Stop early at this step, for tests of resuming.
        processes: The processes that train together; this one alone if not given. Each must call this.
        made_by: Record of the run to save in each checkpoint, see ``checkpoints.describe``.

    Raises:
        NonFiniteLossError: ``config.max_skipped`` steps in a row had a loss or gradient that is not finite.
        UserError: The newest checkpoint is damaged or belongs to another model, or the batch can't be
            divided among the processes.
        OSError: The disk is full.
    """
    processes, made_by = processes or Processes(), dict(made_by or {})
    parts = processes.parts(config.batch_size, config.accumulate)
    if processes.sharded and config.precision == "float16":
        raise UserError("float16 is not supported under FSDP: set 'loop.precision' to bfloat16")
    if processes.sharded and config.optimizer == "adamw8bit":
        raise UserError("adamw8bit is not supported under FSDP: set 'loop.optimizer' to adamw")
    out.mkdir(parents=True, exist_ok=True)
    if processes.first:
        checkpoints.clean(out, all_of_them=not resume)
    processes.wait()
    run = Run(stage, config, processes)
    if isinstance(stage, KeepsStart):
        stage.start = processes.broadcast(stage.start)
    found = checkpoints.find(out)
    start = 0
    changed: list[str] = []
    if found:
        state = checkpoints.load(found[-1])
        run.restore(state, found[-1])
        if isinstance(stage, KeepsStart):
            stage.start = state.get("start", stage.start)
        start = int(state["step"])
        changed = checkpoints.changes(state["made_by"], made_by) if made_by else []
    monitor = Monitor(out, config, start) if processes.first else None
    if monitor:
        count = sum(p.numel() for p in run.parameters)
        monitor.say(f"{count / 1e6:.2f} M parameters, steps {start} to {config.steps}, output in {out}")
        if told := emulated(config.precision, config.device):
            monitor.say(told)
        if changed:
            monitor.say(f"the recipe has changed since step {start}: {'; '.join(changed)}")
    end = config.steps if stop_at is None else min(stop_at, config.steps)
    try:
        for step in range(start, end):
            losses = run.step(step, parts, processes)
            done = step + 1
            if run.skipped_in_a_row >= config.max_skipped:
                kept = checkpoints.find(out)
                raise NonFiniteLossError(
                    f"loss or gradient was not finite in {run.skipped_in_a_row} steps in a row, up to step "
                    f"{step}; "
                    + (f"the last checkpoint is {kept[-1]}" if kept else "no checkpoint was written yet")
                    + ". Lower loop.lr, or set loop.precision to float32 or bfloat16"
                )
            if monitor:
                monitor.step(losses)
                first = step == start  # at once, so that a slow run shows that it runs, and how fast
                if first or done % config.log_every == 0 or done == end:
                    monitor.report(done, run.skipped)
            sampled = bool(config.sample_every) and done % config.sample_every == 0
            if sampled or done == config.steps:
                measured = _show(stage, run, out, done, processes, sample=bool(config.sample_every))
                if monitor and measured:
                    monitor.log_metrics(measured, done)
            if done % config.checkpoint_every == 0 or done == end:
                state = run.state(done) | {"made_by": made_by}
                if isinstance(stage, KeepsStart):
                    state["start"] = stage.start
                if processes.first:
                    checkpoints.save(state, out, config.keep)
    finally:
        if monitor:
            monitor.close()
    processes.wait()


def _show(
    stage: Stage, run: Run, out: Path, step: int, processes: Processes, *, sample: bool
) -> Mapping[str, float]:
    """Sample and export with the averaged weights in the first process, while the others wait."""
    measured: Mapping[str, float] | None = None
    with run.averaged(), full_parameters(stage):
        if processes.first:
            if sample:
                with torch.no_grad():
                    measured = stage.sample(out, step)
            stage.export()
        processes.wait()
    return measured or {}


def _optimizer(parameters: list[nn.Parameter], config: LoopConfig) -> torch.optim.Optimizer:
    if config.optimizer == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit  # type: ignore[import-not-found, import-untyped, unused-ignore]

        return AdamW8bit(parameters, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, foreach=True)

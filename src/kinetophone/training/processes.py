"""The processes that train together: one, or several started by ``accelerate launch``.

accelerate starts them, joins them and gives each its device; the wrapping is torch's own: DDP, or FSDP2
where the launch asks for FSDP (``--use_fsdp --fsdp_version 2``); ``zero.py`` has DeepSpeed's ZeRO. FSDP here
splits the gradients, the averages and the optimiser's state of what is trained; the frozen bases are whole
in every process.

A batch is divided, not multiplied: n processes compute an n-th of ``batch_size`` each, and what is learned
does not depend on n.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from kinetophone.errors import UserError


class Objective(nn.Module):
    """The stage's loss as the forward pass of a module, which is what DDP and FSDP wrap."""

    def __init__(self, stage: Any) -> None:
        super().__init__()
        self.loss = stage.loss
        self.trained = nn.ModuleDict({name.replace(".", "_"): m for name, m in stage.trained.items()})

    def forward(
        self, rng: np.random.Generator, generator: torch.Generator, part: slice | None
    ) -> dict[str, Tensor]:
        return self.loss(rng, generator) if part is None else self.loss(rng, generator, part)


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank: Of this process, from 0; 0 writes.
        count: How many there are.
        sharded: FSDP rather than DDP.
        zero_stage: Of DeepSpeed's ZeRO, 0 without it.
        device: Of this process, None where the recipe's holds.
    """

    rank: int = 0
    count: int = 1
    sharded: bool = False
    zero_stage: int = 0
    device: str | None = None

    @classmethod
    def join(cls, device: str) -> Processes:
        """Join the others that were launched, for a recipe's ``device``; alone if there are none."""
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls()
        from accelerate import PartialState

        state = PartialState(cpu=device == "cpu")
        stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
        return cls(
            rank=state.process_index,
            count=state.num_processes,
            sharded=_asked("ACCELERATE_USE_FSDP"),
            zero_stage=int(stage) if _asked("ACCELERATE_USE_DEEPSPEED") else 0,
            device=str(state.device),
        )

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def parts(self, batch: int, accumulate: int) -> list[slice | None]:
        """Which samples of a batch this process computes, a slice a pass; None is all of them."""
        number = self.count * accumulate
        if number == 1:
            return [None]
        if batch % number:
            raise UserError(
                f"'loop.batch_size' {batch} can't be shared out to {self.count} processes in {accumulate} "
                f"parts each: make it a multiple of {number}"
            )
        size, first = batch // number, self.rank * accumulate
        return [slice(i * size, (i + 1) * size) for i in range(first, first + accumulate)]

    def wrap(self, objective: Objective) -> nn.Module:
        """``objective`` with gradients averaged over the processes; FSDP replaces its parameters."""
        if self.count == 1 or self.zero_stage:
            return objective
        if not self.sharded:
            return DistributedDataParallel(objective, broadcast_buffers=False)
        for parameter in objective.parameters():
            parameter.data = parameter.data.contiguous()  # channels_last weights are refused
        frozen = {p for p in objective.parameters() if not p.requires_grad}
        fully_shard(objective, ignored_params=frozen)
        return objective

    def mean(self, row: dict[str, Tensor]) -> dict[str, float]:
        """The losses of this process averaged over all."""
        values = torch.stack([value.detach().float() for value in row.values()])
        if self.count > 1:
            torch.distributed.all_reduce(values)
            values /= self.count
        return dict(zip(row, values.tolist(), strict=True))

    @contextlib.contextmanager
    def first_alone(self) -> Iterator[None]:
        """The first process goes through the block, then the others: it makes files that they read."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            torch.distributed.barrier()

    def leave(self) -> None:
        """When all are done, end this process if it is one of several; return if it is alone.

        Not by Python's own exit: threads of gloo may still hold tensors, and abort the process if they let go
        of them while Python shuts down (pytorch/pytorch#179291).
        """
        self.wait()
        if self.count > 1:
            torch.distributed.destroy_process_group()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)


def sync_only_last(model: nn.Module, last: bool) -> contextlib.AbstractContextManager[Any]:
    """Where DDP accumulates parts, gradients are averaged once, after the last."""
    return (
        model.no_sync()
        if isinstance(model, DistributedDataParallel) and not last
        else contextlib.nullcontext()
    )


def whole(tensor: Any) -> Any:
    """A tensor that FSDP split, put together (every process must call this); anything else as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own(tensor: Tensor) -> Tensor:
    """This process's piece of a tensor that FSDP split; any other tensor as it is. Shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def split_like(full: Tensor, tensor: Tensor) -> Tensor:
    """``full`` split as ``tensor`` is."""
    if not isinstance(tensor, DTensor):
        return full
    return distribute_tensor(full.to(tensor.device), tensor.device_mesh, tensor.placements)


@contextlib.contextmanager
def gathered(stage: Any) -> Iterator[None]:
    """Within the block the trained modules hold whole, plain parameters, also under FSDP."""
    swapped = []
    for root in stage.trained.values():
        for module in root.modules():
            for name, parameter in list(module._parameters.items()):
                if isinstance(parameter, DTensor):
                    swapped.append((module, name, parameter))
                    module._parameters[name] = nn.Parameter(whole(parameter.detach()), requires_grad=False)
    try:
        yield
    finally:
        for module, name, parameter in swapped:
            module._parameters[name] = parameter


def _asked(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() == "true"

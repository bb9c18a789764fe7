"""The processes that train together: one, or several started by ``accelerate launch``.

accelerate starts and connects them and assigns their devices. The model is wrapped with torch's own DDP, or
with FSDP2 if the launch asks for it (``--use_fsdp --fsdp_version 2``); ``zero.py`` has DeepSpeed's ZeRO. FSDP
shards the gradients, averages and optimiser state of the trained parameters. Every process has a full copy of
the frozen bases.

``batch_size`` is the global batch size: each of n processes computes 1/n of it, and the trained weights do
not depend on n.
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
    """The stage's loss as the forward pass of a module, so that DDP and FSDP can wrap it."""

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
        rank: Rank of this process, from 0. Rank 0 writes all files.
        count: Number of processes.
        sharded: Whether FSDP is used rather than DDP.
        zero_stage: Stage of DeepSpeed's ZeRO, 0 without it.
        device: Device of this process; None if the recipe's device applies.
    """

    rank: int = 0
    count: int = 1
    sharded: bool = False
    zero_stage: int = 0
    device: str | None = None

    @classmethod
    def join(cls, device: str) -> Processes:
        """Join the launched processes; returns a single process if there was no launch.

        Args:
            device: The recipe's device; "cpu" makes accelerate use the CPU.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls()
        from accelerate import PartialState

        state = PartialState(cpu=device == "cpu")
        stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
        return cls(
            rank=state.process_index,
            count=state.num_processes,
            sharded=_is_set("ACCELERATE_USE_FSDP"),
            zero_stage=int(stage) if _is_set("ACCELERATE_USE_DEEPSPEED") else 0,
            device=str(state.device),
        )

    @property
    def first(self) -> bool:
        """Whether this process writes files (rank 0)."""
        return self.rank == 0

    def parts(self, batch: int, accumulate: int) -> list[slice | None]:
        """The samples of a batch that this process computes, one slice per accumulation step.

        None stands for the entire batch.

        Raises:
            UserError: The batch can't be divided equally.
        """
        number = self.count * accumulate
        if number == 1:
            return [None]
        if batch % number:
            raise UserError(
                f"'loop.batch_size' {batch} can't be divided among {self.count} processes with {accumulate} "
                f"accumulation steps each: make it a multiple of {number}"
            )
        size, first = batch // number, self.rank * accumulate
        return [slice(i * size, (i + 1) * size) for i in range(first, first + accumulate)]

    def wrap(self, objective: Objective) -> nn.Module:
        """Wrap ``objective`` so that gradients are averaged over processes. FSDP replaces its parameters."""
        if self.count == 1 or self.zero_stage:
            return objective
        if not self.sharded:
            return DistributedDataParallel(objective, broadcast_buffers=False)
        for parameter in objective.parameters():
            parameter.data = parameter.data.contiguous()  # FSDP rejects channels_last weights
        frozen = {p for p in objective.parameters() if not p.requires_grad}
        fully_shard(objective, ignored_params=frozen)
        return objective

    def mean(self, row: dict[str, Tensor]) -> dict[str, float]:
        """Average this process's losses over all processes."""
        values = torch.stack([value.detach().float() for value in row.values()])
        if self.count > 1:
            torch.distributed.all_reduce(values)
            values /= self.count
        return dict(zip(row, values.tolist(), strict=True))

    def broadcast(self, value: Any) -> Any:
        """The ``value`` that the first process has; every process must call this."""
        shared = [value]
        if self.count > 1:
            torch.distributed.broadcast_object_list(shared)
        return shared[0]

    @contextlib.contextmanager
    def first_process_first(self) -> Iterator[None]:
        """Run the block in the first process, then in the others, which read files that the first made."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    def wait(self) -> None:
        """Wait until all processes get here."""
        if self.count > 1:
            torch.distributed.barrier()

    def leave(self) -> None:
        """Wait for all processes, then exit if this is one of several; a single process returns.

        ``os._exit`` skips Python's shutdown. Threads of gloo may still hold tensors and abort the process if
        they release them during shutdown (pytorch/pytorch#179291).
        """
        self.wait()
        if self.count > 1:
            torch.distributed.destroy_process_group()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)


def sync_only_last(model: nn.Module, last: bool) -> contextlib.AbstractContextManager[Any]:
    """Under DDP, average gradients over processes only after the last accumulation step."""
    return (
        model.no_sync()
        if isinstance(model, DistributedDataParallel) and not last
        else contextlib.nullcontext()
    )


def full_tensor(tensor: Any) -> Any:
    """The full tensor if FSDP sharded it (every process must call this); anything else unchanged."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_shard(tensor: Tensor) -> Tensor:
    """This process's shard if FSDP sharded the tensor, else the tensor itself. Shares memory with it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_like(full: Tensor, tensor: Tensor) -> Tensor:
    """``full`` sharded in the same way as ``tensor``."""
    if not isinstance(tensor, DTensor):
        return full
    return distribute_tensor(full.to(tensor.device), tensor.device_mesh, tensor.placements)


@contextlib.contextmanager
def full_parameters(stage: Any) -> Iterator[None]:
    """Within the block, trained modules have full, plain parameters, even under FSDP."""
    swapped = []
    for root in stage.trained.values():
        for module in root.modules():
            for name, parameter in list(module._parameters.items()):
                if isinstance(parameter, DTensor):
                    swapped.append((module, name, parameter))
                    module._parameters[name] = nn.Parameter(
                        full_tensor(parameter.detach()), requires_grad=False
                    )
    try:
        yield
    finally:
        for module, name, parameter in swapped:
            module._parameters[name] = parameter


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() == "true"

"""DeepSpeed's ZeRO, stages 1 and 2 (arXiv 1910.02054), as an alternative to DDP.

The optimiser state (stage 1) and also the gradients (stage 2) are partitioned across processes. Every process
has all weights and their averages. Checkpoints are gathered from all processes, so a run can resume with a
different number of processes or without DeepSpeed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kinetophone.errors import UserError
from kinetophone.training.recipe import LoopConfig

MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW, by torch's names


class Zero:
    """Backward passes and optimiser steps partitioned by DeepSpeed.

    Args:
        objective: The module that computes the loss, in float32. The caller handles autocast.
        optimizer: AdamW over its trained parameters, without any step taken. DeepSpeed keeps its settings
            and replaces its parameters.
        config: Settings of the loop. DeepSpeed clips the gradients.
        stage: ZeRO stage, 1 or 2.

    Raises:
        UserError: DeepSpeed is not installed, or does not support what the recipe asks for.
    """

    def __init__(
        self, objective: nn.Module, optimizer: torch.optim.Optimizer, config: LoopConfig, stage: int
    ) -> None:
        if stage not in (1, 2):
            raise UserError(
                f"DeepSpeed's ZeRO stage {stage} is not supported: launch with --zero_stage 1 or 2"
            )
        if config.precision == "float16" or config.optimizer != "adamw":
            raise UserError(
                "under DeepSpeed 'loop.precision' must be float32 or bfloat16 and 'loop.optimizer' adamw; "
                "launch with --multi_gpu to use others"
            )
        try:
            import deepspeed
        except ImportError as error:
            raise UserError("DeepSpeed is not installed: pip install deepspeed") from error
        self.parameters: list[nn.Parameter] = list(optimizer.param_groups[0]["params"])
        for parameter in self.parameters:
            parameter.data = parameter.data.contiguous()  # partitions are cut from flat copies
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=objective,
            model_parameters=self.parameters,
            optimizer=optimizer,
            config={
                "train_micro_batch_size_per_gpu": 1,  # the true size is not needed: the loss is a mean
                "gradient_accumulation_steps": 1,
                "gradient_clipping": config.grad_clip,
                "zero_optimization": {"stage": stage},
                "zero_allow_untested_optimizer": True,
            },
        )
        self.optimizer.check_grad_overflow = True  # by default only checked in half precision

    def backward(self, loss: Tensor, last: bool) -> None:
        """Run the backward pass; after the ``last`` accumulation step gradients are averaged."""
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss)

    def step(self) -> bool:
        """Take an optimiser step; returns False if it was skipped because gradients were not finite."""
        self.engine.step()
        return not self.optimizer.overflow

    def state(self) -> dict[str, Any]:
        """The state dict that AdamW would have in one process. Every process must call this."""
        from deepspeed.utils import safe_get_full_optimizer_state

        plain = self.optimizer.optimizer.state_dict()
        steps = [entry["step"] for entry in plain["state"].values()]
        state = {
            index: {"step": steps[0].clone()}
            | {name: safe_get_full_optimizer_state(parameter, name).cpu() for name in MOMENTS}
            for index, parameter in enumerate(self.parameters)
            if steps
        }
        return {"state": state, "param_groups": _groups(plain["param_groups"], len(self.parameters))}

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Load a state dict from :meth:`state` or AdamW, and pick up the model's current weights."""
        from deepspeed.utils import safe_set_full_optimizer_state

        self.optimizer.refresh_fp32_params()
        if not state["state"]:
            return
        adamw = self.optimizer.optimizer
        for flat in adamw.param_groups[0]["params"]:
            adamw.state[flat] = {"step": state["state"][0]["step"].clone()}
            adamw.state[flat] |= {name: torch.zeros_like(flat) for name in MOMENTS}
        self.optimizer._lazy_init_hp_params_optimizer_state()  # links the partitions to the parameters
        for index, parameter in enumerate(self.parameters):
            for name in MOMENTS:
                value = state["state"][index][name].to(parameter)
                safe_set_full_optimizer_state(parameter, value, name)


def _groups(groups: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The single param group, listing all parameters instead of the flat partition."""
    return [{**groups[0], "params": list(range(count))}]

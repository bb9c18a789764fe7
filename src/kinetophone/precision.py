"""Devices on which half precision is slower than float32."""

from __future__ import annotations

import torch


def emulated(precision: str, device: torch.device | str) -> str | None:
    """A warning for the user if ``device`` is a CPU that only emulates ``precision``; otherwise None.

    x86 CPUs up to AVX2 emulate half precision, which takes many times as long as float32.

    Args:
        precision: "float32", "bfloat16" or "float16".
        device: where the networks run.
    """
    has_it = torch.device(device).type != "cpu" or torch.backends.cpu.get_cpu_capability() != "AVX2"
    if precision == "float32" or has_it:
        return None
    return f"this CPU emulates {precision}, which takes many times as long as float32: choose float32"

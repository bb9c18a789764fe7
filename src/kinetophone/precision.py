"""Where half precision is no gain."""

from __future__ import annotations

import torch


def emulated(precision: str, device: torch.device | str) -> str | None:
    """What to tell a user whose ``device`` is a CPU that has no ``precision``, such as "bfloat16"; else None.

    x86 CPUs up to AVX2 compute in half precision by emulating it, which takes many times as long as float32.
    """
    has_it = torch.device(device).type != "cpu" or torch.backends.cpu.get_cpu_capability() != "AVX2"
    if precision == "float32" or has_it:
        return None
    return f"this CPU emulates {precision}, which takes many times as long as float32: choose float32"

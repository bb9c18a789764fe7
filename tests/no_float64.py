"""A device without float64, as Apple's GPUs are: the meta device stands in for one."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten


class NoFloat64(TorchDispatchMode):
    """Fails at the first float64 tensor on the meta device; what is read back from there is made up."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        on_device = bool(args) and isinstance(args[0], torch.Tensor) and args[0].device.type == "meta"
        if on_device and func is _aten._local_scalar_dense.default:
            return 1
        if on_device and func is _aten.nonzero.default:
            return torch.zeros((len(args[0]), args[0].dim()), dtype=torch.int64, device="meta")
        if (
            on_device
            and func is _aten._to_copy.default
            and torch.device(kwargs.get("device", "meta")).type == "cpu"
        ):
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        result = func(*args, **kwargs)
        if isinstance(result, torch.Tensor) and result.device.type == "meta":
            assert result.dtype != torch.float64, func
        return result

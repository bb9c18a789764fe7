"""Loading a metric's network from a file; code in a file runs only with the user's consent.

A TorchScript file has a network and its weights, and can run code when it is loaded or called. A safetensors
file has weights only, for a network that is defined here; see :mod:`kinetophone.metrics.networks.convert`.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinetophone.errors import RequestError, reason
from kinetophone.hub.locate import HubFile, locate_file
from kinetophone.hub.weights import SAFE, differences, file_format, read_tensors

if TYPE_CHECKING:
    from torch import nn

DEFINED_HERE = ("i3d", "vggish", "synchformer", "imagebind")  # networks that are defined here
NETWORK = "network"  # metadata key for the name of the network


def load(source: str, network: str, *, allow_torchscript: bool = False) -> Any:
    """Load the network of a file, on the CPU and in evaluation mode.

    Args:
        source: TorchScript, or safetensors of a network in ``DEFINED_HERE``: a file, or one on the Hub such
            as "owner/name/folder/weights.safetensors" or "owner/name@COMMIT/folder/network.pt".
        network: Name of the network; safetensors only work for those in ``DEFINED_HERE``.
        allow_torchscript: Whether the user allows TorchScript.

    Raises:
        RequestError: The file does not exist or has another format; or it is TorchScript that the user has
            not allowed, or that is on the Hub without a commit. Such a file is not downloaded.
    """
    return _load(source, network, allow_torchscript)


def empty_network(network: str) -> Any:
    """Build one of ``DEFINED_HERE`` without weights, in evaluation mode."""
    import torch

    from kinetophone.metrics.networks.i3d import I3D
    from kinetophone.metrics.networks.imagebind import ImageBind
    from kinetophone.metrics.networks.synchformer import Synchformer
    from kinetophone.metrics.networks.vggish import VGGish

    classes = {"i3d": I3D, "vggish": VGGish, "synchformer": Synchformer, "imagebind": ImageBind}
    with torch.device("meta"):
        return classes[network]().eval()


@lru_cache(maxsize=5)
def _load(source: str, network: str, allow_torchscript: bool) -> Any:
    # Any other suffix may be TorchScript, which is not even downloaded without consent.
    if not source.endswith(SAFE):
        _check_torchscript(source, "may be", allow_torchscript, fetched=False)
    file = locate_file(source)
    found = file_format(file)
    if found == "torchscript":
        _check_torchscript(source, "is", allow_torchscript)
        return _torchscript(source, file)
    if found == "safetensors" and network in DEFINED_HERE:
        return _defined(source, file, network)
    raise RequestError([f"'{source}' {_format_problem(source, found, network)}"])


def _check_torchscript(source: str, verb: str, allowed: bool, *, fetched: bool = True) -> None:
    there = None if Path(source).is_file() else HubFile.read(source)
    problems = []
    if there is not None and not there.is_pinned:
        named = f"'{source}' names '{there.revision}', which is no commit"
        if there.revision is None:  # may also be a mistyped path
            named = f"there is no file '{source}' here, and for one on the Hub it names no commit"
        problems.append(
            f"{named}: files that can run code are downloaded only at a commit you have checked, written "
            f"'{there.model}@COMMIT/{there.file}' (40 hexadecimal digits, on the Hub under Files, History)"
        )
    if not allowed and (fetched or there is not None):
        problems.append(
            f"'{source}' {verb} TorchScript, which can run code: if you trust its source, "
            "add --allow-torchscript, in Python allow_torchscript=True"
        )
    if problems:
        raise RequestError(problems)


def _torchscript(source: str, file: Path) -> Any:
    import torch

    try:
        return torch.jit.load(file, map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise RequestError([f"'{source}' cannot be loaded as TorchScript: {reason(error)}"]) from error


def _defined(source: str, file: Path, network: str) -> nn.Module:
    from safetensors import safe_open

    tensors = read_tensors(file, allow_pickle=False)
    with safe_open(file, "pt") as opened:
        named = (opened.metadata() or {}).get(NETWORK)
    if named is None:
        raise RequestError([f"'{source}' does not name its network: {_remedy(source, network)}"])
    if named != network:
        raise RequestError([f"'{source}' has the weights of {named}, but {network} is needed"])
    module: nn.Module = empty_network(network)
    problems = differences(module, tensors, file)
    if problems:
        raise RequestError(problems)
    # Not strict, because the counters of batch normalisation are missing. Names and shapes are checked above.
    module.load_state_dict(tensors, strict=False, assign=True)
    return module.float()


def _format_problem(source: str, found: str | None, network: str) -> str:
    if found is None:
        return "is neither TorchScript nor safetensors" if network in DEFINED_HERE else "is not TorchScript"
    kind = "safetensors" if found == "safetensors" else "a pickled state dict"
    if network not in DEFINED_HERE:
        return f"is {kind}, weights without a network, but TorchScript is needed; see docs/measuring.md"
    return f"is {kind}, weights without a network: {_remedy(source, network)} --allow-pickle"


def _remedy(source: str, network: str) -> str:
    # ImageBind's file is searched by this name in a folder.
    out = "model.safetensors" if network == "imagebind" else f"{network}.safetensors"
    return f"convert it with: kinetophone convert metric {network} {source} -o {out}"

"""Loading the network of a measure from a file, which runs code only with the user's consent.

TorchScript holds a network with its weights, and can run code when it is loaded or called. safetensors hold
weights alone, for a network that is defined here; :mod:`kinetophone.metrics.networks.convert` makes such
files.
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

DEFINED = ("i3d", "vggish", "synchformer", "imagebind")  # networks that are defined here
NETWORK = "network"  # key in the metadata of a file, which says of which network its weights are


def load(source: str, network: str, *, allow_torchscript: bool = False) -> Any:
    """The network of a file, on the CPU, in evaluation mode.

    Args:
        source: TorchScript, or safetensors of a network in ``DEFINED``: a file, or one on the Hub, as
            "owner/name/folder/weights.safetensors" or "owner/name@COMMIT/folder/network.pt".
        network: Which one it is; safetensors are only for those in ``DEFINED``.
        allow_torchscript: Whether the user agreed to load TorchScript.

    Raises:
        RequestError: The file is not there, or is something else; or it is TorchScript, and the user has
            not agreed, or it is on the Hub and names no commit. It is then not fetched.
    """
    return _load(source, network, allow_torchscript)


def empty_network(network: str) -> Any:
    """One of ``DEFINED`` without weights, in evaluation mode."""
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
    # What is not called safetensors may be TorchScript, and is not even fetched without consent.
    if not source.endswith(SAFE):
        _check_torchscript(source, "may be", allow_torchscript, fetched=False)
    file = locate_file(source)
    found = file_format(file)
    if found == "torchscript":
        _check_torchscript(source, "is", allow_torchscript)
        return _torchscript(source, file)
    if found == "safetensors" and network in DEFINED:
        return _defined(source, file, network)
    raise RequestError([f"'{source}' {_otherwise(source, found, network)}"])


def _check_torchscript(source: str, verb: str, allowed: bool, *, fetched: bool = True) -> None:
    there = None if Path(source).is_file() else HubFile.read(source)
    problems = []
    if there is not None and not there.is_pinned:
        named = f"'{source}' names '{there.revision}', which is no commit"
        if there.revision is None:  # it may be a mistyped path, too
            named = f"there is no file '{source}' here, and for one on the Hub it names no commit"
        problems.append(
            f"{named}: what can run code is fetched only as it was when you checked it, written "
            f"'{there.model}@COMMIT/{there.file}' (40 hexadecimal digits, on the Hub under Files, History)"
        )
    if not allowed and (fetched or there is not None):
        problems.append(
            f"'{source}' {verb} TorchScript, which can run code: if you trust its source, "
            "say --allow-torchscript, in Python allow_torchscript=True"
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
        raise RequestError([f"'{source}' does not say of which network it is: {_remedy(source, network)}"])
    if named != network:
        raise RequestError([f"'{source}' has the weights of {named}, where {network} is wanted"])
    module: nn.Module = empty_network(network)
    problems = differences(module, tensors, file)
    if problems:
        raise RequestError(problems)
    # Not strict: batch normalisation would ask for its counter. Names and shapes are compared above.
    module.load_state_dict(tensors, strict=False, assign=True)
    return module.float()


def _otherwise(source: str, found: str | None, network: str) -> str:
    if found is None:
        return "is neither TorchScript nor safetensors" if network in DEFINED else "is not TorchScript"
    kind = "safetensors" if found == "safetensors" else "a pickled state dict"
    if network not in DEFINED:
        return f"is {kind}, weights without a network, where TorchScript is wanted; see docs/measuring.md"
    return f"is {kind}, weights without a network: {_remedy(source, network)} --allow-pickle"


def _remedy(source: str, network: str) -> str:
    # The last one is looked for by this name, in a folder.
    out = "model.safetensors" if network == "imagebind" else f"{network}.safetensors"
    return f"convert it with: kinetophone convert metric {network} {source} -o {out}"

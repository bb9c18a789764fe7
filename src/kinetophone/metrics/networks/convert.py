"""Conversion of a metric network's published weights to a file that loads without running code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kinetophone.errors import RequestError
from kinetophone.hub.locate import locate_file
from kinetophone.hub.weights import SAFE, differences, file_format, read_tensors
from kinetophone.metrics.networks.load import DEFINED_HERE, NETWORK, empty_network

if TYPE_CHECKING:
    from torch import Tensor

# Networks that need no conversion or cannot be converted.
_OTHERS = {
    "clap": "needs no conversion: give evaluate --clap a Hub id or folder",
    "clip": "needs no conversion: give evaluate --clip a Hub id or folder",
    "languagebind": "is not defined here: export it to TorchScript, see docs/measuring.md",
}


def convert_metric(
    network: str, source: str | os.PathLike[str], out: str | os.PathLike[str], *, allow_pickle: bool = False
) -> None:
    """Convert published weights to the format that ``Extractor`` and ``kinetophone evaluate`` load.

    Args:
        network: "i3d", "vggish", "synchformer" or "imagebind".
        source: State dict of the published PyTorch weights, a file or "owner/name/file" on the Hub.
        out: File to write, ``.safetensors``.
        allow_pickle: Allow a pickled ``source``, read as tensors only.

    Raises:
        RequestError: The file cannot be read, or names or shapes of its tensors do not match the network;
            the error has a line for each kind of difference.
    """
    from safetensors.torch import save

    from kinetophone.files import replacing

    if network not in DEFINED_HERE:
        why = _OTHERS.get(network, f"is unknown; choose from {', '.join(DEFINED_HERE)}")
        raise RequestError([f"metric network '{network}' {why}"])
    if Path(out).suffix not in SAFE:
        raise RequestError([f"'{out}' will be safetensors: name it '{Path(out).with_suffix(SAFE[0])}'"])
    file = locate_file(source)
    if file_format(file) == "torchscript":
        given = "FOLDER, as its model.pt," if network == "imagebind" else source
        raise RequestError(
            [
                f"'{source}' is TorchScript, which includes its network and needs no conversion: "
                f"give it to evaluate, --{network} {given} --allow-torchscript"
            ]
        )
    tensors = read_tensors(file, allow_pickle)
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    module = empty_network(network)
    tensors = module.select(tensors)
    problems = differences(module, tensors, file)
    if problems:
        raise RequestError(problems)
    whole = {name: _own(tensor.float()) for name, tensor in tensors.items()}
    with replacing(out) as partial:
        # Not save_file, whose files are readable by their owner only.
        Path(partial).write_bytes(save(whole, metadata={"format": "pt", NETWORK: network}))


def _own(tensor: Tensor) -> Tensor:
    """The tensor, copied if it is a view, because views cannot be saved."""
    whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if whole else tensor.contiguous().clone()

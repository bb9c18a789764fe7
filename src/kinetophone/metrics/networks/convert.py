"""Published weights of a measure's network as a file that loads without running code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kinetophone.errors import RequestError
from kinetophone.hub.locate import locate_file
from kinetophone.hub.weights import SAFE, differences, file_format, read_tensors
from kinetophone.metrics.networks.load import DEFINED, NETWORK, empty_network

if TYPE_CHECKING:
    from torch import Tensor

# What the user may ask to convert, and need not or cannot.
_OTHERS = {
    "clap": "needs no conversion: give evaluate --clap a Hub id or folder",
    "clip": "needs no conversion: give evaluate --clip a Hub id or folder",
    "languagebind": "is not defined here: export it to TorchScript, see docs/measuring.md",
}


def convert_metric(
    network: str, source: str | os.PathLike[str], out: str | os.PathLike[str], *, allow_pickle: bool = False
) -> None:
    """Write the weights of ``source`` to ``out``, as ``Extractor`` and ``kinetophone evaluate`` load them.

    Args:
        network: "i3d", "vggish", "synchformer" or "imagebind".
        source: a state dict of the published PyTorch weights: a file, or "owner/name/file" on the Hub.
        out: file to write, ``.safetensors``.
        allow_pickle: read a pickled ``source``, as tensors only.

    Raises:
        RequestError: if the names or shapes of the tensors are not the network's, each kind of difference
            in a line; or the file cannot be read.
    """
    from safetensors.torch import save

    from kinetophone.media.write import replacing

    if network not in DEFINED:
        why = _OTHERS.get(network, f"is unknown; there are {', '.join(DEFINED)}")
        raise RequestError([f"metric network '{network}' {why}"])
    if Path(out).suffix not in SAFE:
        raise RequestError([f"'{out}' will hold safetensors: name it '{Path(out).with_suffix(SAFE[0])}'"])
    file = locate_file(source)
    if file_format(file) == "torchscript":
        given = "FOLDER, as its model.pt," if network == "imagebind" else source
        raise RequestError(
            [
                f"'{source}' is TorchScript, which has its network and needs no conversion: "
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
        # Not save_file, whose files only their owner may read.
        Path(partial).write_bytes(save(whole, metadata={"format": "pt", NETWORK: network}))


def _own(tensor: Tensor) -> Tensor:
    """The tensor, copied where it is a view: such weights cannot be saved."""
    whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if whole else tensor.contiguous().clone()

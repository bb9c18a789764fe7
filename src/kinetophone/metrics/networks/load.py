"""Loading the network of a measure from a file, which runs code only with the user's consent.

TorchScript holds the network with its weights, and can run any code that TorchScript can express when it is
loaded or called. safetensors hold weights alone, for a network that is defined here; ``kinetophone convert
metric`` makes such files.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from kinetophone.bases.hub import HubFile, locate_file
from kinetophone.bases.weights import file_format
from kinetophone.errors import RequestError


def load(source: str, allow_torchscript: bool = False) -> Any:
    """The TorchScript network of a file, on the CPU, in evaluation mode.

    Args:
        source: A file, or one on the Hub at a commit, written "owner/name@COMMIT/folder/network.pt".
        allow_torchscript: Whether the user agreed to load TorchScript.

    Raises:
        RequestError: It is not there, is not TorchScript, names no commit, or the user has not agreed. A
            file on the Hub is then not fetched.
    """
    return _load(source, allow_torchscript)


@lru_cache(maxsize=5)
def _load(source: str, allow_torchscript: bool) -> Any:
    import torch

    there = HubFile.read(source)
    if not Path(source).is_file() and there is not None:
        problems = [] if there.is_pinned else [_unpinned(source, there)]
        if not allow_torchscript:
            problems.append(_refusal(f"'{source}' may hold"))
        if problems:
            raise RequestError(problems)
    file = locate_file(source)
    found = file_format(file)
    if found != "torchscript":
        raise RequestError([f"'{source}' {_not_torchscript(found)}"])
    if not allow_torchscript:
        raise RequestError([_refusal(f"'{source}' is")])
    try:
        return torch.jit.load(file, map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RequestError([f"'{source}' cannot be loaded as TorchScript: {reason}"]) from error


def _refusal(what: str) -> str:
    return (
        f"{what} TorchScript, which can run code: if you trust its source, "
        "say --allow-torchscript, in Python allow_torchscript=True"
    )


def _unpinned(source: str, there: HubFile) -> str:
    why = "names no commit" if there.revision is None else f"names '{there.revision}', which is not a commit"
    return (
        f"'{source}' {why}: what can run code is fetched only as it was when you checked it, written "
        f"'{there.model}@COMMIT/{there.file}' (40 hexadecimal digits, on the Hub under Files, History)"
    )


def _not_torchscript(found: str | None) -> str:
    if found is None:
        return "is not TorchScript"
    kind = "safetensors" if found == "safetensors" else "a pickled state dict"
    return f"is {kind}, weights without the network, where TorchScript is wanted; see docs/measuring.md"

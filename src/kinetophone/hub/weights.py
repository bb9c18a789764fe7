"""Weight files: which file of a folder to read, and whether pickled ones are allowed.

A pickle can run code. It is read only if the user agreed (``allow_pickle``), and then as tensors only, with
``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from kinetophone.errors import RequestError, reason

if TYPE_CHECKING:
    from torch import Tensor, nn

SAFE = (".safetensors",)
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
# Names of weight files in diffusers and transformers; "-00001-of-00002" marks a shard, "fp16" a variant.
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<before>\w+))?(?:-\d{5}-of-\d{5})?"
    r"(?:\.(?P<after>\w+))?\.(?P<format>safetensors|bin)"
)
_INDEX = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)\.(?P<format>safetensors|bin)\.index"
    r"(?:\.(?P<after>\w+))?\.json"
)
_VARIANTS = (None, "fp32", "fp16", "bf16")  # in order of preference; any other comes last
# Keys under which training scripts store the state dict in a checkpoint.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
_LISTED = 5  # tensors named in an error message


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """One set of weights of a network.

    Attributes:
        names: The files, including the index of shards.
        pickled: Whether they are pickles.
        variant: Such as "fp16"; None for the default set.
    """

    names: tuple[str, ...]
    pickled: bool
    variant: str | None


def choose_weights(names: Iterable[str]) -> WeightFiles | None:
    """Choose the set of weights to read among file names of a folder; None if there is none.

    safetensors are preferred to pickles, and the default set to its variants.
    """
    sets: dict[tuple[bool, str | None], list[str]] = {}
    for name in sorted(names):
        match = _WEIGHTS.fullmatch(name) or _INDEX.fullmatch(name)
        if match is not None:
            parts = match.groupdict()
            variant = parts.get("before") or parts["after"]
            sets.setdefault((parts["format"] == "bin", variant), []).append(name)
    if not sets:
        return None

    def preference(key: tuple[bool, str | None]) -> tuple[bool, int, str]:
        pickled, variant = key
        known = _VARIANTS.index(variant) if variant in _VARIANTS else len(_VARIANTS)
        return pickled, known, variant or ""

    best = min(sets, key=preference)
    return WeightFiles(tuple(sets[best]), *best)


def is_weight_file(name: str) -> bool:
    """Whether a file of this name has weights, or is the index of sharded weights."""
    return bool(_WEIGHTS.fullmatch(name) or _INDEX.fullmatch(name))


def find_weights(folder: Path) -> WeightFiles | None:
    """The set of weights to read in ``folder``; see :func:`choose_weights`."""
    return choose_weights(path.name for path in folder.iterdir()) if folder.is_dir() else None


def file_format(file: Path) -> Literal["safetensors", "torchscript", "pickle"] | None:
    """Detect the format of a weight file by its content, without reading tensors; None if unknown."""
    with file.open("rb") as opened:
        start = opened.read(9)
    if zipfile.is_zipfile(file):
        try:
            with zipfile.ZipFile(file) as archive:
                inside = {PurePosixPath(name).name for name in archive.namelist()}
        except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError):
            return None
        if "constants.pkl" in inside:  # torch.load recognises TorchScript the same way
            return "torchscript"
        return "pickle" if "data.pkl" in inside else None
    if start[8:] == b"{":  # after the length of the header
        return "safetensors"
    return "pickle" if start[:1] == b"\x80" else None


def refusal(where: str, names: Sequence[str]) -> str:
    """The error message for pickled weight files ``names`` without the user's consent."""
    listed = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
    return (
        f"{where} has only pickled weights ({listed}), which can run code: to read them as tensors only, use "
        "--allow-pickle, in Python allow_pickle=True, in a recipe 'bases: {allow_pickle: true}'"
    )


def read_tensors(file: Path, allow_pickle: bool) -> dict[str, Tensor]:
    """Read all tensors of a weight file by name, on the CPU.

    Args:
        file: safetensors, or a pickled state dict, also one inside a training checkpoint.
        allow_pickle: whether the user agreed to pickles.

    Raises:
        RequestError: it is missing, damaged, has more than tensors, or is pickled without consent.
    """
    import torch
    from safetensors.torch import load_file

    if not file.is_file():
        raise RequestError([f"there is no file '{file}'"])
    safe = file.suffix in SAFE or file_format(file) == "safetensors"
    if not safe and not allow_pickle:
        raise RequestError([refusal(f"'{file.parent}'", [file.name])])
    try:
        found: Any = load_file(file) if safe else torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged pickles raise all kinds of exceptions
        raise RequestError([f"'{file}' is damaged or holds more than tensors ({reason(error)})"]) from None
    wrapper = next(
        (key for key in _WRAPPERS if isinstance(found, dict) and isinstance(found.get(key), dict)), None
    )
    if wrapper is not None:
        found = found[wrapper]
    if (
        not isinstance(found, dict)
        or not found
        or not all(isinstance(x, torch.Tensor) for x in found.values())
    ):
        raise RequestError([f"'{file}' is not a state dict"])
    return found


def read_folder(folder: Path, allow_pickle: bool) -> dict[str, Tensor]:
    """Read all tensors of a folder's weights by name, on the CPU; see :func:`read_tensors`.

    Raises:
        RequestError: there are no weights, or a file cannot be read.
    """
    weights = find_weights(folder)
    if weights is None:
        raise RequestError([f"'{folder}' has no weights (*.safetensors or *.bin)"])
    tensors: dict[str, Tensor] = {}
    for name in weights.names:
        if not name.endswith(".json"):
            tensors |= read_tensors(folder / name, allow_pickle)
    return tensors


def differences(module: nn.Module, tensors: Mapping[str, Tensor], where: Path) -> list[str]:
    """Differences in names and shapes between ``tensors`` and the state dict of ``module``, by kind."""
    wanted = {name: tuple(x.shape) for name, x in module.state_dict().items()}
    given = {name: tuple(x.shape) for name, x in tensors.items()}
    both = wanted.keys() & given.keys()
    different = {
        "lacks": sorted(wanted.keys() - both),
        "has in addition": sorted(given.keys() - both),
        "has in another shape": [
            f"{name} {given[name]}, expected {wanted[name]}"
            for name in sorted(both)
            if given[name] != wanted[name]
        ],
    }
    return [
        f"'{where}' {what} {len(names)} tensors: {', '.join(names[:_LISTED])}"
        + (" …" if len(names) > _LISTED else "")
        for what, names in different.items()
        if names
    ]

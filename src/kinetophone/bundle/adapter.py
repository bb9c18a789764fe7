"""Adapters: a coupling as one safetensors file, with the names and revisions of its bases.

The metadata of the file hold the description of the bundle, as in ``kinetophone.json``, and the configuration
of the coupling. So the file is a complete bundle whose bases are elsewhere.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kinetophone.bundle.spec import ADAPTER_KEYS, BundleSpec
from kinetophone.errors import RequestError, reason
from kinetophone.files import replacing
from kinetophone.hub.components import cast

if TYPE_CHECKING:
    from kinetophone.coupling.coupling import Coupling


def write_adapter(file: Path | str, coupling: Coupling, spec: BundleSpec, dtype: torch.dtype) -> None:
    """Write an adapter.

    Args:
        file: the file, ``.safetensors``. A folder on the Hub is a bundle if the adapter in it is named
            ``kinetophone.safetensors``.
        coupling: the coupling.
        spec: the description of its bundle, which must name both bases.
        dtype: dtype of the stored weights.

    Raises:
        RequestError: the bundle holds its own bases, or the name of the file has another suffix.
    """
    from safetensors.torch import save_file

    path = Path(file)
    if path.suffix != ".safetensors":
        raise RequestError([f"'{file}' cannot be an adapter: its name must end with .safetensors"])
    if missing := {"audio", "video"} - spec.bases.keys():
        raise RequestError(
            [
                f"bundle '{spec.name}' holds its own {' and '.join(sorted(missing))} base, which does not "
                "fit into an adapter: pack it into a folder"
            ]
        )
    config = {key: value for key, value in coupling.config.items() if not key.startswith("_")}
    described = (json.dumps(spec.described(path.parent)), json.dumps(config))
    tensors = {name: x.detach().to("cpu", dtype).contiguous() for name, x in coupling.state_dict().items()}
    with replacing(path) as partial:
        save_file(tensors, partial, {"format": "pt", **dict(zip(ADAPTER_KEYS, described, strict=True))})


def read_adapter(file: Path | str, dtype: torch.dtype) -> Coupling:
    """The coupling in an adapter, in evaluation mode.

    Raises:
        RequestError: the file is no adapter, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    from kinetophone.coupling.coupling import Coupling

    try:
        with safe_open(file, framework="pt") as opened:
            config = json.loads((opened.metadata() or {})[ADAPTER_KEYS[1]])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        coupling = Coupling.from_config(config)
        coupling.load_state_dict(tensors)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise RequestError([f"'{file}' is not an adapter of kinetophone: {reason(error)}"]) from error
    if broken := [name for name, x in coupling.named_parameters() if not torch.isfinite(x.float().sum())]:
        raise RequestError([f"'{file}' is damaged: {broken[0]} is not finite"])
    return cast(coupling, dtype).eval()


def pack_adapter(name_or_path: str | os.PathLike[str], file: Path, dtype: torch.dtype) -> None:
    """Write the coupling of a bundle as an adapter, without loading its bases.

    Raises:
        RequestError: there is no such bundle, or it holds its own bases.
    """
    from kinetophone.bundle.load import coupling_of

    spec = BundleSpec.read(name_or_path)
    write_adapter(file, coupling_of(spec, torch.float32), spec, dtype)


def store_in_adapter(spec: BundleSpec, **changes: object) -> None:
    """Change the description in an adapter, the file of ``spec``."""
    assert spec.file is not None
    coupling = read_adapter(spec.file, torch.float32)
    changed = replace(spec, **changes)  # type: ignore[arg-type]
    write_adapter(spec.file, coupling, changed, torch.float32)

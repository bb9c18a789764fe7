"""Reading the components of a diffusers folder, and what every base does with an autoencoder or a text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def load_component(folder: Path, name: str, library: str) -> Any:
    """Load ``folder/name`` as the class its ``config.json`` names.

    ``library`` has that class: "diffusers" or "transformers".

    Raises ValueError where the component is not there or is of no known class.
    """
    path = Path(folder) / name
    config = next((path / f for f in ("config.json", "scheduler_config.json") if (path / f).is_file()), None)
    if config is None:
        raise ValueError(f"{path} holds no config.json: is {folder} a folder in diffusers layout?")
    settings = json.loads(config.read_text())
    named = settings.get("_class_name") or (settings.get("architectures") or [None])[0]
    module = __import__(library)
    if not named or not hasattr(module, named):
        raise ValueError(f"{config} names the class {named!r}, which {library} does not have")
    if config.name == "scheduler_config.json":
        return getattr(module, named).from_pretrained(path)
    # Bundles are stored in half precision and run in float32: nothing is guessed from the files.
    dtype = {"torch_dtype" if library == "diffusers" else "dtype": torch.float32}
    return getattr(module, named).from_pretrained(path, **dtype)


_LIBRARIES = {
    "unet": "diffusers",
    "vae": "diffusers",
    "scheduler": "diffusers",
    "text_encoder": "transformers",
    "vocoder": "transformers",
}


def load_components(folder: Path | str, names: Iterable[str]) -> dict[str, Any]:
    """Load the named components of a folder in diffusers layout; networks are in evaluation mode.

    Raises ValueError where a component is missing.
    """
    from transformers import AutoTokenizer

    root = Path(folder)
    loaded: dict[str, Any] = {}
    for name in names:
        if name == "tokenizer":
            loaded[name] = AutoTokenizer.from_pretrained(root / name)
            continue
        component = load_component(root, name, _LIBRARIES[name])
        loaded[name] = component.eval() if isinstance(component, nn.Module) else component
    return loaded


def save_component(component: Any, path: Path, dtype: torch.dtype) -> None:
    """Save ``component`` as ``dtype`` where it is a network; it stays in float32 itself."""
    if isinstance(component, nn.Module):
        component.to(dtype)
    component.save_pretrained(path)
    if isinstance(component, nn.Module):
        component.float()


def encode_latents(vae: Any, x: Tensor) -> Tensor:
    """Scaled latents of ``x``: the posterior's mode where the autoencoder is variational."""
    out = vae.encode(x)
    z = out.latent_dist.mode() if hasattr(out, "latent_dist") else out.latent
    return z * vae.config.scaling_factor


def decode_latents(vae: Any, z: Tensor, batch: int = 64) -> Tensor:
    """Undo :func:`encode_latents`, ``batch`` items at a time."""
    return torch.cat([vae.decode(part / vae.config.scaling_factor).sample for part in z.split(batch)])


def tokenize(tokenizer: Any, texts: list[str], device: torch.device) -> dict[str, Tensor]:
    """Token ids and mask, padded to the tokenizer's full length."""
    tokens = tokenizer(
        texts,
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    )
    return {key: tokens[key].to(device) for key in ("input_ids", "attention_mask")}

"""CLAP and CLIP models from transformers with their processors, and unit embeddings."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kinetophone.errors import RequestError

if TYPE_CHECKING:
    import torch

_MODELS = ("ClapModel", "CLIPModel")


def text_features(texts: list[str], source: str, allow_pickle: bool = False) -> np.ndarray:
    """CLAP's or CLIP's unit embeddings of texts, (N, D)."""
    import torch

    model, processor = transformer(source, "get_text_features", allow_pickle)
    inputs = processor.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    names = {"input_ids", "attention_mask"}
    with torch.no_grad():
        return unit_norm(model.get_text_features(**{k: v for k, v in inputs.items() if k in names}))


def transformer(source: str, method: str, allow_pickle: bool = False) -> Any:
    """Load a CLAP or CLIP model and its processor; the model must have ``method``."""
    model, processor = _model_and_processor(source, allow_pickle)
    if not hasattr(model, method):
        kind = {"get_audio_features": "CLAP", "get_image_features": "CLIP"}.get(method, "CLAP or CLIP")
        raise RequestError([f"'{source}' is a {type(model).__name__}; it must be a {kind} model"])
    return model, processor


@lru_cache(maxsize=2)
def _model_and_processor(source: str, allow_pickle: bool) -> Any:
    import torch
    import transformers

    from kinetophone.hub.components import component_class, load_network, quiet
    from kinetophone.hub.locate import locate

    name, _, revision = (source, "", "") if Path(source).is_dir() else source.partition("@")
    folder = locate(name, [""], revision=revision or None, allow_pickle=allow_pickle).folder
    # Without these files transformers would create a tokenizer with an empty vocabulary.
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "vocab.txt")):
        raise RequestError([f"'{source}' has no tokenizer (tokenizer.json or vocab.json)"])
    named = component_class(folder)
    if named not in _MODELS:
        raise RequestError([f"'{source}' names the class {named!r}; supported: {', '.join(_MODELS)}"])
    kind = getattr(transformers, named)
    model = load_network(folder, kind, dtype=torch.float32, allow_pickle=allow_pickle)
    with quiet():
        return model, transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=False)


def unit_norm(found: Any) -> np.ndarray:
    """Unit embeddings (N, D) from a model's output."""
    # transformers 5 returns the whole output, 4 the tensor.
    tensor = getattr(found, "pooler_output", found)
    return as_array(tensor / tensor.norm(dim=-1, keepdim=True).clamp(min=1e-12))


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """Convert a tensor to a float32 array on the CPU."""
    return tensor.float().cpu().numpy()

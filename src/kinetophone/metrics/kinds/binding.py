"""Joint embeddings of audio, video and text: ImageBind (Girdhar et al. 2023), LanguageBind (Zhu et al. 2024).

Neither network ships with this package. The user names a folder with

- ``model.safetensors``, made by ``kinetophone convert metric imagebind``; or ``model.pt``, TorchScript
  exported with the authors' package. The module has the methods ``sound``, for float32
  (1, ``audio_samples``) at 16 kHz; ``frames``, for float32 (1, ``frame_count``, 3, ``side``, ``side``) in
  [0, 1]; and ``texts``, for int64 (N, 77). Each returns embeddings (., D). ``audio_samples``,
  ``frame_count`` and ``side`` are integer attributes. The module includes the spectrogram and normalisation;
- the files of the tokenizer (CLIP's), if captions are compared.

Audio is split into windows of ``audio_samples``, the last of which ends with the clip, and their embeddings
are averaged. Shorter audio is repeated. Frames are evenly spaced over the clip.
"""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinetophone.metrics.registry import Consent, Metric, Sample, Scores

if TYPE_CHECKING:
    import numpy as np

    from kinetophone.media.clip import Clip

RATE, TOKENS = 16_000, 77


def load_folder(folder: str, name: str, allow_torchscript: bool = False) -> Any:
    """Load the network of a folder; ``name`` is "imagebind" or "languagebind".

    Raises:
        OSError: The folder has no network.
        ValueError: The network lacks a method or an attribute.
    """
    from kinetophone.metrics.networks.load import load

    files = [Path(folder) / file for file in ("model.safetensors", "model.pt")]
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        raise OSError(f"there is neither '{files[0]}' nor model.pt next to it; see docs/measuring.md")
    model = load(str(path), name, allow_torchscript=allow_torchscript)
    parts = ("sound", "frames", "texts", "audio_samples", "frame_count", "side")
    missing = [part for part in parts if not hasattr(model, part)]
    if missing:
        raise ValueError(f"its {path.name} lacks {', '.join(missing)}; see docs/measuring.md")
    return model


def bound_clip(clip: Clip, folder: str, name: str, allow_torchscript: bool = False) -> dict[str, np.ndarray]:
    """Unit embeddings ``<name>_sound`` and ``<name>_frames`` of a clip, (1, D) each."""
    import numpy as np
    import torch

    from kinetophone.media.read import resample_audio, resize

    model = load_folder(folder, name, allow_torchscript)
    sound = resample_audio(clip.mono, clip.sample_rate, RATE)
    length = int(model.audio_samples)
    sound = np.tile(sound, -(-length // len(sound)))[: max(length, len(sound))]
    last = len(sound) - length
    starts = sorted({*range(0, last + 1, length), last})
    places = np.linspace(0, len(clip.video) - 1, int(model.frame_count)).round().astype(int)
    size = (int(model.side), int(model.side))
    seen = torch.from_numpy(np.stack([resize(clip.video[place], size) for place in places]))
    with torch.no_grad():
        windows = [torch.from_numpy(sound[start : start + length])[None] for start in starts]
        heard = torch.cat([_unit(model.sound(window)) for window in windows]).mean(0, keepdim=True)
        watched = model.frames(seen.permute(0, 3, 1, 2).div(255)[None])
    return {f"{name}_sound": _unit(heard).numpy(), f"{name}_frames": _unit(watched).numpy()}


def bound_texts(texts: list[str], folder: str, name: str, allow_torchscript: bool = False) -> np.ndarray:
    """Unit embeddings of texts, (N, D)."""
    import numpy as np
    import torch

    tokens = tokenizer(folder)(
        texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
    )
    with torch.no_grad():
        return np.asarray(
            _unit(load_folder(folder, name, allow_torchscript).texts(tokens["input_ids"])).numpy()
        )


@lru_cache(maxsize=2)
def tokenizer(folder: str) -> Any:
    """Load the tokenizer of a folder; raises OSError if there is none."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def _unit(found: Any) -> Any:
    found = found.float()
    return found / found.norm(dim=-1, keepdim=True).clamp(min=1e-12)


TITLES = {"imagebind": "ImageBind", "languagebind": "LanguageBind"}


def _load(name: str, source: str, consent: Consent, texts: bool) -> Any:
    if texts:
        tokenizer(source)
    return load_folder(source, name, consent.torchscript)


def _extract(name: str, clip: Clip, source: str, consent: Consent) -> dict[str, np.ndarray]:
    return bound_clip(clip, source, name, consent.torchscript)


def _score(name: str, sample: Sample) -> Scores:
    """Mean cosine similarities of audio and video and, with captions, of text with either."""
    from kinetophone.metrics.control import shuffled_control
    from kinetophone.metrics.quality import captioned, cosine

    clips, title, seed = sample.clips, TITLES[name], sample.seed
    heard = [clip.features[f"{name}_sound"] for clip in clips]
    seen = [clip.features[f"{name}_frames"][0] for clip in clips]
    found = {f"{title} sound-picture": shuffled_control(cosine, heard, seen, seed)} if clips else {}
    if sample.captions:
        known, texts = captioned(sample, f"{name}_sound")
        embedded = list(bound_texts(texts, sample.source, name, sample.consent.torchscript))
        for kind, other in {"sound": "text-sound", "frames": "text-picture"}.items():
            ours = [clip.features[f"{name}_{kind}"] for clip in known]
            found[f"{title} {other}"] = shuffled_control(cosine, ours, embedded, seed)
    return Scores(semantics=found)


METRICS = [
    Metric(
        name=name,
        source=name,
        source_help=f"Folder of {TITLES[name]}{how}.",
        load=partial(_load, name),
        extract=partial(_extract, name),
        score=partial(_score, name),
    )
    for name, how in (("imagebind", ", converted or TorchScript"), ("languagebind", " as TorchScript"))
]

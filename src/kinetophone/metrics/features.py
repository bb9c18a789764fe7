"""Features of networks, for distances between sets and agreement with captions.

Nothing is downloaded by itself: each network is named by the user, as a file, a folder or a Hub id. The one
exception ships with the bundle: the classifiers of the ``hits`` domain.

A worker process calls ``Extractor`` on each clip it decodes, and loads each network once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kinetophone.errors import RequestError
from kinetophone.metrics.networks.load import load

if TYPE_CHECKING:
    import torch

    from kinetophone.media.clip import Clip, Frames

FVD_FRAMES, FVD_SIDE = 16, 224
CLAP_RATE = 48_000
VGGISH_RATE = 16_000
_MODELS = ("ClapModel", "CLIPModel")
CLIP_FRAMES = 8  # of a clip, evenly spaced, are compared with its caption


@dataclass(frozen=True, slots=True)
class Extractor:
    """What to compute of each clip; a path or id that is None leaves its features out.

    Attributes:
        hits: Folder of a bundle: ``hits_video`` (1, 256), ``hits_audio`` (1, 128), and the materials' logits
            ``hits_seen``, ``hits_heard`` (1, 5).
        i3d: The I3D network, safetensors or TorchScript, see ``kinetophone.metrics.networks.load``: ``fvd``
            (1, D) of the first 16 frames, and ``fvd_whole`` (windows, D).
        vggish: The same of the VGGish network: ``vggish`` (windows, 128).
        clap: Folder or Hub id of a CLAP model: ``clap_audio`` (windows, D), normalised.
        clip: Folder or Hub id of a CLIP model: ``clip_frames`` (8, D), normalised.
        synchformer: The same of Synchformer, see ``kinetophone.metrics.desync``: ``desync`` (crops, 1), in
            seconds.
        imagebind: Folder, see ``kinetophone.metrics.binding``: ``imagebind_sound`` and ``imagebind_frames``
            (1, D), normalised.
        languagebind: The same of LanguageBind.
        texts: Whether captions will be compared: the tokenizers of the last two are then checked, too.
        allow_torchscript: Load TorchScript, which can run code.
        allow_pickle: Read pickled weights of CLAP and CLIP, as tensors only.
    """

    hits: str | None = None
    i3d: str | None = None
    vggish: str | None = None
    clap: str | None = None
    clip: str | None = None
    synchformer: str | None = None
    imagebind: str | None = None
    languagebind: str | None = None
    texts: bool = False
    allow_torchscript: bool = False
    allow_pickle: bool = False

    def check(self) -> None:
        """Raise a RequestError with every network that cannot be loaded, before any clip is read."""
        problems: list[str] = []
        for attempt, source in self._loaders():
            try:
                attempt(source)
            except (OSError, ValueError, RuntimeError) as error:
                found = error.problems if isinstance(error, RequestError) else (str(error).strip(),)
                lines = [line.splitlines()[0] for line in found if line] or [type(error).__name__]
                named = f"'{source}' cannot be loaded for its features: "
                for line in lines:
                    says_which = line.startswith(source) or f"'{source}" in line
                    problems.append(line if says_which else named + line)
        if problems:
            raise RequestError(dict.fromkeys(problems))

    def __call__(self, clip: Clip) -> dict[str, np.ndarray]:
        """Features by name, float32 (windows, dimension); a clip too short for a window has (0, 0)."""
        found: dict[str, np.ndarray] = {}
        if self.hits is not None:
            found |= hits_features(clip, self.hits)
        if self.i3d is not None:
            found |= i3d_features(clip.video, self.i3d, self.allow_torchscript)
        if self.vggish is not None:
            found["vggish"] = vggish_features(clip, self.vggish, self.allow_torchscript)
        if self.clap is not None:
            found["clap_audio"] = clap_audio(clip, self.clap, self.allow_pickle)
        if self.clip is not None:
            found["clip_frames"] = clip_frames(clip.video, self.clip, self.allow_pickle)
        if self.synchformer is not None:
            from kinetophone.metrics.desync import desync

            found["desync"] = desync(clip, self.synchformer, self.allow_torchscript)
        for name, folder in self.bindings().items():
            from kinetophone.metrics.binding import bound_clip

            found |= bound_clip(clip, folder, name, self.allow_torchscript)
        return found

    def bindings(self) -> dict[str, str]:
        """The folders of the networks that bind sound, picture and text in one space, by name."""
        every = {"imagebind": self.imagebind, "languagebind": self.languagebind}
        return {name: folder for name, folder in every.items() if folder is not None}

    def _loaders(self) -> list[tuple[Callable[[str], Any], str]]:
        from kinetophone.metrics import binding

        def network(name: str) -> Callable[[str], Any]:
            return partial(load, network=name, allow_torchscript=self.allow_torchscript)

        bound = partial(binding.load_folder, allow_torchscript=self.allow_torchscript)
        bindings = [(partial(bound, name=name), folder) for name, folder in self.bindings().items()]
        clap = partial(_transformer, method="get_audio_features", allow_pickle=self.allow_pickle)
        clip = partial(_transformer, method="get_image_features", allow_pickle=self.allow_pickle)
        every: tuple[tuple[Callable[[str], Any], str | None], ...] = (
            (_judge, self.hits),
            (network("i3d"), self.i3d),
            (network("vggish"), self.vggish),
            (clap, self.clap),
            (clip, self.clip),
            (network("synchformer"), self.synchformer),
            *bindings,
            *((binding.tokenizer, folder) for folder in self.bindings().values() if self.texts),
        )
        return [(load, source) for load, source in every if source is not None]


def hits_features(clip: Clip, bundle: str) -> dict[str, np.ndarray]:
    """What the bundle's classifiers see before they decide.

    ``hits_video`` is the mean over frames of the 128 pooled features, and the mean size of their change from
    frame to frame: the first says what is there, the second how much moves. ``hits_audio`` has the
    sound's 128.
    """
    import torch

    from kinetophone.hits.classifiers import audio_input, video_input
    from kinetophone.media.mel import HOP, SAMPLE_RATE, log_mel
    from kinetophone.media.read import resample_audio

    judge = _judge(bundle)
    with torch.no_grad():
        seen = judge.nets["picture"].features(video_input(clip.video))
        sound = clip.audio
        if clip.sample_rate != SAMPLE_RATE:
            sound = resample_audio(sound, clip.sample_rate, SAMPLE_RATE)
        whole = torch.from_numpy(sound[: len(sound) // HOP * HOP])[None]
        heard = judge.nets["sound"].features(audio_input(log_mel(whole)))
        logits_seen = judge.nets["picture"].head(seen).mean(0, keepdim=True)
        logits_heard = judge.nets["sound"].head(heard)
    video = torch.cat([seen.mean(0), seen.diff(dim=0).abs().mean(0)])[None]
    return {
        "hits_video": _array(video),
        "hits_audio": _array(heard),
        "hits_seen": _array(logits_seen),
        "hits_heard": _array(logits_heard),
    }


def i3d_features(frames: Frames, path: str, allow_torchscript: bool = False) -> dict[str, np.ndarray]:
    """Features of 16 frames at 224 x 224, as StyleGAN-V's ``fvd2048_16f`` takes them, and of the whole clip.

    The whole clip is cut into windows of 16 frames, the last one ending with it. A clip of fewer than 16
    frames has none.
    """
    import torch
    from torch.nn.functional import interpolate

    if len(frames) < FVD_FRAMES:
        return {"fvd": np.zeros((0, 0), np.float32), "fvd_whole": np.zeros((0, 0), np.float32)}
    last = len(frames) - FVD_FRAMES
    starts = sorted({*range(0, last + 1, FVD_FRAMES), last})
    network, rows = load(path, "i3d", allow_torchscript=allow_torchscript), []
    # The TorchScript file can do more; the network defined here does this alone.
    scripted = isinstance(network, torch.jit.ScriptModule)
    options = {"rescale": False, "resize": False, "return_features": True} if scripted else {}
    with torch.no_grad():
        for start in starts:
            window = torch.from_numpy(frames[start : start + FVD_FRAMES]).permute(0, 3, 1, 2).float()
            window = interpolate(window, (FVD_SIDE, FVD_SIDE), mode="bilinear", align_corners=False)
            batch = window.div(127.5).sub(1).transpose(0, 1)[None]
            rows.append(_array(network(batch, **options)))
    whole = np.concatenate(rows)
    return {"fvd": whole[:1], "fvd_whole": whole}


def vggish_features(clip: Clip, path: str, allow_torchscript: bool = False) -> np.ndarray:
    """VGGish's embedding of every whole 0.96 s of the sound, (windows, 128).

    The network is called with log-mel examples (windows, 1, 96, 64).
    """
    import torch

    from kinetophone.media.read import resample_audio

    mel = vggish_log_mel(resample_audio(clip.audio, clip.sample_rate, VGGISH_RATE))
    windows = len(mel) // 96
    if not windows:
        return np.zeros((0, 0), np.float32)
    examples = torch.from_numpy(mel[: 96 * windows].reshape(windows, 1, 96, 64))
    with torch.no_grad():
        return _array(load(path, "vggish", allow_torchscript=allow_torchscript)(examples))


def vggish_log_mel(waveform: np.ndarray) -> np.ndarray:
    """The input of VGGish (Hershey et al. 2017): float32 (frames, 64) of a waveform (N,) at 16 kHz.

    Magnitudes of 25 ms periodic Hann windows every 10 ms, from the first sample on, without padding; 64
    triangles, even in mel (1127 ln(1 + f / 700)), from 125 to 7500 Hz, the constant part left out;
    ln(x + 0.01).
    """
    window, hop, bins = 400, 160, 512
    if len(waveform) < window:
        return np.zeros((0, 64), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(waveform.astype(np.float64), window)[::hop]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    magnitudes = np.abs(np.fft.rfft(frames * hann, bins))
    mel = 1127 * np.log1p(np.linspace(0, VGGISH_RATE / 2, bins // 2 + 1) / 700)[:, None]
    edges = np.linspace(1127 * np.log1p(125 / 700), 1127 * np.log1p(7500 / 700), 66)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    weights = np.maximum(0.0, np.minimum((mel - low) / (centre - low), (high - mel) / (high - centre)))
    weights[0] = 0.0
    return np.log(magnitudes @ weights + 0.01).astype(np.float32)


def clap_audio(clip: Clip, source: str, allow_pickle: bool = False) -> np.ndarray:
    """CLAP's embedding of the sound, in windows as long as the model's, normalised; (windows, D)."""
    import torch

    from kinetophone.media.read import resample_audio

    model, processor = _transformer(source, "get_audio_features", allow_pickle)
    sound = resample_audio(clip.audio, clip.sample_rate, CLAP_RATE)
    length = processor.feature_extractor.nb_max_samples
    windows = [sound[start : start + length] for start in range(0, max(1, len(sound)), length)]
    # A scrap at the end, padded by repetition, would be a sound of its own.
    windows = [window for window in windows if len(window) >= length // 2] or windows[:1]
    inputs = processor.feature_extractor(windows, sampling_rate=CLAP_RATE, return_tensors="pt")
    with torch.no_grad():
        return _unit(model.get_audio_features(**inputs))


def clip_frames(frames: Frames, source: str, allow_pickle: bool = False) -> np.ndarray:
    """CLIP's embedding of 8 evenly spaced frames, normalised; (8, D), fewer for a shorter clip."""
    import torch

    model, processor = _transformer(source, "get_image_features", allow_pickle)
    picked = np.unique(np.linspace(0, len(frames) - 1, CLIP_FRAMES).round().astype(int))
    inputs = processor.image_processor(list(frames[picked]), return_tensors="pt")
    with torch.no_grad():
        return _unit(model.get_image_features(**inputs))


def text_features(texts: list[str], source: str, allow_pickle: bool = False) -> np.ndarray:
    """CLAP's or CLIP's embedding of texts, normalised; (N, D)."""
    import torch

    model, processor = _transformer(source, "get_text_features", allow_pickle)
    inputs = processor.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    names = {"input_ids", "attention_mask"}
    with torch.no_grad():
        return _unit(model.get_text_features(**{k: v for k, v in inputs.items() if k in names}))


@lru_cache(maxsize=2)
def _judge(bundle: str) -> Any:
    from kinetophone.hits.classifiers import MaterialJudge

    return MaterialJudge(bundle)


def _transformer(source: str, method: str, allow_pickle: bool = False) -> Any:
    """A CLAP or CLIP model, which must have ``method``, and its processor."""
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
    # transformers makes a tokenizer without words where there are none.
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "vocab.txt")):
        raise RequestError([f"'{source}' has no tokenizer (tokenizer.json or vocab.json)"])
    named = component_class(folder)
    if named not in _MODELS:
        raise RequestError([f"'{source}' names the class {named!r}; there are {', '.join(_MODELS)}"])
    kind = getattr(transformers, named)
    model = load_network(folder, kind, dtype=torch.float32, allow_pickle=allow_pickle)
    with quiet():
        return model, transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=False)


def _unit(found: Any) -> np.ndarray:
    # transformers 5 returns the whole output, 4 the tensor.
    tensor = getattr(found, "pooler_output", found)
    return _array(tensor / tensor.norm(dim=-1, keepdim=True).clamp(min=1e-12))


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()

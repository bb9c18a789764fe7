"""Encoding of prepared clips for coupling training: ``kinetophone data encode``.

The bases' autoencoders and text models are frozen, so they are run only once per clip. The latents of a shard
are written to ``latents-00000.safetensors``, with ``video`` (n, C, T, h, w) and ``audio`` (n, C, L, …) in
float16. The text conditioning of each caption and of the empty one is written to ``texts.safetensors``: one
tensor for each modality, or several (``audio.states``, …). Of hidden states, only the tokens that are not
zero are stored, since texts are padded. ``encoded.json`` is written last.
"""

from __future__ import annotations

import hashlib
import io
import json
import wave
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from kinetophone.av import AV, MODALITIES
from kinetophone.bases.protocol import Conditioning
from kinetophone.data.latents import LatentArrays, fingerprint
from kinetophone.data.shards import read
from kinetophone.errors import RequestError
from kinetophone.files import remove_unfinished, write_json, writing
from kinetophone.locks import sole_writer
from kinetophone.media.clip import as_channels
from kinetophone.media.timing import as_fps
from kinetophone.progress import track
from kinetophone.text import parse_json, read_json, read_text

INDEX = "encoded.json"
_TOKENS, _USED = ".tokens", ".used"  # of stored hidden states: all tokens that are not zero, and where
_CLIPS_AT_ONCE = 1  # 32 frames of 256 px already use a device well


def encode(source: Path, out: Path, bases: AV[Any]) -> int:
    """Encode the clips that ``kinetophone data prepare`` wrote to ``source``.

    Shards that are already in ``out``, made from the same clips with the same autoencoders, are kept.

    Args:
        source: Folder of prepared clips.
        out: Folder to write to.
        bases: The base models that encode.

    Returns:
        Number of clips.

    Raises:
        RequestError: ``source`` has no prepared clips.
    """
    check_prepared(source)
    with sole_writer(out):
        return _encode(source, out, bases)


def _encode(source: Path, out: Path, bases: AV[Any]) -> int:
    settings = read_json(source / "prepare.json")
    rate = settings.get("sample_rate", 16_000)  # that of older folders
    _check_fitting(source, settings, bases)
    remove_unfinished(out)
    made_by = {name: fingerprint(getattr(bases, name).vae) for name in MODALITIES}
    clips: list[dict[str, Any]] = []
    shards = sorted(source.glob("clips-*.tar"))
    for shard in track(shards, len(shards), "encoding shards"):
        path = out / f"{shard.stem.replace('clips', 'latents')}.safetensors"
        whole = [(json.loads(m["json"]), m["jpg"], m["wav"]) for _, m in read(shard)]
        clips += [{**about, "shard": path.name, "row": row} for row, (about, _, _) in enumerate(whole)]
        made_of = {**made_by, "clips": _digest(part for _, *media in whole for part in media)}
        if not whole or (path.exists() and _metadata(path) == made_of):
            continue
        parts: list[AV[Tensor]] = []
        generator = torch.Generator().manual_seed(0)
        for first in range(0, len(whole), _CLIPS_AT_ONCE):
            few = whole[first : first + _CLIPS_AT_ONCE]
            frames = torch.from_numpy(np.stack([_frames(jpg, settings["size"]) for _, jpg, _ in few]))
            sound = torch.from_numpy(
                np.stack([_fitted(_samples(wav), rate, bases.audio) for _, _, wav in few])
            )
            parts.append(AV(audio=bases.audio.encode(sound, generator), video=bases.video.encode(frames)))
        tensors = {
            name: torch.cat([getattr(part, name) for part in parts]).half().cpu().contiguous()
            for name in MODALITIES
        }
        with writing(path) as file:
            file.write(save(tensors, made_of))
    captions = sorted({clip["caption"] for clip in clips} | {""})
    states: dict[str, Tensor] = {}
    for name in MODALITIES:
        base = getattr(bases, name)
        each = [_stored(name, base.encode_prompt([caption], settings["seconds"])) for caption in captions]
        states |= {key: torch.cat([one[key] for one in each]).contiguous() for key in each[0]}
    with writing(out / "texts.safetensors") as file:
        file.write(save(states))
    index = {key: settings[key] for key in ("fps", "seconds", "size")}
    made_by |= {f"{name} text": getattr(bases, name).text_fingerprint() for name in MODALITIES}
    write_json({**index, "made_by": made_by, "captions": captions, "clips": clips}, out / INDEX)
    return len(clips)


def _check_fitting(source: Path, settings: Mapping[str, Any], bases: AV[Any]) -> None:
    """Check that prepared clips have what the bases need.

    Raises:
        RequestError: They do not; it lists all problems, each with the option of ``data prepare``.
    """
    video, audio, problems = bases.video, bases.audio, []
    for key, before in (("sample_rate", 16_000), ("channels", 1)):
        there, needed = settings.get(key, before), getattr(audio, key)
        if there < needed:
            option = f"--{key.replace('_', '-')} {needed}"
            problems.append(f"has audio of {key} {there}: the audio base needs {option}")
    if settings["size"] % video.multiple:
        problems.append(f"has size {settings['size']}: the video base needs a multiple of {video.multiple}")
    fps = as_fps(settings["fps"])
    frames, step = round(settings["seconds"] * fps), video.frame_step
    if (frames - 1) % step:
        below = frames - (frames - 1) % step
        near = " or ".join(f"{float(count / fps):g}" for count in (below, below + step))
        problems.append(f"has clips of {frames} frames: the video base needs --seconds {near}")
    if problems:
        raise RequestError(
            [f"'{source}' {problem}; run kinetophone data prepare again" for problem in problems]
        )


def _stored(name: str, conditioning: Conditioning) -> dict[str, Tensor]:
    """The tensors to store of a text's conditioning, by name."""
    if not isinstance(conditioning, Tensor):
        parts = [_stored(f"{name}.{key}", tensor) for key, tensor in conditioning.items()]
        return {key: tensor for part in parts for key, tensor in part.items()}
    states = conditioning.cpu()
    if states.dim() < 3:
        return {name: states}
    used = states.any(dim=2)
    return {f"{name}{_TOKENS}": states[used], f"{name}{_USED}": used}


class _Texts:
    """The stored conditioning of texts, whole or only the tokens that are used; index with a list."""

    def __init__(self, tensors: Mapping[str, Tensor], name: str) -> None:
        self._whole = tensors.get(name)
        if self._whole is None:
            self._tokens, self._used = tensors[f"{name}{_TOKENS}"], tensors[f"{name}{_USED}"]
            self._ends = self._used.sum(dim=1).cumsum(dim=0).tolist()

    def __getitem__(self, rows: list[int]) -> Tensor:
        if self._whole is not None:
            return self._whole[rows]
        states = self._tokens.new_zeros(len(rows), self._used.shape[1], self._tokens.shape[1])
        for state, row in zip(states, rows, strict=True):
            state[self._used[row]] = self._tokens[self._ends[row - 1] if row else 0 : self._ends[row]]
        return states


def _conditioning(name: str, tensors: Mapping[str, Tensor]) -> _Texts | dict[str, _Texts]:
    """The stored conditioning of a modality: one, or several by name."""
    names = {key.removesuffix(_TOKENS).removesuffix(_USED) for key in tensors}
    if name in names:
        return _Texts(tensors, name)
    inner = sorted(key for key in names if key.startswith(f"{name}."))
    return {key.removeprefix(f"{name}."): _Texts(tensors, key) for key in inner}


def check_prepared(source: Path) -> None:
    """Check that ``source`` has clips written by ``kinetophone data prepare``.

    Raises:
        RequestError: It has none, or is damaged.
    """
    manifest = source / "manifest.jsonl"
    if not manifest.is_file():
        raise RequestError([f"'{source}' has no manifest.jsonl; run kinetophone data prepare first"])
    try:
        rows = [parse_json(line, f"'{manifest}'") for line in read_text(manifest).split("\n") if line]
        clips = sum(len(row["clips"]) for row in rows)
    except (ValueError, KeyError, TypeError):
        raise RequestError([f"'{manifest}' is damaged; run kinetophone data prepare again"]) from None
    if not clips:
        raise RequestError([f"'{source}' has no clips; its manifest.jsonl says why"])
    if not any(source.glob("clips-*.tar")):
        raise RequestError([f"'{source}' has no clips-*.tar; run kinetophone data prepare again"])


@dataclass(frozen=True)
class EncodedClips(LatentArrays):
    """Encoded clips of a folder; latents are read from disk when they are drawn."""

    fps: float
    texts: dict[str, int]
    states: AV[_Texts | dict[str, _Texts]]

    def text(self, captions: Sequence[str]) -> AV[Conditioning]:
        """Text conditioning of each base for captions of these clips; "" is allowed too."""
        rows = [self.texts[caption] for caption in captions]
        return self.states.map(
            lambda states: (
                states[rows]
                if isinstance(states, _Texts)
                else {name: part[rows] for name, part in states.items()}
            )
        )


def load_encoded(folder: Path, count: int, bases: AV[Any]) -> EncodedClips:
    """Load the first ``count`` clips (0: all) of a folder written by :func:`encode`.

    Raises:
        RequestError: The folder has no encoded clips, or they were made with other autoencoders or text
            encoders than those of ``bases``.
    """
    if not (folder / INDEX).is_file():
        raise RequestError([f"'{folder}' has no {INDEX}; run kinetophone data encode first"])
    index = read_json(folder / INDEX)
    found = {name: fingerprint(getattr(bases, name).vae) for name in MODALITIES}
    if any(f"{name} text" in index["made_by"] for name in MODALITIES):  # older folders do not say it
        found |= {f"{name} text": getattr(bases, name).text_fingerprint() for name in MODALITIES}
    if index["made_by"] != found:
        raise RequestError([f"'{folder}' was encoded with other bases; run kinetophone data encode again"])
    clips = index["clips"][: count or None]
    if not clips:
        raise RequestError([f"'{folder}' has no clips; manifest.jsonl of its source says why"])
    where = [(folder / clip["shard"], clip["row"]) for clip in clips]
    states = load_file(folder / "texts.safetensors")
    return EncodedClips(
        video=_Rows(where, "video"),
        audio=_Rows(where, "audio"),
        captions=[[clip["caption"]] for clip in clips],
        strikes_s=[clip["events_s"] for clip in clips],
        fps=index["fps"],
        texts={caption: row for row, caption in enumerate(index["captions"])},
        states=AV(audio=_conditioning("audio", states), video=_conditioning("video", states)),
    )


class _Rows:
    """Rows of a tensor spread over several memory-mapped files; index with an array or a slice."""

    def __init__(self, where: list[tuple[Path, int]], name: str) -> None:
        files: dict[Path, Any] = {
            path: safe_open(path, framework="np") for path in {path for path, _ in where}
        }
        self._slices: dict[Path, Any] = {path: file.get_slice(name) for path, file in files.items()}
        self._files, self._where = files, where
        one: Any = self._slices[where[0][0]]
        self.shape = (len(where), *one.get_shape()[1:])

    def __getitem__(self, index: np.ndarray | slice) -> np.ndarray:
        rows = (self._where[i] for i in np.arange(len(self._where))[index])
        return np.stack([self._slices[path][row] for path, row in rows])


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="np") as file:
        return file.metadata() or {}


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _frames(jpg: bytes, size: int) -> np.ndarray:
    strip: Any = cv2.imdecode(np.frombuffer(jpg, np.uint8), cv2.IMREAD_COLOR)
    return np.ascontiguousarray(strip[..., ::-1]).reshape(-1, size, size, 3)


def _samples(wav: bytes) -> np.ndarray:
    """The samples of a 16-bit WAV file, float32 (N,) or (N, channels)."""
    with wave.open(io.BytesIO(wav)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32767
        count = file.getnchannels()
        return samples if count == 1 else samples.reshape(-1, count)


def _fitted(samples: np.ndarray, rate: int, base: Any) -> np.ndarray:
    """Samples (N, channels) at the rate and with the channels of an audio base: (N,) if it is mono."""
    if rate != base.sample_rate:
        from kinetophone.media.read import resample_audio

        samples = resample_audio(samples, rate, base.sample_rate)
    return as_channels(samples, base.channels)

"""Encoding of prepared clips for coupling training: ``kinetophone data encode``.

The bases' autoencoders and text models are frozen, so they are run only once per clip. The latents of a shard
are written to a WebDataset shard ``latents-00000.tar``: of each clip ``video.npy`` (C, T, h, w) and
``audio.npy`` (C, L, …) in float16, and ``json``. The text conditioning of captions is written to
``texts-00000.safetensors``: one tensor for each modality, or several (``audio.states``, …). Of hidden states,
only the tokens that are not zero are stored, since texts are padded. ``manifest.jsonl`` has a line for each
clip, with the place of its latents, and ``encoded.json`` is written last. :mod:`kinetophone.data.encoded`
reads them.

Each file is kept as long as its key is the same: the prepared shard, or the captions; the fingerprints of the
networks and their dtype; and the version of this code.
"""

from __future__ import annotations

import io
import json
import tarfile
import wave
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import file_digest
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from kinetophone.av import AV, MODALITIES
from kinetophone.bases.protocol import Conditioning
from kinetophone.data.encoded import INDEX, MANIFEST, TOKENS, USED, fingerprints
from kinetophone.data.shards import read, writing_shard
from kinetophone.errors import MediaError, RequestError
from kinetophone.files import remove_unfinished, write_json, writing
from kinetophone.keys import forget, key, record, recorded
from kinetophone.locks import sole_writer
from kinetophone.media.clip import as_channels
from kinetophone.media.timing import as_fps
from kinetophone.text import parse_json, read_json, read_text
from kinetophone.workers import Failed, Workers, check_all_done, over_shards

VERSION = 2  # to be increased when the same clips and networks give other latents or text states
_TEXTS_AT_ONCE = 256  # captions in a file


@dataclass(frozen=True)
class _Job:
    """A file to write: the latents of a prepared shard, or the text states of captions."""

    path: Path
    shard: Path | None = None
    sha256: str = ""
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Made:
    """A file that is there: its key, and the fingerprints of the networks that it was made with."""

    key: str
    made_by: dict[str, str]


def encode(source: Path, out: Path, load: Callable[[], AV[Any]], workers: Workers | None = None) -> int:
    """Encode the clips that ``kinetophone data prepare`` wrote to ``source``.

    Files that are already in ``out``, made from the same clips with the same networks, are kept.

    Args:
        source: Folder of prepared clips.
        out: Folder to write to.
        load: Loads the base models that encode, onto their device. It is called once in each worker, and
            pickled for others than this process.
        workers: Where the work is done; default: this process.

    Returns:
        Number of clips.

    Raises:
        RequestError: ``source`` has no prepared clips, the bases cannot encode them, or files could not be
            written, after all others were.
    """
    check_prepared(source)
    with sole_writer(out):
        return _encode(source, out, load, workers or Workers(1))


def _encode(source: Path, out: Path, load: Callable[[], AV[Any]], workers: Workers) -> int:
    remove_unfinished(out)
    settings = read_json(source / "prepare.json")
    latents: list[_Job] = []
    captions = {""}
    for shard in sorted(source.glob("clips-*.tar")):
        known = recorded(shard)
        if known is None:
            raise RequestError([f"'{shard}' is incomplete; run kinetophone data prepare again"])
        if not any(row["clips"] for row in known["rows"]):
            continue
        captions |= set(known["captions"])
        path = out / shard.name.replace("clips", "latents")
        latents.append(_Job(path, shard=shard, sha256=known["sha256"]))
    ordered = sorted(captions)
    texts = []
    for number, first in enumerate(range(0, len(ordered), _TEXTS_AT_ONCE)):
        some = tuple(ordered[first : first + _TEXTS_AT_ONCE])
        texts.append(_Job(out / f"texts-{number:05d}.safetensors", captions=some))
    jobs = [*texts, *latents]
    setup = partial(_Encoder, load, source, settings)
    made: dict[Path, _Made] = {}
    failed = {}
    seen = [out, source / "prepare.json"]
    for index, result in over_shards(setup, jobs, workers, "encoding shards", shared=seen):
        if isinstance(result, Failed):
            failed[(jobs[index].shard or jobs[index].path).name] = result.reason
            continue
        made[jobs[index].path] = result
        if result.made_by != next(iter(made.values())).made_by:
            raise RequestError(["the workers have different bases; give each machine the same files"])
    remove_unfinished(out)  # what killed workers have left
    for path in {*out.glob("latents-*.tar"), *out.glob("texts-*.safetensors")} - {job.path for job in jobs}:
        forget(path)
    if not made or any(job.path.name in failed for job in texts):
        check_all_done(failed, "files", out)
    clips = 0
    with writing(out / MANIFEST) as file:
        for job in latents:
            known = recorded(job.path, made[job.path].key) if job.path in made else None
            for clip in (known or {"clips": []})["clips"]:
                file.write((json.dumps({"shard": job.path.name, **clip}) + "\n").encode())
                clips += 1
    index_of = {name: settings[name] for name in ("fps", "seconds", "size")}
    index_of |= {"version": VERSION, "made_by": next(iter(made.values())).made_by, "clips": clips}
    index_of |= {"texts": {job.path.name: job.captions for job in texts}}
    write_json(index_of, out / INDEX)
    check_all_done(failed, "shards", out)
    return clips


class _Encoder:
    """What makes files in a worker."""

    def __init__(
        self, load: Callable[[], AV[Any]], source: Path, settings: Mapping[str, Any], neighbours: int
    ) -> None:
        self._bases, self._settings = load(), settings
        _check_fitting(source, settings, self._bases)
        self._made_by = fingerprints(self._bases)
        self._dtypes = {name: str(getattr(self._bases, name).vae.dtype) for name in MODALITIES}
        self._text_dtypes = {name: _text_dtype(getattr(self._bases, name)) for name in MODALITIES}

    def __call__(self, job: _Job) -> _Made:
        """Make a file, unless it is there."""
        made_of = self._key(job)
        if recorded(job.path, made_of) is None:
            if job.shard is None:
                _make_texts(self._bases, self._settings["seconds"], job, made_of)
            else:
                _make_latents(self._bases, self._settings, job, job.shard, made_of)
        return _Made(made_of, self._made_by)

    def _key(self, job: _Job) -> str:
        if job.shard is not None:
            networks = {name: [self._made_by[name], self._dtypes[name]] for name in MODALITIES}
            return key("encode", VERSION, clips=job.sha256, networks=networks)
        encoders = {name: self._made_by[f"{name} text"] for name in MODALITIES}
        encoders |= {f"{name} dtype": self._text_dtypes[name] for name in MODALITIES}
        seconds = self._settings["seconds"]
        return key("text states", VERSION, captions=job.captions, encoders=encoders, seconds=seconds)


def _text_dtype(base: Any) -> str:
    return str(next(base.networks[name].dtype for name in sorted(base.TEXT & base.networks.keys())))


def _make_latents(bases: AV[Any], settings: Mapping[str, Any], job: _Job, shard: Path, made_of: str) -> None:
    with shard.open("rb") as file:
        if file_digest(file, "sha256").hexdigest() != job.sha256:
            raise MediaError(f"'{shard}' is damaged; remove it, and run kinetophone data prepare again")
    rate = settings.get("sample_rate", 16_000)  # that of older folders
    generator = torch.Generator().manual_seed(0)
    clips = []
    with writing_shard(job.path) as tar:
        for name, members in read(shard):
            frames = torch.from_numpy(_frames(members["jpg"], settings["size"])[None])
            sound = torch.from_numpy(_fitted(_samples(members["wav"]), rate, bases.audio)[None])
            made = AV(audio=bases.audio.encode(sound, generator), video=bases.video.encode(frames))
            latents = {f"{m}.npy": _npy(getattr(made, m)[0]) for m in MODALITIES}
            tar.write({"__key__": name, "json": members["json"], **latents})
            clips.append({"key": name, **json.loads(members["json"])})
    with tarfile.open(job.path) as tar:
        places = {info.name: (info.offset_data, info.size) for info in tar}
    for clip in clips:
        clip |= {m: places[f"{clip['key']}.{m}.npy"] for m in MODALITIES}
    record(job.path, made_of, clips=clips)


def _npy(latents: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, latents.half().cpu().numpy())
    return buffer.getvalue()


def _make_texts(bases: AV[Any], seconds: float, job: _Job, made_of: str) -> None:
    states: dict[str, Tensor] = {}
    for name in MODALITIES:
        base = getattr(bases, name)
        each = [_stored(name, base.encode_prompt([caption], seconds)) for caption in job.captions]
        states |= {part: torch.cat([one[part] for one in each]).contiguous() for part in each[0]}
    with writing(job.path) as file:
        file.write(save(states))
    record(job.path, made_of)


def _check_fitting(source: Path, settings: Mapping[str, Any], bases: AV[Any]) -> None:
    """Check that prepared clips have what the bases need.

    Raises:
        RequestError: They do not; it lists all problems, each with the option of ``data prepare``.
    """
    video, audio, problems = bases.video, bases.audio, []
    for name, before in (("sample_rate", 16_000), ("channels", 1)):
        there, needed = settings.get(name, before), getattr(audio, name)
        if there < needed:
            option = f"--{name.replace('_', '-')} {needed}"
            problems.append(f"has audio of {name} {there}: the audio base needs {option}")
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
    return {f"{name}{TOKENS}": states[used], f"{name}{USED}": used}


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

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
from kinetophone.data.shards import forget, read, record, recorded, writing_shard
from kinetophone.errors import MediaError, RequestError
from kinetophone.files import remove_unfinished, write_json, writing
from kinetophone.keys import key
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
    made_by: str
    shard: Path | None = None
    sha256: str = ""
    captions: tuple[str, ...] = ()


def encode(source: Path, out: Path, load: Callable[[], AV[Any]], workers: Workers | None = None) -> int:
    """Encode the clips that ``kinetophone data prepare`` wrote to ``source``.

    Files that are already in ``out``, made from the same clips with the same networks, are kept.

    Args:
        source: Folder of prepared clips.
        out: Folder to write to.
        load: Loads the base models that encode, onto their device. It is pickled for other processes.
        workers: Where the work is done; default: this process.

    Returns:
        Number of clips.

    Raises:
        RequestError: ``source`` has no prepared clips, the bases cannot encode them, or files could not be
            written, after all others were.
    """
    check_prepared(source)
    settings = read_json(source / "prepare.json")
    bases = load()
    _check_fitting(source, settings, bases)
    with sole_writer(out):
        return _encode(source, out, settings, bases, load, workers or Workers(1))


def _encode(
    source: Path,
    out: Path,
    settings: Mapping[str, Any],
    bases: AV[Any],
    load: Callable[[], AV[Any]],
    workers: Workers,
) -> int:
    remove_unfinished(out)
    made_by = fingerprints(bases)
    dtypes = {name: str(getattr(bases, name).vae.dtype) for name in MODALITIES}
    networks = {name: [made_by[name], dtypes[name]] for name in MODALITIES}
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
        made_of = key("encode", VERSION, clips=known["sha256"], networks=networks)
        latents.append(_Job(path, made_of, shard=shard, sha256=known["sha256"]))
    ordered = sorted(captions)
    encoders = {name: made_by[f"{name} text"] for name in MODALITIES}
    encoders |= {f"{name} dtype": _text_dtype(getattr(bases, name)) for name in MODALITIES}
    texts = []
    for number, first in enumerate(range(0, len(ordered), _TEXTS_AT_ONCE)):
        some = tuple(ordered[first : first + _TEXTS_AT_ONCE])
        made_of = key("text states", VERSION, captions=some, encoders=encoders, seconds=settings["seconds"])
        texts.append(_Job(out / f"texts-{number:05d}.safetensors", made_of, captions=some))
    jobs = [job for job in (*texts, *latents) if recorded(job.path, job.made_by) is None]
    there = {*out.glob("latents-*.tar"), *out.glob("texts-*.safetensors")}
    for path in there - {job.path for job in (*texts, *latents)}:
        forget(path)
    alone = workers.alone(len(jobs))
    setup = partial(_maker, (lambda: bases) if alone else load, settings)
    failed = {}
    seen = [out, source / "prepare.json"]
    for index, result in over_shards(setup, jobs, workers, "encoding shards", shared=seen):
        if isinstance(result, Failed):
            failed[(jobs[index].shard or jobs[index].path).name] = result.reason
    if any(job.path.name in failed for job in texts):
        check_all_done(failed, "files", out)
    clips = [
        {"shard": job.path.name, **clip}
        for job in latents
        if job.shard is not None and job.shard.name not in failed
        for clip in (recorded(job.path, job.made_by) or {"clips": []})["clips"]
    ]
    with writing(out / MANIFEST) as file:
        file.write("".join(json.dumps(clip) + "\n" for clip in clips).encode())
    index_of = {name: settings[name] for name in ("fps", "seconds", "size")}
    index_of |= {"version": VERSION, "made_by": made_by, "clips": len(clips)}
    index_of |= {"texts": {job.path.name: job.captions for job in texts}}
    write_json(index_of, out / INDEX)
    check_all_done(failed, "shards", out)
    return len(clips)


def _text_dtype(base: Any) -> str:
    return str(next(base.networks[name].dtype for name in sorted(base.TEXT & base.networks.keys())))


def _maker(load: Callable[[], AV[Any]], settings: Mapping[str, Any], neighbours: int) -> Any:
    """What makes a file in a worker."""
    return partial(_make, load(), settings)


def _make(bases: AV[Any], settings: Mapping[str, Any], job: _Job) -> None:
    if job.shard is None:
        _make_texts(bases, settings["seconds"], job)
    else:
        _make_latents(bases, settings, job, job.shard)


def _make_latents(bases: AV[Any], settings: Mapping[str, Any], job: _Job, shard: Path) -> None:
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
    record(job.path, job.made_by, clips=clips)


def _npy(latents: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, latents.half().cpu().numpy())
    return buffer.getvalue()


def _make_texts(bases: AV[Any], seconds: float, job: _Job) -> None:
    states: dict[str, Tensor] = {}
    for name in MODALITIES:
        base = getattr(bases, name)
        each = [_stored(name, base.encode_prompt([caption], seconds)) for caption in job.captions]
        states |= {part: torch.cat([one[part] for one in each]).contiguous() for part in each[0]}
    with writing(job.path) as file:
        file.write(save(states))
    record(job.path, job.made_by)


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

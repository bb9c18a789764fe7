"""Cutting of videos into uniform clips: ``kinetophone data prepare``.

The output folder has WebDataset shards ``clips-00000.tar``, ``manifest.jsonl`` with a line per source, and
``prepare.json``. The members of a clip are ``jpg`` (its frames, stacked vertically), ``wav`` and ``json``
(caption, source and times of events). A shard has a record in ``parts/`` with the hash of its key: its
sources with sizes and times of change, their captions and events, and the format of the clips. Each worker
writes entire shards, so a killed run can resume, and a shard is made again if its key has changed.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import sys
import wave
from collections import defaultdict
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kinetophone.data.shards import writing_shard
from kinetophone.data.sources import Source, Sources, first_few
from kinetophone.errors import MediaError, RequestError, is_full
from kinetophone.files import remove_unfinished, write_json, writing
from kinetophone.keys import forget, key, record, recorded, state_of
from kinetophone.locks import sole_writer
from kinetophone.media.timing import ClipTime
from kinetophone.text import read_json
from kinetophone.workers import Failed, Workers, check_all_done, over_shards

VERSION = 1  # to be increased when the same sources give other clips
SILENCE_DB = -60.0  # RMS of a clip in dBFS; quieter clips are rejected
_SOURCES_PER_SHARD = 16
_JPEG_QUALITY = 95


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The format of every clip.

    Attributes:
        fps: Frame rate.
        seconds: Length.
        size: Height and width in pixels.
        sample_rate: Sample rate of the audio in Hz.
        channels: Channels of the audio, 1 or 2.
    """

    fps: float = 8
    seconds: float = 4
    size: int = 256
    sample_rate: int = 16_000
    channels: int = 1

    @property
    def time(self) -> ClipTime:
        """Timing of a clip; raises ValueError if its length is not a whole number of frames."""
        return ClipTime.from_seconds(self.seconds, self.fps, self.sample_rate)


def prepare(sources: Sources, out: Path, cut: Cut, workers: Workers | None = None) -> list[dict[str, Any]]:
    """Cut ``sources`` into clips.

    Args:
        sources: The files and their captions.
        out: Folder to write to. Shards that are there already, made of the same files and captions, are kept.
        cut: Format of the clips.
        workers: Where the work is done; default: one process per core.

    Returns:
        The manifest, with a dict for each source.

    Raises:
        RequestError: Another run is writing to ``out``; it has clips of another format; no clip could be
            made; or shards could not be written, after all others were.
    """
    with sole_writer(out):
        return _prepare(sources, out, cut, workers or Workers())


def _prepare(sources: Sources, out: Path, cut: Cut, workers: Workers) -> list[dict[str, Any]]:
    usable = [source for source in sources if source.problem is None]
    settings = {**asdict(cut), **sources.settings}
    _check_format(settings, out)
    remove_unfinished(out)
    write_json(settings, out / "prepare.json")
    groups = [usable[i : i + _SOURCES_PER_SHARD] for i in range(0, len(usable), _SOURCES_PER_SHARD)]
    paths = [out / f"clips-{number:05d}.tar" for number in range(len(groups))]
    keys = [_key(group, cut) for group in groups]
    jobs = [job for job in zip(paths, keys, groups, strict=True) if recorded(job[0], job[1]) is None]
    if changed := sum(path.exists() for path, _, _ in jobs):
        print(
            f"{changed} of {len(paths)} shards in '{out}' are incomplete, or were made of other files or "
            "captions: they are made again",
            file=sys.stderr,
        )
    for path in set(out.glob("clips-*.tar")) - set(paths):
        forget(path)
    failed = {}
    seen = [out, *(source.picture for source in usable[:1])]
    for index, result in over_shards(partial(_maker, cut), jobs, workers, "preparing shards", shared=seen):
        if isinstance(result, Failed):
            failed[jobs[index][0].name] = result.reason
    remove_unfinished(out)  # what killed workers have left
    rows = {source.name: _row(source) for source in sources}
    for path in paths:
        if known := recorded(path):
            rows |= {row["source"]: row for row in known["rows"]}
    manifest = list(rows.values())
    with writing(out / "manifest.jsonl") as file:
        file.write("".join(json.dumps(row) + "\n" for row in manifest).encode())
    check_all_done(failed, "shards", out)
    if not any(row["clips"] for row in manifest):
        for path in paths:  # clean up, so that the folder can be used again
            forget(path)
        (out / "prepare.json").unlink()
        raise RequestError([_no_clip_message(manifest, out)])
    return manifest


def _check_format(settings: dict[str, Any], out: Path) -> None:
    """Refuse to replace clips of another format by accident; those of other files or captions are made again.

    Raises:
        RequestError: The folder has clips of another format, layout or split.
    """
    if not (out / "prepare.json").exists():
        return
    before = read_json(out / "prepare.json")
    other = [
        f"{name} {before.get(name)} and not {value}"
        for name, value in settings.items()
        if name not in ("caption", "captions", "captions_sha256") and before.get(name) != value
    ]
    if other:
        raise RequestError(
            [f"'{out}' has clips of other settings ({', '.join(other)}); name another folder, or remove it"]
        )


def _key(sources: list[Source], cut: Cut) -> str:
    """Everything that a shard depends on."""
    made_of = [
        [source.name, state_of(source.picture), state_of(source.sound), source.caption, source.caption_from]
        + [[event.time_s, event.action, event.material] for event in source.events]
        for source in sources
    ]
    return key("prepare", VERSION, cut=asdict(cut), sources=made_of)


def _row(source: Source) -> dict[str, Any]:
    """A source's row in the manifest, before it is cut."""
    return {
        "source": source.name,
        "caption_from": source.caption_from,
        "clips": [],
        "rejected": [],
        "reason": source.problem,
    }


def _no_clip_message(manifest: list[dict[str, Any]], out: Path) -> str:
    """Error message with the most frequent reasons why no clip was made."""
    alike: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in manifest:
        # Reasons that differ only in numbers are grouped.
        alike[re.sub(r"\d+", "", row["reason"].replace(row["source"], ""))].append(row)
    groups = sorted(alike.values(), key=len, reverse=True)
    most = [f"{first_few([row['source'] for row in group])}: {group[0]['reason']}" for group in groups[:3]]
    return (
        f"no clip was made from {len(manifest)} files: {'; '.join(most)}; "
        f"all reasons are in '{out / 'manifest.jsonl'}'"
    )


def _maker(cut: Cut, neighbours: int) -> Any:
    """What makes a shard in a worker that shares its machine with ``neighbours`` in all."""
    if neighbours > 1:
        import cv2

        from kinetophone.media.container import share_memory

        cv2.setNumThreads(1)
        share_memory(neighbours)
    return partial(_make_shard, cut)


def _make_shard(cut: Cut, job: tuple[Path, str, list[Source]]) -> None:
    path, made_by, sources = job
    rows, captions, group = [], set(), path.stem.removeprefix("clips-")
    with writing_shard(path) as tar:
        for number, source in enumerate(sources):
            row = _row(source)
            try:
                captions |= _cut_source(tar, f"{group}-{number:03d}", source, cut, row)
            except (MediaError, OSError, ValueError) as error:
                if is_full(error):
                    raise
                row["reason"] = str(error).replace(str(source.picture), source.name)
            except Exception as error:  # an unexpected error in one file must not stop the others
                row["reason"] = f"{type(error).__name__}: {error}"
            if not row["clips"] and row["reason"] is None:
                row["reason"] = "; ".join(f"{r['start_s']:g} s: {r['reason']}" for r in row["rejected"])
            rows.append(row)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    record(path, made_by, sha256=sha256, captions=sorted(captions), rows=rows)


def _cut_source(tar: Any, name: str, source: Source, cut: Cut, row: dict[str, Any]) -> set[str]:
    """Cut one file into consecutive clips, add them to the shard and record them in ``row``.

    Returns:
        The captions of the clips.
    """
    from kinetophone.media.clip import as_channels
    from kinetophone.media.read import read_clip

    clip = read_clip(
        source.picture,
        fps=cut.fps,
        size=(cut.size, cut.size),
        sample_rate=cut.sample_rate,
        sound=source.sound,
        mono=cut.channels == 1,
    )
    audio, time, captions = as_channels(clip.audio, cut.channels), cut.time, set()
    windows = len(clip.video) // time.frames
    if not windows:
        raise ValueError(f"is {clip.duration_s:.2f} s long, shorter than a clip of {cut.seconds:g} s")
    for number in range(windows):
        first = number * time.frames
        sound = audio[clip.time.sample_at(first) :][: time.samples]
        start_s = clip.time.frame_time_s(first)
        level = 20 * np.log10(max(float(np.sqrt(np.mean(np.square(sound)))), 1e-10))
        if level < SILENCE_DB:
            row["rejected"].append({"start_s": start_s, "reason": f"silent ({level:.0f} dB)"})
            continue
        stop_s = start_s + cut.seconds
        caption = source.caption_between(start_s, stop_s)
        if caption is None:
            row["rejected"].append({"start_s": start_s, "reason": "no event, so no caption"})
            continue
        about = {
            "caption": caption,
            "source": source.name,
            "start_s": start_s,
            "events_s": [round(e.time_s - start_s, 4) for e in source.events if start_s <= e.time_s < stop_s],
        }
        members = {
            "jpg": _strip(clip.video[first : first + time.frames]),
            "wav": _wav(sound, cut.sample_rate),
            "json": json.dumps(about).encode(),
        }
        row["clips"].append(f"{name}-{number:04d}")
        tar.write({"__key__": row["clips"][-1], **members})
        captions.add(caption)
    return captions


def _strip(frames: np.ndarray) -> bytes:
    import cv2

    strip = np.ascontiguousarray(frames.reshape(-1, *frames.shape[2:])[..., ::-1])
    done, encoded = cv2.imencode(".jpg", strip, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not done:
        raise ValueError(f"{len(frames)} frames of {frames.shape[1]} px are too many for one image")
    return encoded.tobytes()


def _wav(samples: np.ndarray, sample_rate: int) -> bytes:
    """A 16-bit WAV file of samples (N,) or (N, channels)."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(samples.size // len(samples))
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes((samples * 32767).round().astype("<i2").tobytes())
    return buffer.getvalue()

"""Cutting of videos into uniform clips: ``kinetophone data prepare``.

The output folder has shards ``clips-00000.tar``, ``manifest.jsonl`` with a line per source, and
``prepare.json``. The members of a clip are ``jpg`` (its frames, stacked vertically), ``wav`` and ``json``
(caption, source and times of events). Each worker writes entire shards, which are renamed when they are
complete, so a killed run can resume.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
import wave
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from kinetophone.data.shards import add
from kinetophone.data.sources import Source, Sources, first_few
from kinetophone.errors import MediaError, RequestError
from kinetophone.files import remove_unfinished, write_json, writing
from kinetophone.locks import sole_writer
from kinetophone.media.container import share_memory
from kinetophone.media.timing import ClipTime
from kinetophone.progress import track
from kinetophone.text import read_json, read_text

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


def prepare(sources: Sources, out: Path, cut: Cut, workers: int | None = None) -> list[dict[str, Any]]:
    """Cut ``sources`` into clips.

    Args:
        sources: The files and their captions.
        out: Folder to write to; an interrupted run in it is resumed.
        cut: Format of the clips.
        workers: Number of processes; one per core if not given.

    Returns:
        The manifest, with a dict for each source.

    Raises:
        RequestError: Another run is writing to ``out``; it has clips with other settings, sources or
            captions; or no clip could be made.
    """
    with sole_writer(out):
        return _prepare(sources, out, cut, workers)


def _prepare(sources: Sources, out: Path, cut: Cut, workers: int | None) -> list[dict[str, Any]]:
    usable = [source for source in sources if source.problem is None]
    settings = {**asdict(cut), **sources.settings, "sources": [source.name for source in usable]}
    described = out / "prepare.json"
    remove_unfinished(out)
    if described.exists():
        before = read_json(described)
        if any(settings.get(key) != value for key, value in before.items()):
            raise RequestError(
                [
                    f"'{out}' has clips with other settings, sources or captions; name another folder, or "
                    "remove it"
                ]
            )
    else:
        write_json(settings, described)
    groups = {
        g: usable[i : i + _SOURCES_PER_SHARD] for g, i in enumerate(range(0, len(usable), _SOURCES_PER_SHARD))
    }
    to_do = {g: group for g, group in groups.items() if not _part(out, g).exists()}
    if to_do:
        work = partial(_make_shard, out, cut)
        count = workers or os.cpu_count() or 1
        with ProcessPoolExecutor(count, get_context("spawn"), share_memory, (count,)) as pool:
            for _ in track(pool.map(work, to_do, to_do.values()), len(to_do), "preparing shards"):
                pass
    rows = {source.name: _row(source) for source in sources}
    for group in groups:
        for line in read_text(_part(out, group)).splitlines():
            row = json.loads(line)
            rows[row["source"]] = row
    manifest = list(rows.values())
    with writing(out / "manifest.jsonl") as file:
        file.write("".join(json.dumps(row) + "\n" for row in manifest).encode())
    if not any(row["clips"] for row in manifest):
        for g in groups:  # clean up, so that the folder can be used again
            _part(out, g).unlink()
            (out / f"clips-{g:05d}.tar").unlink()
        described.unlink()
        raise RequestError([_no_clip_message(manifest, out)])
    return manifest


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


def _part(out: Path, group: int) -> Path:
    """Path of a shard's part of the manifest; it exists once the shard is complete."""
    return out / "parts" / f"{group:05d}.jsonl"


def _make_shard(out: Path, cut: Cut, group: int, sources: list[Source]) -> None:
    import cv2

    cv2.setNumThreads(1)
    rows = []
    with writing(out / f"clips-{group:05d}.tar") as file, tarfile.open(fileobj=file, mode="w") as tar:
        for number, source in enumerate(sources):
            row = _row(source)
            try:
                _cut_source(tar, f"{group:05d}-{number:03d}", source, cut, row)
            except (MediaError, OSError, ValueError) as error:
                row["reason"] = str(error).replace(str(source.picture), source.name)
            except Exception as error:  # an unexpected error in one file must not stop the others
                row["reason"] = f"{type(error).__name__}: {error}"
            if not row["clips"] and row["reason"] is None:
                row["reason"] = "; ".join(f"{r['start_s']:g} s: {r['reason']}" for r in row["rejected"])
            rows.append(row)
    _part(out, group).parent.mkdir(exist_ok=True)
    with writing(_part(out, group)) as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows).encode())


def _cut_source(tar: tarfile.TarFile, key: str, source: Source, cut: Cut, row: dict[str, Any]) -> None:
    """Cut one file into consecutive clips, add them to the shard and record them in ``row``."""
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
    audio, time = as_channels(clip.audio, cut.channels), cut.time
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
        row["clips"].append(f"{key}-{number:04d}")
        add(tar, row["clips"][-1], members)


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

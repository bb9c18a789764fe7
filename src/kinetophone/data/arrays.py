"""Rendered clips of a procedural domain as memory-mapped arrays, for training the base models.

A folder has ``video.npy`` uint8 (N, frames, S, S, 3), ``audio.npy`` int16 (N, samples), ``scenes-*.json``
(captions, strike times, attributes), and ``mel.npy`` float16 (N, 400, 64) for domains at the sample rate of
log-mel. Its name has the hash of the key, so another size or another version of the domain gets another
folder. Interrupted rendering is resumed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kinetophone.data.domains import domain as domain_of
from kinetophone.data.domains import moments_s
from kinetophone.files import replacing, write_json
from kinetophone.keys import digest, key
from kinetophone.locks import sole_maker
from kinetophone.media.mel import SAMPLE_RATE
from kinetophone.workers import Failed, Workers, check_all_done, over_shards, threads_restored

MEL_FRAMES = 400
_CHUNK = 50
_VERSION = 1  # to be increased when the same scenes give other arrays


@dataclass(frozen=True)
class ClipArrays:
    """Clips of one split; index i is clip i of the domain, and ``made_by`` is their key."""

    video: np.ndarray
    audio: np.ndarray
    scenes: list[dict[str, Any]]
    made_by: str
    mel: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float16))
    domain: str = "hits"

    def __len__(self) -> int:
        return len(self.scenes)

    @property
    def fps(self) -> float:
        """Frames per second."""
        return float(domain_of(self.domain).FPS)

    def waveforms(self, clips: slice | np.ndarray, sample_rate: int) -> np.ndarray:
        """Waveforms of some clips at a sample rate, float32 (n, samples) or (n, samples, channels)."""
        sound: np.ndarray = np.asarray(self.audio[clips], np.float32) / 32767
        own = int(domain_of(self.domain).SAMPLE_RATE)
        if own == sample_rate:
            return sound
        from kinetophone.media.read import resample_audio

        return np.stack([resample_audio(one, own, sample_rate) for one in sound])

    def moments_s(self, index: int) -> list[float]:
        """Times of the events in a clip, in seconds; training samples these more often."""
        return moments_s(self.scenes[index])


def load_rendered(
    domain: str, folder: Path, split: str, count: int, size: int = 64, workers: int | None = None
) -> ClipArrays:
    """Load the first ``count`` clips of ``split``, rendering those that are not in ``folder`` yet.

    Args:
        domain: Name of the procedural domain.
        folder: Cache folder; the clips get a subfolder of it.
        split: Split of the domain.
        count: Number of clips.
        size: Height and width of the frames in pixels.
        workers: Number of processes; one per core if not given.

    Returns:
        The clips as memory-mapped arrays.
    """
    world = domain_of(domain)
    made_by = key(
        "render", _VERSION, domain=domain, domain_version=world.VERSION, split=split, count=count, size=size
    )
    root = Path(folder) / f"{domain}-{split}-{size}-{count}-{digest(made_by)}"
    shapes: dict[str, tuple[tuple[int, ...], type]] = {
        "video": ((count, world.FRAMES, size, size, 3), np.uint8),
        "audio": ((count, round(world.SECONDS * world.SAMPLE_RATE)), np.int16),
    }
    if world.SAMPLE_RATE == SAMPLE_RATE:
        shapes["mel"] = ((count, MEL_FRAMES, 64), np.float16)
    starts = range(0, count, _CHUNK)
    if _missing(root, starts):
        with sole_maker(root):
            _render(domain, root, split, count, size, shapes, workers)
    scenes = [s for start in starts for s in json.loads(_scenes(root, start).read_text())]
    maps = {name: np.load(root / f"{name}.npy", mmap_mode="r") for name in shapes}
    return ClipArrays(**maps, scenes=scenes, made_by=made_by, domain=domain)


def _missing(root: Path, starts: Iterable[int]) -> list[int]:
    """The first clips of those chunks that are not rendered yet."""
    return [start for start in starts if not _scenes(root, start).exists()]


def _scenes(root: Path, start: int) -> Path:
    return root / f"scenes-{start}.json"


def _render(
    domain: str,
    root: Path,
    split: str,
    count: int,
    size: int,
    shapes: dict[str, tuple[tuple[int, ...], type]],
    workers: int | None,
) -> None:
    """Render the chunks that are missing; the caller holds the lock."""
    root.mkdir(exist_ok=True)
    for name, (shape, dtype) in shapes.items():
        if not (root / f"{name}.npy").exists():
            with replacing(root / f"{name}.npy") as partial_name:
                np.lib.format.open_memmap(partial_name, mode="w+", dtype=dtype, shape=shape)
    starts = _missing(root, range(0, count, _CHUNK))
    setup = partial(_renderer, domain, root, split, count, size)
    failed = {}
    with threads_restored():
        for index, made in over_shards(setup, starts, Workers(workers), f"rendering {split} clips"):
            if isinstance(made, Failed):
                failed[f"clips {starts[index]} to {starts[index] + _CHUNK - 1}"] = made.reason
    check_all_done(failed, "chunks", root)


def _renderer(
    domain: str, root: Path, split: str, count: int, size: int, neighbours: int
) -> Callable[[int], None]:
    """What renders a chunk in a worker; with one thread, since there is a worker for each core."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    return partial(_render_chunk, domain, root, split, count, size)


def _render_chunk(domain: str, root: Path, split: str, count: int, size: int, start: int) -> None:
    import torch

    from kinetophone.media.mel import log_mel

    arrays = {path.stem: np.load(path, mmap_mode="r+") for path in root.glob("*.npy")}
    scenes = []
    for i in range(start, min(start + _CHUNK, count)):
        clip = domain_of(domain).make_clip(split, i, size)
        arrays["video"][i] = clip.video
        arrays["audio"][i] = np.round(clip.audio * 32767)
        if "mel" in arrays:
            arrays["mel"][i] = log_mel(torch.from_numpy(clip.audio)[None])[0].numpy()
        scenes.append(clip.events())
    for array in arrays.values():
        array.flush()
    # The scenes are written last and atomically: their file marks the chunk as complete.
    write_json(scenes, _scenes(root, start))

"""The commands under ``kinetophone data``.

``hits``, ``hits16`` and ``bows`` write clips of the procedural domains. ``prepare`` and ``encode`` turn a
folder of videos into training data for a coupling.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from kinetophone.cli.options import AllowPickle, Dtype
from kinetophone.cli.shared import (
    AudioBase,
    ModelWorkerCount,
    MotionAdapter,
    RayAddress,
    VideoBase,
    WorkerCount,
    check_at_least_one,
    model_workers,
)
from kinetophone.data.sources import Layout
from kinetophone.data.sources import Split as PrepareSplit
from kinetophone.errors import RequestError

Out = Annotated[Path, typer.Option(help="Folder for the clips, captions.csv and events.json.")]
Split = Annotated[str, typer.Option(help="train, val or test.")]
Count = Annotated[int, typer.Option(help="Number of clips.")]
Size = Annotated[int, typer.Option(help="Height and width in pixels.")]


def hits(out: Out, split: Split = "val", count: Count = 100, size: Size = 64) -> None:
    """Write clips of the procedural data set hits: a tool strikes objects at known times."""
    _write("hits", out, split, count, size)


def hits16(out: Out, split: Split = "val", count: Count = 100, size: Size = 64) -> None:
    """Write clips of hits16: hits at 16 fps and 24 kHz, with captions as people write them."""
    _write("hits16", out, split, count, size)


def bows(out: Out, split: Split = "val", count: Count = 100, size: Size = 64) -> None:
    """Write clips of the procedural data set bows: a bow moves on a string with a known speed curve."""
    _write("bows", out, split, count, size)


def _write(domain: str, out: Path, split: str, count: int, size: int) -> None:
    check_at_least_one("count", count)
    if size < 32 or size % 8:
        raise RequestError([f"size is {size}; it must be a multiple of 8 and at least 32, such as 64"])
    from kinetophone.hits.scene import SPLITS
    from kinetophone.hits.write import write_split

    if split not in SPLITS:
        raise RequestError([f"split is '{split}'; it must be one of {', '.join(SPLITS)}"])
    write_split(split, count, out, size, domain)
    typer.echo(out)


def prepare(
    source: Annotated[Path, typer.Argument(help="Folder of videos.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Folder for shards and manifest.", show_default=False)],
    fps: Annotated[float, typer.Option(help="Frames per second.")] = 8,
    seconds: Annotated[float, typer.Option(help="Length of a clip.")] = 4,
    size: Annotated[int, typer.Option(help="Height and width in pixels.")] = 256,
    sample_rate: Annotated[int, typer.Option(help="Sample rate of the audio, in Hz.")] = 16_000,
    channels: Annotated[int, typer.Option(help="Channels of the audio, 1 or 2.")] = 1,
    layout: Annotated[Layout, typer.Option(help="How the folder is laid out.")] = "folder",
    captions: Annotated[
        Path | None,
        typer.Option(help="Table of files and captions, with or without a header; or that of VGGSound."),
    ] = None,
    caption: Annotated[str | None, typer.Option(help="One caption for all clips.")] = None,
    split: Annotated[
        PrepareSplit | None, typer.Option(help="Split of the data set; default: all. Not for layout folder.")
    ] = None,
    workers: WorkerCount = None,
    ray: RayAddress = None,
) -> None:
    """Cut videos into clips of equal length, size and rate; gives a reason for every rejected file."""
    if size < 8 or size % 8:
        raise RequestError([f"size is {size}; it must be a multiple of 8, such as 256"])
    if not 1 <= channels <= 2:
        raise RequestError([f"channels is {channels}; it must be 1 or 2"])
    if not 8_000 <= sample_rate <= 192_000:
        raise RequestError([f"sample_rate is {sample_rate}; it must be 8000 to 192000, such as 44100"])
    from kinetophone.workers import Workers

    where = Workers(workers, ray)
    from kinetophone.data.prepare import Cut
    from kinetophone.data.prepare import prepare as cut_all
    from kinetophone.data.sources import find_sources

    cut = Cut(fps=fps, seconds=seconds, size=size, sample_rate=sample_rate, channels=channels)
    try:
        cut.time  # noqa: B018
    except ValueError as error:
        raise RequestError([str(error)]) from error
    sources = find_sources(source, layout, captions, caption, split)
    for note in sources.notes:
        typer.echo(note, err=True)
    rows = cut_all(sources, out, cut, where)
    known = {source.name for source in sources if source.problem}  # already reported by the notes
    for row in rows:
        if row["reason"] and row["source"] not in known:
            typer.echo(f"rejected: {row['source']}: {row['reason']}")
    clips = sum(len(row["clips"]) for row in rows)
    used = sum(bool(row["clips"]) for row in rows)
    typer.echo(f"{clips} clips from {used} of {len(rows)} files in {out}")


def encode(
    source: Annotated[Path, typer.Argument(help="Folder of prepared clips.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Folder for latents and text embeddings.", show_default=False)],
    bundle: Annotated[str, typer.Option(help="Bundle whose bases are used for encoding.")] = "hits",
    audio_base: AudioBase = None,
    video_base: VideoBase = None,
    motion_adapter: MotionAdapter = None,
    device: Annotated[str, typer.Option(help="Such as cpu or cuda.")] = "cpu",
    dtype: Dtype = "float32",
    allow_pickle: AllowPickle = False,
    workers: ModelWorkerCount = None,
    ray: RayAddress = None,
) -> None:
    """Encode prepared clips to latents, so that training does not decode files."""
    from kinetophone.bundle.spec import find_bundle
    from kinetophone.data.encode import check_prepared
    from kinetophone.data.encode import encode as encode_all

    where = model_workers(workers, ray, device)
    check_prepared(source)
    folder = find_bundle(bundle) if audio_base is None or video_base is None else Path()
    load = partial(
        _load_bases,
        audio_base or str(folder / "audio"),
        video_base or str(folder / "video"),
        motion_adapter,
        device,
        dtype,
        allow_pickle,
    )
    typer.echo(f"{encode_all(source, out, load, where)} clips in {out}")


def _load_bases(
    audio: str, video: str, motion_adapter: str | None, device: str, dtype: str, allow_pickle: bool
) -> Any:
    """The bases that encode, without their denoising networks on the device; called in each worker."""
    import torch

    from kinetophone.av import AV
    from kinetophone.bases.load import load_audio_base, load_video_base

    options: dict[str, Any] = {"dtype": getattr(torch, dtype), "allow_pickle": allow_pickle}
    bases = AV(
        audio=load_audio_base(audio, **options),
        video=load_video_base(video, motion_adapter=motion_adapter, **options),
    )
    for base in (bases.audio, bases.video):
        for name, network in base.networks.items():
            if name != base.NETWORK:  # which encodes nothing, and is the largest
                network.to(device)
    return bases

"""Input for metrics: videos, videos with a separate audio file, event lists and captions."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from kinetophone.data.captions import VIDEOS, Row, read_list
from kinetophone.data.sources import COMPANION_SUFFIXES, first_few, sibling
from kinetophone.errors import MediaError, RequestError, reason
from kinetophone.media.clip import Clip
from kinetophone.text import read_json, read_text

MEDIA_SUFFIXES = VIDEOS
AUDIO_SUFFIX = ".wav"

# Audio below this (-80 dBFS) counts as silence, because lossy codecs leave a little noise.
_SILENCE = 1e-4


def find_clips(folder: str | os.PathLike[str]) -> list[Path]:
    """The media files of a folder, sorted by name; subfolders are ignored.

    A ``.wav`` with the same name as a video is its audio (see ``read``) and is not listed. A ``.wav``
    without a video is listed, so that the report mentions it.

    Raises:
        MediaError: There is no such folder or no media file in it, or a ``.wav`` matches two videos.
    """
    root = Path(folder)
    if not root.is_dir():
        raise MediaError(f"'{folder}' is not a folder; name one with clips")
    every = sorted(root.iterdir())
    video_files = [path for path in every if path.suffix.lower() in MEDIA_SUFFIXES]
    stems = Counter(path.stem for path in video_files)
    sounds = [path for path in every if path.suffix.lower() == AUDIO_SUFFIX and path.stem not in stems]
    for path in every:
        if path.suffix.lower() == AUDIO_SUFFIX and stems[path.stem] > 1:
            of = " or ".join(
                f"'{video_file.name}'" for video_file in video_files if video_file.stem == path.stem
            )
            raise MediaError(f"'{path}' may be the audio of {of}; give them different names")
    if not video_files and not sounds:
        raise MediaError(f"'{folder}' has no clips; looked for {', '.join(MEDIA_SUFFIXES)}")
    return sorted(video_files + sounds)


def unread_files(folder: str | os.PathLike[str]) -> list[str]:
    """Names of the files in a folder that are neither media files nor belong to one."""
    beside = (*MEDIA_SUFFIXES, AUDIO_SUFFIX, *COMPANION_SUFFIXES, ".html", ".png")
    files = (path for path in Path(folder).iterdir() if path.is_file() and not path.name.startswith("."))
    return sorted(path.name for path in files if path.suffix.lower() not in beside)


def read(path: str | os.PathLike[str]) -> Clip:
    """Read a video with its own audio, or with the ``.wav`` of the same name in its folder.

    Raises:
        OSError: A file cannot be read.
        MediaError: The file has no video, no audio, or is corrupt.
    """
    from kinetophone.media.read import read_clip

    return read_clip(path, sound=sound_beside(path))


def sound_beside(path: str | os.PathLike[str]) -> Path | None:
    """The ``.wav`` with the name of a video, in its folder; None if there is none."""
    beside = sibling(Path(path), AUDIO_SUFFIX)
    return None if beside == Path(path) else beside


def read_small(
    path: str | os.PathLike[str], side: int, *, sound: Path | None = None, longest_s: float | None = None
) -> tuple[Clip, float]:
    """Read a clip with frames that are shrunk while they are decoded.

    Args:
        path: A video.
        side: Largest shorter side of the frames, in pixels.
        sound: A file to take the audio from.
        longest_s: Largest length in seconds.

    Returns:
        The clip, and how many pixels of the file a pixel of its frames is wide.

    Raises:
        OSError: A file cannot be read.
        MediaError: The file has no video, no audio, is corrupt or too long.
    """
    from kinetophone.media.read import frame_size, read_clip

    height, width = frame_size(path)
    scale = max(1.0, min(height, width) / side)
    clip = read_clip(path, within=round(max(height, width) / scale), sound=sound, longest_s=longest_s)
    return clip, scale


def why_unscorable(clip: Clip) -> str | None:
    """Why a clip cannot be scored, or None if it can."""
    if len(clip.video) < 2:
        return "the video is a single frame"
    if float(np.abs(clip.audio).max(initial=0.0)) < _SILENCE:
        return "the audio is silent (nothing above -80 dBFS)"
    return None


def find_truth(folder: str | os.PathLike[str]) -> Path | None:
    """The event list of a folder: its ``events.json``, else the folder itself if it has ``*_times.txt``."""
    root = Path(folder)
    if (root / "events.json").is_file():
        return root / "events.json"
    return root if any(root.glob("*_times.txt")) else None


def read_truth(path: str | os.PathLike[str]) -> dict[str, list[float]]:
    """Read ground-truth event times.

    Args:
        path: An ``events.json``, ``{"clips": {name: {"strikes_s": [...]}}}``, or a folder of GreatestHits'
            ``<stem>_times.txt``, whose lines start with the time of an event.

    Returns:
        Times in seconds, by file name, or by stem for ``_times.txt``.

    Raises:
        FileNotFoundError: There is no such file or folder.
        MediaError: The file is not in that format.
    """
    source = Path(path)
    if source.is_dir():
        files = sorted(source.glob("*_times.txt"))
        if not files:
            raise MediaError(f"'{path}' has no event list; looked for *_times.txt")
        return {file.name.removesuffix("_times.txt"): _read_times(file) for file in files}
    if not source.is_file():
        raise FileNotFoundError(f"'{path}' does not exist")
    try:
        clips = read_json(source)["clips"]
        # For bows the events are the starts of strokes.
        times = {
            name: clip["onsets_s" if "onsets_s" in clip else "strikes_s"] for name, clip in clips.items()
        }
        return {str(name): [float(time) for time in of_clip] for name, of_clip in times.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        form = '{"clips": {"<file name>": {"strikes_s": [0.5, 1.25]}}}'
        raise MediaError(f"'{path}' is not an event list ({reason(error)}); expected {form}") from error


def truth_of(name: str, truth: Mapping[str, Sequence[float]]) -> Sequence[float] | None:
    """Look up a clip's events by file name, stem, or stem without GreatestHits' ``_denoised`` or ``_mic``."""
    stem = Path(name).stem
    keys: Iterable[str] = (name, stem, stem.removesuffix("_denoised").removesuffix("_mic"))
    return next((truth[key] for key in keys if key in truth), None)


def read_captions(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read captions by file name, from a table in a format of :mod:`kinetophone.data.captions`.

    Raises:
        RequestError: The table cannot be read, a row has no caption, or a file has two different captions.
    """
    table = read_list(Path(path))
    problems = [f"'{path}', line {line}, has no caption; fill it in" for line in table.incomplete]
    found: dict[str, Row] = {}
    for row in table.rows:
        name = Path(row.name.replace("\\", "/")).name
        known = found.setdefault(name, row)
        if known.caption != row.caption:
            problems.append(f"'{path}' has two captions for '{name}', in lines {known.line} and {row.line}")
    if problems:
        more = [f"and {len(problems) - 5} more"] if len(problems) > 5 else []
        raise RequestError(problems[:5] + more)
    return {name: row.caption for name, row in found.items()}


def captions_of(names: Iterable[str], captions: Mapping[str, str]) -> dict[str, str]:
    """Captions of the clips that have one, looked up by file name or stem."""
    by_stem = {Path(name).stem: text for name, text in captions.items()}
    found = {name: captions.get(name, by_stem.get(Path(name).stem)) for name in names}
    return {name: text for name, text in found.items() if text is not None}


def unmatched(names: Sequence[str], captions: Mapping[str, str]) -> list[str]:
    """Warnings about clips without a caption and captions without a clip, one line each."""
    known = captions_of(names, captions)
    silent = [name for name in names if name not in known]
    stems = {Path(name).stem for name in names}
    idle = [name for name in captions if Path(name).stem not in stems]
    lines = [f"{len(silent)} of {len(names)} clips have no caption: {first_few(silent)}"] if silent else []
    return lines + ([f"{len(idle)} captions belong to no clip here: {first_few(idle)}"] if idle else [])


def _read_times(path: Path) -> list[float]:
    try:
        return [float(line.split()[0]) for line in read_text(path).split("\n") if line.strip()]
    except ValueError as error:
        raise MediaError(f"'{path}' is not an event list ({error}); each line starts with seconds") from error

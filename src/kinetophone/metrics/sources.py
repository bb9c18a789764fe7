"""Where clips to be measured come from: films, films with a sound file beside them, event lists, captions."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from kinetophone.data.captions import VIDEOS, Row, read_list
from kinetophone.data.sources import BESIDE, few, sibling
from kinetophone.errors import MediaError, RequestError, reason
from kinetophone.media.clip import Clip
from kinetophone.text import read_json, read_text

MEDIA_SUFFIXES = VIDEOS
AUDIO_SUFFIX = ".wav"

# Below this (-80 dBFS) a sound is silence: lossy codecs leave a little noise in it.
_SILENCE = 1e-4


def find_clips(folder: str | os.PathLike[str]) -> list[Path]:
    """The media files of a folder, not of those in it, by name.

    A ``.wav`` of the same name as a film is its sound (see ``read``) and not listed; one alone is listed,
    since it is a clip without a picture, which the report shall say.

    Raises:
        MediaError: There is no such folder, no media file in it, or a ``.wav`` that may be of two films.
    """
    root = Path(folder)
    if not root.is_dir():
        raise MediaError(f"'{folder}' is not a folder; name one that holds clips")
    every = sorted(root.iterdir())
    video_files = [path for path in every if path.suffix.lower() in MEDIA_SUFFIXES]
    stems = Counter(path.stem for path in video_files)
    sounds = [path for path in every if path.suffix.lower() == AUDIO_SUFFIX and path.stem not in stems]
    for path in every:
        if path.suffix.lower() == AUDIO_SUFFIX and stems[path.stem] > 1:
            of = " or ".join(
                f"'{video_file.name}'" for video_file in video_files if video_file.stem == path.stem
            )
            raise MediaError(f"'{path}' may be the sound of {of}; give them different names")
    if not video_files and not sounds:
        raise MediaError(f"'{folder}' holds no clip; looked for {', '.join(MEDIA_SUFFIXES)}")
    return sorted(video_files + sounds)


def unread(folder: str | os.PathLike[str]) -> list[str]:
    """Names of the files of a folder that are of no kind that is measured, nor belong to one that is."""
    beside = (*MEDIA_SUFFIXES, AUDIO_SUFFIX, *BESIDE, ".html", ".png")
    files = (path for path in Path(folder).iterdir() if path.is_file() and not path.name.startswith("."))
    return sorted(path.name for path in files if path.suffix.lower() not in beside)


def read(path: str | os.PathLike[str]) -> Clip:
    """Read a film with its own sound, or with that of the ``.wav`` of the same name beside it.

    Raises:
        OSError: A file cannot be read.
        MediaError: It holds no picture, no sound, or is corrupt.
    """
    from kinetophone.media.read import read_clip

    beside = sibling(Path(path), AUDIO_SUFFIX)
    return read_clip(path, sound=None if beside == Path(path) else beside)


def why_unscorable(clip: Clip) -> str | None:
    """Why a clip has nothing to align, or None."""
    if len(clip.video) < 2:
        return "the picture is a single frame"
    if float(np.abs(clip.audio).max(initial=0.0)) < _SILENCE:
        return "the sound is silent (nothing above -80 dBFS)"
    return None


def find_truth(folder: str | os.PathLike[str]) -> Path | None:
    """The event lists of a folder: its ``events.json``, else itself where it holds ``*_times.txt``."""
    root = Path(folder)
    if (root / "events.json").is_file():
        return root / "events.json"
    return root if any(root.glob("*_times.txt")) else None


def read_truth(path: str | os.PathLike[str]) -> dict[str, list[float]]:
    """True event times in seconds, by file name, or by stem where the list does not name the file.

    Args:
        path: An ``events.json``, ``{"clips": {name: {"strikes_s": [...]}}}``, or a folder of GreatestHits'
            ``<stem>_times.txt``: a line per event, its time first, what it was after that.

    Raises:
        FileNotFoundError: There is no such file or folder.
        MediaError: It is not of that form.
    """
    source = Path(path)
    if source.is_dir():
        files = sorted(source.glob("*_times.txt"))
        if not files:
            raise MediaError(f"'{path}' holds no event list; looked for *_times.txt")
        return {file.name.removesuffix("_times.txt"): _read_times(file) for file in files}
    if not source.is_file():
        raise FileNotFoundError(f"'{path}' does not exist")
    try:
        clips = read_json(source)["clips"]
        # Of bows the starts of strokes are the events.
        times = {
            name: clip["onsets_s" if "onsets_s" in clip else "strikes_s"] for name, clip in clips.items()
        }
        return {str(name): [float(time) for time in of_clip] for name, of_clip in times.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        form = '{"clips": {"<file name>": {"strikes_s": [0.5, 1.25]}}}'
        raise MediaError(f"'{path}' is not an event list ({reason(error)}); its form is {form}") from error


def truth_of(name: str, truth: Mapping[str, Sequence[float]]) -> Sequence[float] | None:
    """The events of a clip by its file name, its stem, or its stem without GreatestHits' ``_denoised``."""
    stem = Path(name).stem
    keys: Iterable[str] = (name, stem, stem.removesuffix("_denoised").removesuffix("_mic"))
    return next((truth[key] for key in keys if key in truth), None)


def read_captions(path: str | os.PathLike[str]) -> dict[str, str]:
    """Captions by file name, from a table as :mod:`kinetophone.data.captions` reads it.

    Raises:
        RequestError: It cannot be read, a row has no caption, or two rows say different things of one file.
    """
    table = read_list(Path(path))
    problems = [f"'{path}', line {line}, has no caption; fill it in" for line in table.incomplete]
    found: dict[str, Row] = {}
    for row in table.rows:
        name = Path(row.name.replace("\\", "/")).name
        known = found.setdefault(name, row)
        if known.caption != row.caption:
            problems.append(f"'{path}' has two captions of '{name}', in lines {known.line} and {row.line}")
    if problems:
        more = [f"and {len(problems) - 5} more"] if len(problems) > 5 else []
        raise RequestError(problems[:5] + more)
    return {name: row.caption for name, row in found.items()}


def captions_of(names: Iterable[str], captions: Mapping[str, str]) -> dict[str, str]:
    """The captions of clips that have one: by file name, or by that without the ending."""
    by_stem = {Path(name).stem: text for name, text in captions.items()}
    found = {name: captions.get(name, by_stem.get(Path(name).stem)) for name in names}
    return {name: text for name, text in found.items() if text is not None}


def unmatched(names: Sequence[str], captions: Mapping[str, str]) -> list[str]:
    """What does not go together, a line each: clips without a caption, and captions without a clip."""
    known = captions_of(names, captions)
    silent = [name for name in names if name not in known]
    stems = {Path(name).stem for name in names}
    idle = [name for name in captions if Path(name).stem not in stems]
    lines = [f"{len(silent)} of {len(names)} clips have no caption: {few(silent)}"] if silent else []
    return lines + ([f"{len(idle)} captions are of no clip here: {few(idle)}"] if idle else [])


def _read_times(path: Path) -> list[float]:
    try:
        return [float(line.split()[0]) for line in read_text(path).split("\n") if line.strip()]
    except ValueError as error:
        raise MediaError(f"'{path}' is not an event list ({error}); each line starts with seconds") from error

"""Where clips to be measured come from: films, films with a sound file beside them, event lists, captions."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from kinetophone.errors import MediaError
from kinetophone.media.clip import Clip

MEDIA_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
SOUND_SUFFIX = ".wav"

# Below this (-80 dBFS) a sound is silence: lossy codecs leave a little noise in it.
_SILENCE = 1e-4


def find_clips(folder: str | os.PathLike[str]) -> list[Path]:
    """The media files of a folder, not of those in it, by name.

    A ``.wav`` of the same name as a film is its sound (see ``read``) and not listed; one alone is listed,
    since it is a clip without a picture, which the report shall say.

    Raises:
        MediaError: There is no such folder, or no media file in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise MediaError(f"'{folder}' is not a folder; name one that holds clips")
    every = sorted(root.iterdir())
    films = [path for path in every if path.suffix.lower() in MEDIA_SUFFIXES]
    stems = {path.stem for path in films}
    sounds = [path for path in every if path.suffix.lower() == SOUND_SUFFIX and path.stem not in stems]
    if not films and not sounds:
        raise MediaError(f"'{folder}' holds no clip; looked for {', '.join(MEDIA_SUFFIXES)}")
    return sorted(films + sounds)


def read(path: str | os.PathLike[str]) -> Clip:
    """Read a film with its own sound, or with that of the ``.wav`` of the same name beside it.

    Raises:
        OSError: A file cannot be read.
        MediaError: It holds no picture, no sound, or is corrupt.
    """
    from kinetophone.media.read import read_clip

    beside = Path(path).with_suffix(SOUND_SUFFIX)
    paired = beside.is_file() and beside != Path(path)
    return read_clip(path, sound=beside if paired else None)


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
        clips = json.loads(source.read_text(encoding="utf-8"))["clips"]
        # Of bows the starts of strokes are the events.
        times = {
            name: clip["onsets_s" if "onsets_s" in clip else "strikes_s"] for name, clip in clips.items()
        }
        return {str(name): [float(time) for time in of_clip] for name, of_clip in times.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        form = '{"clips": {"<file name>": {"strikes_s": [0.5, 1.25]}}}'
        raise MediaError(f"'{path}' is not an event list ({error!r}); its form is {form}") from error


def truth_of(name: str, truth: Mapping[str, Sequence[float]]) -> Sequence[float] | None:
    """The events of a clip by its file name, its stem, or its stem without GreatestHits' ``_denoised``."""
    stem = Path(name).stem
    keys: Iterable[str] = (name, stem, stem.removesuffix("_denoised").removesuffix("_mic"))
    return next((truth[key] for key in keys if key in truth), None)


def read_captions(path: str | os.PathLike[str]) -> dict[str, str]:
    """Captions by file name from a CSV with the columns ``file`` and ``caption``.

    Raises:
        FileNotFoundError: There is no such file.
        MediaError: A column is missing.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"'{path}' does not exist")
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"file", "caption"} <= set(rows.fieldnames or ()):
            raise MediaError(f"'{path}' has the columns {rows.fieldnames}; it needs file and caption")
        return {row["file"]: row["caption"] for row in rows}


def _read_times(path: Path) -> list[float]:
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        return [float(line.split()[0]) for line in lines if line.strip()]
    except ValueError as error:
        raise MediaError(f"'{path}' is not an event list ({error}); each line starts with seconds") from error

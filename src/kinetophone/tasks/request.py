"""What a user may ask for, checked before any model is loaded: this file needs no torch."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from kinetophone.av import AV
from kinetophone.bundle.spec import BundleSpec
from kinetophone.diffusion.settings import option_problems
from kinetophone.errors import RequestError
from kinetophone.media.timing import ClipTime
from kinetophone.media.write import check_rate, check_suffix
from kinetophone.text import read_text

_MOST_SEED = 2**63 - 1
_MOST_NAME, _MOST_PATH = 255, 4000  # bytes that file systems take; the path leaves room for another name
_MOST_PROMPT = 2000  # characters: text encoders read far fewer
_EXAMPLE = "a drumstick hits a bowl"


@dataclass(frozen=True, slots=True)
class Script:
    """A prompt that changes: texts with the second from which each holds, the first from 0."""

    lines: tuple[tuple[float, str], ...]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Script:
        """Read a text file, as :meth:`parse` takes it; a RequestError where there is none."""
        return cls.parse(read_text(path), str(path))

    @classmethod
    def parse(cls, text: str, path: str) -> Script:
        """A script from a text: on each line a second and a text, such as "4.5 a mallet hits a drum".

        Args:
            text: the lines.
            path: what errors call it.

        Raises:
            RequestError: Lines are not of this form or not in order.
        """
        rows = text.split("\n")
        lines: list[tuple[float, str]] = []
        problems = []
        for number, row in enumerate(rows, start=1):
            start, _, text = row.strip().partition(" ")
            try:
                second = float(start)
            except ValueError:
                second = math.nan
            if not row.strip():
                continue
            if not math.isfinite(second) or not text.strip():
                problems.append(f"{path}, line {number}: give a second and a text, such as '4.5 {_EXAMPLE}'")
            elif second < 0 or (lines and second <= lines[-1][0]):
                problems.append(f"{path}, line {number}: {second:g} s is not after the line before")
            else:
                lines.append((second, text.strip()))
        if not lines and not problems:
            problems.append(f"'{path}' has no lines: give a second and a text on each")
        if problems:
            more = [f"and {len(problems) - 5} more lines of '{path}'"] if len(problems) > 5 else []
            raise RequestError(problems[:5] + more)
        return cls(tuple(lines))

    def at(self, second: float) -> str:
        """The text that holds at ``second``."""
        return [text for start, text in self.lines if start <= second or start == self.lines[0][0]][-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """A request for sounding clips; None leaves a value to the bundle.

    Attributes:
        prompts: One text or script per clip.
        bundle: Name, folder or Hub id of the bundle, or the spec of one that is loaded.
        seconds: Length in seconds.
        fps: Frames per second.
        seed: Of the first clip, at least 0.
        output: File to write.
        options: How to sample, see :class:`kinetophone.diffusion.settings.SamplingOptions`.
    """

    prompts: tuple[str | Script, ...]
    bundle: str | os.PathLike[str] | BundleSpec = "hits"
    seconds: float | Fraction | None = None
    fps: float | Fraction | None = None
    seed: int = 0
    output: str | os.PathLike[str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def validate(self) -> ClipTime:
        """Check everything.

        Returns:
            The time of the clips.

        Raises:
            RequestError: Something cannot be done; it lists all that was found.
        """
        problems = [*self._bad_prompts(), *option_problems(self.options)]
        if not 0 <= self.seed <= _MOST_SEED:
            problems.append(f"seed is {self.seed}; it must be 0 to 2^63 - 1")
        time = None
        try:
            spec = self.bundle if isinstance(self.bundle, BundleSpec) else BundleSpec.read(self.bundle)
            if self.options.get("gamma") == "auto":
                spec.gamma("auto")
            time = spec.time(self.seconds, self.fps)
        except RequestError as error:
            problems += error.problems
        if self.output is not None:
            try:
                check_output(self.output)
                if time is not None:
                    check_rate(self.output, time.fps)
            except (ValueError, OSError) as error:
                problems.append(str(error))
        if problems or time is None:
            raise RequestError(problems)
        return time

    def _bad_prompts(self) -> list[str]:
        if not self.prompts:
            return ["there is no prompt; say what is to be seen and heard"]
        problems = []
        for number, prompt in enumerate(self.prompts, start=1):
            which = f"prompt {number}" if len(self.prompts) > 1 else "the prompt"
            texts = [text for _, text in prompt.lines] if isinstance(prompt, Script) else [prompt]
            if not all(text.strip() for text in texts):
                problems.append(f"{which} is empty; say what is to be seen and heard, such as '{_EXAMPLE}'")
            longest = max(map(len, texts))
            if longest > _MOST_PROMPT:
                problems.append(f"{which} has {longest} characters; at most {_MOST_PROMPT} can be used")
        return problems


def read_gamma(text: str) -> Any:
    """A γ from a text: a number as one, anything else as it is, for the request to take or to refuse."""
    try:
        return float(text)
    except ValueError:
        return text


def read_scales(text: str) -> float | AV[float]:
    """A scale of both modalities from a text such as "4", or one of the sound and one of the picture: "3,5".

    Raises:
        RequestError: It is not of this form.
    """
    try:
        scales = [float(part) for part in text.split(",")]
    except ValueError:
        scales = []
    if len(scales) not in (1, 2):
        raise RequestError([f"'{text}' must be a number, or two for sound and picture such as 3,5"])
    return scales[0] if len(scales) == 1 else AV(*scales)


def read_stretch(text: str) -> tuple[float, float]:
    """A stretch of a clip in seconds, from a text such as "0-1.5".

    Raises:
        RequestError: It is not of this form.
    """
    start, _, end = text.partition("-")
    try:
        return float(start), float(end)
    except ValueError:
        raise RequestError([f"keep is '{text}'; give two seconds such as 0-1.5"]) from None


def check_output(path: str | os.PathLike[str]) -> None:
    """Raise unless a clip can be written to ``path``; folders that do not exist yet may be made on writing.

    Raises:
        MediaError: The suffix is unknown.
        OSError: It is a folder, or nothing can be written there.
    """
    check_suffix(path)
    check_writable(path)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise unless a file can be written to ``path``.

    Raises:
        OSError: It is a folder, or nothing can be written there.
    """
    target = Path(path).absolute()
    if "\0" in str(path):
        raise ValueError(f"'{path!s:.40}' holds a zero byte; name another file".replace("\0", "?"))
    for name, most in [(part, _MOST_NAME) for part in target.parts] + [(str(target), _MOST_PATH)]:
        if len(os.fsencode(name)) > most:
            raise OSError(f"'{name:.40}…' has more than the {most} bytes that names may have; shorten it")
    if target.is_dir():
        raise IsADirectoryError(f"'{path}' is a folder; name a file in it")
    parent = next(folder for folder in target.parents if folder.exists())
    if not parent.is_dir():
        raise NotADirectoryError(f"'{path}' cannot be written: '{parent}' is a file, not a folder")
    # Trying is the only true test: permissions, read-only mounts and full disks answer alike.
    try:
        tempfile.TemporaryFile(dir=parent).close()
    except OSError as error:
        reason = f"'{path}' cannot be written: nothing can be written in '{parent}' ({error.strerror})"
        raise PermissionError(f"{reason}; choose another folder") from None

"""Requests and their validation, before any model is loaded. This module does not import torch."""

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
_MOST_NAME, _MOST_PATH = 255, 4000  # bytes; the path limit leaves room for one more name
_MOST_PROMPT = 2000  # characters; text encoders use far fewer
_EXAMPLE = "a drumstick hits a bowl"


@dataclass(frozen=True, slots=True)
class Script:
    """A prompt that changes over time: pairs of a start in seconds and a text, sorted by start.

    The first text also holds before its start.
    """

    lines: tuple[tuple[float, str], ...]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Script:
        """Read a script from a text file in the format of :meth:`parse`.

        Raises:
            RequestError: The file cannot be read, or is not in this format.
        """
        return cls.parse(read_text(path), str(path))

    @classmethod
    def parse(cls, text: str, path: str) -> Script:
        """Parse a script: each line has a time in seconds and a text, such as "4.5 a mallet hits a drum".

        Args:
            text: the lines.
            path: name of the script in error messages.

        Raises:
            RequestError: Lines have another format or are not in order.
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
                problems.append(
                    f"{path}, line {number}: give a time in seconds and a text, such as '4.5 {_EXAMPLE}'"
                )
            elif second < 0 or (lines and second <= lines[-1][0]):
                problems.append(f"{path}, line {number}: {second:g} s is not later than the line before")
            else:
                lines.append((second, text.strip()))
        if not lines and not problems:
            problems.append(f"'{path}' is empty: give a time in seconds and a text on each line")
        if problems:
            more = [f"and {len(problems) - 5} more lines of '{path}'"] if len(problems) > 5 else []
            raise RequestError(problems[:5] + more)
        return cls(tuple(lines))

    def at(self, second: float) -> str:
        """The text that holds at ``second``."""
        return [text for start, text in self.lines if start <= second or start == self.lines[0][0]][-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """A request for clips; None means the bundle's default.

    Attributes:
        prompts: One text or script per clip.
        bundle: Name, folder or Hub id of the bundle, or the spec of a loaded one.
        seconds: Length in seconds.
        fps: Frames per second.
        seed: Seed of the first clip, 0 to 2^63 - 1.
        output: File to write.
        options: Sampling options, see :class:`kinetophone.diffusion.settings.SamplingOptions`.
    """

    prompts: tuple[str | Script, ...]
    bundle: str | os.PathLike[str] | BundleSpec = "hits"
    seconds: float | Fraction | None = None
    fps: float | Fraction | None = None
    seed: int = 0
    output: str | os.PathLike[str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def validate(self) -> ClipTime:
        """Check all values.

        Returns:
            Length and rates of the clips.

        Raises:
            RequestError: Values are invalid; it lists every problem.
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
            return ["there is no prompt; describe what to generate"]
        problems = []
        for number, prompt in enumerate(self.prompts, start=1):
            which = f"prompt {number}" if len(self.prompts) > 1 else "the prompt"
            texts = [text for _, text in prompt.lines] if isinstance(prompt, Script) else [prompt]
            if not all(text.strip() for text in texts):
                problems.append(f"{which} is empty; describe what to generate, such as '{_EXAMPLE}'")
            longest = max(map(len, texts))
            if longest > _MOST_PROMPT:
                problems.append(f"{which} has {longest} characters; at most {_MOST_PROMPT} can be used")
        return problems


def read_gamma(text: str) -> Any:
    """Parse γ: a number if possible, otherwise the text itself, such as "auto"; validation comes later."""
    try:
        return float(text)
    except ValueError:
        return text


def read_scales(text: str) -> float | AV[float]:
    """Parse one guidance scale for both modalities, such as "4", or one for audio and one for video: "3,5".

    Raises:
        RequestError: The text has another format.
    """
    try:
        scales = [float(part) for part in text.split(",")]
    except ValueError:
        scales = []
    if len(scales) not in (1, 2):
        raise RequestError([f"'{text}' must be a number, or two for audio and video such as 3,5"])
    return scales[0] if len(scales) == 1 else AV(*scales)


def read_stretch(text: str) -> tuple[float, float]:
    """Parse an interval of a clip in seconds, such as "0-1.5".

    Raises:
        RequestError: The text has another format.
    """
    start, _, end = text.partition("-")
    try:
        return float(start), float(end)
    except ValueError:
        raise RequestError([f"keep is '{text}'; give two seconds such as 0-1.5"]) from None


def check_output(path: str | os.PathLike[str]) -> None:
    """Check that a clip can be written to ``path``; missing folders are created on writing.

    Raises:
        MediaError: The suffix is unknown.
        OSError: It is a folder, or cannot be written.
    """
    check_suffix(path)
    check_writable(path)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Check that a file can be written to ``path``; missing folders are created on writing.

    Raises:
        OSError: It is a folder, or cannot be written.
        ValueError: The path has a zero byte.
    """
    target = Path(path).absolute()
    if "\0" in str(path):
        raise ValueError(f"'{path!s:.40}' contains a zero byte; choose another name".replace("\0", "?"))
    for name, most in [(part, _MOST_NAME) for part in target.parts] + [(str(target), _MOST_PATH)]:
        if len(os.fsencode(name)) > most:
            raise OSError(f"'{name:.40}…' is longer than the {most} bytes that a name may have; shorten it")
    if target.is_dir():
        raise IsADirectoryError(f"'{path}' is a folder; name a file in it")
    parent = next(folder for folder in target.parents if folder.exists())
    if not parent.is_dir():
        raise NotADirectoryError(f"'{path}' cannot be written: '{parent}' is a file, not a folder")
    # Writing a file is the only reliable test: permissions, read-only mounts and full disks all fail.
    try:
        tempfile.TemporaryFile(dir=parent).close()
    except OSError as error:
        reason = f"'{path}' cannot be written: '{parent}' is not writable ({error.strerror})"
        raise PermissionError(f"{reason}; choose another folder") from None

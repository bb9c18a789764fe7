"""What a user may ask of a bundle, checked before any model is loaded: this file needs no torch.

A bundle is a folder with a ``kinetophone.json``, which says among other things what its model was trained
for::

    {"fps": 8, "frames": 32, "size": 64, "sample_rate": 16000}

and may widen it: ``"fps_choices": [8, 16]`` (default: ``fps`` only), and ``"min_frames"``, ``"max_frames"``
(default: ``frames``) and ``"frame_step"`` (default: 1) for the lengths it can make. ``"sampling"`` is
"trailing" (ours, the default) or "reference" (the published implementation's grids), ``"defaults"`` holds the
settings used where a call names none, and ``"bases"`` says where the base models are if not in the folder:
Hub ids with a revision, or folders, relative to the bundle's and (``"folders"``) absolute, as one or both may
have moved.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import tempfile
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from kinetophone.av import AV
from kinetophone.errors import RequestError, reason
from kinetophone.media.timing import ClipTime, as_fps
from kinetophone.media.write import check_rate, check_suffix
from kinetophone.sampling.settings import STEPPER_NAMES
from kinetophone.text import parse_json, read_text

BUNDLES = Path(__file__).parent / "bundles"
CONFIG_NAME = "kinetophone.json"

LONGEST_S = 600  # of a clip: both tracks are held in memory
# The noise schedules of the bases have this many steps; a sampler cannot take more.
_MOST_STEPS = 1000
_MOST_SEED = 2**63 - 1
_MOST_GUIDANCE = 1000
_MOST_GAMMA = 1000
_MOST_BATCH = 10_000
_MOST_NAME, _MOST_PATH = 255, 4000  # bytes that file systems take; the path leaves room for another name
_MOST_PROMPT = 2000  # characters: text encoders read far fewer
# Of a bundle's description.
_LEAST_FPS, _MOST_FPS = 0.1, 1000
_MOST = {"size": 16_384, "sample_rate": 768_000}
_MOST |= dict.fromkeys(("frames", "min_frames", "max_frames", "frame_step"), 1_000_000)

# Settings of the published experiments (arXiv 2409.17550), for pairs of bases that bring none of their own.
PUBLISHED_DEFAULTS: dict[str, Any] = {
    "steps": 50,
    "gamma": 1.5,
    "guidance_audio": 2.5,
    "guidance_video": 7.5,
    "guidance_sync": 1.0,
    "negative_prompt": "bad quality, worse quality",
    "batch_size": 1,
}
BASE_FOLDERS = {"name", "motion_adapter"}  # arguments of a base that may be folders
_EXAMPLE = "a drumstick hits a bowl"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
# What a bundle on the Hub may hold, apart from its bases.
_PARTS = (
    "", "coupling", "classifiers", "audio", "video",
    *(f"video/{part}" for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")),
    *(f"audio/{part}" for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler", "vocoder")),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleSpec:
    """Where a bundle is and what it can make.

    Attributes:
        name: As the user names it.
        folder: The bundle's files; None for a pair of bases that was put together in memory.
        fps: Frame rate it was trained at, used where none is asked for.
        frames: Length it was trained at, used where none is asked for.
        size: Height and width of its frames.
        sample_rate: Of its sound, in Hz.
        fps_choices: Frame rates it can make.
        min_frames: Shortest length.
        max_frames: Longest length.
        frame_step: Lengths are ``min_frames`` plus a multiple of this.
        sampling: "trailing" or "reference": spacing of the timesteps and where sampling ends.
        auto_gamma: What γ "auto" is, from ``kinetophone gamma``; None where that was not run.
        defaults: ``steps``, ``gamma``, the three guidance scales, ``negative_prompt`` and ``batch_size``.
        bases: Arguments that load the "audio" and the "video" base; empty where they are in the folder.
    """

    name: str
    folder: Path | None
    fps: Fraction
    frames: int
    size: int
    sample_rate: int
    fps_choices: tuple[Fraction, ...]
    min_frames: int
    max_frames: int
    frame_step: int = 1
    sampling: Literal["trailing", "reference"] = "trailing"
    auto_gamma: float | None = None
    defaults: dict[str, Any] = field(default_factory=lambda: dict(PUBLISHED_DEFAULTS))
    bases: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, name_or_path: str | os.PathLike[str]) -> BundleSpec:
        """The spec of a bundle that ships, by name, or of any other, by its folder.

        Raises:
            RequestError: There is no such bundle, or its ``kinetophone.json`` is not as described above.
        """
        name = os.fspath(name_or_path)
        folder = find_bundle(name)
        file = folder / CONFIG_NAME
        try:
            config = parse_json(read_text(file), "it")
            if not isinstance(config, dict):
                raise ValueError("it holds no keys and values")
            fps, frames = _rate(config["fps"]), _whole(config, "frames")
            spec = cls(
                name=name,
                folder=folder,
                fps=fps,
                frames=frames,
                size=_whole(config, "size"),
                sample_rate=_whole(config, "sample_rate"),
                fps_choices=tuple(_rate(choice) for choice in config.get("fps_choices", [fps])),
                min_frames=_whole(config, "min_frames", frames),
                max_frames=_whole(config, "max_frames", frames),
                frame_step=_whole(config, "frame_step", 1),
                sampling=_one_of(config.get("sampling", "trailing"), ("trailing", "reference")),
                auto_gamma=None if config.get("auto_gamma") is None else float(config["auto_gamma"]),
                defaults={**PUBLISHED_DEFAULTS, **config.get("defaults", {})},
                bases={name: _found(base, folder) for name, base in config.get("bases", {}).items()},
            )
            if not spec.min_frames <= frames <= spec.max_frames:
                raise ValueError(f"frames is {frames}; it must be min_frames to max_frames")
            if spec.auto_gamma is not None and spec.auto_gamma <= 0:
                raise ValueError(f"auto_gamma is {spec.auto_gamma:g}; it must be above 0")
            if problems := sampling_problems(spec.defaults):
                raise ValueError("; ".join(problems))
        except KeyError as error:
            raise RequestError([f"'{file}' is not a bundle's description: {error} is missing"]) from error
        except (ValueError, TypeError, AttributeError) as error:
            raise RequestError([f"'{file}' is not a bundle's description: {reason(error)}"]) from error
        return spec

    def write(self, folder: Path) -> None:
        """Write the description into a bundle's folder."""
        settings = asdict(self)
        for key in ("name", "folder"):
            del settings[key]
        settings["fps"] = _plain(self.fps)
        settings["fps_choices"] = [_plain(choice) for choice in self.fps_choices]
        settings["bases"] = {name: _portable(base, folder) for name, base in self.bases.items()}
        for key in ("auto_gamma", "bases"):
            if not settings[key]:
                del settings[key]
        (folder / CONFIG_NAME).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")

    def gamma(self, asked: float | Literal["auto"]) -> float:
        """The γ that is meant: a number as it is, "auto" as this bundle's own.

        Raises:
            RequestError: "auto" is asked for and the bundle has none.
        """
        if asked != "auto":
            return float(asked)
        if self.auto_gamma is None:
            raise RequestError(
                [f"bundle '{self.name}' has no automatic γ; find it with: kinetophone gamma {self.name}"]
            )
        return self.auto_gamma

    def time(self, seconds: float | Fraction | None = None, fps: float | Fraction | None = None) -> ClipTime:
        """The time of a clip of ``seconds`` at ``fps``; the trained length and rate where not given.

        Raises:
            RequestError: The model cannot make it; the message says what it can.
        """
        try:
            rate = self.fps if fps is None else as_fps(fps)
        except ValueError as error:
            raise RequestError([str(error)]) from None
        if rate not in self.fps_choices:
            choices = ", ".join(f"{float(choice):g}" for choice in self.fps_choices)
            raise RequestError([f"fps is {float(rate):g}; bundle '{self.name}' makes clips at {choices} fps"])
        if seconds is None:
            return ClipTime(fps=rate, frames=self.frames, sample_rate=self.sample_rate)
        try:
            time = ClipTime.from_seconds(seconds, rate, self.sample_rate)
        except ValueError as error:
            raise RequestError([str(error)]) from None
        # Anything longer is made of overlapping windows.
        fits = time.frames > self.max_frames or (
            time.frames >= self.min_frames and (time.frames - self.min_frames) % self.frame_step == 0
        )
        if not fits or time.duration_s > LONGEST_S:
            raise RequestError([f"seconds is {float(seconds):g}; bundle '{self.name}' {self._lengths(rate)}"])
        return time

    def window(self, frames: int) -> int:
        """The length in frames that the model is given for a clip of ``frames``: its own nearest above."""
        steps = -(-(frames - self.min_frames) // self.frame_step)
        return min(max(self.min_frames, self.min_frames + steps * self.frame_step), self.max_frames)

    def _lengths(self, rate: Fraction) -> str:
        shortest, longest = (f"{float(frames / rate):g}" for frames in (self.min_frames, self.max_frames))
        lengths = f"clips of {shortest} to {LONGEST_S} s"
        if shortest != longest and self.frame_step > 1:
            lengths += f", up to {longest} s in steps of {float(self.frame_step / rate):g} s"
        return f"makes {lengths} at {float(rate):g} fps"


def _portable(base: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Arguments that load a base, with its folders relative to the bundle's ``folder`` and absolute, too."""
    relative, absolute = dict(base), {}
    for key in BASE_FOLDERS & base.keys():
        if (path := Path(base[key])).is_dir():
            absolute[key] = str(path.resolve())
            with contextlib.suppress(ValueError):  # on Windows there is no way from one drive to another
                relative[key] = Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    return {**relative, "folders": absolute} if absolute else relative


def _found(base: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Undo :func:`_portable`: by the folder that is there, the one relative to the bundle's first."""
    found = {key: value for key, value in base.items() if key != "folders"}
    for key, absolute in base.get("folders", {}).items():
        here = folder / base[key]
        found[key] = os.path.normpath(here if here.is_dir() else absolute)
    return found


def same_bases(one: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]) -> bool:
    """Whether two bundles are on the same bases, by the arguments that load them."""

    def whole(bases: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {
            name: {k: os.path.realpath(v) if Path(v).is_dir() else v for k, v in base.items()}
            for name, base in bases.items()
        }

    return whole(one) == whole(other)


def sampling_problems(settings: dict[str, Any]) -> list[str]:
    """What is wrong with settings like a bundle's ``defaults``, of which any may be left out."""
    problems = [
        f"'{key}' is none of {', '.join(PUBLISHED_DEFAULTS)}" for key in settings.keys() - PUBLISHED_DEFAULTS
    ]
    numbers = {k: v for k, v in settings.items() if k in PUBLISHED_DEFAULTS and k != "negative_prompt"}
    if not isinstance(settings.get("negative_prompt", ""), str):
        problems.append("'negative_prompt' must be a text")
    if isinstance(sync := numbers.get("guidance_sync"), dict):
        if sync.keys() != {"audio", "video"}:
            return [*problems, "'guidance_sync' must be a number, or one of audio and one of video"]
        numbers["guidance_sync"] = AV(**sync)
    try:
        return problems + GenerateRequest(prompts=(_EXAMPLE,), **numbers)._bad_numbers()
    except (TypeError, ValueError):
        return [*problems, "steps, gamma, guidance scales and batch_size must be numbers"]


def _plain(rate: Fraction) -> int | str:
    return int(rate) if rate.denominator == 1 else str(rate)


def _whole(config: dict[str, Any], key: str, default: int | None = None) -> int:
    """A number of a bundle's description, between 1 and what any model makes."""
    value = config[key] if default is None else config.get(key, default)
    if not isinstance(value, int | float) or not 1 <= value <= _MOST[key] or value != int(value):
        raise ValueError(f"{key} is {value!r:.40}; it must be a whole number, 1 to {_MOST[key]}")
    return int(value)


def _rate(value: Any) -> Fraction:
    rate = as_fps(value)
    if not _LEAST_FPS <= rate <= _MOST_FPS:
        raise ValueError(f"fps is {value!s:.40}; it must be {_LEAST_FPS:g} to {_MOST_FPS}")
    return rate


def _one_of(value: Any, allowed: tuple[str, ...]) -> Any:
    if value not in allowed:
        raise ValueError(f"{value!r} is not one of {', '.join(allowed)}")
    return value


def available_bundles() -> list[str]:
    """Names of the bundles that ship."""
    return sorted(config.parent.name for config in BUNDLES.glob(f"*/{CONFIG_NAME}"))


def find_bundle(name_or_path: str | os.PathLike[str]) -> Path:
    """The folder of a bundle that ships, by name, or of any other, by its path or its id on the Hub.

    Raises:
        RequestError: There is none; the message names those there are.
    """
    name = os.fspath(name_or_path)
    if name in available_bundles():
        return BUNDLES / name
    if name and (Path(name) / CONFIG_NAME).is_file():
        return Path(name)
    if _HUB_ID.fullmatch(name) and not Path(name).exists():
        from kinetophone.bases.hub import locate

        folder = locate(name, _PARTS).folder
        if (folder / CONFIG_NAME).is_file():
            return folder
    known = ", ".join(f"'{bundle}'" for bundle in available_bundles()) or "none in this installation"
    raise RequestError(
        [f"unknown bundle '{name}'; available: {known}, or give a folder or Hub id with a {CONFIG_NAME}"]
    )


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
    """A request for sounding clips; None leaves a value to the bundle or the pipeline.

    Attributes:
        prompts: One text or script per clip.
        bundle: Name, folder or Hub id of the bundle, or the spec of one that is loaded.
        seconds: Length in seconds.
        fps: Frames per second.
        steps: Number of sampling steps, 1 to 1000.
        stepper: How a step is made, see :mod:`kinetophone.sampling.steppers`.
        gamma: Timestep adjustment, above 0; 1 keeps both clocks equal; "auto" is the bundle's own.
        snr_offset: Instead of gamma, see :func:`kinetophone.joint.clocks.snr_grids`.
        guidance_audio: Classifier-free guidance of the sound, at least 0.
        guidance_video: The same of the picture.
        guidance_sync: Cross-modal guidance, of both or of each, at least 0.
        batch_size: Clips denoised at once, at least 1.
        seed: Of the first clip, at least 0.
        output: File to write.
    """

    prompts: tuple[str | Script, ...]
    bundle: str | os.PathLike[str] | BundleSpec = "hits"
    seconds: float | Fraction | None = None
    fps: float | Fraction | None = None
    steps: int | None = None
    stepper: str | None = None
    gamma: float | Literal["auto"] | None = None
    snr_offset: float | None = None
    guidance_audio: float | None = None
    guidance_video: float | None = None
    guidance_sync: float | AV[float] | None = None
    batch_size: int | None = None
    seed: int = 0
    output: str | os.PathLike[str] | None = None

    def validate(self) -> ClipTime:
        """Check everything.

        Returns:
            The time of the clips.

        Raises:
            RequestError: Something cannot be done; it lists all that was found.
        """
        problems = [*self._bad_prompts(), *self._bad_numbers()]
        time = None
        try:
            spec = self.bundle if isinstance(self.bundle, BundleSpec) else BundleSpec.read(self.bundle)
            if self.gamma == "auto":
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

    def _bad_numbers(self) -> list[str]:
        problems = []
        if self.steps is not None and not 1 <= self.steps <= _MOST_STEPS:
            problems.append(f"steps is {self.steps}; it must be 1 to {_MOST_STEPS}")
        if self.stepper is not None and self.stepper not in STEPPER_NAMES:
            problems.append(f"stepper is '{self.stepper}'; it must be {' or '.join(STEPPER_NAMES)}")
        gamma: Any = self.gamma
        if isinstance(gamma, str) and gamma != "auto":
            problems.append(f"gamma is '{gamma}'; it must be a number above 0, or auto")
        elif not (gamma is None or gamma == "auto" or 1 / _MOST_GAMMA <= gamma <= _MOST_GAMMA):
            problems.append(
                f"gamma is {self.gamma:g}; it must be above 0 (1 keeps both clocks equal), "
                f"{1 / _MOST_GAMMA:g} to {_MOST_GAMMA}"
            )
        if self.snr_offset is not None and not math.isfinite(self.snr_offset):
            problems.append(f"snr-offset is {self.snr_offset:g}; it must be finite (0 matches both)")
        if self.snr_offset is not None and self.gamma is not None:
            problems.append("give gamma or snr-offset, not both")
        sync = self.guidance_sync
        syncs = (sync.audio, sync.video) if isinstance(sync, AV) else (sync,)
        for option, value in (
            ("guidance-audio", self.guidance_audio),
            ("guidance-video", self.guidance_video),
            *(("guidance-sync", scale) for scale in syncs),
        ):
            if value is not None and not 0 <= value <= _MOST_GUIDANCE:
                problems.append(
                    f"{option} is {value:g}; it must be at least 0, at most {_MOST_GUIDANCE} (1 leaves the "
                    "prediction as it is)"
                )
        if self.batch_size is not None and not 1 <= self.batch_size <= _MOST_BATCH:
            problems.append(f"batch-size is {self.batch_size}; it must be at least 1, at most {_MOST_BATCH}")
        if not 0 <= self.seed <= _MOST_SEED:
            problems.append(f"seed is {self.seed}; it must be 0 to 2^63 - 1")
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

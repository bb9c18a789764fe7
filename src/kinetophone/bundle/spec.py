"""The description of a bundle, read before any model is loaded. This module does not import torch.

A bundle is a folder with a ``kinetophone.json``. It must have the values its model was trained with::

    {"fps": 8, "frames": 32, "size": 64, "sample_rate": 16000}

Optional keys:

- ``"fps_choices"``, e.g. ``[8, 16]``: frame rates it can make; default: ``fps`` only;
- ``"min_frames"``, ``"max_frames"`` (default: ``frames``), ``"frame_step"`` (default: 1): possible lengths;
- ``"sampling"``: timestep grid, "trailing" (default) or "reference" (that of the published implementation);
- ``"auto_gamma"``: the value of γ "auto";
- ``"defaults"``: sampling options used if a call does not set them;
- ``"bases"``: where the base models are if not in the folder. Either Hub ids with a revision, or folders.
  Folders are stored relative to the bundle and (under ``"folders"``) absolute, since either may have moved.

A bundle can also be one file, see :mod:`kinetophone.bundle.adapter`. Its metadata have the same description.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import kinetophone
from kinetophone.diffusion.settings import PUBLISHED_DEFAULTS, Settings, default_problems, renamed
from kinetophone.errors import RequestError, reason
from kinetophone.media.timing import ClipTime, as_fps
from kinetophone.text import parse_json, read_text

BUNDLES = Path(kinetophone.__file__).parent / "bundles"
CONFIG_NAME = "kinetophone.json"
ADAPTER_NAME = "kinetophone.safetensors"  # of an adapter in a folder or on the Hub
ADAPTER_KEYS = ("kinetophone", "coupling")  # of its metadata: the bundle's description, the coupling's
LONGEST_S = 600  # length of a clip; both tracks are held in memory
# Limits for values in ``kinetophone.json``.
_LEAST_FPS, _MOST_FPS = 0.1, 1000
_MOST = {"size": 16_384, "sample_rate": 768_000}
_MOST |= dict.fromkeys(("frames", "min_frames", "max_frames", "frame_step"), 1_000_000)

BASE_FOLDERS = {"name", "motion_adapter"}  # arguments of a base that can be folders
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
# Folders of a bundle on the Hub to download.
_PARTS = (
    "", "coupling", "classifiers", "audio", "video",
    *(
        f"{modality}/{part}"
        for modality in ("video", "audio")
        for part in (
            "unet", "transformer", "vae", "text_encoder", "tokenizer", "scheduler", "vocoder",
            "projection_model",
        )
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleSpec:
    """Where a bundle is and what it can make.

    Attributes:
        name: Name, folder or Hub id as given by the user.
        folder: The bundle's files; None for a pair of bases combined in memory.
        file: The adapter in the folder, if the bundle is one.
        fps: Frame rate it was trained at; the default.
        frames: Length it was trained at, in frames; the default.
        size: Height and width of its frames in pixels.
        sample_rate: Sample rate of its audio in Hz.
        fps_choices: Frame rates it can make.
        min_frames: Shortest length in frames.
        max_frames: Longest length in one window, in frames; longer clips use several windows.
        frame_step: Lengths are ``min_frames`` plus a multiple of this.
        sampling: "trailing" or "reference": spacing of the timesteps and the final noise level.
        auto_gamma: The value of γ "auto", from ``kinetophone gamma``; None if that was not run.
        defaults: Default sampling options, with the keys of ``PUBLISHED_DEFAULTS``.
        bases: Arguments that load the "audio" and the "video" base; empty if they are in the folder.
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
    file: Path | None = None

    @classmethod
    def read(cls, name_or_path: str | os.PathLike[str]) -> BundleSpec:
        """Read the spec of an included bundle by name, or of any other by its folder or Hub id.

        Raises:
            RequestError: There is no such bundle, or its ``kinetophone.json`` is invalid.
        """
        name = os.fspath(name_or_path)
        folder = find_bundle(name)
        adapter = _adapter(name, folder)
        file = adapter or folder / CONFIG_NAME
        try:
            config = _metadata(file) if adapter else parse_json(read_text(file), "it")
            if not isinstance(config, dict):
                raise ValueError("it is not a mapping")
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
                defaults={**PUBLISHED_DEFAULTS, **renamed(config.get("defaults", {}))},
                bases={name: _found(base, folder) for name, base in config.get("bases", {}).items()},
                file=adapter,
            )
            if not spec.min_frames <= frames <= spec.max_frames:
                raise ValueError(f"frames is {frames}; it must be min_frames to max_frames")
            if spec.auto_gamma is not None and spec.auto_gamma <= 0:
                raise ValueError(f"auto_gamma is {spec.auto_gamma:g}; it must be above 0")
            if problems := default_problems(spec.defaults):
                raise ValueError("; ".join(problems))
        except KeyError as error:
            raise RequestError([f"'{file}' is not a bundle's description: {error} is missing"]) from error
        except (ValueError, TypeError, AttributeError) as error:
            raise RequestError([f"'{file}' is not a bundle's description: {reason(error)}"]) from error
        return spec

    def write(self, folder: Path) -> None:
        """Write ``kinetophone.json`` into a bundle's folder."""
        text = json.dumps(self.described(folder), indent=1)
        (folder / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")

    def described(self, folder: Path) -> dict[str, Any]:
        """The content of ``kinetophone.json`` for a bundle in ``folder``."""
        settings = asdict(self)
        for key in ("name", "folder", "file"):
            del settings[key]
        settings["fps"] = _plain(self.fps)
        settings["fps_choices"] = [_plain(choice) for choice in self.fps_choices]
        settings["bases"] = {name: _portable(base, folder) for name, base in self.bases.items()}
        for key in ("auto_gamma", "bases"):
            if not settings[key]:
                del settings[key]
        return settings

    def gamma(self, asked: float | Literal["auto"]) -> float:
        """γ as a number; "auto" gives this bundle's own value.

        Raises:
            RequestError: "auto" was given, but the bundle has no such value.
        """
        if asked != "auto":
            return float(asked)
        if self.auto_gamma is None:
            raise RequestError(
                [f"bundle '{self.name}' has no automatic γ; find it with: kinetophone gamma {self.name}"]
            )
        return self.auto_gamma

    def settings(self, options: Mapping[str, Any]) -> Settings:
        """Settings from the ``options`` of a call, with this bundle's defaults for the rest."""
        values = {**self.defaults, **{k: v for k, v in options.items() if v is not None}}
        return Settings.of({**values, "gamma": self.gamma(values["gamma"])})

    def time(self, seconds: float | Fraction | None = None, fps: float | Fraction | None = None) -> ClipTime:
        """Length and rates of a clip of ``seconds`` at ``fps``; by default those of training.

        Raises:
            RequestError: The model cannot make such a clip; the message says what it can make.
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
        # Longer clips are generated in overlapping windows.
        fits = time.frames > self.max_frames or (
            time.frames >= self.min_frames and (time.frames - self.min_frames) % self.frame_step == 0
        )
        if not fits or time.duration_s > LONGEST_S:
            problem = f"seconds is {float(seconds):g}; bundle '{self.name}' {self._lengths(rate)}"
            if self.frame_step > 1 and self.min_frames < time.frames < self.max_frames:
                below = time.frames - (time.frames - self.min_frames) % self.frame_step
                near = [f"{float(frames / rate):g}" for frames in (below, below + self.frame_step)]
                problem += f"; nearest are {near[0]} and {near[1]} s"
            raise RequestError([problem])
        return time

    def window(self, frames: int) -> int:
        """Length in frames of one window for a clip of ``frames``: the next supported length."""
        steps = -(-(frames - self.min_frames) // self.frame_step)
        return min(max(self.min_frames, self.min_frames + steps * self.frame_step), self.max_frames)

    def _lengths(self, rate: Fraction) -> str:
        shortest, longest = (f"{float(frames / rate):g}" for frames in (self.min_frames, self.max_frames))
        lengths = f"clips of {shortest} to {LONGEST_S} s"
        if shortest != longest and self.frame_step > 1:
            lengths += f", up to {longest} s in steps of {float(self.frame_step / rate):g} s"
        return f"makes {lengths} at {float(rate):g} fps"


def _portable(base: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Arguments that load a base, with its folders both relative to the bundle's ``folder`` and absolute."""
    relative, absolute = dict(base), {}
    for key in BASE_FOLDERS & base.keys():
        if (path := Path(base[key])).is_dir():
            absolute[key] = str(path.resolve())
            with contextlib.suppress(ValueError):  # no relative path between two drives on Windows
                relative[key] = Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    return {**relative, "folders": absolute} if absolute else relative


def _found(base: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Undo :func:`_portable`: the relative folder if it exists, otherwise the absolute one."""
    found = {key: value for key, value in base.items() if key != "folders"}
    for key, absolute in base.get("folders", {}).items():
        here = folder / base[key]
        found[key] = os.path.normpath(here if here.is_dir() else absolute)
    return found


def _adapter(name: str, folder: Path) -> Path | None:
    """The adapter that a bundle consists of: the file itself, or the only description in its folder."""
    if name.endswith(".safetensors"):
        return Path(name)
    alone = not (folder / CONFIG_NAME).is_file() and (folder / ADAPTER_NAME).is_file()
    return folder / ADAPTER_NAME if alone else None


def _metadata(file: Path) -> Any:
    """The description in an adapter."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as opened:
            return parse_json((opened.metadata() or {})[ADAPTER_KEYS[0]], "it")
    except (SafetensorError, OSError) as error:
        raise ValueError(reason(error)) from error


def same_bases(one: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]) -> bool:
    """Whether two bundles use the same bases, judged by the arguments that load them."""

    def whole(bases: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {
            name: {k: os.path.realpath(v) if Path(v).is_dir() else v for k, v in base.items()}
            for name, base in bases.items()
        }

    return whole(one) == whole(other)


def _plain(rate: Fraction) -> int | str:
    return int(rate) if rate.denominator == 1 else str(rate)


def _whole(config: dict[str, Any], key: str, default: int | None = None) -> int:
    """A whole number in the description, between 1 and its limit in ``_MOST``."""
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
    """Names of the bundles included in the package."""
    return sorted(config.parent.name for config in BUNDLES.glob(f"*/{CONFIG_NAME}"))


def find_bundle(name_or_path: str | os.PathLike[str]) -> Path:
    """The folder of an included bundle by name, or of any other by its path or Hub id.

    The path may be that of an adapter. A bundle on the Hub is downloaded.

    Raises:
        RequestError: There is no such bundle; the message lists the included ones.
    """
    name = os.fspath(name_or_path)
    if name in available_bundles():
        return BUNDLES / name
    if name.endswith(".safetensors") and Path(name).is_file():
        return Path(name).parent
    if name and any((Path(name) / file).is_file() for file in (CONFIG_NAME, ADAPTER_NAME)):
        return Path(name)
    if _HUB_ID.fullmatch(name) and not Path(name).exists():
        from kinetophone.hub.locate import locate, small_file

        with contextlib.suppress(ConnectionError):  # a bundle that was downloaded before is found below
            if (adapter := small_file(name, ADAPTER_NAME)) is not None:
                return adapter.parent
        folder = locate(name, _PARTS).folder
        if (folder / CONFIG_NAME).is_file():
            return folder
    known = ", ".join(f"'{bundle}'" for bundle in available_bundles()) or "none in this installation"
    raise RequestError(
        [
            f"unknown bundle '{name}'; available: {known}, or give a folder or Hub id with a {CONFIG_NAME} "
            f"or {ADAPTER_NAME}"
        ]
    )

"""Recipes: one YAML file per trained thing, read into frozen dataclasses; unknown keys are errors."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# stage -> the module of this package and the class that train it, imported when it is built
STAGES = {
    "video-autoencoder": ("autoencoders", "VideoAutoencoder"),
    "audio-autoencoder": ("autoencoders", "AudioAutoencoder"),
    "clip-text": ("text", "ClipText"),
    "clap-text": ("text", "ClapText"),
    "image": ("video", "ImageStage"),
    "motion": ("video", "MotionStage"),
    "audio": ("audio", "AudioStage"),
    "vocoder": ("vocoder", "VocoderStage"),
    "coupling": ("coupling", "CouplingStage"),
    "picture-classifier": ("classifiers", "PictureClassifier"),
    "sound-classifier": ("classifiers", "SoundClassifier"),
}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The clips trained on: the first ``count`` of a split, rendered (and encoded) into ``cache``."""

    count: int
    split: str = "train"
    size: int = 64
    cache: str = "cache"


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How a stage is optimised. The learning rate warms up linearly and falls to zero on a cosine."""

    steps: int
    batch_size: int
    lr: float
    warmup: int = 100
    weight_decay: float = 1e-2
    grad_clip: float = 1.0
    ema_decay: float = 0.999
    seed: int = 0
    checkpoint_every: int = 500
    sample_every: int = 1000  # 0: no samples
    log_every: int = 25
    threads: int = 2
    device: str = "cpu"
    precision: str = "float32"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run. ``bundle`` is the folder of components that stages read from and export to.

    With ``continued`` the weights start from the stage's own component in that folder, not at random: a
    second run on top of an earlier recipe's, or of a shipped bundle that was copied there.
    """

    stage: str
    name: str
    data: DataConfig
    loop: LoopConfig
    bundle: str = "runs/hits"
    continued: bool = False
    model: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


def load_recipe(path: Path | str) -> Recipe:
    """Read and check a recipe. Every problem is reported at once, before anything is built."""
    import yaml

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no recipe at {path}: the shipped ones are in recipes/")
    try:
        raw = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{path} must hold keys and values, such as 'stage: audio'")
    problems: list[str] = []
    recipe = _parse(Recipe, {"name": path.stem, **raw}, "", problems)
    if recipe is not None:
        problems += _check(recipe)
    if problems:
        raise ValueError(f"{path}: " + "; ".join(problems))
    return typing.cast(Recipe, recipe)


def _parse(kind: type, raw: dict[str, Any], where: str, problems: list[str]) -> Any:
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in raw.keys() - fields.keys():
        near = difflib.get_close_matches(str(key), fields, n=1)
        problems.append(
            f"unknown key '{where}{key}'" + (f" (did you mean '{where}{near[0]}'?)" if near else "")
        )
    values: dict[str, Any] = {}
    for name, info in fields.items():
        if name not in raw:
            if info.default is dataclasses.MISSING and info.default_factory is dataclasses.MISSING:
                problems.append(f"'{where}{name}' is missing")
            continue
        value, hint = raw[name], hints[name]
        if dataclasses.is_dataclass(hint):
            if isinstance(value, dict):
                values[name] = _parse(typing.cast(type, hint), value, f"{where}{name}.", problems)
            else:
                problems.append(f"'{where}{name}' must hold keys and values")
            continue
        plain = typing.get_origin(hint) or hint
        if plain is float and isinstance(value, int | str) and not isinstance(value, bool):
            with contextlib.suppress(ValueError):  # YAML 1.1 reads 1e-3 as a string
                value = float(value)
        if (
            isinstance(plain, types.UnionType)
            or not isinstance(value, plain)
            or (plain is int and value is True)
        ):
            problems.append(f"'{where}{name}' must be {plain.__name__}, got {value!r}")
            continue
        values[name] = value
    return None if problems else kind(**values)


def _check(recipe: Recipe) -> list[str]:
    problems = []
    if recipe.stage not in STAGES:
        problems.append(f"unknown stage {recipe.stage!r}: choose one of {', '.join(STAGES)}")
    for where, value in (
        ("loop.steps", recipe.loop.steps),
        ("loop.batch_size", recipe.loop.batch_size),
        ("loop.lr", recipe.loop.lr),
        ("data.count", recipe.data.count),
    ):
        if value <= 0:
            problems.append(f"'{where}' must be positive, got {value}")
    if recipe.loop.precision not in ("float32", "bfloat16"):
        problems.append(f"'loop.precision' must be float32 or bfloat16, got {recipe.loop.precision!r}")
    return problems

"""Recipes: one YAML file per training run, read into frozen dataclasses; unknown keys are errors."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from kinetophone.data.domains import DOMAINS, domain
from kinetophone.diffusion.settings import default_problems
from kinetophone.errors import UserError
from kinetophone.text import read_yaml
from kinetophone.training.options import (
    FORBID,
    CaptionOptions,
    CausalOptions,
    CouplingOptions,
    DecoderOptions,
    DiffusionOptions,
    ImageOptions,
    LatentNoiseOptions,
    MotionOptions,
    NoOptions,
    TextOptions,
    fraction,
    non_negative,
    positive,
)

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class StageInfo:
    """Where a stage is implemented and what its recipe may set. The module is imported on use.

    Attributes:
        module: Module within this package.
        name: Class in that module.
        options: Dataclass of its options.
        divisible: Whether the loss of a batch is the mean of its samples' losses. Only then can processes
            and accumulation steps divide the batch; contrastive losses and batch statistics rule it out.
        continuable: Whether it can start from its component in the bundle.
    """

    module: str
    name: str
    options: type = NoOptions
    divisible: bool = False
    continuable: bool = True


STAGES = {
    "video-autoencoder": StageInfo("hits.stages.autoencoders", "VideoAutoencoder", LatentNoiseOptions),
    "audio-autoencoder": StageInfo("hits.stages.autoencoders", "AudioAutoencoder"),
    "clip-text": StageInfo("hits.stages.text", "ClipText", TextOptions, continuable=False),
    "clap-text": StageInfo("hits.stages.text", "ClapText", TextOptions, continuable=False),
    "image": StageInfo("hits.stages.video", "ImageStage", ImageOptions, divisible=True, continuable=False),
    "motion": StageInfo("hits.stages.video", "MotionStage", MotionOptions, divisible=True),
    "audio": StageInfo("hits.stages.audio", "AudioStage", DiffusionOptions, divisible=True),
    "vocoder": StageInfo("hits.stages.vocoder", "VocoderStage"),
    "caption-text": StageInfo("hits.stages.captions", "CaptionText", CaptionOptions, continuable=False),
    "causal-autoencoder": StageInfo("hits.stages.wan", "CausalAutoencoder", CausalOptions),
    "wan": StageInfo("hits.stages.wan", "WanStage", ImageOptions, divisible=True),
    "waveform-autoencoder": StageInfo("hits.stages.stable_audio", "WaveformAutoencoder", LatentNoiseOptions),
    "stable-audio": StageInfo("hits.stages.stable_audio", "StableAudioStage", ImageOptions, divisible=True),
    "connectors": StageInfo("training.connectors", "ConnectorStage", divisible=True),
    "coupling": StageInfo("training.coupling", "CouplingStage", CouplingOptions, divisible=True),
    "video-decoder": StageInfo("hits.stages.decoder", "VideoDecoder", DecoderOptions, continuable=False),
    "video-classifier": StageInfo("hits.stages.classifiers", "VideoClassifier", continuable=False),
    "audio-classifier": StageInfo("hits.stages.classifiers", "AudioClassifier", continuable=False),
}
JOINT = ("connectors", "coupling")  # stages that take user clips and any bases


@dataclass(frozen=True, kw_only=True, config=FORBID)
class DataConfig:
    """The clips trained on.

    Attributes:
        source: A procedural domain ("hits", "hits16" or "bows"), or a folder that ``kinetophone data encode``
            wrote.
        count: Number of clips, taken from the start. Required for a domain; 0 takes all clips of a folder.
        split: Split of a domain.
        size: Height and width of a domain's frames in pixels; ignored for a folder.
        materials: Use only hits clips of these materials; for the stages coupling and connectors.
        cache: Folder for rendered and encoded clips of a domain.
    """

    source: str = "hits"
    count: int = non_negative(0)
    split: Literal["train", "val", "test"] = "train"
    size: int = positive(64)
    materials: list[str] = Field(default_factory=list)
    cache: str = "cache"


@dataclass(frozen=True, kw_only=True, config=FORBID)
class BasesConfig:
    """Base models of a coupling, as folders or Hub ids; empty means the base in the recipe's bundle.

    ``allow_pickle`` permits downloading and reading pickled weights, as tensors only.
    """

    audio: str = ""
    video: str = ""
    motion_adapter: str = ""
    allow_pickle: bool = False


@dataclass(frozen=True, kw_only=True, config=FORBID)
class LoopConfig:
    """How a stage is optimised.

    Attributes:
        steps: Optimiser steps.
        batch_size: Clips per step, over all processes and accumulation steps.
        accumulate: Accumulation steps per optimiser step, in each process. The trained weights do not
            depend on it.
        lr: Learning rate after a linear warm-up of ``warmup`` steps. After that, ``schedule`` decays it to
            zero along a cosine or keeps it constant.
        keep: Number of newest checkpoints to keep.
        max_skipped: Stop after this many skipped steps in a row. A step is skipped if its loss or gradient
            is not finite.
        sample_every: Steps between samples; 0 makes no samples.
        gradient_checkpointing: Recompute activations in the backward pass instead of keeping them.
        precision: Precision of forward and backward passes, and of frozen weights if only the coupling is
            trained. Trained weights and optimiser state stay float32.
        optimizer: "adamw8bit" keeps AdamW's state in 8 bits, using bitsandbytes.
    """

    steps: int = positive()
    batch_size: int = positive()
    lr: float = positive()
    accumulate: int = positive(1)
    schedule: Literal["cosine", "constant"] = "cosine"
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    warmup: int = non_negative(100)
    weight_decay: float = non_negative(1e-2)
    grad_clip: float = positive(1.0)
    ema_decay: float = fraction(0.999)
    seed: int = non_negative(0)
    checkpoint_every: int = positive(500)
    keep: int = positive(2)
    max_skipped: int = positive(10)
    sample_every: int = non_negative(1000)
    log_every: int = positive(25)
    threads: int = positive(2)
    device: str = "cpu"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    gradient_checkpointing: bool = False


@dataclass(frozen=True, kw_only=True, config=FORBID)
class Recipe:
    """One training run.

    Attributes:
        stage: Name of the stage, a key of ``STAGES``.
        name: Name of the run; the file's name by default.
        data: Clips to train on.
        loop: Settings of the training loop.
        bundle: Folder of components that stages read from and export to.
        bases: Base models of a coupling.
        continued: Start from the stage's component in ``bundle`` instead of random weights. The component
            can come from an earlier recipe or from a shipped bundle that was copied there.
        model: Configuration of the trained network.
        options: The dataclass that ``STAGES`` names for the stage.
        sampling: Default sampling settings of a new bundle, with the keys of
            ``diffusion.settings.PUBLISHED_DEFAULTS``. Missing keys are taken from the bundle that the bases
            come from, else from the published defaults. A bundle that was trained on the same bases before
            keeps its own settings, which may have been tuned since.
    """

    stage: str
    name: str
    data: DataConfig
    loop: LoopConfig
    bundle: str = "runs/hits"
    bases: BasesConfig = Field(default_factory=BasesConfig)
    continued: bool = False
    model: dict[str, Any] = Field(default_factory=dict)
    options: Any = Field(default_factory=dict)
    sampling: dict[str, Any] = Field(default_factory=dict)


def frozen_dtype(recipe: Recipe) -> torch.dtype:
    """Precision of the base networks: half if they are frozen and the recipe computes in half precision."""
    import torch

    half = recipe.loop.precision != "float32" and getattr(recipe.options, "train", None) == "coupling"
    return getattr(torch, recipe.loop.precision) if half else torch.float32


def load_recipe(path: Path | str) -> Recipe:
    """Read and check a recipe.

    Raises:
        UserError: The recipe is missing or can't be used; the message lists all problems at once.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no recipe at {path}: shipped recipes are in recipes/")
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise UserError(f"{path} must contain keys and values, such as 'stage: audio'")
    problems: list[str] = []
    stage = str(raw.get("stage"))
    if "stage" in raw and stage not in STAGES:
        near = difflib.get_close_matches(stage, STAGES, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        problems.append(f"unknown stage {stage!r}{hint}: choose one of {', '.join(STAGES)}")
    elif "stage" in raw:
        options = raw.get("options", {})
        if isinstance(options, dict):
            raw = {**raw, "options": parse_fields(STAGES[stage].options, options, "options.", problems)}
        else:
            problems.append("'options' must contain keys and values")
    recipe = parse_fields(Recipe, {"name": path.stem, **raw}, "", problems)
    if recipe is not None and not problems:
        problems += _check(recipe)
    if problems:
        raise UserError(f"{path}: " + "; ".join(problems))
    return typing.cast(Recipe, recipe)


def parse_fields(kind: type, raw: dict[str, Any], where: str, problems: list[str]) -> Any:
    """An instance of the dataclass ``kind``, or None; appends a line to ``problems`` for each bad key."""
    try:
        return TypeAdapter(kind).validate_python(raw)
    except ValidationError as error:
        problems += [_message(kind, found, where) for found in error.errors()]
        return None


_TYPES = {"int": "int", "float": "float", "string": "str", "bool": "bool", "list": "list"}


def _message(kind: type, found: Any, where: str) -> str:
    """Turn a pydantic error into a message that uses the recipe's keys."""
    *outer, name = map(str, found["loc"])
    key, what, given = where + ".".join((*outer, name)), found["type"], found["input"]
    if what == "unexpected_keyword_argument":
        for part in outer:
            kind = typing.get_type_hints(kind)[part]
        near = difflib.get_close_matches(name, [field.name for field in dataclasses.fields(kind)], n=1)
        prefix = key.removesuffix(name)
        return f"unknown key '{key}'" + (f" (did you mean '{prefix}{near[0]}'?)" if near else "")
    if what == "missing":
        return f"'{key}' is missing"
    if what in ("dict_type", "dataclass_type"):
        return f"'{key}' must contain keys and values"
    if what == "literal_error":
        choices = found["ctx"]["expected"].replace("'", "").replace(",", " or")
        return f"'{key}' must be {choices}, got {given!r}"
    if what == "greater_than":
        return f"'{key}' must be positive, got {given}"
    if what == "greater_than_equal":
        return f"'{key}' must be 0 or more, got {given}"
    if what == "less_than_equal":
        return f"'{key}' must be from 0 to {found['ctx']['le']:g}, got {given}"
    return f"'{key}' must be {_TYPES.get(what.split('_')[0], found['msg'])}, got {given!r}"


def _check(recipe: Recipe) -> list[str]:
    """Find problems that involve several fields."""
    loop = recipe.loop
    problems = [f"'sampling': {problem}" for problem in default_problems(recipe.sampling)]
    if recipe.data.source in DOMAINS and not recipe.data.count:
        problems.append(f"'data.count' is missing: say how many clips of {recipe.data.source} to train on")
    if recipe.data.materials:
        known = domain("hits").MATERIALS
        if unknown := [material for material in recipe.data.materials if material not in known]:
            problems.append(f"'data.materials': {', '.join(unknown)} is not one of {', '.join(known)}")
        if recipe.data.source != "hits" or recipe.stage not in JOINT:
            problems.append(
                "'data.materials' is for hits and the stages connectors and coupling; leave it out"
            )
    if recipe.stage not in JOINT:
        if recipe.data.source not in DOMAINS:
            problems.append(f"'data.source' must be {' or '.join(DOMAINS)} for the stage {recipe.stage}")
        for key, given in (("bases", recipe.bases != BasesConfig()), ("sampling", bool(recipe.sampling))):
            if given:
                problems.append(f"'{key}' is for the stages {' and '.join(JOINT)}; leave it out")
    if not STAGES[recipe.stage].divisible:
        divisible = ", ".join(name for name, info in STAGES.items() if info.divisible)
        for key, asked in (
            ("accumulate", loop.accumulate > 1),
            ("gradient_checkpointing", loop.gradient_checkpointing),
        ):
            if asked:
                problems.append(f"'loop.{key}' is for the stages {divisible}; leave it out")
    if recipe.continued and not STAGES[recipe.stage].continuable:
        continuable = ", ".join(name for name, info in STAGES.items() if info.continuable)
        problems.append(f"'continued' is for the stages {continuable}; leave it out")
    if loop.batch_size % loop.accumulate:
        problems.append(
            f"'loop.batch_size' {loop.batch_size} is not a multiple of 'loop.accumulate' {loop.accumulate}"
        )
    if loop.optimizer == "adamw8bit" and importlib.util.find_spec("bitsandbytes") is None:
        problems.append(
            "'loop.optimizer' adamw8bit needs bitsandbytes: pip install bitsandbytes, or use adamw"
        )
    return problems

"""Definition of experiments: a YAML file with rows, each of which says how to train and how to sample.

A row and a seed form a *cell*. Its result is a line in ``docs/results/<experiment>/cells.jsonl.gz``. That
file is committed, and an experiment resumes from it. A cell's key is a hash of everything its result depends
on; a result with another key is out of date and is computed again.
"""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from kinetophone.av import AV, MODALITIES
from kinetophone.bundle.spec import BundleSpec
from kinetophone.diffusion.settings import option_problems
from kinetophone.errors import RequestError
from kinetophone.files import replacing
from kinetophone.text import read_yaml
from kinetophone.training.options import FORBID, positive
from kinetophone.training.recipe import load_recipe, parse_fields

RUNS = Path("runs/experiments")
RESULTS = Path("docs/results")
CELLS = "cells.jsonl.gz"  # results of an experiment: a line for each cell, with the scores of all clips
# Settings of a coupling that affect its connectors.
CONNECTOR_SETTINGS = (
    "connector_input", "connector_channels", "channel_mult", "num_blocks", "feature_norm", "temporal_norm",
)  # fmt: skip
CONNECTOR_SEED = 0  # all rows and seeds start from the same connectors
# Offset between the noise seeds of two seeds, large enough that they never share noise.
NOISE_SEEDS_APART = 100_000
AUTO_GAMMA_CLIPS = 32


@dataclass(frozen=True, kw_only=True, config=FORBID)
class Row:
    """One row of the table.

    Attributes:
        train: Changes to the recipe of the coupling. Changes of ``data``, and of ``model`` settings that
            affect connectors, also apply to the recipe of the connectors.
        sampling: Sampling options, see :class:`kinetophone.diffusion.settings.SamplingOptions`.
    """

    train: dict[str, Any] = Field(default_factory=dict)
    sampling: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, config=FORBID)
class Experiment:
    """An experiment.

    Attributes:
        name: Name of the file, without suffix.
        question: The question it answers; heading of the table.
        bundle: Folder of the frozen bases, and of the coupling for rows that train none.
        model: Coupling settings shared by all rows.
        train: Recipe of the coupling: its path as ``recipe``, and changes. Without it, all rows sample with
            the bundle's coupling.
        connectors: Recipe of the connectors that couplings start from, in the same form. They are trained
            once for all seeds and rows that do not change this recipe.
        baseline: Name of the row that the others are compared with.
        rows: Rows by name.
        seeds: Seeds of training and of the initial noise.
        prompts: Number of prompts per seed. Each seed has its own prompts: those of seed 1 follow those of
            seed 0 in ``split``. More prompts are more informative than more noise for the same prompts.
        split: Split of the domain.
        domain: Source of the prompts: "hits", "hits16" or "bows". It also determines the synchrony metric.
        sampling: Sampling options of all rows. Options set neither here nor in a row are the bundle's.
        precision: Precision of the U-Nets and the coupling in sampling.
        along: Sampling option for the x axis of the plot, if any.
        groups: Sets of materials, by name, that the table also reports separately.
    """

    name: str
    question: str
    baseline: str
    rows: dict[str, Any]
    bundle: str = "hits"
    model: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)
    connectors: dict[str, Any] = Field(default_factory=dict)
    seeds: list[int] = Field(default_factory=lambda: [0, 1, 2])
    prompts: int = positive(256)
    split: str = "test"
    domain: Literal["hits", "hits16", "bows"] = "hits"
    sampling: dict[str, Any] = Field(default_factory=dict)
    precision: Literal["float32", "bfloat16"] = "float32"
    along: str = ""
    groups: dict[str, Any] = Field(default_factory=dict)

    @property
    def results(self) -> Path:
        """Folder of the results."""
        return RESULTS / self.name

    def cells(self) -> Iterator[Cell]:
        """All cells, seed by seed, so that the table is complete as early as possible."""
        start = training_fingerprint(self.bundle_folder)
        bases = fingerprint(self.bundle_folder, coupling=False)
        whole = fingerprint(self.bundle_folder, coupling=True)
        for seed in self.seeds:
            for name, row in self.rows.items():
                sampling = self.options(row)
                if not self.train or sampling.get("coupled") is False:
                    yield Cell(self, name, seed, sampling, (), whole, start)
                    continue
                model = merged(self.model, row.train.get("model", {}))
                recipe = _recipe(self.train, merged(row.train, {"model": model}), seed)
                if not self.connectors:
                    yield Cell(self, name, seed, sampling, (recipe,), bases, start)
                    continue
                shape = {key: value for key, value in model.items() if key in CONNECTOR_SETTINGS}
                shared = {"model": shape, "data": row.train.get("data", {}), "continued": False}
                first = _recipe(self.connectors, shared, CONNECTOR_SEED)
                yield Cell(self, name, seed, sampling, (first, recipe), bases, start)

    def options(self, row: Row) -> dict[str, Any]:
        """Sampling options of a row, with defaults from the experiment, then from the bundle."""
        defaults = BundleSpec.read(self.bundle).defaults
        chosen = {**result_settings(defaults), **self.sampling, **row.sampling}
        if "snr_offset" in chosen or "clock_table" in chosen:
            chosen.pop("gamma")
        return chosen

    @property
    def bundle_folder(self) -> Path:
        """Folder of the bundle."""
        folder = BundleSpec.read(self.bundle).folder
        assert folder is not None
        return folder


def result_settings(sampling: dict[str, Any]) -> dict[str, Any]:
    """The sampling settings that affect the result."""
    # Results from before a bundle named its stepper were made with DDIM, and keep their keys.
    left_out = ("batch_size", "stepper") if sampling.get("stepper") == "ddim" else ("batch_size",)
    return {key: value for key, value in sampling.items() if key not in left_out}


def _recipe(entry: dict[str, Any], changes: dict[str, Any], seed: int) -> dict[str, Any]:
    """A recipe with the experiment's and a row's changes."""
    path = Path(entry["recipe"])
    raw = merged({"name": path.stem, **read_yaml(path)}, entry)
    del raw["recipe"]
    # No samples: sampling exports partly trained weights, which could be mistaken for the final ones.
    return merged(merged(raw, changes), {"loop": {"seed": seed, "sample_every": 0}})


@dataclass(frozen=True)
class Cell:
    """One row with one seed.

    Attributes:
        recipes: Recipes in order of training: none, the coupling, or the connectors and then the coupling.
        weights: Hash of the weights that the cell starts from.
        start: Hash of those weights that affect training. Decoders do not, because training uses latents.
    """

    experiment: Experiment
    row: str
    seed: int
    sampling: dict[str, Any]
    recipes: tuple[dict[str, Any], ...]
    weights: str
    start: str

    def folder(self, number: int) -> Path:
        """Folder where recipe ``number`` is trained, named by a hash of everything its weights depend on.

        Cells with the same training share it.
        """
        key = _hash([self.recipes[: number + 1], self.start])
        return RUNS / f"{self.recipes[number]['name']}-{key}"

    @property
    def connectors(self) -> Path:
        """Folder of the connectors that the coupling starts from; shared by rows with the same connectors."""
        return RUNS / "connectors" / self.folder(0).name

    @property
    def key(self) -> str:
        """Hash of everything the result depends on."""
        one = self.experiment
        follows = [self.recipes, self.weights, self.sampling, one.precision, one.split, self.seed]
        if one.domain != "hits":  # results from before other domains existed keep their keys
            follows.append(one.domain)
        if self.sampling.get("gamma") == "auto":
            follows.append(auto_gamma_rule())
        return _hash(follows)

    @property
    def prompts(self) -> range:
        """Indices of the cell's prompts in the split."""
        count = self.experiment.prompts
        return range(count * self.seed, count * (self.seed + 1))

    def result(self) -> dict[str, Any] | None:
        """The cell's result, or None if it is missing or out of date."""
        return next(
            (found for found in self._alike(self.experiment.results) if found["row"] == self.row), None
        )

    def from_another(self) -> dict[str, Any] | None:
        """Result of a row of another experiment with the same training and sampling, or None."""
        for path in sorted(RESULTS.glob(f"*/{CELLS}")):
            for found in self._alike(path.parent):
                return {**found, "row": self.row}
        return None

    def _alike(self, folder: Path) -> list[dict[str, Any]]:
        own = (self.seed, self.experiment.prompts, self.key)
        return [cell for cell in read_cells(folder) if (cell["seed"], cell["prompts"], cell["key"]) == own]


def read_cells(folder: Path) -> list[dict[str, Any]]:
    """Read all results in an experiment's folder, including those that are out of date."""
    path = folder / CELLS
    if not path.is_file():
        return []
    return _read_cells(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=32)
def _read_cells(path: Path, changed_ns: int) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write_cells(folder: Path, results: Sequence[dict[str, Any]]) -> None:
    """Add results to an experiment's file, replacing those with the same row, seed and number of prompts."""

    def place(cell: dict[str, Any]) -> tuple[str, int, int]:
        return cell["row"], cell["seed"], cell["prompts"]

    cells = {place(cell): cell for cell in (*read_cells(folder), *results)}
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(cells[key]) + "\n" for key in sorted(cells))
    with replacing(folder / CELLS) as partial:
        # No timestamp in the file, so that equal results give equal bytes.
        Path(partial).write_bytes(gzip.compress(lines.encode(), mtime=0))


def load_experiment(path: Path, prompts: int | None = None) -> Experiment:
    """Read and check an experiment with its recipes and rows.

    Args:
        path: The YAML file.
        prompts: Number of prompts, overriding the file's.

    Raises:
        RequestError: The experiment can't be used; the error lists all problems.
    """
    if not path.is_file():
        raise RequestError([f"there is no experiment at {path}: experiments are in recipes/experiments/"])
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise RequestError([f"{path} must contain keys and values, such as 'question: …'"])
    if prompts is not None:
        raw["prompts"] = prompts
    problems: list[str] = []
    rows = raw.get("rows")
    if isinstance(rows, dict):
        parsed = {}
        for name, row in rows.items():
            found: list[str] = []
            parsed[str(name)] = parse_fields(Row, row or {}, f"rows.{name}.", found)
            problems += found
        raw = {**raw, "rows": parsed}
    experiment = parse_fields(Experiment, {"name": path.stem, **raw}, "", problems)
    if not problems:
        problems += _problems(experiment)
    if problems:
        raise RequestError([f"{path}: {problem}" for problem in problems])
    return experiment


def _problems(experiment: Experiment) -> list[str]:
    """Find problems that involve several fields."""
    from kinetophone.hits.scene import MATERIALS, SPLITS

    problems = []
    if experiment.baseline not in experiment.rows:
        problems.append(f"'baseline' is {experiment.baseline!r}, which is not a row")
    if experiment.split not in SPLITS:
        problems.append(f"'split' must be {' or '.join(SPLITS)}, got {experiment.split!r}")
    if experiment.prompts < 4:
        problems.append(f"'prompts' is {experiment.prompts}; distances need at least 4")
    for key in ("train", "connectors"):
        entry = getattr(experiment, key)
        if entry and not Path(str(entry.get("recipe"))).is_file():
            problems.append(f"'{key}.recipe' is {entry.get('recipe')!r}, which is not a file")
    if experiment.connectors and not experiment.train:
        problems.append("'connectors' are for a coupling that is trained; give 'train' too")
    for name, row in experiment.rows.items():
        options = experiment.options(row)
        if row.train and not experiment.train:
            problems.append(f"'rows.{name}.train': the experiment has no recipe to change")
        problems += [f"'rows.{name}': {problem}" for problem in option_problems(as_options(options))]
    for name, materials in experiment.groups.items():
        unknown = [str(m) for m in materials if m not in MATERIALS]
        problems += [f"'groups.{name}': unknown material {m!r}" for m in unknown]
    return problems


def write_recipe(raw: dict[str, Any], path: Path) -> Path:
    """Write a recipe and check it, as ``kinetophone train`` would; returns ``path``.

    Raises:
        RequestError: The recipe can't be used.
    """
    import yaml

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(raw, sort_keys=False, allow_unicode=True))
    try:
        load_recipe(path)
    except ValueError as error:
        raise RequestError([str(error)]) from error
    return path


def as_options(sampling: dict[str, Any]) -> dict[str, Any]:
    """Convert sampling options from YAML to pipeline arguments; a scale per modality becomes a pair."""
    return {key: AV(**value) if isinstance(value, dict) else value for key, value in sampling.items()}


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` updated recursively with ``changes``."""
    out = copy.deepcopy(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merged(out[key], value) if both else copy.deepcopy(value)
    return out


def fingerprint(folder: Path, *, coupling: bool) -> str:
    """Hash of a bundle's weights, with those of its coupling only if ``coupling`` is True."""
    parts = (*MODALITIES, "coupling") if coupling else MODALITIES
    return _hash_weights(folder, parts)


def training_fingerprint(folder: Path) -> str:
    """Hash of the weights of a bundle's bases that affect training: U-Nets, text models, encoders."""
    from kinetophone.data.latents import DECODER

    parts = [f"{base}/{part}" for base in MODALITIES for part in ("unet", "text_encoder", "vae")]
    return _hash_weights(folder, parts, but=DECODER)


def _hash_weights(folder: Path, parts: Sequence[str], but: tuple[str, ...] = ()) -> str:
    """Hash of the tensors in folders of a bundle, except those whose names start with one of ``but``.

    They are hashed in half precision, as in shipped bundles, so that results of the original weights are
    valid for the bundle.
    """
    from safetensors.torch import load_file

    digest = hashlib.sha256()
    for part in parts:
        for path in sorted((folder / part).rglob("*.safetensors")):
            digest.update(path.relative_to(folder).as_posix().encode())
            for name, tensor in sorted(load_file(path).items()):
                if not name.startswith(but):
                    half = tensor.half() if tensor.is_floating_point() else tensor
                    digest.update(name.encode() + half.numpy().tobytes())
    return digest.hexdigest()[:12]


def auto_gamma_rule() -> str:
    """Hash of everything an automatic γ depends on, except the weights."""
    from kinetophone.diffusion import information

    return _hash([AUTO_GAMMA_CLIPS, information.LEVELS, information.GAMMAS, information.ENOUGH])


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(_integral(content), sort_keys=True).encode()).hexdigest()[:12]


def _integral(content: Any) -> Any:
    """``content`` with integral floats converted to int, so that 4.0 and 4 are the same."""
    if isinstance(content, dict):
        return {key: _integral(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_integral(value) for value in content]
    return int(content) if isinstance(content, float) and content.is_integer() else content

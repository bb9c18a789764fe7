"""Checkpoints: whole or not there at all, the newest few kept, each saying what made it.

A file holds the trained weights, their average, the optimiser's state and the step. It is the same whether
one process trained or several, so a run may go on with another number of them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch

from kinetophone.errors import UserError, reason

_PATTERN = "checkpoint-*.pt"


def find(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, oldest first."""
    return sorted(folder.glob(_PATTERN), key=_step)


def save(state: dict[str, Any], folder: Path, keep: int) -> Path:
    """Write ``state`` (with its "step") as a checkpoint, then remove all but the newest ``keep``.

    The file gets its name once its bytes are on the disk: whenever the process or the machine dies, what is
    there is whole.

    Raises:
        OSError: if the disk is full. The older checkpoints are untouched.
    """
    path = folder / f"checkpoint-{state['step']:08d}.pt"
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(folder)
    except (OSError, RuntimeError) as error:
        # torch reports a write that failed as a RuntimeError about positions in its archive.
        cause = error if isinstance(error, OSError) else error.__context__
        code = cause.errno if isinstance(cause, OSError) and cause.errno else errno.ENOSPC
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise OSError(
            code,
            f"a checkpoint could not be written ({os.strerror(code)}); those of earlier steps are whole, "
            "and the run goes on from the newest once there is room",
            str(path),
        ) from error
    for old in find(folder)[:-keep]:
        old.unlink()
    return path


def load(path: Path) -> dict[str, Any]:
    """The state in ``path``, as tensors and plain values only.

    Raises:
        UserError: if the file is damaged.
    """
    try:
        found = torch.load(path, weights_only=True, map_location="cpu")
        if not isinstance(found, dict) or "step" not in found:
            raise KeyError("it holds no state of a training")
        return found
    except Exception as error:  # damaged pickles fail in every way there is
        # torch's own advice on pickles is to read them without care.
        why = "it holds more than tensors" if isinstance(error, pickle.UnpicklingError) else reason(error)
        raise UserError(f"{path} is damaged ({why}): delete it to go on from the one before it") from error


def clean(folder: Path, all_of_them: bool = False) -> None:
    """Remove what a killed run left half-written; with ``all_of_them`` the checkpoints too."""
    for path in [*folder.glob("checkpoint-*.part"), *(find(folder) if all_of_them else [])]:
        path.unlink()


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between the recipes of two descriptions by :func:`describe`, as ``key: old -> new``."""
    old, new = _flat(before.get("recipe", {})), _flat(now.get("recipe", {}))
    return [
        f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def describe(recipe: Any, processes: int) -> dict[str, Any]:
    """What makes a run: the recipe (with its seed), this code's revision, the packages' versions."""
    import platform
    from importlib import metadata

    packages = (
        "kinetophone", "torch", "numpy", "diffusers", "transformers", "accelerate", "safetensors",
        "opencv-python-headless",
    )  # fmt: skip
    versions = {"python": platform.python_version()}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "recipe": asdict(recipe) if is_dataclass(recipe) and not isinstance(recipe, type) else {},
        "revision": revision(),
        "versions": versions,
        "seed": recipe.loop.seed,
        "processes": processes,
    }


def revision() -> str | None:
    """Git revision of this code, ``+`` where files differ from it; None outside a repository."""
    import subprocess

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        # Installed inside somebody else's repository, this code would not be what the revision names.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _flat(values: dict[str, Any], where: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{where}{key}.") if isinstance(value, dict) else {f"{where}{key}": value}
    return flat


def _step(path: Path) -> int:
    return int(path.stem.split("-")[1])


def _sync_folder(folder: Path) -> None:
    """The new name, too, must survive a power cut."""
    with contextlib.suppress(OSError):  # some file systems can't
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

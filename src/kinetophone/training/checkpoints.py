"""Checkpoints: written atomically, the newest few kept, each with a record of the run that made it.

A file contains the trained weights, their moving average, the optimiser's state and the step. Its format
does not depend on the number of processes, so a run can resume with a different number.
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

    The file is renamed to its final name only after its bytes are on disk. If the process or the machine
    dies, every checkpoint in the folder is complete.

    Returns:
        The path of the checkpoint.

    Raises:
        OSError: The disk is full. Older checkpoints are untouched.
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
        # torch reports a failed write as a RuntimeError about positions in its archive.
        cause = error if isinstance(error, OSError) else error.__context__
        code = cause.errno if isinstance(cause, OSError) and cause.errno else errno.ENOSPC
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise OSError(
            code,
            f"a checkpoint could not be written ({os.strerror(code)}); earlier checkpoints are intact, "
            "and the run resumes from the newest once there is room",
            str(path),
        ) from error
    for old in find(folder)[:-keep]:
        old.unlink()
    return path


def load(path: Path) -> dict[str, Any]:
    """Read the state in ``path``, which may contain tensors and plain values only.

    Raises:
        UserError: The file is damaged.
    """
    try:
        found = torch.load(path, weights_only=True, map_location="cpu")
        if not isinstance(found, dict) or "step" not in found:
            raise KeyError("it contains no training state")
        return found
    except Exception as error:  # a damaged pickle can raise any exception
        # torch's own message advises loading the pickle with weights_only=False, which is unsafe.
        why = "it contains more than tensors" if isinstance(error, pickle.UnpicklingError) else reason(error)
        raise UserError(f"{path} is damaged ({why}): delete it to resume from the one before it") from error


def clean(folder: Path, all_of_them: bool = False) -> None:
    """Remove partial files left by a killed run; with ``all_of_them`` also remove the checkpoints."""
    for path in [*folder.glob("checkpoint-*.part"), *(find(folder) if all_of_them else [])]:
        path.unlink()


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Compare the recipes in two records made by :func:`describe`.

    Returns:
        One line for each setting that differs, as ``key: old -> new``.
    """
    old, new = _flat(before.get("recipe", {})), _flat(now.get("recipe", {}))
    return [
        f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def describe(recipe: Any, processes: int) -> dict[str, Any]:
    """Record what is needed to reproduce a run.

    Returns:
        The recipe, its seed, this code's git revision, the package versions and the number of processes.
    """
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
    """Git revision of this code, with ``+`` appended if files were changed; None outside a repository."""
    import subprocess

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        # Fails if the package is installed inside another repository, whose revision would be meaningless.
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
    """Flush the folder's entries, so that the rename survives a power cut."""
    with contextlib.suppress(OSError):  # not supported by every file system
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

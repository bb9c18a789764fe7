"""The package as a whole: what importing it costs, and that its metadata tell the truth."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import kinetophone

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_imports_no_library() -> None:
    assert not modules_after("import kinetophone") & {"torch", "numpy", "av", "librosa", "typer"}


def test_training_code_can_use_clips_without_codecs_and_plots() -> None:
    loaded = modules_after("from kinetophone.media import Clip, ClipTime; import kinetophone.media.timing")
    assert not loaded & {"av", "librosa", "matplotlib", "cv2", "soxr", "torch", "scipy"}


def test_names_are_imported_when_used() -> None:
    assert kinetophone.AV.__module__ == "kinetophone.av"
    assert kinetophone.Clip.__module__ == "kinetophone.media.clip"
    assert "Kinetophone" in dir(kinetophone)
    with pytest.raises(AttributeError, match="module 'kinetophone' has no attribute 'Gramophone'"):
        kinetophone.Gramophone  # noqa: B018


def test_version_and_script_are_what_the_metadata_say() -> None:
    assert kinetophone.__version__ == PROJECT["version"]
    module, _, name = PROJECT["scripts"]["kinetophone"].partition(":")
    assert callable(getattr(import_module(module), name))


def test_the_lock_pins_every_dependency_with_hashes() -> None:
    text = (ROOT / "requirements.lock").read_text().replace(" \\\n", "")
    lines = [line for line in text.splitlines() if line and line[0] != "#"]
    pin = r"[A-Za-z0-9._-]+==[^ ;+]+( ; [^-]+?)?(    --hash=sha256:[0-9a-f]{64})+"
    assert [line for line in lines if not re.fullmatch(pin, line)] == []
    locked = {re.split("==", line)[0].lower().replace("_", "-") for line in lines}
    (torch,) = re.findall(r"^torch==.+", (ROOT / "requirements-torch.txt").read_text(), re.MULTILINE)
    assert torch == "torch==2.13.0"
    wanted = list(PROJECT["dependencies"])
    for name, extra in PROJECT["optional-dependencies"].items():
        if name != "ray":  # large, and no test needs it: those that use it skip
            wanted += extra
    assert {re.split(r"[><=\[]", name)[0].lower().replace("_", "-") for name in wanted} <= locked | {"torch"}
    assert not {name for name in locked if name.startswith(("nvidia", "triton", "torchvision", "torchaudio"))}


def test_the_lowest_versions_are_those_that_are_allowed_and_tests_of_them_are_there() -> None:
    pins = dict(
        re.findall(
            r"^([A-Za-z0-9._-]+)==(\S+)$", (ROOT / "requirements-lowest.txt").read_text(), re.MULTILINE
        )
    )
    extras = PROJECT["optional-dependencies"]
    for line in (*PROJECT["dependencies"], *extras["app"], *extras["dev"]):
        name, lowest = line.replace("_", "-").split(">=")
        if name != "torch":  # which stands in requirements-torch.txt
            assert f"{pins[name]}.".startswith(f"{lowest}."), line
    command = (ROOT / "Makefile").read_text().partition("\nlowest:")[2].partition("\n\n")[0]
    tests = re.findall(r"\btests/\S+", command)
    assert tests
    assert [path for path in tests if not (ROOT / path).exists()] == []

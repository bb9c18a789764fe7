"""Bars of progress: who sees one, how it looks, and that a notebook needs nothing more for it."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import pytest

from kinetophone.errors import RequestError
from kinetophone.progress import check_bar_options, step_bar, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def written(shown: bool | None, file: io.StringIO, **config: Any) -> str:
    """What a bar over three steps writes to ``file``."""
    steps: list[int] = []
    with step_bar(shown, 3, steps.append, {"file": file, **config}) as advance:
        for step in range(3):
            assert advance is not None
            advance(step)
    assert steps == [0, 1, 2]
    return file.getvalue()


@pytest.mark.parametrize(
    ("shown", "config", "terminal", "seen"),
    [
        (None, {}, True, True),
        (None, {}, False, False),
        (None, {"disable": None}, True, True),
        (None, {"disable": None}, False, False),
        (None, {"disable": True}, True, False),
        (None, {"disable": False}, False, True),
        (True, {}, False, True),
        (True, {"disable": True}, False, True),
        (False, {"disable": False}, True, False),
    ],
)
def test_the_call_comes_before_the_config_and_that_before_who_looks(
    shown: bool | None, config: dict[str, Any], terminal: bool, seen: bool
) -> None:
    assert ("denoising" in written(shown, Terminal() if terminal else io.StringIO(), **config)) == seen


def test_a_bar_looks_as_it_is_told_to() -> None:
    assert "drums: 100%" in written(True, io.StringIO(), desc="drums")
    assert written(True, io.StringIO()).endswith("\n")
    assert written(True, io.StringIO(), leave=False).endswith("\r")


def test_what_no_bar_has_is_refused() -> None:
    check_bar_options({"disable": True, "desc": "drums", "leave": False, "ncols": 80})
    with pytest.raises(RequestError, match=r"no option colours of progress bars; choose from ascii, .*desc"):
        check_bar_options({"colours": "red"})


def test_work_is_tracked_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track("abc", 3, "letters")) == ["a", "b", "c"]
    assert "letters: 100%" in capsys.readouterr().err


# A notebook, as far as libraries look, without ipywidgets.
NOTEBOOK = """
import sys
from types import ModuleType, SimpleNamespace

ipython = ModuleType("IPython")
ipython.version_info = (9, 0)
ipython.get_ipython = lambda: SimpleNamespace(config={"IPKernelApp": {}})
sys.modules["IPython"], sys.modules["ipywidgets"] = ipython, None
sys.modules["ipykernel.zmqshell"] = ModuleType("ipykernel.zmqshell")
"""
OURS = """
from kinetophone import Kinetophone

pipe = Kinetophone.from_pretrained("hits", device="cpu")
print("loaded", file=sys.stderr)
pipe("a drumstick hits a drum", steps=2)
"""


def test_a_notebook_without_ipywidgets_has_bars_of_text() -> None:
    def said(code: str) -> str:
        command = [sys.executable, "-c", NOTEBOOK + code]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr

    assert "IProgress not found" in said("import tqdm.auto")  # it is one for tqdm
    loading, _, sampling = said(OURS).partition("loaded\n")
    assert loading == ""
    assert "denoising: 100%" in sampling
    assert "Warning" not in sampling

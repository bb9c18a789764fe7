"""The fuzz of texts at its smallest; the command in ``text.py`` tries thousands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_damaged_texts_are_read_or_refused() -> None:
    command = [sys.executable, str(Path(__file__).with_name("text.py")), "--mutants", "400", "--seed", "7"]
    done = subprocess.run([*command, "--gigabytes", "4"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "400 mutants, seed 7" in done.stdout
    assert "0 failed" in done.stdout

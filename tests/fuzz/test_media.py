"""The fuzz of media files at its smallest; the command in ``media.py`` tries thousands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_damaged_media_is_read_or_refused() -> None:
    command = [sys.executable, str(Path(__file__).with_name("media.py")), "--mutants", "150", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "150 mutants, seed 7" in done.stdout
    assert "0 failed" in done.stdout

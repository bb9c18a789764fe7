"""On a fresh installation, processes that import librosa together leave a cache that still works."""

import os
import subprocess
import sys

CODE = """
from kinetophone.media.librosa_loading import load_librosa
import numpy as np
librosa = load_librosa()
x = np.zeros(22050, np.float32)
x[11025:11100] = 0.5
print(len(librosa.onset.onset_detect(y=x, sr=22050)))
"""


def test_processes_that_start_together_can_all_use_librosa(tmp_path, monkeypatch):
    # An empty cache folder is what a fresh installation has.
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    folders = [tmp_path / name for name in "ab"]  # the app has a temporary folder of its own
    for folder in folders:
        folder.mkdir()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CODE],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(folder)},
        )
        for folder in folders
    ]
    outputs = [process.communicate(timeout=240)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert outputs == ["1\n"] * 2
    later = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=240, check=False
    )
    assert later.returncode == 0

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
    monkeypatch.setenv("NUMBA_OPT", "0")  # compiles in two thirds of the time
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


READ_ONLY = """
import os
from kinetophone.media import librosa_loading
os.access = lambda path, mode: False  # an installation of somebody else
print(librosa_loading._cache())
import numba
print(numba.config.CACHE_DIR)
"""


def test_a_read_only_installation_and_home_get_a_cache_of_their_own(tmp_path):
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY], capture_output=True, text=True, timeout=240, env=environment
    )
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("kinetophone-librosa-*")
    assert done.stdout.split() == [str(folder)] * 2
    assert folder.stat().st_mode & 0o77 == 0  # code is loaded from it: nobody else's business


def test_a_cache_of_somebody_else_is_not_used(tmp_path, monkeypatch):
    from kinetophone.media import librosa_loading

    (tmp_path / f"kinetophone-librosa-{os.getuid()}").mkdir()
    monkeypatch.setattr(librosa_loading.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    own = os.getuid()
    theirs = librosa_loading._cache()
    monkeypatch.setattr(os, "getuid", lambda: own + 1)
    (tmp_path / f"kinetophone-librosa-{own + 1}").mkdir()
    mine = librosa_loading._cache()
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    assert theirs.name == f"kinetophone-librosa-{own}"
    assert mine.name != f"kinetophone-librosa-{own + 1}"

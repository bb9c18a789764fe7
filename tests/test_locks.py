"""Two runs on one folder, in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kinetophone.cli import app
from kinetophone.errors import RequestError
from kinetophone.files import writing
from kinetophone.locks import sole_writer
from videos import write_video

HOLD = """
import sys
from pathlib import Path
from kinetophone.locks import sole_writer
with sole_writer(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_run_is_told_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = holder(out)
    with (
        pytest.raises(RequestError, match=r"another run is writing to '.*out': wait until it ends"),
        sole_writer(out),
    ):
        pass
    process.kill()
    process.communicate()
    with sole_writer(out):
        pass


def test_commands_that_write_folders_refuse_a_held_one(tmp_path: Path) -> None:
    folder, out = tmp_path / "films", tmp_path / "out"
    folder.mkdir()
    write_video(folder / "a.mp4", size=(32, 32))
    process = holder(out)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "stage: connectors\nbundle: none\ndata: {source: hits, count: 2}\n"
        "loop: {steps: 1, batch_size: 1, lr: 1e-3}\n"
    )
    prepare = [
        "data",
        "prepare",
        str(folder),
        str(out),
        "--caption",
        "a",
        "--seconds",
        "1",
        "--size",
        "32",
    ]
    for command in (prepare, ["train", str(recipe), "--out", str(out)]):
        result = CliRunner().invoke(app, command)
        assert (result.exit_code, result.stderr.count("another run is writing to")) == (2, 1), result.output
    process.kill()
    process.communicate()
    assert CliRunner().invoke(app, [*prepare, "--workers", "1"]).exit_code == 0


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with writing(path) as one, writing(path) as other:
        one.write(b"1" * 10)
        other.write(b"2" * 5)
    assert path.read_bytes() == b"1" * 10
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(RequestError, match="is a file, not a folder"), sole_writer(tmp_path / "out"):
        pass

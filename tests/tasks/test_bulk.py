"""Many clips from a table: the same as one by one, resumable, divided, and bad lines are named at once."""

import os
import signal
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from typer.testing import CliRunner

from kinetophone.bundle.spec import BundleSpec
from kinetophone.cli import app
from kinetophone.cli.make import load_pipeline
from kinetophone.errors import RequestError
from kinetophone.media.read import read_clip
from kinetophone.pipeline import Kinetophone
from kinetophone.tasks.common import bulk
from kinetophone.tasks.common.bulk import Line, check_lines, make_all, read_prompts
from kinetophone.workers import Workers

TABLE = """prompt,seed,seconds,file
a drumstick hits a metal bowl,7,,bowl.mp4
a hammer hits a wooden box,,,
a mallet hits a drum,3,5,drums/long.mp4
"""


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_text(TABLE)
    return path


@pytest.fixture(scope="module")
def pipe():
    return Kinetophone.from_pretrained("hits", device="cpu")


def test_a_table_has_defaults_for_what_it_leaves_out(table):
    assert read_prompts(table) == [
        Line("a drumstick hits a metal bowl", 7, None, "bowl.mp4"),
        Line("a hammer hits a wooden box", 1, None, "00001.mp4"),
        Line("a mallet hits a drum", 3, 5.0, "drums/long.mp4"),
    ]


def made(table, out, load, **more):
    return make_all(read_prompts(table), BundleSpec.read("hits"), out, load, {"steps": 1}, **more)


def test_clips_are_those_of_single_calls(table, pipe, tmp_path):
    out, kept = tmp_path / "out", {}

    def make(prompts, seed, **options):
        clips = pipe(prompts, seed=seed, **options)
        kept.update(zip(prompts, clips, strict=True))
        return clips

    assert made(table, out, lambda: make) == {}
    for line in read_prompts(table):
        alone, one = pipe(line.prompt, seed=line.seed, seconds=line.seconds, steps=1)[0], kept[line.prompt]
        assert np.abs(one.video.astype(int) - alone.video).mean() < 0.1  # a batch rounds differently
        np.testing.assert_allclose(one.audio, alone.audio, atol=1e-3)
        assert len(read_clip(out / line.file).video) == len(alone.video)
    # The manifest is a table of what is there.
    assert sorted(read_prompts(out / "manifest.csv"), key=str) == sorted(read_prompts(table), key=str)


class Drawn:
    """A pipeline that writes down what it is asked for."""

    def __init__(self, fails=None):
        self.asked, self.fails = [], fails or {}

    def __call__(self, prompts, seed, seconds, **options):
        self.asked.append(list(prompts))
        for one in seed:
            if len(seed) == 1 and one in self.fails:
                raise self.fails[one]
        if any(one in self.fails for one in seed):
            raise FloatingPointError("latents are not finite at step 3")
        return [Saved(f"{text}, {one}".encode()) for text, one in zip(prompts, seed, strict=True)]


class Saved:
    def __init__(self, content):
        self.content = content

    def save(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.content)
        return path


def test_a_clip_is_made_again_if_and_only_if_what_made_it_has_changed(tmp_path, monkeypatch, capsys):
    table, out, pipe = tmp_path / "prompts.csv", tmp_path / "out", Drawn()
    prompts = ["a", "b", "c"]

    def made_again(**options):
        table.write_text("prompt\n" + "\n".join(prompts) + "\n")
        before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.mp4")}
        spec = BundleSpec.read("hits")
        assert make_all(read_prompts(table), spec, out, lambda: pipe, {"batch_size": 2, **options}) == {}
        return {p.name for p in out.glob("*.mp4") if p.stat().st_mtime_ns != before.get(p.name)}

    assert made_again() == {"00000.mp4", "00001.mp4", "00002.mp4"}
    assert made_again() == made_again(batch_size=3) == set()
    assert "3 of 3 clips exist" in capsys.readouterr().err
    assert len(pipe.asked) == 2
    # The same batch again, so that the same bytes are made, but only the missing clip is written.
    (out / "00001.mp4").unlink()
    assert made_again() == {"00001.mp4"}
    assert pipe.asked[-1] == ["a", "b"]
    prompts[2] = "d"
    assert made_again() == {"00002.mp4"}
    assert "1 clips in" in capsys.readouterr().err
    assert (out / "00002.mp4").read_bytes() == b"d, 2"
    assert len(made_again(steps=3)) == 3
    monkeypatch.setattr(bulk, "VERSION", bulk.VERSION + 1)
    assert len(made_again(steps=3)) == 3
    monkeypatch.setattr(bulk, "_files_of", lambda spec: "another bundle")
    assert len(made_again(steps=3)) == 3


def test_parts_divide_the_batches_among_machines(tmp_path):
    table, out, pipe = tmp_path / "prompts.csv", tmp_path / "out", Drawn()
    table.write_text("prompt\n" + "a\n" * 11)
    for part in (1, 2, 3):
        before = len(pipe.asked)
        made(table, out, lambda: pipe, part=(part, 3))
        assert len(pipe.asked) - before == (1 if part < 3 else 0)
    assert sorted(map(len, pipe.asked)) == [3, 8]
    assert len(read_prompts(out / "manifest.csv")) == 11


def test_one_clip_that_fails_does_not_take_its_batch_with_it(tmp_path):
    table, out = tmp_path / "prompts.csv", tmp_path / "out"
    table.write_text("prompt\na\nb\nc\nd\n")
    fails = {1: FloatingPointError("latents are not finite at step 3"), 2: FloatingPointError("nor at 4")}
    failed = made(table, out, lambda: Drawn(fails))
    assert failed == {"00001.mp4": "latents are not finite at step 3", "00002.mp4": "nor at 4"}
    assert {path.name for path in out.glob("*.mp4")} == {"00000.mp4", "00003.mp4"}
    assert [line.file for line in read_prompts(out / "manifest.csv")] == ["00000.mp4", "00003.mp4"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("text\na\n", "no column 'prompt'"),
        ("prompt,size\na,3\n", "has the column 'size'"),
        ("prompt\n", "no lines below"),
        ("prompt,seed\na,1\n ,2\n", "line 3 has no prompt"),
        ("prompt,seed\na,one\n", "line 2: invalid literal"),
        ("prompt,file\na,x.mp4\nb,x.mp4\n", "line 3 writes 'x.mp4', as line 2 does"),
        ("prompt,file\na,../x.mp4\n", "outside of the folder"),
    ],
)
def test_bad_tables_are_refused(text, said, tmp_path):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(RequestError, match=said):
        read_prompts(tmp_path / "bad.csv")


def test_lines_that_cannot_be_made_are_named_before_a_model_is_loaded(tmp_path):
    lines = [Line("a", -1, None, "0.mp4"), Line("a", 0, -3, "1.mp4"), Line("a", 0, None, "2.xyz")]
    with pytest.raises(RequestError) as caught:
        check_lines(lines, "hits", tmp_path, {})
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["'0.mp4'", "'1.mp4'", "'2.xyz'"]


def test_the_command_makes_them_and_goes_on_where_it_stopped(table, tmp_path):
    out = tmp_path / "out"
    arguments = ["generate", "--prompts", str(table), "--out", str(out), "--steps", "1", "--shard", "1/2"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.rglob("*.mp4")} == {"bowl.mp4", "00001.mp4"}
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "2 of 2 clips exist" in result.output


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["a drum"], "does not go with a prompt"),
        (["--shard", "3/2"], "shard is '3/2'"),
        (["--seed", "4"], "does not go with --seed"),
    ],
)
def test_options_that_do_not_go_together_are_named(more, said, table, tmp_path):
    result = CliRunner().invoke(
        app, ["generate", "--prompts", str(table), "-o", str(tmp_path / "out"), *more]
    )
    assert result.exit_code == 2
    assert said in result.output


def test_processes_make_the_files_that_one_makes_though_one_is_killed(pipe, tmp_path):
    """The real model, in real processes; a clip is the same file to the byte."""
    table = tmp_path / "prompts.csv"
    table.write_text(
        "prompt\na hammer hits a drum\na mallet hits a glass jar\na drumstick hits a metal bowl\n"
    )
    spec, options = BundleSpec.read("hits"), {"steps": 1, "batch_size": 1}
    killed = partial(killed_once, tmp_path / "killed", partial(load_pipeline, "hits", device="cpu"))
    for name, how, workers in (("one", lambda: pipe, Workers(1)), ("two", killed, Workers(2))):
        assert make_all(read_prompts(table), spec, tmp_path / name, how, options, workers=workers) == {}
    assert (tmp_path / "killed").exists()
    for line in (*read_prompts(table), Line("", 0, None, "manifest.csv")):
        assert (tmp_path / "one" / line.file).read_bytes() == (tmp_path / "two" / line.file).read_bytes()


def killed_once(told, load):
    """A pipeline whose process is killed while it makes the second clip, once."""
    pipe = load()

    def make(prompts, seed, **options):
        if seed == [1] and not told.exists():
            told.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return pipe(prompts, seed=seed, **options)

    return make


def test_a_full_disk_is_named_in_one_line_and_what_was_made_stays(table, tmp_path):
    """In a process whose files may not grow past a limit, as on a disk that is full."""
    out = tmp_path / "out"
    (out / "drums").mkdir(parents=True)
    lines = (
        "import resource, sys",
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, resource.RLIM_INFINITY))",
        "from kinetophone.cli import app",
        "app(sys.argv[1:])",
    )
    command = ["generate", "--prompts", str(table), "--out", str(out), "--steps", "1"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines), *command], capture_output=True, text=True, check=False
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert all("is full" in line for line in errors[:-1])
    assert errors[-1].startswith("error: 3 clips failed; all others are in")
    assert {path.name for path in out.rglob("*") if path.is_file()} == {"manifest.csv", ".kinetophone.lock"}

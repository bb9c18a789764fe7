"""Checkpoints are complete or absent: after kill -9, and with a full disk."""

import contextlib
import random
import resource
import shutil
import signal
import subprocess
import time
from multiprocessing import get_context

import pytest
import torch

from kinetophone.errors import UserError
from kinetophone.training import checkpoints
from kinetophone.training.loop import train
from toy_training import Toy, config, train_slowly


def state(step, size=10):
    return {"step": step, "weights": torch.full((size,), float(step))}


def test_the_newest_few_are_kept(tmp_path):
    for step in (5, 10, 100, 1000):
        checkpoints.save(state(step), tmp_path, keep=2)
    assert [checkpoints.load(path)["step"] for path in checkpoints.find(tmp_path)] == [100, 1000]
    assert len(list(tmp_path.iterdir())) == 2


class Code:
    def __reduce__(self):
        return (print, ("ran",))


def test_what_is_no_checkpoint_is_named_in_a_line_and_runs_nothing(tmp_path, capsys):
    path = tmp_path / "checkpoint-00000005.pt"
    for content in (b"", b"<html>sign in</html>", b"PK\x03\x04", b"\x80\x02."):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"is damaged \(.*\): delete it") as caught:
            checkpoints.load(path)
        assert len(str(caught.value).splitlines()) == 1
    for state in ([1], {"model": {}}, {"step": Code()}):
        torch.save(state, path)
        with pytest.raises(UserError, match=r"is damaged \(.*\): delete it"):
            checkpoints.load(path)
    assert capsys.readouterr().out == ""


def test_a_damaged_one_is_named_with_the_cure(tmp_path):
    path = checkpoints.save(state(5, 10_000), tmp_path, keep=1)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(UserError, match=r"checkpoint-00000005\.pt is damaged .* delete it to resume"):
        checkpoints.load(path)


def test_each_says_what_made_it(tmp_path):
    made_by = {"recipe": {"loop": {"lr": 1e-3, "seed": 3}}, "revision": "abc", "versions": {"torch": "2"}}
    train(Toy(), config(steps=2), tmp_path, made_by=made_by)
    assert checkpoints.load(checkpoints.find(tmp_path)[-1])["made_by"] == made_by


def test_a_changed_recipe_is_reported_when_a_run_goes_on(tmp_path, capsys):
    train(Toy(), config(steps=2), tmp_path, made_by={"recipe": {"loop": {"lr": 1e-3, "steps": 2}}})
    train(Toy(), config(steps=3), tmp_path, made_by={"recipe": {"loop": {"lr": 1e-3, "steps": 3}}})
    assert "the recipe has changed since step 2: loop.steps: 2 -> 3" in capsys.readouterr().out


def test_a_write_that_fails_leaves_the_older_ones(tmp_path):
    checkpoints.save(state(1), tmp_path, keep=2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="a checkpoint could not be written") as error:
            checkpoints.save(state(2, 1_000_000), tmp_path, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "earlier checkpoints are intact" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000001.pt"]
    assert checkpoints.load(tmp_path / "checkpoint-00000001.pt")["step"] == 1


@contextlib.contextmanager
def small_disk(folder, size):
    """A file system of ``size`` bytes at ``folder``; the test is skipped where none may be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_run_on_a_full_disk_stops_and_goes_on_once_there_is_room(tmp_path):
    whole = Toy()
    train(whole, config(), tmp_path / "whole")
    with small_disk(tmp_path / "disk", 200_000) as disk:
        train(Toy(), config(), disk, stop_at=7)
        filler = disk / "filler"
        room = shutil.disk_usage(disk).free
        filler.write_bytes(bytes(room - 8192))  # for the log, not for a checkpoint
        with pytest.raises(OSError, match="No space left"):
            train(Toy(), config(), disk)
        found = checkpoints.find(disk)
        assert [checkpoints.load(path)["step"] for path in found] == [6, 7]
        assert not list(disk.glob("*.part"))
        filler.unlink()
        last = Toy()
        train(last, config(), disk)
    torch.testing.assert_close(last.exported, whole.exported, rtol=0, atol=0)


def test_a_run_killed_at_random_moments_ends_as_one_that_was_not(tmp_path):
    """Three times kill -9; ``benchmarks/kills.py`` does it ten times to the coupling."""
    context = get_context("forkserver")
    context.set_forkserver_preload([train.__module__])  # imported once, not by each process
    moments = random.Random(0)
    whole = Toy()
    train(whole, config(), tmp_path / "whole")
    out = tmp_path / "killed"
    for _ in range(3):
        before = checkpoints.find(out)[-1:]
        process = context.Process(target=train_slowly, args=(out,))
        process.start()
        deadline = time.monotonic() + 120
        while checkpoints.find(out)[-1:] == before and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.2))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it had ended before it could be killed"
        for path in checkpoints.find(out):
            checkpoints.load(path)
    last = Toy()
    train(last, config(), out)
    torch.testing.assert_close(last.exported, whole.exported, rtol=0, atol=1e-6)
    steps = [int(line.split(",")[0].split(":")[1]) for line in (out / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))

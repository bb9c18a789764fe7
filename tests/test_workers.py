"""Work over shards in real processes: killed, full disks, errors; the same results as in one process."""

from __future__ import annotations

import importlib.util
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kinetophone.data.encode import encode
from kinetophone.data.prepare import Cut, prepare
from kinetophone.data.sources import find_sources
from kinetophone.errors import RequestError
from kinetophone.files import writing
from kinetophone.media import Clip
from kinetophone.metrics.evaluate import ClipEvents, Unscored, detect
from kinetophone.workers import Failed, Workers, check_all_done, over_shards
from videos import write_video

TWO = Workers(2)


def doing(work: Callable[[int], object], neighbours: int) -> Callable[[int], object]:
    return work


def done(setup: Callable[[int], Callable[[int], object]], count: int, workers: Workers) -> dict[int, object]:
    return dict(over_shards(setup, range(count), workers, "working"))


def square(shard: int) -> int:
    return shard * shard


@pytest.mark.parametrize("workers", [Workers(1), TWO])
def test_all_shards_are_done(workers: Workers) -> None:
    assert done(partial(doing, square), 7, workers) == {i: i * i for i in range(7)}


def fails(shard: int) -> int:
    if shard == 2:
        raise RequestError(["clips-00002.tar is damaged"])
    if shard == 3:
        raise ZeroDivisionError("3 of 0")
    return shard


@pytest.mark.parametrize("workers", [Workers(1), TWO])
def test_a_shard_that_fails_does_not_stop_the_others(workers: Workers) -> None:
    expected = {i: i for i in range(5)} | {
        2: Failed("clips-00002.tar is damaged"),
        3: Failed("ZeroDivisionError: 3 of 0"),
    }
    assert done(partial(doing, fails), 5, workers) == expected


def killed_once(folder: Path, shard: int) -> int:
    if shard == 1 and not (folder / "killed").exists():
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return shard


def killed_always(shard: int) -> int:
    if shard == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return shard


def test_a_killed_worker_takes_nothing_with_it(tmp_path: Path) -> None:
    assert done(partial(doing, partial(killed_once, tmp_path)), 4, TWO) == {i: i for i in range(4)}


def test_a_shard_that_kills_its_workers_is_given_up(capfd: pytest.CaptureFixture[str]) -> None:
    found = done(partial(doing, killed_always), 3, TWO)
    failed = found.pop(1)
    assert found == {0: 0, 2: 2}
    assert isinstance(failed, Failed)
    assert "the worker died (signal SIGKILL)" in failed.reason


def cannot_import(neighbours: int) -> Callable[[int], int]:
    raise ModuleNotFoundError("No module named 'somewhere_else'")


def test_workers_that_cannot_start_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RequestError, match="ModuleNotFoundError: No module named 'somewhere_else'"):
        done(cannot_import, 2, TWO)
    assert capfd.readouterr().err.count("a worker cannot be used") == 2


def fills(folder: Path, shard: int) -> str:
    """Write a file that is too large for the disk if the shard is even."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
    with writing(folder / f"{shard}.bin") as file:
        file.write(bytes(20_000 if shard % 2 == 0 else 10))
    return "written"


def test_a_full_disk_is_named_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    found = done(partial(doing, partial(fills, tmp_path)), 4, TWO)
    assert {i for i, result in found.items() if result == "written"} == {1, 3}
    for shard in (0, 2):
        failed = found[shard]
        assert isinstance(failed, Failed)
        assert "the disk of" in failed.reason
        assert "is full" in failed.reason
    assert {path.name for path in tmp_path.iterdir()} == {"1.bin", "3.bin"}


PARENT = """
import sys, time
from functools import partial
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_workers import doing, slow, over_shards, TWO
if __name__ == "__main__":
    list(over_shards(partial(doing, partial(slow, Path(sys.argv[1]))), range(100), TWO, "working"))
"""


def slow(folder: Path, shard: int) -> int:
    import time

    (folder / f"{os.getpid()}.pid").touch()
    time.sleep(0.05)
    return shard


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    import psutil

    script = tmp_path / "run.py"
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), str(Path(__file__).parent)], stderr=subprocess.DEVNULL
    )
    while len(list(tmp_path.glob("*.pid"))) < 2:
        assert parent.poll() is None
    workers = [psutil.Process(int(path.stem)) for path in tmp_path.glob("*.pid")]
    parent.kill()
    parent.wait()
    assert not psutil.wait_procs(workers, timeout=20)[1]


def test_what_failed_is_named_and_counted(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        check_all_done({f"{i}": "why" for i in range(7)}, "shards", tmp_path)
    *named, last = caught.value.problems
    assert named == [f"{i}: why" for i in range(5)]
    assert last == f"7 shards failed; all others are in '{tmp_path}', and the same command makes only these"
    with pytest.raises(RequestError, match="workers is 0; it must be at least 1"):
        Workers(0)


def test_a_cluster_that_is_not_there_is_named() -> None:
    if not importlib.util.find_spec("ray"):
        pytest.skip("Ray is not installed")
    # In a process of its own, because Ray reads the settings of its token when it is imported.
    lines = (
        "from kinetophone.workers import Workers, over_shards",
        "list(over_shards(len, ['a'], Workers(2, ray='nowhere:1'), 'working'))",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False, timeout=60
    )
    assert "RequestError: the Ray cluster at 'nowhere:1' cannot be used" in done.stderr


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Two nodes of a Ray cluster on this machine, which can import this module."""
    if not importlib.util.find_spec("ray"):  # not imported yet: it reads the token's settings then
        pytest.skip("Ray is not installed")
    from many import two_nodes

    with two_nodes(Path(__file__).parent) as address:
        yield address
        import ray

        ray.shutdown()


def test_a_cluster_does_what_one_process_does_though_a_worker_is_killed(cluster: str, tmp_path: Path) -> None:
    workers = Workers(2, ray=cluster)
    work = partial(doing, partial(killed_once, tmp_path))
    assert done(work, 4, workers) == done(partial(doing, int), 4, Workers(1))
    assert (tmp_path / "killed").exists()
    failed = done(partial(doing, fails), 5, workers)
    assert failed == done(partial(doing, fails), 5, Workers(1))


def test_a_folder_that_the_cluster_does_not_share_is_named(cluster: str, tmp_path: Path) -> None:
    lost = tmp_path / "lost" / "file"
    with pytest.raises(RequestError, match="name folders that all machines share under the same path"):
        list(over_shards(partial(doing, square), range(3), Workers(2, ray=cluster), "working", shared=[lost]))


def test_relative_paths_mean_the_same_on_the_cluster(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("here")
    monkeypatch.chdir(tmp_path)
    assert done(partial(doing, reads), 1, Workers(1, ray=cluster)) == {0: "here"}


def reads(shard: int) -> str:
    return Path("file").read_text()


def without_bases() -> Any:
    raise ModuleNotFoundError("No module named 'bases_of_mine'")


def test_bases_are_loaded_where_the_work_is_done(tmp_path: Path) -> None:
    """Encoding in other processes loads nothing in this one, and leaves no folder if no worker can."""
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.mp4", size=(32, 32))
    cut = Cut(fps=8, seconds=1, size=32)
    prepare(find_sources(tmp_path / "videos", caption="a bowl"), tmp_path / "clips", cut, Workers(1))
    with pytest.raises(RequestError, match="No module named 'bases_of_mine'"):
        encode(tmp_path / "clips", tmp_path / "latents", without_bases, TWO)
    assert not (tmp_path / "latents").exists()


def dies_on(second: float, clip: Clip) -> dict[str, Any]:
    if clip.duration_s == second:
        os.kill(os.getpid(), signal.SIGKILL)
    return {}


def test_a_clip_that_kills_its_readers_is_not_scored_and_the_others_are(
    make_struck_clip: Callable[..., Clip],
) -> None:
    clips = [make_struck_clip([0.5], frames=frames, size=64) for frames in (16, 24)]
    first, second = detect(clips, workers=2, features=partial(dies_on, 3.0))
    assert isinstance(first, ClipEvents)
    assert isinstance(second, Unscored)
    assert "the worker died (signal SIGKILL)" in second.reason

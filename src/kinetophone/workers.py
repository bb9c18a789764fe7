"""One function over many shards of work: in this process, in processes of this machine, or on a Ray cluster.

A worker is set up once, which may load a model, and then does one shard at a time. It is given the next one
when it has finished, so that nothing piles up. A shard whose worker was killed is given to another worker. A
shard that fails is reported, and the others go on. Results come back in the order in which they are done.
"""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import pickle
import secrets
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from kinetophone.errors import RequestError, UserError, is_full, reason
from kinetophone.progress import track

S = TypeVar("S")
R = TypeVar("R")
# Called once in each worker with the number of workers that share its machine; returns what does a shard.
Setup = Callable[[int], Callable[[S], R]]

ATTEMPTS = 3  # for a shard whose worker dies, or that fails for a reason that may pass
_TOLD_S = 60  # a message if no worker of a cluster could start for so long


@dataclass(frozen=True)
class Workers:
    """Where the work is done.

    Attributes:
        count: Number of workers; None: one for each core, or for each GPU. A single one without Ray is this
            process itself.
        ray: Address of a Ray cluster, such as ``10.0.0.1:6379``, or ``auto``; None: this machine.
        gpu: Whether each worker needs a GPU of its own; None: if there are any.

    Raises:
        RequestError: ``count`` is less than 1.
    """

    count: int | None = None
    ray: str | None = None
    gpu: bool | None = False

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise RequestError([f"workers is {self.count}; it must be at least 1"])

    def of(self, shards: int) -> int:
        """The number of workers for some shards on this machine; at least 1."""
        return max(1, min(self.count or _devices(bool(self.gpu)), shards))

    def alone(self, shards: int) -> bool:
        """Whether the shards are done in this process."""
        return self.ray is None and self.of(shards) == 1


@dataclass(frozen=True)
class Failed:
    """A shard that could not be done, and the reason."""

    reason: str


def over_shards(
    setup: Setup[S, R],
    shards: Sequence[S],
    workers: Workers,
    what: str | None,
    *,
    shared: Iterable[Path] = (),
) -> Iterator[tuple[int, R | Failed]]:
    """Do all shards.

    Args:
        setup: Makes the function that does a shard. It is pickled, unless the work is done in this process.
        shards: What each call is given.
        workers: Where the work is done.
        what: Label of a progress bar; None: no bar.
        shared: Files and folders that every worker of a cluster must see under the same path. A folder gets
            a file with a random name for as long as the work lasts.

    Yields:
        The index of a shard and what its call returned, or why it failed.

    Raises:
        RequestError: There is no such cluster, no worker could start, or all of them died.
    """
    if not shards:
        return
    with ExitStack() as stack:
        pool: _Pool
        if workers.ray is not None:
            seen = [stack.enter_context(_token(path)) if path.is_dir() else path for path in shared]
            pool = _Ray(setup, workers, len(shards), seen)
        elif workers.alone(len(shards)):
            pool = _Here(setup)
        else:
            pool = _Processes(setup, workers, len(shards))
        done = _done(pool, shards)
        yield from done if what is None else track(done, len(shards), what)


@contextmanager
def _token(folder: Path) -> Iterator[Path]:
    """A file in ``folder`` that no other folder has."""
    path = folder / f".{secrets.token_hex(6)}.part"
    path.touch()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def check_all_done(failed: dict[str, str], what: str, where: Path) -> None:
    """Raise an error if shards have failed.

    Args:
        failed: Reasons by the name of a shard.
        what: What a shard is made of, in the plural.
        where: Folder of the others.

    Raises:
        RequestError: The first five are named.
    """
    if not failed:
        return
    named = [f"{name}: {why}" for name, why in list(failed.items())[:5]]
    counted = f"{len(failed)} {what}" if len(failed) > 1 else f"1 {what.removesuffix('s')}"
    more = f"{counted} failed; all others are in '{where}', and the same command makes only these"
    raise RequestError([*named, more])


def _done(pool: _Pool, shards: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """Give the shards of a pool to its workers until all are done or have failed."""
    todo = deque((index, 1) for index in range(len(shards)))
    starting: set[Any] = {pool.start() for _ in range(pool.count)}
    idle: list[Any] = []
    busy: dict[Any, tuple[int, int]] = {}
    unusable: list[str] = []
    deaths = 0  # since a shard was done
    try:
        while todo or busy:
            while todo and idle:
                index, attempt = todo.popleft()
                worker = idle.pop()
                busy[worker] = index, attempt
                worker.give(shards[index])
            if not busy and not starting:
                raise RequestError(dict.fromkeys(unusable) or ["no worker is left"])
            for worker, kind, value in pool.wait([*busy, *starting]):
                if worker in starting:
                    starting.remove(worker)
                    if kind == "ready":
                        idle.append(worker)
                    else:
                        worker.close()
                        unusable.append(value)
                        print(f"a worker cannot be used: {value}", file=sys.stderr)
                    continue
                index, attempt = busy.pop(worker)
                if kind == "died":
                    worker.close()
                    deaths += 1
                    if deaths > ATTEMPTS * pool.count:
                        raise RequestError([f"workers die, one after the other: {value}"])
                    starting.add(pool.start())
                else:
                    idle.append(worker)
                if kind == "done":
                    deaths = 0
                    yield index, value
                elif kind in ("again", "died") and attempt < ATTEMPTS:
                    todo.append((index, attempt + 1))
                else:
                    yield index, Failed(value)
    finally:
        for worker in (*idle, *busy, *starting):
            worker.close()


class _Handle(Protocol):
    """A worker as its pool sees it."""

    def give(self, shard: Any) -> None: ...

    def close(self) -> None: ...


class _Pool(Protocol):
    """Workers of one kind. ``wait`` returns what some of them have said, at least one.

    They say ``ready``, ``unusable``, ``done``, ``failed``, ``again`` (failed for a reason that may pass) or
    ``died``, with the result or the reason.
    """

    count: int

    def start(self) -> Any: ...

    def wait(self, handles: list[Any]) -> list[tuple[Any, str, Any]]: ...


class _Work(Generic[S, R]):
    """The function that does a shard, with its exceptions as answers."""

    def __init__(self, setup: Setup[S, R], neighbours: int) -> None:
        self._do = setup(neighbours)

    def answer(self, shard: S) -> tuple[str, Any]:
        """What came of a shard: its result, or the reason why it failed."""
        try:
            return "done", self._do(shard)
        except Exception as error:
            lasting = isinstance(error, UserError) or is_full(error)
            return "failed" if lasting else "again", _said(error)


def _said(error: BaseException) -> str:
    if isinstance(error, RequestError):
        return "; ".join(error.problems)
    if is_full(error):
        return f"the disk of {socket.gethostname()} is full ({reason(error)})"
    named = isinstance(error, OSError | UserError | FloatingPointError)
    return reason(error) if named else f"{type(error).__name__}: {reason(error)}"


def _devices(gpu: bool) -> int:
    if gpu:
        import torch

        return max(1, torch.cuda.device_count())
    return os.cpu_count() or 1


class _Here:
    """This process as the only worker."""

    count = 1

    def __init__(self, setup: Setup[Any, Any]) -> None:
        self._work, self._said = _Work(setup, 1), [("ready", None)]

    def start(self) -> _Here:
        return self

    def give(self, shard: Any) -> None:
        self._said.append(self._work.answer(shard))

    def wait(self, handles: list[Any]) -> list[tuple[Any, str, Any]]:
        return [(self, *self._said.pop())]

    def close(self) -> None:
        """Nothing to stop."""


class _Processes:
    """Processes of this machine. Each has a pipe of its own, so a killed one takes only its shard with it."""

    def __init__(self, setup: Setup[Any, Any], workers: Workers, shards: int) -> None:
        self.count = workers.of(shards)
        self._setup, self._gpu, self._started = pickle.dumps((setup, self.count)), workers.gpu, 0

    def start(self) -> _Process:
        """Start a process; it says "ready" when it is set up."""
        environment = {}
        if self._gpu:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(_devices(gpu=True))))
            known = visible.split(",")
            environment["CUDA_VISIBLE_DEVICES"] = known[self._started % len(known)]
        elif "OMP_NUM_THREADS" not in os.environ:
            environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // self.count))
        self._started += 1
        return _Process(self._setup, environment)

    def wait(self, handles: list[_Process]) -> list[tuple[_Process, str, Any]]:
        """Wait until a process has said something or has died."""
        by_pipe: dict[Any, _Process] = {handle.pipe: handle for handle in handles}
        return [(by_pipe[pipe], *by_pipe[pipe].said()) for pipe in wait(list(by_pipe))]


class _Process:
    def __init__(self, setup: bytes, environment: dict[str, str]) -> None:
        # Spawned: forking a process in which torch or OpenCV has started threads can hang.
        context = multiprocessing.get_context("spawn")
        self.pipe, its_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(its_end, setup, environment), daemon=True)
        self._process.start()
        its_end.close()

    def give(self, shard: Any) -> None:
        with suppress(OSError):  # it has died while it was idle, which ``said`` notices
            self.pipe.send(shard)

    def said(self) -> tuple[str, Any]:
        try:
            kind, value = self.pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode or 0
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
            return "died", f"the worker died ({how}); the system kills processes when memory runs out"
        return kind, value

    def close(self) -> None:
        self.pipe.close()
        self._process.terminate()
        self._process.join()


def _serve(pipe: Connection, setup: bytes, environment: dict[str, str]) -> None:
    """What a worker process does, until its pipe is closed: also if this happens because its parent died."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its workers
    os.environ.update(environment)  # before libraries that read it are imported
    try:
        make, neighbours = pickle.loads(setup)
        work: _Work[Any, Any] = _Work(make, neighbours)
    except Exception as error:
        pipe.send(("unusable", _said(error)))
        return
    pipe.send(("ready", None))
    while True:
        try:
            shard = pipe.recv()
        except EOFError:
            return
        answer = work.answer(shard)
        try:
            pipe.send(answer)
        except OSError:  # the parent is gone
            return


class _Ray:
    """Actors of a Ray cluster."""

    def __init__(self, setup: Setup[Any, Any], workers: Workers, shards: int, shared: Iterable[Path]) -> None:
        assert workers.ray is not None
        self.ray = _connected(workers.ray)
        resources = self.ray.cluster_resources()
        gpu = "GPU" in resources if workers.gpu is None else workers.gpu
        kind = "GPU" if gpu else "CPU"
        there = int(resources.get(kind, 0))
        if not there:
            raise RequestError([f"the Ray cluster at '{workers.ray}' has no {kind}; add machines that have"])
        self.count = max(1, min(workers.count or there, shards))
        self._actor = self.ray.remote(_Actor).options(num_cpus=1, num_gpus=int(gpu))
        paths = tuple(str(path.resolve()) for path in shared)
        self._setup = pickle.dumps(setup), self.count, paths, code_digest(), Path.cwd()

    def start(self) -> _RayActor:
        return _RayActor(self.ray, self._actor.remote(*self._setup))

    def wait(self, handles: list[_RayActor]) -> list[tuple[_RayActor, str, Any]]:
        """Wait until an actor has answered or has died."""
        by_answer = {handle.answer: handle for handle in handles}
        while True:
            done, _ = self.ray.wait(list(by_answer), timeout=_TOLD_S)
            if done:
                return [(by_answer[one], *by_answer[one].said()) for one in done]
            if all(handle.starting for handle in handles):
                print("the Ray cluster has no room for a worker yet: waiting", file=sys.stderr)


class _RayActor:
    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor, self.starting = ray, actor, True
        self.answer = actor.ready.remote()

    def give(self, shard: Any) -> None:
        self.starting, self.answer = False, self._actor.answer.remote(shard)

    def said(self) -> tuple[str, Any]:
        try:
            kind, value = self._ray.get(self.answer)
        except self._ray.exceptions.RayError as error:
            return "died", f"the worker died ({_cause(error)})"
        return kind, value

    def close(self) -> None:
        self._ray.kill(self._actor)


class _Actor:
    """A worker in a Ray actor; Ray imports it from this package, which must be on each machine."""

    def __init__(self, setup: bytes, count: int, shared: tuple[str, ...], code: str, folder: Path) -> None:
        self._given = setup, count, shared, code
        self._work: Any = None
        with suppress(OSError):  # relative paths are those of the calling process, if this machine has them
            os.chdir(folder)

    def ready(self) -> tuple[str, Any]:
        """Set the worker up, after a look at what it needs."""
        setup, count, shared, code = self._given
        here = socket.gethostname()
        if code_digest() != code:
            return "unusable", f"{here} has another version of kinetophone; install the same one everywhere"
        for path in shared:
            if not Path(path).exists():
                return "unusable", (
                    f"{here} does not see '{Path(path).parent}' as this machine does; "
                    "name folders that all machines share under the same path"
                )
        try:
            self._work = _Work(pickle.loads(setup), min(count, os.cpu_count() or 1))
        except Exception as error:
            return "unusable", f"{here}: {_said(error)}"
        return "ready", None

    def answer(self, shard: Any) -> tuple[str, Any]:
        """What came of a shard."""
        found: tuple[str, Any] = self._work.answer(shard)
        return found


def _connected(address: str) -> Any:
    """Ray, connected to a cluster."""
    try:
        import ray
    except ImportError:
        raise RequestError(["--ray needs Ray: pip install 'kinetophone[ray]'"]) from None
    if ray.is_initialized():
        return ray
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    try:
        if colon:  # Ray itself tries for minutes, and then ends the process
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises all kinds
        raise RequestError(
            [
                f"the Ray cluster at '{address}' cannot be used ({_cause(error)}); start it with ray start, "
                "with the same RAY_AUTH_TOKEN on all machines"
            ]
        ) from error
    return ray


def _cause(error: BaseException) -> str:
    """The last line of an error of Ray's, which has the cause; the others are a remote traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextmanager
def threads_restored() -> Iterator[None]:
    """A context that may change how many threads torch and OpenCV take; afterwards it is as before."""
    import cv2
    import torch

    kept = torch.get_num_threads(), cv2.getNumThreads()
    try:
        yield
    finally:
        torch.set_num_threads(kept[0])
        cv2.setNumThreads(kept[1])


@cache
def code_digest() -> str:
    """Hash of the package's code, which must be the same on all machines of a cluster."""
    root, hashed = Path(__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        hashed.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return hashed.hexdigest()

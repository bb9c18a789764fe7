"""What guards the server: whose requests it takes, what reads uploads, what it deletes."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinetophone.app import folder as folders
from kinetophone.app import reading
from kinetophone.app.folder import Sweeper, remove_leftovers
from kinetophone.app.origins import OwnOrigin
from kinetophone.app.reading import Reader
from kinetophone.app.uploads import Limits
from kinetophone.errors import MediaError
from kinetophone.media import Clip

HERE = "127.0.0.1:7860"


def cross_site(mode: str, destination: str) -> dict[str, str]:
    return {"sec-fetch-site": "cross-site", "sec-fetch-mode": mode, "sec-fetch-dest": destination}


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({"host": HERE}, False),  # a program
        ({"host": HERE, "origin": f"http://{HERE}", "sec-fetch-site": "same-origin"}, False),
        ({"host": "localhost:7860", "origin": "http://localhost:7860"}, False),
        ({"host": HERE, "sec-fetch-site": "none", "sec-fetch-mode": "navigate"}, False),
        # A link on another site may lead here.
        ({"host": HERE, **cross_site("navigate", "document")}, False),
        ({"host": HERE, "origin": "https://evil.example"}, True),
        ({"host": HERE, "origin": "null"}, True),
        ({"host": HERE, "origin": "http://127.0.0.1:8000"}, True),
        ({"host": HERE, "origin": f"http://{HERE}.evil.example"}, True),
        ({"host": HERE, **cross_site("no-cors", "image")}, True),
        ({"host": HERE, **cross_site("navigate", "iframe")}, True),
        ({"host": "evil.example"}, True),  # a name that was made to point here
        ({"host": "evil.example:7860", "origin": "http://evil.example:7860"}, True),
        ({"host": "[::1"}, True),
        ({}, True),
    ],
)  # fmt: skip
def test_who_is_refused_on_a_loopback_address(headers: dict[str, str], refused: bool) -> None:
    assert (OwnOrigin(None, "127.0.0.1").refusal(headers) is not None) == refused


def test_on_other_addresses_any_name_may_be_the_servers() -> None:
    guard = OwnOrigin(None, "0.0.0.0")
    assert guard.refusal({"host": "studio.local:7860", "origin": "http://studio.local:7860"}) is None
    assert guard.refusal({"host": "studio.local:7860", "origin": "http://evil.example"}) is not None
    behind = {"host": HERE, "x-forwarded-host": "demo.example", "origin": "https://demo.example"}
    assert guard.refusal(behind) is None


def video_file(path: Path) -> Path:
    return Clip(np.zeros((8, 16, 16, 3), np.uint8), 8, np.zeros(8000, np.float32), 8000).save(path)


def test_uploads_are_read_in_another_process_that_a_job_can_end(tmp_path: Path) -> None:
    reader = Reader(Limits())
    path = video_file(tmp_path / "a.mp4")
    assert reader.read(path, "clip", lambda _: None).video.shape == (8, 16, 16, 3)
    first = reader._process.pid
    assert first != os.getpid()
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no film")
    with pytest.raises(MediaError, match=r"^'bad\.mp4' cannot be read as media"):
        reader.read(bad, "clip", lambda _: None)
    assert reader._process.pid == first  # a refusal costs nothing

    class Ended(BaseException):
        pass

    def end(_: None) -> None:
        raise Ended

    # A process that hangs: it is stopped, and so never answers.
    os.kill(first, signal.SIGSTOP)
    with pytest.raises(Ended):
        reader.read(path, "clip", end)
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    assert len(reader.read(path, "clip", lambda _: None).video) == 8  # by another one
    os.kill(reader._process.pid, signal.SIGSTOP)
    second = reader._process.pid

    def crash(_: None) -> None:
        os.kill(second, signal.SIGKILL)  # as a decoder that ends it would

    with pytest.raises(MediaError, match=r"^'a\.mp4' crashed the process that read it"):
        reader.read(path, "clip", crash)
    reader.close()


def test_a_reader_has_no_more_memory_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    limits: list[Any] = []
    monkeypatch.setattr(resource, "setrlimit", lambda *given: limits.append(given))

    class Closed:
        def recv(self) -> None:
            raise EOFError

    reading._serve(Closed(), Limits())  # type: ignore[arg-type]
    assert limits == [(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))]


def test_files_are_deleted_in_time_and_the_pages_own_stay(tmp_path: Path) -> None:
    files = tmp_path / "files"
    (files / "own").mkdir(parents=True)
    (files / "own" / "example.mp4").touch()
    old = time.time() - 100
    os.utime(files / "own" / "example.mp4", (old, old))
    sweeper = Sweeper((files,), kept_s=50)
    (files / "abc").mkdir()
    (files / "abc" / "old.mp4").touch()
    os.utime(files / "abc" / "old.mp4", (old, old))
    (files / "new.mp4").touch()
    sweeper.sweep()
    assert sorted(path.name for path in files.rglob("*")) == ["abc", "example.mp4", "new.mp4", "own"]
    os.utime(files / "abc", (old, old))
    sweeper.sweep()
    assert not (files / "abc").exists()
    sweeper.stop()


HOLD = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from kinetophone.app.folder import server_folder
with server_folder() as folder:
    (folder / "upload.mp4").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_server_left_goes_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]

    def start() -> tuple[subprocess.Popen[str], Path]:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        return process, Path(process.stdout.readline().strip())

    killed, left = start()
    killed.kill()
    killed.communicate()
    assert (left / "upload.mp4").exists()
    living, used = start()
    assert not left.exists()
    monkeypatch.setattr(folders.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / "kinetophone-app-of-somebody").mkdir()  # without a lock it is none of ours
    remove_leftovers()
    assert used.exists()
    living.communicate("")
    assert not used.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["kinetophone-app-of-somebody"]


@pytest.mark.parametrize(
    ("number", "begun"), [(errno.ENOSPC, False), (errno.ENOSPC, True), (errno.EIO, False)]
)
def test_a_full_disk_is_said_while_it_can_be(number: int, begun: bool) -> None:
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if begun:
            await send({"type": "http.response.start"})
        raise OSError(number, os.strerror(number))

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "headers": [(b"host", b"127.0.0.1:7860")]}
    asked = OwnOrigin(app, "127.0.0.1")(scope, None, send)
    if number == errno.ENOSPC and not begun:
        asyncio.run(asked)
        assert (sent[0]["status"], sent[1]["body"]) == (507, b"the server's disk is full; try again later")
    else:
        with pytest.raises(OSError, match=os.strerror(number)):
            asyncio.run(asked)

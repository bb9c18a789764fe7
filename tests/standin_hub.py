"""A stand-in for the Hugging Face Hub: its routes for reading and for committing, over a folder."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kinetophone

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_of_someone_who_may_write"


class Hub(BaseHTTPRequestHandler):
    """``/api/models/owner/name[/revision/…]`` and ``/owner/name/resolve/<revision>/<file>``."""

    root: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self._describe("/".join(parts[2:4]), parts[5:], parts[4:5], body)
        if not (self.root / "/".join(parts[:2])).is_dir():
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, body)
        if (self.root / "/".join(parts[:2]) / ".gated").exists():  # such a one is described to anyone
            return self._send(403, b"", {"X-Error-Code": "GatedRepo"}, body)
        file = self.root / "/".join(parts[:2]) / "/".join(parts[4:])
        if not file.is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
        self.asked.append("/".join(parts[4:]))
        data = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        return self._send(200, data, headers, body)

    def _describe(self, name: str, rest: list[str], kind: list[str], body: bool) -> None:
        folder = self.root / name
        if not folder.is_dir():
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
        if kind == ["revision"] and rest not in (["main"], [COMMIT]):
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
        files = sorted(f for f in folder.rglob("*") if f.is_file())
        if kind == ["tree"]:
            rows = [
                {"type": "file", "path": str(f.relative_to(folder)), "size": f.stat().st_size, "oid": "0"}
                for f in files
            ]
            return self._send(200, json.dumps(rows).encode(), {}, body)
        if kind == ["auth-check"] and (folder / ".gated").exists():
            return self._send(403, b"{}", {"X-Error-Code": "GatedRepo"}, body)
        siblings = [{"rfilename": str(f.relative_to(folder)), "size": f.stat().st_size} for f in files]
        described = {"id": name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
        return self._send(200, json.dumps(described).encode(), {}, body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        """Making a repository; checking a card; asking how to upload, and where to; committing."""
        content = self._content()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(403, b'{"error": "Forbidden"}', {}, True)
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts == ["api", "repos", "create"]:
            asked = json.loads(content)
            name = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
            (self.root / name).mkdir(parents=True, exist_ok=True)
            return self._json({"url": self._url(name), "name": name})
        if parts == ["api", "validate-yaml"]:
            return self._json({"errors": [], "warnings": []})
        if parts[-2:] == ["objects", "batch"]:
            objects = [self._place(wanted) for wanted in json.loads(content)["objects"]]
            return self._json({"transfer": "basic", "objects": objects})
        name = "/".join(parts[2:4])
        if parts[4] == "preupload":
            files = [
                {"path": f["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular"}
                for f in json.loads(content)["files"]
            ]  # fmt: skip
            return self._json({"files": files})
        for line in content.splitlines():
            self._commit(self.root / name, json.loads(line))
        address = self._url(f"{name}/commit/{COMMIT}")
        return self._json({"success": True, "commitOid": COMMIT, "commitUrl": address, "hookOutput": ""})

    def do_PUT(self) -> None:
        """The content of a large file, by its hash."""
        (self.root / "objects").mkdir(exist_ok=True)
        (self.root / "objects" / self.path.rsplit("/", 1)[1]).write_bytes(self._content())
        self._send(200, b"", {}, True)

    def _commit(self, folder: Path, line: dict[str, Any]) -> None:
        value = line["value"]
        if line["key"] == "header":
            return
        file = folder / value["path"]
        file.parent.mkdir(parents=True, exist_ok=True)
        if line["key"] == "lfsFile":
            data = (self.root / "objects" / value["oid"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == value["oid"]
        else:
            data = base64.b64decode(value["content"])
        file.write_bytes(data)

    def _place(self, wanted: dict[str, Any]) -> dict[str, Any]:
        return {**wanted, "actions": {"upload": {"href": self._url(f"objects/{wanted['oid']}")}}}

    def _url(self, path: str) -> str:
        return f"http://{self.headers['Host']}/{path}"

    def _content(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _json(self, answer: dict[str, Any]) -> None:
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"}, True)


@contextmanager
def serving(root: Path, port: int = 0) -> Iterator[tuple[str, list[str]]]:
    """Serve the repositories under ``root``: the address, and the files that were asked for."""
    handler = type("Handler", (Hub,), {"root": root, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.asked
    finally:
        server.shutdown()
        server.server_close()


# Runs what it is sent, a line each: code and its arguments; what that printed is the answer.
_OTHER = """
import contextlib, io, json, sys, traceback
for line in sys.stdin:
    code, *sys.argv[1:] = json.loads(line)
    printed, failure = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        try:
            exec(code, {"__name__": "__main__"})
        except BaseException:
            failure = traceback.format_exc()
    print(json.dumps([printed.getvalue(), failure]), flush=True)
"""


class Elsewhere:
    """A process whose Hub is a stand-in, for everything that a test process asks of the Hub.

    It is a process of its own since the Hub's address is read when its library is imported, and one for all
    since that takes seconds. Repositories are folders ``root/owner/name``; no two tests name theirs alike:
    what was fetched once stays fetched.
    """

    def __init__(self, folder: Path) -> None:
        self.root, self.home = folder / "hub", folder / "home"
        for made in (self.root, self.home):
            made.mkdir()
        with serving(self.root) as (self.endpoint, _):
            pass
        environment = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HOME": str(self.home),
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(Path(kinetophone.__file__).parents[1]),
            "OMP_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _OTHER],
            env=environment, cwd=self.home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def online(self) -> AbstractContextManager[tuple[str, list[str]]]:
        """Inside, the Hub can be reached; see :func:`serving`."""
        return serving(self.root, int(self.endpoint.rsplit(":", 1)[1]))

    def run(self, code: str, *arguments: str) -> list[str]:
        """The lines that ``code`` prints."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([code, *arguments]) + "\n")
        self._process.stdin.flush()
        printed, failure = json.loads(self._process.stdout.readline())
        assert failure is None, failure
        return printed.strip().splitlines()

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

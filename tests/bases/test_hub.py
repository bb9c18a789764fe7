"""Models from the Hub: a real HTTP server with the Hub's routes serves tiny models; it can also be away."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiny
from kinetophone.bases import hub
from kinetophone.errors import RequestError

COMMIT = "0123456789abcdef0123456789abcdef01234567"

# Run in a process of its own: the Hub's address is read when its library is imported.
LOAD = """
import sys
from kinetophone.bases.load import load_audio_base, load_video_base
from kinetophone.errors import RequestError
try:
    kind, name, *more = sys.argv[1:]
    base = (load_audio_base if kind == "audio" else load_video_base)(name, **dict(x.split("=") for x in more))
    print(type(base.unet).__name__, base.reference)
except RequestError as error:
    print("RequestError:", error)
"""


class _Hub(BaseHTTPRequestHandler):
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
        siblings = [{"rfilename": str(f.relative_to(folder))} for f in files]
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


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    root = tmp_path_factory.mktemp("hub")
    tiny.save_all(root / "tiny")
    # What such repositories have besides: other precisions, other formats, pictures, a whole checkpoint.
    unet = root / "tiny" / "image" / "unet"
    (unet / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"half")
    (unet / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    (root / "tiny" / "image" / "everything.ckpt").write_bytes(b"pickle")
    (root / "tiny" / "image" / "picture.png").write_bytes(b"picture")
    pickled = root / "tiny" / "pickled"
    tiny.save(tiny.audioldm(), pickled)
    weights = pickled / "vocoder" / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    handler = type("Handler", (_Hub,), {"root": root, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler.asked
    server.shutdown()
    server.server_close()


def load(endpoint: str, cache: Path, *arguments: str) -> str:
    """What loading a base prints in a process that knows no other Hub."""
    environment = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "PATH": "/usr/bin:/bin",
        "HOME": str(cache),
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD, *arguments],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_a_pair_comes_from_the_hub_and_then_from_the_cache(served, tmp_path) -> None:
    endpoint, asked = served
    printed = load(endpoint, tmp_path, "video", "tiny/image", "motion_adapter=tiny/adapter")
    assert printed.startswith("UNetMotionModel")
    assert f"'revision': '{COMMIT}', 'motion_adapter': 'tiny/adapter'" in printed
    # Only what is needed came over the wire.
    assert not {f for f in asked if f.endswith((".bin", ".ckpt", ".png")) or "fp16" in f}
    assert "unet/diffusion_pytorch_model.safetensors" in asked
    away = load("http://127.0.0.1:9", tmp_path, "video", "tiny/image", "motion_adapter=tiny/adapter")
    assert away == printed


def test_what_the_hub_does_not_have_is_said_in_one_line(served, tmp_path) -> None:
    endpoint, _ = served
    assert load(endpoint, tmp_path, "audio", "tiny/nothing").startswith(
        "RequestError: the Hub has no model 'tiny/nothing'"
    )
    assert "has no revision 'v9'" in load(endpoint, tmp_path, "audio", "tiny/audioldm", "revision=v9")
    printed = load(endpoint, tmp_path, "audio", "tiny/pickled")
    assert printed.startswith("RequestError: 'tiny/pickled' has only pickled weights for some parts")


def test_offline_without_a_copy_is_said_in_one_line(tmp_path) -> None:
    printed = load("http://127.0.0.1:9", tmp_path, "audio", "cvssp/audioldm-m-full")
    assert printed.startswith("RequestError: the Hub cannot be reached for 'cvssp/audioldm-m-full'")
    assert printed.endswith("connect, or give a folder that holds it")


@pytest.mark.parametrize("name", ["no/such/folder", "nothing", "/nowhere/at all", "../up"])
def test_what_is_neither_a_folder_nor_an_id(name: str) -> None:
    with pytest.raises(RequestError, match="is neither a folder nor a Hub id like 'owner/name'"):
        hub.locate(name, ["unet"])

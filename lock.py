"""Writes the hashes of requirements.lock anew: python lock.py, after a version in it was changed.

A version keeps its place; below it are the SHA-256 of all its files on PyPI that a supported Python on Linux,
macOS or Windows could install. torch stands in requirements-torch.txt, without: its CPU builds are others
than PyPI's, and each is right.
"""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

LOCK = Path(__file__).with_name("requirements.lock")
_PYTHONS = ("cp311", "cp312", "cp313", "abi3", "py3", "py2.py3")
_PLATFORMS = re.compile(r"-any\.|manylinux.*(x86_64|aarch64)|macosx|win_amd64")


def hashes(name: str, version: str) -> list[str]:
    """SHA-256 of the files of a version."""
    address = f"https://pypi.org/simple/{re.sub(r'[-_.]+', '-', name).lower()}/"
    request = urllib.request.Request(address, headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        files = json.load(answer)["files"]
    found = set()
    for file in files:
        parts = file["filename"].lower().removesuffix(".tar.gz").split("-")
        if version not in (parts[1], parts[-1]):
            continue
        is_wheel = file["filename"].endswith(".whl")
        fits = any(python in parts[-3:][0].split(".") or python in parts[-2] for python in _PYTHONS)
        if not is_wheel or (fits and _PLATFORMS.search(file["filename"])):
            found.add(file["hashes"]["sha256"])
    return sorted(found)


def main() -> None:
    """Write the file."""
    lines = []
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        if line.startswith("    --hash"):
            continue
        pin = line.removesuffix(" \\")
        lines.append(pin)
        if match := re.match(r"([A-Za-z0-9._-]+)==([^ ;]+)", pin):
            found = hashes(*match.groups())
            if not found:
                raise SystemExit(f"PyPI has no file of {pin}")
            lines[-1] += " \\"
            lines += [f"    --hash=sha256:{digest} \\" for digest in found]
            lines[-1] = lines[-1].removesuffix(" \\")
    LOCK.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""The rules of the house: which room may import which, and that there are no circles."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kinetophone
from kinetophone.training.recipe import STAGES

ROOT = Path(kinetophone.__file__).parent
# What each room may import beside itself and the modules that belong to none (``av``, ``errors``, …). Rooms
# are imported by those below them in this list alone, so there are no circles among rooms.
ROOMS: dict[str, set[str]] = {
    "media": set(),
    "diffusion": set(),
    "hub": {"diffusion"},
    "bases": {"media", "diffusion", "hub"},
    "coupling": {"bases", "diffusion"},
    "data": {"media", "bases"},
    "metrics": {"media", "data", "hub"},
    "bundle": {"media", "diffusion", "hub", "bases", "coupling", "data"},
    "tasks": {"media", "diffusion", "bundle"},
    "pipeline": {"media", "diffusion", "bundle", "tasks"},
    "reference": {"diffusion", "hub", "bases", "coupling", "bundle"},
    "training": {
        "media", "diffusion", "hub", "bases", "coupling", "data", "metrics", "bundle", "reference"
    },
    "hits": {
        "media", "diffusion", "hub", "bases", "data", "metrics", "tasks", "training"
    },
    "study": {
        "media", "diffusion", "coupling", "data", "metrics", "bundle", "pipeline", "training", "hits"
    },
    "doctor": {"diffusion", "hub", "bases", "coupling", "bundle", "pipeline"},
    "app": {"media", "diffusion", "metrics", "tasks", "pipeline", "hits"},
    "cli": {
        "media", "bases", "data", "metrics", "bundle", "tasks", "pipeline", "reference", "training", "hits",
        "study", "doctor", "app",
    },
}  # fmt: skip
FREE = {  # import no room
    "av", "errors", "files", "keys", "locks", "precision", "progress", "text", "workers",
}  # fmt: skip


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports(path: Path, *, at_once: bool = False) -> Iterator[tuple[str, int]]:
    """Modules that a file imports, not for its types alone; ``at_once``: when it is imported itself."""
    for_types: set[int] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if at_once:
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        inner = [node for node in ast.walk(tree) if isinstance(node, functions)]
        for_types |= {id(child) for node in inner for child in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for_types |= {id(child) for child in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner if inner in MODULES else node.module), node.lineno


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_rooms_import_what_they_may() -> None:
    broken = [
        f"{path.relative_to(ROOT)}:{line} imports {imported}"
        for module, path in MODULES.items()
        for imported, line in imports(path)
        if imported.startswith("kinetophone.")
        and (room := room_of(module)) not in ("", "__main__")
        and (other := room_of(imported)) not in {room, *FREE}
        and other not in ROOMS.get(room, set())
    ]
    assert not broken, "\n".join(broken)


def test_the_rooms_are_those_there_are() -> None:
    assert {room_of(module) for module in MODULES} - {"", "__main__"} == ROOMS.keys() | FREE


def test_a_room_is_imported_by_those_below_it_alone() -> None:
    order = list(ROOMS)
    for room, others in ROOMS.items():
        assert all(order.index(other) < order.index(room) for other in others), room


def test_no_module_is_in_a_circle() -> None:
    edges = {
        module: {name for name, _ in imports(path, at_once=True) if name in MODULES and name != module}
        for module, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module not in done:
            for imported in sorted(edges[module]):
                visit(imported, (*way, module))
            done.add(module)

    for module in edges:
        visit(module, ())


# Names under which diffusers and transformers have networks.
NETWORKS = ("UNet", "Transformer", "Autoencoder", "TextModel", "Encoder", "HifiGan", "DiT", "MotionAdapter")


@pytest.mark.parametrize("room", ["coupling", "diffusion", "tasks"])
def test_no_class_of_networks_is_named_where_any_base_will_do(room: str) -> None:
    for module, path in MODULES.items():
        if room_of(module) != room:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or node.module is None:
                continue
            if node.module.startswith(("diffusers", "transformers")):
                named = [alias.name for alias in node.names if any(part in alias.name for part in NETWORKS)]
                assert not named, f"{module} names {named}"
            if node.module.startswith("kinetophone.bases"):
                assert node.module == "kinetophone.bases.protocol", module


CODECS_AND_PLOTS = {
    "av", "librosa", "soundfile", "soxr", "matplotlib", "gradio", "torchvision", "torchaudio",
}  # fmt: skip


def test_training_needs_no_codecs_and_no_plots() -> None:
    pending = {"kinetophone.training.loop", *(f"kinetophone.{info.module}" for info in STAGES.values())}
    done: set[str] = set()
    while pending:
        module = pending.pop()
        done.add(module)
        imported = {name for name, _ in imports(MODULES[module], at_once=True)}
        found = {name.split(".")[0] for name in imported} & CODECS_AND_PLOTS
        assert not found, f"{module} imports {found}"
        pending |= {name for one in imported for name in (one, *_packages(one)) if name in MODULES} - done
    assert "kinetophone.coupling.model" in done


def _packages(module: str) -> Iterator[str]:
    """The packages that are imported before a module."""
    while "." in module:
        module = module.rpartition(".")[0]
        yield module


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = ["torch", "numpy", "diffusers", "transformers", "scipy", "cv2", "av", "librosa"]
    code = f"import sys, kinetophone, kinetophone.cli; print([n for n in {heavy!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

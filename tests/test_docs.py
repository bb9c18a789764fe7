"""Every block of code in the documents runs, at tiny settings, or is listed here with why it can't."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from unittest.mock import patch

import pytest
from typer.testing import CliRunner

from kinetophone import Kinetophone
from kinetophone.bundle.spec import find_bundle
from kinetophone.cli import app
from kinetophone.coupling.blocks import BLOCKS
from kinetophone.diffusion.settings import Settings
from kinetophone.diffusion.steppers import STEPPERS
from kinetophone.hits.write import write_split
from kinetophone.metrics.registry import all_metrics
from kinetophone.training.dry_run import estimate
from kinetophone.training.recipe import load_recipe

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    (*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "recipes" / "README.md")
)
LANGUAGES = ("sh", "python", "yaml")  # of fenced blocks; indented ones are commands if they start like one
COMMANDS = ("kinetophone", ".venv/bin/kinetophone", "make", "git", "pip", "python", "accelerate", "curl", "$")

# What can't run here, and why: the first pattern found in a block or command.
NOT_RUN = {
    r"git clone|^make |pip install": "setting up is what continuous integration does before the tests",
    r"kinetophone app|127\.0\.0\.1:7860": "tests/app/test_server.py runs it, against a server",
    r"--ray |ray start": "needs a cluster: tests/test_workers.py starts one",
    r"convert reference|runs/published": "needs the authors' checkpoint",
    r"cvssp/|SG161222/|guoyww/|Wan-AI/|stabilityai/": "needs the Hub",
    r"convert metric|--i3d |--clap MODEL": "needs networks that are not in the repository",
    r"accelerate launch": "needs several processes; tests/training/test_processes.py does it small",
    r"benchmarks/|tests/fuzz/|reference\.golden": "takes minutes: run by hand, figures in the lab book",
    r"kinetophone (gamma|experiment|limits) ": "takes minutes to days; tests/study does it small",
    r"--gamma auto": "needs a bundle that kinetophone gamma was run on",
    r"--generate \d+": "takes minutes: run by hand, figures in docs/results/",
    r"recipes/[\w-]+\.yaml": "trains for minutes, or stands for any recipe",
}

# Names that stand for the reader's own files and folders.
STAND_INS = {"VIDEOS": "videos", "DIR_A": "videos", "DIR_B": "videos", "DIR": "videos", "TRUE": "videos"}


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    """Fenced blocks, and indented ones that are commands."""
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        start = number
        if fence := re.match(r"```(\w*)", lines[number]):
            while not lines[number + 1].startswith("```"):
                number += 1
            assert fence[1] in LANGUAGES, (
                f"{page}:{start + 1}: a fence names its language, one of {LANGUAGES}"
            )
            yield Block(page, start + 1, fence[1], "\n".join(lines[start + 1 : number + 1]))
            number += 2
            continue
        if lines[number].startswith("    ") and not (lines[number - 1].strip() if number else ""):
            while number + 1 < len(lines) and lines[number + 1].startswith("    "):
                number += 1
            text = "\n".join(line[4:] for line in lines[start : number + 1])
            if text.startswith(COMMANDS):
                yield Block(page, start + 1, "sh", text)
        number += 1


def reason_not_to_run(text: str) -> str | None:
    return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, text, re.MULTILINE)), None)


def commands_of(block: Block) -> Iterator[str]:
    """Its command lines, continued ones joined; what a command printed is left out."""
    lines = block.text.replace("\\\n", " ").splitlines()
    transcript = lines[0].startswith("$ ")
    for line in lines:
        if transcript and not line.startswith("$ "):
            continue
        command = line.removeprefix("$ ").split("  #")[0].strip()
        if command and not command.startswith("#"):
            yield command


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sampling step, whatever a page asks for; a page loads each model once."""
    given = Settings.of.__func__  # type: ignore[attr-defined]
    few = classmethod(lambda cls, options: replace(given(cls, options), steps=1))
    monkeypatch.setattr(Settings, "of", few)
    load, loaded = Kinetophone.from_pretrained, {}

    def once(name: Any, *arguments: Any, **options: Any) -> Kinetophone:
        key = repr((name, arguments, options))
        if name != "hits":  # what a page writes may change
            return load(name, *arguments, **options)
        if key not in loaded:
            loaded[key] = load(name, *arguments, **options)
        return loaded[key]

    monkeypatch.setattr(Kinetophone, "from_pretrained", once)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: Path) -> Path:
    """A folder that holds only what the pages call the reader's: videos, a table of captions, two models."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wan").symlink_to(models / "wan")
    (tmp_path / "stable-audio").symlink_to(models / "stable_audio")
    write_split("train", 2, tmp_path / "videos")
    shutil.copy(tmp_path / "videos" / "captions.csv", tmp_path / "captions.csv")
    return tmp_path


def run_command(command: str) -> None:
    few = re.sub(r"--count \d+", "--count 2", command)
    few = re.sub(r"--size \d+", "--size 64", few)
    few = few.replace(" --device cuda", "")
    few = re.sub(r"--seconds \d\d+", "--seconds 8", few)  # three windows
    words = [STAND_INS.get(word, word) for word in shlex.split(few)]
    if words[0].removeprefix(".venv/bin/") != "kinetophone":
        pytest.fail(f"'{command}' is no command of kinetophone, and NOT_RUN does not say why it is not run")
    result = CliRunner().invoke(app, words[1:])
    assert result.exit_code == 0, f"{command}\n{result.output}\n{result.exception!r}"


def run_yaml(block: Block) -> None:
    """A file of settings is written under the name in its first line, with the fewest steps."""
    name = re.match(r"# (\S+\.yaml)", block.text)
    assert name, f"{block}: the first line of a YAML file is a comment with its name"
    text = re.sub(r", (sample_every|threads): \d+", "", block.text)
    text = re.sub(r"steps: \d+", "steps: 1, sample_every: 0, threads: 1", text)
    text = text.replace("device: cuda", "device: cpu")
    Path(name[1]).write_text(re.sub(r"batch_size: \d+", "batch_size: 2", text) + "\n", encoding="utf-8")


@pytest.fixture
def registries() -> Iterator[None]:
    """What a page adds to them is gone after it."""
    with patch.dict(STEPPERS), patch.dict(BLOCKS), patch.dict(all_metrics()):
        yield


@pytest.mark.usefixtures("tiny", "registries")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page_run_in_order(page: Path, place: Path) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    left_out = []
    for block in blocks_of(page):
        if block.language == "yaml":
            run_yaml(block)
        elif block.language == "python":
            if reason := reason_not_to_run(block.text):
                left_out.append(f"{block}: {reason}")
            else:
                exec(compile(block.text, str(block), "exec"), names)
        else:
            for command in commands_of(block):
                if reason := reason_not_to_run(command) or reason_not_to_run(block.text):
                    left_out.append(f"{block}: {reason}")
                else:
                    run_command(command)
    print("\n".join(["not run:", *dict.fromkeys(left_out)]))


def test_the_recipe_for_ones_own_clips_trains_a_coupling_as_small_as_its_bases(tmp_path: Path) -> None:
    block = next(b for b in blocks_of(ROOT / "docs" / "your-clips.md") if b.language == "yaml")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(block.text.replace("runs/bases", str(find_bundle("hits"))), encoding="utf-8")
    assert 3.5e6 < estimate(load_recipe(recipe)).trained < 3.7e6


@pytest.mark.usefixtures("tiny", "place")
def test_the_cells_of_the_notebook_run_in_order_and_hold_no_output() -> None:
    notebook = json.loads((ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for target in targets:
        if target.startswith(("http://", "https://", "data:")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors_of(file), f"{page}: {target}"


# Of a checkpoint, of a user, or made by a command.
_NOT_OURS = re.compile(r"NAME|STEP|[*<…]|docs/results/limits/?$|recipes/NAME")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_and_names_that_a_page_mentions_are_there(page: Path) -> None:
    if page.name == "experiments.md":  # a lab book: its entries name what was there then
        return
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:src|tests|docs|benchmarks|recipes)/[^\s`]+)`", text):
        assert _NOT_OURS.search(path) or (ROOT / path).exists(), f"{page}: {path}"
    for name in re.findall(r"(?:`|::: )(kinetophone(?:\.(?!json)\w+)+)(?:`|$)", text, re.MULTILINE):
        assert resolve_name(name) is not None, f"{page}: {name}"


def test_figures_are_what_the_scripts_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import figures
    import tables

    monkeypatch.setattr(figures, "IMAGES", tmp_path)
    figures.main()
    for drawn in tmp_path.iterdir():
        committed = ROOT / "docs" / "images" / drawn.name
        assert drawn.stat().st_size == pytest.approx(committed.stat().st_size, rel=0.05), drawn.name
    for name in tables.DOCUMENTS:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert tables.filled(text) == text, f"{name}: run docs/tables.py"


def test_every_page_is_in_the_contents() -> None:
    import yaml

    contents = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = set(re.findall(r"[\w-]+\.md", str(contents)))
    assert listed == {path.name for path in (ROOT / "docs").glob("*.md")}

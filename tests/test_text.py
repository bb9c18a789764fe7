"""The one reader of texts: encodings, and settings that are made to hurt."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinetophone.data.captions import read_list
from kinetophone.errors import RequestError, UserError
from kinetophone.metrics.sources import read_captions, read_truth
from kinetophone.tasks.request import Script
from kinetophone.text import decode_text, parse_json, read_json, read_text, read_yaml
from kinetophone.training.recipe import load_recipe

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32")


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff")))
def test_every_encoding_with_a_mark_is_read_and_utf8(text: str) -> None:
    for encoding in ENCODINGS:
        assert decode_text(text.encode(encoding), "it") == text


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_tables_scripts_and_times_of_any_program(tmp_path: Path, encoding: str, ending: str) -> None:
    path = tmp_path / "a.csv"

    def write(*lines: str) -> Path:
        path.write_bytes((ending.join(lines) + ending).encode(encoding))
        return path

    write("file,caption", "a.mp4,für Elise – 太鼓", 'b.mp4,"one, two"')
    assert [row.caption for row in read_list(path).rows] == ["für Elise – 太鼓", "one, two"]
    assert read_captions(path) == {"a.mp4": "für Elise – 太鼓", "b.mp4": "one, two"}
    assert Script.read(write("0 a drum", "4 ein Becken, größer")).lines == (
        (0, "a drum"),
        (4, "ein Becken, größer"),
    )
    write("0.5 metal hit", "1.25 wood hit")
    path.rename(tmp_path / "x_times.txt")
    assert read_truth(tmp_path) == {"x": [0.5, 1.25]}


@pytest.mark.parametrize("read", [read_list, read_captions, Script.read, load_recipe, read_json])
@pytest.mark.parametrize(
    "content",
    [
        "file,caption\na.mp4,für\n".encode("latin-1"),
        "file,caption\na.mp4,drum\n".encode("utf-16-le"),
        b"\xff\xfe\x00\xd8",
        b"0 a\n1 \x00\n",
        b"x",
    ],
)
def test_what_is_no_utf8_is_refused_in_a_line(tmp_path: Path, read: object, content: bytes) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:  # never a letter that stands for another
        read(path)  # type: ignore[operator]
    assert len(str(caught.value).splitlines()) == 1
    assert str(path) in str(caught.value)


def test_where_it_is_no_utf8_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("file,caption\na.mp4,drum\nb.mp4,für\n".encode("latin-1"))
    with pytest.raises(RequestError, match=r"is not UTF-8 \(line 3\): save it as UTF-8, in Excel as 'CSV"):
        read_list(path)


def test_what_is_no_text_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is a folder"):
        read_text(tmp_path)
    with pytest.raises(RequestError, match="does not exist"):
        read_text(tmp_path / "none.txt")
    with pytest.raises(RequestError, match=r"cannot be read|does not exist"):
        read_text(tmp_path / ("x" * 5000))
    with (tmp_path / "huge.txt").open("wb") as file:
        file.truncate(300_000_000)
    with pytest.raises(RequestError, match="is larger than 256 MB"):
        read_text(tmp_path / "huge.txt")


DEEP = 200_000
HURTFUL_YAML = {
    "aliases": ("a: &a [x, x]\nb: &b [*a, *a]\n", "the alias \\*a is not allowed; write it out \\(line 2\\)"),
    "itself": ("a: &a\n  b: *a\n", "the alias"),
    "twice": ("stage: audio\nstage: coupling\n", "the key 'stage' appears twice \\(line 2\\)"),
    "twice within": ("loop:\n  steps: 1\n  steps: 2\n", "the key 'steps' appears twice \\(line 3\\)"),
    "deep": ("[" * DEEP, "is nested too deeply"),
    "deep mappings": ("{a: " * DEEP, "is nested too deeply"),
    "code": ("!!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
    "tag": ("a: !include /etc/passwd\n", "could not determine a constructor"),
    "date": ("a: 2024-99-99\n", "is not valid YAML"),
    "unhashable": ("{[a]: b}: c\n", "is not valid YAML"),
    "open": ("a: [1, 2\n", "is not valid YAML: .* \\(line"),
    "control": ("a: \x07\n", "is not valid YAML"),
    "digits": ("a: " + "9" * 10_000 + "\n", "is not valid YAML"),
}


@pytest.mark.parametrize("name", HURTFUL_YAML)
def test_yaml_that_hurts_is_refused_in_a_line(tmp_path: Path, name: str) -> None:
    content, message = HURTFUL_YAML[name]
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    for read in (read_yaml, load_recipe):
        with pytest.raises(UserError, match=message) as caught:
            read(path)
        assert len(str(caught.value).splitlines()) == 1
        assert str(path) in str(caught.value)


HURTFUL_JSON = {
    "twice": ('{"fps": 8, "fps": 9}', "the key 'fps' appears twice"),
    "deep": ("[" * DEEP, "is nested too deeply"),
    "NaN": ('{"fps": NaN}', "NaN is not a finite number"),
    "Infinity": ('{"fps": -Infinity}', "-Infinity is not a finite number"),
    "too large": ('{"fps": 1e999}', "1e999 is not a finite number"),
    "digits": ('{"fps": ' + "9" * 10_000 + "}", "is not valid JSON"),
    "half a character": ('"\\ud800"', "is not valid JSON"),
    "empty": ("", "is not valid JSON"),
    "page": ("<html>", "is not valid JSON"),
}


@pytest.mark.parametrize("name", HURTFUL_JSON)
def test_json_that_hurts_is_refused_in_a_line(name: str) -> None:
    content, message = HURTFUL_JSON[name]
    with pytest.raises(RequestError, match=message) as caught:
        parse_json(content, "it")
    assert len(str(caught.value).splitlines()) == 1


def test_many_bad_lines_of_a_script_are_not_all_listed(tmp_path: Path) -> None:
    (tmp_path / "script.txt").write_text("drum\n" * 100)
    with pytest.raises(RequestError) as caught:
        Script.read(tmp_path / "script.txt")
    assert len(caught.value.problems) == 6
    assert caught.value.problems[-1].startswith("and 95 more lines of")

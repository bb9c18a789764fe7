"""Reading text files from users: tables, scripts, captions, JSON and YAML.

UTF-8 is the default; UTF-16 and UTF-32 are recognised by their byte order mark. Other encodings are refused,
because a wrong guess would put wrong characters into captions.
"""

from __future__ import annotations

import codecs
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kinetophone.errors import RequestError, reason

MOST_BYTES = 256_000_000  # enough for a table of millions of rows
_MOST_SETTINGS = 1_000_000  # bytes of a YAML file
_MOST_BRACKETS = 1000  # of a YAML file: the parser takes minutes on deep nesting
_MOST_DIGITS = 24
# UTF-32 comes before UTF-16, because its little-endian mark starts with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read_text(path: str | os.PathLike[str], *, most_bytes: int = MOST_BYTES) -> str:
    """The text of a file, with every line ending converted to a newline.

    Args:
        path: a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.
        most_bytes: larger files are refused.

    Raises:
        RequestError: There is no such file, it is too large, or it is in another encoding.
    """
    file = Path(path)
    try:
        if not file.is_file():
            raise RequestError([f"'{path}' {'is a folder' if file.is_dir() else 'does not exist'}"])
        if file.stat().st_size > most_bytes:
            raise RequestError([f"'{path}' is larger than {most_bytes / 1e6:g} MB; is it a text file?"])
        content = file.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError([f"'{path}' cannot be read: {reason(error)}"]) from None
    return decode_text(content, f"'{path}'").replace("\r\n", "\n").replace("\r", "\n")


def decode_text(content: bytes, name: str) -> str:
    """Decode ``content``; error messages call it ``name``. Raises the errors of :func:`read_text`."""
    mark, encoding = next(((m, e) for m, e in _MARKS if content.startswith(m)), (b"", "utf-8"))
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RequestError(
            [f"{name} is not {encoding.upper()} (line {line}): save it as UTF-8, in Excel as 'CSV UTF-8'"]
        ) from None
    if "\0" in text:
        raise RequestError(
            [f"{name} is not a text file, or UTF-16 without a byte order mark: save it as UTF-8"]
        )
    return text


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file. Raises the errors of :func:`read_text` and :func:`parse_json`."""
    return parse_json(read_text(path), f"'{path}'")


def parse_json(text: str, name: str) -> Any:
    """Parse a JSON text; error messages refer to it as ``name``.

    Raises:
        RequestError: It is not valid JSON, is nested too deeply, repeats a key, or has a number that is not
            finite or has too many digits.
    """
    try:
        found = json.loads(
            text,
            object_pairs_hook=_without_repeats,
            parse_constant=_finite,
            parse_float=_finite,
            parse_int=_whole,
        )
        if "\\ud" in text.lower():  # perhaps an unpaired surrogate, which UTF-8 cannot encode
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except RecursionError:
        raise RequestError([f"{name} is nested too deeply"]) from None
    except ValueError as error:
        raise RequestError([f"{name} is not valid JSON: {reason(error)}"]) from None


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """The content of a YAML file: plain values, lists and mappings.

    Raises:
        RequestError: It cannot be read (see :func:`read_text`), is not valid YAML, is nested too deeply,
            repeats a key, or has aliases, which can expand a small file to a huge value.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                event = self.peek_event()
                raise yaml.constructor.ConstructorError(
                    None, None, f"the alias *{event.anchor} is not allowed; write it out", event.start_mark
                )
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys: set[str] = set()
            for key, _ in node.value:
                if str(key.value) in keys:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key '{key.value}' appears twice", key.start_mark
                    )
                keys.add(str(key.value))
            return super().construct_mapping(node, deep)

    text = read_text(path, most_bytes=_MOST_SETTINGS)
    if text.count("[") + text.count("{") > _MOST_BRACKETS:
        raise RequestError([f"'{path}' is nested too deeply"])
    try:
        return yaml.load(text, Loader)
    except RecursionError:
        raise RequestError([f"'{path}' is nested too deeply"]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" (line {mark.line + 1})" if mark else ""
        raise RequestError([f"'{path}' is not valid YAML: {error.problem}{where}"]) from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        raise RequestError([f"'{path}' is not valid YAML: {reason(error)}"]) from None


def markdown_table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """The lines of a Markdown table."""
    head = list(columns)
    first, *lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return [first, "|" + "---|" * len(head), *lines]


def _without_repeats(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key '{key}' appears twice")
        found[key] = value
    return found


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number has {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number

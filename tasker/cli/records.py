"""A line as it comes in, in a `Record`, and as it goes out, as a JSON object.

The item of a record is kept as JSON text from the input to the output, even if it comes
out of an errors file. Written anew, 1.10 would become 1.1, 1e999 would be no JSON, and
of two members of the same name one would stay. The worker parses the text, anew for
each attempt. So the output and the errors file show the item as it was read, whatever a
function does to it.

JSON is as RFC 8259 defines it, in both directions. So NaN and Infinity are no JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

__all__ = [
    "Record",
    "ResultError",
    "UnreadableError",
    "done_item",
    "error_line",
    "read",
    "result_line",
]


class UnreadableError(ValueError):
    """A line of the input is not what its format says."""


class ResultError(TypeError):
    """A result cannot be written as JSON."""


@dataclass(frozen=True, slots=True)
class Record:
    """A line of the input, with its number.

    `text` is the item as JSON, or the line itself if the line is `unreadable`."""

    line: int
    text: str
    unreadable: str = ""

    def item(self) -> Any:
        """Parse the item. Raises `UnreadableError`."""
        if self.unreadable:
            raise UnreadableError(self.unreadable)
        try:
            return _parse(self.text)
        except (ValueError, RecursionError) as error:
            raise UnreadableError(f"not JSON: {error}") from None


def read(lines: Iterable[bytes], form: str) -> Iterator[tuple[int, Record]]:
    """The records of an input in the given format, each with the number of its line.

    They are read as they are asked for."""
    interpret = _FORMATS[form]
    for number, line in enumerate(lines, 1):
        content = line.removesuffix(b"\n").removesuffix(b"\r")
        if form == "lines" or content.strip():
            yield number, _decoded(number, content, interpret)


def result_line(record: Record, result: object) -> bytes:
    """The output for a line that is done. Raises `ResultError`."""
    try:
        text = _dumps(result)
    except Exception as error:
        # A subclass of dict or a default of the user's may raise anything.
        raise ResultError(f"the result is not JSON: {error}") from error

    return _encoded(f'{{"line": {record.line:d}, "input": {record.text}, "result": {text}}}\n')


def done_item(line: bytes) -> str | None:
    """The exact item of a line that `result_line` made; `None` for any other line."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return None

    start, end = _place_of_input(text)
    if not (start and _is_result(f"{text[:start]}null{text[end:]}")):
        return None

    return text[start:end].removeprefix(" ")


def error_line(record: Record, error: str, place: str, *, unreadable: bool) -> bytes:
    """The output for a line that failed.

    `unreadable`: it failed because it could not be read."""
    if not unreadable:
        # The line may have failed before it was begun, so nothing has tried to read it.
        try:
            record.item()
        except UnreadableError as reason:
            # What is too deep here a worker may have read: it has another stack.
            if not isinstance(reason.__context__, RecursionError):
                unreadable, error, place = True, str(reason), ""

    source = f'"unreadable": {_dumps(record.text)}' if unreadable else f'"input": {record.text}'
    at = f', "where": {_dumps(place)}' if place else ""
    return _encoded(f'{{"line": {record.line:d}, {source}, "error": {_dumps(error)}{at}}}\n')


def _is_result(text: str) -> bool:
    try:
        match _parse(text):
            case {"line": int(), "input": None, "result": _}:
                return True
            case _:
                return False
    except RecursionError:
        # A worker, which has another stack, has written what is too deep here.
        return True
    except ValueError:
        return False


def _decoded(number: int, content: bytes, interpret: Callable[[int, str], Record]) -> Record:
    try:
        return interpret(number, content.decode())
    except UnicodeDecodeError as error:
        return Record(number, content.decode(errors="surrogateescape"), f"not UTF-8: {error}")


def _from_text(number: int, text: str) -> Record:
    return Record(number, _dumps(text))


def _from_errors(number: int, text: str) -> Record:
    start, end = _place_of_input(text)
    item = text[start:end].removeprefix(" ")

    try:
        # The worker parses the item itself.
        match _parse(f"{text[:start]}null{text[end:]}" if start else text):
            case {"line": int(line), "input": None} if start:
                return Record(line, item)
            case {"line": int(line), "unreadable": str(source), "error": str(error)}:
                return Record(line, source, error)
            case _:
                return Record(number, text, "not a line that --errors wrote")
    except (ValueError, RecursionError) as error:
        return Record(number, text, f"not JSON: {error}")


def _place_of_input(text: str) -> tuple[int, int]:
    """Where the value of "input" begins and ends in the text of a JSON object.

    (0, 0) if there is none."""
    depth = start = 0
    before = ""
    for token in _TOKEN.finditer(text):
        mark = token[0]

        if depth == 1 and start and mark in ",}":
            return start, token.start()
        if depth == 1 and mark == ":" and before == '"input"':
            start = token.end()

        depth += (mark in "{[") - (mark in "}]")
        before = mark

    return 0, 0


# Brackets, separators, strings.
_TOKEN = re.compile(r"""[][{}:,]|"[^"\\]*+(?:\\.[^"\\]*+)*+"?""")


_FORMATS: Mapping[str, Callable[[int, str], Record]] = {
    "lines": _from_text,
    # A line of JSON is an item as it is.
    "jsonl": Record,
    "errors": _from_errors,
}


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"there is no {constant} in it")


_parse = json.JSONDecoder(parse_constant=_refuse).decode


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _encoded(text: str) -> bytes:
    # A lone surrogate has no UTF-8. Its backslash form is how JSON writes it, too.
    return text.encode("utf-8", "backslashreplace")

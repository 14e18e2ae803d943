"""What a line is: on its way in a `Record`, on its way out a JSON object.

The item of a record is kept as JSON text from beginning to end. It is parsed by the worker, anew for each attempt, so
whatever a function does to its item, the output and the errors file show what was read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Record", "ResultError", "UnreadableError", "error_line", "read", "result_line"]


class UnreadableError(ValueError):
    """A line of the input is not what its format says."""


class ResultError(TypeError):
    """A result cannot be written as JSON."""


@dataclass(frozen=True, slots=True)
class Record:
    """A line of the input, by its number. `text` is the item as JSON, or the line itself if that is `unreadable`."""

    line: int
    text: str
    unreadable: str = ""

    def item(self) -> Any:
        """Parse the item. Raises `UnreadableError`."""
        if self.unreadable:
            raise UnreadableError(self.unreadable)
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError) as error:
            raise UnreadableError(f"not JSON: {error}") from None


def read(lines: Iterable[bytes], form: str) -> Iterator[tuple[int, Record]]:
    """The records of an input in the given format, each with the number of its line, read as they are asked for."""
    interpret = _FORMATS[form]
    for number, line in enumerate(lines, 1):
        content = line.removesuffix(b"\n").removesuffix(b"\r")
        if form == "lines" or content.strip():
            yield number, _decoded(number, content, interpret)


def result_line(record: Record, result: object) -> bytes:
    """What is written for a line that is done. Raises `ResultError`."""
    try:
        text = _dumps(result)
    except Exception as error:  # also what a subclass of dict or a default of the user's raises
        raise ResultError(f"the result is not JSON: {error}") from error
    return _encoded(f'{{"line": {record.line}, "input": {record.text}, "result": {text}}}\n')


def error_line(record: Record, error: str, place: str, *, unreadable: bool) -> bytes:
    """What is written for a line that failed."""
    source = f'"unreadable": {_dumps(record.text)}' if unreadable else f'"input": {record.text}'
    at = f', "where": {_dumps(place)}' if place else ""
    return _encoded(f'{{"line": {record.line}, {source}, "error": {_dumps(error)}{at}}}\n')


def _decoded(number: int, content: bytes, interpret: Callable[[int, str], Record]) -> Record:
    try:
        return interpret(number, content.decode())
    except UnicodeDecodeError as error:
        return Record(number, content.decode(errors="surrogateescape"), f"not UTF-8: {error}")


def _from_text(number: int, text: str) -> Record:
    return Record(number, _dumps(text))


def _from_errors(number: int, text: str) -> Record:
    try:
        match json.loads(text):
            case {"line": int(line), "input": item}:
                return Record(line, _dumps(item))
            case {"line": int(line), "unreadable": str(source), "error": str(error)}:
                return Record(line, source, error)
            case _:
                return Record(number, text, "not a line that --errors wrote")
    except (ValueError, RecursionError) as error:
        return Record(number, text, f"not JSON: {error}")


_FORMATS: Mapping[str, Callable[[int, str], Record]] = {
    "lines": _from_text,
    "jsonl": Record,  # a line of JSON is an item as it is
    "errors": _from_errors,
}


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _encoded(text: str) -> bytes:
    # a lone surrogate has no UTF-8, and its backslash form is just how JSON writes it
    return text.encode("utf-8", "backslashreplace")

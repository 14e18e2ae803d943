"""Arguments that an attempt has used up: iterators, open files among them. Another attempt would find the rest of them.

What is an iterator its type says: to ask `iter()` whether it returns the same again could run code of the user's. Where
a task is sent elsewhere each attempt gets a fresh copy of the arguments, and none is seen here.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from tasker._tasks.wrapping import Progress, users_function

__all__ = ["spent_argument"]


def spent_argument(fn: Callable[..., Any] | None, args: tuple[Any, ...] | None) -> str | None:
    """Which argument of a task that calls `fn` with `args` has been used up, and what it is; `None` if none has.

    Not for the hot path: for when a retry is due. Runs no code of the user's."""
    for name, value in _arguments(fn, args or ()):
        if _is_iterator(value) and not _is_only_written(value):
            return f"{name} is an iterator ({type(value).__qualname__})"
    return None


def _arguments(fn: Any, args: tuple[Any, ...]) -> Iterator[tuple[str, object]]:
    """The user's arguments of a task, and what they are called: those of its step that failed, if it has several."""
    users: Any = users_function(fn, args)
    positional, keywords = (args, {}) if users is fn else _passed_on(args[1:])
    yield from ((f"argument {number}", value) for number, value in enumerate(positional, 1))
    yield from ((f"argument {name!r}", value) for name, value in keywords.items())
    while isinstance(users, partial):
        yield from (
            (f"argument {number} of the partial", value)
            for number, value in enumerate(users.args, 1)
        )
        yield from (
            (f"argument {name!r} of the partial", value) for name, value in users.keywords.items()
        )
        users = users.func


def _passed_on(args: tuple[Any, ...]) -> tuple[Sequence[Any], dict[str, Any]]:
    """What a wrapper (see `wrapping`) with these arguments calls the user's function with."""
    if args and isinstance(args[-1], Progress):
        return args[-1].arguments(), {}
    if [*map(type, args)][:1] == [tuple]:  # an executor's call
        return args[0], args[1] or {}
    return args, {}


def _is_iterator(value: object) -> bool:
    with contextlib.suppress(Exception):  # a metaclass may have code of the user's
        return all(callable(_of_type(type(value), name)) for name in ("__iter__", "__next__"))
    return False


def _of_type(kind: type, name: str) -> object:
    """The attribute as it is defined. A mock's is no method: it makes one that iterates anew each time."""
    return next((vars(base)[name] for base in kind.__mro__ if name in vars(base)), None)


def _is_only_written(value: object) -> bool:
    """Whether it is a file that cannot be read, such as `sys.stdout`."""
    with contextlib.suppress(ValueError):  # it is closed, or detached
        file = value.buffer if type(value) is io.TextIOWrapper else value
        return type(file) is io.BufferedWriter or (type(file) is io.FileIO and not file.readable())
    return False

"""Arguments that an attempt has used up: iterators, open files among them.

Another attempt would find only the rest of them. The type tells whether an object is an
iterator: to ask whether `iter()` returns the object itself could run user code. Where a
task is sent elsewhere each attempt gets a fresh copy of the arguments, and this module
sees none.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from tasker._tasks.wrapping import Progress, unsupervised, users_function

__all__ = ["spent_argument"]


def spent_argument(fn: Callable[..., Any] | None, args: tuple[Any, ...] | None) -> str | None:
    """Which argument of a call of `fn` has been used up, and what it is.

    `None` if none has. Called when a retry is due, not on the hot path. Runs no user
    code."""
    for name, value in _arguments(*unsupervised(fn, args or ())):
        if _is_iterator(value) and not _is_only_written(value):
            return f"{name} is an iterator ({type(value).__qualname__})"

    return None


def _arguments(fn: Any, args: tuple[Any, ...]) -> Iterator[tuple[str, object]]:
    """The user's arguments of a task, each with a name for it.

    If the task has several steps, these are the arguments of the step that failed."""
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
    """The arguments with which a wrapper (see `wrapping`) calls the user's function."""
    if args and isinstance(args[-1], Progress):
        return args[-1].arguments(), {}
    # An executor's call.
    if [*map(type, args)][:1] == [tuple]:
        return args[0], args[1] or {}

    return args, {}


def _is_iterator(value: object) -> bool:
    # A metaclass may have user code.
    with contextlib.suppress(Exception):
        return all(callable(_of_type(type(value), name)) for name in ("__iter__", "__next__"))
    return False


def _of_type(kind: type, name: str) -> object:
    """The attribute as the class defines it.

    A mock has no such method. It makes one that iterates anew each time."""
    return next((vars(base)[name] for base in kind.__mro__ if name in vars(base)), None)


def _is_only_written(value: object) -> bool:
    """Whether it is a file that cannot be read, such as `sys.stdout`."""
    # The file may be closed, or detached.
    with contextlib.suppress(ValueError):
        file = value.buffer if type(value) is io.TextIOWrapper else value
        return type(file) is io.BufferedWriter or (type(file) is io.FileIO and not file.readable())
    return False

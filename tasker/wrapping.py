"""Functions of tasker's that stand between a worker and a function of the user's: a call with keywords, a chunk.

Such a task's first argument is the user's function. Tracebacks, errors and whoever looks at the stack go by that one.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType, TracebackType
from typing import Any, TypeVar

__all__ = ["WRAPPERS", "users_function", "users_traceback", "wrapper"]

F = TypeVar("F", bound=Callable[..., Any])

WRAPPERS: set[CodeType] = set()


def wrapper(function: F) -> F:
    """Marks a plain function as one of them."""
    WRAPPERS.add(function.__code__)
    return function


def users_function(fn: Callable[..., Any] | None, args: tuple[Any, ...] | None) -> Callable[..., Any] | None:
    """The user's function of a task that calls `fn` with `args`; `None` when the task has been emptied."""
    return args[0] if args and getattr(fn, "__code__", None) in WRAPPERS else fn


def users_traceback(traceback: TracebackType | None) -> TracebackType | None:
    """Without the frames of wrappers at its beginning."""
    while traceback is not None and traceback.tb_frame.f_code in WRAPPERS:
        traceback = traceback.tb_next
    return traceback

"""Wrappers: functions of tasker's that a worker calls to call the user's function.

One adds keywords to a call, another runs a chunk of several. The first argument of such
a task is the user's function. Tracebacks, errors and looks at the stack take that one
for the task's function. The last argument of a chunk is its `Progress`: what it has
done so far.

A *supervising* wrapper has the arguments after the first as the user gave them. It may
stand around another wrapper.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from types import CodeType, TracebackType
from typing import Any, TypeVar

from tasker._sync.threads import leave_child

__all__ = [
    "WRAPPERS",
    "Progress",
    "supervising",
    "unsupervised",
    "users_function",
    "users_traceback",
    "wrapper",
]

F = TypeVar("F", bound=Callable[..., Any])

WRAPPERS: set[CodeType] = set()
_SUPERVISING: set[CodeType] = set()


def wrapper(function: F) -> F:
    """Mark a plain function as a wrapper."""
    WRAPPERS.add(function.__code__)
    return function


def supervising(function: F) -> F:
    """Mark a plain function as a supervising wrapper."""
    _SUPERVISING.add(function.__code__)
    return wrapper(function)


def unsupervised(fn: Any, args: Any) -> tuple[Any, Any]:
    """The function and the arguments of a task, without a supervising wrapper."""
    if args and getattr(fn, "__code__", None) in _SUPERVISING:
        return args[0], args[1:]

    return fn, args


def users_function(
    fn: Callable[..., Any] | None, args: tuple[Any, ...] | None
) -> Callable[..., Any] | None:
    """The user's function of a task that calls `fn` with `args`.

    `None` when the task has been emptied."""
    fn, args = unsupervised(fn, args)
    return args[0] if args and getattr(fn, "__code__", None) in WRAPPERS else fn


def users_traceback(traceback: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames of wrappers at its beginning."""
    while traceback is not None and traceback.tb_frame.f_code in WRAPPERS:
        traceback = traceback.tb_next

    return traceback


class Progress:
    """The steps of one task, and the results of the first of them.

    Another attempt goes on with the step after those. If the task runs in a child
    process or an actor, `note` is called on a copy there, which forwards each result to
    the original."""

    def __init__(self, steps: Sequence[Any]) -> None:
        self.steps: Sequence[Any] = steps
        self.results: deque[Any] = deque()
        # In a copy: where `note` sends results, and how many steps were done before.
        self.forward: Callable[[Any], object] | None = None
        self.done: int = 0

    def left(self) -> Sequence[Any]:
        """The steps that are to be done."""
        return self.steps[self.done + len(self.results) :]

    def arguments(self) -> Sequence[Any]:
        """The user's arguments of the first step that is to be done, if any is."""
        return self.left()[:1]

    def note(self, result: Any) -> None:
        """Note the result of a step. A child that the step has forked ends here."""
        leave_child()
        if self.forward is None:
            self.results.append(result)
        else:
            self.forward(result)

    def __reduce__(self) -> tuple[Any, ...]:
        return Progress, (self.steps,)

"""Functions of tasker's that stand between a worker and a function of the user's: a call with keywords, a chunk.

Such a task's first argument is the user's function. Tracebacks, errors and whoever looks at the stack go by that one.
What a chunk has done so far is its `Progress`, the task's last argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from types import CodeType, TracebackType
from typing import Any, TypeVar

from tasker._sync.threads import leave_child

__all__ = ["WRAPPERS", "Progress", "users_function", "users_traceback", "wrapper"]

F = TypeVar("F", bound=Callable[..., Any])

WRAPPERS: set[CodeType] = set()


def wrapper(function: F) -> F:
    """Marks a plain function as one of them."""
    WRAPPERS.add(function.__code__)
    return function


def users_function(
    fn: Callable[..., Any] | None, args: tuple[Any, ...] | None
) -> Callable[..., Any] | None:
    """The user's function of a task that calls `fn` with `args`; `None` when the task has been emptied."""
    return args[0] if args and getattr(fn, "__code__", None) in WRAPPERS else fn


def users_traceback(traceback: TracebackType | None) -> TracebackType | None:
    """Without the frames of wrappers at its beginning."""
    while traceback is not None and traceback.tb_frame.f_code in WRAPPERS:
        traceback = traceback.tb_next
    return traceback


class Progress:
    """Steps of one task, and the results of the first of them: another attempt goes on with the step after those.

    Where the task runs elsewhere, `note` is told there, and the results are sent to this one as they come."""

    def __init__(self, steps: Sequence[Any]) -> None:
        self.steps: Sequence[Any] = steps
        self.results: deque[Any] = deque()
        self.forward: Callable[[Any], object] | None = None  # elsewhere: what `note` calls
        self.done: int = 0  # elsewhere: how many steps earlier attempts have done

    def left(self) -> Sequence[Any]:
        """The steps that are to be done."""
        return self.steps[self.done + len(self.results) :]

    def arguments(self) -> Sequence[Any]:
        """The user's arguments of the first step that is to be done, if any is."""
        return self.left()[:1]

    def note(self, result: Any) -> None:
        """A step has this result. What it has forked goes no further."""
        leave_child()
        if self.forward is None:
            self.results.append(result)
        else:
            self.forward(result)

    def __reduce__(self) -> tuple[Any, ...]:
        return Progress, (self.steps,)

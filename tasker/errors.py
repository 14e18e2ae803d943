"""The exception tree. Every error carries its evidence and says what to do about it."""

from __future__ import annotations

import contextlib
from concurrent.futures import CancelledError
from functools import partial
from typing import Any

__all__ = [
    "ConfigError",
    "ContextCancelledError",
    "DeadlineExceededError",
    "PoolDeadlockError",
    "QueueFullError",
    "RemoteTaskError",
    "ResourceCreationError",
    "TaskManagerKilledError",
    "TaskManagerShutdownError",
    "TaskTimeoutError",
    "TaskerError",
    "WorkerLostError",
]

_LONGEST = 500  # characters


class TaskerError(Exception):
    """The base of every error that tasker itself raises. A task's own exceptions are never wrapped in it."""


class ConfigError(TaskerError, ValueError):
    """A `Config` field or an argument has a wrong value: names the field, the value, and what is allowed."""


class EndlessError(ConfigError):
    """A module that a child imports for its parent makes a manager with children, which would import it too, and so on.

    What the user sees is a `ConfigError`."""


class QueueFullError(TaskerError):
    """A bounded queue had no room within `queue_timeout`: the task is not accepted. Submit later or raise the bound."""


class TaskTimeoutError(TaskerError, TimeoutError):
    """A task's `timeout` ended before the task did. It was never started, or its context is cancelled now."""


class ContextCancelledError(TaskerError):
    """The context was cancelled. `Context.cause()` says why, where the canceller said it."""


class DeadlineExceededError(TaskerError, TimeoutError):
    """The context's deadline passed."""


class ResourceCreationError(TaskerError):
    """No resource could be made: for `create_timeout` no worker has held one, or `run_task` could not make its own.

    The last error of `on_create` is the `__cause__`, where there is one."""


class TaskManagerShutdownError(TaskerError, RuntimeError):
    """The manager is stopping or closed; the task was not accepted."""


class TaskManagerKilledError(TaskerError, CancelledError):
    """`kill()` ended the manager before the task ended."""


class PoolDeadlockError(TaskerError):
    """A task waits in a way that can never end: its wait is part of a circle of waiting tasks.

    Raised in the task whose wait closes the circle, or by one of its waits if something else has closed it (no other
    worker gets a resource, say). Give the awaited task a timeout, allow more workers, or wait outside of tasks."""


class WorkerLostError(TaskerError):
    """The place where a worker's resource lives is gone: a child process died, a node was lost.

    Breaks the resource whatever `check_health` says: it is replaced, and the task retried unless it is `once`."""

    exit_code: int | None
    """Of the process, where it is known; a signal that killed it as its negative number."""
    began: bool
    """Whether the task may have begun there. One that did not is retried even if it is `once`."""

    def __init__(self, message: str, exit_code: int | None = None, *, began: bool = True) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.began = began


class RemoteTaskError(TaskerError):
    """What a task returned or raised elsewhere could not be sent back as it is."""

    type_name: str
    """The name of the exception's type, with its module."""
    traceback: str
    """The exception as it would have been printed there."""

    def __init__(self, message: str, type_name: str = "", traceback: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        self.traceback = traceback


def name_of(fn: Any) -> str:
    """What a function of the user's is called; the name of its type where it has none."""
    fn = fn.func if type(fn) is partial else fn
    try:
        return str(getattr(fn, "__qualname__", None) or type(fn).__qualname__)
    except Exception:  # an attribute of the user's
        return type(fn).__qualname__


def origin_of(fn: Any) -> str:
    """Where a function of the user's is from, to know it again without keeping it: the same for all that one line
    makes."""
    fn = fn.func if type(fn) is partial else fn
    try:
        line = getattr(getattr(fn, "__code__", None), "co_firstlineno", 0)
        return f"{fn.__module__}.{fn.__qualname__}:{line}"
    except Exception:  # an instance, or a mock
        return f"{type(fn).__module__}.{type(fn).__qualname__}"


def shown(value: object) -> str:
    """How a value of the user's stands in an error: its `repr`, cut where it is long; its type where that raises."""
    try:
        text = repr(value)
    except Exception as error:  # an int of thousands of digits raises, too
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text)} characters)"


def put_note(error: BaseException, about: str, text: str) -> None:
    """Write a note of tasker's on an exception, `tasker: {about}{text}`, in the place of the last one about that.

    One exception object may be raised by task after task: its notes must not grow with them."""
    begin = f"tasker: {about}"
    with contextlib.suppress(BaseException):  # an exception may refuse notes
        notes: list[str] = getattr(error, "__notes__", [])
        for place, note in enumerate(notes):
            if note.startswith(begin):
                notes[place] = begin + text
                return

        error.add_note(begin + text)

"""The exception tree. Every error carries its evidence and says what to do about it."""

from __future__ import annotations

import contextlib
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, TypeGuard, TypeVar

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

E = TypeVar("E", bound=BaseException)

# A longer `repr` is cut in an error. A guess: it is enough to recognize a value.
_LONGEST_CHARS = 500


class TaskerError(Exception):
    """The base of every error that tasker itself raises.

    A task's own exceptions are never wrapped in it."""


class ConfigError(TaskerError, ValueError):
    """A `Config` field or an argument has a wrong value.

    The message names the field, the value, and what is allowed."""


class EndlessError(ConfigError):
    """A module that a child imports for its parent makes a manager with children.

    These would import it too, and so on. The user sees a `ConfigError`."""


class QueueFullError(TaskerError):
    """A bounded queue had no room within `queue_timeout`: the task is not accepted.

    Submit later or raise the bound."""


class TaskTimeoutError(TaskerError, TimeoutError):
    """A task has not ended within its `timeout` or `run_timeout`, or its `ctx`.

    The task was never started, or its context is cancelled now."""


class ContextCancelledError(TaskerError):
    """The context was cancelled.

    `Context.cause()` tells why, if the canceller gave a cause."""


class DeadlineExceededError(TaskerError, TimeoutError):
    """The context's deadline passed."""


class ResourceCreationError(TaskerError):
    """No resource could be made.

    For `create_timeout` no worker has held one, or `run_task` could not make its own.
    The last error of `on_create`, if there is one, is the `__cause__`."""


class TaskManagerShutdownError(TaskerError, RuntimeError):
    """The manager is stopping or closed; the task was not accepted."""


class TaskManagerKilledError(TaskerError, CancelledError):
    """`kill()` ended the manager before the task ended."""


class PoolDeadlockError(TaskerError):
    """A task's wait can never end: it is part of a circle of waiting tasks.

    The wait that closes the circle raises it. If something else closes the circle (no
    other worker gets a resource, say), one of its waits does. Give the awaited task a
    timeout, allow more workers, or wait outside of tasks."""


class WorkerLostError(TaskerError):
    """The place where a worker's resource lives is gone: a child process or a node.

    This breaks the resource, whatever `check_health` says. The resource is replaced,
    and the task retried unless it is `once`."""

    exit_code: int | None
    """The exit code of the process, where it is known.

    It is negative if a signal killed the process: the signal's number."""
    began: bool
    """Whether the task may have begun there.

    A task that did not is retried even if it is `once`."""

    def __init__(self, message: str, exit_code: int | None = None, *, began: bool = True) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.began = began


class RemoteTaskError(TaskerError):
    """A task's result or exception elsewhere could not be sent back as it is."""

    type_name: str
    """The name of the exception's type, with its module."""
    traceback: str
    """The exception as it would have been printed there."""

    def __init__(self, message: str, type_name: str = "", traceback: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        self.traceback = traceback


def is_a(error: object, kind: type[E] | tuple[type[E], ...]) -> TypeGuard[E]:
    """As `isinstance`, but runs no code of the user's: an error's `__class__` may
    raise."""
    return issubclass(type(error), kind)


def name_of(fn: Any) -> str:
    """The name of a function of the user's, or that of its type if it has none."""
    fn = fn.func if type(fn) is partial else fn
    try:
        return str(getattr(fn, "__qualname__", None) or type(fn).__qualname__)
    except Exception:
        # An attribute of the user's may raise.
        return type(fn).__qualname__


def origin_of(fn: Any) -> str:
    """The place where a function of the user's was defined.

    It serves to know the function again without keeping it. All functions that one line
    makes have the same."""
    fn = fn.func if type(fn) is partial else fn
    try:
        line = getattr(getattr(fn, "__code__", None), "co_firstlineno", 0)
        return f"{fn.__module__}.{fn.__qualname__}:{line}"
    except Exception:
        # An instance, or a mock.
        return f"{type(fn).__module__}.{type(fn).__qualname__}"


def shown(value: object) -> str:
    """A value of the user's as it stands in an error.

    That is its `repr`, cut if it is long, or its type if that raises."""
    try:
        text = repr(value)
    except Exception as error:
        # An int of thousands of digits raises, too.
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"

    return (
        text
        if len(text) <= _LONGEST_CHARS
        else f"{text[:_LONGEST_CHARS]}... ({len(text)} characters)"
    )


def put_note(error: BaseException, about: str, text: str) -> None:
    """Write a note of tasker's on an exception: `tasker: {about}{text}`.

    It takes the place of the last note about the same. One exception object may be
    raised by task after task, and its notes must not grow with them."""
    begin = f"tasker: {about}"

    # An exception may refuse notes.
    with contextlib.suppress(BaseException):
        notes: list[str] = getattr(error, "__notes__", [])
        for place, note in enumerate(notes):
            if note.startswith(begin):
                notes[place] = begin + text
                return

        error.add_note(begin + text)

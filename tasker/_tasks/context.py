"""`Context`: Go's `context` in Python. Deadlines, cancellation and values flow down.

A context is live until it is done, once and for good: it was cancelled, or its deadline
passed, or its parent is done. Being done flows down, never up. As in Go, a parent keeps
the contexts made from it until they are done. So cancel the ones that you make, or use
them in a `with` block.

The standard library has no such thing. `contextvars` carry values, but neither a
deadline nor a cancellation. A `threading.Event` has no parent, and calls nothing back.

One `_lock` guards the fields of all contexts. It is held for a few lines at a time, and
no callback runs under it. There is only one, so that a signal handler can find out
whether the thread that it interrupted holds it.

Each task that asks for a context gets its own, so making one must cost next to nothing:
it gets three attributes and takes no lock. What few contexts have is a class attribute
until it differs.

The rules come from Go's package `context` (`Background`, `WithCancelCause`,
`WithDeadline`, `WithValue`, `AfterFunc`).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import TracebackType
from typing import Any, Protocol, Self

from tasker import checks
from tasker._base.callables import check_callable
from tasker._sync import timer
from tasker._sync.clock import shift
from tasker._sync.guard import notify, pass_on
from tasker._sync.guarded_logger import ours
from tasker._sync.locks import new_lock
from tasker._sync.parking import new_sleep_lock
from tasker._sync.recurring import kind_of
from tasker.errors import (
    ConfigError,
    ContextCancelledError,
    DeadlineExceededError,
    TaskManagerKilledError,
    name_of,
    shown,
)

__all__ = ["Context", "background", "with_cancel", "with_deadline", "with_timeout", "with_value"]

# Reentrant: a signal handler may cancel a context that its thread is looking at.
_lock = new_lock()

_new: Any = object.__new__
EndedError = ContextCancelledError | DeadlineExceededError
Callback = Callable[[], object]


class Sleeper(Protocol):
    """Is released when a context is done. A lock on which a thread sleeps is one."""

    def release(self) -> object: ...


class Dependant(Protocol):
    """A task that ends with a context (see `parent`)."""

    def parent_ended(
        self,
        error: EndedError,
        cause: BaseException | None,
        contexts: list[Context],
        things: list[Any],
    ) -> None:
        """The context has ended.

        Puts the context of the task, if it runs, into `contexts`: the caller ends it.
        Puts into `things` what the caller is to let go of. Does not block, and runs no
        code of the user's. Harmless when called again."""
        ...


class Context:
    """A cancellation signal, a deadline and values for the code that does the work.

    Made by `background()`, `with_cancel()`, `with_timeout()`, `with_deadline()` and
    `with_value()`. A task gets one when its function asks for it. Leaving its `with`
    block cancels it. Every method may be called from any thread; only `wait()`
    blocks."""

    _lock = _lock
    _parent: Context | None
    _deadline: float | None
    _error: EndedError | None
    _cause: BaseException | None = None
    _key: object = None
    _value: object = None
    # Where values are looked for when the contexts above have none.
    _behind: Context | None = None
    _followers: _Followers | None = None
    _entry: timer.TimerEntry | None = None

    def __init__(self) -> None:
        raise TypeError("contexts are made by background(), with_cancel() and its like")

    # -- what the work asks ------------------------------------------------------------

    def cancelled(self) -> bool:
        """Whether the context is done, cancelled or past its deadline."""
        return self._error is not None

    def err(self) -> EndedError | None:
        """Why it is done; `None` while it is live.

        A `ContextCancelledError` or a `DeadlineExceededError`."""
        return self._error

    def cause(self) -> BaseException | None:
        """The reason that was given to `cancel()`, else what `err()` returns.

        `None` while it is live."""
        return self._cause if self._cause is not None else self._error

    def deadline(self) -> float | None:
        """When it ends by itself, in seconds of `time.monotonic()`.

        `None` without a deadline."""
        return None if self._deadline is None else self._deadline - _ahead()

    def remaining(self) -> float | None:
        """Seconds until the deadline, never below 0; fit for a timeout argument.

        `None` without a deadline."""
        return None if self._deadline is None else max(0.0, self._deadline - timer.now())

    def value(self, key: object) -> object:
        """The value that the nearest `with_value(..., key, value)` above gave to `key`.

        `None` where there is none."""
        for context in self._line():
            if context._key is not None and context._key == key:
                return context._value

        return None

    def stopping(self) -> bool:
        """Whether the manager that runs this task is draining.

        A long task may want to finish early then."""
        context: Context | None = self
        while context is not None and not isinstance(context, ManagerValues):
            context = context._parent

        return context is not None and context.is_stopping()

    def raise_if_done(self) -> None:
        """Raise the error of `err()`, from its `cause()`, if the context is done."""
        if self._error is not None:
            # A fresh instance: a shared one would collect the traceback of each raise.
            raise type(self._error)(*self._error.args) from self._cause

    def wait(self, timeout: float | timedelta | None = None) -> bool:
        """Sleep for `timeout` seconds (`None`: until done); wake early when it is done.

        Returns whether the context is done. Ctrl-C interrupts the sleep (on Windows
        from Python 3.14 on). Raises `ConfigError` for a wrong time."""
        limit = checks.patience("timeout", timeout)
        if timer.clock is not None and timeout is not None:
            # Deadlines follow a test's clock, and nothing else does.
            with with_timeout(self, limit) as limited:
                limited.wait()
            return self._error is not None

        sleeper = new_sleep_lock()
        self._add_sleeper(sleeper)
        try:
            sleeper.acquire(timeout=limit)
        finally:
            self._remove_sleeper(sleeper)

        return self._error is not None

    def on_done(self, callback: Callback) -> Callable[[], bool]:
        """Call `callback()` once when the context is done; at once if it already is.

        The callback runs in the thread that cancels, or on a thread of its own when a
        deadline passes. An error that it raises is logged. Returns a function that
        takes the callback back, and returns whether that was in time (Go's
        `AfterFunc`). Raises `TypeError` for an object that cannot be called without
        arguments."""
        _check_callback(callback)
        # Compared by identity: a callback may be added twice, and its `==` may run the
        # user's code.
        added = functools.partial(callback)

        with self._lock:
            followers = self._followed()
            live = self._error is None
            if live:
                followers.callbacks.append(added)

        if not live:
            notify(lambda: _guarded([added]))

        def take_back() -> bool:
            with self._lock:
                followers = self._followers
                if followers is None or added not in followers.callbacks:
                    return False

                followers.callbacks.remove(added)
                return True

        return take_back

    # -- what its owner does -----------------------------------------------------------

    def cancel(self, cause: BaseException | None = None) -> None:
        """End this context and all that were made from it; harmless when done.

        Runs their callbacks, in this thread. Raises `TypeError` for a `cause` that is
        no exception, and always on `background()`."""
        if cause is not None and not isinstance(cause, BaseException):
            raise TypeError(f"cause must be an exception or None, not {shown(cause)}")

        error = ContextCancelledError("context cancelled")
        notify(lambda: _guarded(self._end(error, cause, [])))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def __repr__(self) -> str:
        state = "live" if self._error is None else type(self._error).__name__
        until = "" if self._deadline is None else f", {self.remaining():.3f} s left"
        return f"<{type(self).__name__} {state}{until}>"

    # Other code cancels a context and waits for it. So a copy of an object that refers
    # to a context refers to the same one.

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            f"a context cannot be pickled, as its end would not be told elsewhere: {self!r}"
        )

    # -- inside tasker -----------------------------------------------------------------

    def _add_sleeper(self, sleeper: Sleeper) -> None:
        """Have it released when the context is done; at once if it is done already.

        The thread that ends the context calls `release`, which must not block."""
        with self._lock:
            followers = self._followed()
            live = self._error is None
            if live:
                followers.sleepers.append(sleeper)

        if not live:
            sleeper.release()

    def _remove_sleeper(self, sleeper: Sleeper) -> None:
        with self._lock:
            followers = self._followers
            if followers is not None and sleeper in followers.sleepers:
                followers.sleepers.remove(sleeper)

    def _followed(self) -> _Followers:
        """The objects that learn of its end. Call this with the lock held.

        The caller asks for this, *then* looks whether the context is live, then adds to
        it (R2). A signal handler may end the context until that look, but not after."""
        followers = self._followers
        if followers is None:
            made = _Followers()
            followers = self._followers  # again (R2)
            if followers is None:
                followers = self._followers = made
        return followers

    def _line(self) -> Iterator[Context]:
        """This context and those from which it has its values, the nearest first."""
        behind: list[Context] = []
        context: Context | None = self
        while context is not None:
            yield context
            if context._behind is not None:
                behind.append(context._behind)
            context = context._parent
            if context is None and behind:
                context = behind.pop()

    def _items(self) -> list[tuple[object, object]]:
        """Keys and values, those of the root first."""
        items = [
            (context._key, context._value) for context in self._line() if context._key is not None
        ]
        return items[::-1]

    def _add_dependant(self, dependant: Dependant) -> EndedError | None:
        """Have it told when the context is done.

        If the context is done already, this returns its error in place of that."""
        with self._lock:
            followers = self._followed()
            error = self._error
            if error is None:
                followers.dependants[dependant] = None

        return error

    def _remove_dependant(self, dependant: Dependant) -> None:
        with self._lock:
            if self._followers is not None:
                self._followers.dependants.pop(dependant, None)

    def _end(
        self, error: EndedError, cause: BaseException | None, things: list[Any]
    ) -> list[Callback]:
        """End this context and all below it.

        Returns the user's callbacks for the caller to run. Puts into `things`, for the
        caller to let go of, the objects to which this list may hold the last
        reference."""
        callbacks: list[Callback] = []
        ending: list[Context] = [self]
        # A loop and not a recursion: chains of contexts may be long.
        while ending:
            things.append(ending[-1])
            context = ending.pop()

            with context._lock:
                if context._error is not None:
                    continue
                context._cause = cause
                context._error = error
                followers, context._followers = context._followers, None
                entry, context._entry = context._entry, None

            if entry is not None:
                entry.cancel()
            if followers is not None:
                callbacks += followers.callbacks
                _release(followers.sleepers)
                ending.extend(reversed(followers.children))
                dependants = [*followers.dependants][::-1]
                _end_dependants(dependants, error, cause, ending, things)

        if self._parent is not None:
            self._parent._forget(self)

        return callbacks

    def _attach(self) -> None:
        """Arrange for its end.

        Below a parent that can end, it ends with the parent. With a deadline of its
        own, it ends by the timer, or now."""
        parent = self._parent
        if parent is not None and parent._can_end():
            with parent._lock:
                followers = parent._followed()
                error = parent._error
                if error is None:
                    followers.children[self] = None

            if error is not None:
                self._end(error, parent._cause, [])

        if (
            self._deadline is None
            or self._error is not None
            or self._deadline == (parent and parent._deadline)
        ):
            return

        if self._deadline <= timer.now():
            self._end(_deadline_error(), None, [])
            return

        entry = self._entry = timer.at(self._deadline, self._deadline_passed)
        # If it ended in between, its entry must not stay behind (R1). The attribute may
        # be empty by now: the thread that ends a context empties it.
        if self._error is not None:
            entry.cancel()

    def _forget(self, child: Context) -> None:
        with self._lock:
            if self._followers is not None:
                self._followers.children.pop(child, None)

    def _can_end(self) -> bool:
        return True

    def _deadline_passed(self) -> None:
        things: list[Any] = []
        timer.runner.run_all(_guarded(self._end(_deadline_error(), None, things)))
        timer.runner.let_go(things)

        # A test's clock: this is not the timer thread.
        if timer.clock is not None:
            timer.heal_runner_later()


class _Followers:
    """The objects that learn of the end of a context."""

    __slots__ = ("callbacks", "children", "dependants", "sleepers")

    def __init__(self) -> None:
        # A dictionary keeps the order, so children end in the order they were made. One
        # of many leaves it as fast as one of few.
        self.children: dict[Context, None] = {}
        self.dependants: dict[Dependant, None] = {}
        self.callbacks: list[Callback] = []
        self.sleepers: list[Sleeper] = []


class _Background(Context):
    """The root: never done, no deadline, no values."""

    def cancel(self, cause: BaseException | None = None) -> None:
        raise TypeError(
            "background() cannot be cancelled: cancel a with_cancel(background()) instead"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return background, ()

    def on_done(self, callback: Callback) -> Callable[[], bool]:
        _check_callback(callback)
        # It is never done. So there is nothing to keep, and it is never too late.
        return lambda: True

    def _can_end(self) -> bool:
        return False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass


class ManagerValues(Context):
    """What tasks inherit from their manager.

    That is whether it is stopping, and the values of its context, but neither the
    cancellation nor the deadline of this context (Go's `WithoutCancel`)."""

    def __init__(self, source: Context, is_stopping: Callable[[], bool]) -> None:
        self._parent = source
        self._deadline = self._error = None
        self.is_stopping: Callable[[], bool] = is_stopping

    def _can_end(self) -> bool:
        return False


class InheritedValues(ManagerValues):
    """What a task inherits that was given a parent.

    Values come from the parent, then from the manager. Whether it is stopping is asked
    of the manager."""

    def __init__(self, parent: Context, values: ManagerValues) -> None:
        super().__init__(parent, values.is_stopping)
        self._behind = values


class TaskContext(Context):
    """The context of one task.

    The task's future watches its deadline, and ends task and context together."""


def new_task_context(values: ManagerValues, deadline: float | None = None) -> TaskContext:
    """The context of a task. On the hot path: a call of the class would cost more."""
    context: TaskContext = _new(TaskContext)
    context._parent = values
    context._deadline = deadline
    context._error = None
    return context


def _new_context(
    kind: type[Context], parent: Context | None, deadline: float | None = None
) -> Context:
    context: Context = _new(kind)
    inherited = parent._deadline if parent is not None else None
    is_later = deadline is None or (inherited is not None and inherited < deadline)

    context._parent = parent
    context._deadline = inherited if is_later else deadline
    context._error = None
    return context


_BACKGROUND = _new_context(_Background, None)


def background() -> Context:
    """The root of all contexts: never done, without deadline and values."""
    return _BACKGROUND


def with_cancel(parent: Context) -> Context:
    """A context that ends when it is cancelled, or with `parent`.

    Raises `TypeError` for a `parent` that is no context."""
    return _derive(parent)


def with_timeout(parent: Context, seconds: float | timedelta) -> Context:
    """A context that ends `seconds` from now, or with `parent`.

    0 ends it at once; an infinite time never ends it. Raises `ConfigError` for a wrong
    time, `TypeError` for a `parent` that is no context."""
    limit = checks.seconds("seconds", seconds, infinite=True)
    return _derive(parent, None if limit == float("inf") else timer.now() + limit)


def with_deadline(parent: Context, monotonic: float) -> Context:
    """A context that ends at `monotonic`, or with `parent`.

    `monotonic` is a time of `time.monotonic()`, in seconds. Raises `TypeError` if it is
    no time (NaN, say), or for a `parent` that is no context."""
    if (
        isinstance(monotonic, bool)
        or not isinstance(monotonic, (int, float))
        or monotonic != monotonic
    ):
        raise TypeError(f"monotonic must be a time of time.monotonic(), not {shown(monotonic)}")

    try:
        deadline = float(monotonic)
    except OverflowError:
        deadline = float("inf") if monotonic > 0 else float("-inf")

    return _derive(parent, None if deadline == float("inf") else deadline + _ahead())


def with_value(parent: Context, key: object, value: object) -> Context:
    """A context in which `key` has `value`. It ends when cancelled, or with `parent`.

    Raises `TypeError` when `key` is `None`, or for a `parent` that is no context."""
    if key is None:
        raise TypeError("key must not be None")

    return _derive(parent, key=key, value=value)


def _derive(
    parent: Context, deadline: float | None = None, *, key: object = None, value: object = None
) -> Context:
    if not isinstance(parent, Context):
        raise TypeError(f"parent must be a Context, for example background(), not {shown(parent)}")

    context = _new_context(Context, parent, deadline)
    if key is not None:
        context._key, context._value = key, value
    context._attach()
    return context


def _ahead() -> float:
    """Seconds by which `timer.now()` is ahead of the clock that users read.

    0 unless a test has replaced that clock."""
    return shift() if timer.clock is None else 0.0


def _release(sleepers: list[Sleeper]) -> None:
    """Wake all of them, also when an error or a Ctrl-C strikes meanwhile.

    Empties the list."""
    try:
        while sleepers:
            sleeper = sleepers[0]
            # From here to the call is one step (R2), so no sleeper is lost.
            del sleepers[0]
            sleeper.release()
    except BaseException:
        _release(sleepers)
        raise


def _end_dependants(
    dependants: list[Dependant],
    error: EndedError,
    cause: BaseException | None,
    contexts: list[Context],
    things: list[Any],
) -> None:
    """Tell all of them, from the end of the list, also when a Ctrl-C strikes meanwhile.

    Empties the list."""
    try:
        while dependants:
            dependants[-1].parent_ended(error, cause, contexts, things)
            dependants.pop()
    except BaseException:
        try:
            if dependants:
                # It may have been in the middle of it, so it is told once more.
                dependants.pop().parent_ended(error, cause, contexts, things)
        finally:
            _end_dependants(dependants, error, cause, contexts, things)
        raise


def check_may_begin(context: Context) -> None:
    """Raise if a call would begin although its context has ended.

    A call that a kill has kept from beginning fails as one that waits does."""
    if context.err() is None:
        return
    if isinstance(cause := context.cause(), TaskManagerKilledError):
        raise TaskManagerKilledError(*cause.args)
    context.raise_if_done()


def check_context(field: str, value: object, *, or_none: bool = False) -> Context:
    """`value`, a context. Raises `ConfigError` otherwise.

    With `or_none` the error says that `None` is allowed; the caller has looked for
    that."""
    if not isinstance(value, Context):
        allowed = "None or a Context" if or_none else "a Context"
        raise ConfigError(
            f"{field} must be {allowed}, for example background(), not {shown(value)}"
        )
    return value


def _deadline_error() -> DeadlineExceededError:
    return DeadlineExceededError("context deadline exceeded")


def _check_callback(callback: object) -> None:
    check_callable("callback", callback, 0)


def _guarded(callbacks: list[Callback]) -> list[Callback]:
    def guard(callback: Callback) -> Callback:
        def call() -> None:
            try:
                callback()
            except BaseException as error:
                pass_on(error)
                what, name = "tasker: a context's on_done callback %s raised", name_of(callback)
                ours.fault("error", what, name, error=error, kind=kind_of(callback))

        return call

    callbacks.reverse()
    return [guard(callbacks.pop()) for _ in range(len(callbacks))]


def _start_afresh() -> None:
    """In a forked child (R5). The lock stays the same object: the class refers to
    it."""
    lock: Any = _lock
    lock._at_fork_reinit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)

"""`Context`: Go's `context` in Python. Deadlines, cancellation and values that flow down to whoever does the work.

A context is live until it is done, once and for good: cancelled, or its deadline passed, or its parent done.
Being done flows down, never up. Like in Go, a parent keeps the contexts made from it until they are done, so cancel the
ones that you make, or use them in a `with` block.

One `_lock` guards the fields of all contexts, for a few lines at a time, and no callback runs under it. It is one, so
that a signal handler can find out whether the thread that it interrupted holds it.

One is made for each task that asks for it, so making it must cost next to nothing: it gets three attributes and takes
no lock. What few contexts have is a class attribute until it differs.

Source of the rules: Go's package `context` (`Background`, `WithCancelCause`, `WithDeadline`, `WithValue`, `AfterFunc`).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self

from tasker import checks
from tasker._base.callables import check_callable
from tasker._sync import timer
from tasker._sync.clock import shift
from tasker._sync.guard import pass_on, tell
from tasker._sync.guarded_logger import ours
from tasker._sync.locks import new_lock
from tasker._sync.parking import new_sleep_lock
from tasker._sync.recurring import kind_of
from tasker.errors import ContextCancelledError, DeadlineExceededError, name_of, shown

__all__ = ["Context", "background", "with_cancel", "with_deadline", "with_timeout", "with_value"]

_lock = new_lock()  # reentrant: a signal handler may cancel what its thread is looking at

_new: Any = object.__new__
EndedError = ContextCancelledError | DeadlineExceededError
Callback = Callable[[], object]


class Sleeper(Protocol):
    """What is released when a context is done: a lock on which a thread sleeps, say."""

    def release(self) -> object: ...


class Context:
    """A cancellation signal, a deadline and values, handed to the code that does the work.

    Made by `background()`, `with_cancel()`, `with_timeout()`, `with_deadline()` and `with_value()`; a task gets one
    when its function asks for it. Leaving its `with` block cancels it. Every method may be called from any thread;
    only `wait()` blocks."""

    _lock = _lock
    _parent: Context | None
    _deadline: float | None
    _error: EndedError | None
    _cause: BaseException | None = None
    _key: object = None
    _value: object = None
    _followers: _Followers | None = None
    _entry: timer.TimerEntry | None = None

    def __init__(self) -> None:
        raise TypeError("contexts are made by background(), with_cancel() and its like")

    # -- what the work asks ------------------------------------------------------------------------------------

    def cancelled(self) -> bool:
        """Whether the context is done, cancelled or past its deadline."""
        return self._error is not None

    def err(self) -> EndedError | None:
        """Why it is done: a `ContextCancelledError`, a `DeadlineExceededError`, or `None` while it is live."""
        return self._error

    def cause(self) -> BaseException | None:
        """What the canceller gave as the reason, else what `err()` says; `None` while it is live."""
        return self._cause if self._cause is not None else self._error

    def deadline(self) -> float | None:
        """When it ends by itself, in seconds of `time.monotonic()`; `None` without a deadline."""
        return None if self._deadline is None else self._deadline - _ahead()

    def remaining(self) -> float | None:
        """Seconds until the deadline, never below 0; `None` without a deadline, as timeout arguments want it."""
        return None if self._deadline is None else max(0.0, self._deadline - timer.now())

    def value(self, key: object) -> object:
        """The value that the nearest `with_value(..., key, value)` above gave to `key`; `None` where nobody did."""
        context: Context | None = self
        while context is not None:
            if context._key is not None and context._key == key:
                return context._value
            context = context._parent
        return None

    def stopping(self) -> bool:
        """Whether the manager that runs this task is draining: a long task may want to finish early."""
        context: Context | None = self
        while context is not None and not isinstance(context, ManagerValues):
            context = context._parent
        return context is not None and context.is_stopping()

    def raise_if_done(self) -> None:
        """Raise what `err()` says, from its `cause()`, if the context is done."""
        if self._error is not None:
            # a fresh instance: a shared one would collect the traceback of everyone who raises it
            raise type(self._error)(*self._error.args) from self._cause

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep for `timeout` seconds (`None`: until done), waking early when the context is done.

        Returns whether it is done. Ctrl-C interrupts it (on Windows from Python 3.14 on). Raises `ConfigError` for
        a wrong time."""
        limit = checks.patience("timeout", timeout)
        if timer.clock is not None and timeout is not None:
            with with_timeout(
                self, limit
            ) as limited:  # a test's clock is followed by deadlines alone
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
        """Call `callback()` once when the context is done; at once if it is done already.

        It runs in the thread that cancels, or on a thread of its own when a deadline passes; what it raises is logged.
        Returns a function that takes it back and says whether that was in time (Go's `AfterFunc`). Raises `TypeError`
        for what cannot be called without arguments."""
        _check_callback(callback)
        entry = functools.partial(
            callback
        )  # compared by identity: one may be added twice, and == may be the user's
        with self._lock:
            followers = self._followed()
            live = self._error is None
            if live:
                followers.callbacks.append(entry)
        if not live:
            tell(lambda: _guarded([entry]))

        def take_back() -> bool:
            with self._lock:
                followers = self._followers
                if followers is None or entry not in followers.callbacks:
                    return False
                followers.callbacks.remove(entry)
                return True

        return take_back

    # -- what its owner does -----------------------------------------------------------------------------------

    def cancel(self, cause: BaseException | None = None) -> None:
        """End this context and all that were made from it; harmless when done. Runs their callbacks, in this thread.

        Raises `TypeError` for a `cause` that is no exception, and always on `background()`."""
        if cause is not None and not isinstance(cause, BaseException):
            raise TypeError(f"cause must be an exception or None, not {shown(cause)}")
        error = ContextCancelledError("context cancelled")
        tell(lambda: _guarded(self._end(error, cause, [])))

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

    # a context is what others cancel and wait for: a copy of what refers to it refers to the same one

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            f"a context cannot be pickled, as its end would not be told elsewhere: {self!r}"
        )

    # -- inside tasker -----------------------------------------------------------------------------------------

    def _add_sleeper(self, sleeper: Sleeper) -> None:
        """Have it released when the context is done, by whoever ends it: it must not block. At once if it is done."""
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
        """What is told of its end. With the lock held; ask for it, *then* look whether the context is live, then add: a
        signal handler may end it until that look, but not after."""
        followers = self._followers
        if followers is None:
            made = _Followers()
            followers = self._followers  # a signal handler may have been here, too
            if followers is None:
                followers = self._followers = made
        return followers

    def _items(self) -> list[tuple[object, object]]:
        """Keys and values, those of the root first."""
        items: list[tuple[object, object]] = []
        context: Context | None = self
        while context is not None:
            if context._key is not None:
                items.append((context._key, context._value))
            context = context._parent
        return items[::-1]

    def _end(
        self, error: EndedError, cause: BaseException | None, things: list[Any]
    ) -> list[Callback]:
        """End this context and all below it; return the user's callbacks for the caller to run.

        Puts into `things` what may be referred to by nothing else now, for the caller to let go of."""
        callbacks: list[Callback] = []
        ending: list[Context] = [self]
        while ending:  # a loop and not a recursion: chains of contexts may be long
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
        if self._parent is not None:
            self._parent._forget(self)
        return callbacks

    def _attach(self) -> None:
        """Below a parent that can end: end with it. With a deadline of its own: end by the timer, or now."""
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
        if self._error is not None:  # ended in between: its entry must not stay behind
            entry.cancel()  # not by the attribute, which who ends it empties

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
        if timer.clock is not None:  # a test's: this is not the timer thread
            timer.heal_runner_later()


class _Followers:
    """What is told when a context ends."""

    __slots__ = ("callbacks", "children", "sleepers")

    def __init__(self) -> None:
        self.children: dict[Context, None] = {}  # insertion-ordered, so that ends are told in order
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
        return lambda: True  # it never is: nothing to keep, and never too late

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
    """What tasks inherit from their manager: whether it is stopping, and the values of its context, without the
    cancellation and deadline of that (Go's `WithoutCancel`)."""

    def __init__(self, source: Context, is_stopping: Callable[[], bool]) -> None:
        self._parent = source
        self._deadline = self._error = None
        self.is_stopping: Callable[[], bool] = is_stopping

    def _can_end(self) -> bool:
        return False


class TaskContext(Context):
    """The context of one task. Its deadline is watched by the task's future, which ends task and context together."""


def new_task_context(values: ManagerValues, deadline: float | None = None) -> TaskContext:
    """Made on the hot path: to call a class would cost more than all of this."""
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
    """A context that ends when it is cancelled, or with `parent`. Raises `TypeError` for a `parent` that is none."""
    return _derive(parent)


def with_timeout(parent: Context, seconds: float) -> Context:
    """A context that ends after `seconds` from now (0: at once; infinite: never by itself), or with `parent`.

    Raises `ConfigError` for a wrong time, `TypeError` for a `parent` that is no context."""
    limit = checks.seconds("seconds", seconds, infinite=True)
    return _derive(parent, None if limit == float("inf") else timer.now() + limit)


def with_deadline(parent: Context, monotonic: float) -> Context:
    """A context that ends when `time.monotonic()` reaches `monotonic` (seconds), or with `parent`.

    Raises `TypeError` for what is no time (NaN, say), or for a `parent` that is no context."""
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
    """A context that answers `value(key)` with `value`, and ends when it is cancelled, or with `parent`.

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
    """Seconds by which `timer.now()` is ahead of the clock that users read: 0 unless a test has replaced that one."""
    return shift() if timer.clock is None else 0.0


def _release(sleepers: list[Sleeper]) -> None:
    """Wake all of them, also when an error or a Ctrl-C strikes meanwhile. Empties the list."""
    try:
        while sleepers:
            sleeper = sleepers[0]
            del sleepers[0]  # from here to the call Python runs no signal handler
            sleeper.release()
    except BaseException:
        _release(sleepers)
        raise


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
    """In a forked child: the lock may be held by a thread that is not there."""
    lock: Any = _lock  # the same object from now on: the class refers to it
    lock._at_fork_reinit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)

"""`TaskFuture`: a queued call that is its own future.

    PENDING --start--> RUNNING --finish--------------> FINISHED
       |  ^--requeue-----'  |                             ^
       |                    '--claim--> SETTLING --settle-|
       |--claim--> SETTLING --settle----------------------'
       '--cancel-> CANCELLED_AND_NOTIFIED

The state is the only arbiter of the task's fate, and every move is made under the future's own lock: who moves it out
of PENDING or RUNNING has won, everybody else finds it moved and does nothing. A worker moves straight to FINISHED,
counting in the same breath. Whoever else ends a task (a timeout, `kill()`, the closing) or has a user's collector to
tell claims it first, records it, and then publishes the outcome: record, wake the waiters, call back, in this order.

The lock, under the name `_condition`, is what `concurrent.futures.wait` and `as_completed` take; of a condition they
use nothing but the lock, and what does use more (`Future.result` and its like) is replaced here. It is reentrant, as a
signal handler may cancel the very future its thread is looking at. Nothing of the user's runs under it. Lock order: a
future's lock, then the lock of a standard waiter; none of tasker's other locks is taken under it.

Attributes that a task seldom needs are class attributes until they differ: a queued task is small and quickly made.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import traceback
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future, InvalidStateError
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import Any, Protocol, TypeVar

from tasker import checks, timer
from tasker.context import Callback, EndedError, TaskContext
from tasker.errors import DeadlineExceededError, TaskTimeoutError
from tasker.logger import GuardedLogger
from tasker.metrics import TaskLifecycleTimestamps
from tasker.timer import TimerEntry

__all__ = ["Owner", "TaskFuture"]

T = TypeVar("T")
SETTLING = "SETTLING"
_DONE = (FINISHED, CANCELLED_AND_NOTIFIED)

_allocate_lock = threading.Lock


class Owner(Protocol):
    """What a future needs of the manager that accepted it. Nothing here runs user code in the calling thread, but
    `record_failure` where `has_collector`."""

    logger: GuardedLogger
    has_collector: bool
    """Whether `record_failure` tells a user's collector."""

    def entry_died(self, future: TaskFuture[Any]) -> None:
        """A waiting task was settled: its entry in the lane is empty from now on, and its slot free."""

    def record_cancelled(self, future: TaskFuture[Any]) -> None:
        """Count a task that was cancelled while it waited."""

    def record_failure(self, future: TaskFuture[Any], error: BaseException, *, was_waiting: bool) -> None:
        """Count a task that was failed from outside; one that was killed while it waited counts as cancelled."""

    def run_aside(self, *jobs: Callback) -> None:
        """Have user code run by another thread."""


class TaskFuture(Future[T]):
    """The outcome of a queued task: a `concurrent.futures.Future` that can also be awaited.

    Works with `concurrent.futures.wait`, `as_completed` and `asyncio.wrap_future`. Made by `TaskManager.submit` and its
    like, not by users. A future that failed and that nobody asked for its result or exception is logged when it is
    collected."""

    attempts: int = 0
    """How many times the task was started; more than 1 after retries."""

    # the call, emptied when the task is settled
    _fn: Callable[..., T] | None
    _args: tuple[Any, ...] | None
    _owner: Owner
    _queued_at: float
    _started_at: float
    _wants_context = False
    _priority = False
    _once = False
    # the outcome; named as concurrent.futures knows them
    _state: str
    _result: T | None = None
    _exception: BaseException | None = None
    # what only some tasks have
    _deadline: float | None = None
    _timer_entry: TimerEntry | None = None
    _context: TaskContext | None = None
    _cancel_asked = False  # cancelled while running: never retried
    _holds_slot = False  # of a bounded queue
    _sleepers: list[threading.Lock] | None = None  # threads in result() or exception()
    _standard_waiters: list[Any] | None = None  # those of wait() and as_completed()
    _callbacks: list[Callable[[Future[T]], object]] | None = None
    _has_more = False  # something for `_finish_up`: a timer entry, a context, callbacks
    _unseen: _UnseenFailure | None = None

    def __init__(self, owner: Owner, fn: Callable[..., T], args: tuple[Any, ...], queued_at: float) -> None:
        # Future.__init__ is not called: it makes a Condition and two lists, which costs more than all the rest
        self._condition = threading.RLock()  # type: ignore[assignment]  # see the module's docstring
        self._owner = owner
        self._fn = fn
        self._args = args
        self._queued_at = queued_at
        self._state = PENDING

    # -- what callers do ---------------------------------------------------------------------------------------

    def result(self, timeout: float | None = None) -> T:
        """The task's result; raises the task's own exception.

        Blocks until there is one; Ctrl-C interrupts that (on Windows from Python 3.14 on). Raises `TimeoutError` after
        `timeout` seconds, which leaves the task alone, and `CancelledError` when the task was cancelled."""
        if self._state is not FINISHED:
            self._wait(timeout)
        if self._exception is not None:
            self._see()
            try:
                raise self._exception
            finally:
                del self  # the exception's traceback holds this frame, which must not hold the exception
        return self._result  # type: ignore[return-value]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The exception that the task raised, `None` if it returned. Blocks and raises as `result()` does."""
        if self._state is not FINISHED:
            self._wait(timeout)
        self._see()
        if isinstance(self._exception, StopIteration):
            return _for_asyncio(self._exception)
        return self._exception

    def cancel(self) -> bool:
        """Cancel the task if it has not started: `True` means that it never runs (again).

        Of a running task this cancels the context and returns `False`; it will not be retried."""
        with self._condition:
            was = self._state
            if was is PENDING:
                self._publish_locked(CANCELLED_AND_NOTIFIED, None, None)
            elif was is RUNNING:
                self._cancel_asked = True
            context = self._context
        if was is PENDING:
            self._leave_lane()
        elif was is RUNNING and context is not None:
            context.cancel()
        return self._state is CANCELLED_AND_NOTIFIED

    def cancelled(self) -> bool:
        """Whether the task was cancelled before it started."""
        return self._state is CANCELLED_AND_NOTIFIED

    def running(self) -> bool:
        """Whether the task is being executed."""
        return self._state is RUNNING or self._state is SETTLING

    def done(self) -> bool:
        """Whether there is an outcome."""
        return self._state in _DONE

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call `fn(self)` when there is an outcome, at once if there is; callbacks run in the order they were added.

        It runs in the thread that settles the task, a worker most often, or on a thread of its own after a timeout or
        `kill()`. What it raises is logged."""
        with self._condition:
            if self._state not in _DONE:
                if self._callbacks is None:
                    self._callbacks = []
                self._callbacks.append(fn)
                self._has_more = True
                return
        self._call(fn)

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio  # only programs that await need it

        return asyncio.wrap_future(self).__await__()

    def __repr__(self) -> str:
        state, outcome = self._state, ""
        if state is FINISHED:
            error = self._exception
            outcome = f" raised {type(error).__name__}" if error is not None else f" returned {type(self._result).__name__}"
        return f"<TaskFuture at {id(self):#x} state={state.lower()}{outcome}>"

    # -- closed to others: a task's outcome is its worker's to set --------------------------------------------------

    def set_running_or_notify_cancel(self) -> bool:
        """Raises `InvalidStateError`: the manager starts its tasks itself."""
        raise InvalidStateError(f"{self!r} is started and settled by its manager alone")

    def set_result(self, result: T) -> None:
        """Raises `InvalidStateError`: the manager settles its tasks itself."""
        raise InvalidStateError(f"{self!r} is started and settled by its manager alone")

    def set_exception(self, exception: BaseException | None) -> None:
        """Raises `InvalidStateError`: the manager settles its tasks itself."""
        raise InvalidStateError(f"{self!r} is started and settled by its manager alone")

    # -- what workers do ---------------------------------------------------------------------------------------

    def _start(self, now: float) -> bool:
        """Take the task for running it; `False` when it is settled."""
        with self._condition:
            if self._state is not PENDING:
                return False
            self._state = RUNNING
        self._started_at = now
        self.attempts += 1
        return True

    def _succeed(self, result: T, durations: list[float], now: float) -> bool:
        """Settle a running task and append its two durations for the metrics; `False` when it is settled."""
        with self._condition:
            if self._state is not RUNNING:
                return False
            durations.append(self._started_at - self._queued_at)
            durations.append(now - self._started_at)
            self._publish_locked(FINISHED, result, None)
        if self._has_more:
            self._finish_up()
        return True

    def _claim(self) -> str | None:
        """Win the right to settle: the state it was in (PENDING or RUNNING), or `None` when it is settled."""
        with self._condition:
            was = self._state
            if was is not PENDING and was is not RUNNING:
                return None
            self._state = SETTLING
            return was

    def _publish(self, exception: BaseException | None, result: T | None = None) -> None:
        """Settle a claimed task: wake its waiters. `_finish_up` is what remains to be done."""
        with self._condition:
            if exception is not None and not isinstance(exception, CancelledError):
                self._unseen = _UnseenFailure(exception, self._owner.logger)
            self._publish_locked(FINISHED, result, exception)

    def _requeue(self) -> bool:
        """Make a running task wait again; `False` when it is settled or must not run again."""
        with self._condition:
            if self._state is not RUNNING or self._cancel_asked:
                return False
            self._state = PENDING
            return True

    def _make_context(self, context: TaskContext) -> TaskContext:
        """Give a running task its context, ended already if that was asked for before there was one."""
        with self._condition:
            self._context = context
            self._has_more = True
            late = self._cancel_asked or self._state is not RUNNING
        if late:
            context.cancel()
        return context

    def _stamps(self, now: float) -> TaskLifecycleTimestamps:
        return TaskLifecycleTimestamps(self._queued_at, self._started_at if self.attempts else now, now)

    # -- what ends a task from outside -------------------------------------------------------------------------

    def _set_deadline(self, deadline: float) -> None:
        """Before the task is put: end it at `deadline`, in seconds of `time.monotonic()`."""
        self._deadline = deadline
        self._has_more = True
        self._timer_entry = timer.at(deadline, self._expire)

    def _expire(self) -> None:
        """The deadline passed. Runs on the timer thread."""
        allowed = (self._deadline or 0.0) - self._queued_at
        where = "while running: its context is cancelled" if self.attempts else "while queued: it never started"
        error = TaskTimeoutError(f"the task's timeout of {allowed:g} s ended {where}")
        self._fail_from_outside(error, DeadlineExceededError("the task's timeout ended"))

    def _fail_from_outside(self, error: BaseException, ending: EndedError) -> bool:
        """Settle a waiting or running task and end its context, in a thread that must not run user code.

        What is the user's (callbacks, a collector to be told first) runs aside. `False` when it is settled."""
        was = self._claim()
        if was is None:
            return False
        owner = self._owner
        if was is PENDING:
            owner.entry_died(self)
        jobs = self._context.end(ending, error) if self._context is not None else []

        def settle() -> None:
            owner.record_failure(self, error, was_waiting=was is PENDING)
            self._publish(error)

        if owner.has_collector:
            jobs = [settle, self._finish_up, *jobs]
        else:
            settle()
            if self._has_more:
                jobs = [self._finish_up, *jobs]
        if jobs:
            owner.run_aside(*jobs)
        return True

    def _ask_to_end(self, ending: EndedError, cause: BaseException) -> list[Callback]:
        """End the context of a running task, which is not retried; returns user callbacks for the caller to have run."""
        with self._condition:
            if self._state is not RUNNING or self._cancel_asked:
                return []
            self._cancel_asked = True
            context = self._context
        return context.end(ending, cause) if context is not None else []

    def _end_after_fork(self, error: BaseException) -> None:
        """In a forked child, where whoever would settle this, or holds its lock, does not exist."""
        if self._state not in _DONE:
            self._condition = threading.RLock()  # type: ignore[assignment]
            self._sleepers = self._standard_waiters = None
            with self._condition:
                self._publish_locked(FINISHED, None, error)

    def _withdraw(self) -> bool:
        """Take back a submission that the closing overtook; `False` when it was started or settled."""
        with self._condition:
            if self._state is not PENDING:
                return False
            self._publish_locked(CANCELLED_AND_NOTIFIED, None, None)
        self._leave_lane()
        return True

    # -- the pieces --------------------------------------------------------------------------------------------

    def _publish_locked(self, state: str, result: T | None, exception: BaseException | None) -> None:
        """Store the outcome, the state last, and wake who waits; drops the call. The lock is held."""
        self._fn = self._args = None
        self._result = result
        self._exception = exception
        self._state = state
        if self._sleepers is not None:
            for sleeper in self._sleepers:
                sleeper.release()
            self._sleepers = None
        if self._standard_waiters is not None:
            for waiter in self._standard_waiters:
                if state is CANCELLED_AND_NOTIFIED:
                    waiter.add_cancelled(self)
                elif exception is not None:
                    waiter.add_exception(self)
                else:
                    waiter.add_result(self)

    def _leave_lane(self) -> None:
        """After a waiting task was cancelled: its entry is empty, and it is counted."""
        self._owner.entry_died(self)
        self._owner.record_cancelled(self)
        if self._has_more:
            self._finish_up()

    def _finish_up(self) -> None:
        """After the outcome is published: let go of the timer and the context, then call back."""
        entry, self._timer_entry, self._context = self._timer_entry, None, None
        if entry is not None:
            entry.cancel()
        callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            self._call(callback)

    def _call(self, callback: Callable[[Future[T]], object]) -> None:
        try:
            callback(self)
        except BaseException:
            self._owner.logger.error("tasker: callback %r of %r raised\n%s", callback, self, traceback.format_exc())

    def _wait(self, timeout: float | None) -> None:
        """Sleep until there is an outcome; raises `TimeoutError` when there is none, `CancelledError` if cancelled."""
        limit = -1.0 if timeout is None else _limit(timeout)
        sleeper = _allocate_lock()
        sleeper.acquire()
        with self._condition:
            if self._sleepers is None:
                self._sleepers = []
            self._sleepers.append(sleeper)  # announce, then look: a signal handler may settle it in between
            waits = self._state not in _DONE
        if waits:
            woken = False
            try:
                woken = sleeper.acquire(timeout=limit)
            finally:
                if not woken:
                    self._forget_sleeper(sleeper)
            if not woken and self._state not in _DONE:
                raise TimeoutError(f"no outcome within {timeout} s; the task goes on")
        if self._state is CANCELLED_AND_NOTIFIED:
            raise CancelledError

    def _forget_sleeper(self, sleeper: threading.Lock) -> None:
        with self._condition:
            if self._sleepers is not None and sleeper in self._sleepers:
                self._sleepers.remove(sleeper)

    def _see(self) -> None:
        unseen, self._unseen = self._unseen, None
        if unseen is not None:
            unseen.seen = True

    @property
    def _waiters(self) -> list[Any]:
        """The standard library's waiters; it reads and changes this list under `_condition`."""
        if self._standard_waiters is None:
            self._standard_waiters = []
        return self._standard_waiters

    @property
    def _done_callbacks(self) -> list[Any]:
        return self._callbacks or []


class _UnseenFailure:
    """Logs a failure that nobody asked for, when the future it belongs to is collected (as asyncio does)."""

    __slots__ = ("error", "logger", "seen")

    def __init__(self, error: BaseException, logger: GuardedLogger) -> None:
        self.error = error
        self.logger = logger
        self.seen = False

    def __del__(self) -> None:
        if not self.seen and not sys.is_finalizing():
            with contextlib.suppress(BaseException):  # an exception may be unable to print itself
                text = "".join(traceback.format_exception(self.error))
                self.logger.error("tasker: a task failed and nobody asked for its result or exception\n%s", text)


def _limit(timeout: object) -> float:
    return min(checks.seconds("timeout", timeout, infinite=True), threading.TIMEOUT_MAX)


def _for_asyncio(error: StopIteration) -> BaseException:
    """`error` for anyone but asyncio, whose futures refuse a StopIteration and then never end (up to 3.12.1)."""
    if not sys._getframe(2).f_globals.get("__name__", "").startswith("asyncio."):
        return error
    converted = RuntimeError("the task raised StopIteration")
    converted.__cause__ = error
    return converted

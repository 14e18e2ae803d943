"""`TaskFuture`: a queued call that is its own future, and the rights to decide its fate.

    PENDING --start--> RUNNING --settle--> FINISHED
       |  ^--requeue-----'                    ^
       |---------------settle-----------------|
       '---------------cancel-------> CANCELLED_AND_NOTIFIED

There are two rights, and each can be taken once. Each is an attribute that is there as long as nobody has taken it, and
`del` takes it: one indivisible bytecode on every build (free-threaded ones change an instance's dictionary under its
own lock; deleting a *slot* would not be indivisible there), cheaper than a lock, and interrupted by no signal.

- `_may_start`: who takes it is the only one to run a waiting task, or to take it out of its lane as dead
  (`entry_died`). Workers take it; so do `cancel()` and whoever settles a task that waits. A retry puts it back.
- `_may_settle`: who takes it is the only one to write the outcome. Workers take it when the task has ended, `cancel()`
  after `_may_start`, a timeout, `kill()` and the closing before it. It is never put back.

What waits for the outcome lies in the list `_waiting`, which is made for the first that waits: sleeping threads,
callbacks, the timer entry, the standard library's waiters. Who settles stores the outcome, `_final` last, *then* looks
into the list; who waits puts himself in, *then* looks at `_final`. So one of them sees the other. The same order,
announce and then look, decides between a retry and whoever cancels or settles at that moment.

Every settlement is: record, wake the waiters, then call back. A waiter stays in the list until it has been told, and a
callback until it is called: to take it out is the right to call it. So a settlement that an error cuts short (no
memory, say) can be done again, by any thread: `_store` says what the outcome is, `_finish` makes it final and tells.
A collector is told in between. It may block, so `Owner.settling` holds the task until it is final, and the burst
thread's tick finishes what has been there for too long.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import math
import os
import sys
import threading
from collections.abc import Callable, Collection, Generator
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    CancelledError,
    Future,
    InvalidStateError,
)
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING, _Waiter
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tasker import checks, deadlock, timer
from tasker.callables import check_callable
from tasker.clock import monotonic
from tasker.context import Callback, EndedError, ManagerValues, TaskContext, new_task_context
from tasker.current import in_task
from tasker.errors import DeadlineExceededError, TaskTimeoutError, name_of, shown
from tasker.guard import pass_on, tell
from tasker.interrupts import deliver_later
from tasker.locks import holds, holds_any, new_lock
from tasker.logger import GuardedLogger, line_of
from tasker.metrics import Stamps
from tasker.parking import Seat, give_way, new_sleeper
from tasker.recurring import kind_of
from tasker.threads import leave_child
from tasker.timer import TimerEntry

__all__ = ["DoneCallback", "Owner", "TaskFuture", "for_asyncio", "is_looked_into_here", "new_task", "task_made_of"]

T = TypeVar("T")

_new: Any = object.__new__
_STORED = 1.0  # seconds after which a thread that has taken the right to settle has stored the outcome, or never will
_first_waiter = new_lock()  # held while `_waiting` is made; reentrant: a signal handler may make another's


def _start_afresh() -> None:
    """In a forked child the locks may be held by a thread that does not exist."""
    global _first_waiter, _looked_into, _of_orphans
    _first_waiter = new_lock()
    _looked_into = set()
    _of_orphans = _StandardWaiters()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)


class Owner(Protocol):
    """What a future needs of the manager that accepted it. Nothing here runs user code in the calling thread, but
    `record_failure` where `has_collector`."""

    logger: GuardedLogger
    has_collector: bool
    """Whether `record_failure` tells a user's collector."""
    orphaned: BaseException | None
    """In a forked child: why no task will ever have an outcome."""
    settling: set[TaskFuture[Any]]
    """Tasks that are being settled, from outside or while a collector is told, until their callbacks are on their way.
    """

    def entry_died(self, future: TaskFuture[Any]) -> None:
        """A waiting task will not be taken (again): its entry in the lane is empty from now on, and its slot free."""

    def record_cancelled(self) -> None:
        """Count a task that was cancelled while it waited."""

    def record_failure(self, future: TaskFuture[Any], error: BaseException, *, was_waiting: bool) -> None:
        """Count a task that was failed from outside; one that was killed while it waited counts as cancelled."""

    def run_aside(self, jobs: list[Callback]) -> None:
        """Have user code run by another thread. Empties the list."""

    def let_go(self, things: list[Any]) -> None:
        """Have what is in the list dropped by another thread: it may be the user's. Empties the list."""


class TaskFuture(Future[T]):
    """The outcome of a queued task: a `concurrent.futures.Future` that can also be awaited.

    Works with `concurrent.futures.wait`, `as_completed` and `asyncio.wrap_future`. Made by `TaskManager.submit` and its
    like, not by users. A failure that nobody asked for is logged when its future is collected, unless the task had been
    asked to end.

    To cancel an await is to `cancel()` the future. But `asyncio.ensure_future(future)`, `gather(future)` and
    `wait_for(future, 0)` make an asyncio task, which awaits from its first step on: cancelled before that step, it
    leaves the future alone. `asyncio.wrap_future(future)` in its place hands on every cancellation, and so do eager
    tasks. `asyncio.wait` takes the wrapped form only."""

    attempts: int
    """How many times the task was started; more than 1 after retries."""

    # What every task needs is set when it is made (see new_task). The rest are class attributes until they differ.
    _owner: Owner
    # the rights
    _may_start: bool
    _may_settle: bool
    # the call, emptied when the task is settled
    _fn: Callable[..., T] | None
    _args: tuple[Any, ...] | None
    _wants_context: bool
    _variables: contextvars.Context | None
    _priority: bool
    _once = False
    _queued_at: float
    _started_at: float
    _timeout = 0.0
    _deadline: float | None = None
    _context: TaskContext | None  # as long as it runs, if there is one
    _cancel_asked = False  # cancelled while running: never retried
    _refused = False  # its submission raised when it was in its lane
    _is_counted = False  # that was counted
    # the outcome
    _stored: str | None = None  # what `_final` will be
    _final: str | None
    _result: T | None
    _exception: BaseException | None
    _unseen: _UnseenFailure | None = None
    _waiting: list[Any] | None
    _standard: _StandardWaiters | None = None

    def __init__(self) -> None:
        raise TypeError("tasks are made by TaskManager.submit() and its like")

    # -- what callers do ---------------------------------------------------------------------------------------

    def result(self, timeout: float | None = None) -> T:
        """The task's result; raises the task's own exception.

        Blocks until there is one; Ctrl-C interrupts that (on Windows from Python 3.14 on). Raises `TimeoutError` after
        `timeout` seconds, which leaves the task alone, and `CancelledError` when the task was cancelled. Without a
        timeout and inside of another task, `PoolDeadlockError` if the wait could never end. `ConfigError` for a wrong
        time."""
        if self._final is not FINISHED or timeout is not None:
            self._wait(timeout)
        if self._exception is not None:
            self._see()
            try:
                raise self._exception
            finally:
                del self  # the exception's traceback holds this frame, which must not hold the exception
        return self._result  # type: ignore[return-value]  # pyright: ignore[reportReturnType]  # None may be a T

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The exception that the task raised, `None` if it returned. Blocks and raises as `result()` does."""
        if self._final is not FINISHED or timeout is not None:
            if (orphaned := self._orphaned()) is not None:
                return orphaned
            self._wait(timeout)
        self._see()
        error = self._exception
        if isinstance(error, (StopIteration, GeneratorExit)) and _called_by_asyncio():
            return for_asyncio(error)
        return error

    def cancel(self) -> bool:
        """Cancel the task if it has not started: `True` means that it never runs (again).

        Of a running task this cancels the context and returns `False`; it will not be retried. Does not wait, but runs
        the callbacks of the future or of the context, in this thread."""
        if self._withdraw():
            return True
        if self._look() is None:
            self._cancel_asked = True
            if self._withdraw():  # it was put back for a retry since the first look
                return True
            if (context := self._context) is not None:
                context.cancel()
        return self._final is CANCELLED_AND_NOTIFIED

    def cancelled(self) -> bool:
        """Whether the task was cancelled before it started."""
        return self._look() is CANCELLED_AND_NOTIFIED

    def running(self) -> bool:
        """Whether the task is being executed."""
        return self._look() is None and not self._waits_for_start()

    def done(self) -> bool:
        """Whether there is an outcome."""
        return self._look() is not None

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call `fn(self)` when there is an outcome, at once if there is; callbacks run in the order they were added.

        It runs in the thread that settles the task, a worker most often, or on a thread of its own after a timeout or
        `kill()`. What it raises is logged. Raises `TypeError` for what cannot be called with one argument."""
        check_callable("fn", fn, 1, given="the future")
        callback = DoneCallback(fn)
        if self._orphaned() is None:
            self._announce(callback)
        if self._look() is not None:
            tell(lambda: self._calls_of([callback]))

    def __await__(self) -> Generator[Any, None, T]:
        from tasker import awaiting  # which imports asyncio: only programs that await need it

        if self._look() is None:
            yield from awaiting.outcome(self)
        if (orphaned := self._orphaned()) is not None:
            raise orphaned
        if self._final is CANCELLED_AND_NOTIFIED:
            raise awaiting.CancelledError
        if self._exception is not None:
            self._see()
            try:
                raise for_asyncio(self._exception)
            finally:
                del self  # as in result()
        return self._result  # type: ignore[return-value]  # pyright: ignore[reportReturnType]  # None may be a T

    def __repr__(self) -> str:
        state, outcome = self._state, ""
        if state is FINISHED:
            error = self._orphaned() or self._exception
            outcome = f" returned {type(self._result).__name__}"
            if error is not None:
                outcome = f" raised {type(error).__name__}"
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
        """Take a waiting task for running it; `False` when it is dead. Read the call before: settling empties it."""
        if not self._take_start():
            return False
        self._started_at = now
        self.attempts += 1
        return True

    def _requeue(self) -> bool:
        """Make a running task wait again: `True` if it is to be put back (perhaps as a dead entry)."""
        if self._cancel_asked:
            return False
        self._may_start = True  # announce, then look: whoever cancels or settles does it the other way round
        if self._cancel_asked or not hasattr(self, "_may_settle"):
            return not self._take_start()
        return True

    def _make_context(self, values: ManagerValues) -> TaskContext:
        """Give a running task its context, ended already if that was asked for before there was one."""
        context = self._context = new_task_context(values, self._deadline)
        # announced, then looked: whoever cancels or settles does it the other way round
        if self._cancel_asked or self._final is not None:
            context.cancel()
        return context

    def _stamps(self, now: float) -> Stamps:
        return self._queued_at, self._started_at if self.attempts else now, now

    # -- what ends a task from outside -------------------------------------------------------------------------

    def _set_timeout(self, seconds: float) -> None:
        """Before the task is put: end it so many seconds from now."""
        self._timeout = seconds
        self._deadline = deadline = timer.now() + seconds
        self._announce(timer.at(deadline, self._expire))

    def _expire(self) -> None:
        """The deadline passed. Runs on the timer thread."""
        where = "while running: its context is cancelled" if self.attempts else "while queued: it never started"
        error = TaskTimeoutError(f"the task's timeout of {self._timeout:g} s ended {where}")
        self._fail_from_outside(error, DeadlineExceededError("the task's timeout ended"))

    def _fail_from_outside(self, error: BaseException, ending: EndedError) -> bool:
        """Settle a waiting or running task and end its context, in a thread that must not run user code.

        What is the user's runs aside: callbacks, a collector that is told first, destructors of what the task refers
        to. The caller sees to it that the task itself is let go of there. `False` when it is settled."""
        owner = self._owner
        things: list[Any] = []
        if self._refused or not self._take_settle():  # refused: its timeout may outlive it, and concerns nobody
            return False
        was_waiting = counted = False
        try:
            # once it is counted, the manager could close before its callbacks are on their way
            owner.settling.add(self)
            self._cancel_asked = True
            things += (self._fn, self._args, self._variables)
            # before the call is emptied: a worker that took the task would call nothing
            was_waiting = self._take_start()
            if was_waiting:
                owner.entry_died(self)
            self._store(error)
            jobs = [] if self._context is None else self._context._end(ending, error, things)

            if owner.has_collector:
                jobs.insert(0, partial(self._fail_aside, error, was_waiting))
                owner.run_aside(jobs)
            else:
                owner.record_failure(self, error, was_waiting=was_waiting)
                counted = True
                jobs[:0] = self._finish_aside()
                owner.run_aside(jobs)
                owner.settling.discard(self)
        except BaseException:  # no memory: whatever else is left undone, what waits for the outcome is told
            if self._stored is None:
                self._exception = error  # neither needs memory
                self._final = FINISHED
            if not counted:
                owner.record_failure(self, error, was_waiting=was_waiting)
            owner.run_aside(self._finish_aside())
            owner.settling.discard(self)
            raise
        finally:
            owner.let_go(things)
        return True

    def _fail_aside(self, error: BaseException, was_waiting: bool) -> None:
        """The part of `_fail_from_outside` that tells a collector first."""
        self._owner.record_failure(self, error, was_waiting=was_waiting)
        callbacks = self._finish()
        self._owner.settling.discard(self)
        self._call_back(callbacks)

    def _finish_aside(self) -> list[Callback]:
        """Make the stored outcome final; returns what calls back, for another thread."""
        callbacks = self._finish()
        return [partial(self._call_back, callbacks)] if callbacks else []

    def _has_outcome(self) -> bool:
        """Whether the outcome is stored, so that any thread may `_finish`."""
        return self._stored is not None or self._final is not None

    def _settle_lost(self, error: BaseException) -> bool:
        """Its worker has fallen, perhaps with the right to settle. Returns whether this settled it, as a failure."""
        if not self._take_settle():
            # by this worker, or by a thread that will have stored the outcome in a moment
            moment, deadline = Seat(), monotonic() + _STORED
            while not self._has_outcome() and monotonic() < deadline:
                moment.sleep(0.001)
        settles = not self._has_outcome()
        if settles:
            self._store(error)
        self._call_back(self._finish())
        return settles

    def _ask_to_end(self, ending: EndedError, cause: BaseException, things: list[Any]) -> list[Callback]:
        """End the context of a running task, which is not retried; returns user callbacks for the caller to run.

        Puts into `things` what the caller is to let go of."""
        if self._final is not None or self._cancel_asked:
            return []
        self._cancel_asked = True
        context = self._context  # read once: the worker empties it
        return [] if context is None else context._end(ending, cause, things)

    def _withdraw(self) -> bool:
        """Cancel a waiting task; `False` when it was started or settled."""
        if self._orphaned() is not None or not self._take_start():
            return False
        settles = self._take_settle()  # or a timeout, say, has taken it, and will see that it must not start
        self._owner.entry_died(self)
        if settles:
            self._owner.record_cancelled()
            try:
                tell(lambda: self._calls_of(self._publish(None, state=CANCELLED_AND_NOTIFIED)))
            except BaseException:  # an interrupt in the middle of it: the others are told all the same
                tell(lambda: self._calls_of(self._finish()))
                raise
        return settles

    def _calls_of(self, callbacks: list[DoneCallback]) -> list[Callback]:
        return [partial(self._call_back, [callback]) for callback in callbacks]

    def _refuse(self) -> bool:
        """Its submission is about to raise although it was put: take it back. `False`: it is accepted."""
        was_refused, self._refused = self._refused, True  # announced first: what takes it out of the lane counts it
        if not self._take_start():
            self._refused = was_refused
        return self._refused

    def _count_refusal(self) -> None:
        """Its submission raised: it was not accepted and will not run. Nobody is told of that."""
        self._is_counted = True
        self._owner.entry_died(self)
        if self._take_settle():
            self._owner.record_cancelled()
            self._store(None, state=CANCELLED_AND_NOTIFIED)
            self._finish()

    def _look(self) -> str | None:
        """How it is settled; `None` if it is not. What a forked child has inherited unsettled has failed there."""
        final = self._final
        return FINISHED if final is None and self._owner.orphaned is not None else final

    def _orphaned(self) -> BaseException | None:
        """In a forked child: what a task of the parent's that had no outcome at the fork fails with.

        It is only said to have failed, and never changed. Without the GIL each object has a lock of CPython's, which is
        handed to a thread that has waited for it for 1 ms. A fork may come before that thread wakes up: then the lock
        stays taken in the child, and whoever changed the object there would wait for ever."""
        return self._owner.orphaned if self._final is None else None

    # -- the pieces --------------------------------------------------------------------------------------------

    def _take_start(self) -> bool:
        """Take the right to start: `False` when somebody else has it."""
        try:
            del self._may_start
        except AttributeError:
            return False
        return True

    def _take_settle(self) -> bool:
        """Take the right to settle: `False` when somebody else has it."""
        try:
            del self._may_settle
        except AttributeError:
            return False
        return True

    def _waits_for_start(self) -> bool:
        return hasattr(self, "_may_start")

    def _announce(self, waiter: object) -> None:
        """Put what waits for the outcome into the list; the caller looks at `_final` afterwards. Not for an orphan."""
        if self._waiting is None:
            with _first_waiter:
                if self._waiting is None:
                    self._waiting = [waiter]
                    return
        self._waiting.append(waiter)

    def _take_back(self, waiter: object) -> bool:
        """Take what waits out of the list: `False` when whoever settles the task has taken it."""
        if self._orphaned() is not None:
            return True  # nobody settles it here

        try:
            (self._waiting or []).remove(waiter)
        except ValueError:
            return False
        return True

    def _publish(
        self, exception: BaseException | None, result: T | None = None, state: str = FINISHED
    ) -> list[DoneCallback]:
        """Store the outcome and wake who waits; returns the callbacks. For the holder of SETTLE."""
        self._store(exception, result, state)
        return self._finish()

    def _store(self, exception: BaseException | None, result: T | None = None, state: str = FINISHED) -> None:
        """Say what the outcome is. For the holder of SETTLE; from now on any thread may `_finish`."""
        if exception is not None and not isinstance(exception, CancelledError):
            self._unseen = _UnseenFailure(exception, self._owner.logger)
            # what a task raises after it was asked to end interests nobody; a stream asks, then looks, at any time
            if self._cancel_asked and not isinstance(exception, TaskTimeoutError):
                self._see()
        self._fn = self._args = self._variables = None
        self._exception = exception
        self._result = result
        self._stored = state

    def _finish(self) -> list[DoneCallback]:
        """Make the stored outcome final and wake who waits; returns the callbacks. May be repeated."""
        if self._final is None:
            self._final = self._stored
        if self._waits_for_start() and self._take_start():  # put back by a worker that does not know that it is settled
            self._owner.entry_died(self)
        return self._tell_waiters()

    def _tell_waiters(self) -> list[DoneCallback]:
        """Wake whatever waits; returns the callbacks, for the caller to call. May be repeated.

        A list is copied under its own lock on free-threaded builds: what was put in before is found here, and who comes
        later finds the outcome."""
        callbacks: list[DoneCallback] = []
        self._context = None
        waiting = self._waiting
        if waiting is None:
            return callbacks
        trouble: BaseException | None = None
        for waiter in waiting.copy():
            if type(waiter) is DoneCallback:
                callbacks.append(waiter)
                continue
            try:
                if type(waiter) is TimerEntry:
                    waiter.cancel()
                elif type(waiter) is _StandardWaiters:
                    waiter.tell(self)
                elif hasattr(waiter, "wake"):  # an await, or a stream of results
                    waiter.wake()
                else:  # a thread that sleeps on a lock
                    waiter.release()
                waiting.remove(waiter)
            except ValueError:
                pass  # it was taken back meanwhile
            except BaseException as error:
                if type(error) is RuntimeError and hasattr(waiter, "release"):
                    self._take_back(waiter)  # it was released before: this is the second time
                else:
                    trouble = error  # Ctrl-C, no memory: the others are told before it goes on
        if trouble is not None:
            raise trouble
        return callbacks

    def _call_back(self, callbacks: list[DoneCallback]) -> None:
        for callback in callbacks:
            try:
                if self._take_back(callback):
                    callback.fn(self)
            except BaseException as error:
                pass_on(error)
                what, name = "tasker: callback %s raised", name_of(callback.given)
                self._owner.logger.fault("error", what, name, error=error, kind=kind_of(callback.given))
            leave_child()

    def _wait(self, timeout: float | None) -> None:
        """Sleep until there is an outcome; raises `TimeoutError` when there is none, `CancelledError` if cancelled. For
        an orphan raises what that fails with."""
        limit = checks.patience("timeout", timeout, negative=True)
        if (orphaned := self._orphaned()) is not None:
            raise orphaned
        if self._final is None:
            if timeout is None and in_task():
                self._sleep_in_task()
            else:
                self._sleep(limit)
            if self._final is None:
                raise TimeoutError(f"no outcome within {shown(timeout)} s; the task goes on")
        if self._final is CANCELLED_AND_NOTIFIED:
            raise CancelledError

    def _sleep(self, limit: float) -> None:
        """Sleep until there is an outcome, or for `limit` seconds (-1: no limit)."""
        if limit:  # who only looks is not to wait for others
            give_way()
        if self._final is not None:
            return
        sleeper = new_sleeper()
        self._announce(sleeper)
        woken = self._final is not None
        try:
            woken = woken or sleeper.acquire(timeout=limit)
        finally:
            if not woken:
                self._take_back(sleeper)

    def _sleep_in_task(self) -> None:
        """Sleep until there is an outcome; raises `PoolDeadlockError` if there could never be one."""
        seat = Seat()
        self._announce(seat)
        try:
            with deadlock.Wait(deadlock.Outcomes((self,)), seat.wake):
                if self._final is None:
                    seat.sleep()
        finally:
            self._take_back(seat)

    def _see(self) -> None:
        unseen = self._unseen
        if unseen is not None:
            self._unseen = None
            unseen.seen = True

    # -- what concurrent.futures.wait, as_completed and asyncio look at --------------------------------------------

    def _get_state(self) -> str:
        # an outcome that their waiters are yet to be told is not there yet: they must not see it and be told as well
        if self._orphaned() is not None:
            return FINISHED
        final = self._final
        if final is not None and (self._standard is None or self._standard.told):
            return final
        return PENDING if self._waits_for_start() else RUNNING

    def _get_condition(self) -> Any:
        """A lock, which is all that they use of it: as long as they hold it, their waiters are told nothing."""
        return self._standard_waiters().lock

    def _get_waiters(self) -> list[Any]:
        """Their waiters; they read and change this list with `_condition` held."""
        return self._standard_waiters().waiters

    def _get_snapshot(self) -> tuple[bool, bool, T | None, BaseException | None]:
        """What asyncio copies, from 3.15 on, in a callback of ours: is it done, cancelled, the result, the exception.

        By `_final`, not by `_state`: a callback that was added a moment ago runs before their waiters are told."""
        if (orphaned := self._orphaned()) is not None:
            return True, False, None, orphaned
        final = self._final
        if final is not FINISHED:
            return final is not None, final is not None, None, None

        self._see()
        error = self._exception
        return True, False, self._result, None if error is None else for_asyncio(error)

    if not TYPE_CHECKING:  # to a type checker they stay the attributes of Future that as_completed() asks for
        _state = property(_get_state)
        _condition = property(_get_condition)
        _waiters = property(_get_waiters)

    def _standard_waiters(self) -> _StandardWaiters:
        if self._orphaned() is not None:
            return _of_orphans
        standard = self._standard
        if standard is None:
            standard = self.__dict__.setdefault("_standard", _StandardWaiters())  # indivisible: there is one
        if not standard.announced:
            self._announce(standard)  # perhaps twice, if two threads come at once: told once all the same
            standard.announced = True
            if self._final is not None and self._take_back(standard):
                standard.tell(self)
        return standard


def new_task(
    owner: Owner,
    fn: Callable[..., T],
    args: tuple[Any, ...],
    wants_context: bool,
    queued_at: float,
    waiting: list[Any] | None = None,
    variables: contextvars.Context | None = None,
) -> TaskFuture[T]:
    """A future for a call; `waiting` is what waits for its outcome from the start, `variables` what the call runs in.

    Not `__init__`, because to call a class costs as much as all of this. Nor is `Future.__init__` called, which makes
    a condition and two lists. All attributes that every task gets are set here, because CPython finds room for no
    others in the compact form of an instance's dictionary."""
    task: TaskFuture[T] = _new(TaskFuture)
    task._may_start = task._may_settle = True
    task._owner = owner
    task._fn = fn
    task._args = args
    task._wants_context = wants_context
    task._variables = variables
    task._priority = False
    task._queued_at = task._started_at = queued_at
    task._waiting = waiting
    task._context = None
    task._result = task._exception = task._final = None
    task.attempts = 0
    return task


def task_made_of(future: Future[Any], *call: Any) -> TaskFuture[Any]:
    """`new_task`, but it is the given future that becomes the task: a new one, known to the calling thread alone.

    Raises `TypeError` for any other."""
    if type(future) is not Future or future._state != PENDING or future._waiters or vars(future)["_done_callbacks"]:
        raise TypeError(f"the future of a work item must be a new concurrent.futures.Future, not {shown(future)}")
    task: Any = future
    task.__dict__ = {**vars(new_task(*call))}
    task.__class__ = TaskFuture
    return task  # type: ignore[no-any-return]


class DoneCallback:
    """A user's callback, compared by identity, so that looking for it runs nothing of the user's.

    `fn` is called with the future; `given` is what the user gave, if that is another function."""

    __slots__ = ("fn", "given")

    def __init__(self, fn: Callable[[Future[Any]], object], given: object = None) -> None:
        self.fn: Callable[[Future[Any]], object] = fn
        self.given: object = given or fn


class _StandardWaiters:
    """The waiters that `concurrent.futures` installs in a future, and the lock under which it does so.

    The lock is reentrant: a signal handler may interrupt `wait()` and cancel the future that it looks at. Lock order:
    this one, then the waiter's own."""

    __slots__ = ("announced", "lock", "told", "waiters")

    def __init__(self) -> None:
        self.lock = new_lock()
        self.waiters: list[Any] = _WaiterList()
        self.announced = False
        self.told = False
        _looked_into.add(self)

    def is_held_here(self) -> bool:
        """Whether the calling thread holds a lock that is needed to tell the waiters."""
        return holds(self.lock) or any(holds(waiter.lock) for waiter in self.waiters.copy() if _is_standard(waiter))

    def tell(self, future: TaskFuture[Any]) -> None:
        """Tell the waiters of the outcome, once."""
        with self.lock:
            waiters = () if self.told else tuple(self.waiters)
            self.told = True
            for waiter in waiters:
                if future._final is CANCELLED_AND_NOTIFIED:
                    waiter.add_cancelled(future)
                elif future._exception is not None:
                    waiter.add_exception(future)
                else:
                    waiter.add_result(future)
            _looked_into.discard(self)  # not before: their locks are needed until here


_looked_into: set[_StandardWaiters] = set()  # those that are yet to be told


class _WaiterList(list[Any]):
    """The standard library's waiters in one future.

    The lock of a waiter and that inside of its event know no owner, and who settles a future takes both. A thread that
    a signal handler interrupts may hold them, and the handler has to know. So it gets a lock that says who holds it,
    and an event that needs none."""

    __slots__ = ()

    def append(self, waiter: Any) -> None:
        if _is_standard(waiter) and not isinstance(waiter.event, _Event):  # which is in no other list yet
            waiter.lock = new_lock()
            waiter.event = _Event(waiter)
        super().append(waiter)


def _is_standard(waiter: Any) -> bool:
    return isinstance(waiter, _Waiter)


class _Event:
    """A `threading.Event` for one thread that waits. In a task it is looked whether the wait may end.

    What `wait` and `as_completed` wait for is in the variables of their frames, and nowhere else."""

    def __init__(self, waiter: Any) -> None:
        self._is_set = False
        self._seat = Seat()
        stops = getattr(waiter, "stop_on_exception", None)  # as_completed and FIRST_COMPLETED have no such thing
        self._until = FIRST_COMPLETED if stops is None else FIRST_EXCEPTION if stops else ALL_COMPLETED

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        self._seat.wake()

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until it is set, for `timeout` seconds at most; whether it is."""
        futures = _awaited_in(sys._getframe(1)) if timeout is None and in_task() else None
        if futures is None:
            return self._sleep(timeout)
        with deadlock.Wait(deadlock.Outcomes(futures, self._until, TaskFuture), self.set):
            return self._sleep(None)

    def _sleep(self, timeout: float | None) -> bool:
        deadline = math.inf if timeout is None else monotonic() + timeout
        while not self._is_set:
            left = deadline - monotonic()
            if left <= 0:
                break
            self._seat.sleep(-1.0 if left == math.inf else min(left, threading.TIMEOUT_MAX))
        return self._is_set


_of_orphans = _StandardWaiters()  # of all orphans together: there is nothing to tell them


def is_looked_into_here() -> bool:
    """Whether the calling thread, in `wait()` or `as_completed()`, holds a lock that is needed to settle a future."""
    return any(standard.is_held_here() for standard in _looked_into.copy())


# where `wait` and `as_completed` keep the futures that they wait for
_VARIABLES = {
    getattr(function, "__code__", None): name
    for function, name in ((concurrent.futures.wait, "fs"), (concurrent.futures.as_completed, "pending"))
}


def _awaited_in(frame: FrameType) -> Collection[Any] | None:
    """What the caller waits for; `None`: it is another function, and nothing is known of its wait."""
    name = _VARIABLES.get(frame.f_code)
    return None if name is None else frame.f_locals.get(name)


class _UnseenFailure:
    """Logs a failure that nobody asked for, when the future it belongs to is collected (as asyncio does)."""

    __slots__ = ("error", "logger", "seen")

    def __init__(self, error: BaseException, logger: GuardedLogger) -> None:
        self.error = error
        self.logger = logger
        self.seen = False

    def __del__(self) -> None:
        if not getattr(self, "seen", True) and not sys.is_finalizing():
            log = partial(_log_unseen, self.error, self.logger)
            # what is raised in here Python drops: an interrupt comes a moment later
            try:
                # the collector may have come by in the middle of something, where a user's logger must not block
                if holds_any():
                    timer.aside.run(log)
                else:
                    log()
            except BaseException as interrupt:
                deliver_later(interrupt)


def _log_unseen(error: BaseException, logger: GuardedLogger) -> None:
    line, what = "", "tasker: a task failed and nobody asked for its result or exception"
    with contextlib.suppress(BaseException):  # an error that cannot be read still has a type
        line = line_of(error)
    if line:
        logger.error(what, error=error)
    else:
        logger.error(f"{what}: %s", type(error).__name__)


def _called_by_asyncio() -> bool:
    """Whether asyncio called the function that asks."""
    return str(sys._getframe(2).f_globals.get("__name__", "")).startswith("asyncio.")


def for_asyncio(error: BaseException) -> BaseException:
    """What asyncio can be given: its futures refuse a StopIteration and then never end (up to 3.12.1), and a
    GeneratorExit ends whoever awaits them without a word."""
    if not isinstance(error, (StopIteration, GeneratorExit)):
        return error
    converted = RuntimeError(f"the task raised {type(error).__name__}")
    converted.__cause__ = error
    return converted

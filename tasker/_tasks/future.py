"""`TaskFuture`: a queued call that is its own future, and the rights to settle it.

States
======

    PENDING --start--> RUNNING --settle--> FINISHED
       |  ^--requeue-----'                    ^
       |---------------settle-----------------|
       '---------------cancel-------> CANCELLED_AND_NOTIFIED

To *settle* a task is to write its outcome. Nothing leads out of the two states on the
right (I1).

Rights
======

Two rights decide every move. Each is an attribute that exists until a thread takes it
by `del` (R3), so exactly one thread gets it. Both must stay in the instance's
dictionary: free-threaded builds delete a *slot* in more than one step.

- `_may_start`: only the thread that takes it may run a waiting task, or take the task
  out of its lane as dead (`entry_died`). Workers take it. So do `cancel()` and every
  thread that settles a waiting task. A retry puts it back.
- `_may_settle`: only the thread that takes it may write the outcome. A worker takes it
  when the task has ended. `cancel()` takes it after `_may_start`. A timeout, `kill()`
  and the closing take it before `_may_start`. It is never put back.

Settling
========

What waits for the outcome is in the list `_waiting`: sleeping threads, callbacks, the
timer entry, the standard library's waiters. The list is made for the first of them. The
thread that settles the task stores the outcome, `_final` last, and *then* looks into
the list. A thread that waits puts itself into the list, and *then* looks at `_final`.
So one of the two sees the other (R1). The same order decides between a retry and a
thread that cancels or settles the task at that moment.

Every settlement records the outcome, then wakes the waiters, then calls the callbacks
(I7). A waiter leaves the list after it was woken. A callback leaves it before it is
called: the thread that removes it has the right to call it. So any thread can repeat a
settlement that an error cut short (no memory, say): `_store` notes the outcome,
`_finish` makes it final and wakes the waiters.

A user's collector is called between the two. It may block. So the task is in
`EngineForFuture.settling` until it is final, and the burst thread's tick finishes a
task that has been there for too long.

Fields: who may access which, and when
======================================

"The submitter" is the thread that submits the task, until the task is in its lane. "The
worker" is the one that took `_may_start` last, until it puts the task back or the
task is final. "The settler" is the thread that took `_may_settle`.

Fixed before the task is in its lane. Written by the submitter, read by any thread.

- `_engine`, `_wants_context`, `_priority`, `_once`, `_timeout`, `_run_timeout`,
  `_deadline`.
- `_values`: emptied by the thread that wakes the waiters.
- `_queued_at`: written again by a submitter that waited for room.

The rights. Any thread may take them, or look whether they are there.

- `_may_start`: put back only by the worker, in `_requeue`.
- `_may_settle`: put back by no thread.

The call. Written by the submitter, emptied by the settler in `_store` (a worker does
the same in its own loop).

- `_fn`, `_args`: a thread that needs them reads them *before* it takes `_may_start`.
  Afterwards any look may find `None`.
- `_variables`: read by the worker. It may be `None` there when another thread has
  settled the task meanwhile; then nothing depends on the call any more.

The run. Written by the worker, read by any thread.

- `_started_at`, then `attempts`: written once for each attempt, before the call.
- `_breakage`: written by the worker before it puts `_may_start` back. Set to 0 by the
  thread that takes `_may_start` of a task that is not to run.
- `_context`: made by the worker when the task asks for it. Emptied by the worker and by
  every thread that wakes the waiters, so other threads read it once, into a variable.

Marks. They only go from `False` to `True`, but for one way back of `_refused`.

- `_cancel_asked`: set by any thread, *before* it looks at `_context` or `_may_start`.
  The worker looks at it *after* it made the context or put back `_may_start` (R1).
- `_ending`: why the context ends. Set before `_cancel_asked`, by the same thread, if it
  is not by `cancel()`.
- `_refused`: set by the submitter when its submission is about to raise. It is set
  before `_may_start` is taken (R1), or `_is_counted` is set before. The submitter
  unsets it if a worker has taken the task. Read by the threads that drop a dead entry,
  and by the timeout.
- `_is_counted`: set by the thread that counts the refusal: the submitter, or the thread
  that drops the entry. Read by the latter.

The outcome. Written by the settler; the other threads read it when `_final` is set.

- `_exception`, `_result`, then `_stored`: in this order, in `_store`. From `_stored` on
  any thread may `_finish`. A worker's own loop writes no `_stored`: if an error cuts it
  short, `_settle_lost` settles the task. `deadlock` looks at any time whether there is
  an `_exception`.
- `_final`: read by any thread at any time. Written last, once: by the settler, or with
  the same value by any thread that finishes the settlement.
- `_unseen`: written by the settler before `_final`. Emptied by any thread that asks for
  the outcome.

The waiters.

- `_waiting`: made under `_first_waiter`, or given to `new_task`. Then any thread
  appends and removes; each of these is one step of the list's own.
- `_standard`: made by any thread, once, by `setdefault`. The lock within guards what is
  in it.
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
from datetime import timedelta
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tasker import checks
from tasker._base.callables import check_callable
from tasker._sync import timer
from tasker._sync.clock import monotonic
from tasker._sync.guard import notify, pass_on
from tasker._sync.guarded_logger import GuardedLogger, line_of
from tasker._sync.interrupts import deliver_later
from tasker._sync.locks import holds, holds_any, new_lock
from tasker._sync.parking import Parker, give_way, new_sleep_lock
from tasker._sync.recurring import kind_of
from tasker._sync.threads import is_service_thread, leave_child
from tasker._sync.timer import TimerEntry
from tasker._tasks import deadlock
from tasker._tasks.context import (
    Callback,
    Context,
    EndedError,
    ManagerValues,
    TaskContext,
    new_task_context,
)
from tasker._tasks.current import in_task
from tasker._tasks.parent import Tie
from tasker.errors import DeadlineExceededError, TaskTimeoutError, is_a, name_of, shown
from tasker.snapshots import Stamps

__all__ = [
    "DoneCallback",
    "EngineForFuture",
    "TaskFuture",
    "for_asyncio",
    "holds_waiters_lock",
    "new_task",
    "task_made_of",
]

T = TypeVar("T")

_new: Any = object.__new__

# A thread that has taken `_may_settle` stores the outcome within this time, or never
# will. A guess: it has a few steps to do, and waits for nothing but a processor.
_STORE_WAIT_S = 1.0

# How often a thread looks meanwhile. Short beside the wait above, and no busy loop.
_STORE_POLL_S = 0.001

# Held while `_waiting` is made. Reentrant: a signal handler may make another task's.
_first_waiter = new_lock()

# The process that runs this, for `_UnseenFailure`.
_process = os.getpid()


def _start_afresh() -> None:
    """In a forked child (R5)."""
    global _first_waiter, _unnotified, _of_orphans, _process
    _process = os.getpid()
    _first_waiter = new_lock()
    _unnotified = set()
    _of_orphans = _StandardWaiters()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)


class EngineForFuture(Protocol):
    """What a future needs of the manager that accepted it.

    Nothing here runs user code in the calling thread, except `record_failure` where
    `has_collector`."""

    logger: GuardedLogger
    has_collector: bool
    """Whether `record_failure` calls a user's collector."""
    orphaned: BaseException | None
    """In a forked child: why no task will ever have an outcome."""
    settling: set[TaskFuture[Any]]
    """Tasks that are being settled from outside, or whose collector is being called.
    They are in here until their callbacks are on their way."""

    def entry_died(self, future: TaskFuture[Any]) -> None:
        """A waiting task will not be taken (again).

        Its entry in the lane is empty from now on, and its seat is free."""

    def record_cancelled(self) -> None:
        """Count a task that was cancelled while it waited."""

    def record_failure(
        self, future: TaskFuture[Any], error: BaseException, *, was_waiting: bool
    ) -> None:
        """Count a task that was failed from outside.

        One that was killed while it waited counts as cancelled."""

    def run_in_other_thread(self, jobs: list[Callback]) -> None:
        """Have user code run by another thread. Empties the list."""

    def let_go(self, things: list[Any]) -> None:
        """Have another thread drop the objects in the list: they may be the user's.

        Empties the list."""


class TaskFuture(Future[T]):
    """The outcome of a queued task: a `concurrent.futures.Future` that can be awaited.

    Works with `concurrent.futures.wait`, `as_completed` and `asyncio.wrap_future`.
    `TaskManager.submit` and its like make it; users do not. A failure that no code has
    asked for is logged when its future is collected, unless the task had been asked to
    end.

    To cancel an await is to `cancel()` the future. But `asyncio.ensure_future(future)`,
    `gather(future)` and `wait_for(future, 0)` make an asyncio task, which awaits from
    its first step on. If that task is cancelled before this step, the future is left
    alone. `asyncio.wrap_future(future)` in its place hands on every cancellation, and
    so do eager tasks. `asyncio.wait` takes the wrapped form only."""

    attempts: int
    """How many times the task was started; more than 1 after retries."""

    # The module's docstring says who may access each of these, and when. `new_task`
    # sets what every task needs. The others are class attributes until they differ.
    _engine: EngineForFuture

    # The rights.
    _may_start: bool
    _may_settle: bool

    # The call.
    _fn: Callable[..., T] | None
    _args: tuple[Any, ...] | None
    _wants_context: bool
    _variables: contextvars.Context | None
    _priority: bool
    _once = False
    _queued_at: float
    _timeout = 0.0
    _run_timeout = 0.0
    _deadline: float | None = None
    # What it inherits, if it has a parent.
    _values: Tie | None = None

    # The run. The context is there as long as the task runs, if it has one.
    _started_at: float
    _context: TaskContext | None
    # The breakage that its last attempt has met (see `suspicion`); 0: none.
    _breakage = 0

    # The marks: it was cancelled while it ran, so it is not retried; its submission
    # raised while it was in its lane; that was counted.
    _cancel_asked = False
    _ending: tuple[EndedError, BaseException | None] | None = None
    _refused = False
    _is_counted = False

    # The outcome. `_stored` is what `_final` will be.
    _stored: str | None = None
    _final: str | None
    _result: T | None
    _exception: BaseException | None
    _unseen: _UnseenFailure | None = None

    # The waiters.
    _waiting: list[Any] | None
    _standard: _StandardWaiters | None = None

    def __init__(self) -> None:
        raise TypeError("tasks are made by TaskManager.submit() and its like")

    # -- what callers do ---------------------------------------------------------------

    def result(self, timeout: float | timedelta | None = None) -> T:
        """The task's result; raises the task's own exception.

        Blocks until there is one; Ctrl-C interrupts that (on Windows from Python 3.14
        on). Raises `TimeoutError` after `timeout` seconds, which leaves the task alone,
        and `CancelledError` when the task was cancelled. Without a timeout and inside
        of another task it raises `PoolDeadlockError` if the wait could never end.
        `ConfigError` for a wrong time."""
        if self._final is not FINISHED or timeout is not None:
            self._wait(timeout)

        if self._exception is not None:
            self._see()
            try:
                raise self._exception
            finally:
                del self  # (R4)

        # A T may be `None`.
        return self._result  # type: ignore[return-value]  # pyright: ignore[reportReturnType]

    def exception(self, timeout: float | timedelta | None = None) -> BaseException | None:
        """The exception that the task raised, `None` if it returned.

        Blocks and raises as `result()` does."""
        if self._final is not FINISHED or timeout is not None:
            if (orphaned := self._orphaned()) is not None:
                return orphaned

            self._wait(timeout)
        self._see()
        error = self._exception

        if is_a(error, (StopIteration, GeneratorExit)) and _called_by_asyncio():
            return for_asyncio(error)
        return error

    def cancel(self) -> bool:
        """Cancel the task if it has not started: `True` means it never runs (again).

        Of a running task this cancels the context and returns `False`; the task will
        not be retried. Does not wait, but runs the callbacks of the future or of the
        context, in this thread."""
        if self._withdraw():
            return True

        if self._look() is None:
            self._cancel_asked = True
            # It may have been put back for a retry since the first look (R1).
            if self._withdraw():
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
        """Call `fn(self)` when there is an outcome, at once if there is one already.

        Callbacks run in the order they were added, in the thread that settles the task:
        a worker most often, or a thread of its own after a timeout or `kill()`. An
        error that a callback raises is logged. Raises `TypeError` for an object that
        cannot be called with one argument."""
        check_callable("fn", fn, 1, given="the future")
        callback = DoneCallback(fn)

        if self._orphaned() is None:
            self._announce(callback)
        if self._look() is not None:
            notify(lambda: self._calls_of([callback]))

    def __await__(self) -> Generator[Any, None, T]:
        # It imports asyncio, which only programs that await need.
        from tasker._sync import awaiting

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
                del self  # (R4)

        # A T may be `None`.
        return self._result  # type: ignore[return-value]  # pyright: ignore[reportReturnType]

    def __repr__(self) -> str:
        state, outcome = self._state, ""
        if state is FINISHED:
            error = self._orphaned() or self._exception
            outcome = f" returned {type(self._result).__name__}"
            if error is not None:
                outcome = f" raised {type(error).__name__}"

        return f"<TaskFuture at {id(self):#x} state={state.lower()}{outcome}>"

    # -- closed to callers: only the manager starts and settles its tasks --------------

    def set_running_or_notify_cancel(self) -> bool:
        """Raises `InvalidStateError`: the manager starts its tasks itself."""
        raise InvalidStateError(f"{self!r} is started and settled by its manager alone")

    def set_result(self, result: T) -> None:
        """Raises `InvalidStateError`: the manager settles its tasks itself."""
        raise InvalidStateError(f"{self!r} is started and settled by its manager alone")

    def set_exception(self, exception: BaseException | None) -> None:
        """Raises `InvalidStateError`: the manager settles its tasks itself."""
        raise InvalidStateError(f"{self!r} is started and settled by its manager alone")

    # -- what workers do ---------------------------------------------------------------

    def _start(self, now: float) -> bool:
        """Take a waiting task in order to run it; `False` when it is dead.

        Read the call before: the thread that settles the task empties it."""
        if not self._take_start():
            return False

        self._started_at = now
        self.attempts += 1
        return True

    def _may_requeue(self) -> bool:
        """Whether a running task may wait again. What is `False` once stays so."""
        return not self._cancel_asked and hasattr(self, "_may_settle")

    def _requeue(self) -> bool:
        """Make a running task wait again.

        `True` if it is to be put back into its lane, perhaps as a dead entry."""
        if not self._may_requeue():
            return False

        # (R1) A thread that cancels or settles the task does it the other way round.
        self._may_start = True
        if self._cancel_asked or not hasattr(self, "_may_settle"):
            return not self._take_start()
        return True

    def _make_context(self, values: ManagerValues) -> TaskContext:
        """Give a running task its context.

        The context is ended already if that was asked for before it was there."""
        context = self._context = new_task_context(self._values or values, self._deadline)

        # (R1) A thread that cancels or settles the task does it the other way round.
        if self._cancel_asked or self._final is not None:
            if self._ending is None:
                context.cancel()
            else:
                # No callbacks: the user does not have it yet.
                context._end(*self._ending, [])
        return context

    def _stamps(self, now: float) -> Stamps:
        return self._queued_at, self._started_at if self.attempts else now, now

    # -- what ends a task from outside -------------------------------------------------

    def _set_timeout(self, seconds: float) -> None:
        """End the task so many seconds from now. Called before the task is put."""
        self._timeout = seconds
        self._set_deadline(timer.now() + seconds)

    def _set_parent(self, parent: Context, values: ManagerValues) -> None:
        """End the task with this context. Called before the task is put."""
        tie = self._values = Tie(parent, values, self)
        self._announce(tie)
        tie.begin()

        deadline = parent._deadline
        if deadline is not None and (self._deadline is None or deadline < self._deadline):
            # Its own, too: a task that has ended watches the deadline of its context no
            # more.
            self._timeout = 0.0
            self._set_deadline(deadline)

        # It may have been settled before it was tied (R1).
        if self._final is not None:
            self._tell_waiters()

    def _leave_parent(self) -> None:
        """The submission is about to raise."""
        if (tie := self._values) is not None:
            tie.wake()

    def _set_deadline(self, deadline: float) -> None:
        self._deadline = deadline
        self._announce(timer.at(deadline, self._expire))

    def _expire(self) -> None:
        """The deadline passed. Runs on the timer thread."""
        what = (
            f"the task's timeout of {self._timeout:g} s ended"
            if self._timeout
            else "the deadline of the task's ctx passed"
        )
        self._fail_from_outside(self._timed_out(what), DeadlineExceededError(what))

    def _run_too_long(self, seconds: float) -> None:
        """The `run_timeout` of this attempt has passed. Runs on the timer thread."""
        what = f"the task's run_timeout of {seconds:g} s ended"
        self._fail_from_outside(self._timed_out(what), DeadlineExceededError(what))

    def _timed_out(self, what: str) -> TaskTimeoutError:
        where = (
            "while running: its context is cancelled"
            if self.attempts
            else "while queued: it never started"
        )
        return TaskTimeoutError(f"{what} {where}")

    def _fail_from_outside(
        self,
        error: BaseException,
        ending: EndedError,
        contexts: list[Context] | None = None,
    ) -> bool:
        """Settle a waiting or running task and end its context.

        Called in a thread that must not run user code. So another thread runs it:
        callbacks, a collector (it is called first), destructors of the objects to which
        the task refers. The caller has the task itself let go of there. `False` when
        the task is settled already.

        With `contexts`, its context is put there, for the caller to end."""
        engine = self._engine
        things: list[Any] = []
        # The timeout of a refused task may outlive it, and has no effect then.
        if self._refused or not self._take_settle():
            return False

        was_waiting = counted = False
        try:
            # Once the task is counted, the manager could close before the callbacks are
            # on their way.
            engine.settling.add(self)
            self._ending = ending, error
            self._cancel_asked = True
            things += self._contents()

            # Before the call is emptied: a worker that took the task would call
            # nothing.
            was_waiting = self._take_start()
            if was_waiting:
                engine.entry_died(self)
            self._store(error)
            # Read once: the worker empties it.
            context, jobs = self._context, []
            if context is not None and contexts is not None:
                contexts.append(context)
            elif context is not None:
                jobs = context._end(ending, error, things)

            if engine.has_collector:
                jobs.insert(0, partial(self._fail_in_other_thread, error, was_waiting))
                engine.run_in_other_thread(jobs)
            else:
                engine.record_failure(self, error, was_waiting=was_waiting)
                counted = True
                jobs[:0] = self._finish_for_other_thread()
                engine.run_in_other_thread(jobs)
                engine.settling.discard(self)
        except BaseException:
            # No memory, say. Whatever else is left undone, the waiters are woken. The
            # two assignments need no memory.
            if self._stored is None:
                self._exception = error
                self._final = FINISHED
            if not counted:
                engine.record_failure(self, error, was_waiting=was_waiting)
            engine.run_in_other_thread(self._finish_for_other_thread())
            engine.settling.discard(self)
            raise
        finally:
            engine.let_go(things)

        return True

    def _fail_in_other_thread(self, error: BaseException, was_waiting: bool) -> None:
        """The part of `_fail_from_outside` that calls a collector first."""
        self._engine.record_failure(self, error, was_waiting=was_waiting)
        callbacks = self._finish()
        self._engine.settling.discard(self)
        self._call_back(callbacks)

    def _finish_for_other_thread(self) -> list[Callback]:
        """Make the stored outcome final; returns calls for another thread."""
        callbacks = self._finish()
        return [partial(self._call_back, callbacks)] if callbacks else []

    def _has_outcome(self) -> bool:
        """Whether the outcome is stored, so that any thread may `_finish`."""
        return self._stored is not None or self._final is not None

    def _settle_lost(self, error: BaseException) -> bool:
        """Settle a task whose worker has fallen, perhaps with the right to settle.

        Returns whether this call settled it, as a failure."""
        if not self._take_settle():
            # This worker has the right, or a thread that stores the outcome in a
            # moment.
            moment, deadline = Parker(), monotonic() + _STORE_WAIT_S
            while not self._has_outcome() and monotonic() < deadline:
                moment.sleep(_STORE_POLL_S)

        settles = not self._has_outcome()
        if settles:
            self._store(error)

        self._call_back(self._finish())
        return settles

    def _ask_to_end(
        self, ending: EndedError, cause: BaseException, things: list[Any]
    ) -> list[Callback]:
        """End the context of a running task, which is not retried.

        Returns user callbacks for the caller to run. Puts into `things` what the caller
        is to let go of."""
        if self._final is not None or self._cancel_asked:
            return []

        self._ending = ending, cause
        self._cancel_asked = True
        # Read once: the worker empties it.
        context = self._context
        return [] if context is None else context._end(ending, cause, things)

    def _withdraw(self, *, aside: bool = False) -> bool:
        """Cancel a waiting task; `False` when it was started or settled.

        The callbacks run in this thread, or on another one if `aside`. Then the caller
        has the contents of the task let go of there."""
        if self._orphaned() is not None or not self._take_start():
            return False

        # If another thread has this right, a timeout say, then that thread finds that
        # the task must not start.
        settles = self._take_settle()
        self._engine.entry_died(self)
        if settles:
            tell = self._tell_aside if aside else notify
            if aside:
                # Once the task is counted, the manager could close before the callbacks
                # are on their way.
                self._engine.settling.add(self)
            self._engine.record_cancelled()
            try:
                tell(lambda: self._calls_of(self._publish(None, state=CANCELLED_AND_NOTIFIED)))
            except BaseException:
                # An interrupt in the middle of it. The other waiters are woken all the
                # same.
                tell(lambda: self._calls_of(self._finish()))
                raise

        return settles

    def _tell_aside(self, take: Callable[[], list[Callback]]) -> None:
        self._engine.run_in_other_thread(take())
        self._engine.settling.discard(self)

    def _calls_of(self, callbacks: list[DoneCallback]) -> list[Callback]:
        return [partial(self._call_back, [callback]) for callback in callbacks]

    def _refuse(self) -> bool:
        """Take a task back that was put, as its submission is about to raise.

        `False`: it is accepted."""
        # Announced first (R1): the thread that takes it out of the lane counts it.
        was_refused, self._refused = self._refused, True
        if not self._take_start():
            self._refused = was_refused
        return self._refused

    def _count_refusal(self) -> None:
        """Count a task whose submission raised: it was not accepted and will not run.

        No caller and no collector learns of it."""
        self._is_counted = True
        self._engine.entry_died(self)
        if self._take_settle():
            self._engine.record_cancelled()
            self._store(None, state=CANCELLED_AND_NOTIFIED)
            self._finish()

    def _contents(self) -> list[Any]:
        """The objects of the user's to which a task refers."""
        return [self._fn, self._args, self._variables]

    def _look(self) -> str | None:
        """How it is settled; `None` if it is not.

        A task that a forked child has inherited unsettled has failed there."""
        final = self._final
        return FINISHED if final is None and self._engine.orphaned is not None else final

    def _orphaned(self) -> BaseException | None:
        """The error of an orphan: a task that a forked child has inherited unsettled.

        An orphan counts as failed, and is never changed. Without the GIL each object
        has a lock of CPython's. CPython hands it to a thread that has waited for it for
        1 ms. If the process forks before that thread wakes up, the lock stays taken in
        the child: a change to the object there would wait for ever."""
        return self._engine.orphaned if self._final is None else None

    # -- the pieces --------------------------------------------------------------------

    def _take_start(self) -> bool:
        """Take the right to start; `False` when another thread has it."""
        try:
            del self._may_start
        except AttributeError:
            return False
        return True

    def _take_settle(self) -> bool:
        """Take the right to settle; `False` when another thread has it."""
        try:
            del self._may_settle
        except AttributeError:
            return False
        return True

    def _waits_for_start(self) -> bool:
        return hasattr(self, "_may_start")

    def _announce(self, waiter: object) -> None:
        """Put a waiter into the list. The caller looks at `_final` afterwards (R1).

        Not for an orphan."""
        if self._waiting is None:
            with _first_waiter:
                if self._waiting is None:
                    self._waiting = [waiter]
                    return
        self._waiting.append(waiter)

    def _take_back(self, waiter: object) -> bool:
        """Take a waiter out of the list; `False` when the settling thread has it."""
        if self._orphaned() is not None:
            # No thread settles it here.
            return True

        try:
            (self._waiting or []).remove(waiter)
        except ValueError:
            return False
        return True

    def _publish(
        self, exception: BaseException | None, result: T | None = None, state: str = FINISHED
    ) -> list[DoneCallback]:
        """Store the outcome and wake the waiters; returns the callbacks.

        Only for the thread that has taken `_may_settle`."""
        self._store(exception, result, state)
        return self._finish()

    def _store(
        self, exception: BaseException | None, result: T | None = None, state: str = FINISHED
    ) -> None:
        """Note what the outcome is; from now on any thread may `_finish`.

        Only for the thread that has taken `_may_settle`."""
        if exception is not None and not is_a(exception, CancelledError):
            self._unseen = _UnseenFailure(exception, self._engine.logger)
            # An error after the task was asked to end is not worth a log line. The
            # mark comes before this look: a stream sets it at any time, then looks.
            if self._cancel_asked and not is_a(exception, TaskTimeoutError):
                self._see()

        self._fn = self._args = self._variables = None
        self._exception = exception
        self._result = result
        self._stored = state

    def _finish(self) -> list[DoneCallback]:
        """Make the stored outcome final and wake the waiters; returns the callbacks.

        May be repeated."""
        if self._final is None:
            self._final = self._stored

        # A worker that did not know of the outcome may have put the task back.
        if self._waits_for_start() and self._take_start():
            self._engine.entry_died(self)
        return self._tell_waiters()

    def _tell_waiters(self) -> list[DoneCallback]:
        """Wake the waiters; returns the callbacks, for the caller to call.

        May be repeated. Free-threaded builds copy a list under its own lock, so the
        copy holds every waiter that was put in before; one that comes later finds the
        outcome (R1)."""
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
                    waiter.notify(self)
                elif hasattr(waiter, "wake"):
                    # An await, or a stream of results.
                    waiter.wake()
                else:
                    # A lock on which a thread sleeps.
                    waiter.release()
                waiting.remove(waiter)
            except ValueError:
                # Its thread has taken it back meanwhile.
                pass
            except BaseException as error:
                if type(error) is RuntimeError and hasattr(waiter, "release"):
                    # It was released before: this is the second time.
                    self._take_back(waiter)
                else:
                    # Ctrl-C, or no memory. The others are woken before it goes on.
                    trouble = error

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
                self._engine.logger.fault(
                    "error", what, name, error=error, kind=kind_of(callback.given)
                )
            leave_child()

    def _wait(self, timeout: float | timedelta | None) -> None:
        """Sleep until there is an outcome.

        Raises `TimeoutError` when there is none, `CancelledError` if it was cancelled,
        and the error of an orphan."""
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
        # A thread that only looks is not to wait for others.
        if limit:
            give_way()
        if self._final is not None:
            return

        sleeper = new_sleep_lock()
        self._announce(sleeper)
        woken = self._final is not None
        try:
            woken = woken or sleeper.acquire(timeout=limit)
        finally:
            if not woken:
                self._take_back(sleeper)

    def _sleep_in_task(self) -> None:
        """Sleep until there is an outcome.

        Raises `PoolDeadlockError` if there could never be one."""
        parker = Parker()
        self._announce(parker)
        try:
            with deadlock.Wait(deadlock.Outcomes((self,)), parker.wake):
                if self._final is None:
                    parker.sleep()
        finally:
            self._take_back(parker)

    def _see(self) -> None:
        unseen = self._unseen
        if unseen is not None:
            self._unseen = None
            unseen.seen = True

    # -- what concurrent.futures.wait, as_completed and asyncio look at ----------------

    def _get_state(self) -> str:
        # As long as their waiters are not notified, the outcome is not there yet for
        # them: they must not see it and be notified as well.
        if self._orphaned() is not None:
            return FINISHED

        final = self._final
        if final is not None and (self._standard is None or self._standard.notified):
            return final
        return PENDING if self._waits_for_start() else RUNNING

    def _get_condition(self) -> Any:
        """A lock: they use nothing else of a condition.

        As long as they hold it, their waiters are not notified."""
        return self._standard_waiters().lock

    def _get_waiters(self) -> list[Any]:
        """Their waiters. They read and change this list with `_condition` held."""
        return self._standard_waiters().waiters

    def _get_snapshot(self) -> tuple[bool, bool, T | None, BaseException | None]:
        """What asyncio copies, from Python 3.15 on, in a callback of ours.

        That is: whether it is done, whether it is cancelled, the result, the exception.
        This looks at `_final`, not at `_state`: a callback that was added a moment ago
        runs before their waiters are notified."""
        if (orphaned := self._orphaned()) is not None:
            return True, False, None, orphaned

        final = self._final
        if final is not FINISHED:
            return final is not None, final is not None, None, None

        self._see()
        error = self._exception
        return True, False, self._result, None if error is None else for_asyncio(error)

    # To a type checker these stay the attributes of Future that as_completed() asks
    # for.
    if not TYPE_CHECKING:
        _state = property(_get_state)
        _condition = property(_get_condition)
        _waiters = property(_get_waiters)

    def _standard_waiters(self) -> _StandardWaiters:
        if self._orphaned() is not None:
            return _of_orphans

        standard = self._standard
        if standard is None:
            # One step: however many threads come, they all get the same one.
            standard = self.__dict__.setdefault("_standard", _StandardWaiters())

        if not standard.announced:
            # Two threads at once may announce it twice. It notifies once all the same.
            self._announce(standard)
            standard.announced = True
            if self._final is not None and self._take_back(standard):
                standard.notify(self)
        return standard


def new_task(
    engine: EngineForFuture,
    fn: Callable[..., T],
    args: tuple[Any, ...],
    wants_context: bool,
    queued_at: float,
    waiting: list[Any] | None = None,
    variables: contextvars.Context | None = None,
) -> TaskFuture[T]:
    """A future for a call.

    `waiting` holds what waits for the outcome from the start. The call runs in
    `variables`.

    This is not `__init__`, because to call a class costs as much as all of this. Nor is
    `Future.__init__` called, which makes a condition and two lists. All attributes that
    every task gets are set here, because CPython has no room for others in the compact
    form of an instance's dictionary."""
    task: TaskFuture[T] = _new(TaskFuture)
    task._may_start = task._may_settle = True
    task._engine = engine
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
    """`new_task`, but the given future becomes the task.

    The future has to be new, and known to the calling thread alone. Raises `TypeError`
    for any other."""
    if (
        type(future) is not Future
        or future._state != PENDING
        or future._waiters
        or vars(future)["_done_callbacks"]
    ):
        raise TypeError(
            "the future of a work item must be a new concurrent.futures.Future, "
            f"not {shown(future)}"
        )

    task: Any = future
    task.__dict__ = {**vars(new_task(*call))}
    task.__class__ = TaskFuture
    return task  # type: ignore[no-any-return]


class DoneCallback:
    """A user's callback.

    It is compared by identity, so that a look for it runs no code of the user's. `fn`
    is called with the future. `given` is what the user gave, if that is another
    function."""

    __slots__ = ("fn", "given")

    def __init__(self, fn: Callable[[Future[Any]], object], given: object = None) -> None:
        self.fn: Callable[[Future[Any]], object] = fn
        self.given: object = given or fn


class _StandardWaiters:
    """The waiters that `concurrent.futures` installs in a future, and their lock.

    The lock guards the list of waiters and `notified`. `concurrent.futures` takes it
    (as `_condition`) while it installs and removes waiters; `notify` takes it, too. It
    is reentrant: a signal handler may interrupt `wait()` and cancel the future that
    `wait()` looks at. Lock order: this one, then the waiter's own."""

    __slots__ = ("announced", "lock", "notified", "waiters")

    def __init__(self) -> None:
        self.lock = new_lock()
        self.waiters: list[Any] = _WaiterList()
        self.announced = False
        self.notified = False
        _unnotified.add(self)

    def is_held_here(self) -> bool:
        """Whether the calling thread holds a lock that `notify` needs."""
        return holds(self.lock) or any(
            holds(waiter.lock) for waiter in self.waiters.copy() if _is_standard(waiter)
        )

    def notify(self, future: TaskFuture[Any]) -> None:
        """Hand the outcome to the waiters, once."""
        with self.lock:
            waiters = () if self.notified else tuple(self.waiters)
            self.notified = True
            for waiter in waiters:
                if future._final is CANCELLED_AND_NOTIFIED:
                    waiter.add_cancelled(future)
                elif future._exception is not None:
                    waiter.add_exception(future)
                else:
                    waiter.add_result(future)

            # Not before: the waiters' locks are needed until here.
            _unnotified.discard(self)


_unnotified: set[_StandardWaiters] = set()


class _WaiterList(list[Any]):
    """The standard library's waiters in one future.

    The thread that settles a future takes the lock of each waiter, and the lock inside
    of the waiter's event. Neither knows its owner. A signal handler that cancels a
    future may have interrupted a thread that holds them, and has to know that. So each
    waiter gets a lock that knows its owner, and an event that needs no lock."""

    __slots__ = ()

    def append(self, waiter: Any) -> None:
        # A waiter whose event is another one is in no other list yet.
        if _is_standard(waiter) and not isinstance(waiter.event, _Event):
            waiter.lock = new_lock()
            waiter.event = _Event(waiter)
        super().append(waiter)


def _is_standard(waiter: Any) -> bool:
    return isinstance(waiter, _Waiter)


class _Event:
    """A `threading.Event` for one thread, which looks for deadlocks inside of a task.

    The futures that `wait` and `as_completed` wait for are in the variables of their
    frames, and nowhere else."""

    def __init__(self, waiter: Any) -> None:
        self._is_set = False
        self._parker = Parker()
        # The waiters of as_completed and FIRST_COMPLETED have no such attribute.
        stops = getattr(waiter, "stop_on_exception", None)
        self._until = (
            FIRST_COMPLETED if stops is None else FIRST_EXCEPTION if stops else ALL_COMPLETED
        )

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        self._parker.wake()

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until it is set, for `timeout` seconds at most; whether it is set."""
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

            self._parker.sleep(-1.0 if left == math.inf else min(left, threading.TIMEOUT_MAX))
        return self._is_set


# Those of all orphans together: they are notified of nothing.
_of_orphans = _StandardWaiters()


def holds_waiters_lock() -> bool:
    """Whether the calling thread holds a lock that is needed to settle a future.

    It does so while it is in `wait()` or `as_completed()`."""
    return any(standard.is_held_here() for standard in _unnotified.copy())


# Where `wait` and `as_completed` keep the futures that they wait for.
_VARIABLES = {
    getattr(function, "__code__", None): name
    for function, name in (
        (concurrent.futures.wait, "fs"),
        (concurrent.futures.as_completed, "pending"),
    )
}


def _awaited_in(frame: FrameType) -> Collection[Any] | None:
    """The futures that the caller waits for.

    `None` if the caller is another function: then nothing is known of its wait."""
    name = _VARIABLES.get(frame.f_code)
    return None if name is None else frame.f_locals.get(name)


class _UnseenFailure:
    """Logs a failure that no code has asked for, when its future is collected.

    asyncio does the same."""

    __slots__ = ("error", "logger", "seen")

    def __init__(self, error: BaseException, logger: GuardedLogger) -> None:
        self.error = error
        self.logger = logger
        self.seen = False

    # Given as a default: at the interpreter's end this module may be empty by now.
    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if getattr(self, "seen", True) or is_finalizing():
            return

        # In a forked child CPython drops what other threads referred to before it calls
        # `_start_afresh` (R5). The parent logs it.
        if os.getpid() != _process:
            return

        log = partial(_log_unseen, self.error, self.logger)

        # Python drops what is raised in here. An interrupt comes a moment later.
        try:
            # The garbage collector may have come by in the middle of lines that hold a
            # lock, or on a service thread (I7). There a user's logger must not block.
            # Without the GIL any thread may free what it has made and another dropped.
            if holds_any() or is_service_thread():
                timer.runner.run(log)
            else:
                log()
        except BaseException as interrupt:
            deliver_later(interrupt)


def _log_unseen(error: BaseException, logger: GuardedLogger) -> None:
    line, what = "", "tasker: a task failed and nobody asked for its result or exception"

    # an error that cannot be read still has a type
    with contextlib.suppress(BaseException):
        line = line_of(error)

    if line:
        logger.error(what, error=error)
    else:
        logger.error(f"{what}: %s", type(error).__name__)


def _called_by_asyncio() -> bool:
    """Whether asyncio called the function that asks."""
    return str(sys._getframe(2).f_globals.get("__name__", "")).startswith("asyncio.")


def for_asyncio(error: BaseException) -> BaseException:
    """An error that asyncio can be given instead of this one.

    Its futures refuse a `StopIteration` and then never end (up to Python 3.12.1). A
    `GeneratorExit` silently ends the coroutine that awaits them."""
    if not is_a(error, (StopIteration, GeneratorExit)):
        return error

    converted = RuntimeError(f"the task raised {type(error).__name__}")
    converted.__cause__ = error
    return converted

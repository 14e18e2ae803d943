"""`Worker`: a thread and its resource. Two nested loops, one turn of the outer a resource, one of the inner a task.

    hired -> CREATING <-> SERVING -> left
                '-----------'-------^

CREATING: makes a resource, again and again, until it has one or is not employed any more. Before each attempt it pauses
for as long as its last failures demand (see `backoff`); what wakes it meanwhile does not end the pause. SERVING: takes
tasks; parks where there is none. It goes back to CREATING when a verdict says that the resource is broken, or when it
is told, or finds, that it is lost; and leaves when it was dismissed (retired while idle) or the queue is closed and
empty.

The resource is created, used and destroyed here, in this thread. Nothing that the user's functions raise leaves the
place where they are called. The worker's figures go to its own shard; `task` and `thread` tell others what it does.

An exception may strike the loop itself, between two of its steps: no memory, or one that another thread sends. Then the
worker falls. What it has in its hands lies in `task` and `_held` before anything else is done with it, so the worker
itself, as its last act, gives the task back to its lane or an outcome, and destroys the resource. Where even that
fails, the heir does it (`inherit`, run aside when the worker has left).
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures._base import FINISHED
from typing import Any, Generic, Protocol, TypeVar

from tasker import current
from tasker.backoff import Backoff
from tasker.clock import monotonic
from tasker.context import ManagerValues, TaskContext
from tasker.errors import TaskManagerKilledError, WorkerLostError, put_note
from tasker.future import TaskFuture
from tasker.hints import explain_call
from tasker.locks import release_locks
from tasker.logger import GuardedLogger
from tasker.metrics import FULL, Shard
from tasker.parking import Seat
from tasker.queue import TaskQueue
from tasker.spent import spent_argument
from tasker.threads import leave_child, new_thread
from tasker.unrun import suspects
from tasker.usercode import Event, UserCode
from tasker.wrapping import users_function, users_traceback, wrapper

__all__ = ["Terms", "Worker"]

R = TypeVar("R")

_NONE: Any = object()  # no resource: None may be one


class Terms(Protocol[R]):
    """What a worker works with, the same for all of a manager's."""

    queue: TaskQueue
    user: UserCode[R]
    logger: GuardedLogger
    settling: set[TaskFuture[Any]]
    backoff: Backoff
    max_retries: int
    values: ManagerValues
    may_retry: bool
    """Whether any task may run more than once."""

    def resource_made(self) -> None:
        """A worker has a resource now: tell who waits for that."""


class Worker(Generic[R]):
    """One worker. `start()` once; from then on its thread does everything."""

    def __init__(self, name: str, terms: Terms[R], shard: Shard, leave: Callable[[Worker[R]], None]) -> None:
        self.name = name
        self.seat: Seat = Seat()
        self.shard = shard
        self.task: TaskFuture[Any] | None = None  # what it runs, or has just run
        self.resource: R = _NONE
        # the resource, from when it is made until `on_destroy` is called; to append to a deque, unlike a list, needs no
        # memory, for want of which a resource would be lost
        self._held: deque[R] = deque()
        self._broken_by: BaseException | None = None  # until that resource is destroyed
        self.holds_resource: bool = False
        self.creating: bool = True  # from its start, or from the end of its last resource, until it has one
        self.creating_since: float = monotonic()
        self.began: bool = False  # whether its thread has come so far as to run anything
        self.started: bool = False  # whether its thread is known to be there
        self.pausing: bool = False  # before it makes a resource: it only has to wake up in order to leave
        self.dismissed: bool = False
        self.lost: bool = False  # whether its resource is known to be lost
        self._failures = 0  # of its resources in a row: not made, or broken or lost before they had done a task well
        self._completed_before = 0  # tasks completed when it got its resource; -1: the resource is known to work
        self._taken_before = 0  # `shard.taken`, before it took its task
        self._retried: TaskFuture[Any] | None = None  # while it puts one back: it may be another worker's now
        self._uncounted: TaskFuture[Any] | None = None  # while it settles one off the hot path
        self._counted_before = (0, 0)  # `shard.finished()` before that
        self._terms = terms
        self._queue = terms.queue
        self._leave = leave
        self.thread: threading.Thread = new_thread(self._work, name)
        self._hired_by = weakref.ref(threading.current_thread())

    def start(self) -> None:
        """Start the thread. Raises `RuntimeError` when there can be no more threads."""
        self.thread.start()
        self.started = True

    def is_started_here(self) -> bool:
        """Whether the calling thread is in the middle of hiring it."""
        if self.began or self.thread.is_alive():
            return False
        return self._hired_by() is threading.current_thread()

    def dismiss(self) -> None:
        """Tell a worker that was idle to leave; the caller has taken its announcement, so no task is meant for it."""
        self.dismissed = True
        self.seat.wake()

    def resource_lost(self) -> bool:
        """Its resource is lost. If it is idle (`True`) it makes another one now; else it finds out by itself."""
        self.lost = True
        idle = self._queue.idle.take_back(self.seat)  # so that no task is meant for it
        if idle:
            self.seat.wake()
        return idle

    def serves(self, terms: object) -> bool:
        """Whether it runs a task, and works on these terms."""
        return self._terms is terms and self.task is not None

    def current_context(self) -> TaskContext:
        """The context of its task, made if need be. For the worker's own thread."""
        task = self.task
        assert task is not None
        return task._context or task._make_context(self._terms.values)

    def _employed(self) -> bool:
        return not self.dismissed and not self._queue.is_drained()

    def _work(self) -> None:
        self.began = True
        try:
            current.here.place.worker = self
            while self._employed() and self._create():
                self.creating = False
                self.resource = self._held[0]
                self.holds_resource = True
                self._completed_before = self.shard.finished()[0]
                self.lost = self._terms.user.is_lost(self.resource)  # from now on somebody tells
                self._terms.resource_made()
                self._serve(self.resource)
                self._failures = self._failures_with_this()
                self._destroy()
        except BaseException as error:  # not the user's code: that is guarded where it is called
            try:
                release_locks()
            finally:
                self.inherit(error)
            self._terms.logger.fault("error", "%s: lost to an error", self.name, error=error)
        finally:
            self._leave(self)

    def inherit(self, error: BaseException | None = None) -> None:
        """It has fallen: see to what it had in its hands. In its own thread, or when that has ended."""
        if error is None:
            error = WorkerLostError("the worker's thread ended in the middle of the task")
        try:
            self._give_up_task(error)
        finally:
            if self._broken_by is None:
                self._broken_by = error
            self._destroy()

    def has_heritage(self) -> bool:
        """Whether it has left something behind."""
        return self.task is not None or bool(self._held)

    def _destroy(self) -> None:
        self.holds_resource = False
        self.resource = _NONE
        if self._held:
            self._terms.user.destroy_held(self._held, self._broken_by)  # if that raises, it has not begun
            leave_child()
        self._broken_by = None

    def _create(self) -> bool:
        """Make a resource; `False`: there is none, and none is wanted any more."""
        self.creating_since = monotonic()
        self.creating = True
        while self._pause():
            try:
                self._terms.user.create(self._held)
                leave_child()
                return True
            except BaseException as error:
                self._broken_by = error
                self._destroy()  # if it is there all the same: the exception came from outside, a moment too late
                if isinstance(error, TaskManagerKilledError) and not self._employed():
                    break  # given up by the closing manager itself: nobody's failure
                self._failures += 1
                self._terms.user.creation_failed(error)
        self.creating = False
        return False

    def _pause(self) -> bool:
        """Pause for as long as the last failures demand; `False` when there is nothing to make a resource for."""
        if not self._failures:
            return self._employed()
        backoff = self._terms.backoff
        self.pausing = True
        until = monotonic() + backoff.worker_pause(self._failures)
        wanted = self._sleep_until(until) and self._sleep_until(backoff.take_turn())
        self.pausing = False
        return wanted

    def _sleep_until(self, until: float) -> bool:
        """Sleep until then, whatever wakes the thread meanwhile; `False` as soon as it is not employed any more."""
        while self._employed():
            left = until - monotonic()
            if left <= 0:
                return True
            self.seat.sleep(left)
        return False

    def _failures_with_this(self) -> int:
        """The failures in a row, should its resource fail now: none if that has done a task well."""
        works = self.shard.finished()[0] != self._completed_before
        return 0 if works else self._failures + 1

    def _serve(self, resource: R) -> None:
        """Run tasks until the resource is broken or the worker leaves. All that a task costs is in this loop."""
        # what is counted when stands in the order that `_give_up_task` goes by
        shard, terms, read_clock = self.shard, self._terms, monotonic
        take = self._take_unless_lost if terms.user.may_lose else self._queue.take
        collects, may_retry = terms.user.collects, terms.may_retry
        durations, values = shard.durations, terms.values
        suspect = suspects(resource)
        usual: object = None  # the type of the last result that was looked at: the next is of the same, most often
        now = 0.0  # when the last task ended, which is when the next one starts if nothing of the user's ran in between
        fn: Any  # never None in a task that was started; saying so to a type checker would cost time here
        args: Any
        result: object
        while True:
            self._taken_before = shard.taken
            task = take(self)  # which puts it into `self.task`
            if task is None:
                # a parked worker must not keep anything of the last task alive
                self.task = fn = args = variables = None
                task = self._next_task()
                if task is None:
                    return
            fn, args = task._fn, task._args  # before the start: whoever settles it afterwards empties it
            try:
                del task._may_start  # TaskFuture._start, without the call
            except AttributeError:
                self._queue.drop(task)
                continue
            task._started_at = started = now if now > task._queued_at else read_clock()
            attempts = task.attempts + 1
            if attempts == 1:
                shard.taken += 1
            else:
                self._queue.taken_again(task)
            task.attempts = attempts  # last, for `_give_up_task`
            try:
                variables = task._variables
                if variables is not None:
                    if may_retry:
                        variables = variables.copy()  # what this attempt sets must not be seen by the next one
                    if args:
                        if task._wants_context:
                            result = variables.run(fn, task._make_context(values), resource, *args)
                        else:
                            result = variables.run(fn, resource, *args)
                    elif task._wants_context:
                        result = variables.run(fn, task._make_context(values), resource)
                    else:
                        result = variables.run(fn, resource)
                elif task._wants_context:
                    result = fn(task._make_context(values), resource, *args)
                elif args:
                    result = fn(resource, *args)
                else:
                    result = fn(resource)
                if (kind := type(result)) is not usual:
                    if kind in suspect:
                        self.look_at_result(result, fn, args)
                    else:
                        usual = kind
            except BaseException as error:
                now = 0.0
                result = None
                if not self._failed(task, error):
                    # the error's traceback leads back to this frame, which must not lead to the error
                    self.task = task = fn = args = variables = None
                    return
            else:
                if collects:
                    self._succeeded_with_collector(task, result)
                    result = None
                    continue
                now = read_clock()
                try:
                    del task._may_settle
                except AttributeError:  # a timeout, say, has settled it, or the task has forked and this is the child
                    leave_child()
                    result = task._context = None
                    continue
                durations.append(started - task._queued_at)
                task._fn = task._args = task._variables = task._context = variables = None
                durations.append(now - started)
                task._result = result
                result = None
                task._final = FINISHED
                if task._waiting:
                    task._call_back(task._tell_waiters())
                    now = 0.0
                if len(durations) >= FULL:
                    durations = shard.fold()

    def _take_unless_lost(self, worker: Worker[R]) -> TaskFuture[Any] | None:
        """As the queue's `take`, where resources get lost: by the last task, and after that had answered, perhaps. The
        next one would only find that out, and pay with an attempt."""
        if not self._terms.user.is_lost(self.resource):
            return self._queue.take(worker)
        self.lost = True
        self.task = None
        self._terms.user.was_lost(self.name)
        return None

    @wrapper
    def look_at_result(self, result: object, fn: Callable[..., Any], args: tuple[Any, ...] = ()) -> None:
        """A task has returned what may be its resource, or yet to be run. Raises `TypeError` for a coroutine.

        A call of an executor is no task that was given a resource: it may."""
        if users_function(fn, args) is fn:
            self._terms.user.look_at_result(result, fn, self.resource)

    def _succeeded_with_collector(self, task: TaskFuture[Any], result: Any) -> None:
        now = monotonic()
        if task._take_settle():
            self._counted_before, self._uncounted = self.shard.finished(), task
            task._store(None, result)
            self.shard.durations += (task._started_at - task._queued_at, now - task._started_at)
            self._uncounted = None
            self._tell_and_finish(task, "record_completion", now)
        else:
            leave_child()

    def _failed(self, task: TaskFuture[Any], error: BaseException) -> bool:
        """Judge an error, then retry the task or settle it. Returns whether the resource is healthy."""
        now = monotonic()
        terms = self._terms
        _strip_own_frame(error)
        if type(error) is MemoryError:
            release_locks()
        if type(error) is TypeError:
            explain_call(error, error.__traceback__, task._fn, task._args, task._wants_context)
        leave_child(error)
        healthy = terms.user.is_healthy(error, self.resource)
        failures = self._failures_with_this()
        if healthy:
            self._completed_before = -1
        else:
            self._broken_by = error
        if not healthy and self._is_to_retry(task, error) and task._requeue():
            self._retried = task
            self.shard.count(retried=1)
            terms.user.tell("record_retry")
            pause = terms.backoff.task_pause(failures, task.attempts)
            if pause:
                self._queue.put_back_later(task, pause)
            else:
                self._queue.put_back(task)
            self._retried = self.task = None
        elif task._take_settle():
            self._counted_before, self._uncounted = self.shard.finished(), task
            if task.attempts > 1:
                put_note(error, "the last of ", f"{task.attempts} attempts, each on another resource")
            task._store(error)
            self.shard.count(failed=1)
            self._uncounted = None
            self._tell_and_finish(task, "record_failure", now)
        if not healthy:  # logged last, as a logger may block. One that is early may be the task's own fault
            terms.user.broke(self.name, error, early=failures > 1, retried=self.task is None)
        return healthy

    def _is_to_retry(self, task: TaskFuture[Any], error: BaseException) -> bool:
        """Whether a task that has broken its resource, or lost it, is to have another attempt."""
        if task.attempts > self._terms.max_retries:
            return False
        if isinstance(error, WorkerLostError) and not error.began:
            return True
        if task._once:
            return False
        spent = spent_argument(task._fn, task._args)
        if spent is not None:
            put_note(error, "not retried: ", spent)
        return spent is None

    def _tell_and_finish(self, task: TaskFuture[Any], event: Event, now: float) -> None:
        """Tell a collector, if there is one, what has become of a task, then whoever waits for it."""
        terms = self._terms
        if terms.user.collects:
            terms.settling.add(task)  # if the collector blocks, another thread finishes the task
            terms.user.tell(event, task._stamps(now))
        callbacks = task._finish()
        terms.settling.discard(task)
        task._call_back(callbacks)

    def _next_task(self) -> TaskFuture[Any] | None:
        """Park until there is a task. `None`: dismissed, the resource is lost, or the queue is closed and empty."""
        while self._employed() and not self.lost:
            task = self._queue.idle.park(self.seat, self._look)
            if task is not None and task is not _NONE:
                self._queue.wake_next()
                return task
        self._queue.wake_next()  # if it was woken for a task, that is somebody else's now
        return None

    def _look(self) -> TaskFuture[Any] | None:
        # what parking looks for: a task, or a reason to leave (which a wake-up sent before may have been about)
        self._queue.waking = False
        if self.dismissed or self.lost:  # a task would only find out that there is no resource
            return _NONE  # type: ignore[no-any-return]
        task = self._queue.take(self)
        if task is None and self._queue.is_drained():
            return _NONE  # type: ignore[no-any-return]
        return task

    def _give_up_task(self, error: BaseException) -> None:
        """The loop itself failed: a task in its hand goes back to its lane if it waits, else it has an outcome."""
        task = self.task
        if task is None:
            return
        if task._waits_for_start():
            self._queue.give_back(task, retried=self._retried is task)
        elif self._retried is not task:  # else it was put back, and another worker has taken it
            durations = self.shard.durations
            if len(durations) % 2:
                durations.pop()
                counted = False
            else:
                counted = task._fn is None  # emptied between the two durations, or when the outcome was stored
            settles = task._settle_lost(error)
            if settles and not task.attempts and self.shard.taken == self._taken_before:
                self.shard.taken += 1
            if self._uncounted is task:
                counted = self.shard.finished() != self._counted_before
                settles = True
            if settles and not counted:
                self.shard.count(failed=1)
        self.task = self._retried = self._uncounted = None


def _strip_own_frame(error: BaseException) -> None:
    """A task's traceback begins with the user's function."""
    with contextlib.suppress(BaseException):
        if error.__traceback__ is not None:
            error.__traceback__ = users_traceback(error.__traceback__.tb_next)

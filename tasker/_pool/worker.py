"""`Worker`: a thread and its resource.

The thread runs two nested loops. Each pass of the outer loop owns one resource, each
pass of the inner loop runs one task.

    hired -> CREATING <-> SERVING -> left
                '-----------'-------^

CREATING: the worker tries to make a resource until it has one or is not employed any
more. Before each attempt it asks whether it may, and sleeps until then (see `backoff`).
SERVING: the worker takes tasks, and parks when there is none. It goes back to CREATING
when `check_health` calls its resource broken, or when that is `unfit` (it is lost,
say). It leaves when it was dismissed (retired while idle), or when the queue is closed
and empty.

This thread creates the resource, uses it and destroys it (I3). Whatever the user's
functions raise is caught where they are called (I7). The worker counts in a shard of
its own. Its attributes `task` and `thread` tell others what it does.

An exception may strike the loop itself, between two of its steps: there is no memory,
or another thread sends one. Then the worker falls. It stores a task in `task`, and a
resource in `_held`, before it does anything else with them. So its last act finds both:
it gives the task back to its lane or gives it an outcome, and destroys the resource. If
even that fails, the callback runner does it when the worker has left (`inherit`).
"""

from __future__ import annotations

import contextlib
import math
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures._base import FINISHED
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from tasker._pool.backoff import Backoff, Candidate
from tasker._pool.checking import Checks
from tasker._pool.metrics import FULL_LENGTH, Shard
from tasker._pool.queue import TaskQueue
from tasker._pool.resources import NO_RESOURCE
from tasker._pool.slots import Slots
from tasker._pool.usercode import Event, UserCode
from tasker._sync import timer
from tasker._sync.clock import monotonic
from tasker._sync.guarded_logger import GuardedLogger
from tasker._sync.locks import release_locks
from tasker._sync.parking import Parker
from tasker._sync.threads import leave_child, new_thread
from tasker._tasks import current
from tasker._tasks.context import ManagerValues, TaskContext
from tasker._tasks.future import TaskFuture
from tasker._tasks.hints import explain_call
from tasker._tasks.spent import spent_argument
from tasker._tasks.unrun import suspects
from tasker._tasks.wrapping import users_function, users_traceback, wrapper
from tasker.errors import TaskManagerKilledError, WorkerLostError, is_a, put_note
from tasker.slot import Reason, Slot

__all__ = ["Breakages", "EngineForWorker", "Worker"]

R = TypeVar("R")

# Found in place of a task: a reason to leave the loop.
_LEAVE: Any = object()
# Found in place of a task: the resource is to be checked before it takes one.
_CHECK: Any = object()


class Breakages(Protocol):
    """What `Suspicion` knows of the breakages, which it numbers."""

    @property
    def last(self) -> int:
        """The last one."""
        ...

    @property
    def past(self) -> int:
        """The last one whose wave is over."""
        ...

    def broke(self, owner: Any, *, counts: bool) -> int:
        """A worker's resource broke. Returns the number of that."""
        ...


class EngineForWorker(Protocol[R]):
    """The parts of an engine that its workers use."""

    queue: TaskQueue
    slots: Slots
    user: UserCode[R]
    logger: GuardedLogger
    settling: set[TaskFuture[Any]]
    backoff: Backoff
    checks: Checks[R]
    max_retries: int
    values: ManagerValues
    may_retry: bool
    """Whether any task may run more than once."""

    @property
    def suspicion(self) -> Breakages:
        """The breakages."""
        ...

    def resource_made(self, worker: Worker[R]) -> None:
        """It has a resource now: wake the threads that wait for one."""

    def reset(self, owner: str, resource: R, worker: Any) -> BaseException | None:
        """See `RunTask.reset`."""


class Worker(Generic[R]):
    """One worker. `start()` is called once; its thread does everything from then on."""

    def __init__(
        self,
        name: str,
        engine: EngineForWorker[R],
        shard: Shard,
        leave: Callable[[Worker[R]], None],
    ) -> None:
        self.name = name
        self.parker: Parker = Parker()
        self.candidate: Candidate = Candidate(self.parker)
        self.shard = shard

        # The task that it runs, or has just run.
        self.task: TaskFuture[Any] | None = None
        self.resource: R = NO_RESOURCE
        # The resource, from when it is made until `on_destroy` is called. A deque,
        # because appending to a list needs memory: without any the resource would be
        # lost.
        self._held: deque[R] = deque()
        # From before it makes a resource until that is destroyed, or was not made.
        self.slot: Slot | None = None
        # The error that broke the resource, until that is destroyed.
        self._broken_by: BaseException | None = None
        self.holds_resource: bool = False

        # True from its start, or from the end of its last resource, until it has one.
        self.creating: bool = True
        self.creating_since: float = monotonic()
        # Whether its thread has come so far as to run anything.
        self.began: bool = False
        # Whether its thread is known to be there.
        self.started: bool = False
        # Whether it waits until it may make a resource. Then it can leave at once.
        self.pausing: bool = False
        # Since when it checks, resets or gives up its resource, by the real clock.
        self._in_hook_since = math.inf
        # Whether its `on_check` is late and still runs. It counts as one that creates:
        # it will not use this resource any more.
        self.checks_too_long: bool = False
        self.dismissed: bool = False
        # Why its resource serves no longer, once it does not.
        self.unfit: Reason | None = None
        # Why its next resource is made.
        self._reason = Reason.HIRED
        # The last breakage before its resource was begun, or before it passed a check.
        # Its own thread writes this.
        self._proof = 0
        # Another proof, what `shard.finished()` is as long as that holds, and the next
        # one: the last breakage whose wave is over. The burst thread writes this.
        self._later_proof: tuple[int, tuple[int, int] | None, int] = (0, None, 0)
        # Its resource is replaced if its proof is older than this breakage.
        self._condemned = 0
        # Whether the call that ends now was aborted. Afterwards `shard.finished()` of
        # that moment: until that has changed its resource is a suspect, too.
        self._was_aborted = False
        self._abort_doubt: tuple[int, int] | None = None
        # The attempts of the task that it took, as they were then. For `_goes_on`.
        self._attempts_before = 0
        # When its resource was made, or last passed a check or ended a task, by
        # `timer.now()`. Only where there is `on_check`.
        self._proved_at = 0.0

        # Its resources in a row that failed: they were not made, or they broke or were
        # lost before they had done a task well.
        self._failures = 0
        # Tasks completed when it got its resource; -1: the resource is known to work.
        self._completed_before = 0

        # `shard.taken` when a task last failed on its healthy resource.
        self._failed_at = -1

        # For `_give_up_task`: `shard.taken` before it took its task.
        self._taken_before = 0
        # The task while it is put back: another worker may have it already.
        self._retried: TaskFuture[Any] | None = None
        # The task while it is settled off the hot path.
        self._uncounted: TaskFuture[Any] | None = None
        # `shard.finished()` before that task was settled.
        self._counted_before = (0, 0)

        self._engine = engine
        self._queue = engine.queue
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
        """Make an idle worker leave.

        The caller has taken its announcement first, so no task is meant for it."""
        self.dismissed = True
        self.parker.wake()

    def broken_by(self, error: BaseException | None) -> None:
        """Note the error that has broken its resource. For the worker's own thread."""
        self._broken_by = error

    def resource_lost(self) -> bool:
        """Note that its resource is lost; returns whether the worker is idle.

        An idle worker makes another resource now. A busy one finds out by itself."""
        self.unfit = self.unfit or Reason.LOST
        return self._wake_if_idle()

    def _wake_if_idle(self) -> bool:
        # The announcement is taken back, so that no task is meant for it.
        idle = self._queue.idle.take_back(self.parker)

        if idle:
            self.parker.wake()
        return idle

    def proof(self) -> int:
        """The last breakage after which its resource was seen to be well. 0: none."""
        finished = self.shard.finished()
        if finished == self._abort_doubt:
            return 0

        proof, unchanged, next_proof = self._later_proof
        return max(self._proof, proof if finished == unchanged else next_proof)

    def is_suspect(self) -> bool:
        """Whether its resource may be broken like another one."""
        return self.proof() < self._engine.suspicion.last

    def doubt(self, breakage: int) -> None:
        """The wave of this breakage is over: the next task that it finishes is a proof.

        Be it by an error that does not break the resource."""
        self._later_proof = self.proof(), self.shard.finished(), breakage

    def trust(self, breakage: int) -> None:
        """Take its resource for well in spite of this breakage."""
        self._later_proof, self._abort_doubt = (breakage, None, breakage), None

    def condemn(self, breakage: int) -> None:
        """Replace its resource if it is idle.

        Unless that is seen to be well after this breakage."""
        self._condemned = breakage
        self._wake_if_idle()

    def aborted(self) -> None:
        """Its call, which ends now, was aborted. For its own thread."""
        self._was_aborted = True

    def is_busy_since(self, moment: float) -> bool:
        """Whether it is in code of the user's that had begun before this moment.

        A task, and an `on_create`, count whenever they began."""
        if self.task is not None or (self.creating and not self.pausing):
            return True

        return self._in_hook_since < moment

    def serves(self, engine: object) -> bool:
        """Whether it runs a task, and works for this engine."""
        return self._engine is engine and self.task is not None

    def current_context(self) -> TaskContext:
        """The context of its task, made if need be. For the worker's own thread."""
        task = self.task
        assert task is not None
        return task._context or task._make_context(self._engine.values)

    def _employed(self) -> bool:
        return not self.dismissed and not self._queue.is_drained()

    def _work(self) -> None:
        self.began = True

        try:
            current.thread_state.running.worker = self

            while self._employed() and self._create():
                self.creating = False
                self.resource = self._held[0]
                self._was_aborted = False
                self.holds_resource = True
                self._completed_before = self.shard.finished()[0]
                self._proved_at = timer.now()
                # A loss from now on is reported by `resource_lost`.
                self.unfit = Reason.LOST if self._engine.user.is_lost(self.resource) else None
                self._engine.resource_made(self)

                self._serve(self.resource)
                self._give_up_resource()

        # Not raised by the user's code, which is guarded where it is called.
        except BaseException as error:
            try:
                release_locks()
            finally:
                self.inherit(error)
            self._engine.logger.fault("error", "%s: lost to an error", self.name, error=error)
        finally:
            self._leave(self)

    def inherit(self, error: BaseException | None = None) -> None:
        """See to the task and the resource that a fallen worker had in its hands.

        Called in its own thread, or when that has ended."""
        if error is None:
            error = WorkerLostError("the worker's thread ended in the middle of the task")

        try:
            self._give_up_task(error)
        finally:
            if self._broken_by is None:
                self._broken_by = error
            self._destroy()

    def has_heritage(self) -> bool:
        """Whether it has left a task or a resource behind."""
        return self.task is not None or bool(self._held) or self.slot is not None

    def _give_up_resource(self) -> None:
        """Its resource serves no longer: note why, and destroy it."""
        self._in_hook_since = min(self._in_hook_since, monotonic())
        before, self._failures = self._failures, self._failures_with_this()
        self._reason = self.unfit or Reason.BROKEN

        # Here, when another worker was woken for the task: a logger may block.
        if self.unfit is Reason.CHECK:
            self._engine.user.failed_check(self.name, self._broken_by)
        elif self.unfit is Reason.OUTLIER:
            self._engine.user.was_outlier(self.name, self._broken_by)
        self._destroy()

        if self._failures > before:
            self._engine.backoff.broke(self.candidate, self._failures)

    def _destroy(self) -> None:
        self.holds_resource = False
        self.resource = NO_RESOURCE

        if self._held:
            # If this raises, the destruction has not begun.
            self._engine.user.destroy_held(self._held, self.slot, self._broken_by)
            leave_child()
        self._engine.slots.free(self)
        self._broken_by = None
        self._in_hook_since = math.inf

    def _create(self) -> bool:
        """Make a resource. `False`: there is none, and none is wanted any more."""
        self.creating_since = monotonic()
        self.creating = True
        backoff = self._engine.backoff

        while self._may_create():
            try:
                self._make()
                return True
            except BaseException as error:
                self._broken_by = error
                self._destroy()

                # The closing manager itself gave the attempt up: it is no failure.
                if is_a(error, TaskManagerKilledError) and not self._employed():
                    break

                self._failures += 1
                backoff.failed(self.candidate, self._failures)
                self._engine.user.creation_failed(error)

        self.creating = False
        return False

    def _may_create(self) -> bool:
        """Sleep until a resource may be made.

        `False`: none is wanted any more."""
        self.pausing = True
        wanted = self._employed()
        while wanted and (pause := self._engine.backoff.may_try(self.candidate)):
            self.parker.sleep(pause)
            wanted = self._employed()
        self.pausing = False

        return wanted

    def _make(self) -> None:
        """Try to make a resource."""
        engine = self._engine
        slot = engine.slots.take(self, self.name, self._reason)
        self._proof, self._condemned, self._abort_doubt = engine.suspicion.last, 0, None
        try:
            engine.user.create(self._held, slot)
            leave_child()
        except BaseException:
            # There may be a resource all the same: the exception came from outside, a
            # moment too late.
            if not self._held:
                engine.slots.free(self, unused=True)
            raise

    def _failures_with_this(self) -> int:
        """The failures in a row, should its resource fail now.

        There are none if the resource has done a task well, or passed a check."""
        works = self.shard.finished()[0] != self._completed_before
        if works:
            return 0

        # A failed check adds none. A time of idleness came before it, which bounds how
        # often that happens, and a task may wait for the next resource. One that is
        # replaced because it may be broken, or was broken by an abort, has not failed.
        no_failure = self.unfit in (Reason.CHECK, Reason.SUSPECT) or self._broke_by_abort()
        return self._failures + (not no_failure)

    def _broke_by_abort(self) -> bool:
        """Whether its resource, should it break now, was broken by an abort.

        A call on it was aborted, and there was no proof since. This says nothing about
        the resources of others, nor about the backend."""
        return self._was_aborted or (
            self._abort_doubt is not None and self._abort_doubt == self.shard.finished()
        )

    def _serve(self, resource: R) -> None:
        """Run tasks until the resource is broken or the worker leaves.

        All that a task costs is in this loop. `_give_up_task` relies on the order in
        which it counts."""
        shard, engine, read_clock = self.shard, self._engine, monotonic
        take = self._take_if_fit if engine.user.serves_between else self._queue.take
        collects, may_retry = engine.user.collects, engine.may_retry
        durations, values = shard.durations, engine.values
        suspect = suspects(resource)
        # The type of the last result that was looked at. The next is often the same.
        usual: object = None
        # When the last task ended. The next one starts then, too, unless some of the
        # user's code ran in between.
        now = 0.0
        # `fn` is never None in a task that was started. To tell a type checker so would
        # cost time here.
        fn: Any
        args: Any
        result: object

        while True:
            self._taken_before = shard.taken
            # This also stores the task in `self.task`.
            task = take(self)
            if task is None:
                # A parked worker must not keep anything of the last task alive (I8).
                self.task = fn = args = variables = None
                task = self._next_task()
                if task is None:
                    return

            # Read before the start: a thread that settles the task later empties it.
            fn, args = task._fn, task._args
            # INLINED TaskFuture._start: 0.05 us a task, benchmarks --only submit
            try:
                del task._may_start
            except AttributeError:
                self._queue.drop(task)
                continue

            task._started_at = started = now if now > task._queued_at else read_clock()
            attempts = task.attempts + 1
            if attempts == 1:
                shard.taken += 1
            else:
                self._queue.taken_again(task)
            # Stored last: `_give_up_task` relies on that.
            task.attempts = attempts

            try:
                variables = task._variables
                if variables is not None:
                    # The next attempt must not see what this one sets.
                    if may_retry:
                        variables = variables.copy()
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
                    # The error's traceback leads to this frame, so the frame must not
                    # lead to the error (R4).
                    self.task = task = fn = args = variables = None
                    return
            else:
                if collects:
                    self._succeeded_with_collector(task, result)
                    result = None
                    continue

                now = read_clock()
                # INLINED TaskFuture._publish: 0.3 us a task, benchmarks --only submit
                try:
                    del task._may_settle
                except AttributeError:
                    # Another thread has settled it, for a timeout say. Or the task has
                    # forked, and this is the child.
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
                if len(durations) >= FULL_LENGTH:
                    durations = shard.fold()

    def _take_if_fit(self, worker: Worker[R]) -> TaskFuture[Any] | None:
        """As the queue's `take`, where there is something to do between two tasks."""
        last, self.task = self.task, None
        ran = last is not None and last.attempts != self._attempts_before
        last = None

        if not self._goes_on(ran=ran):
            return None

        task = self._queue.take(self)
        if task is not None:
            self._attempts_before = task.attempts
        return task

    def _goes_on(self, *, ran: bool) -> bool:
        """Whether the resource may serve another task.

        `ran`: whether it has just served one."""
        user = self._engine.user
        # Dismissed: its thread was abandoned in the meantime.
        if self.unfit is not None or self.dismissed:
            return False

        # The last task may have lost the resource, even after it answered. The next one
        # would only find that out, at the price of an attempt.
        if user.is_lost(self.resource):
            self.unfit = Reason.LOST
            user.was_lost(self.name)
        elif ran:
            self._proved_at = timer.now()
            if user.resets:
                self._reset()

        if self._was_aborted:
            self._was_aborted = False
            self._abort_doubt = self.shard.finished()
        return self.unfit is None

    def _reset(self) -> None:
        """Call `on_reset`. If that raises, the resource is unfit."""
        engine = self._engine
        self._in_hook_since = monotonic()
        # In no variable: see there.
        self._broken_by = engine.reset(self.name, self.resource, self)

        if self._broken_by is None:
            self._in_hook_since = math.inf
        else:
            lost = engine.user.is_lost(self.resource)
            self.unfit = Reason.LOST if lost else Reason.BROKEN
            if not self._broke_by_abort():
                engine.suspicion.broke(self, counts=not lost)

    @wrapper
    def look_at_result(
        self, result: object, fn: Callable[..., Any], args: tuple[Any, ...] = ()
    ) -> None:
        """Look at a result that may be the task's resource, or a call yet to be run.

        Raises `TypeError` for a coroutine. A call of an executor may return either: no
        resource was given to it."""
        if users_function(fn, args) is fn:
            self._engine.user.look_at_result(result, fn, self.resource)

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
        """Judge an error, then retry the task or settle it.

        Returns whether the resource is healthy."""
        now = monotonic()
        engine = self._engine
        _strip_own_frame(error)
        if type(error) is MemoryError:
            release_locks()
        if type(error) is TypeError:
            explain_call(error, error.__traceback__, task._fn, task._args, task._wants_context)
        leave_child(error)

        healthy = engine.user.is_healthy(error, self.resource)
        failures = self._failures_with_this()
        retry = not healthy and task._may_requeue() and self._is_to_retry(task, error)
        if healthy:
            self._completed_before = -1
            self._failed_at = self.shard.taken
        else:
            self._broken_by = error
            # Kept, because this task is finished soon.
            self._was_aborted = by_abort = self._broke_by_abort()
            # Before the task is put back, or an older resource could take it.
            if retry or not by_abort:
                lost = engine.user.is_lost(self.resource)
                counts = task.attempts == 1 and not lost and not by_abort
                task._breakage = engine.suspicion.broke(self, counts=counts)

        if retry and task._requeue():
            self._retried = task
            self.shard.count(retried=1)
            engine.user.notify_collector("record_retry")

            pause = engine.backoff.task_pause(failures, task.attempts)
            if pause:
                self._queue.put_back_later(task, pause)
            else:
                self._queue.put_back(task)
            self._retried = self.task = None

        elif task._take_settle():
            self._counted_before, self._uncounted = self.shard.finished(), task
            if task.attempts > 1:
                put_note(
                    error, "the last of ", f"{task.attempts} attempts, each on another resource"
                )
            task._store(error)
            self.shard.count(failed=1)
            self._uncounted = None

            self._tell_and_finish(task, "record_failure", now)

        # Logged last, because a logger may block. A single early failure is not called
        # `early`: it may be the task's own fault.
        if not healthy:
            self._in_hook_since = monotonic()
            early = failures > max(1, self._failures)
            engine.user.broke(self.name, error, early=early, retried=self.task is None)
        return healthy

    def _is_to_retry(self, task: TaskFuture[Any], error: BaseException) -> bool:
        """Whether a task gets another attempt: its resource broke or was lost."""
        if task.attempts > self._engine.max_retries:
            return False
        if is_a(error, WorkerLostError) and not error.began:
            return True
        if task._once:
            return False

        spent = spent_argument(task._fn, task._args)
        if spent is not None:
            put_note(error, "not retried: ", spent)
        return spent is None

    def _tell_and_finish(self, task: TaskFuture[Any], event: Event, now: float) -> None:
        """Tell a collector how a task ended, then wake its waiters."""
        engine = self._engine
        if engine.user.collects:
            # If the collector blocks, another thread finishes the task.
            engine.settling.add(task)
            engine.user.notify_collector(event, task._stamps(now))

        callbacks = task._finish()
        engine.settling.discard(task)

        task._call_back(callbacks)

    def _next_task(self) -> TaskFuture[Any] | None:
        """Park until there is a task.

        `None`: it was dismissed, its resource is unfit, or the queue is closed and
        empty."""
        checks = self._engine.user.checks
        while self._employed() and self.unfit is None:
            look = self._look_or_check if checks else self._look
            # What fails at once would be idle first, again and again, and get every
            # task.
            if self._failed_at == self.shard.taken:
                look = partial(self._look_from_cold_end, look)

            task = (
                self._park_between_checks(look)
                if checks
                else self._queue.idle.park(self.parker, look)
            )
            if task is not None and task is not _LEAVE:
                self._queue.wake_next()
                return task

        # If it was woken for a task, another worker must take that now.
        self._queue.wake_next()
        return None

    def _look(self) -> TaskFuture[Any] | None:
        # Called by `park`. It looks for a task, or for a reason to leave: an earlier
        # wake-up may have been about that.
        self._queue.waking = False

        if self.proof() < self._condemned:
            self.unfit = Reason.SUSPECT
        # A task would only find out that there is no resource.
        if self.dismissed or self.unfit is not None:
            return _LEAVE  # type: ignore[no-any-return]

        task = self._queue.take(self)
        if task is not None:
            self._attempts_before = task.attempts
        elif self._queue.is_drained():
            return _LEAVE  # type: ignore[no-any-return]
        return task

    def _look_from_cold_end(
        self, look: Callable[[], TaskFuture[Any] | None]
    ) -> TaskFuture[Any] | None:
        """As `look`, where its last task failed: other workers are woken before it."""
        self._queue.idle.go_to_cold_end(self.parker)
        return look()

    # -- checks (see `checking`) -------------------------------------------------------

    def _park_between_checks(
        self, look: Callable[[], TaskFuture[Any] | None]
    ) -> TaskFuture[Any] | None:
        """Park until there is a task, or the resource has passed a check."""
        checks = self._engine.checks
        if checks.keepalive is None:
            found = self._queue.idle.park(self.parker, look)
        else:
            due_at = checks.kept_alive_at(self._proved_at, self.slot)
            alarm = timer.at(due_at, self._wake_if_idle)
            try:
                found = self._queue.idle.park(self.parker, look)
            finally:
                alarm.cancel()

        return self._check_and_take() if found is _CHECK else found

    def _look_or_check(self) -> TaskFuture[Any] | None:
        # As `_look`. No task is taken before the resource has passed its check.
        checks = self._engine.checks
        if self.unfit is not None or not self._employed():
            return self._look()

        # In this order: see `TaskQueue`, "Waking".
        self._queue.waking = False
        due = self._is_check_due()
        if due and self._claims():
            return _CHECK  # type: ignore[no-any-return]
        if checks.is_to_be_kept_alive(self._proved_at, self.slot):
            return _CHECK  # type: ignore[no-any-return]

        return None if due else self._look()

    def _is_check_due(self) -> bool:
        """Whether its resource has to pass a check before the next task."""
        return self.is_suspect() or self._engine.checks.is_due(self._proved_at)

    def _claims(self) -> bool:
        """Claim a task that it may take when its resource has passed a check."""
        engine = self._engine
        takes_retries = max(self.proof(), engine.suspicion.past) == engine.suspicion.last
        return engine.checks.claim(self.name, retries=takes_retries)

    def _check_and_take(self) -> TaskFuture[Any] | None:
        """Check the resource, then take a task, if there is one and all is well."""
        try:
            if not self._passes_check():
                return None

            task = self._queue.take(self)
            if task is not None:
                self._attempts_before = task.attempts
            return task
        finally:
            # The task is out of its lane, or another worker is woken for it.
            self._engine.checks.end_claim(self.name)

    def _passes_check(self) -> bool:
        """Call `on_check`. A resource that does not pass is unfit."""
        engine = self._engine
        # Before the check, which may be aborted itself.
        by_abort = self._broke_by_abort()
        self._in_hook_since = monotonic()
        # Read before the check: it tells nothing of what comes while it runs.
        past = engine.suspicion.past
        # In no variable: see there.
        self._broken_by = engine.checks.trouble(self.name, self.resource, self._check_is_late, self)
        self.checks_too_long = False

        if self._broken_by is not None:
            self.unfit = Reason.CHECK
            if not by_abort:
                engine.suspicion.broke(self, counts=True)
        else:
            self._in_hook_since = math.inf
            # It is known to work.
            self._proof, self._abort_doubt = max(self._proof, past), None
            self._was_aborted = False
            self._completed_before = -1
            self._proved_at = timer.now()

        # It may have been lost after it passed.
        return self.unfit is None

    def _check_is_late(self) -> None:
        self.creating_since = monotonic()
        self.checks_too_long = self.creating = True
        self.holds_resource = False

    # -- the end -----------------------------------------------------------------------

    def _give_up_task(self, error: BaseException) -> None:
        """The loop itself failed: see to the task in its hand.

        A waiting one goes back to its lane, any other gets an outcome."""
        task = self.task
        if task is None:
            return

        if task._waits_for_start():
            self._queue.give_back(task, retried=self._retried is task)

        # Otherwise it was put back, and another worker has taken it.
        elif self._retried is not task:
            durations = self.shard.durations
            if len(durations) % 2:
                durations.pop()
                counted = False
            else:
                # Emptied between the two durations, or when the outcome was stored.
                counted = task._fn is None

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
    """Let a task's traceback begin with the user's function."""
    with contextlib.suppress(BaseException):
        if error.__traceback__ is not None:
            error.__traceback__ = users_traceback(error.__traceback__.tb_next)

"""`Engine`: the parts of one manager put together, and what they tell each other.

The threads of a manager hold its engine, never the `TaskManager`: a manager that is forgotten can be collected, which
stops its engine. To follow a task: `submit` makes a `TaskFuture` and puts it into the `TaskQueue`; `Worker._serve`
takes it, runs it, and settles it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from contextvars import copy_context
from types import FunctionType
from typing import Any, Generic, Literal, TypeVar

from tasker import checks
from tasker._base.callables import is_plain
from tasker._pool import reentrancy
from tasker._pool.backoff import Backoff
from tasker._pool.crew import Crew
from tasker._pool.exit_and_fork import new_locks, watch
from tasker._pool.housekeeper import Housekeeper
from tasker._pool.lifecycle import OPEN, STOPPING, Lifecycle
from tasker._pool.metrics import Counters
from tasker._pool.news import News
from tasker._pool.queue import TaskQueue
from tasker._pool.resources import ResourcePool
from tasker._pool.run_task import Known, RunTask
from tasker._pool.scaling import Limits
from tasker._pool.turns import Turns
from tasker._pool.usercode import UserCode
from tasker._pool.watchers import Watchers
from tasker._pool.worker import Worker
from tasker._sync.callback_runner import BackgroundLogger, CallbackRunner
from tasker._sync.clock import monotonic
from tasker._sync.guarded_logger import GuardedLogger
from tasker._sync.interrupts import deliver_later
from tasker._sync.parking import Parker
from tasker._sync.threads import greenlets
from tasker._tasks import current, deadlock
from tasker._tasks.context import Callback, Context, ManagerValues
from tasker._tasks.current import in_task
from tasker._tasks.future import TaskFuture, new_task
from tasker._tasks.signature import wants_context
from tasker.config import Config
from tasker.errors import (
    QueueFullError,
    ResourceCreationError,
    TaskManagerShutdownError,
)
from tasker.placement.base import Backend
from tasker.snapshots import StopReport, TaskMetrics, TaskStats

__all__ = ["Engine"]

R = TypeVar("R")
T = TypeVar("T")

KILL_TIMEOUT = 5.0  # seconds that a kill gives running tasks


class Engine(RunTask[R], Generic[R]):
    """Everything of a manager but its methods. Made running; ends by `lifecycle`."""

    packs = False  # whether what is submitted is sent elsewhere
    life_level: Literal["debug", "info"] = "info"  # at which its ordinary life is told
    finishes_at_exit = (
        False  # whether interpreter exit waits for all that was accepted, however long
    )

    def __init__(self, config: Config[R]) -> None:
        current.renew()
        self.config = config
        self.name: str = config.name
        self.logger: GuardedLogger = GuardedLogger(config.logger)
        self.backend: Backend = config.placement.open(config, self.resource_lost)
        self.user: UserCode[R] = UserCode(config, self.backend, self.logger)
        self.has_collector: bool = self.user.collects
        self.max_retries: int = config.max_retries
        self.may_retry: bool = self.max_retries > 0 and self.user.judges
        self.run_contexts: set[Context] = set()
        self.settling: set[TaskFuture[Any]] = set()
        self.fallen: list[Worker[R]] = []  # workers that left something behind
        self.watchers: Watchers = Watchers(self)
        self.exiting = False  # whether the interpreter is
        self.orphaned: BaseException | None = None  # why, in a forked child, no task has an end
        self._inherited: list[
            Any
        ] = []  # in a forked child: kept, or collecting them would free them
        self.values: ManagerValues = ManagerValues(config.ctx, self.is_stopping)
        self.queue: TaskQueue = self._new_queue()
        self.counters: Counters = Counters(self.queue.waiting_new)
        self.runner: CallbackRunner = CallbackRunner(f"{config.name}-aside", self.logger)
        self.runner.at_rest = self._runner_at_rest
        # for threads that must not wait for the user's
        self.service_logger: BackgroundLogger = BackgroundLogger(self.runner, self.logger)
        self.news: News = News(self.name, self.logger, self.service_logger, self.life_level)
        create_timeout = checks.seconds("create_timeout", config.create_timeout)
        self.backoff: Backoff = Backoff(create_timeout)
        limits = self._limits()
        self.crew: Crew[R] = Crew(
            config.name,
            limits.base,
            limits.most,
            self._new_worker,
            self._worker_leaving,
            self._worker_left,
            self.service_logger,
        )
        size = (
            config.worker_count if config.resource_pool_size is None else config.resource_pool_size
        )
        self.pool: ResourcePool[R] = ResourcePool(
            config.name,
            size,
            self.backend.create,
            self.user.destroy,
            self._wake_housekeeper,
            # a proxy is bound to no thread, and greenlets have one thread among them
            shared=config.resource_pool_size is not None or self.packs or greenlets() != "",
        )
        self.turns: Turns = Turns(config.name, config.run_task_limit)
        self.lifecycle: Lifecycle = Lifecycle(
            self, create_timeout, self._wake_housekeeper, self._ensure_housekeeper
        )
        interval = checks.seconds("burst_interval", config.burst_interval)
        self.housekeeper: Housekeeper = Housekeeper(self, interval, create_timeout, limits)
        self._bounded = config.queue_size > 0
        self._propagates = config.propagate_contextvars
        self._known: Known = (None, 0, None)
        self._harmless = type(None)
        self._forget_stop: Callable[[], bool] = bool
        self._start()

    def _start(self) -> None:
        try:
            if self.config.resource_pool_size:
                self._fill_pool()
            self.housekeeper.thread.start()
            watch(self)  # not before there is a thread that closes: interpreter exit waits for it
            self.news.started(self.crew.base, self.crew.most)
            self.crew.fill()
            self._forget_stop = self.config.ctx.on_done(_weakly(self.lifecycle.request_stop))
        except BaseException:  # no thread for the burst thread, Ctrl-C: leave nothing behind
            self.lifecycle.request_kill(0.0)
            if self.housekeeper.thread.ident is None:
                for resource in self.pool.close():
                    self.user.destroy(resource)
                self.backend.closed()
            raise

    def _fill_pool(self) -> None:
        try:
            self.pool.fill()
        except Exception as error:
            raise ResourceCreationError(
                f"{self.name}: on_create failed while the run_task pool was filled"
            ) from error

    # -- submitting ------------------------------------------------------------------------------------------------

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        options: Mapping[str, Any],
        waiting: list[Any] | None = None,
        make: Callable[..., TaskFuture[Any]] = new_task,
    ) -> TaskFuture[Any]:
        """Accept a task, or raise. `options` are those of `TaskManager.submit`, `waiting` what waits for the outcome
        (a sleeper, a `DoneCallback`): there before the task is put, or a callback might run in the submitter's thread.
        `make` makes the future.
        """
        if self.queue.closed:
            raise self.queue.refusal()
        code, given, asking = self._known
        if (
            type(fn) is FunctionType
            and fn.__code__ is code
            and len(args) == given
            and (asking is None or asking() is fn)
        ):
            wants = asking is not None
        else:
            wants = self._ask(fn, len(args))
        task = make(
            self,
            fn,
            args,
            wants,
            monotonic(),
            waiting,
            copy_context() if self._propagates else None,
        )
        self._accept(task, options)
        return task

    def submit_asked(
        self,
        fn: Callable[..., Any],
        wants_context: bool,
        args: tuple[Any, ...],
        options: Mapping[str, Any],
        waiting: list[Any] | None = None,
        make: Callable[..., TaskFuture[Any]] = new_task,
    ) -> TaskFuture[Any]:
        """The same for a function that has been asked already, once for many tasks."""
        if self.queue.closed:
            raise self.queue.refusal()
        variables = copy_context() if self._propagates else None
        task = make(self, fn, args, wants_context, monotonic(), waiting, variables)
        self._accept(task, options)
        return task

    def _accept(self, task: TaskFuture[Any], options: Mapping[str, Any]) -> None:
        """Put a task into its lane, or raise: what raises is not accepted, at whichever bytecode it is struck."""
        try:
            if options or self._bounded:
                self._put(task, **options)
            else:
                self.queue.put(task)
            if self.has_collector:
                self.user.tell("record_arrival")
        except BaseException as error:
            # The task may be in its lane already. There may be no room on the stack, so
            # there is no call until that is decided (R2). `_refused` is announced first:
            # what takes the task out of its lane then counts it.
            accepted, task._refused = not task._refused, True
            try:
                del task._may_start
            except AttributeError:
                # a worker has taken it, unless the closed queue has refused it
                task._refused = not accepted
            else:
                accepted = False

            if not accepted:
                raise
            try:  # noqa: SIM105  # suppress() could be struck in its turn
                deliver_later(error)
            except BaseException:
                pass

    def _ask(self, fn: Callable[..., Any], given: int) -> bool:
        """Whether a function wants its context, given so many arguments. The last one that was asked is remembered, as
        many are submitted again and again."""
        wants = wants_context(fn, given + 1)
        if type(fn) is FunctionType and is_plain(fn.__code__, given + 1 + wants):
            self._known = (fn.__code__, given, weakref.ref(fn) if wants else None)
        return wants

    def _put(
        self,
        task: TaskFuture[Any],
        *,
        priority: bool = False,
        once: bool = False,
        timeout: float | None = None,
        queue_timeout: float | None = None,
    ) -> None:
        if priority is not False:
            task._priority = checks.flag("priority", priority)
        if once is not False:
            task._once = checks.flag("once", once)
        if timeout is None and not self._bounded and queue_timeout is None:
            self.queue.put(task)
        else:
            self._submit_with_limits(task, timeout, queue_timeout)

    def _submit_with_limits(
        self, task: TaskFuture[Any], timeout: float | None, queue_timeout: float | None
    ) -> None:
        room = checks.limit("queue_timeout", queue_timeout)
        limit = checks.limit("timeout", timeout, zero=False)
        try:
            if self._bounded:
                self._reserve(task, room)
            if limit is not None:
                task._set_timeout(limit)
            self.queue.put(task)
        except BaseException:  # refused, or Ctrl-C
            self.queue.free_slot(task)
            raise

    def _reserve(self, task: TaskFuture[Any], timeout: float | None) -> None:
        if not self._wait_for_room(task, 0.0 if self.runs_this_thread() else timeout):
            raise QueueFullError(
                f"{self.name}: queue full: {self.queue.room}, {self.busy()} of {len(self.crew.members)} workers "
                "busy; submit later, wait longer (queue_timeout), or raise queue_size"
            )
        if self.queue.closed:  # while it waited: it was in no lane, so nobody is to count it
            raise self.queue.refusal()
        task._queued_at = monotonic()

    def _wait_for_room(self, task: TaskFuture[Any], timeout: float | None) -> bool:
        if in_task() and timeout is None:
            if self.queue.reserve(task, 0.0):
                return True
            parker = Parker()
            with deadlock.Wait(deadlock.Slot(self), parker.wake):
                return self.queue.reserve(task, None, parker)
        return self.queue.reserve(task, timeout)

    # -- what workers use (worker.EngineForWorker) -----------------------------------------------------------------------------

    def resource_made(self) -> None:
        self.backoff.resource_made()
        self.worker_changed()
        try:
            base = self.crew.base
            if base and self.news.is_to_be_ready() and self.crew.holding() >= base:
                self.news.ready(base)
        except MemoryError:
            pass  # that it is not told costs no worker

    def worker_changed(self) -> None:
        """Tell who waits for it that a worker has a resource now, or is parked, or has left."""
        self.watchers.wake()

    # -- what futures use (future.EngineForFuture) -----------------------------------------------------------------------------

    def entry_died(self, future: TaskFuture[Any]) -> None:
        self.queue.entry_died(future)
        if not future.attempts:
            self.counters.never_taken()

    def record_cancelled(self) -> None:
        self.counters.cancelled()

    def record_failure(
        self, future: TaskFuture[Any], error: BaseException, *, was_waiting: bool
    ) -> None:
        if was_waiting and isinstance(error, CancelledError):
            self.record_cancelled()
            return
        self.counters.failed_outside()
        self.user.tell("record_failure", future._stamps(monotonic()))

    def run_in_other_thread(self, jobs: list[Callback]) -> None:
        self.runner.run_all(jobs)
        self.queue.stir()

    def let_go(self, things: list[Any]) -> None:
        self.runner.let_go(things)
        self.queue.stir()

    # -- what waits between tasks go by (deadlock.EngineForDeadlock) ---------------------------------------------------------------

    def workers(self) -> tuple[Worker[R], ...]:
        return self.crew.members

    def base(self) -> int:
        return self.crew.base

    def waiting(self) -> list[TaskFuture[Any]]:
        return [task for task in self.queue.entries() if task._waits_for_start()]

    def has_room(self) -> bool:
        return self.queue.room.may_enter()

    def is_closing(self) -> bool:
        return self.is_stopping()

    def is_killed(self) -> bool:
        return self.lifecycle.state > STOPPING

    def may_hire(self) -> bool:
        hires = self.housekeeper.scales or self.lifecycle.state == STOPPING
        return self.crew.staying() < (self.crew.most if hires else self.crew.base)

    def is_hopeless(self) -> bool:
        return self.housekeeper.hopeless

    def trouble(self) -> str:
        return self.housekeeper.trouble()

    # -- looking -----------------------------------------------------------------------------------------------------

    def stats(self) -> TaskStats:
        members = self.crew.members
        main, priority = self.queue.waiting()
        active = len(members)
        holding = sum(worker.holds_resource for worker in members)
        running = sum(worker.holds_resource and worker.task is not None for worker in members)
        return TaskStats(
            base_workers=min(active, self.crew.base),
            active_workers=active,
            burst_workers=max(0, active - self.crew.base),
            idle_workers=sum(worker.parker.parked and worker.holds_resource for worker in members),
            creating_workers=active - holding,
            queued_tasks=main,
            priority_tasks=priority,
            running_tasks=running,
            available_resources=self.pool.available,
        )

    def metrics(self) -> TaskMetrics:
        told = self.user.metrics()
        return self.counters.metrics() if told is None else told

    def current_resource(self) -> R:
        """The resource of the innermost of this engine's tasks in the calling thread."""
        loan: Any = current.thread_state.running.loan
        while loan is not None:
            if loan.owner is self:
                return loan.resource  # type: ignore[no-any-return]
            loan = loan.outer
        worker: Any = current.thread_state.running.worker
        if worker is None or not worker.serves(self):
            raise RuntimeError(f"{self.name}: current_resource() was called outside of its tasks")
        return worker.resource  # type: ignore[no-any-return]

    def busy(self) -> int:
        """Workers that are not parked."""
        return sum(not worker.parker.parked for worker in self.crew.members)

    def is_stopping(self) -> bool:
        """Whether closing has begun."""
        return self.lifecycle.state != OPEN

    # -- closing -----------------------------------------------------------------------------------------------------

    def stop(self, timeout: float | None) -> StopReport:
        limit = None if timeout is None else checks.patience("timeout", timeout)
        self.begin_stop()
        if not self.closing_needs_this_thread() and not self.lifecycle.wait(limit):
            return self.kill(KILL_TIMEOUT)
        return self.lifecycle.report()

    def begin_stop(self) -> None:
        """Begin to stop. What this thread keeps for `run_task` is destroyed here, first."""
        try:
            self.pool.clear_own()
        finally:
            self.lifecycle.request_stop()

    def kill(self, timeout: float) -> StopReport:
        self.lifecycle.request_kill(checks.seconds("timeout", timeout))
        if not self.closing_needs_this_thread():
            self.lifecycle.wait(None)
        return self.lifecycle.report()

    def runs_this_thread(self) -> bool:
        """Whether the calling thread is one of this engine's."""
        return reentrancy.is_own_thread(self)

    def closing_needs_this_thread(self) -> bool:
        """Whether to wait for the end would be to wait for the calling thread itself."""
        return reentrancy.is_inside(self) or self.tasks_need_this_thread()

    def tasks_need_this_thread(self) -> bool:
        """Whether tasks may have to wait for what the calling thread was interrupted in."""
        return reentrancy.is_needed()

    def is_held_up_here(self) -> bool:
        """Whether threads of this engine may have to wait for that."""
        return reentrancy.is_held_up(self)

    def own_parts(self) -> tuple[object, ...]:
        """What has locks."""
        parts = (
            self.queue,
            self.crew,
            self.counters,
            self.runner,
            self.pool,
            self.user,
            self.backoff,
        )
        return (self, *parts, self.queue.room, self.turns.room, self.logger.faults)

    # -- the pieces --------------------------------------------------------------------------------------------------

    def _new_queue(self) -> TaskQueue:
        return TaskQueue(self.name, self.config.queue_size)

    def _limits(self) -> Limits:
        config = self.config
        most = config.max_worker_count
        if most is None:
            extra = (
                config.burst_worker_count if config.burst_task_threshold else config.worker_count
            )
            most = config.worker_count + extra
        return Limits(
            base=config.worker_count,
            most=most,
            threshold=config.burst_task_threshold,
            threshold_hires=config.burst_worker_count,
        )

    def _new_worker(self, name: str, leave: Callable[[Worker[R]], None]) -> Worker[R]:
        return Worker(name, self, self.counters.new_shard(), leave)

    def _worker_leaving(self, worker: Worker[R]) -> None:
        if worker.has_heritage():
            self.fallen.append(worker)
        else:
            self.counters.retire(worker.shard)

    def inherit(self, worker: Worker[R]) -> None:
        """See to what a worker that fell has left behind, then to its figures. Runs code of the user's."""
        try:
            worker.inherit()
        finally:
            self._worker_leaving(worker)

    def _worker_left(self, worker: Worker[R]) -> None:
        self.worker_changed()
        if (
            worker.thread.ident is not None
        ):  # else its thread did not start, and at once it would not start again
            self._wake_housekeeper()

    def resource_lost(self, resource: R) -> None:
        """The place where a resource lives is gone. One that is idle is replaced; another one's user finds out."""
        owner = next((worker for worker in self.crew.members if worker.resource is resource), None)
        if self.pool.discard(resource) if owner is None else owner.resource_lost():
            self.service_logger.outage("%s: lost an idle resource, %r", self.name, resource)
            self.queue.stir()

    def heal_crew(self) -> None:
        """Said by every tick, as long as the manager is open."""
        self.crew.heal(self.queue.idle)

    def closed(self) -> None:
        """The lifecycle has ended: let go of what outlives the manager, and tell who waits."""
        self._forget_stop()
        self.backend.closed()
        self.worker_changed()

    def _wake_housekeeper(self) -> None:
        self.housekeeper.wake()

    def _runner_at_rest(self) -> None:
        if self.is_stopping():  # which may have waited for that
            self.housekeeper.wake()

    def _ensure_housekeeper(self) -> None:
        self.housekeeper.ensure()

    def unfinished(self) -> list[TaskFuture[Any]]:
        """What waits or runs, entries that are dead included."""
        return [*self.queue.entries(), *self.lifecycle.running()]

    def start_afresh_in_child(self, unfinished: list[TaskFuture[Any]]) -> None:
        """In a forked child none of the threads exist: refuse everything; what can never end fails when it is looked
        at. Lanes and tasks, which the others were changing perhaps (see `exit_and_fork`), are left alone."""
        error = TaskManagerShutdownError(
            f"{self.name} belongs to the process that forked this one: make a new one here"
        )
        self.user.leave_to_parent()
        # neither used nor freed here: they are the parent's
        self._inherited = [self.queue, *((task, task._fn, task._args) for task in unfinished)]
        self.queue = self._new_queue()
        self.queue.close(error)
        self.counters._waiting = self.queue.waiting_new
        self.turns.leave_to_parent()
        new_locks(*self.own_parts())
        self._inherited += self.pool.close()
        self.orphaned = error
        self.lifecycle.end_after_fork()
        forked_by = [
            worker for worker in self.crew.members if worker.thread is threading.current_thread()
        ]
        self.crew.members = ()
        for worker in forked_by:
            if worker.task is not None:
                worker.task._end_after_fork(error)


def _weakly(method: Callable[[], None]) -> Callback:
    reference = weakref.WeakMethod(method)

    def call() -> None:
        target = reference()
        if target is not None:
            target()

    return call

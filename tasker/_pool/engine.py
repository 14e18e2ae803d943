"""`Engine`: the parts of one manager put together, and what they tell each other.

Here are the parts, what is submitted, and the news from workers and futures. The engine
inherits the rest: `run_task`, `state` (what it answers) and `closing`.

The threads of a manager hold its engine, never the `TaskManager`. So a manager that is
forgotten can be collected, which stops its engine.

`submit` makes a `TaskFuture` and puts it into the `TaskQueue`. `Worker._serve` takes
it, runs it, and settles it. `tasker/ARCHITECTURE.md` tells the whole way of a task.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from contextvars import copy_context
from datetime import timedelta
from functools import partial
from types import FunctionType
from typing import Any, Literal, TypeVar

from tasker import checks
from tasker._base.callables import is_plain
from tasker._pool.abandonment import Abandonment
from tasker._pool.backoff import Backoff
from tasker._pool.checking import Checks
from tasker._pool.closing import EngineClosing, weakly
from tasker._pool.crew import Crew
from tasker._pool.exit_and_fork import watch
from tasker._pool.housekeeper import Housekeeper
from tasker._pool.keepalive import Keepalive
from tasker._pool.lifecycle import Lifecycle
from tasker._pool.metrics import Counters
from tasker._pool.news import News
from tasker._pool.outliers import Outliers
from tasker._pool.queue import TaskQueue
from tasker._pool.resources import ResourcePool
from tasker._pool.run_task import Known, RunTask
from tasker._pool.scaling import Limits
from tasker._pool.slots import Slots
from tasker._pool.state import EngineState
from tasker._pool.supervisor import Kind, Supervisor
from tasker._pool.suspicion import Suspicion
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
from tasker._tasks.abort import Abort
from tasker._tasks.context import Callback, Context, ManagerValues, check_context
from tasker._tasks.current import in_task
from tasker._tasks.future import TaskFuture, new_task
from tasker._tasks.signature import wants_context
from tasker.config import Config
from tasker.errors import (
    QueueFullError,
    ResourceCreationError,
)
from tasker.placement.base import Backend

__all__ = ["Engine"]

R = TypeVar("R")
T = TypeVar("T")


class Engine(RunTask[R], EngineState[R], EngineClosing[R]):
    """All of a manager but its methods. It runs from the beginning."""

    # whether tasks are packed, to be run in a child process or an actor
    packs = False
    # the level at which its start and its end are logged
    life_level: Literal["debug", "info"] = "info"
    # whether interpreter exit waits for all accepted tasks, however long that takes
    finishes_at_exit = False

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
        self.values: ManagerValues = ManagerValues(config.ctx, self.is_stopping)

        # those of calls in `run_task`, and of hooks
        self.run_contexts: set[Context] = set()
        self.settling: set[TaskFuture[Any]] = set()
        # workers that left something behind
        self.fallen: list[Worker[R]] = []
        self.watchers: Watchers = Watchers(self)
        # whether the interpreter exits
        self.exiting = False
        # in a forked child: why no task has an end
        self.orphaned: BaseException | None = None
        # in a forked child: the parent's things, as to collect them would free them
        self._inherited: list[Any] = []

        self.queue: TaskQueue = self._new_queue()
        self.counters: Counters = Counters(self.queue.waiting_new)
        self.runner: CallbackRunner = CallbackRunner(f"{config.name}-aside", self.logger)
        self.runner.at_rest = self._runner_at_rest
        # for threads that must not wait for the user's logger
        self.service_logger: BackgroundLogger = BackgroundLogger(self.runner, self.logger)
        self.news: News = News(self.name, self.logger, self.service_logger, self.life_level)

        self.supervisor: Supervisor[R] = Supervisor(self.user, self.run_contexts, self._kinds())
        self.outliers: Outliers = Outliers(config.eject_after, lambda: len(self.crew.members))
        if config.eject_after is not None:
            self.supervisor.kinds.append(self.outliers.watch)
        self.checks: Checks[R] = Checks(
            config,
            self.backend,
            self.user,
            self.queue,
            self.service_logger,
            self.supervisor.call_hook,
        )
        create_timeout = checks.seconds("create_timeout", config.create_timeout)
        self.backoff: Backoff = Backoff(create_timeout, lambda: self.crew.holding() > 0)
        self.slots: Slots = Slots()
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

        self.pool: ResourcePool[R] = self._new_pool()
        self.keepalive: Keepalive[R] = Keepalive(
            config.name,
            self.pool,
            self.checks,
            self.is_well,
            self.logger,
            gives_up=not self.packs,
        )
        self.suspicion: Suspicion = Suspicion(self, create_timeout)
        self.turns: Turns = Turns(config.name, config.run_task_limit)
        self.lifecycle: Lifecycle = Lifecycle(
            self, create_timeout, self._wake_housekeeper, self._ensure_housekeeper
        )
        interval = checks.seconds("burst_interval", config.burst_interval)
        self.housekeeper: Housekeeper = Housekeeper(self, interval, create_timeout, limits)

        self._bounded = config.queue_size > 0
        self._timeout = checks.limit("timeout", config.timeout)
        self._run_timeout = checks.limit("run_timeout", config.run_timeout)
        # whether a task without options is not put as it is, either
        self._prepares = (
            self._bounded
            or bool(self.supervisor.kinds)
            or self._timeout is not None
            or self._run_timeout is not None
        )
        self._propagates = config.propagate_contextvars
        self._known: Known = (None, 0, None)
        self._harmless = type(None)
        self._forget_stop: Callable[[], bool] = bool
        self._start()

    def _new_pool(self) -> ResourcePool[R]:
        size = self.config.resource_pool_size
        return ResourcePool(
            self.name,
            self.config.worker_count if size is None else size,
            self.slots,
            self.user.maker,
            self.user.destroy,
            self._wake_housekeeper,
            # a proxy is bound to no thread, and greenlets have one thread among them
            shared=size is not None or self.packs or greenlets() != "",
            is_lost=self.backend.is_lost if self.backend.may_lose else None,
            check=self.check_idle if self.user.checks else None,
            made=self.backoff.made_elsewhere,
        )

    def _start(self) -> None:
        try:
            if self.config.resource_pool_size:
                self._fill_pool()
            self.housekeeper.thread.start()

            # not before there is a thread that closes: interpreter exit waits for it
            watch(self)
            self.news.started(self.crew.base, self.crew.most)
            self.crew.fill()
            self.keepalive.start()
            self._forget_stop = self.config.ctx.on_done(weakly(self.lifecycle.request_stop))
        except BaseException:
            # no thread for the housekeeper, or Ctrl-C: leave nothing behind
            self.lifecycle.request_kill(0.0)
            if self.housekeeper.thread.ident is None:
                for loan in self.pool.close():
                    self.user.destroy(loan.resource, loan.slot)
                self.backend.closed()
            raise

    def _fill_pool(self) -> None:
        try:
            self.pool.fill()
        except Exception as error:
            raise ResourceCreationError(
                f"{self.name}: on_create failed while the run_task pool was filled"
            ) from error

    # -- submitting --------------------------------------------------------------------

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        options: Mapping[str, Any],
        waiting: list[Any] | None = None,
        make: Callable[..., TaskFuture[Any]] = new_task,
    ) -> TaskFuture[Any]:
        """Accept a task, or raise.

        `options` are those of `TaskManager.submit`. `make` makes the future. `waiting`
        lists what waits for the outcome (a sleeper, a `DoneCallback`). It is there
        before the task is put, or a callback might run in the submitter's thread."""
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
        """The same for a function that was asked already: once for many tasks."""
        if self.queue.closed:
            raise self.queue.refusal()
        variables = copy_context() if self._propagates else None
        task = make(self, fn, args, wants_context, monotonic(), waiting, variables)
        self._accept(task, options)
        return task

    def _accept(self, task: TaskFuture[Any], options: Mapping[str, Any]) -> None:
        """Put a task into its lane, or raise. If it raises, the task is not accepted,
        whichever bytecode an interrupt strikes."""
        try:
            if options or self._prepares:
                self._put(task, **options)
            else:
                self.queue.put(task)
            if self.has_collector:
                self.user.notify_collector("record_arrival")
        except BaseException as error:
            # The task may be in its lane already. There may be no room on the stack, so
            # there is no call until that is decided (R2). `_refused` is announced
            # first: what takes the task out of its lane then counts it.
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
        """Whether a function wants its context, given so many arguments.

        The answer for the last function is remembered: the same often comes again."""
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
        timeout: float | timedelta | None = None,
        run_timeout: float | timedelta | None = None,
        queue_timeout: float | timedelta | None = None,
        ctx: Context | None = None,
    ) -> None:
        if priority is not False:
            task._priority = checks.flag("priority", priority)
        if once is not False:
            task._once = checks.flag("once", once)
        limit = _limit("timeout", timeout, self._timeout)
        run_limit = _limit("run_timeout", run_timeout, self._run_timeout)
        room = checks.limit("queue_timeout", queue_timeout)
        parent = None if ctx is None else check_context("ctx", ctx, or_none=True)

        if run_limit is not None:
            task._run_timeout = run_limit
        if run_limit is not None or self.supervisor.kinds:
            self.supervisor.supervise(task)

        if limit is None and parent is None and not self._bounded:
            self.queue.put(task)
        else:
            self._put_with_limits(task, limit, parent, room)

    def _put_with_limits(
        self,
        task: TaskFuture[Any],
        timeout: float | None,
        parent: Context | None,
        room: float | None,
    ) -> None:
        try:
            if self._bounded:
                self._reserve(task, room, parent)
            if timeout is not None:
                task._set_timeout(timeout)
            if parent is not None:
                task._set_parent(parent, self.values)
            self.queue.put(task)
        except BaseException:  # refused, or Ctrl-C
            self.queue.free_seat(task)
            task._leave_parent()
            raise

    def _reserve(
        self, task: TaskFuture[Any], timeout: float | None, parent: Context | None
    ) -> None:
        has_room = self._wait_for_room(task, 0.0 if self.runs_this_thread() else timeout, parent)
        # a task whose parent has ended needs none: it never waits
        if not has_room and not (parent is not None and parent.cancelled()):
            workers = len(self.crew.members)
            raise QueueFullError(
                f"{self.name}: queue full: {self.queue.room}, {self.busy()} of {workers} workers "
                "busy; submit later, wait longer (queue_timeout), or raise queue_size"
            )

        if self.queue.closed:
            # closed while it waited; the task was in no lane, so it is not counted
            raise self.queue.refusal()

        task._queued_at = monotonic()

    def _wait_for_room(
        self, task: TaskFuture[Any], timeout: float | None, parent: Context | None
    ) -> bool:
        """Get the task a seat. `False`: the time is up, or its parent has ended."""
        endless = timeout is None and (parent is None or parent.deadline() is None)
        may_deadlock = endless and in_task()
        if parent is None and not may_deadlock:
            return self.queue.reserve(task, timeout)
        if self.queue.reserve(task, 0.0):
            return True

        parker = Parker()
        take_back: Callable[[], object] = bool
        try:
            if parent is not None:
                take_back = parent.on_done(parker.wake)
            if not may_deadlock:
                return self.queue.reserve(task, timeout, parker)

            with deadlock.Wait(deadlock.Seat(self), parker.wake):
                return self.queue.reserve(task, None, parker)
        finally:
            take_back()

    # -- what workers use (worker.EngineForWorker) -------------------------------------

    def resource_made(self, worker: Worker[R]) -> None:
        self.backoff.made(worker.candidate)
        self.outliers.forget(worker.name)
        self.worker_changed()
        try:
            base = self.crew.base
            if base and self.news.is_to_be_ready() and self.crew.holding() >= base:
                self.news.ready(base)
        except MemoryError:
            # a line that is not logged costs no worker
            pass

    def worker_changed(self) -> None:
        """A worker has got a resource, is parked, or has left."""
        self.watchers.wake()

    # -- what futures use (future.EngineForFuture) -------------------------------------

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
        self.user.notify_collector("record_failure", future._stamps(monotonic()))

    def run_in_other_thread(self, jobs: list[Callback]) -> None:
        self.runner.run_all(jobs)
        self.queue.stir()

    def let_go(self, things: list[Any]) -> None:
        self.runner.let_go(things)
        self.queue.stir()

    # -- the pieces --------------------------------------------------------------------

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

    def _kinds(self) -> list[Kind]:
        """What is done about a call that is stuck."""
        kinds: list[Kind] = []
        after = self.config.abandon_after
        if after is not None and not self.packs:
            kinds.append(partial(self._new_abandonment, checks.seconds("abandon_after", after)))
        if self.backend.abort is not None:
            # Its end waits for `on_abort`, which may be stuck as well.
            kinds.append(self._new_abort)

        return kinds

    def _new_abandonment(
        self,
        after: float,
        context: Context,
        resource: R,
        fn: Callable[..., Any],
        worker: Worker[R] | None,
    ) -> Abandonment | None:
        return None if worker is None else Abandonment(self, context, worker, after)

    def _new_abort(
        self, context: Context, resource: R, fn: Callable[..., Any], worker: Worker[R] | None
    ) -> Abort:
        owner = f"{self.name}, run_task" if worker is None else worker.name
        abort = partial(self.user.abort, owner, resource, current.slot_here())
        return Abort(context, abort, self._run_apart, partial(current.note_abort, resource))

    def _run_apart(self, job: Callable[[], object]) -> None:
        self.runner.run_apart(job)
        self.queue.stir()

    def _new_worker(self, name: str, leave: Callable[[Worker[R]], None]) -> Worker[R]:
        return Worker(name, self, self.counters.new_shard(), leave)

    def _worker_leaving(self, worker: Worker[R]) -> None:
        if worker.has_heritage():
            self.fallen.append(worker)
        else:
            self.counters.retire(worker.shard)

    def inherit(self, worker: Worker[R]) -> None:
        """Finish what a worker that fell has left behind, then count what it did.

        Runs code of the user's."""
        try:
            worker.inherit()
        finally:
            self._worker_leaving(worker)

    def _worker_left(self, worker: Worker[R]) -> None:
        self.backoff.left(worker.candidate)
        self.outliers.forget(worker.name)
        self.worker_changed()
        # a thread that did not start would not start at once, either: the tick will try
        if worker.thread.ident is not None:
            self._wake_housekeeper()

    def strike_off(self, worker: Worker[R]) -> None:
        """A worker was abandoned: from now on it is no member of the crew."""
        self.crew.strike_off(worker)
        self.worker_changed()
        self._wake_housekeeper()

    def resource_lost(self, resource: R) -> None:
        """The child or actor in which a resource lives is gone.

        An idle resource is replaced. If it is in use, its user finds out."""
        owner = next((worker for worker in self.crew.members if worker.resource is resource), None)
        if self.pool.discard(resource) if owner is None else owner.resource_lost():
            self.service_logger.outage("%s: lost an idle resource, %r", self.name, resource)
            self.queue.stir()

    def heal_crew(self) -> None:
        """Called by each tick, as long as the manager is open."""
        self.crew.heal(self.queue.idle)

    def _wake_housekeeper(self) -> None:
        self.housekeeper.wake()

    def _runner_at_rest(self) -> None:
        # if the manager is closing, that may have waited for the runner
        if self.is_stopping():
            self.housekeeper.wake()

    def _ensure_housekeeper(self) -> None:
        self.housekeeper.ensure()


def _limit(field: str, given: float | timedelta | None, default: float | None) -> float | None:
    """Seconds; `None`: no limit. An infinite time is no limit, whatever the default."""
    return default if given is None else checks.limit(field, given, zero=False)

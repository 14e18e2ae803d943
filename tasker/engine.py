"""`Engine`: the parts of one manager put together, and what they tell each other.

The threads of a manager hold its engine, never the `TaskManager`: a manager that is forgotten can be collected, which
stops its engine. To follow a task: `submit` makes a `TaskFuture` and puts it into the `TaskQueue`; `Worker._serve`
takes it, runs it, and settles it.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from contextvars import copy_context
from types import CodeType, FunctionType
from typing import Any, Generic, Literal, TypeVar

from tasker import checks, current, deadlock
from tasker.aside import Aside, LoggerAside
from tasker.backoff import Backoff
from tasker.burst import Burst
from tasker.callables import is_plain
from tasker.clock import monotonic
from tasker.config import Config
from tasker.context import Callback, Context, ManagerValues, TaskContext, new_task_context
from tasker.crew import Crew
from tasker.current import in_task
from tasker.errors import PoolDeadlockError, QueueFullError, ResourceCreationError, TaskManagerShutdownError
from tasker.future import TaskFuture, new_task
from tasker.hints import explain_call
from tasker.interrupts import deliver_later
from tasker.lifecycle import CLOSED, OPEN, STOPPING, Lifecycle
from tasker.locks import holds_lock
from tasker.logger import GuardedLogger
from tasker.metrics import BuiltinCollector, Stamps, TaskMetrics
from tasker.news import News
from tasker.parking import Seat
from tasker.placement.base import Site
from tasker.process import is_needed_here, new_locks, watch
from tasker.queue import TaskQueue
from tasker.resources import Loan, ResourcePool
from tasker.scaling import Limits
from tasker.signature import wants_context
from tasker.snapshots import StopReport, TaskStats
from tasker.threads import greenlets
from tasker.turns import Turn, Turns
from tasker.unrun import suspects
from tasker.usercode import Event, UserCode
from tasker.worker import Worker

__all__ = ["Engine"]

R = TypeVar("R")
T = TypeVar("T")

# what was found of the last function: its code, the number of arguments given to it, and the function itself if it
# wants its context then. Without room for one no function of that code does; with it, the annotation has a say
_Known = tuple[CodeType | None, int, weakref.ref[FunctionType] | None]

KILL_TIMEOUT = 5.0  # seconds that a kill gives running tasks


class Engine(Generic[R]):
    """Everything of a manager but its methods. Made running; ends by `lifecycle`."""

    packs = False  # whether what is submitted is sent elsewhere
    life_level: Literal["debug", "info"] = "info"  # at which its ordinary life is told
    finishes_at_exit = False  # whether interpreter exit waits for all that was accepted, however long

    def __init__(self, config: Config[R]) -> None:
        current.renew()
        self.config = config
        self.name: str = config.name
        self.logger: GuardedLogger = GuardedLogger(config.logger)
        self.site: Site = config.placement.open(config, self.resource_lost)
        self.user: UserCode[R] = UserCode(config, self.site, self.logger)
        self.has_collector: bool = self.user.collects
        self.max_retries: int = config.max_retries
        self.may_retry: bool = self.max_retries > 0 and self.user.judges
        self.run_contexts: set[Context] = set()
        self.settling: set[TaskFuture[Any]] = set()
        self.fallen: list[Worker[R]] = []  # workers that left something behind
        self.watchers: list[Seat] = []  # of the threads in `_wait_until`
        # at the last tick: tasks that seemed unfinished, and dead entries of the two lanes that were not there
        self._wrong = 0, 0, 0
        self.exiting = False  # whether the interpreter is
        self.orphaned: BaseException | None = None  # why, in a forked child, no task has an end
        self._inherited: list[Any] = []  # in a forked child: kept, or collecting them would free them
        self.values: ManagerValues = ManagerValues(config.ctx, self.is_stopping)
        self.queue: TaskQueue = self._new_queue()
        self.figures: BuiltinCollector = BuiltinCollector(self.queue.waiting_new)
        self.aside: Aside = Aside(f"{config.name}-aside", self.logger)
        self.aside.at_rest = self._aside_at_rest
        # for threads that must not wait for the user's
        self.service_logger: LoggerAside = LoggerAside(self.aside, self.logger)
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
        size = config.worker_count if config.resource_pool_size is None else config.resource_pool_size
        self.pool: ResourcePool[R] = ResourcePool(
            config.name,
            size,
            self.site.create,
            self.user.destroy,
            self._wake_burst,
            # a handle is bound to no thread, and greenlets have one thread among them
            shared=config.resource_pool_size is not None or self.packs or greenlets() != "",
            is_lost=self.site.is_lost if self.site.may_lose else None,
        )
        self.turns: Turns = Turns(config.name, config.run_task_limit)
        self.lifecycle: Lifecycle = Lifecycle(self, create_timeout, self._wake_burst, self._ensure_burst)
        interval = checks.seconds("burst_interval", config.burst_interval)
        self.burst: Burst = Burst(self, interval, create_timeout, limits)
        self._bounded = config.queue_size > 0
        self._propagates = config.propagate_contextvars
        self._known: _Known = (None, 0, None)
        # the type of the last result of `run_task`, if it is none that is to be looked at
        self._harmless: type = type(None)
        self._forget_stop: Callable[[], bool] = bool
        self._start()

    def _start(self) -> None:
        try:
            if self.config.resource_pool_size:
                self._fill_pool()
            self.burst.thread.start()
            watch(self)  # not before there is a thread that closes: interpreter exit waits for it
            self.news.started(self.crew.base, self.crew.most)
            self.crew.fill()
            self._forget_stop = self.config.ctx.on_done(_weakly(self.lifecycle.request_stop))
        except BaseException:  # no thread for the burst thread, Ctrl-C: leave nothing behind
            self.lifecycle.request_kill(0.0)
            if self.burst.thread.ident is None:
                for resource in self.pool.close():
                    self.user.destroy(resource)
                self.site.closed()
            raise

    def _fill_pool(self) -> None:
        try:
            self.pool.fill()
        except Exception as error:
            raise ResourceCreationError(f"{self.name}: on_create failed while the run_task pool was filled") from error

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
        task = make(self, fn, args, wants, monotonic(), waiting, copy_context() if self._propagates else None)
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
            # it may be in its lane already. There may be no room on the stack, so no call before that is decided
            accepted, task._refused = not task._refused, True  # announced: what takes it out of the lane counts it
            try:
                del task._may_start
            except AttributeError:
                task._refused = not accepted  # a worker has taken it, unless the closed queue has refused it
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

    def _submit_with_limits(self, task: TaskFuture[Any], timeout: float | None, queue_timeout: float | None) -> None:
        room = _optional_seconds("queue_timeout", queue_timeout)
        limit = _optional_seconds("timeout", timeout, zero=False)
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
            seat = Seat()
            with deadlock.Wait(deadlock.Slot(self), seat.wake):
                return self.queue.reserve(task, None, seat)
        return self.queue.reserve(task, timeout)

    def run_task(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Run a task here and now on a pooled resource."""
        if self.queue.closed:  # the burst thread closes the pool a moment later, and in a forked child nobody does
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
        place = current.here.place
        started, outer = monotonic(), place.loan
        try:
            loan = self.pool.borrow()
        except TaskManagerShutdownError:
            raise
        except BaseException as error:
            self._run_task_failed(started)
            if isinstance(error, Exception):
                raise ResourceCreationError(f"{self.name}: on_create failed for run_task") from error
            raise
        healthy, loan.context = True, None  # no call before the `try`: a Ctrl-C would lose the loan
        try:
            loan.owner, loan.outer = self, outer
            place.loan = loan
            if self.queue.resting:  # looked at when the resource is out: see `Burst._is_quiet`
                self.queue.stir()
            result = fn(self.call_context(loan), loan.resource, *args) if wants else fn(loan.resource, *args)
            if type(result) is not self._harmless:
                self._look_at_result(result, fn, loan.resource)
        except BaseException as error:
            healthy, loan.error = False, error  # if a Ctrl-C ends the check
            try:
                if type(error) is TypeError and error.__traceback__ is not None:
                    explain_call(error, error.__traceback__.tb_next, fn, args, wants)
                healthy = self.user.is_healthy(error, loan.resource)
                if not healthy:
                    self.user.broke(f"{self.name}, run_task", error)
            finally:
                self._run_task_failed(started)
            raise
        else:
            finished = monotonic()
            self.figures.completed_directly(finished - started)
            if self.has_collector:
                self._tell_of_run_task("record_completion", (started, started, finished))
            return result
        finally:
            place.loan = outer
            try:
                if loan.context is not None:
                    self.run_contexts.discard(loan.context)
                self.pool.hand_back(loan, healthy=healthy)
            except BaseException:  # Ctrl-C in the middle of it
                self.pool.hand_back(loan, healthy=healthy)
                raise
            del loan  # it has the error, whose traceback holds this frame

    def _look_at_result(self, result: object, fn: Callable[..., Any], resource: R) -> None:
        kind = type(result)
        if kind in suspects(resource):
            self.user.look_at_result(result, fn, resource)
        else:
            self._harmless = kind

    def run_in_turn(self, fn: Callable[..., Any], args: tuple[Any, ...], queue_timeout: float | None) -> Any:
        """`run_task`, when it is the caller's turn."""
        timeout = _optional_seconds("queue_timeout", queue_timeout)
        if not self.turns.limited:
            return self.run_task(fn, args)
        turn = Turn()
        try:
            self._take_turn(turn, timeout)
            return self.run_task(fn, args)
        finally:
            try:
                self.turns.give_back(turn)
            except BaseException:  # Ctrl-C in the middle of it
                self.turns.give_back(turn)
                raise

    def _take_turn(self, turn: Turn, timeout: float | None) -> None:
        if self.queue.closed:
            raise self.queue.refusal()
        if not self.turns.take(turn, timeout):
            raise QueueFullError(
                f"{self.name}: {self.turns.room.used()} of {self.turns.room.capacity} callers are in run_task "
                "(run_task_limit); call later, wait longer (queue_timeout), or raise run_task_limit"
            )

    def call_context(self, loan: Loan[R]) -> TaskContext:
        """The context of a `run_task`, made if need be. For the thread that runs it."""
        if loan.context is None:
            loan.context = new_task_context(self.values)
            self.run_contexts.add(loan.context)
        context: TaskContext = loan.context
        return context

    def _run_task_failed(self, started: float) -> None:
        self.figures.failed_directly()
        if self.has_collector:
            self._tell_of_run_task("record_failure", (started, started, monotonic()))

    def _tell_of_run_task(self, end: Event, stamps: Stamps) -> None:
        try:
            self.user.tell("record_arrival")
        finally:
            self.user.tell(end, stamps)

    # -- what workers use (worker.Terms) -----------------------------------------------------------------------------

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
        for seat in self.watchers.copy():
            seat.wake()

    # -- what futures use (future.Owner) -----------------------------------------------------------------------------

    def entry_died(self, future: TaskFuture[Any]) -> None:
        self.queue.entry_died(future)
        if not future.attempts:
            self.figures.never_taken()

    def record_cancelled(self) -> None:
        self.figures.cancelled()

    def record_failure(self, future: TaskFuture[Any], error: BaseException, *, was_waiting: bool) -> None:
        if was_waiting and isinstance(error, CancelledError):
            self.record_cancelled()
            return
        self.figures.failed_outside()
        self.user.tell("record_failure", future._stamps(monotonic()))

    def run_aside(self, jobs: list[Callback]) -> None:
        self.aside.run_all(jobs)
        self.queue.stir()

    def let_go(self, things: list[Any]) -> None:
        self.aside.let_go(things)
        self.queue.stir()

    # -- what waits between tasks go by (deadlock.Pool) ---------------------------------------------------------------

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
        hires = self.burst.scales or self.lifecycle.state == STOPPING
        return self.crew.staying() < (self.crew.most if hires else self.crew.base)

    def is_hopeless(self) -> bool:
        return self.burst.hopeless

    def trouble(self) -> str:
        return self.burst.trouble()

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
            idle_workers=sum(worker.seat.parked and worker.holds_resource for worker in members),
            creating_workers=active - holding,
            queued_tasks=main,
            priority_tasks=priority,
            running_tasks=running,
            available_resources=self.pool.available,
        )

    def metrics(self) -> TaskMetrics:
        told = self.user.metrics()
        return self.figures.metrics() if told is None else told

    def current_resource(self) -> R:
        """The resource of the innermost of this engine's tasks in the calling thread."""
        loan: Any = current.here.place.loan
        while loan is not None:
            if loan.owner is self:
                return loan.resource  # type: ignore[no-any-return]
            loan = loan.outer
        worker: Any = current.here.place.worker
        if worker is None or not worker.serves(self):
            raise RuntimeError(f"{self.name}: current_resource() was called outside of its tasks")
        return worker.resource  # type: ignore[no-any-return]

    def busy(self) -> int:
        """Workers that are not parked."""
        return sum(not worker.seat.parked for worker in self.crew.members)

    def is_stopping(self) -> bool:
        """Whether closing has begun."""
        return self.lifecycle.state != OPEN

    # -- waiting -----------------------------------------------------------------------------------------------------

    def wait_ready(self, timeout: float | None) -> bool:
        """Wait until the base workers hold resources; `False` when it took too long, the manager closed, or they never
        will."""

        def over() -> bool:
            return self.is_stopping() or self.site.impossible is not None or self.crew.holding() >= self.crew.base

        self._wait_until(over, timeout, deadlock.Ready(self))
        return self.crew.holding() >= self.crew.base

    def join(self, timeout: float | None) -> bool:
        """Wait until no accepted task waits or runs; `False` when it took too long."""
        if self.runs_this_thread():
            raise PoolDeadlockError(f"{self.name}: join() called from one of its own tasks would wait for itself")
        return self._wait_until(self._at_rest, timeout, deadlock.Rest(self))

    def _at_rest(self) -> bool:
        # a worker is at rest when it is parked, or has no resource and so no task; the count says whether one that was
        # asked first has taken since then what another put back
        return self.lifecycle.state == CLOSED or (
            not any(self.queue.waiting())
            and all(worker.seat.parked or not worker.holds_resource for worker in self.crew.members)
            and self.figures.unfinished() == 0
        )

    def correct_counts(self) -> None:
        """Called by each tick. Where nothing runs or waits, and a count is wrong for the second time, an error struck
        between two counts: nobody is to wait for ever for that."""
        wrong = (self._unfinished(), *self.queue.surplus())
        if any(wrong) and self._anything_runs():
            wrong = 0, 0, 0  # what has an entry or a task in hand may be between its two counts

        if any(wrong) and wrong == self._wrong:
            self.figures.correct(wrong[0])
            self.queue.correct(wrong[1:])
        self._wrong = wrong

    def _unfinished(self) -> int:
        """Tasks that seem unfinished although the lanes are empty; asked only if a thread waits for rest."""
        return self.figures.unfinished() if self.watchers and self.queue.is_empty() else 0

    def _anything_runs(self) -> bool:
        if self.settling or self.fallen or not self.aside.idle():
            return True
        return any(not worker.seat.parked and worker.holds_resource for worker in self.crew.members)

    def _wait_until(self, reached: Callable[[], bool], timeout: float | None, awaited: deadlock.Awaited) -> bool:
        limit = None if timeout is None else checks.patience("timeout", timeout)
        until = math.inf if limit is None else monotonic() + limit
        seat = Seat()
        try:
            self.watchers.append(seat)  # then look: either this thread sees a change, or what makes it sees this thread
            self.queue.idle.watch = self.worker_changed
            self.queue.stir()
            with deadlock.Wait(awaited, seat.wake, limit) as wait:
                while not reached() and wait.stuck is None:
                    left = until - monotonic()
                    if left <= 0:
                        return False
                    seat.sleep(left if limit is not None else -1.0)
            return True
        finally:
            self.watchers.remove(seat)
            if not self.watchers:
                self.queue.idle.watch = None
                if self.watchers:  # one has come in between
                    self.queue.idle.watch = self.worker_changed

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
        thread = threading.current_thread()
        return thread is self.burst.thread or any(worker.thread is thread for worker in self.crew.members)

    def closing_needs_this_thread(self) -> bool:
        """Whether to wait for the end would be to wait for the calling thread itself: it runs a task, a callback or
        `run_task` of this engine, or was interrupted, by what calls this, in something that others need."""
        return (
            self.runs_this_thread()
            or self.aside.runs_this_thread()
            or self.pool.lends_to_this_thread()
            or self.tasks_need_this_thread()
        )

    def tasks_need_this_thread(self) -> bool:
        """Whether tasks may have to wait for what the calling thread was interrupted in, by what calls this."""
        return is_needed_here()

    def is_held_up_here(self) -> bool:
        """Whether threads of this engine may have to wait for what the calling thread was interrupted in."""
        return (
            threading.current_thread() is self.burst.thread
            or any(worker.is_started_here() for worker in self.crew.members)
            or holds_lock(*self.own_parts(), *self.site.parts())
        )

    def own_parts(self) -> tuple[object, ...]:
        """What has locks."""
        parts = self.queue, self.crew, self.figures, self.aside, self.pool, self.user, self.backoff
        return (self, *parts, self.queue.room, self.turns.room, self.logger.faults)

    # -- the pieces --------------------------------------------------------------------------------------------------

    def _new_queue(self) -> TaskQueue:
        return TaskQueue(self.name, self.config.queue_size)

    def _limits(self) -> Limits:
        config = self.config
        most = config.max_worker_count
        if most is None:
            extra = config.burst_worker_count if config.burst_task_threshold else config.worker_count
            most = config.worker_count + extra
        return Limits(
            base=config.worker_count,
            most=most,
            threshold=config.burst_task_threshold,
            threshold_hires=config.burst_worker_count,
        )

    def _new_worker(self, name: str, leave: Callable[[Worker[R]], None]) -> Worker[R]:
        return Worker(name, self, self.figures.new_shard(), leave)

    def _worker_leaving(self, worker: Worker[R]) -> None:
        if worker.has_heritage():
            self.fallen.append(worker)
        else:
            self.figures.retire(worker.shard)

    def inherit(self, worker: Worker[R]) -> None:
        """See to what a worker that fell has left behind, then to its figures. Runs code of the user's."""
        try:
            worker.inherit()
        finally:
            self._worker_leaving(worker)

    def _worker_left(self, worker: Worker[R]) -> None:
        self.worker_changed()
        if worker.thread.ident is not None:  # else its thread did not start, and at once it would not start again
            self._wake_burst()

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
        self.site.closed()
        self.worker_changed()

    def _wake_burst(self) -> None:
        self.burst.wake()

    def _aside_at_rest(self) -> None:
        if self.is_stopping():  # which may have waited for that
            self.burst.wake()

    def _ensure_burst(self) -> None:
        self.burst.ensure()

    def unfinished(self) -> list[TaskFuture[Any]]:
        """What waits or runs, entries that are dead included."""
        return [*self.queue.entries(), *self.lifecycle.running()]

    def start_afresh_in_child(self, unfinished: list[TaskFuture[Any]]) -> None:
        """In a forked child none of the threads exist: refuse everything; what can never end has failed. Lanes
        and tasks, which the others were changing perhaps (see `process`), are left alone."""
        error = TaskManagerShutdownError(
            f"{self.name} belongs to the process that forked this one: make a new one here"
        )
        self.user.leave_to_parent()
        # neither used nor freed here: they are the parent's
        self._inherited = [self.queue, *unfinished]
        self.queue = self._new_queue()
        self.queue.close(error)
        self.figures._waiting = self.queue.waiting_new
        self.turns.leave_to_parent()
        new_locks(*self.own_parts())
        self._inherited += self.pool.close()
        self.orphaned = error
        self.lifecycle.end_after_fork()
        forked_by = [worker for worker in self.crew.members if worker.thread is threading.current_thread()]
        self.crew.members = ()
        for worker in forked_by:
            if worker.task is not None:
                worker.task._take_settle()  # or it would do so, coming back from the task


def _optional_seconds(field: str, value: float | None, *, zero: bool = True) -> float | None:
    """As `checks.seconds`; `None` and infinity both mean no limit."""
    if value is None:
        return None
    seconds = checks.seconds(field, value, zero=zero, infinite=True)
    return None if seconds == float("inf") else seconds


def _weakly(method: Callable[[], None]) -> Callback:
    reference = weakref.WeakMethod(method)

    def call() -> None:
        target = reference()
        if target is not None:
            target()

    return call

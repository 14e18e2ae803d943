"""`RunTask`: the part of an engine that runs tasks in the threads of their callers.

Such a task takes no lane and no worker. Its caller borrows a resource (see
`resources`), runs the function, has an error judged as a worker would, resets the
resource, and hands it back. The loan is the call: it names the engine, the context and
the call around this one, so code inside can ask for them (see `current`).

Where `run_task_limit` bounds the callers, each takes a turn first (see `turns`).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from types import CodeType, FunctionType
from typing import Any, Generic, TypeVar

from tasker import checks
from tasker._pool.checking import Checks
from tasker._pool.metrics import Counters
from tasker._pool.queue import TaskQueue
from tasker._pool.resources import ABORTED, LEFT, Loan, ResourcePool, was_aborted
from tasker._pool.supervisor import Supervisor
from tasker._pool.suspicion import Suspicion
from tasker._pool.turns import Turn, Turns
from tasker._pool.usercode import Event, UserCode
from tasker._pool.worker import Worker
from tasker._sync.clock import monotonic
from tasker._tasks import current
from tasker._tasks.context import Context, ManagerValues, TaskContext, new_task_context
from tasker._tasks.hints import explain_call
from tasker._tasks.unrun import suspects
from tasker.errors import (
    QueueFullError,
    ResourceCreationError,
    TaskManagerShutdownError,
    is_a,
)
from tasker.snapshots import Stamps

__all__ = ["Known", "RunTask"]

R = TypeVar("R")

# What was found out about the last function: its code, the number of arguments that it
# was given, and the function itself if it wants its context then. Where there is no
# room for a context, that holds for every function of the same code. Where there is
# room, an annotation may decide, which is the function's own.
Known = tuple[CodeType | None, int, weakref.ref[FunctionType] | None]


class RunTask(Generic[R]):
    """What `Engine` inherits. The attributes declared here are the engine's."""

    name: str
    queue: TaskQueue
    pool: ResourcePool[R]
    turns: Turns
    user: UserCode[R]
    checks: Checks[R]
    supervisor: Supervisor[R]
    suspicion: Suspicion
    has_collector: bool
    counters: Counters
    values: ManagerValues
    run_contexts: set[Context]
    _known: Known

    # the type of the last result, if such values need no look
    _harmless: type

    def _ask(self, fn: Callable[..., Any], given: int) -> bool:
        """Whether a function wants its context, given so many arguments."""
        raise NotImplementedError

    def run_task(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Run a task here and now on a pooled resource."""
        # The housekeeper closes the pool a moment after the queue, and in a forked
        # child no thread closes it.
        if self.queue.closed:
            raise self.queue.refusal()

        # INLINED Engine.submit asks the same: 0.04 us, benchmarks --only run-task
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

        running = current.thread_state.running
        started, outer = monotonic(), running.loan
        try:
            loan = self.pool.borrow()
        except TaskManagerShutdownError:
            raise
        except BaseException as error:
            self._run_task_failed(started)
            if is_a(error, Exception):
                raise ResourceCreationError(
                    f"{self.name}: on_create failed for run_task"
                ) from error
            raise

        # no call before the `try`, or a Ctrl-C would lose the loan (R2)
        healthy, loan.context = True, None
        try:
            loan.owner, loan.outer = self, outer
            running.loan = loan
            # looked at when the resource is out: see `Housekeeper._is_quiet`
            if self.queue.resting:
                self.queue.stir()
            result = (
                fn(self.call_context(loan), loan.resource, *args)
                if wants
                else fn(loan.resource, *args)
            )
            if type(result) is not self._harmless:
                self._look_at_result(result, fn, loan.resource)
        except BaseException as error:
            # unhealthy until the check has said otherwise: a Ctrl-C may end the check
            healthy, loan.error = False, error
            try:
                if type(error) is TypeError and error.__traceback__ is not None:
                    explain_call(error, error.__traceback__.tb_next, fn, args, wants)
                healthy = self.user.is_healthy(error, loan.resource)
                if not healthy:
                    self._broke(loan)
                    self.user.broke(f"{self.name}, run_task", error)
                # Ctrl-C may have ended the wait for `on_abort`, which still uses it.
                elif was_aborted(loan) and not is_a(error, Exception):
                    healthy = False
            finally:
                self._run_task_failed(started)
            raise
        else:
            finished = monotonic()
            self.counters.completed_directly(finished - started)
            if self.has_collector:
                self._tell_of_run_task("record_completion", (started, started, finished))
            return result
        finally:
            running.loan = outer
            try:
                if loan.context is not None:
                    self.run_contexts.discard(loan.context)
                if healthy and self.user.resets:
                    # unhealthy until it has returned: a Ctrl-C may end it
                    healthy = False
                    healthy = self._reset(loan)
                self.pool.hand_back(loan, healthy=healthy)
            except BaseException:  # Ctrl-C in the middle of it
                try:
                    self.pool.hand_back(loan, healthy=healthy)
                except BaseException:
                    loan.borrower = LEFT
                    raise
                raise

            # it has the error, whose traceback holds this frame (R4)
            del loan

    def run_in_turn(
        self, fn: Callable[..., Any], args: tuple[Any, ...], queue_timeout: float | timedelta | None
    ) -> Any:
        """`run_task`, when it is the caller's turn."""
        timeout = checks.limit("queue_timeout", queue_timeout)
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

    def check_idle(self, loan: Loan[R], since: float) -> bool:
        """Whether an idle resource that is borrowed is well.

        If not, the loan has the error, and the caller takes it out (R4)."""
        return not self.checks.is_due(since) or self.is_well(loan, since)

    def is_well(self, loan: Loan[R], since: float, late: Callable[[], object] = bool) -> bool:
        """As `check_idle`, whatever `check_after` is. `late`: see `Checks.trouble`."""
        owner = f"{self.name}, run_task"
        loan.error = current.call_hook(
            loan.slot, partial(self.checks.trouble, owner, loan.resource, late)
        )
        if loan.error is None:
            return True

        # Broken by an abort, it says nothing about others.
        if since != ABORTED:
            self.suspicion.broke(None, counts=True)
        self.user.failed_check(owner, loan.error)
        return False

    def _reset(self, loan: Loan[R]) -> bool:
        """Reset a resource after a task. Returns whether it may serve another."""
        reset = partial(self.reset, f"{self.name}, run_task", loan.resource)
        try:
            loan.error = current.call_hook(loan.slot, reset)
            if loan.error is None:
                return True

            self._broke(loan)
            return False
        finally:
            # It has the error, whose traceback leads to this frame (R4).
            del loan

    def reset(
        self, owner: str, resource: R, worker: Worker[R] | None = None
    ) -> BaseException | None:
        """Call `on_reset`. Returns the error that has broken the resource.

        A kill aborts it. No variable of the caller's must hold the error when the
        caller has ended (R4)."""
        troubles: list[BaseException] = []
        reset = partial(self.user.reset, owner, troubles)
        self.supervisor.call_hook(worker, resource, reset, timeout=None)
        return troubles.pop() if troubles else None

    def _broke(self, loan: Loan[R]) -> None:
        """The resource broke.

        If an abort has done that, it says nothing about others."""
        if not was_aborted(loan):
            self.suspicion.broke(None, counts=not self.user.is_lost(loan.resource))

    def call_context(self, loan: Loan[R]) -> TaskContext:
        """The context of a `run_task`, made when its own thread first asks."""
        if loan.context is None:
            loan.context = new_task_context(self.values)
            self.run_contexts.add(loan.context)

        context: TaskContext = loan.context
        return context

    def _take_turn(self, turn: Turn, timeout: float | None) -> None:
        if self.queue.closed:
            raise self.queue.refusal()

        if not self.turns.take(turn, timeout):
            room = self.turns.room
            raise QueueFullError(
                f"{self.name}: {room.used()} of {room.capacity} callers are in run_task "
                "(run_task_limit); call later, wait longer (queue_timeout), "
                "or raise run_task_limit"
            )

    def _look_at_result(self, result: object, fn: Callable[..., Any], resource: R) -> None:
        kind = type(result)
        if kind in suspects(resource):
            self.user.look_at_result(result, fn, resource)
        else:
            self._harmless = kind

    def _run_task_failed(self, started: float) -> None:
        self.counters.failed_directly()
        if self.has_collector:
            self._tell_of_run_task("record_failure", (started, started, monotonic()))

    def _tell_of_run_task(self, end: Event, stamps: Stamps) -> None:
        try:
            self.user.notify_collector("record_arrival")
        finally:
            self.user.notify_collector(end, stamps)

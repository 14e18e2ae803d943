"""`UserCode`: where the functions and objects of a `Config` are called.

Each call is guarded. What it raises is logged, and does no other harm. An interrupt is
raised: see `guard`. Nothing here is called under a lock of tasker's (I7).

`_counting` guards `destroy_errors`, which many threads count, and what was reported.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, Literal, TypeVar

from tasker._sync.guard import is_interrupt, pass_on
from tasker._sync.guarded_logger import GuardedLogger, last_line_of
from tasker._sync.handover import hand_on
from tasker._sync.locks import new_lock
from tasker._sync.threads import leave_child
from tasker._tasks import current
from tasker._tasks.hooks import takes_resource
from tasker._tasks.unrun import look_at, refuse
from tasker._tasks.wrapping import wrapper
from tasker.config import Config, always_healthy
from tasker.errors import (
    TaskerError,
    TaskManagerKilledError,
    WorkerLostError,
    is_a,
    origin_of,
    shown,
)
from tasker.placement.base import Backend, Threads
from tasker.slot import Slot
from tasker.snapshots import Stamps, TaskMetrics

__all__ = ["Event", "UserCode"]

R = TypeVar("R")

# Functions whose results are reported, each once. Some programs make functions without
# end: that bounds the memory. A guess: more than a user would read about.
_MOST_FUNCTIONS = 1000
_ELSEWHERE = (
    " in another thread than the one that made the resource for run_task; if it is bound to "
    "that one, call stop() there, let that thread end first, or keep none (resource_pool_size=0)"
)

Event = Literal["record_arrival", "record_completion", "record_failure", "record_retry"]


class UserCode(Generic[R]):
    """The user's hooks, health check and collector."""

    def __init__(self, config: Config[R], backend: Backend, logger: GuardedLogger) -> None:
        self._backend = backend
        check: Callable[..., object] = config.check_health
        self._judge: Callable[[Exception, R], object] = (
            backend.judge if takes_resource(check) else _without_resource(check)
        )
        self._name = config.name
        self._logger = logger
        self._collector = config.collector
        if self._collector is not None:
            from tasker.stamps import TaskLifecycleTimestamps

            self._new_stamps = TaskLifecycleTimestamps._make
        self._may_be_bound = isinstance(config.placement, Threads)
        self._counting = new_lock()
        self.collects: bool = config.collector is not None
        self.may_lose: bool = backend.may_lose
        self.judges: bool = config.check_health is not always_healthy
        self.checks: bool = config.on_check is not None
        self.resets: bool = config.on_reset is not None
        # whether a worker has something to do between two tasks
        self.serves_between: bool = (
            self.may_lose
            or self.checks
            or self.resets
            or backend.abort is not None
            or config.abandon_after is not None
            or config.eject_after is not None
        )
        self.destroy_errors: int = 0
        # whether the manager was killed: that is why its resources end
        self.killed: bool = False
        self._reported_impossible = False
        self._reported_unentered = False
        # functions whose results were reported
        self._reported_results: set[str] = set()
        # the last error of `on_create`, until a resource is made; the same in a line
        self.create_error: BaseException | None = None
        self.create_trouble: str = ""

    def create(self, held: deque[R], slot: Slot) -> None:
        """Make a resource and put it into a deque, in one step (R2).

        Raises what `on_create` raises; the caller gives that to `creation_failed`."""
        try:
            hand_on(self.maker(slot), held.append)
        except BaseException as error:
            leave_child(error)
            raise
        try:
            refuse("on_create", held[-1])
        except TypeError:
            # no resource, to be destroyed
            held.clear()
            raise

        self.create_error = None
        if self._backend.is_unentered(held[-1]):
            self._report_unentered()

    def maker(self, slot: Slot) -> Callable[[], R]:
        """The function that makes the resource of a slot.

        It adds no frame to that of the hook: a signal could strike there (R2)."""
        create = self._backend.create
        return partial(create, slot) if self._backend.takes_slot else create

    def take_create_error(self) -> BaseException | None:
        """Forget the last error of `on_create`. The caller lets go of it."""
        error, self.create_error = self.create_error, None
        return error

    def creation_failed(self, error: BaseException) -> None:
        """A worker could not make a resource and will try again."""
        if error is self._backend.impossible:
            with self._counting:
                was_reported, self._reported_impossible = self._reported_impossible, True
            if was_reported:
                return

        own = not self._backend.is_of_hook(error)
        raised = "no resource was made:" if own else "on_create raised"
        # here: to print an error is to run the user's code
        self.create_trouble = f"{raised} {last_line_of(error)}"
        self.create_error = error
        again = "" if error is self._backend.impossible else ", trying again"
        self._logger.outage(f"%s: {raised.rstrip(':')}{again}", self._name, error=error, own=own)

    def broke(
        self, owner: str, error: BaseException, *, early: bool = False, retried: bool = False
    ) -> None:
        """A resource was broken by this error.

        `early`: before it had done a task well, and so was the one before it.
        `retried`: the task is, so no caller gets the error."""
        if is_a(error, WorkerLostError) and retried:
            self._logger.outage("%s: the resource is lost and is replaced", owner, error=error)
        elif early:
            self._logger.outage(
                "%s: resources break before they have done a task, pausing", self._name, error=error
            )
        else:
            self._logger.info("%s: the resource is broken and is replaced", owner, error=error)

    def was_lost(self, owner: str) -> None:
        """A worker has found its resource lost before it took another task.

        No error reports that."""
        self._logger.outage("%s: the resource is lost and is replaced", owner)

    def destroy(
        self, resource: R, slot: Slot | None, reason: BaseException | None = None
    ) -> BaseException | None:
        """Free a resource; the `reason` is the error that broke it, if one has.

        Returns the interrupt that ended `on_destroy`, if one has. The caller raises it
        when its counts are right. Raises only what strikes from outside, and only if
        `on_destroy` was not called."""
        try:
            return self.destroy_held(deque([resource]), slot, reason)
        finally:
            # its traceback may hold this frame (R4)
            del reason

    def destroy_elsewhere(self, resource: R, slot: Slot | None) -> BaseException | None:
        """As `destroy`, for an idle resource of `run_task` that another thread made."""
        hint = _ELSEWHERE if self._may_be_bound else ""
        return self.destroy_held(deque([resource]), slot, hint=hint)

    def destroy_held(
        self,
        held: deque[R],
        slot: Slot | None,
        reason: BaseException | None = None,
        hint: str = "",
    ) -> BaseException | None:
        """As `destroy`. The resource is taken out of a deque in one step (R2)."""
        running = current.thread_state.running
        outer, outer_hook = running.ending, running.hook
        try:
            if reason is None and self.killed:
                reason = TaskManagerKilledError(f"{self._name} was killed")
            running.ending, running.hook = reason, (slot, running.loan)
            refuse("on_destroy", hand_on(held.pop, self._backend.destroy))
        except BaseException as error:
            if held:
                raise

            interrupt: BaseException | None = None
            # not in a function: an interrupt at its entry would get out
            try:
                leave_child(error)
                if is_interrupt(error):
                    interrupt = error
                with self._counting:
                    self.destroy_errors += 1
                lost = is_a(error, WorkerLostError)
                what = "the resource was not destroyed" if lost else f"on_destroy raised{hint}"
                self._logger.fault("warning", f"%s: {what}", self._name, error=error)
                return interrupt
            except BaseException as second:
                # if it got out of here, the resource would be destroyed a second time
                return interrupt or second
            finally:
                # its traceback holds this frame (R4)
                del interrupt
        finally:
            running.ending, running.hook = outer, outer_hook
            del reason
        return None

    def _report_unentered(self) -> None:
        with self._counting:
            was_reported, self._reported_unentered = self._reported_unentered, True

        if not was_reported:
            self._logger.warning(
                "%s: on_create returned a context manager that nobody has entered: "
                "Config.from_context_manager(...) enters and exits one for each resource",
                self._name,
            )

    @wrapper
    def look_at_result(self, result: object, fn: Callable[..., Any], resource: R) -> None:
        """A task has returned a value of a suspect type: report it if it is the task's
        resource, or a generator that is yet to run. Once for each function.

        Raises `TypeError` for a coroutine."""
        what = look_at(result, fn, resource)
        if not what:
            return

        name = f"{origin_of(fn)}, {what}"
        with self._counting:
            silent = (
                name in self._reported_results or len(self._reported_results) >= _MOST_FUNCTIONS
            )
            if not silent:
                self._reported_results.add(name)

        if not silent:
            self._logger.warning(
                "%s: the task %s returned %s: when that is used, the resource may be in use by "
                "another task, or destroyed; return what you need of it, such as a list, or use "
                "map()",
                self._name,
                shown(fn),
                what,
            )

    def is_healthy(self, error: BaseException, resource: R) -> bool:
        """The verdict on a task's error. It broke the resource if `check_health`
        returns `False`, or raises."""
        if self._backend.is_lost(resource):
            return False
        if not is_a(error, Exception):
            # SystemExit and its like say nothing about the resource
            return True

        try:
            verdict = self._judge(error, resource)
            refuse("check_health", verdict)
            healthy = bool(verdict)
            leave_child()
            return healthy
        except BaseException as trouble:
            pass_on(trouble)
            self._logger.fault(
                "warning",
                "%s: check_health raised; the resource is replaced",
                self._name,
                error=trouble,
            )
            return False

    def check(self, troubles: list[BaseException], resource: R) -> None:
        """Call `on_check`, and note why the resource is not well, if it is not.

        In a list: the traceback of an error leads to all frames that called this, so no
        variable of theirs must hold it (R4)."""
        try:
            verdict = self._backend.check(resource)
            refuse("on_check", verdict)
            leave_child()
            if verdict is False:
                raise TaskerError("on_check returned False")
        except BaseException as error:
            pass_on(error)
            troubles.append(error)

    def failed_check(self, owner: str, trouble: BaseException | None) -> None:
        """A resource did not pass its check."""
        self._logger.outage(
            "%s: the resource did not pass its check and is replaced", owner, error=trouble
        )

    def was_outlier(self, owner: str, error: BaseException | None) -> None:
        """Tasks failed on a resource that succeed on others. `error`: the last one."""
        self._logger.fault(
            "warning",
            "%s: tasks failed on the resource that succeed on others (eject_after), "
            "and it is replaced",
            owner,
            error=error,
        )

    def reset(self, owner: str, troubles: list[BaseException], resource: R) -> None:
        """Clean a resource after a task. Note the error that has broken it, if one has.

        In a list, for the reason that `check` has."""
        try:
            refuse("on_reset", self._backend.reset(resource))
            leave_child()
        except BaseException as error:
            leave_child(error)
            pass_on(error)
            own = not self._backend.is_of_hook(error)
            what = "the resource could not be reset and" if own else "on_reset raised; the resource"
            self._logger.fault("warning", f"%s: {what} is replaced", owner, error=error, own=own)
            troubles.append(error)

    def abort(self, owner: str, resource: R, slot: Slot | None) -> None:
        """Make the call that uses a resource return."""
        assert self._backend.abort is not None
        try:
            abort = partial(self._backend.abort, resource)
            refuse("on_abort", current.call_hook(slot, abort))
            leave_child()
        except BaseException as error:
            pass_on(error)
            self._logger.fault("warning", "%s: on_abort raised", owner, error=error)

    def leave_to_parent(self) -> None:
        """In a forked child nothing of this is called: it is the parent's (R5)."""
        self._collector = None
        self._judge = _without_resource(always_healthy)
        self.checks = self.resets = False
        self._backend.leave_to_parent()
        self._logger.leave_to_parent()

    def is_lost(self, resource: R) -> bool:
        """Whether the child or actor in which this resource lives is gone."""
        return self._backend.is_lost(resource)

    def notify_collector(self, event: Event, stamps: Stamps | None = None) -> None:
        """Report an event to the user's collector, if there is one."""
        if self._collector is None:
            return

        try:
            record = getattr(self._collector, event)
            record() if stamps is None else record(self._new_stamps(stamps))
            leave_child()
        except BaseException as error:
            pass_on(error)
            self._logger.fault(
                "warning", f"%s: the collector's {event}() raised", self._name, error=error
            )

    def metrics(self) -> TaskMetrics | None:
        """What the user's collector returns; `None` if there is none, or it raises."""
        if self._collector is None:
            return None

        try:
            return self._collector.metrics()
        except Exception as error:
            self._logger.fault(
                "warning", "%s: the collector's metrics() raised", self._name, error=error
            )
            return None


def _without_resource(check: Callable[..., object]) -> Callable[[Exception, Any], object]:
    return lambda error, _: check(error)

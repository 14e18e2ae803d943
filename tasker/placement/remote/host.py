"""`Host`: what surrounds a resource that does not live with its worker.

It runs there what the worker sends. Each child process and each actor has one. One
thread creates the resource, runs the calls, one at a time, and destroys the resource.
Two messages must not wait for that thread: that the context of a call has ended, and
that the manager drains. Another thread brings them (`obey`). A third one calls
`on_abort` when the context of a call has ended.

`_lock` guards which call runs and how contexts have ended. No code of the user's runs
under it (I7).
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from tasker._sync import timer
from tasker._sync.callback_runner import CallbackRunner
from tasker._sync.guarded_logger import GuardedLogger
from tasker._sync.locks import new_lock
from tasker._sync.threads import claim_thread, leave_child
from tasker._tasks import current
from tasker._tasks.abort import Abort
from tasker._tasks.context import (
    Context,
    InheritedValues,
    ManagerValues,
    TaskContext,
    background,
    check_may_begin,
    new_task_context,
    with_value,
)
from tasker._tasks.hints import explain_call
from tasker._tasks.unrun import UNRUN, is_unentered, look_at, refuse
from tasker._tasks.wrapping import Progress, users_function, users_traceback, wrapper
from tasker.errors import (
    ContextCancelledError,
    DeadlineExceededError,
    EndlessError,
    RemoteTaskError,
    TaskManagerKilledError,
    is_a,
    shown,
)
from tasker.placement.remote import pickling, protocol
from tasker.placement.remote.pickling import Outcome, Verdict
from tasker.placement.remote.variables import set_variables
from tasker.slot import Slot

__all__ = ["Host"]


class Host:
    """The resource, and the call that runs on it.

    Made by the resource's thread. Calls `note` with the result of each step of a
    call."""

    def __init__(self, setup: protocol.Setup, note: Callable[[object], object]) -> None:
        # A process that a task forks must not serve.
        claim_thread()
        self._note = note
        self._lock = new_lock()
        # The number of the call that runs, or ran last.
        self._number = 0
        # How contexts ended, by the number of the call.
        self._ended: dict[int, int] = {}
        self._stopping = setup.stopping
        self._name = setup.name
        self._logger = GuardedLogger(logging.getLogger("tasker"))
        self._runner = CallbackRunner(f"{setup.name}-context", self._logger)
        self._values = ManagerValues(
            self._imported(_context_of, setup.values), lambda: self._stopping
        )
        # What the running call inherits.
        self._call_values: ManagerValues = self._values
        self._packed_hooks = setup.hooks
        self._hooks: protocol.Hooks
        self._takes_slot = setup.takes_slot
        self._deadline: float | None = None

        # What `current_context()` looks at, and its like.
        self.resource: Any = None
        self.slot: Slot | None = setup.slot
        self.owner: Any = self
        self.outer: Any = None
        self.context: TaskContext | None = None
        # Whether the call that runs, or ran last, was aborted.
        self.aborted: bool = False
        # All hooks that this thread runs are of this resource.
        current.thread_state.running.hook = setup.slot, None

    # -- the resource's thread ---------------------------------------------------------

    def create(self) -> Outcome:
        """Make the resource. The result is whether it `is_unentered`."""
        return pickling.outcome_of(self._create)

    def run(
        self, number: int, remaining: float, done: int, body: Any, buffers: Any = ()
    ) -> Outcome:
        """Run a packed call.

        `remaining`: seconds until its deadline, negative without one. `done`: how many
        of its steps earlier attempts have done."""
        self._deadline = None if remaining < 0 else timer.now() + remaining
        with self._lock:
            self._number = number

        self.aborted = False
        outcome = pickling.outcome_of(self._call, body, buffers, done, judge=self._judge)
        if self.aborted:
            outcome = outcome[0] | protocol.ABORTED, *outcome[1:]
        with self._lock:
            self.context = None
            self._call_values = self._values
            self._ended.clear()

        return outcome

    def check(self) -> Outcome:
        """Call `on_check`. The result is `False` if that returned `False`."""
        return pickling.outcome_of(self._check)

    def reset(self) -> Outcome:
        """Call `on_reset`."""
        return pickling.outcome_of(self._reset)

    def destroy(self, reason: bytes | None) -> Outcome:
        """Free the resource. `reason` is the packed error that broke it, if one has."""
        return pickling.outcome_of(self._destroy, reason)

    @wrapper
    def _create(self) -> bool:
        self._hooks = self._unpacked("on_create", self._packed_hooks, ())
        create = self._hooks.on_create
        self.resource = create(self.slot) if self._takes_slot else create()
        refuse("on_create", self.resource)

        return is_unentered(self.resource)

    @wrapper
    def _check(self) -> bool:
        assert self._hooks.on_check is not None
        verdict = self._hooks.on_check(self.resource)
        refuse("on_check", verdict)
        return verdict is not False

    @wrapper
    def _reset(self) -> None:
        assert self._hooks.on_reset is not None
        refuse("on_reset", self._hooks.on_reset(self.resource))

    @wrapper
    def _destroy(self, reason: bytes | None) -> None:
        if reason is not None:
            current.thread_state.running.ending = self._imported(pickling.error_from, reason)

        try:
            refuse("on_destroy", self._hooks.on_destroy(self.resource))
        finally:
            current.thread_state.running.ending = None

    @wrapper
    def _call(self, body: Any, buffers: Any, done: int) -> Any:
        fn, args, wants_context, variables, values = self._unpacked("the call", body, buffers)
        if values:
            parent = self._imported(_context_of, values)
            self._call_values = InheritedValues(parent, self._values)
        if args and isinstance(args[-1], Progress):
            args[-1].forward, args[-1].done = self._note, done

        running = current.thread_state.running
        running.loan = self
        abort = self._new_abort()
        try:
            if abort is not None:
                abort.begin()
            scope = contextvars.Context()
            if variables:
                self._imported(scope.run, set_variables, variables)
            if wants_context:
                result = scope.run(fn, self.call_context(self), self.resource, *args)
            else:
                result = scope.run(fn, self.resource, *args)
        except TypeError as error:
            explain_call(error, users_traceback(error.__traceback__), fn, args, wants_context)
            raise
        finally:
            running.loan = None
            if abort is not None:
                abort.end()
                self.aborted = abort.was_called
        # A generator is refused later, when it is to be sent.
        if type(result) in UNRUN:
            look_at(result, users_function(fn, args) or fn)
        return result

    @wrapper
    def _new_abort(self) -> Abort | None:
        """The abort of the call that is about to run, where there is `on_abort`."""
        if self._hooks.on_abort is None:
            return None

        context = self.call_context(self)
        # What has ended already must not begin: nothing would end it any more.
        check_may_begin(context)
        return Abort(context, self._abort, self._runner.run_apart)

    def _judge(self, error: BaseException) -> Verdict:
        check = self._hooks.check_health
        if check is None or not is_a(error, Exception):
            return True

        kind, body, _ = pickling.outcome_of(_is_healthy, check, error, self.resource)
        return body if kind == protocol.ERROR else bool(pickling.unpack(body))

    def _unpacked(self, what: str, body: Any, buffers: Any) -> Any:
        """Unpack what was sent.

        Raises `RemoteTaskError` with an empty `type_name`, as no task has raised it."""
        try:
            return self._imported(pickling.unpack, body, buffers)
        except EndlessError:
            raise
        except BaseException as error:
            raise RemoteTaskError(
                f"{what} could not be unpickled where it was to run: {shown(error)}"
            ) from error

    def _imported(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Call what imports modules for the parent.

        These modules must not make children, which would import them in turn."""
        running = current.thread_state.running
        running.imports = True
        try:
            return fn(*args)
        finally:
            running.imports = False

    def call_context(self, loan: object) -> TaskContext:
        """The context of the running call, which is made if need be."""
        with self._lock:
            if self.context is None:
                self.context = new_task_context(self._call_values, self._deadline)
                if self._number in self._ended:
                    self._end_context(self.context, self._ended[self._number])
            return self.context

    # -- another thread ----------------------------------------------------------------

    def _abort(self) -> None:
        assert self._hooks.on_abort is not None
        try:
            abort = partial(self._hooks.on_abort, self.resource)
            refuse("on_abort", current.call_hook(self.slot, abort))
            leave_child()
        except BaseException as error:
            leave_child(error)
            self._logger.fault("warning", "%s: on_abort raised", self._name, error=error)

    def obey(self, order: int, number: int) -> None:
        """Follow an order of the manager's.

        It is about the call of this number, or about all calls."""
        if order == protocol.STOPPING:
            self._stopping = True
            return

        with self._lock:
            if number < self._number:
                return

            # The call may still be on its way.
            self._ended[number] = order
            if number == self._number and self.context is not None:
                self._end_context(self.context, order)

    def _end_context(self, context: TaskContext, order: int) -> None:
        """End it. The lock is held, so its callbacks run on another thread."""
        error: ContextCancelledError | DeadlineExceededError
        cause: BaseException | None = None
        if order == protocol.DEADLINE:
            error = DeadlineExceededError("the task's deadline passed")
        elif order == protocol.KILLED:
            error = ContextCancelledError("the manager was killed")
            cause = TaskManagerKilledError("the manager was killed while the task was running")
        else:
            error = ContextCancelledError("context cancelled")

        things: list[Any] = []
        self._runner.run_all(context._end(error, cause, things))
        self._runner.let_go(things)


@wrapper
def _is_healthy(check: Callable[[Exception, Any], object], error: Exception, resource: Any) -> bool:
    verdict = check(error, resource)
    refuse("check_health", verdict)

    return bool(verdict)


def _context_of(values: list[bytes]) -> Context:
    context = background()
    for packed in values:
        # Some cannot be unpickled here.
        with contextlib.suppress(Exception):
            key, value = pickling.unpack(packed)
            context = with_value(context, key, value)

    return context

"""`Supervisor`: what goes on around a call while it runs.

A task may be aborted, abandoned, or limited in time while it runs. A manager that does
any of that has its tasks called by its supervisor: the function of such a task is a
method of the supervisor, which asks for the context, begins a `Supervision` of each
kind, calls the user's function, and ends the supervisions. Where none of that is asked
for, a task's function is called as it is, and nothing of this runs.

The calls of `run_task` go the same way. So do `on_check`, whose context ends when its
time is up, and `on_reset`. Both end when the manager is killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar

from tasker._pool.usercode import UserCode
from tasker._pool.worker import Worker
from tasker._sync.threads import leave_child
from tasker._tasks import current
from tasker._tasks.context import (
    Context,
    background,
    check_may_begin,
    with_cancel,
    with_timeout,
)
from tasker._tasks.future import TaskFuture
from tasker._tasks.hints import explain_call
from tasker._tasks.run_limit import RunLimit
from tasker._tasks.unrun import suspects
from tasker._tasks.wrapping import supervising, users_function, users_traceback, wrapper
from tasker.errors import TaskManagerKilledError

__all__ = ["Kind", "Supervision", "Supervisor"]

R = TypeVar("R")


class Supervision(Protocol):
    """Of one call. Both methods are called in the thread of the call."""

    def begin(self) -> None:
        """The function is about to be called."""

    def end(self, error: BaseException | None) -> None:
        """The call has returned, or raised this error.

        May be called again, and is if an exception from outside strikes it."""


# Makes the supervision of a call. It gets the context, the resource, the user's
# function, and the worker whose thread calls (`None`: it is another thread, in
# `run_task`). `None`: there is nothing to do for this call.
Kind = Callable[[Context, Any, Callable[..., Any], Worker[Any] | None], Supervision | None]


class Supervisor(Generic[R]):
    """That of one manager. The first `stuck` of its kinds serve hooks, too.

    `contexts`: those that a kill ends."""

    def __init__(
        self, user: UserCode[R], contexts: set[Context], stuck: Iterable[Kind] = ()
    ) -> None:
        self._user = user
        self._contexts = contexts
        self._stuck = tuple(stuck)
        # Those of tasks. The one that begins first ends last.
        self.kinds: list[Kind] = [*self._stuck]

    def supervise(self, task: TaskFuture[Any]) -> None:
        """Have a task called by this. Called before it is put into its lane."""
        task._fn, task._args = self.supervised(task._fn, task._args or (), task._wants_context)
        task._wants_context = True

    def supervised(
        self, fn: Any, args: tuple[Any, ...], wants_context: bool
    ) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """What to call in place of a function, and with which arguments.

        It asks for the context."""
        return self.call_with_context if wants_context else self.call, (fn, *args)

    def call_hook(
        self,
        worker: Worker[R] | None,
        resource: R,
        fn: Callable[[R], object],
        *,
        timeout: float | None,
    ) -> None:
        """Call a hook of a resource, in the thread of its owner.

        It is stuck when the manager is killed, or after `timeout` seconds (`None`:
        there is no limit). It is not called if the manager is killed already. Raises
        `DeadlineExceededError` if the time is up before the hook begins."""
        if not self._stuck:
            fn(resource)
            return

        context = (
            with_cancel(background()) if timeout is None else with_timeout(background(), timeout)
        )
        try:
            # Announced, then looked at (R1).
            self._contexts.add(context)
            if not self._user.killed:
                with context:
                    made = _made(self._stuck, context, resource, fn, worker)
                    self._call(context, resource, fn, (), made, wants_context=False)
        except TaskManagerKilledError:
            # A kill came before it began. What the hook raises is caught inside.
            pass
        finally:
            self._contexts.discard(context)

    @supervising
    def call(self, context: Context, resource: R, fn: Callable[..., Any], *args: Any) -> Any:
        """Call a function that does not want its context."""
        made = self._supervisions(context, resource, users_function(fn, args))
        return self._call(context, resource, fn, args, made, wants_context=False)

    @supervising
    def call_with_context(
        self, context: Context, resource: R, fn: Callable[..., Any], *args: Any
    ) -> Any:
        """Call a function that wants its context."""
        made = self._supervisions(context, resource, users_function(fn, args))
        return self._call(context, resource, fn, args, made, wants_context=True)

    @wrapper
    def _supervisions(self, context: Context, resource: R, fn: Any) -> list[Supervision]:
        running = current.thread_state.running
        worker: Any = None if running.loan is not None else running.worker
        made = _made(self.kinds, context, resource, fn, worker)

        task = None if worker is None else worker.task
        if task is not None and task._run_timeout:
            # It ends first, so its time does not count what the others wait for.
            made.append(RunLimit(context, task, task._run_timeout))
        return made

    @wrapper
    def _call(
        self,
        context: Context,
        resource: R,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        supervisions: list[Supervision],
        *,
        wants_context: bool,
    ) -> Any:
        error: BaseException | None = None

        try:
            # What has ended already must not begin: nothing would end it any more.
            check_may_begin(context)
            _begin(supervisions)

            result = fn(context, resource, *args) if wants_context else fn(resource, *args)
            leave_child()
            if type(result) in suspects(resource) and users_function(fn, args) is fn:
                self._user.look_at_result(result, fn, resource)
            return result
        except BaseException as raised:
            leave_child(raised)
            error = raised
            if type(raised) is TypeError:
                explain_call(raised, users_traceback(raised.__traceback__), fn, args, wants_context)
            raise
        finally:
            try:
                _end(supervisions, error)
            except BaseException:  # Ctrl-C in the middle of it
                _end(supervisions, error)
                raise
            finally:
                # Its traceback holds this frame (R4).
                del error


# The traceback of a task's error leads to the frames of its call. Nothing may lead from
# there to the task, which holds the error (R4). So its supervisions are in a list that
# `_end` empties, and in no other variable.


@wrapper
def _made(
    kinds: Iterable[Kind], context: Context, resource: Any, fn: Any, worker: Worker[Any] | None
) -> list[Supervision]:
    made = (kind(context, resource, fn, worker) for kind in kinds)
    return [each for each in made if each is not None]


@wrapper
def _begin(supervisions: list[Supervision]) -> None:
    for supervision in supervisions:
        supervision.begin()


@wrapper
def _end(supervisions: list[Supervision], error: BaseException | None) -> None:
    """End them, the last one first. Empties the list."""
    while supervisions:
        supervisions[-1].end(error)
        supervisions.pop()

"""Which task a thread runs: its worker's task, or the one that it runs in `run_task`.

A worker's thread sets `running.worker` once. `run_task` sets `running.loan` for as long
as its function runs, and then puts back the loan that was there before. So its calls
may be nested, and the innermost counts. `running.hook` is set while a hook runs that is
called for a resource of `run_task`, or in another thread than its worker's. It counts
as long as the hook has not come to a `run_task` of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from tasker._sync import guard, timer
from tasker._sync.threads import local_to_threads
from tasker._tasks.context import Context
from tasker.slot import Slot

__all__ = [
    "call_hook",
    "current_context",
    "current_resource",
    "current_slot",
    "current_worker",
    "in_task",
    "note_abort",
    "slot_here",
    "thread_state",
]


T = TypeVar("T")


class OnWorker(Protocol):
    """A worker, as seen from here."""

    name: str
    task: Any
    resource: Any
    slot: Slot | None

    def current_context(self) -> Context:
        """The context of its task. Makes it if there is none."""
        ...

    def look_at_result(self, result: object, fn: Callable[..., Any]) -> None:
        """Look at a result that is its resource, or is yet to be run (see `unrun`)."""
        ...

    def aborted(self) -> None:
        """The call on its resource, which ends now, was aborted."""
        ...


class InCaller(Protocol):
    """A loan, as seen from here."""

    resource: Any
    slot: Slot | None
    owner: Any
    outer: Any
    aborted: bool


class Running:
    """What one thread runs. Only this thread reads and writes it."""

    __slots__ = ("ending", "hook", "imports", "loan", "worker")

    def __init__(self) -> None:
        # Why the resource that the thread destroys ends, if not as usual.
        self.ending: BaseException | None = None
        # Whether it unpickles a call that was sent to a child or an actor. That may
        # import any module.
        self.imports: bool = False

        self.worker: OnWorker | None = None
        self.loan: InCaller | None = None
        # The slot of the resource whose hook it runs, and `loan` when the hook began.
        self.hook: tuple[Slot | None, InCaller | None] | None = None


class _ThreadState:
    # Called once in every thread that asks.
    def __init__(self) -> None:
        # An attribute of a `local` costs five times as much as one of this object.
        self.running: Running = Running()


thread_state: _ThreadState = local_to_threads(_ThreadState)


def renew() -> None:
    """Make thread-local state again, if the kind of threads has changed.

    Called before a manager makes its threads. These are greenlets if gevent has patched
    `threading` after tasker was imported. Greenlets share the state that is local to
    threads of the system, so it has to be made again. So has the timer, whose thread
    starts other threads: a thread of the system could start no greenlet."""
    global thread_state
    if not isinstance(thread_state, threading.local):
        thread_state = local_to_threads(_ThreadState)
        guard.thread_state = local_to_threads(guard.ThreadState)
        timer.start_afresh()


def current_worker() -> OnWorker | None:
    """The worker whose thread calls, if any."""
    return thread_state.running.worker


def in_task() -> bool:
    """Whether the calling thread is a worker's, or in a `run_task`."""
    running = thread_state.running
    return running.worker is not None or running.loan is not None


def call_hook(slot: Slot | None, hook: Callable[[], T]) -> T:
    """Call a hook of the resource in this slot: `current_slot()` tells it there."""
    running = thread_state.running
    outer = running.hook
    try:
        running.hook = slot, running.loan
        return hook()
    finally:
        running.hook = outer


def note_abort(resource: object) -> None:
    """The call on this resource, which ends now in the calling thread, was aborted.

    Told to the worker or the loan that uses it. A resource that is being borrowed has
    neither."""
    running = thread_state.running
    loan, worker = running.loan, running.worker

    if loan is not None:
        if loan.resource is resource:
            loan.aborted = True
    elif worker is not None and worker.resource is resource:
        worker.aborted()


def current_context() -> Context:
    """The context of the task that the calling thread runs.

    It is for code that the task's function calls. The function gets the same context as
    its first argument when it asks for one. Raises `RuntimeError` outside of a task.
    Never blocks."""
    running = thread_state.running
    loan, worker = running.loan, running.worker

    if loan is not None:
        context: Context = loan.owner.call_context(loan)
        return context
    if worker is None or worker.task is None:
        raise RuntimeError("current_context() was called outside of a task")

    return worker.current_context()


def current_resource() -> Any:
    """The resource of the task that the calling thread runs.

    It is for functions that do not get it as an argument, such as calls of an executor.
    It works wherever the resource lives. Raises `RuntimeError` outside of a task. Never
    blocks."""
    running = thread_state.running
    if running.loan is not None:
        return running.loan.resource

    worker = running.worker
    if worker is None or worker.task is None:
        raise RuntimeError("current_resource() was called outside of a task")

    return worker.resource


def current_slot() -> Slot:
    """The slot of the resource that the calling thread uses, makes or destroys.

    It is for tasks, and for what their functions call, and for hooks such as
    `on_check` and `on_destroy`. It works wherever the resource lives. Raises
    `RuntimeError` elsewhere. Never blocks."""
    slot = slot_here()
    if slot is None:
        raise RuntimeError("current_slot() was called outside of a task and of a hook")
    return slot


def slot_here() -> Slot | None:
    """As `current_slot`; `None` outside of a task and of a hook."""
    running = thread_state.running
    hook, loan, worker = running.hook, running.loan, running.worker
    if hook is not None and hook[1] is loan:
        return hook[0]

    owner = worker if loan is None else loan
    return None if owner is None else owner.slot

"""Which task a thread runs: the one of its worker, or the one that it runs itself in `run_task`. The innermost counts.

A worker's thread names its worker once. `run_task` names its loan for as long as its function runs, and what was named
before comes back afterwards, so calls of it may be nested.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

from tasker._sync import guard, timer
from tasker._sync.threads import local_to_threads
from tasker._tasks.context import Context

__all__ = ["current_context", "current_resource", "current_worker", "in_task", "thread_state"]


class OnWorker(Protocol):
    """A worker, as seen from here."""

    name: str
    task: Any
    resource: Any

    def current_context(self) -> Context:
        """The context of its task, made if need be."""
        ...

    def look_at_result(self, result: object, fn: Callable[..., Any]) -> None:
        """A step of its task has returned its resource, or what is yet to be run: see `unrun`."""
        ...


class InCaller(Protocol):
    """A loan, as seen from here."""

    resource: Any
    owner: Any
    outer: Any


class Running:
    """What one thread runs."""

    __slots__ = ("ending", "imports", "loan", "worker")

    def __init__(self) -> None:
        self.ending: BaseException | None = (
            None  # why the resource that it destroys ends, if not as usual
        )
        self.imports: bool = (
            False  # what was sent to a child or an actor is unpickled, which may import anything
        )
        self.worker: OnWorker | None = None
        self.loan: InCaller | None = None


class _ThreadState:
    def __init__(self) -> None:  # said once in every thread that asks
        self.running: Running = (
            Running()
        )  # an attribute of a `local` costs five times as much as one of this


thread_state: _ThreadState = local_to_threads(_ThreadState)


def renew() -> None:
    """Called before a manager makes its threads. If those are greenlets by now (gevent was told so after tasker was
    imported), what is local to threads of the system is shared by all of them, and has to be made again. So has what
    starts threads, if it is a thread of the system."""
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


def current_context() -> Context:
    """The context of the task that the calling thread runs: for code that the task's function calls.

    The same that the function gets as its first argument when it asks for one. Raises `RuntimeError` outside of a
    task. Never blocks."""
    running = thread_state.running
    loan, worker = running.loan, running.worker
    if loan is not None:
        context: Context = loan.owner.call_context(loan)
        return context
    if worker is None or worker.task is None:
        raise RuntimeError("current_context() was called outside of a task")
    return worker.current_context()


def current_resource() -> Any:
    """The resource of the task that the calling thread runs: for functions that do not get it as an argument, such as
    calls of an executor, wherever the resource lives.

    Raises `RuntimeError` outside of a task. Never blocks."""
    running = thread_state.running
    if running.loan is not None:
        return running.loan.resource
    worker = running.worker
    if worker is None or worker.task is None:
        raise RuntimeError("current_resource() was called outside of a task")
    return worker.resource

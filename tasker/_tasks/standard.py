"""The private parts of the standard `ThreadPoolExecutor` that other programs use.

Instrumentation (Sentry, OpenTelemetry, ddtrace) takes the place of the standard class's
`submit`, or of its code. It wraps the function, so that the submitter's context goes
along, and calls the original with the executor. Where that has happened our executors
call what stands there. `submit` sees that the function is another one. `plain_submit`
sees that the same function has another code; executors look when they are made, and in
`map`.

The original has to run on our executors. It does this:

    with self._shutdown_lock, _global_shutdown_lock:
        ...  # refuses, by self._broken and self._shutdown
        future = Future()
        # from 3.14 on: the call is packed by self._resolve_work_item_task
        self._work_queue.put(_WorkItem(future, fn, args, kwargs))
        self._adjust_thread_count()
        return future

Here `_shutdown_lock` is an `Entrance`. It keeps what is put within its block, and
submits it when the block ends. Then the standard library's lock for all pools of the
process is free again: to submit may take long (a bounded queue) and run user code. The
future is new, and only its submitter knows it, so it can become a `TaskFuture`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import thread as standard_module
from types import FunctionType, TracebackType
from typing import TYPE_CHECKING, Any

from tasker._tasks.future import TaskFuture

__all__ = [
    "Entrance",
    "Standard",
    "StandardParts",
    "WorkItem",
    "WorkQueue",
    "entrance_here",
    "plain_submit",
]

Standard = concurrent.futures.ThreadPoolExecutor

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def plain_submit() -> Any:
    """The standard `submit`, if it stands in its place and has its own code.

    `None` if not."""
    submit: Any = vars(Standard)["submit"]
    if type(submit) is not FunctionType:
        return None

    code = submit.__code__
    is_of_the_module = code.co_filename == vars(standard_module)["_worker"].__code__.co_filename

    # ddtrace's code names the same file, but not the queue.
    return submit if is_of_the_module and "_work_queue" in code.co_names else None


class _ThreadState(threading.local):
    """Belongs to the calling thread."""

    entrance: weakref.ref[Entrance] | None = None
    """The entrance that the thread is in.

    Weak: if an interrupt keeps a `with` from leaving it, it is gone all the same."""


_thread_state = _ThreadState()


class Entrance:
    """A block that keeps the work items put into its executor's `_work_queue`.

    They are submitted when the block has ended without an error."""

    def __init__(self, executor: StandardParts) -> None:
        self.executor = executor
        self.items: deque[Any] = deque()
        self._outer: weakref.ref[Entrance] | None = None

    def __enter__(self) -> None:
        self._outer = _thread_state.entrance
        _thread_state.entrance = weakref.ref(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _thread_state.entrance = self._outer

        while error is None and self.items:
            self.executor._submit_item(self.items.popleft())


def entrance_here(executor: StandardParts) -> Entrance | None:
    """The entrance of this executor, if the calling thread is in it."""
    entrance = None if _thread_state.entrance is None else _thread_state.entrance()
    return entrance if entrance is not None and entrance.executor is executor else None


class WorkItem:
    """A call that was taken out of a `_work_queue`.

    Its future is cancelled. The code that took it may make the call."""

    def __init__(self, future: TaskFuture[Any], call: Call) -> None:
        self.future: TaskFuture[Any] = future
        # Its name from Python 3.14 on; the three below are those of older versions.
        self.task: Call = call
        self.fn: Callable[..., Any]
        self.args: tuple[Any, ...]
        self.kwargs: dict[str, Any]

        # A subclass's own worker context may pack calls in another form.
        with contextlib.suppress(TypeError, ValueError):
            self.fn, self.args, self.kwargs = call

    def run(self, *context: object) -> None:
        """Raises `RuntimeError`: no future would get the outcome."""
        raise RuntimeError(
            "a call that was taken out of _work_queue is cancelled: make it yourself, "
            "item.fn(*item.args, **item.kwargs), or submit it again"
        )


class WorkQueue:
    """The calls of an executor that wait for a worker.

    They can be counted, and taken out, which cancels them. This holds no strong
    reference to the executor."""

    def __init__(self, executor: StandardParts) -> None:
        self._executor = weakref.ref(executor)
        # The tasks that waited at the last look, the oldest first.
        self._listed: deque[weakref.ref[TaskFuture[Any]]] = deque()

    def qsize(self) -> int:
        """How many calls wait."""
        executor = self._executor()
        return 0 if executor is None else executor._count_waiting_tasks()

    def empty(self) -> bool:
        """Whether none waits."""
        return not self.qsize()

    def get(self, block: bool = True, timeout: float | None = None) -> WorkItem:
        """Take out the call that has waited longest, and cancel its future.

        Raises `queue.Empty` when none waits. With `block` it raises `RuntimeError`
        then, because a wait here would never end: new calls go to the workers."""
        executor = self._executor()
        while executor is not None:
            try:
                if not self._listed:
                    self._listed.extend(map(weakref.ref, executor._waiting_tasks()))
                task = self._listed.popleft()()
            except IndexError:
                break

            if task is not None:
                # Read before the task is withdrawn, which empties it.
                fn, args = task._fn, task._args
                if task._withdraw():
                    return WorkItem(task, executor._call_of(fn, args or ()))

        if block:
            raise RuntimeError(
                "no call waits, and those that come go to the workers: get(block=False)"
            )
        raise queue.Empty

    def get_nowait(self) -> WorkItem:
        """`get(block=False)`."""
        return self.get(block=False)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Submit a work item of the standard library's, whose future is new.

        `None` is ignored: the standard library puts it to wake a worker, for which
        there is no need here."""
        if item is None:
            return

        executor = self._executor()
        if executor is None:
            raise RuntimeError("the executor of this queue is gone")

        entrance = entrance_here(executor)
        if entrance is None:
            executor._submit_item(item)
        else:
            entrance.items.append(item)

    def put_nowait(self, item: Any) -> None:
        """`put(item)`."""
        self.put(item)


# The standard class reads these again after its construction, so programs set them to
# change what it does. The value is what to do instead.
_FIXED = {
    "_adjust_thread_count": "override it in a subclass, where it is called at each submission",
    "_broken": "",
    "_create_worker_context": "",
    "_idle_semaphore": "",
    "_initargs": "give initargs to the constructor",
    "_initializer": "give initializer to the constructor",
    "_initializer_failed": "",
    "_resolve_work_item_task": "",
    "_shutdown": "call shutdown()",
    "_shutdown_lock": "",
    "_thread_name_prefix": "give thread_name_prefix to the constructor",
    "_threads": "",
    "_work_queue": (
        "TaskManager has bounded queues, Config(queue_size=...), and priorities, "
        "submit(priority=True)"
    ),
}


def _explain(executor: object, name: str, fault: str) -> str:
    hint = _FIXED[name] and f": {_FIXED[name]}"
    return f"{name} of a {type(executor).__name__} of tasker's {fault}{hint}"


def _missing(name: str) -> property:
    def read(executor: object) -> Any:
        raise AttributeError(_explain(executor, name, "is not there"))

    return property(read)


class StandardParts(concurrent.futures.ThreadPoolExecutor):
    """The private parts of the standard class on executors of ours.

    The parts that an executor of ours has can be read. To set a part raises
    `AttributeError`, as it would have no effect."""

    _task_engine: Any

    def __setattr__(self, name: str, value: object) -> None:
        if name in _FIXED:
            raise AttributeError(
                _explain(self, name, "cannot be set, as that would change nothing")
            )
        super().__setattr__(name, value)

    # -- what executors add to it ------------------------------------------------------

    def _submit_item(self, item: Any) -> None:
        """Accept a work item of the standard library's, or raise."""
        raise NotImplementedError

    def _waiting_tasks(self) -> list[TaskFuture[Any]]:
        """The tasks of this executor that have not started, the oldest first."""
        raise NotImplementedError

    def _count_waiting_tasks(self) -> int:
        """How many tasks `_waiting_tasks` would return."""
        raise NotImplementedError

    def _call_of(self, fn: Any, args: tuple[Any, ...]) -> Call:
        """The user's call in a task that calls `fn` with these arguments."""
        raise NotImplementedError

    # -- what other programs find ------------------------------------------------------

    # To a type checker they are attributes.
    if not TYPE_CHECKING:
        # A property each: `__getattr__` would slow down all attributes on CPython 3.11.
        _create_worker_context = _missing("_create_worker_context")
        _idle_semaphore = _missing("_idle_semaphore")
        _initargs = _missing("_initargs")
        _initializer = _missing("_initializer")

        @property
        def _work_queue(self) -> WorkQueue:
            # One for each executor: what `get` has listed, the next `get` takes.
            return vars(self).get("_work_queue") or vars(self).setdefault(
                "_work_queue", WorkQueue(self)
            )

        @property
        def _threads(self) -> frozenset[threading.Thread]:
            return frozenset(worker.thread for worker in self._task_engine.crew.members)

        @property
        def _thread_name_prefix(self) -> str:
            return self._task_engine.name

        @property
        def _shutdown_lock(self) -> Entrance:
            return Entrance(self)

        def _resolve_work_item_task(self, fn: Any, args: Any, kwargs: Any) -> Call:
            return fn, args, kwargs

        def _adjust_thread_count(self) -> None:
            """Do nothing: workers are hired when calls are accepted."""

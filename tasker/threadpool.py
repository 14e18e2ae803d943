"""`ThreadPoolExecutor`: the standard library's, on workers of tasker's.

    open --shutdown(), collected, interpreter exit--> closing: the workers finish what
    waits, and leave
      '--an initializer raises--> broken: what waits fails, the workers finish what they
      run, and leave

It stands on an `Engine` of its own kind, without base workers. To its workers the
resource is that `initializer` has run in their thread. A submitter takes the
announcement of an idle worker and wakes it. If none is idle it hires another worker, up
to `max_workers`. If a thread could not start, the burst thread's tick makes up for it:
it hires while more tasks wait than there are workers without one.
"""

from __future__ import annotations

import contextlib
import itertools
import operator
import os
import threading
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures._base import LOGGER
from concurrent.futures.thread import BrokenThreadPool
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Never

from tasker._pool.engine import Engine
from tasker._pool.queue import TaskQueue
from tasker._pool.scaling import Limits
from tasker._pool.worker import Worker
from tasker._sync.clock import monotonic
from tasker._sync.interrupts import deliver_later
from tasker._tasks import standard
from tasker._tasks.future import TaskFuture, task_made_of
from tasker._tasks.wrapping import wrapper
from tasker.config import Config
from tasker.errors import ContextCancelledError
from tasker.executor import CallExecutor, look

__all__ = ["ThreadPoolExecutor"]

_BROKEN = "A thread initializer failed, the thread pool is not usable anymore"
# Seconds for the burst thread to be gone when it has done its work. A guess: it is
# about to return, so this only bounds a wait on a machine that is overloaded.
_JOIN_S = 1.0
_numbers = itertools.count()


class ThreadPoolExecutor(CallExecutor):
    """`concurrent.futures.ThreadPoolExecutor`, on workers of tasker's: the same
    arguments, the same behaviour.

    Threads are started when calls are submitted and none is idle, at most `max_workers`
    (`None`: the standard library's default). They are named `thread_name_prefix` and a
    number. `initializer(*initargs)` runs in each before its first call. When it raises,
    that is logged, and waiting and later calls fail with `BrokenThreadPool`.

    An executor that is forgotten finishes what it accepted, and so does the interpreter
    at its exit.

    As in the standard class from CPython 3.14 on, a subclass may override `BROKEN`, and
    on those Pythons `prepare_context`, which makes the context that each thread runs
    its calls in; `**ctxkwargs` are for that one.

    Raises `ValueError` when `max_workers` is not greater than 0, `TypeError` for other
    wrong arguments."""

    BROKEN: type[BrokenThreadPool] = BrokenThreadPool
    """The error of waiting and later calls after an initializer has raised."""

    _task_engine: OnDemandEngine
    # a thread is no resource that an error could break
    _judges = False
    # packs a call for the context, of a subclass's own, that will run it
    _task_pack: Callable[..., Any] | None = None

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        **ctxkwargs: Never,
    ) -> None:
        if max_workers is None:
            # what the standard library's has on this version of Python
            processors: int = getattr(os, "process_cpu_count", os.cpu_count)() or 1
            max_workers = min(32, processors + 4)
        most = _number_of_workers(max_workers)

        enter, leave, pack = _prepared(type(self), initializer, initargs, ctxkwargs)
        name = str(thread_name_prefix) or f"ThreadPoolExecutor-{next(_numbers)}"

        self._task_engine = OnDemandEngine(most, name, enter, leave, self.BROKEN)
        self._accept_task = self._task_engine.accept
        if pack is not None:
            self._task_pack = vars(self)["_resolve_work_item_task"] = pack
            self._accept_task = partial(_pack_and_accept, self._task_engine, pack)
        look()
        if type(self)._adjust_thread_count is not ThreadPoolExecutor._adjust_thread_count:
            self._accept_task = partial(_adjust_and_accept, weakref.ref(self), self._accept_task)

        self._task_engine.stop_without(self)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse new calls from now on, and end the threads when all accepted calls
        have ended.

        `cancel_futures`: cancel the calls that have not started. `wait`: return when
        all threads have ended, however long that takes. In one of the executor's own
        threads that raises `RuntimeError`, and in a task of another one
        `PoolDeadlockError` if it could never end. It does not wait where
        `TaskManager.stop` would not.

        May be called again."""
        engine = self._task_engine
        engine.was_shut_down = True
        engine.lifecycle.request_stop()
        if cancel_futures:
            engine.cancel_waiting()

        if wait:
            if engine.runs_this_thread():
                raise RuntimeError("cannot join current thread")
            if not engine.closing_needs_this_thread():
                engine.lifecycle.wait(None)
                engine.housekeeper.join(_JOIN_S)

    def __repr__(self) -> str:
        engine = self._task_engine
        state = "broken" if engine.broken else engine.lifecycle.name()
        threads, waiting = len(engine.crew.members), sum(engine.queue.waiting())

        return (
            f"<ThreadPoolExecutor {engine.name!r} {state}: {threads} of {engine.most} threads, "
            f"{waiting} waiting>"
        )

    # -- what others use, although it is private (see `standard`) ----------------------

    def _submit_item(self, item: Any) -> None:
        if self._task_pack is None:
            super()._submit_item(item)
        else:
            # it was packed when it was put
            self._task_engine.accept(
                _run_packed, (self._task_pack, item.task), partial(task_made_of, item.future)
            )

    def _call_of(self, fn: Any, args: tuple[Any, ...]) -> Any:
        return super()._call_of(fn, args) if self._task_pack is None else args[1]

    def _submits_itself(self) -> bool:
        return self._task_pack is None and super()._submits_itself()

    def _waiting_tasks(self) -> list[TaskFuture[Any]]:
        return self._task_engine.waiting()

    def _count_waiting_tasks(self) -> int:
        return sum(self._task_engine.queue.waiting())

    def _adjust_thread_count(self) -> None:
        """Hire a worker if none is idle and there may be more, as the standard class
        does when a call was put."""
        # inside of an entrance, a worker is hired when the call is accepted
        if standard.entrance_here(self) is None:
            self._task_engine.wake_or_hire()

    # type checkers see the attributes of the standard class
    if not TYPE_CHECKING:

        @property
        def _max_workers(self) -> int:
            return self._task_engine.most

        @_max_workers.setter
        def _max_workers(self, number: int) -> None:
            self._task_engine.set_most(_number_of_workers(number))

        @property
        def _broken(self) -> str | bool:
            return _BROKEN if self._task_engine.broken else False

        @property
        def _shutdown(self) -> bool:
            return self._task_engine.is_stopping()


class OnDemandEngine(Engine[Any]):
    """An engine without base workers. It hires as tasks come, and never retires one."""

    finishes_at_exit = True
    # programs make many, and the standard library's log nothing
    life_level: Literal["debug", "info"] = "debug"

    def __init__(
        self,
        most: int,
        name: str,
        enter: Callable[[], Any],
        leave: Callable[[Any], object],
        broken_error: type[BrokenThreadPool],
    ) -> None:
        self.most: int = most
        self.broken: bool = False
        self.broken_error: type[BrokenThreadPool] = broken_error
        self.was_shut_down = False  # by its user
        self._worker_numbers = itertools.count()

        super().__init__(
            Config(
                on_create=enter,
                on_destroy=leave,
                worker_count=most,
                max_worker_count=most,
                name=name,
                burst_interval=0,
                max_retries=0,
                create_timeout=threading.TIMEOUT_MAX,
                resource_pool_size=0,
                propagate_contextvars=False,
            )
        )

    def accept(
        self,
        call: Callable[..., Any],
        args: tuple[Any, ...],
        make: Callable[..., TaskFuture[Any]],
    ) -> TaskFuture[Any]:
        """Accept a task and wake or hire a worker for it, or raise."""
        # INLINED Engine.submit, TaskQueue.put: 0.1 us a task, benchmarks --only drop-in
        queue = self.queue
        if queue.closed:
            raise self.refusal()

        task = make(self, call, args, False, monotonic())
        try:
            queue._main.append(task)
            if queue.closed and queue.takes_back(task):
                raise self.refusal()
            if queue.idle.announced or len(self.crew.members) < self.most:  # in a crowd neither
                self.wake_or_hire()
        except BaseException as error:
            # as `Engine._accept`, which says why: there may be no room for a call (R2)
            accepted, task._refused = not task._refused, True
            try:
                del task._may_start
            except AttributeError:
                task._refused = not accepted
            else:
                accepted = False

            if not accepted:
                raise
            try:  # noqa: SIM105  # suppress() could be struck in its turn
                deliver_later(error)
            except BaseException:
                pass
        return task

    def wake_or_hire(self) -> None:
        """A task was put, or is about to be."""
        if self.queue.idle.announced:
            if self.queue.resting:
                self.queue.wake_housekeeper()
            try:
                parker = self.queue.idle.announced.pop()
            except IndexError:
                # another thread has taken it
                pass
            else:
                parker.wake()
                return

        if len(self.crew.members) < self.most:
            self.hire()

    def refusal(self) -> RuntimeError:
        """Why nothing is accepted any more."""
        if self.broken:
            return self.broken_error(_BROKEN)

        if self.orphaned is not None:
            return RuntimeError(*self.orphaned.args)
        if self.exiting and not self.was_shut_down:
            return RuntimeError("cannot schedule new futures after interpreter shutdown")
        return RuntimeError("cannot schedule new futures after shutdown")

    def cancel_waiting(self) -> None:
        """Cancel the tasks that wait; their callbacks run here. The queue is closed."""
        # They stay in their lanes, from which workers drop them: a task that an
        # interrupt found outside of its lane would have no end. It looks again, because
        # a compaction may have had some tasks in its hands.
        withdrawn = True
        while withdrawn:
            withdrawn = False
            for task in self.queue.entries():
                withdrawn |= task._withdraw()

    def initializer_failed(self) -> None:
        """Break: nothing that waits will run.

        Called in an `except` block, by the thread whose initializer raised."""
        _log_failure()

        self.broken = True
        self.lifecycle.request_stop()
        self.queue.fail_waiting(
            lambda task: task._fail_from_outside(
                self.broken_error(_BROKEN), ContextCancelledError("the pool is broken")
            ),
            self.runner.let_go,
        )

    def hire(self) -> None:
        """A task was put and no worker is idle."""
        self.queue.stir()
        if not self.queue.closed:
            self.crew.hire(1)

    def set_most(self, most: int) -> None:
        """Have up to so many workers from now on, at once if tasks wait for them.

        Workers that are too many stay."""
        more = most - self.most
        self.most = self.crew.most = most

        if more > 0 and not self.queue.closed:
            self.crew.hire(min(more, sum(self.queue.waiting())))

    def heal_crew(self) -> None:
        super().heal_crew()
        # workers without a task are about to begin, or to wake: each will take one
        if sum(self.queue.waiting()) > sum(worker.task is None for worker in self.crew.members):
            self.hire()

    def may_hire(self) -> bool:
        return not self.exiting and len(self.crew.members) < self.most

    def _limits(self) -> Limits:
        return Limits(base=0, most=self.most)

    def _new_queue(self) -> TaskQueue:
        return _Queue(self.name)

    def _new_worker(self, name: str, leave: Callable[[Worker[Any]], None]) -> Worker[Any]:
        name = f"{self.name}_{next(self._worker_numbers)}"
        return _InitializedWorker(name, self, self.counters.new_shard(), leave)


class _Queue(TaskQueue):
    """A submitter wakes or hires a worker for each task, so no worker wakes another."""

    def wake_next(self) -> None:
        pass


class _InitializedWorker(Worker[Any]):
    """A worker whose initializer breaks the pool when it raises: it has one attempt."""

    _engine: OnDemandEngine

    def _create(self) -> bool:
        if not self._employed():
            return False

        try:
            self._make()
        except BaseException:
            self._engine.initializer_failed()
            return False
        return True


def _number_of_workers(number: int) -> int:
    if number <= 0:
        raise ValueError("max_workers must be greater than 0")

    return operator.index(number)


def _adjust_and_accept(
    executor: weakref.ref[ThreadPoolExecutor],
    accept: Callable[..., TaskFuture[Any]],
    call: Callable[..., Any],
    args: tuple[Any, ...],
    make: Callable[..., TaskFuture[Any]],
) -> TaskFuture[Any]:
    """Accept a task of an executor with an `_adjust_thread_count` of its own."""
    pool: Any = executor()
    # first: if it raises, the call is refused
    pool._adjust_thread_count()
    return accept(call, args, make)


# -- what a thread has before its first call -------------------------------------------

# From CPython 3.14 on `prepare_context(initializer, initargs)` returns two functions:
# one makes a thread's context, the other packs a call for it. It is overridden by
# `InterpreterPoolExecutor`.
_standard_prepare: Any = getattr(
    getattr(standard.Standard, "prepare_context", None), "__func__", None
)


def _prepared(
    kind: type[ThreadPoolExecutor],
    initializer: Callable[..., object] | None,
    initargs: Iterable[Any],
    ctxkwargs: dict[str, Any],
) -> tuple[Callable[[], Any], Callable[[Any], object], Callable[..., Any] | None]:
    """The functions that make and free a thread's resource; and one that packs calls
    for it, if it is a context of a subclass's own."""
    prepare: Any = getattr(kind, "prepare_context", None)
    if (
        _standard_prepare is not None
        and getattr(prepare, "__func__", None) is not _standard_prepare
    ):
        create, pack = prepare(initializer, initargs, **ctxkwargs)

        return partial(_entered, create), _leave, pack

    for name in ctxkwargs:
        raise TypeError(f"{kind.__name__}() got an unexpected keyword argument {name!r}")
    if initializer is None:
        return _nothing, _nothing, None
    if not callable(initializer):
        raise TypeError("initializer must be a callable")
    return partial(_initialize, initializer, initargs), _nothing, None


def _initialize(initializer: Callable[..., object], initargs: Iterable[Any]) -> None:
    initializer(*initargs)


def _entered(create: Callable[[], Any]) -> Any:
    context = create()
    context.initialize()

    return context


def _leave(context: Any) -> None:
    context.finalize()


def _pack_and_accept(
    engine: OnDemandEngine,
    pack: Callable[..., Any],
    call: Callable[..., Any],
    args: tuple[Any, ...],
    make: Callable[..., TaskFuture[Any]],
) -> TaskFuture[Any]:
    """Accept a call as a task of the context that will run it."""
    fn, positional, keywords = args
    return engine.accept(_run_packed, (fn, pack(fn, positional, keywords or {})), make)


@wrapper
def _run_packed(context: Any, fn: Callable[..., Any], packed: Any) -> Any:
    return context.run(packed)


def _log_failure() -> None:
    with contextlib.suppress(BaseException):
        # a handler is the user's, and may raise
        LOGGER.critical("Exception in initializer:", exc_info=True)


def _nothing(*resource: object) -> None:
    pass

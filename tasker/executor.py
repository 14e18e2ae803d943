"""`concurrent.futures.ThreadPoolExecutor`s on workers of tasker's.

`CallExecutor` turns calls into tasks. A task is `_call(resource, fn, args, kwargs)`:
one plain function for all calls, which the engine remembers. Subclasses add how a task
is accepted (`_accept_task`).

They are subclasses of the standard class because programs ask for that, and then use
what it has (see `standard`): its `submit`, which instrumentation may have replaced, and
its private attributes. Users' subclasses have attributes of their own. So those here
have names that they would hardly take.

`ManagerExecutor` is a view of a manager's workers. A submitter and a thread that closes
the view share no lock, because accepting a task may run code of the user's (a
collector) and may block (a bounded queue). A submitter announces itself in `_entering`,
then looks at `_closed` (R1). It puts the future into `_futures` before it takes the
announcement back. The closing thread sets `_closed`, then waits for the submitters that
other threads have announced, then for the futures. (An announcement of its own is of a
submission that a signal handler has interrupted.) So a submission that began before the
closing is waited for, and none that begins later is accepted.

`map` keeps its submitted tasks in a deque. Its iterator takes them from the left, and
cancels those that are left when it fails or is closed. It calls `submit` only where
that is not the method here: a subclass's, one that was assigned, or that of
instrumentation.
"""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from itertools import islice, starmap
from operator import attrgetter
from threading import get_ident
from types import BuiltinFunctionType, FunctionType, MappingProxyType, MethodType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar

from tasker._base.callables import DEFERRED, deferred_kind
from tasker._sync.clock import monotonic
from tasker._sync.interrupts import deliver_later
from tasker._sync.parking import Parker
from tasker._sync.threads import leave_child
from tasker._tasks import standard
from tasker._tasks.current import current_context, current_worker
from tasker._tasks.future import DoneCallback, TaskFuture, new_task, task_made_of
from tasker._tasks.standard import Standard, StandardParts
from tasker._tasks.wrapping import Progress, unsupervised, users_traceback, wrapper
from tasker.errors import shown
from tasker.window import options_of_chunk

__all__ = ["CallExecutor", "ManagerExecutor", "look"]

P = ParamSpec("P")
T = TypeVar("T")

_AFTER_SHUTDOWN = "cannot schedule new futures after shutdown"


class CallExecutor(StandardParts):
    """An executor whose calls are tasks. Subclasses accept the tasks, and close."""

    # given the function that runs it, its arguments, and the maker of its future
    _accept_task: Callable[..., TaskFuture[Any]]
    # whether an error of a call may break a resource, and so has to reach the worker
    _judges = True

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue the call `fn(*args, **kwargs)` and return its future, a `TaskFuture`,
        at once.

        Blocks only while the queue of a view's manager is bounded and full. Raises
        `TypeError` for what is not callable and for coroutine and generator functions,
        `RuntimeError` after `shutdown()`."""
        # pyright takes any callable for a FunctionType
        if type(fn) is not FunctionType or fn.__code__.co_flags & DEFERRED:  # pyright: ignore
            _check_function(fn)
        if Standard.submit is not _plain and self._is_instrumented():
            return super().submit(fn, *args, **kwargs)

        return self._accept_task(_call, (fn, args, kwargs), new_task)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """An iterator over the results of `fn(*items)`, one item from each of
        `iterables`, in order.

        All calls are submitted at once, before this returns. With a `buffersize` no
        more tasks than that are ahead of the consumer, and the iterables are read as
        results are taken. A task is `chunksize` calls, one after the other. But where
        `submit` is another's, each call is submitted to it by itself, as by the
        standard class.

        `timeout` (seconds, from now on; `None`: no limit) is how long the results may
        take: then the iterator raises `TimeoutError`. It raises what a call raised in
        that call's place, and ends.

        When it fails, is closed (`close()`) or is dropped half-way, the tasks whose
        results were not taken are cancelled. One that is dropped before anything was
        taken cancels nothing: `map` may be called for the effect.

        Raises what `submit` does; `TypeError` or `ValueError` for wrong arguments."""
        _check_function(fn)
        if isinstance(chunksize, bool) or not isinstance(chunksize, int):
            raise TypeError(f"chunksize must be an integer, not {shown(chunksize)}")
        if chunksize < 1:
            raise ValueError(f"chunksize must be 1 or more, not {chunksize}")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")

        deadline = None if timeout is None else monotonic() + timeout
        items = zip(*iterables, strict=False)
        if not self._submits_itself():
            return _results(
                _take_result, (self.submit(fn, *args) for args in items), buffersize, deadline
            )
        if chunksize == 1:
            return _results(_take_result, self._submit_each(fn, items), buffersize, deadline)
        chunks: Results[deque[_Outcome]] = _results(
            _take_chunk, self._submit_chunks(fn, items, chunksize), buffersize, deadline
        )
        return Results(_each_outcome(chunks), chunks.close)

    def _submits_itself(self) -> bool:
        """Whether `self.submit` is the method above, and calls no other."""
        submit: Any = self.submit
        is_ours = (
            type(submit) is MethodType and submit.__func__ is _submit and submit.__self__ is self
        )
        return is_ours and not self._is_instrumented()

    def _is_instrumented(self) -> bool:
        """Whether calls go by what has taken the place of the standard `submit`.

        What instrumentation makes of a function refers to things of this process. So
        calls that leave the process go without it."""
        look()
        return _plain is None and not self._task_engine.packs

    def _submit_each(
        self, fn: Callable[..., T], items: Iterable[tuple[Any, ...]]
    ) -> Iterator[TaskFuture[T]]:
        for args in items:
            yield self._accept_task(_call, (fn, args, None), new_task)

    def _submit_chunks(
        self, fn: Callable[..., Any], items: Iterator[tuple[Any, ...]], size: int
    ) -> Iterator[_Chunk]:
        while calls := tuple(islice(items, size)):
            chunk = _Chunk(calls)
            chunk.future = self._accept_task(_call_each, (fn, self._judges, chunk), new_task)
            yield chunk

    # -- what the standard class, and other programs, ask of it (see `standard`) -------

    def _submit_item(self, item: Any) -> None:
        call = item.task if hasattr(item, "task") else (item.fn, item.args, item.kwargs)
        self._accept_task(_call, tuple(call), functools.partial(task_made_of, item.future))

    def _call_of(self, fn: Any, args: tuple[Any, ...]) -> standard.Call:
        fn, args = unsupervised(fn, args)
        if fn is _call:
            function, positional, keywords = args
            return function, positional, keywords or {}
        function, _, chunk = args
        return list, (starmap(function, chunk.left()),), {}


_submit: Any = CallExecutor.submit
# the standard `submit` itself, if it stood in its place at the last look
_plain: Any = None


def look() -> None:
    """Note whether the standard `submit` has been replaced, or is back."""
    global _plain
    _plain = standard.plain_submit()


class Managed(Protocol):
    """A manager, as seen from here."""

    _engine: Any


class ManagerExecutor(CallExecutor):
    """A manager's workers as a `ThreadPoolExecutor`: made by `TaskManager.executor()`,
    not by users.

    A call does not get the worker's resource as an argument;
    `manager.current_resource()` is it. A call is judged and retried like any task. The
    view keeps its manager, which is not stopped when only its views are left."""

    def __init__(self, manager: Managed, options: Mapping[str, Any] = MappingProxyType({})) -> None:
        self._manager = manager
        self._task_engine = manager._engine
        self._task_options = options
        look()
        self._submit = manager._engine.submit
        self._closed = False
        self._cancels = False
        # submissions under way, each with its thread
        self._entering: dict[DoneCallback, int] = {}
        # accepted and unfinished
        self._futures: set[TaskFuture[Any]] = set()
        self._done = self._futures.discard
        # woken, once closed, when a submission is no longer under way
        self._closers: list[Parker] = []

    def _accept_task(
        self,
        call: Callable[..., Any],
        args: tuple[Any, ...],
        make: Callable[..., TaskFuture[Any]],
    ) -> TaskFuture[Any]:
        done = DoneCallback(self._done)
        options = self._task_options
        if options and call is _call_each:
            options = options_of_chunk(options, len(args[-1].steps))
        future: Any = None

        try:
            self._entering[done] = get_ident()
            if self._closed:
                raise RuntimeError(_AFTER_SHUTDOWN)

            future = self._submit(call, args, options, [done], make)
            self._keep(future)
            self._entered(done)
            return future  # type: ignore[no-any-return]
        except BaseException as error:
            if future is None:
                self._entered(done)
                raise

            if future._refuse():
                self._futures.discard(future)
                self._entered(done)
                raise

            self._keep(future)
            self._entered(done)
            deliver_later(error)
            return future  # type: ignore[no-any-return]

    def _keep(self, future: TaskFuture[Any]) -> None:
        """The task is accepted. May be called again."""
        self._futures.add(future)
        # it may have been settled before it was in the set
        if future._final is not None:
            self._futures.discard(future)
        if self._cancels:
            future._withdraw()

    def _entered(self, done: DoneCallback) -> None:
        """A submission is no longer under way. May be called again."""
        self._entering.pop(done, None)
        if self._closed:
            for closer in self._closers.copy():
                closer.wake()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse new calls from now on; the manager stays open.

        `cancel_futures`: cancel this view's calls that have not started. `wait`: return
        when all calls of this view have ended, however long that takes.

        In a task it does not wait for submissions that other threads are in the middle
        of, and raises `PoolDeadlockError` if the wait could never end, as in one of the
        view's own calls. In a signal handler it does not wait for a submission that
        this has interrupted. If the handler has interrupted this thread while others
        need what it holds (a lock of tasker's), it does not wait at all."""
        self._closed = True
        # In a forked child: the calls end in the parent.
        if self._task_engine.orphaned is not None:
            return

        if cancel_futures:
            self._cancels = True
            for future in self._futures.copy():
                future._withdraw()
        if not wait:
            return

        if current_worker() is None:
            if self._task_engine.tasks_need_this_thread():
                return
            self._wait_for_submissions()

        while self._futures:
            for future in self._futures.copy():
                _wait(future)
                self._futures.discard(future)

    def _wait_for_submissions(self) -> None:
        """Wait for other threads' submissions that began before the closing."""
        thread, parker = get_ident(), Parker()

        self._closers.append(parker)  # then look (R1)
        try:
            while any(submitter != thread for submitter in self._entering.copy().values()):
                parker.sleep()
        finally:
            self._closers.remove(parker)

    def _waiting_tasks(self) -> list[TaskFuture[Any]]:
        waiting = [future for future in self._futures.copy() if future._waits_for_start()]
        return sorted(waiting, key=attrgetter("_queued_at"))

    def _count_waiting_tasks(self) -> int:
        return sum(future._waits_for_start() for future in self._futures.copy())

    # type checkers see the attributes of the standard class
    if not TYPE_CHECKING:

        @property
        def _max_workers(self) -> int:
            crew = self._task_engine.crew
            return crew.most if self._task_engine.housekeeper.scales else crew.base

        @_max_workers.setter
        def _max_workers(self, number: object) -> None:
            raise AttributeError(
                "_max_workers of a manager's executor cannot be set: give Config max_worker_count"
            )

        @property
        def _broken(self) -> bool:
            return False

        @property
        def _shutdown(self) -> bool:
            return self._closed or self._task_engine.is_stopping()


@wrapper
def _call(
    resource: Any, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any] | None
) -> T:
    return fn(*args, **kwargs) if kwargs else fn(*args)


_Outcome = tuple[Any, BaseException | None]


class _Chunk(Progress):
    """Several calls that are one task; the results are their outcomes."""

    future: TaskFuture[None]

    def arguments(self) -> Sequence[Any]:
        return [each for call in self.left()[:1] for each in call]


@wrapper
def _call_each(resource: Any, fn: Callable[..., Any], judged: bool, chunk: Progress) -> None:
    """Make the calls of a chunk.

    A call that raises ends it if the worker is to judge the error. Where that leads to
    another attempt, it goes on with that call."""
    context = current_context()
    for args in chunk.left():
        if context.cancelled():  # the rest is not wanted
            return

        try:
            outcome: _Outcome = fn(*args), None
        except BaseException as error:
            if judged:
                raise
            leave_child(error)
            outcome = None, error.with_traceback(users_traceback(error.__traceback__))
        chunk.note(outcome)
        del outcome


class Results(Generic[T], Iterator[T]):
    """The iterator of `map`. It can be closed before it was ever asked."""

    def __init__(self, results: Generator[T, None, None], cancel: Callable[[], object]) -> None:
        self._results = results
        self._cancel = cancel

    def __next__(self) -> T:
        return next(self._results)

    def close(self) -> None:
        """End the iteration, and cancel the tasks whose results were not taken."""
        self._results.close()
        self._cancel()


def _results(
    take: Callable[[deque[Any], Iterator[Any], float | None], T],
    submissions: Iterator[Any],
    buffersize: int | None,
    deadline: float | None,
) -> Results[T]:
    tasks: deque[Any] = deque()
    results = Results(_in_order(take, tasks, submissions, deadline), lambda: _give_up(tasks))
    try:
        tasks.extend(islice(submissions, buffersize))
    except BaseException:
        # an iterable's own, refused, or Ctrl-C: these results will not be asked for
        results.close()
        raise

    return results


def _in_order(
    take: Callable[[deque[Any], Iterator[Any], float | None], T],
    tasks: deque[Any],
    submissions: Iterator[Any],
    deadline: float | None,
) -> Generator[T, None, None]:
    try:
        while tasks:
            # no variable: the result is the consumer's alone
            yield take(tasks, submissions, deadline)
    finally:
        _give_up(tasks)


def _take_result(
    tasks: deque[TaskFuture[T]], submissions: Iterator[TaskFuture[T]], deadline: float | None
) -> T:
    # It stays there until it has an outcome, to be cancelled if it takes too long.
    future = tasks[0]

    try:
        result = future.result(_remaining(deadline))
        tasks.popleft()
        tasks.extend(islice(submissions, 1))
        return result
    finally:
        # the exception's traceback holds this frame (R4)
        del future


def _take_chunk(
    tasks: deque[_Chunk], submissions: Iterator[_Chunk], deadline: float | None
) -> deque[_Outcome]:
    chunk = tasks[0]
    error = chunk.future.exception(_remaining(deadline))
    # its exception's traceback leads to the chunk (R4)
    del chunk.future
    tasks.popleft()

    if error is None:
        tasks.extend(islice(submissions, 1))
    else:
        chunk.results.append((None, error))

    return chunk.results


def _each_outcome(chunks: Results[deque[_Outcome]]) -> Generator[Any, None, None]:
    try:
        for outcomes in chunks:
            while outcomes:
                if outcomes[0][1] is None:
                    yield outcomes.popleft()[0]
                else:
                    raise _popped_error(outcomes)
    finally:
        chunks.close()


def _popped_error(outcomes: deque[_Outcome]) -> BaseException:
    error = outcomes.popleft()[1]
    assert error is not None
    return error


def _give_up(tasks: deque[Any]) -> None:
    """Cancel the tasks whose results will not be asked for."""
    while tasks:
        task = tasks.popleft()

        if isinstance(task, _Chunk):
            # if it runs it ends with the call that it is in
            task = task.future
        if not task.cancel() and isinstance(task, TaskFuture):
            # that it failed is not worth a line in the log
            task._see()


def _remaining(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - monotonic())


def _wait(future: TaskFuture[Any]) -> None:
    """Wait for the end of a future.

    It does not ask for the outcome: a failure that was asked for is not logged."""
    with contextlib.suppress(CancelledError):
        future._wait(None)


def _check_function(fn: object) -> None:
    """Raise `TypeError` unless `fn` is callable and its call runs it to its end."""
    called: Any = fn
    while type(called) is functools.partial:
        called = called.func

    if type(called) is MethodType:
        called = called.__func__
    if type(called) is FunctionType:
        if not called.__code__.co_flags & DEFERRED:
            return
    elif type(called) in (BuiltinFunctionType, type) or (callable(fn) and not deferred_kind(fn)):
        return

    if not callable(fn):
        raise TypeError(f"fn must be callable, not {shown(fn)}")

    kind = deferred_kind(fn).split(maxsplit=1)[1]
    if kind == "coroutine function":
        advice = "as workers are threads: submit(asyncio.run, fn(...)), or await it where you are"
    else:
        advice = "as its body would run later, where its items are asked for: return a list"
    raise TypeError(f"fn must not be the {kind} {shown(fn)}, {advice}")

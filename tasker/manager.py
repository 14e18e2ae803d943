"""`TaskManager`: what users hold. Each method is a line or two over the engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from datetime import timedelta
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    NoReturn,
    Self,
    TypeVar,
    TypeVarTuple,
    Unpack,
    overload,
)

from tasker._pool.aborting import AbortingEngine
from tasker._pool.closing import KILL_TIMEOUT_S
from tasker._pool.engine import Engine
from tasker._tasks.context import Context
from tasker._tasks.future import TaskFuture
from tasker.config import Config
from tasker.errors import ConfigError, shown
from tasker.methods import (
    Async,
    Blocking,
    WithCallback,
    async_method,
    blocking_method,
    callback_method,
    given_options,
)
from tasker.placement.base import Threads
from tasker.snapshots import StopReport, TaskMetrics, TaskStats

if TYPE_CHECKING:
    from tasker.executor import ManagerExecutor
    from tasker.methods import SubmitOptions
    from tasker.stream import TaskStream
    from tasker.window import MapOptions, Plan

__all__ = ["TaskManager"]

# `executor()` needs it, and once the interpreter ends it cannot be imported any more
__import__("concurrent.futures.thread")

R = TypeVar("R")
T = TypeVar("T")
I = TypeVar("I")  # noqa: E741  # an item
Ts = TypeVarTuple("Ts")


class TaskManager(Generic[R]):
    """Runs tasks on workers that each own a resource of type `R`.

    The constructor starts the workers and returns without waiting for their resources
    (`wait_ready()` does). Leaving the `with` block stops the manager; leaving it by
    `KeyboardInterrupt` or `SystemExit` kills it. A manager that is forgotten is stopped
    when it is collected. All managers are stopped at interpreter exit: they get 5
    seconds to drain, then they are killed.

    A manager is never collected if its own config refers to it (by a hook that is a
    method of the object that has it, say), because its workers need that. Stop it; then
    it is.

    Raises `ConfigError` where it gets no `Config`, and `ResourceCreationError` when
    `resource_pool_size` is a number and a resource cannot be made."""

    def __init__(self, config: Config[R]) -> None:
        if not isinstance(config, Config):
            raise ConfigError(f"config must be a Config, not {shown(config)}")

        self._engine: Engine[R] = _new_engine(config)
        self._submit, self._submit_asked = self._engine.submit, self._engine.submit_asked
        self._engine.stop_without(self)

    # -- submitting --------------------------------------------------------------------

    @overload
    def submit(
        self, fn: Callable[[R], T], /, **options: Unpack[SubmitOptions]
    ) -> TaskFuture[T]: ...
    @overload
    def submit(
        self, fn: Callable[[Context, R], T], /, **options: Unpack[SubmitOptions]
    ) -> TaskFuture[T]: ...
    @overload
    def submit(
        self, fn: Callable[[R, *Ts], T], /, *args: *Ts, **options: Unpack[SubmitOptions]
    ) -> TaskFuture[T]: ...
    @overload
    def submit(
        self, fn: Callable[[Context, R, *Ts], T], /, *args: *Ts, **options: Unpack[SubmitOptions]
    ) -> TaskFuture[T]: ...
    def submit(
        self, fn: Callable[..., Any], /, *args: object, **options: Unpack[SubmitOptions]
    ) -> TaskFuture[Any]:
        """Queue `fn(resource, *args)`, or `fn(context, resource, *args)` if `fn` asks
        for a context.

        It asks by its first parameter: named `ctx` or `context` (or `_ctx`,
        `_context`), or annotated `Context`. It must also be able to take one argument
        more than it is given. A decorator's wrapper that begins with `*args` is asked
        for the function that it wraps.

        - `priority`: in the lane that workers look at first.
        - `once`: never retried, even when its resource breaks.
        - `timeout`: seconds for waiting and running together. When they end the future
          fails with `TaskTimeoutError`. A waiting task then never starts, and a running
          one has its context cancelled.
        - `run_timeout`: seconds for running, which each attempt has anew. When they end
          it is as with `timeout`, and there is no other attempt.
        - `ctx`: the parent of the task's context, `current_context()` in a task, say.
          The task has its values (before those of `Config.ctx`) and its deadline, if
          that is earlier. When it is cancelled a waiting task is cancelled, and a
          running one has its context cancelled. When its deadline passes it is as with
          `timeout`. If it is done already, the future that this returns is so, too.
        - `queue_timeout`: seconds to wait for room in a bounded queue (`None`: as long
          as it takes; 0: refuse at once). Nothing else here blocks.

        A time may be a `timedelta`, too. `None` for one means the default of `Config`
        (`timeout`, `run_timeout`), and `math.inf` no limit. The task is accepted if and
        only if this returns. Raises

        - `TypeError` when `fn` lacks an argument or gets one too many, and for
          coroutine and generator functions;
        - `ConfigError` for a wrong time, flag or context;
        - `QueueFullError` without room (at once in one of the manager's own tasks);
        - `PoolDeadlockError` in a task when there could never be room;
        - `TaskManagerShutdownError` when the manager is stopping or closed.

        Warns where an option is given and `fn` has a parameter of that name of its own,
        which gets nothing: once for each function."""
        if options:
            return self._submit(fn, args, given_options(fn, args, options))

        return self._submit(fn, args, options)

    queue_task: Blocking[R] = blocking_method("queue_task")
    queue_task_with_callback: WithCallback[R] = callback_method("queue_task_with_callback")
    queue_task_async: Async[R] = async_method("queue_task_async")

    queue_task_once: Blocking[R] = blocking_method("queue_task_once", once=True)
    queue_task_once_with_callback: WithCallback[R] = callback_method(
        "queue_task_once_with_callback", once=True
    )
    queue_task_once_async: Async[R] = async_method("queue_task_once_async", once=True)

    queue_task_with_priority: Blocking[R] = blocking_method(
        "queue_task_with_priority", priority=True
    )
    queue_task_with_priority_with_callback: WithCallback[R] = callback_method(
        "queue_task_with_priority_with_callback", priority=True
    )
    queue_task_with_priority_async: Async[R] = async_method(
        "queue_task_with_priority_async", priority=True
    )

    queue_task_with_priority_once: Blocking[R] = blocking_method(
        "queue_task_with_priority_once", priority=True, once=True
    )
    queue_task_with_priority_once_with_callback: WithCallback[R] = callback_method(
        "queue_task_with_priority_once_with_callback", priority=True, once=True
    )
    queue_task_with_priority_once_async: Async[R] = async_method(
        "queue_task_with_priority_once_async", priority=True, once=True
    )

    @overload
    def run_task(
        self, fn: Callable[[R], T], /, *, queue_timeout: float | timedelta | None = None
    ) -> T: ...
    @overload
    def run_task(
        self, fn: Callable[[Context, R], T], /, *, queue_timeout: float | timedelta | None = None
    ) -> T: ...
    @overload
    def run_task(
        self,
        fn: Callable[[R, *Ts], T],
        /,
        *args: *Ts,
        queue_timeout: float | timedelta | None = None,
    ) -> T: ...
    @overload
    def run_task(
        self,
        fn: Callable[[Context, R, *Ts], T],
        /,
        *args: *Ts,
        queue_timeout: float | timedelta | None = None,
    ) -> T: ...
    def run_task(
        self,
        fn: Callable[..., Any],
        /,
        *args: object,
        queue_timeout: float | timedelta | None = None,
    ) -> Any:
        """Run a task here and now, in the calling thread, and return its result.

        Its resource is a pooled or a temporary one. It never waits behind the queue.
        Its errors are judged for health like any task's (a broken resource is not
        kept), but it is never retried. Where `run_task_limit` callers are in it
        already it waits for its turn, `queue_timeout` seconds at most (`None`: as long
        as it takes; 0: not at all).

        Raises the task's own exception, and

        - `ResourceCreationError` when a resource is needed and cannot be made;
        - `TypeError` as `submit` does;
        - `QueueFullError` when its turn has not come in time;
        - `PoolDeadlockError` in a task when its turn could never come;
        - `TaskManagerShutdownError` when the manager is stopping or closed, or stops
          while it waits."""
        if queue_timeout is None and not self._engine.turns.limited:
            return self._engine.run_task(fn, args)

        return self._engine.run_in_turn(fn, args, queue_timeout)

    def current_resource(self) -> R:
        """The resource of the task that the calling thread runs: for code that the
        task's function calls.

        Of tasks within tasks the innermost counts. Use it while the task runs and in
        its thread, not later. Raises `RuntimeError` outside of this manager's tasks.
        Never blocks."""
        return self._engine.current_resource()

    @overload
    def map(
        self,
        fn: Callable[[R, I], T],
        items: Iterable[I],
        *,
        return_exceptions: Literal[False] = False,
        **options: Unpack[MapOptions],
    ) -> TaskStream[T]: ...
    @overload
    def map(
        self,
        fn: Callable[[Context, R, I], T],
        items: Iterable[I],
        *,
        return_exceptions: Literal[False] = False,
        **options: Unpack[MapOptions],
    ) -> TaskStream[T]: ...
    @overload
    def map(
        self,
        fn: Callable[[R, I], T],
        items: Iterable[I],
        *,
        return_exceptions: bool,
        **options: Unpack[MapOptions],
    ) -> TaskStream[T | BaseException]: ...
    @overload
    def map(
        self,
        fn: Callable[[Context, R, I], T],
        items: Iterable[I],
        *,
        return_exceptions: bool,
        **options: Unpack[MapOptions],
    ) -> TaskStream[T | BaseException]: ...
    def map(
        self,
        fn: Callable[..., Any],
        items: Iterable[Any],
        *,
        max_in_flight: int | None = None,
        ordered: bool = True,
        timeout: float | timedelta | None = None,
        run_timeout: float | timedelta | None = None,
        return_exceptions: bool = False,
        chunksize: int = 1,
        priority: bool = False,
        once: bool = False,
        ctx: Context | None = None,
    ) -> TaskStream[Any]:
        """Run `fn(resource, item)`, or `fn(context, resource, item)`, for each item; an
        iterator over the results.

        - `max_in_flight`: how many items are taken and not yet handed out, at most
          (`None`: 4 times the most workers, times `chunksize`). This window is filled
          now, and again whenever a result is asked for. So `items` may be endless, and
          memory stays flat.
        - `ordered`: results in the order of the items; else as they come.
        - `timeout`: seconds for an item, waiting and running. A chunk has them for each
          of its items. So it is with `run_timeout`.
        - `return_exceptions`: an item's exception is handed out in the place of its
          result; else it is raised there and ends the stream.
        - `chunksize`: so many items make one task, which counts once in the metrics.
          For many tiny items, 10 or 100.
        - `priority`, `once` and `ctx`: as for `submit`. The stream ends with the error
          of the first item that `ctx` has ended.

        An error of the input is raised after the results of the items that were taken
        before. Ending the stream, by closing or forgetting it or by an exception,
        cancels what is in flight.

        Blocks only where the bounded queue is full; asking for results blocks. Raises
        what `submit` does, and `TypeError` when `items` is not iterable."""
        from tasker.stream import new_stream

        plan = self._plan(
            fn,
            max_in_flight=max_in_flight,
            ordered=ordered,
            timeout=timeout,
            run_timeout=run_timeout,
            return_exceptions=return_exceptions,
            chunksize=chunksize,
            priority=priority,
            once=once,
            ctx=ctx,
        )
        return new_stream(plan, items)

    def _plan(self, fn: Callable[..., Any], **arguments: Any) -> Plan:
        from tasker.window import new_plan

        for name in ("timeout", "run_timeout"):
            if arguments[name] is None:
                arguments[name] = getattr(self._engine.config, name)

        return new_plan(self, self._submit_asked, self._engine.crew.most, fn, **arguments)

    def executor(
        self,
        *,
        timeout: float | timedelta | None = None,
        run_timeout: float | timedelta | None = None,
        priority: bool = False,
        once: bool = False,
        ctx: Context | None = None,
    ) -> ManagerExecutor:
        """A `ThreadPoolExecutor` on these workers, for code that wants one.

        It calls `fn(*args, **kwargs)`; inside, `current_resource()` is the worker's
        resource. Submitting blocks while a bounded queue is full, and raises
        `TaskManagerShutdownError` when the manager is stopping or closed. The options
        are those of `submit` for each of its calls, times in seconds. In the view's
        `map` a chunk has the times of all its calls.

        Each view closes by itself. Shutting it down, or leaving its `with` block, waits
        for its own calls (or cancels them) and leaves the manager open. A view keeps
        the manager from being collected. Raises `ConfigError` for a wrong time, flag or
        context."""
        from tasker.executor import ManagerExecutor
        from tasker.window import checked_options

        config = self._engine.config
        options = checked_options(
            timeout=config.timeout if timeout is None else timeout,
            run_timeout=config.run_timeout if run_timeout is None else run_timeout,
            priority=priority,
            once=once,
            ctx=ctx,
        )
        return ManagerExecutor(self, options)

    # -- in asyncio --------------------------------------------------------------------

    @overload
    async def asubmit(self, fn: Callable[[R], T], /, **options: Unpack[SubmitOptions]) -> T: ...
    @overload
    async def asubmit(
        self, fn: Callable[[Context, R], T], /, **options: Unpack[SubmitOptions]
    ) -> T: ...
    @overload
    async def asubmit(
        self, fn: Callable[[R, *Ts], T], /, *args: *Ts, **options: Unpack[SubmitOptions]
    ) -> T: ...
    @overload
    async def asubmit(
        self, fn: Callable[[Context, R, *Ts], T], /, *args: *Ts, **options: Unpack[SubmitOptions]
    ) -> T: ...
    async def asubmit(
        self,
        fn: Callable[..., Any],
        /,
        *args: object,
        priority: bool = False,
        once: bool = False,
        timeout: float | timedelta | None = None,
        run_timeout: float | timedelta | None = None,
        queue_timeout: float | timedelta | None = None,
        ctx: Context | None = None,
    ) -> Any:
        """Await a task's result: `submit` for asyncio.

        Where the queue is bounded it awaits room, `queue_timeout` seconds at most,
        without blocking the loop or needing a thread. Cancelling it empties the place
        of a waiting task; a running one has its context cancelled.

        Raises the task's own exception, or what `submit` raises."""
        from tasker import aio  # which imports asyncio

        options: dict[str, Any] = {}
        if (
            priority is not False
            or once is not False
            or timeout is not None
            or run_timeout is not None
            or queue_timeout is not None
            or ctx is not None
        ):
            options = given_options(
                fn,
                args,
                {
                    "priority": priority,
                    "once": once,
                    "timeout": timeout,
                    "run_timeout": run_timeout,
                    "queue_timeout": queue_timeout,
                    "ctx": ctx,
                },
            )
        return await aio.submit(self._engine, fn, args, options)

    @overload
    def amap(
        self,
        fn: Callable[[R, I], T],
        items: Iterable[I] | AsyncIterable[I],
        *,
        return_exceptions: Literal[False] = False,
        **options: Unpack[MapOptions],
    ) -> AsyncGenerator[T, None]: ...
    @overload
    def amap(
        self,
        fn: Callable[[Context, R, I], T],
        items: Iterable[I] | AsyncIterable[I],
        *,
        return_exceptions: Literal[False] = False,
        **options: Unpack[MapOptions],
    ) -> AsyncGenerator[T, None]: ...
    @overload
    def amap(
        self,
        fn: Callable[[R, I], T],
        items: Iterable[I] | AsyncIterable[I],
        *,
        return_exceptions: bool,
        **options: Unpack[MapOptions],
    ) -> AsyncGenerator[T | BaseException, None]: ...
    @overload
    def amap(
        self,
        fn: Callable[[Context, R, I], T],
        items: Iterable[I] | AsyncIterable[I],
        *,
        return_exceptions: bool,
        **options: Unpack[MapOptions],
    ) -> AsyncGenerator[T | BaseException, None]: ...
    def amap(
        self,
        fn: Callable[..., Any],
        items: Iterable[Any] | AsyncIterable[Any],
        *,
        max_in_flight: int | None = None,
        ordered: bool = True,
        timeout: float | timedelta | None = None,
        run_timeout: float | timedelta | None = None,
        return_exceptions: bool = False,
        chunksize: int = 1,
        priority: bool = False,
        once: bool = False,
        ctx: Context | None = None,
    ) -> AsyncGenerator[Any, None]:
        """`map` for asyncio: `async for result in manager.amap(fn, items)`.

        It has the same arguments, rules and errors. `items` may be asynchronous: then
        awaiting one holds up no result. Others are asked for items in the loop's
        thread. The window is filled when the first result is asked for. Where the queue
        is bounded it awaits room.

        Cancelling the consumer, or `aclose()`, cancels what is in flight and waits for
        the input to notice. A loop that is left by `break` does so when its generator
        is collected, as with any other."""
        from tasker import aio  # which imports asyncio

        plan = self._plan(
            fn,
            max_in_flight=max_in_flight,
            ordered=ordered,
            timeout=timeout,
            run_timeout=run_timeout,
            return_exceptions=return_exceptions,
            chunksize=chunksize,
            priority=priority,
            once=once,
            ctx=ctx,
        )
        return aio.results(self._engine, plan.without_waiting_for_room(), aio.items_of(items))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop, or kill when left by an interrupt or a cancellation.

        Does not block the loop."""
        from tasker import aio  # which imports asyncio

        engine = self._engine

        inside = engine.closing_needs_this_thread()
        await aio.close(
            engine.lifecycle,
            kind,
            engine.begin_stop,
            kill_timeout=KILL_TIMEOUT_S,
            from_inside=inside,
        )

    # -- waiting -----------------------------------------------------------------------

    def join(self, timeout: float | timedelta | None = None) -> bool:
        """Wait until no accepted task waits or runs, without closing; `False` after
        `timeout` seconds.

        Raises `ConfigError` for a wrong time. Raises `PoolDeadlockError` in one of the
        manager's own tasks, which would wait for itself, and without a timeout in a
        task of another manager if the wait could never end."""
        return self._engine.watchers.join(timeout)

    def wait_ready(self, timeout: float | timedelta | None = None) -> bool:
        """Wait until the base workers hold resources.

        `False` after `timeout` seconds, when closing begins, or when it is known that
        no resource can be made. Raises `ConfigError` for a wrong time. Without a
        timeout, raises `PoolDeadlockError` in a task or hook that they wait for."""
        return self._engine.watchers.wait_ready(timeout)

    # -- looking -----------------------------------------------------------------------

    def stats(self) -> TaskStats:
        """The state at this moment. Never blocks or raises."""
        return self._engine.stats()

    def metrics(self) -> TaskMetrics:
        """What the collector returns, or the built-in figures.

        Costs the same after ten tasks and after ten million."""
        return self._engine.metrics()

    @property
    def closed(self) -> bool:
        """Whether the manager has closed: nothing of it runs any more, and `stop()`
        would return its report at once. Never blocks or raises.

        It is still `False` while the manager stops or is killed, although nothing is
        accepted any more. After a kill, threads may be left behind that could not be
        ended: the report names them. In a forked child it is `True`."""
        return self._engine.lifecycle.has_ended()

    # -- closing -----------------------------------------------------------------------

    def stop(self, timeout: float | timedelta | None = None) -> StopReport:
        """Refuse new tasks, finish all accepted ones, destroy all resources, end all
        threads; then return.

        When that takes longer than `timeout` seconds it goes on as `kill()` does. May
        be called again, and at the same time as `kill()`.

        Raises `ConfigError` for a wrong time; then it stops nothing. Without a timeout
        and in a task of another manager, raises `PoolDeadlockError` if the wait could
        never end; it goes on stopping all the same.

        Where it would wait for the calling thread itself, it begins to stop and returns
        at once with `drained=False`: in this manager's tasks, in callbacks and hooks
        that its threads run, inside of its `run_task`, and in a signal handler or a
        destructor that has interrupted this thread while others need what it holds (a
        lock of tasker's). Elsewhere it waits, also in a signal handler that has
        interrupted another call of this manager."""
        return self._engine.stop(timeout)

    def kill(self, timeout: float | timedelta = KILL_TIMEOUT_S) -> StopReport:
        """Fail all waiting tasks with `TaskManagerKilledError`, cancel the contexts of
        the running ones, and close.

        Running tasks get `timeout` seconds to notice. Then their futures fail, too, and
        their threads are left behind, named in the report; each destroys its resource
        when its task returns.

        Returns at once where `stop()` does. May be called again, and at the same time
        as `stop()`, which it overtakes. Raises `ConfigError` for a wrong time; then it
        kills nothing."""
        return self._engine.kill(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None and issubclass(kind, (KeyboardInterrupt, SystemExit)):
            self.kill()
        else:
            self.stop()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a TaskManager cannot be pickled: tasks in other processes cannot submit to it"
        )

    def __repr__(self) -> str:
        stats, state = self.stats(), self._engine.lifecycle.name()
        waiting = stats.queued_tasks + stats.priority_tasks

        return (
            f"<TaskManager {self._engine.name!r} {state}: {stats.active_workers} workers, "
            f"{waiting} waiting, {stats.running_tasks} running>"
        )


def _new_engine(config: Config[R]) -> Engine[R]:
    """An engine for where the resources of this configuration live."""
    if isinstance(config.placement, Threads):
        return Engine(config) if config.on_abort is None else AbortingEngine(config)

    from tasker._pool.remote import RemoteEngine

    return RemoteEngine(config)

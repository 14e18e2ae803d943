"""The twelve methods of the Go library, made by three functions, of three protocols.

There are three ways to wait for a task: block, callback, future. Each comes in four
kinds: main lane or priority, retried or once.

The overloads have an order, the resource first. So a type checker prefers
`fn(resource)` over `fn(context, resource)` for a function that could be either. At run
time the first parameter decides, by its name or annotation. Types cannot express a
name. Where there is an annotation, the two agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, TypeVar, TypeVarTuple, Unpack, overload

from tasker._base.callables import check_callable
from tasker._tasks.context import Context
from tasker._tasks.future import DoneCallback, TaskFuture
from tasker._tasks.hints import warn_of_own_parameters
from tasker.errors import name_of

__all__ = [
    "Async",
    "Blocking",
    "WithCallback",
    "async_method",
    "blocking_method",
    "callback_method",
    "given_options",
]

R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Callback = Callable[[T | None, BaseException | None], object]


if TYPE_CHECKING:

    class LimitOptions(TypedDict, total=False):
        """The options of the twelve methods: those of `submit` but the kind of task."""

        timeout: float | timedelta | None
        run_timeout: float | timedelta | None
        queue_timeout: float | timedelta | None
        ctx: Context | None

    class SubmitOptions(LimitOptions, total=False):
        """The options of `TaskManager.submit`."""

        priority: bool
        once: bool


class Blocking(Protocol[R_co]):
    """A method that runs a task and returns its result, or raises its exception."""

    @overload
    def __call__(
        self,
        fn: Callable[[R_co], T],
        /,
        **options: Unpack[LimitOptions],
    ) -> T: ...
    @overload
    def __call__(
        self,
        fn: Callable[[Context, R_co], T],
        /,
        **options: Unpack[LimitOptions],
    ) -> T: ...
    @overload
    def __call__(
        self,
        fn: Callable[[R_co, *Ts], T],
        /,
        *args: *Ts,
        **options: Unpack[LimitOptions],
    ) -> T: ...
    @overload
    def __call__(
        self,
        fn: Callable[[Context, R_co, *Ts], T],
        /,
        *args: *Ts,
        **options: Unpack[LimitOptions],
    ) -> T: ...


class WithCallback(Protocol[R_co]):
    """A method that returns at once. `callback(result, error)` is called when the task
    has ended; one of the two is None."""

    @overload
    def __call__(
        self,
        fn: Callable[[R_co], T],
        callback: Callback[T],
        /,
        **options: Unpack[LimitOptions],
    ) -> None: ...
    @overload
    def __call__(
        self,
        fn: Callable[[Context, R_co], T],
        callback: Callback[T],
        /,
        **options: Unpack[LimitOptions],
    ) -> None: ...
    @overload
    def __call__(
        self,
        fn: Callable[[R_co, *Ts], T],
        callback: Callback[T],
        /,
        *args: *Ts,
        **options: Unpack[LimitOptions],
    ) -> None: ...
    @overload
    def __call__(
        self,
        fn: Callable[[Context, R_co, *Ts], T],
        callback: Callback[T],
        /,
        *args: *Ts,
        **options: Unpack[LimitOptions],
    ) -> None: ...


class Async(Protocol[R_co]):
    """A method that returns a `TaskFuture` at once."""

    @overload
    def __call__(
        self,
        fn: Callable[[R_co], T],
        /,
        **options: Unpack[LimitOptions],
    ) -> TaskFuture[T]: ...
    @overload
    def __call__(
        self,
        fn: Callable[[Context, R_co], T],
        /,
        **options: Unpack[LimitOptions],
    ) -> TaskFuture[T]: ...
    @overload
    def __call__(
        self,
        fn: Callable[[R_co, *Ts], T],
        /,
        *args: *Ts,
        **options: Unpack[LimitOptions],
    ) -> TaskFuture[T]: ...
    @overload
    def __call__(
        self,
        fn: Callable[[Context, R_co, *Ts], T],
        /,
        *args: *Ts,
        **options: Unpack[LimitOptions],
    ) -> TaskFuture[T]: ...


def blocking_method(name: str, *, priority: bool = False, once: bool = False) -> Any:
    kind = _flags(priority, once)

    def method(
        self: Any,
        fn: Callable[..., Any],
        /,
        *args: object,
        timeout: float | timedelta | None = None,
        run_timeout: float | timedelta | None = None,
        queue_timeout: float | timedelta | None = None,
        ctx: Context | None = None,
    ) -> Any:
        # with a list of what waits, so that to wait takes no lock
        future = self._submit(
            fn, args, _options(fn, args, kind, timeout, run_timeout, queue_timeout, ctx), []
        )
        try:
            return future.result()
        except BaseException:
            # Ctrl-C: it is no longer waited for. A future that is done does not mind.
            future.cancel()
            raise
        finally:
            # the exception's traceback holds this frame (R4)
            del future

    return _named(
        method,
        name,
        f"""Run a task{_kind(priority, once)} and return its result.

        Blocks until the task has ended; raises the task's own exception. `timeout`
        (seconds, waiting and running together) and `run_timeout` (seconds of running)
        end that with `TaskTimeoutError`. On
        Ctrl-C the task is cancelled. Inside of a task it raises `PoolDeadlockError`,
        and cancels the new task, when that could never be served. See `submit` for the
        arguments and other errors.""",
    )


def callback_method(name: str, *, priority: bool = False, once: bool = False) -> Any:
    kind = _flags(priority, once)

    def method(
        self: Any,
        fn: Callable[..., Any],
        callback: Callback[Any],
        /,
        *args: object,
        timeout: float | timedelta | None = None,
        run_timeout: float | timedelta | None = None,
        queue_timeout: float | timedelta | None = None,
        ctx: Context | None = None,
    ) -> None:
        check_callable("callback", callback, 2, given="(result, error)")

        def when_done(done: Future[Any]) -> None:
            callback(*_outcome(done))

        self._submit(
            fn,
            args,
            _options(fn, args, kind, timeout, run_timeout, queue_timeout, ctx),
            [DoneCallback(when_done, callback)],
        )

    return _named(
        method,
        name,
        f"""Queue a task{_kind(priority, once)} and return at once.

        `callback(result, error)` is called once, when the task has ended; one of the
        two is None. It runs in the thread that settles the task, a worker most often;
        what it raises is logged. See `submit` for the arguments and errors: a task that
        is not accepted raises here.""",
    )


def async_method(name: str, *, priority: bool = False, once: bool = False) -> Any:
    kind = _flags(priority, once)

    def method(
        self: Any,
        fn: Callable[..., Any],
        /,
        *args: object,
        timeout: float | timedelta | None = None,
        run_timeout: float | timedelta | None = None,
        queue_timeout: float | timedelta | None = None,
        ctx: Context | None = None,
    ) -> TaskFuture[Any]:
        return self._submit(  # type: ignore[no-any-return]
            fn, args, _options(fn, args, kind, timeout, run_timeout, queue_timeout, ctx)
        )

    return _named(
        method,
        name,
        f"""Queue a task{_kind(priority, once)} and return its `TaskFuture` at once.

        The future can be awaited. See `submit` for the arguments and errors.""",
    )


def _options(
    fn: Callable[..., Any],
    args: tuple[object, ...],
    kind: Mapping[str, Any],
    timeout: float | timedelta | None,
    run_timeout: float | timedelta | None,
    queue_timeout: float | timedelta | None,
    ctx: Context | None,
) -> Mapping[str, Any]:
    if timeout is None and run_timeout is None and queue_timeout is None and ctx is None:
        return kind

    limits = {
        "timeout": timeout,
        "run_timeout": run_timeout,
        "queue_timeout": queue_timeout,
        "ctx": ctx,
    }
    return {**kind, **given_options(fn, args, limits)}


# Each option of a task, with the value that says nothing.
OPTIONS: Mapping[str, object] = {
    "priority": False,
    "once": False,
    "timeout": None,
    "run_timeout": None,
    "queue_timeout": None,
    "ctx": None,
}


def given_options(
    fn: Callable[..., Any], args: tuple[object, ...], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The options of a submission that say something.

    Warns where `fn` may have been meant to get one. Raises `TypeError` for one that
    there is not."""
    for name in options:
        if name not in OPTIONS:
            raise TypeError(
                f"{name}= is no option of a task; there are {', '.join(OPTIONS)}. "
                f"To give {name_of(fn)}() keyword arguments, use functools.partial or a lambda"
            )

    given = {name: value for name, value in options.items() if value is not OPTIONS[name]}
    warn_of_own_parameters(fn, len(args) + 1, given)
    return given


def _flags(priority: bool, once: bool) -> Mapping[str, Any]:
    return {name: True for name, wanted in (("priority", priority), ("once", once)) if wanted}


def _kind(priority: bool, once: bool) -> str:
    lane = " in the priority lane" if priority else ""
    return f"{lane}{' that is never retried' if once else ''}"


def _named(method: Any, name: str, doc: str) -> Any:
    method.__name__ = name
    method.__qualname__ = f"TaskManager.{name}"
    method.__doc__ = doc
    return method


def _outcome(future: Future[Any]) -> tuple[Any, BaseException | None]:
    error = future.exception()
    return (None, error) if error is not None else (future.result(), None)

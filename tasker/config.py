"""`Config`: the settings of a manager, checked field by field at construction."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, Unpack, cast

from tasker import checks
from tasker._base.callables import check_callable, deferred_kind
from tasker._base.record import Record, field
from tasker._sync.locks import new_lock
from tasker._tasks import current
from tasker._tasks.context import Context, background, check_context
from tasker._tasks.hooks import check_maker, takes_resource
from tasker._tasks.unrun import maker_kind, refuse
from tasker.errors import ConfigError, is_a, shown
from tasker.logger import Logger
from tasker.placement.base import Placement, Threads
from tasker.slot import Slot
from tasker.snapshots import MetricsCollector

__all__ = ["Config", "unhealthy_on"]

R = TypeVar("R")
T = TypeVar("T")

_LOGGER_METHODS = ("debug", "info", "warning", "error")
_COLLECTOR_METHODS = (
    "record_arrival",
    "record_completion",
    "record_failure",
    "record_retry",
    "metrics",
)


def always_healthy(_: Exception) -> bool:
    """The default `check_health`: no error breaks a resource."""
    return True


if TYPE_CHECKING:

    class ConfigOptions(TypedDict, Generic[R], total=False):
        """The fields of `Config` that have defaults, with the same meanings."""

        name: str
        ctx: Context
        check_health: Callable[[Exception], bool] | Callable[[Exception, R], bool]
        on_check: Callable[[R], object] | None
        check_after: float | timedelta | None
        keepalive: float | timedelta | None
        check_timeout: float | timedelta | None
        on_reset: Callable[[R], object] | None
        on_abort: Callable[[R], object] | None
        abandon_after: float | timedelta | None
        eject_after: int | None
        max_worker_count: int | None
        burst_interval: float | timedelta
        max_retries: int
        create_timeout: float | timedelta
        timeout: float | timedelta | None
        run_timeout: float | timedelta | None
        resource_pool_size: int | None
        run_task_limit: int | None
        logger: Logger
        collector: MetricsCollector | None
        burst_task_threshold: int
        burst_worker_count: int
        queue_size: int
        propagate_contextvars: bool
        placement: Placement


class Config(Record, Generic[R]):
    """The settings of a `TaskManager`, in the type `R` of its resources.

    It is immutable and takes keywords alone; `dataclasses.replace` makes variants. It
    can be copied, deeply too, and pickled where its parts can. A copy has the same
    `ctx`. A wrong value raises `ConfigError` (a `ValueError`), which names the field,
    the value and what is allowed. A field keeps the value that was given; the manager
    resolves `None`."""

    on_create: Callable[[], R] | Callable[[Slot], R]
    """Makes a resource, in the thread of the worker that will own it.

    If the function requires an argument, as in `lambda slot: Model(gpu=slot.index)`, it
    gets a `Slot`: which of the manager's resources it makes, and why. For `run_task`
    see `resource_pool_size`."""
    on_destroy: Callable[[R], object]
    """Frees a resource, exactly once and in the same thread.

    An error that it raises is logged, and counted in `StopReport`."""
    worker_count: int
    """Base workers, more than 0.

    As many resources are held as long as the manager runs."""
    name: str = "tasker"
    """Used in thread names, log messages, errors and `repr`."""
    ctx: Context = field(default_factory=background)
    """Cancelling it starts a graceful stop.

    Tasks see its values, not its cancellation or deadline."""
    check_health: Callable[[Exception], bool] | Callable[[Exception, R], bool] = always_healthy
    """`False` means that the error broke the resource. Raising means the same.

    Then the resource is replaced and the task retried. If the function requires two
    arguments, as in `lambda error, conn: not conn.closed`, it is called with the error
    and the resource. Else it is called with the error alone. It runs in the thread that
    has raised the error."""
    on_check: Callable[[R], object] | None = None
    """Shows whether an idle resource is well: `False`, or raising, means that it is
    not.

    Then the resource is replaced, which costs no task an attempt. `False` itself means
    that, no other value. It is called by the resource's owner before a task is taken,
    if the resource was idle for `check_after`. It is also called if another one has
    broken: before each task that the resource takes when it was idle, until a second
    after that, and once more then. A busy pool never calls it."""
    check_after: float | timedelta | None = None
    """Seconds of idleness after which `on_check` is called before the next task.

    `None`: 1 second."""
    keepalive: float | timedelta | None = None
    """Most seconds between two calls of `on_check` while a resource is idle.

    `None`: it is not called as long as there is no task. Each resource has a time of
    its own, up to a fifth shorter, so that not all are checked at the same moment. The
    idle resources of `run_task` are checked by threads that end afterwards. A caller
    does not wait for that: it makes one, if none is left. What a thread keeps for
    itself (see `resource_pool_size`) is checked only when it is borrowed, because no
    other thread may use it."""
    check_timeout: float | timedelta | None = None
    """Seconds that `on_check` may take. `None`: 5 seconds.

    The resource of one that takes longer is not well. A child process or actor is
    killed; elsewhere `on_abort` is called. Until it returns it costs a worker, never a
    task. One of an idle resource of `run_task` costs a thread that nothing waits
    for."""
    on_reset: Callable[[R], object] | None = None
    """Cleans a resource after each task: rolls back, clears cookies.

    It is called by the resource's owner after the outcome of the task is there, and
    before the next task. Raising means that the resource is broken. It is not called
    after a task that broke the resource. In a child process or actor it has
    `create_timeout` seconds, then the place is killed."""
    on_abort: Callable[[R], object] | None = None
    """Makes a running task return, such as `sqlite3.Connection.interrupt`.

    It is called once, from another thread, when the context of the running task ends
    (its timeout, `cancel()`, `kill()`). It also ends an `on_check` that takes too long,
    and an `on_check` or `on_reset` that a `kill()` meets. It may come when the task has
    just returned, never when the next one runs: that waits until it has returned. So it
    must not wait for tasks of this manager. An error that it raises is logged. What the
    task then raises is judged by `check_health` as always. A resource that it breaks is
    replaced at once. With an `on_check` one that it left whole is checked before its
    next task. In a child process or actor it runs there."""
    abandon_after: float | timedelta | None = None
    """Seconds after the end of its context in which a running task has to return.

    The thread of one that does not is abandoned, and another worker is hired in its
    place. If it returns after all, it destroys its resource and ends. At most
    `max_worker_count` are abandoned at a time. `None`: a worker waits for its task for
    ever. It is not for child processes and actors, which are killed."""
    eject_after: int | None = None
    """Failures in a row after which a resource on which tasks fail is replaced.

    That is, tasks whose functions succeed on other resources meanwhile. The row has to
    be longer where they fail there as well now and then, or are hardly known yet. At
    most a tenth of the resources, at least one, is replaced so in 30 seconds. Tasks of
    `run_task` do not count. `None`: no resource is replaced for that reason."""
    max_worker_count: int | None = None
    """Most workers at any time, those still creating included.

    `None`: `worker_count * 2`. With a `burst_task_threshold` it is
    `worker_count + burst_worker_count`."""
    burst_interval: float | timedelta = 0.1
    """Seconds between two scaling decisions.

    0 turns scaling off. Lost workers are still replaced."""
    max_retries: int = 3
    """Most re-queues of one task after unhealthy errors; 0 means none.

    Each attempt after the first runs on a resource that was made after the failure. If
    no resource has broken for a second, one that has passed a check or finished a task
    since then will do as well."""
    create_timeout: float | timedelta = 30.0
    """Seconds in which no worker holds a resource, after which queued tasks fail.

    They fail with `ResourceCreationError`. In that time one worker at a time tries to
    make a resource. When its `on_create` takes longer than this, another one tries,
    too. After as long without a new resource a retry may run on any."""
    timeout: float | timedelta | None = None
    """Seconds: the `timeout` of tasks that are submitted without one. `None`: no limit.

    `math.inf` lifts it for one task."""
    run_timeout: float | timedelta | None = None
    """Seconds: the `run_timeout` of tasks that have none. `None`: no limit.

    It counts from each start of a task. `math.inf` lifts it for one task."""
    resource_pool_size: int | None = None
    """Resources kept for `run_task`.

    `None`: up to `worker_count`, each for the thread that made it, which may be the
    only one that can use it (sqlite3, Playwright). That thread destroys it when it ends
    or stops the manager; the main thread does so at interpreter exit, too. Another
    thread destroys what the manager has to close for other threads, or when it is
    killed.

    A number: they are made by the constructor and shared by all threads, for resources
    that any thread can use (most database connections). 0: none is kept, and each call
    makes, uses and destroys one in the calling thread. Resources elsewhere
    (`placement`), and those of greenlets, are always shared."""
    run_task_limit: int | None = None
    """Most callers of `run_task` at once, and so most resources that they use.

    Others wait for their turn, in the order in which they came. A `run_task` inside of
    another counts, too. Idle resources that are kept for other threads come on top.
    Where `resource_pool_size` is a number, there are never more than the greater of
    both, and those that `keepalive` checks at the moment. `None`: no limit."""
    logger: Logger = field(default_factory=lambda: logging.getLogger("tasker"))
    """Where the manager reports its life, and failures that are not seen elsewhere.

    Its life is info, failures are warnings and errors. Any standard logger fits. The
    project's examples/README.md lists what is logged."""
    collector: MetricsCollector | None = None
    """Receives every task event as well. `None`: the built-in figures alone."""
    burst_task_threshold: int = 0
    """A backlog above it hires `burst_worker_count` at once, every `burst_interval`.

    That is the rule of Go v1. 0: off."""
    burst_worker_count: int = 2
    """How many `burst_task_threshold` hires at once."""
    queue_size: int = 0
    """Most tasks that wait in the two lanes together. 0: no bound.

    Re-queued ones are not counted."""
    propagate_contextvars: bool = True
    """Whether a task sees the context variables (`contextvars`) of its submitter.

    It sees them as they were then. No other code sees what it sets itself, nor does its
    own next attempt. `False`: it sees the variables of its worker's thread, which
    begins with none whichever thread starts it. Filters of warnings are among the
    variables if CPython is asked for that (`-X context_aware_warnings=1`, from 3.14
    on), except in a child, as its process has its own. `run_task` calls in the caller's
    own context."""
    placement: Placement = field(default_factory=Threads)
    """Where the resources live and the tasks run.

    `Threads()`: in this process. `Processes()`: each resource in a child process of its
    own. `Ray()`: each in an actor on a cluster. `on_create`, and all hooks that take
    the resource, run there, too. All else runs here."""

    def __post_init__(self) -> None:
        self._check_hooks()
        self._check_times()
        self._check_counts()

        if not isinstance(self.name, str) or not self.name:
            raise ConfigError(f"name must be a non-empty string, not {shown(self.name)}")
        check_context("ctx", self.ctx)
        checks.flag("propagate_contextvars", self.propagate_contextvars)
        if isinstance(self.placement, type) or not callable(getattr(self.placement, "open", None)):
            raise ConfigError(
                f"placement must be Threads(), Processes() or Ray(), not {shown(self.placement)}"
            )

        _check_methods("logger", self.logger, _LOGGER_METHODS)
        if self.collector is not None:
            _check_methods("collector", self.collector, _COLLECTOR_METHODS, or_none=True)

    def _check_hooks(self) -> None:
        _check_makes("on_create", "a resource", self.on_create, entered=False)
        check_maker("on_create", self.on_create, error=ConfigError)
        _check_callable("on_destroy", self.on_destroy, 1, given="the resource")
        _check_callable(
            "check_health",
            self.check_health,
            2 if takes_resource(self.check_health) else 1,
            given="the error, or with the error and the resource",
        )

        for name in ("on_check", "on_reset", "on_abort"):
            hook = getattr(self, name)
            if hook is not None:
                _check_callable(name, hook, 1, given="the resource", or_none=True)

    def _check_times(self) -> None:
        checks.seconds("burst_interval", self.burst_interval)
        checks.seconds("create_timeout", self.create_timeout, zero=False)

        for name in ("check_after", "keepalive", "check_timeout"):
            value = getattr(self, name)
            if value is not None and self.on_check is None:
                raise ConfigError(
                    f"{name} must be None where there is no on_check, not {shown(value)}"
                )

        if self.check_after is not None:
            checks.seconds("check_after", self.check_after, or_none=True)
        for name in ("keepalive", "check_timeout", "abandon_after", "timeout", "run_timeout"):
            value = getattr(self, name)
            if value is not None:
                checks.seconds(name, value, zero=False, or_none=True)

    def _check_counts(self) -> None:
        for name in ("worker_count", "burst_worker_count"):
            checks.whole_number(name, getattr(self, name), least=1)
        for name in ("max_retries", "burst_task_threshold", "queue_size"):
            checks.whole_number(name, getattr(self, name), least=0)

        optional = {
            "max_worker_count": 1,
            "resource_pool_size": 0,
            "run_task_limit": 1,
            "eject_after": 1,
        }
        for name, least in optional.items():
            value = getattr(self, name)
            if value is not None:
                checks.whole_number(name, value, least=least, or_none=True)

        if self.max_worker_count is not None and self.max_worker_count < self.worker_count:
            raise ConfigError(
                "max_worker_count must be None or at least worker_count "
                f"({self.worker_count}), not {shown(self.max_worker_count)}"
            )

    @classmethod
    def from_context_manager(
        cls,
        factory: Callable[[], AbstractContextManager[T]]
        | Callable[[Slot], AbstractContextManager[T]],
        *,
        worker_count: int,
        **options: Unpack[ConfigOptions[T]],
    ) -> Config[T]:
        """A `Config` whose resources are what `with factory() as resource` yields.

        Entering creates a resource, exiting destroys it. `factory` is called, entered
        and exited in the thread that owns the resource. It gets a `Slot` if it requires
        an argument, as `on_create` does.

        `__exit__` gets the error that broke the resource, as at the end of a `with`
        block. It gets `TaskManagerKilledError` when the manager was killed, and `None`
        at a normal end. For a resource that `run_task` does not keep, it gets what the
        task raised. What `__exit__` returns is ignored: it swallows nothing.

        Every other field goes by name. Raises `ConfigError` as the constructor does."""
        for given in ("on_create", "on_destroy"):
            if given in options:
                raise TypeError(
                    f"from_context_manager() takes no {given}: "
                    "it enters and exits what the factory makes"
                )

        _check_makes("factory", "a context manager", factory, entered=True)
        with_slot = check_maker("factory", factory, error=ConfigError)

        managers = _EnteredManagers[T](factory)

        # `cls` has the R of `Config`, which is unknown here: `factory` decides it.
        made = cast("type[Config[T]]", cls)
        return made(
            on_create=managers.enter_slot if with_slot else managers.enter,
            on_destroy=managers.exit,
            worker_count=worker_count,
            **options,
        )


class _EnteredManagers(Generic[R]):
    """Remembers the context manager of each resource, and the thread that entered it.

    A resource is found by its identity. Several managers may yield the same object
    (`None`, say). Then a thread exits the one that it entered itself. A copy is the
    same object, as `dataclasses.asdict` copies the two hooks of a config separately.
    `_lock` guards the dictionary; no code of the user's runs under it."""

    def __init__(self, factory: Callable[..., AbstractContextManager[R]]) -> None:
        self._factory = factory
        self._entered: dict[int, list[tuple[int, AbstractContextManager[R]]]] = {}
        self._lock = new_lock()

    def __copy__(self) -> _EnteredManagers[R]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> _EnteredManagers[R]:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # In another process it begins with nothing.
        return _EnteredManagers, (self._factory,)

    def enter(self) -> R:
        return self._enter()

    def enter_slot(self, slot: Slot) -> R:
        return self._enter(slot)

    def _enter(self, *slot: Slot) -> R:
        manager = self._factory(*slot)
        refuse("factory", manager)
        resource = manager.__enter__()

        with self._lock:
            self._entered.setdefault(id(resource), []).append((threading.get_ident(), manager))

        return resource

    def exit(self, resource: R) -> None:
        with self._lock:
            entered = self._entered[id(resource)]
            mine = [
                place
                for place, (thread, _) in enumerate(entered)
                if thread == threading.get_ident()
            ]
            _, manager = entered.pop(mine[-1] if mine else -1)
            if not entered:
                del self._entered[id(resource)]

        error = current.thread_state.running.ending
        if error is None:
            manager.__exit__(None, None, None)
            return

        traceback = None
        # An exception may refuse to be looked at.
        with contextlib.suppress(BaseException):
            traceback = error.__traceback__

        try:
            manager.__exit__(type(error), error, traceback)
        except BaseException as raised:
            if raised is not error:
                raise
            with contextlib.suppress(BaseException):
                # Its caller does not see that it came by here.
                error.__traceback__ = traceback
        finally:
            # They may hold this frame (R4).
            del error, traceback


def unhealthy_on(*exception_types: type[BaseException]) -> Callable[[Exception], bool]:
    """A `check_health` for which errors of these types mean a broken resource.

    Subclasses count. Raises `ConfigError` when no type is given or one is not an
    exception type."""
    if not exception_types:
        raise ConfigError("unhealthy_on needs at least one exception type")
    for kind in exception_types:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise ConfigError(f"unhealthy_on takes exception types, not {shown(kind)}")

    # A closure could not be pickled.
    return partial(_is_none_of, exception_types)


def _is_none_of(exception_types: tuple[type[BaseException], ...], error: Exception) -> bool:
    return not is_a(error, exception_types)


_INSTEAD = {
    "generator function": (
        "nobody would run what it makes: decorate it with @contextlib.contextmanager"
    ),
    "@contextmanager function": "nobody would enter what it makes",
    "@asynccontextmanager function": "workers are threads, outside of asyncio",
}


def _check_makes(field_name: str, what: str, value: object, *, entered: bool) -> None:
    """Refuse a function that only makes an object that would have to be run.

    `entered`: a context manager is welcome, as it is entered."""
    kind = maker_kind(value)
    if not kind or (entered and kind == "@contextmanager function"):
        return

    use = (
        ""
        if entered
        else "; Config.from_context_manager(...) enters and exits a context manager "
        "for each resource"
    )

    raise ConfigError(
        f"{field_name} must be a function that makes {what}, not the {kind} {shown(value)}: "
        f"{_INSTEAD[kind]}{use}"
    )


_check_callable = partial(check_callable, thorough=True, error=ConfigError)


def _check_methods(
    field_name: str, value: object, names: tuple[str, ...], *, or_none: bool = False
) -> None:
    missing = [name for name in names if not callable(getattr(value, name, None))]
    if missing:
        wanted = ", ".join(names)
        raise ConfigError(
            f"{field_name} must {'be None or ' if or_none else ''}have the methods {wanted}; "
            f"{shown(value)} lacks {', '.join(missing)}"
        )

    for name in names:
        kind = deferred_kind(getattr(value, name))
        if kind:
            raise ConfigError(
                f"{field_name}.{name} of {shown(value)} must not be {kind}: threads call it, "
                "outside of asyncio, and a call of it runs nothing"
            )

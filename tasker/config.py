"""`Config`: what a manager is made of, checked field by field at construction."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, Unpack, cast

from tasker import checks, current
from tasker.callables import check_callable, deferred_kind
from tasker.context import Context, background
from tasker.errors import ConfigError, shown
from tasker.health import takes_resource
from tasker.locks import new_lock
from tasker.logger import Logger
from tasker.metrics import MetricsCollector
from tasker.placement.base import Placement, Threads
from tasker.record import Record, field
from tasker.unrun import maker_kind, refuse

__all__ = ["Config", "unhealthy_on"]

R = TypeVar("R")
T = TypeVar("T")

_LOGGER_METHODS = ("debug", "info", "warning", "error")
_COLLECTOR_METHODS = ("record_arrival", "record_completion", "record_failure", "record_retry", "metrics")


def every_error_is_healthy(_: Exception) -> bool:
    return True


if TYPE_CHECKING:

    class ConfigOptions(TypedDict, Generic[R], total=False):
        """The fields of `Config` that have defaults, with the same meanings."""

        name: str
        ctx: Context
        check_health: Callable[[Exception], bool] | Callable[[Exception, R], bool]
        max_worker_count: int | None
        burst_interval: float | timedelta
        max_retries: int
        create_timeout: float | timedelta
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

    Immutable and keyword-only; `dataclasses.replace` makes variants. It can be copied, deeply too, and pickled where
    its parts can; a copy has the same `ctx`. A wrong value raises `ConfigError` (a `ValueError`) that names the field,
    the value and what is allowed. Fields keep what was given; the manager resolves `None`."""

    on_create: Callable[[], R]
    """Makes a resource. Runs in the thread of the worker that will own it (for `run_task`: see resource_pool_size)."""
    on_destroy: Callable[[R], object]
    """Frees a resource, exactly once and in the same thread. What it raises is logged and counted in `StopReport`."""
    worker_count: int
    """Base workers, more than 0: as many resources are held as long as the manager runs."""
    name: str = "tasker"
    """Used in thread names, log messages, errors and `repr`."""
    ctx: Context = field(default_factory=background)
    """Cancelling it starts a graceful stop. Tasks see its values, not its cancellation or deadline."""
    check_health: Callable[[Exception], bool] | Callable[[Exception, R], bool] = every_error_is_healthy
    """`False` means that the error broke the resource: it is replaced and the task retried. So does raising.

    Called with the error and the resource, in the thread that has raised the error, if it requires two arguments: as in
    `lambda error, conn: not conn.closed`. Else with the error alone."""
    max_worker_count: int | None = None
    """Most workers at any time, those still creating included. `None`: `worker_count * 2`, or with a
    `burst_task_threshold` `worker_count + burst_worker_count`."""
    burst_interval: float | timedelta = 0.1
    """Seconds between two scaling decisions. 0 turns scaling off; replacement of lost workers goes on."""
    max_retries: int = 3
    """Most re-queues of one task after unhealthy errors; 0 means none."""
    create_timeout: float | timedelta = 30.0
    """Seconds without any worker holding a resource after which queued tasks fail with `ResourceCreationError`."""
    resource_pool_size: int | None = None
    """Resources kept for `run_task`. `None`: up to `worker_count`, each for the thread that made it, which may be the
    only one that can use it (sqlite3, Playwright) and destroys it: when the thread ends or stops the manager, the main
    thread at interpreter exit too. What the manager has to close for other threads, or when it is killed, another
    destroys. A number: made by the constructor and shared by all threads, for resources that any thread can use (most
    database connections). 0: none is kept; each call makes, uses and destroys one in the calling thread. Resources
    elsewhere (`placement`), and those of greenlets, are always shared."""
    run_task_limit: int | None = None
    """Most callers of `run_task` at once, and so most resources that they use; others wait for their turn in the order
    in which they came. A `run_task` inside of another counts, too. Idle resources that are kept for other threads come
    on top; where `resource_pool_size` is a number there are never more than the greater of both. `None`: no limit."""
    logger: Logger = field(default_factory=lambda: logging.getLogger("tasker"))
    """Where the manager's life is told as info, and failures that nobody else would see as warnings and errors; any
    standard logger fits. The README says what is logged."""
    collector: MetricsCollector | None = None
    """Receives every task event as well; `None` means the built-in figures alone."""
    burst_task_threshold: int = 0
    """Go v1's rule: a backlog above it hires `burst_worker_count` at once, every `burst_interval`. 0: off."""
    burst_worker_count: int = 2
    """How many `burst_task_threshold` hires at once."""
    queue_size: int = 0
    """Most tasks that wait in the two lanes together, re-queued ones not counted. 0: no bound."""
    propagate_contextvars: bool = True
    """Whether a task sees the context variables (`contextvars`) of the code that submitted it, as they were then; what
    it sets itself is seen by nobody else, nor by its own next attempt. `False`: it sees those of its worker's thread,
    which begins with none whichever thread starts it. Filters of warnings are among them if CPython is asked for that
    (`-X context_aware_warnings=1`, from 3.14 on), but for a child's: its process has its own. `run_task` calls in the
    caller's own context."""

    placement: Placement = field(default_factory=Threads)
    """Where the resources live and the tasks run: `Threads()`, in this process, `Processes()`, each resource in a
    child process of its own, or `Ray()`, each in an actor on a cluster. `on_create`, `on_destroy` and a `check_health`
    that takes the resource run there too; all else runs here."""

    def __post_init__(self) -> None:
        _check_makes("on_create", "a resource", self.on_create, entered=False)
        _check_callable("on_create", self.on_create, arguments=0)
        _check_callable("on_destroy", self.on_destroy, arguments=1)
        _check_callable(
            "check_health",
            self.check_health,
            arguments=2 if takes_resource(self.check_health) else 1,
            given="the error, or with the error and the resource",
        )
        checks.whole_number("worker_count", self.worker_count, least=1)
        if not isinstance(self.name, str) or not self.name:
            raise ConfigError(f"name must be a non-empty string, not {shown(self.name)}")
        if not isinstance(self.ctx, Context):
            raise ConfigError(f"ctx must be a Context, for example background(), not {shown(self.ctx)}")
        for name in ("max_retries", "burst_task_threshold", "queue_size"):
            checks.whole_number(name, getattr(self, name), least=0)
        checks.whole_number("burst_worker_count", self.burst_worker_count, least=1)
        if self.max_worker_count is not None:
            checks.whole_number("max_worker_count", self.max_worker_count, least=1)
            if self.max_worker_count < self.worker_count:
                raise ConfigError(
                    f"max_worker_count must be None or at least worker_count ({self.worker_count}), "
                    f"not {shown(self.max_worker_count)}"
                )
        if self.resource_pool_size is not None:
            checks.whole_number("resource_pool_size", self.resource_pool_size, least=0)
        if self.run_task_limit is not None:
            checks.whole_number("run_task_limit", self.run_task_limit, least=1)
        checks.flag("propagate_contextvars", self.propagate_contextvars)
        checks.seconds("burst_interval", self.burst_interval)
        checks.seconds("create_timeout", self.create_timeout, zero=False)
        if isinstance(self.placement, type) or not callable(getattr(self.placement, "open", None)):
            raise ConfigError(f"placement must be Threads(), Processes() or Ray(), not {shown(self.placement)}")
        _check_methods("logger", self.logger, _LOGGER_METHODS)
        if self.collector is not None:
            _check_methods("collector", self.collector, _COLLECTOR_METHODS)

    @classmethod
    def from_context_manager(
        cls,
        factory: Callable[[], AbstractContextManager[T]],
        *,
        worker_count: int,
        **options: Unpack[ConfigOptions[T]],
    ) -> Config[T]:
        """A `Config` whose resources are what `with factory() as resource` yields: entering creates, exiting destroys.

        `factory` is called, entered and exited in the thread that owns the resource. `__exit__` gets the error that
        broke the resource, as at the end of a `with` block, `TaskManagerKilledError` when the manager was killed, and
        `None` at a normal end. A resource that `run_task` does not keep gets what its task raised. What `__exit__`
        returns is not looked at: it swallows nothing. Every other field goes by name. Raises `ConfigError` as the
        constructor does."""
        for given in ("on_create", "on_destroy"):
            if given in options:
                raise TypeError(
                    f"from_context_manager() takes no {given}: entering and exiting what the factory makes is that"
                )
        _check_makes("factory", "a context manager", factory, entered=True)
        _check_callable("factory", factory, arguments=0)
        managers = _EnteredManagers(factory)
        made = cast("type[Config[T]]", cls)  # `Config.from_context_manager` says nothing of R: `factory` does
        return made(on_create=managers.enter, on_destroy=managers.exit, worker_count=worker_count, **options)


class _EnteredManagers(Generic[R]):
    """Remembers which context manager a resource came from, by identity, and who entered it.

    Several may yield the same object (`None`, say): then a thread exits the one that it entered itself. A copy is the
    same: `dataclasses.asdict` copies the two hooks of a config apart from each other. `_lock` guards the dictionary;
    nothing of the user's runs under it."""

    def __init__(self, factory: Callable[[], AbstractContextManager[R]]) -> None:
        self._factory = factory
        self._entered: dict[int, list[tuple[int, AbstractContextManager[R]]]] = {}
        self._lock = new_lock()

    def __copy__(self) -> _EnteredManagers[R]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> _EnteredManagers[R]:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _EnteredManagers, (self._factory,)  # elsewhere it begins with nothing

    def enter(self) -> R:
        manager = self._factory()
        refuse("factory", manager)
        resource = manager.__enter__()
        with self._lock:
            self._entered.setdefault(id(resource), []).append((threading.get_ident(), manager))
        return resource

    def exit(self, resource: R) -> None:
        with self._lock:
            entered = self._entered[id(resource)]
            mine = [place for place, (thread, _) in enumerate(entered) if thread == threading.get_ident()]
            _, manager = entered.pop(mine[-1] if mine else -1)
            if not entered:
                del self._entered[id(resource)]
        error = current.here.place.ending
        if error is None:
            manager.__exit__(None, None, None)
            return

        traceback = None
        with contextlib.suppress(BaseException):  # an exception may refuse to be looked at
            traceback = error.__traceback__
        try:
            manager.__exit__(type(error), error, traceback)
        except BaseException as raised:
            if raised is not error:
                raise
            with contextlib.suppress(BaseException):
                error.__traceback__ = traceback  # which its caller sees: not that it came by here
        finally:
            del error, traceback  # which may hold this frame


def unhealthy_on(*exception_types: type[BaseException]) -> Callable[[Exception], bool]:
    """A `check_health` for which errors of these types, subclasses included, mean a broken resource.

    Raises `ConfigError` when no type is given or one is not an exception type."""
    if not exception_types:
        raise ConfigError("unhealthy_on needs at least one exception type")
    for kind in exception_types:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise ConfigError(f"unhealthy_on takes exception types, not {shown(kind)}")

    return partial(_is_none_of, exception_types)  # no closure, which could not be pickled


def _is_none_of(exception_types: tuple[type[BaseException], ...], error: Exception) -> bool:
    return not isinstance(error, exception_types)


_INSTEAD = {
    "generator function": "nobody would run what it makes: decorate it with @contextlib.contextmanager",
    "@contextmanager function": "nobody would enter what it makes",
    "@asynccontextmanager function": "workers are threads, outside of asyncio",
}


def _check_makes(field_name: str, what: str, value: object, *, entered: bool) -> None:
    """Refuse a function that only makes what would have to be run, or `entered`, if it is not to be."""
    kind = maker_kind(value)
    if not kind or (entered and kind == "@contextmanager function"):
        return
    use = "" if entered else "; Config.from_context_manager(...) enters and exits a context manager for each resource"
    raise ConfigError(
        f"{field_name} must be a function that makes {what}, not the {kind} {shown(value)}: {_INSTEAD[kind]}{use}"
    )


def _check_callable(field_name: str, value: object, *, arguments: int, given: str | None = None) -> None:
    check_callable(field_name, value, arguments, given=given, thorough=True, error=ConfigError)


def _check_methods(field_name: str, value: object, names: tuple[str, ...]) -> None:
    missing = [name for name in names if not callable(getattr(value, name, None))]
    if missing:
        wanted = ", ".join(names)
        raise ConfigError(f"{field_name} must have the methods {wanted}; {shown(value)} lacks {', '.join(missing)}")
    for name in names:
        kind = deferred_kind(getattr(value, name))
        if kind:
            raise ConfigError(
                f"{field_name}.{name} of {shown(value)} must not be {kind}: threads call it, outside of asyncio, and a "
                "call of it runs nothing"
            )

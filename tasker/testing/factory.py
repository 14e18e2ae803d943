"""`ResourceFactory`: makes the resources of a manager, and records the life of each.

`_lock` guards the records, the lists and the plans. No code of the user's is called
under it.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from tasker import checks
from tasker._base.callables import GENERATOR, check_callable, deferred_kind
from tasker._base.record import explain_fields
from tasker._tasks.context import Context
from tasker._tasks.current import current_slot
from tasker._tasks.hooks import check_maker
from tasker._tasks.wrapping import wrapper
from tasker.errors import shown
from tasker.slot import Slot

__all__ = ["DummyResource", "ResourceFactory", "ResourceRecord"]

R = TypeVar("R")
T = TypeVar("T")
P = ParamSpec("P")


class DummyResource:
    """A resource that does nothing, for a `ResourceFactory` without `make`."""

    def __init__(self, number: int) -> None:
        self.number = number
        """How many resources were made before it."""
        self.alive: bool = True
        """Whether it has not been destroyed yet."""

    def close(self) -> None:
        """Destroy it."""
        self.alive = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.number}{'' if self.alive else ' destroyed'}>"


@explain_fields
@dataclass(eq=False)
class ResourceRecord(Generic[R]):
    """The life of one resource."""

    number: int
    """How many resources were made before it."""
    resource: R
    """The resource itself."""
    made_in: threading.Thread
    """The thread that made it."""
    used_in: dict[threading.Thread, int] = field(default_factory=dict[threading.Thread, int])
    """How often each thread used it."""
    users: list[threading.Thread] = field(default_factory=list[threading.Thread])
    """The threads that use it now."""
    destroyed_in: threading.Thread | None = None
    """The thread that destroyed it, or is about to; `None` before."""

    def __str__(self) -> str:
        return f"resource {self.number} (made in {self.made_in.name})"


def numbered(make: Callable[[int], T]) -> Callable[[], T]:
    """A function that calls `make` with the number of the call, from 0 on.

    Any threads may call it."""
    lock = threading.Lock()
    calls = 0

    def call() -> T:
        nonlocal calls
        with lock:
            number, calls = calls, calls + 1

        return make(number)

    return call


class ResourceFactory(Generic[R]):
    """Makes and destroys resources, records every use of them, and fails on demand.

        factory = ResourceFactory(
            lambda: sqlite3.connect(path), sqlite3.Connection.close
        )
        config = Config(
            on_create=factory.create, on_destroy=factory.destroy, worker_count=2
        )
        with TaskManager(config) as m:
            m.queue_task(factory.use(my_task))
        factory.check()

    `make` and `free` make and destroy a real resource. If `make` requires an argument,
    it gets the `Slot`, as an `on_create` does. Each call of `make` must return another
    object. Without them the resources are `DummyResource`s. All methods may be called
    from any thread.

    `any_thread` means that a resource may be used and destroyed in another thread than
    the one that made it. So it is with the resources of `run_task` where
    `resource_pool_size` is a number.

    Raises `TypeError` for a `make` or `free` that cannot be called so."""

    @overload
    def __init__(self: ResourceFactory[DummyResource], *, any_thread: bool = False) -> None: ...
    @overload
    def __init__(
        self,
        make: Callable[[], R] | Callable[[Slot], R],
        free: Callable[[R], object] | None = None,
        *,
        any_thread: bool = False,
    ) -> None: ...
    def __init__(
        self,
        make: Callable[[], Any] | Callable[[Slot], Any] | None = None,
        free: Callable[[Any], object] | None = None,
        *,
        any_thread: bool = False,
    ) -> None:
        if make is None:
            make, free = numbered(DummyResource), DummyResource.close
        if free is not None:
            check_callable("free", free, 1, given="the resource", or_none=True, thorough=True)
        self._make: Callable[..., Any] = make
        self._makes_for_slots = check_maker("make", make)
        self._free: Callable[[Any], object] | None = free
        self.any_thread = any_thread
        """Whether another thread than the one that made a resource may use it."""
        self.created: list[R] = []
        """The resources that were made, in order."""
        self.destroyed: list[R] = []
        """The resources that were destroyed, in order."""
        self.misuses: list[str] = []
        """The misuses of resources so far, in words."""
        self._lock = threading.RLock()

        # By the resource's id. A record keeps its resource, so no id comes twice.
        self._records: dict[int, ResourceRecord[R]] = {}

        # How many resources are destroyed; one that was destroyed twice counts once.
        self._gone = 0

        self._creations, self._destructions = _Plan(), _Plan()

    # -- for the Config ----------------------------------------------------------------

    def create(self) -> R:
        """Make a resource. Raises what `make` raises, or the error of `fail_create()`.

        Raises `ValueError` when `make` returns an object that it returned before and
        that has not been destroyed. Where `make` gets the slot, it raises
        `RuntimeError` if no manager calls it."""
        with self._lock:
            error = self._creations.next()
        if error is not None:
            raise error

        resource: R = self._make(current_slot()) if self._makes_for_slots else self._make()

        with self._lock:
            known = self._records.get(id(resource))
            if known is not None and known.destroyed_in is None:
                raise ValueError(
                    f"make() returned {shown(resource)} a second time: "
                    "each call must return another one"
                )

            record = ResourceRecord(len(self.created), resource, threading.current_thread())
            self._records[id(resource)] = record
            self.created.append(resource)

        return resource

    def destroy(self, resource: R) -> None:
        """Destroy a resource.

        Then raises what `free` raises, or the error of `fail_destroy()`. Raises
        `ValueError` for a resource that this factory did not make, as every method here
        does."""
        here = threading.current_thread()
        with self._lock:
            record = self.record(resource)
            first = record.destroyed_in is None
            if not first:
                self._misused(record, f"was destroyed twice, the second time in {here.name}")
            if record.users:
                self._misused(
                    record, f"was destroyed in {here.name} while {record.users[0].name} used it"
                )
            if here is not record.made_in and not self.any_thread:
                self._misused(record, f"was destroyed in another thread, {here.name}")
            record.destroyed_in = here
            error = self._destructions.next()

        try:
            if first and self._free is not None:
                self._free(resource)
        finally:
            with self._lock:
                self.destroyed.append(resource)
                self._gone += first

        if error is not None:
            raise error

    # -- for tasks ---------------------------------------------------------------------

    @contextlib.contextmanager
    def using(self, resource: R) -> Generator[R, None, None]:
        """A block in which the calling thread uses a resource."""
        here = threading.current_thread()
        with self._lock:
            record = self.record(resource)
            if record.destroyed_in is not None:
                self._misused(record, f"was used in {here.name} after it was destroyed")
            if here is not record.made_in and not self.any_thread:
                self._misused(record, f"was used in another thread, {here.name}")
            if record.users and here not in record.users:
                self._misused(
                    record, f"was used by two at once, {record.users[0].name} and {here.name}"
                )
            record.users.append(here)
            record.used_in[here] = record.used_in.get(here, 0) + 1

        try:
            yield resource
        finally:
            with self._lock:
                record.users.remove(here)

    def use(self, fn: Callable[P, T]) -> Callable[P, T]:
        """A task that runs `fn`, and uses the resource meanwhile.

        `fn` is called as `fn(resource, ...)` or `fn(ctx, resource, ...)`. An `on_check`
        or `on_reset` uses the resource in the same way. An `on_abort` does not: another
        thread calls it, while a task uses the resource.

        Raises `TypeError` for a coroutine or generator function."""

        kind = deferred_kind(fn)
        if kind == GENERATOR:
            raise TypeError(
                f"fn must be a plain function, not the generator function {shown(fn)}: "
                "return a list"
            )
        if kind:
            raise TypeError(
                f"fn must be a plain function, not the coroutine function {shown(fn)}: "
                "workers are threads"
            )

        # It looks like `fn`, so it is called with a context if `fn` would be.
        task = functools.partial(_use_and_call, self, fn)
        functools.update_wrapper(task, fn)
        return cast(Callable[P, T], task)

    # -- for tests ---------------------------------------------------------------------

    def fail_create(
        self, error: BaseException | None, *, nth: int = 1, times: int | None = 1
    ) -> None:
        """Make `create()` raise `error` from its `nth` call on, for `times` calls.

        `nth=1`: from the next call on. `times=None`: all further calls. `error=None`:
        no call from now on, whatever was set before. Raises `ConfigError` for a wrong
        `nth` or `times`, `TypeError` for an `error` that is no exception."""
        with self._lock:
            self._creations.fail(error, nth, times)

    def fail_destroy(
        self, error: BaseException | None, *, nth: int = 1, times: int | None = 1
    ) -> None:
        """As `fail_create`, for `destroy()`, which still destroys the resource."""
        with self._lock:
            self._destructions.fail(error, nth, times)

    def record(self, resource: R) -> ResourceRecord[R]:
        """The record of a resource, which goes on changing while that is used."""
        record = self._records.get(id(resource))
        if record is None:
            raise ValueError(f"{shown(resource)} was not made by this factory")

        return record

    @property
    def live(self) -> int:
        """How many resources were made and have not been destroyed."""
        with self._lock:
            return len(self.created) - self._gone

    def check(self) -> None:
        """Raise an `AssertionError` for misuses, and for resources still not destroyed.

        The error names each of them. A misuse: destroyed twice, destroyed while in use,
        used after it was destroyed, used by two at once, used or destroyed in another
        thread. To be called when the manager is closed."""
        with self._lock:
            never = [record for record in self._records.values() if record.destroyed_in is None]
            wrong = [*self.misuses, *(f"{record} was never destroyed" for record in never)]

        if wrong:
            raise AssertionError("\n  ".join(["resources were misused:", *wrong]))

    # -- the pieces --------------------------------------------------------------------

    def _misused(self, record: ResourceRecord[R], how: str) -> None:
        self.misuses.append(f"{record} {how}")


@wrapper
def _use_and_call(
    factory: ResourceFactory[Any], fn: Callable[..., T], /, *args: Any, **options: Any
) -> T:
    with factory.using(args[isinstance(args[0], Context)]):
        return fn(*args, **options)


class _Plan:
    """Which of the calls to come fail, and with which errors."""

    def __init__(self) -> None:
        self._calls = 0

        # The first call that fails, the first one after these, and the error.
        self._failures: list[tuple[int, float, BaseException]] = []

    def fail(self, error: BaseException | None, nth: int, times: int | None) -> None:
        first = self._calls + checks.whole_number("nth", nth, least=1)
        end = (
            float("inf")
            if times is None
            else first + checks.whole_number("times", times, least=1, or_none=True)
        )

        if error is None:
            self._failures.clear()
        elif isinstance(error, BaseException):
            self._failures.append((first, end, error))
        else:
            raise TypeError(f"error must be an exception or None, not {shown(error)}")

    def next(self) -> BaseException | None:
        self._calls += 1
        for first, end, error in self._failures:
            if first <= self._calls < end:
                return error

        return None

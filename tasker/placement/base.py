"""What a placement is: where the resources of a manager live.

`Config.placement` is the choice. It makes one `Backend` for each manager. The backend
creates the resources, destroys them, and knows whether one is lost. A resource that
lives elsewhere is represented here by a *proxy*: to the manager the proxy is the
resource. A backend of such resources also says how a task is called there. `pack` runs
at the submission, in the submitter's thread. `call` runs later, in the worker's thread.

    user --submit--> Engine  packed = backend.pack(fn, args)
                       | queue
                     Worker  backend.call(context, proxy, packed) --> the resource

With `Threads` the engine calls tasks as they are. The engine that packs and calls is a
class of its own (`_pool/remote`), so other placements cost `Threads` nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from tasker._base.record import Record
from tasker._tasks.hooks import takes_slot
from tasker._tasks.unrun import is_unentered

__all__ = ["Backend", "Placement", "Settings", "Threads"]


class Settings(Protocol):
    """A `Config`, as seen from here."""

    @property
    def on_create(self) -> Callable[..., Any]: ...
    @property
    def on_destroy(self) -> Callable[[Any], object]: ...
    @property
    def check_health(self) -> Callable[..., object]: ...
    @property
    def on_check(self) -> Callable[[Any], object] | None: ...
    @property
    def on_reset(self) -> Callable[[Any], object] | None: ...
    @property
    def on_abort(self) -> Callable[[Any], object] | None: ...
    @property
    def name(self) -> str: ...
    @property
    def ctx(self) -> Any: ...
    @property
    def create_timeout(self) -> Any: ...
    @property
    def propagate_contextvars(self) -> bool: ...


class Backend:
    """The resources of one manager.

    `create`, `destroy`, `judge`, `check`, `reset` and `call` run in the thread of the
    resource's owner, and may block. Everything else runs in any thread, and must not
    block."""

    create: Callable[..., Any]
    """Makes a resource, and returns it or its proxy.

    It gets the slot if `takes_slot`. Raises what `on_create` raises, or what the place
    raises."""
    takes_slot: bool
    """Whether `create` is called with the slot."""
    destroy: Callable[[Any], object]
    """Frees a resource. `thread_state.running.ending` holds the reason.

    Raises what `on_destroy` raises."""
    judge: Callable[[Any, Any], object]
    """Calls a `check_health` that takes the resource, and returns its verdict.

    It gets an error and a resource that is not lost. Raises what `check_health`
    raises."""
    check: Callable[[Any], object]
    """Calls `on_check`, and returns what it returns, or only whether that is not
    `False`. Only where there is one."""
    reset: Callable[[Any], object]
    """Calls `on_reset`. Only where there is one."""
    abort: Callable[[Any], object] | None = None
    """Calls `on_abort`, in any thread. It may block.

    `None` where there is none, or where the place calls it by itself."""

    may_lose: bool = False
    """Whether a resource may be lost before its owner lets go of it."""
    impossible: Exception | None = None
    """Why no resource will ever be made, once that is known.

    From then on `create` raises it at once."""

    def is_of_hook(self, error: BaseException) -> bool:
        """Whether `create` or `reset` raised this error because its hook did."""
        return True

    def is_unentered(self, resource: Any) -> bool:
        """Whether the resource is surely a context manager that was not entered."""
        return is_unentered(resource)

    def is_lost(self, resource: Any) -> bool:
        """Whether the place where the resource lives is gone."""
        return False

    def end_check(self, resource: Any) -> None:
        """`on_check` takes too long: end it, where that can be done from outside."""

    def pack(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        wants_context: bool,
        parent: Any = None,
    ) -> Any:
        """A task in the form that `call` takes, where tasks are not called as they are.

        `parent`: the context that it was submitted with. Raises `TypeError` if the task
        has no such form."""
        raise NotImplementedError

    def call(self, context: Any, resource: Any, packed: Any) -> Any:
        """Run a packed task on a resource, and return what it returns.

        Raises what the task raises, or `WorkerLostError`."""
        raise NotImplementedError

    def late(self) -> str:
        """What has not happened yet when there is still no resource, in words."""
        return "on_create has not returned"

    def stopping(self) -> None:
        """The manager drains: running tasks may ask their contexts."""

    def killed(self) -> None:
        """The manager is killed, and the contexts of running tasks have been cancelled.

        No more resources need be created."""

    def end(self) -> float:
        """Time is up: end all that is left, whatever it does.

        Returns how many seconds the owners of what was ended may need to leave."""
        return 0.0

    def closed(self) -> None:
        """The manager has closed: leave nothing of the backend behind. May block."""

    def parts(self) -> tuple[object, ...]:
        """The objects that have locks which the manager's threads need."""
        return (self,)

    def leave_to_parent(self) -> None:
        """In a forked child: let go of what belongs to the parent (R5).

        The parent alone destroys it. It is kept here, because collecting it would free
        it, too."""
        kept: list[Any] = []
        self.destroy = kept.append


class Placement(Protocol):
    """Where a manager's resources live: `Threads()`, `Processes()` or `Ray()`."""

    def open(self, settings: Settings, lost: Callable[[Any], None]) -> Backend:
        """A backend for one manager.

        The backend calls `lost(resource)`, on any thread, when it finds that a resource
        is lost. Raises `ConfigError` for settings that it cannot serve."""
        ...


class InProcessBackend(Backend):
    def __init__(self, settings: Settings) -> None:
        # The hooks themselves: a signal can strike where a function is entered (R2).
        self.create: Callable[..., Any] = settings.on_create
        self.takes_slot: bool = takes_slot(settings.on_create)
        self.destroy: Callable[[Any], object] = settings.on_destroy
        self.judge: Callable[[Any, Any], object] = settings.check_health
        if settings.on_check is not None:
            self.check: Callable[[Any], object] = settings.on_check
        if settings.on_reset is not None:
            self.reset: Callable[[Any], object] = settings.on_reset
        self.abort: Callable[[Any], object] | None = settings.on_abort


class Threads(Record):
    """Resources live in this process, each with its worker's thread: the default."""

    def open(self, settings: Settings, lost: Callable[[Any], None]) -> Backend:
        """A backend for one manager."""
        return InProcessBackend(settings)

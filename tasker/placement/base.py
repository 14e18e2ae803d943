"""What a placement is: where the resources of a manager live, and how its workers reach them.

`Config.placement` is the choice, and makes one `Backend` for each manager. A backend creates a resource, or a *proxy* to one
that lives elsewhere: to the manager the proxy is the resource. It also destroys it, says whether it is lost, and, when
resources live elsewhere, how a task is called there: `pack` at the submission, in the submitter's thread, then `call`
in the worker's. With `Threads` tasks are called as they are, by another engine: the seam costs them nothing.

    user --submit--> Engine        packed = backend.pack(fn, args)
                       | queue
                     Worker        backend.call(context, proxy, packed) --> the resource, wherever it lives
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from tasker._base.record import Record
from tasker._tasks.unrun import is_unentered

__all__ = ["Backend", "Placement", "Settings", "Threads"]


class Settings(Protocol):
    """A `Config`, as seen from here."""

    @property
    def on_create(self) -> Callable[[], Any]: ...
    @property
    def on_destroy(self) -> Callable[[Any], object]: ...
    @property
    def check_health(self) -> Callable[..., object]: ...
    @property
    def name(self) -> str: ...
    @property
    def ctx(self) -> Any: ...
    @property
    def create_timeout(self) -> Any: ...
    @property
    def propagate_contextvars(self) -> bool: ...


class Backend:
    """The resources of one manager. `create`, `destroy`, `judge` and `call` run in the thread that owns the resource,
    and may block; the rest runs in any thread, and must not."""

    create: Callable[[], Any]
    """Makes a resource, and returns it or its proxy. Raises what `on_create` raises, or what the place does."""
    destroy: Callable[[Any], object]
    """Frees it; why, `thread_state.running.ending` says. Raises what `on_destroy` raises."""
    judge: Callable[[Any, Any], object]
    """What a `check_health` that takes the resource says of an error and a resource that is not lost. Raises what it
    raises."""

    may_lose: bool = False
    """Whether a resource may be lost before its owner lets go of it."""
    impossible: Exception | None = None
    """Why no resource will ever be made, once that is known: `create` raises it from then on, at once."""

    def is_of_hook(self, error: BaseException) -> bool:
        """Whether `on_create` itself has raised what `create` has raised."""
        return True

    def is_unentered(self, resource: Any) -> bool:
        """Whether it is surely a context manager that was not entered."""
        return is_unentered(resource)

    def is_lost(self, resource: Any) -> bool:
        """Whether the place where it lives is gone."""
        return False

    def pack(self, fn: Callable[..., Any], args: tuple[Any, ...], wants_context: bool) -> Any:
        """A task as `call` takes it, where tasks are not called as they are. Raises `TypeError` if it cannot be."""
        raise NotImplementedError

    def call(self, context: Any, resource: Any, packed: Any) -> Any:
        """Run what was packed on a resource: returns what it returns, raises what it raises, or `WorkerLostError`."""
        raise NotImplementedError

    def late(self) -> str:
        """What has not happened while there is no resource, in words."""
        return "on_create has not returned"

    def stopping(self) -> None:
        """The manager drains: running tasks may ask their contexts."""

    def killed(self) -> None:
        """The manager is killed: nothing more need be created. The contexts of running tasks have been cancelled."""

    def end(self) -> float:
        """Time is up: end all that is left, whatever it does. Returns how many seconds its owners may need to leave."""
        return 0.0

    def closed(self) -> None:
        """The manager has closed: nothing of the backend's is to be left. May block."""

    def parts(self) -> tuple[object, ...]:
        """What has locks that the manager's threads need."""
        return (self,)

    def leave_to_parent(self) -> None:
        """In a forked child: let go of what belongs to the parent, which alone destroys it. It is kept here, as to
        collect it would free it, too."""
        kept: list[Any] = []
        self.destroy = kept.append


class Placement(Protocol):
    """Where the resources of a manager live: `Threads()`, `Processes()` or `Ray()`."""

    def open(self, settings: Settings, lost: Callable[[Any], None]) -> Backend:
        """A backend for one manager; `lost(resource)` is to be called, by any thread, when a resource is found to be lost.

        Raises `ConfigError` for settings that it cannot serve."""
        ...


class InProcessBackend(Backend):
    def __init__(self, settings: Settings) -> None:
        self.create: Callable[[], Any] = (
            settings.on_create
        )  # themselves: a function around them could be interrupted at its entry
        self.destroy: Callable[[Any], object] = settings.on_destroy
        self.judge: Callable[[Any, Any], object] = settings.check_health


class Threads(Record):
    """Resources live in this process, each with its worker's thread: the default."""

    def open(self, settings: Settings, lost: Callable[[Any], None]) -> Backend:
        """A backend for one manager."""
        return InProcessBackend(settings)

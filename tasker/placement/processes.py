"""`Processes`: each worker's resource in a child process of its own.

The child is started, called and ended by its worker's thread, which sleeps meanwhile: so everything that a manager does
with a worker it does with the child. See `child` for one of them, and `_child` for the program that it runs.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tasker import checks
from tasker.context import Context
from tasker.errors import ConfigError, TaskManagerKilledError, shown
from tasker.logger import GuardedLogger
from tasker.placement import envelope, protocol
from tasker.placement.base import Settings, Site
from tasker.placement.child import Child
from tasker.placement.envelope import Packed
from tasker.placement.variables import pack_variables
from tasker.wrapping import wrapper

__all__ = ["Processes"]


@dataclass(frozen=True)
class Processes:
    """Each worker's resource lives in a child process of its own, where its tasks run: beside the others, with a GIL of
    its own, and alone in it when it breaks.

    Functions, arguments, results and exceptions travel pickled; lambdas, closures and what `__main__` defines need
    cloudpickle (the extra `processes`). A child that dies costs its task an attempt and is replaced. Needs a POSIX
    system. Raises `ConfigError` for a wrong `grace`."""

    grace: float = 0.5
    """Seconds that a task gets to end after its context has ended, and a child after its resource is destroyed, before
    the process is killed."""

    def __post_init__(self) -> None:
        checks.seconds("grace", self.grace)

    def open(self, settings: Settings, lost: Callable[[Any], None], logger: GuardedLogger) -> Site:
        """A site for one manager.

        Raises `ConfigError` when `on_create` or `on_destroy` cannot be pickled, or where there is no POSIX system."""
        if os.name != "posix" or not sys.executable:
            raise ConfigError("placement must be Threads() here: Processes() needs a POSIX system and sys.executable")
        grace = min(checks.seconds("grace", self.grace), threading.TIMEOUT_MAX)
        return _ProcessSite(grace, settings, lost)


class _ProcessSite(Site):
    """The children of one manager. `_lock` guards the set of them; nothing under it blocks."""

    def __init__(self, grace: float, settings: Settings, lost: Callable[[Any], None]) -> None:
        self._grace = grace
        self._name = settings.name
        self._lost = lost
        self._propagates = settings.propagate_contextvars
        self._create_timeout = checks.seconds("create_timeout", settings.create_timeout)
        self._hooks = _pack_hooks(settings)
        self._values = _pack_values(settings.ctx)
        self._lock = threading.RLock()
        self._children: set[Child] = set()
        self._stopping = False
        self._killed = False

    # -- the owner's thread ------------------------------------------------------------------------------------------

    def create(self) -> Child:
        name = threading.current_thread().name
        if not name.startswith(f"{self._name}-"):
            name = f"{self._name}-caller"  # of `run_task`
        if self._killed:
            raise TaskManagerKilledError(f"{self._name} was killed before the resource was created")
        child = Child(name, self._grace, self._lost)
        with self._lock:
            self._children.add(child)
        if self._killed:  # announce, then look
            child.kill()
        try:
            child.create(pickle.dumps(self._setup(name)), self._create_timeout)
        except BaseException:
            self._forget(child)
            raise
        return child

    def destroy(self, resource: Child) -> None:
        try:
            resource.destroy()
        finally:
            self._forget(resource)

    def is_lost(self, resource: Child) -> bool:
        return resource.is_lost()

    def pack(self, fn: Callable[..., Any], args: tuple[Any, ...], wants_context: bool) -> Packed:
        return envelope.pack_call(fn, args, wants_context, pack_variables() if self._propagates else ())

    @wrapper
    def call(self, context: Context, resource: Child, packed: Packed) -> Any:
        return resource.call(context, packed)

    # -- the manager ---------------------------------------------------------------------------------------------------

    def stopping(self) -> None:
        self._stopping = True
        for child in self._all():
            child.stopping()

    def killed(self) -> None:
        self._killed = True
        for child in self._all():
            child.give_up_hooks()

    def end(self) -> bool:
        self._killed = True
        children = self._all()
        for child in children:
            child.kill()
        return bool(children)

    def leave_to_parent(self) -> None:
        self._lock = threading.RLock()
        for child in self._children:
            child.leave_to_parent()

    # -- the pieces ----------------------------------------------------------------------------------------------------

    def _all(self) -> list[Child]:
        with self._lock:
            return list(self._children)

    def _forget(self, child: Child) -> None:
        with self._lock:
            self._children.discard(child)

    def _setup(self, name: str) -> protocol.Setup:
        loggers = {"root": logging.getLogger(), **logging.root.manager.loggerDict}
        return protocol.Setup(
            name=name,
            path=[entry for entry in sys.path if isinstance(entry, str)],
            argv=list(sys.argv),
            environment=dict(os.environ),
            levels={each: it.level for each, it in loggers.items() if isinstance(it, logging.Logger) and it.level},
            values=self._values,
            stopping=self._stopping,
            hooks=self._hooks,
        )


def _pack_hooks(settings: Settings) -> bytes:
    hooks = (settings.on_create, settings.on_destroy)
    try:
        return _packed_whole(hooks)  # together: they may share what they refer to
    except Exception as error:
        for name, hook in zip(("on_create", "on_destroy"), hooks, strict=True):
            try:
                _packed_whole(hook)
            except Exception as trouble:
                raise ConfigError(f"{name} cannot be sent to another process: {shown(hook)}: {trouble}") from trouble
        raise ConfigError(f"on_create and on_destroy cannot be sent to another process: {error}") from error


def _pack_values(context: Context) -> list[bytes]:
    """The values of the manager's context that can be sent, those of the root first."""
    packed: list[bytes] = []
    for key, value in context._items():
        try:
            packed.append(_packed_whole((key, value)))
        except Exception:  # it stays here
            continue
    return packed


def _packed_whole(value: object) -> bytes:
    return envelope.pack_value(value, apart=False)[0]

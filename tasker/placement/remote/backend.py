"""`RemoteBackend`: the resources of one manager that live elsewhere.

Each is behind a `ResourceProxy`, whatever the kind of place. The backend serializes
the hooks once. It packs calls. It keeps the proxies, to tell them how the manager
closes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from tasker import checks
from tasker._sync.locks import new_lock
from tasker._sync.threads import greenlets
from tasker._tasks import current
from tasker._tasks.context import Context
from tasker._tasks.hooks import takes_resource, takes_slot
from tasker._tasks.wrapping import wrapper
from tasker.errors import ConfigError, EndlessError, TaskManagerKilledError, WorkerLostError, shown
from tasker.placement.base import Backend, Settings
from tasker.placement.processes.multiprocess import inheritance
from tasker.placement.remote import pickling, protocol
from tasker.placement.remote.logs import levels
from tasker.placement.remote.pickling import Packed, RemoteTraceback
from tasker.placement.remote.proxy import ResourceProxy
from tasker.placement.remote.variables import pack_variables
from tasker.slot import Reason, Slot

__all__ = ["RemoteBackend"]

# How long the owner of a place that was ended may take to wake and leave. A guess: the
# kernel, or a cluster, takes its time.
_LEAVE_S = 3.0


class RemoteBackend(Backend):
    """The proxies of one manager, each made by `new_proxy(name, slot)` in its owner's
    thread.

    Raises `ConfigError` when a hook that runs there cannot be pickled, or when threads
    are greenlets. `_lock` is held while the tuple of proxies is replaced."""

    may_lose = True
    takes_slot = True

    def __init__(self, settings: Settings, new_proxy: Callable[[str, Slot], ResourceProxy]) -> None:
        if current.thread_state.running.imports:
            raise EndlessError(
                "a module that a child process (or an actor) imports for its parent makes a "
                "manager with children of its own, which would import it as well, and so on: "
                "make it in a function, or in another module"
            )
        if by := greenlets():
            raise ConfigError(
                f"placement must be Threads() where {by} has made greenlets of threads: one that "
                "waits for what runs elsewhere would stop all others, and no timeout would pass"
            )

        self._name = settings.name
        # The name of the proxies that `run_task` uses.
        self._callers = f"{self._name}-caller"
        self._new_proxy = new_proxy
        self._propagates = settings.propagate_contextvars
        self._create_timeout = checks.seconds("create_timeout", settings.create_timeout)
        self._hooks = _pack_hooks(settings)
        self._takes_slot = takes_slot(settings.on_create)
        self._values = _pack_values(settings.ctx)

        self._lock = new_lock()
        # A tuple, so that reading it takes no lock. In a forked child another thread
        # may have held the lock.
        self._proxies: tuple[ResourceProxy, ...] = ()
        self._stopping = False
        self._killed = False

        self.impossible: Exception | None = None
        self.create: Callable[[Slot], Any] = self._create
        self.destroy: Callable[[Any], object] = self._destroy
        self.judge: Callable[[Any, Any], object] = self._judge
        self.check: Callable[[Any], object] = ResourceProxy.check
        self.reset: Callable[[Any], object] = self._reset

    # -- the owner's thread ------------------------------------------------------------

    def _create(self, slot: Slot) -> ResourceProxy:
        name = self._callers if slot.reason is Reason.CALL else slot.worker

        if self._killed:
            raise TaskManagerKilledError(f"{self._name} was killed before the resource was created")
        if self.impossible is not None:
            raise self.impossible.with_traceback(None)

        proxy = self._new_proxy(name, slot)
        with self._lock:
            self._proxies = (*self._proxies, proxy)
        # (R1)
        if self._killed:
            proxy.kill()

        try:
            proxy.create(self._setup(name, slot), self._create_timeout)
        except BaseException as error:
            self._forget(proxy)
            if isinstance(error, EndlessError):
                raise self._found_impossible(error).with_traceback(None) from None
            # This backend has killed it. The error may not say so itself.
            if self._killed and isinstance(error, WorkerLostError):
                raise TaskManagerKilledError(
                    f"{self._name} was killed while the resource was created"
                ) from None
            raise

        return proxy

    def _destroy(self, resource: ResourceProxy) -> None:
        try:
            resource.destroy(current.thread_state.running.ending)
        finally:
            self._forget(resource)

    def _judge(self, error: Exception, resource: ResourceProxy) -> bool:
        # The verdict came with the error.
        return resource.verdict()

    def _reset(self, resource: ResourceProxy) -> None:
        # To make another one may take so long. A reset that takes longer gains nothing.
        resource.reset(self._create_timeout)

    def is_unentered(self, resource: ResourceProxy) -> bool:
        return resource.is_unentered

    def is_lost(self, resource: ResourceProxy) -> bool:
        return resource.is_lost()

    def end_check(self, resource: ResourceProxy) -> None:
        resource.kill()

    def pack(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        wants_context: bool,
        parent: Context | None = None,
    ) -> Packed:
        variables = pack_variables() if self._propagates else ()
        values = [] if parent is None else _pack_values(parent)
        return pickling.pack_call(fn, args, wants_context, variables, values)

    @wrapper
    def call(self, context: Context, resource: ResourceProxy, packed: Packed) -> Any:
        try:
            return resource.call(context, packed)
        finally:
            if resource.was_aborted():
                current.note_abort(resource)

    # -- the manager -------------------------------------------------------------------

    def is_of_hook(self, error: BaseException) -> bool:
        # For the empty name see `Host._unpacked`.
        if isinstance(error, EndlessError) or getattr(error, "type_name", None) == "":
            return False

        return isinstance(error.__cause__, RemoteTraceback)

    def late(self) -> str:
        # Each text once, in their order.
        texts = dict.fromkeys(
            proxy.late() for proxy in self._proxies if proxy.name != self._callers
        )

        return " and ".join(filter(None, texts)) or super().late()

    def stopping(self) -> None:
        self._stopping = True
        for proxy in self._proxies:
            proxy.stopping()

    def killed(self) -> None:
        self._killed = True
        for proxy in self._proxies:
            proxy.give_up_hooks()

    def end(self) -> float:
        self._killed = True
        for proxy in self._proxies:
            proxy.end_now()
        # An owner whose proxy is forgotten already may need it, too.
        return _LEAVE_S

    def closed(self) -> None:
        # A Ctrl-C at the wrong moment may have left something.
        self.end()

    def parts(self) -> tuple[object, ...]:
        return (self, *self._proxies)

    def leave_to_parent(self) -> None:
        super().leave_to_parent()
        self._lock = new_lock()
        for proxy in self._proxies:
            proxy.leave_to_parent()

    # -- parts of the above ------------------------------------------------------------

    def _forget(self, proxy: ResourceProxy) -> None:
        with self._lock:
            self._proxies = tuple(each for each in self._proxies if each is not proxy)

    def _found_impossible(self, error: Exception) -> Exception:
        """Store why no resource can be made.

        The first error counts, as all are the same."""
        with self._lock:
            if self.impossible is None:
                self.impossible = error
            return self.impossible

    def _setup(self, name: str, slot: Slot) -> protocol.Setup:
        return protocol.Setup(
            name=name,
            path=[entry for entry in sys.path if isinstance(entry, str)],
            argv=list(sys.argv),
            environment={},
            inheritance=inheritance(),
            levels=levels(),
            values=self._values,
            stopping=self._stopping,
            slot=slot,
            takes_slot=self._takes_slot,
            hooks=self._hooks,
        )


def _pack_hooks(settings: Settings) -> bytes:
    hooks = protocol.Hooks(
        on_create=settings.on_create,
        on_destroy=settings.on_destroy,
        check_health=settings.check_health if takes_resource(settings.check_health) else None,
        on_check=settings.on_check,
        on_reset=settings.on_reset,
        on_abort=settings.on_abort,
    )
    try:
        # Together, because they may refer to the same objects.
        return _packed_whole(hooks)
    except Exception as error:
        for name, hook in hooks._asdict().items():
            try:
                _packed_whole(hook)
            except Exception as trouble:
                raise ConfigError(
                    f"{name} cannot be sent to another process: {shown(hook)}: {trouble}"
                ) from trouble

        raise ConfigError(f"the hooks cannot be sent to another process: {error}") from error


def _pack_values(context: Context) -> list[bytes]:
    """The values of a context that can be sent, those of the root first."""
    packed: list[bytes] = []
    for key, value in context._items():
        try:
            packed.append(_packed_whole((key, value)))
        except Exception:
            # It stays here.
            continue

    return packed


def _packed_whole(value: object) -> bytes:
    return pickling.pack_value(value, apart=False)[0]

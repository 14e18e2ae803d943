"""The actors of a manager on a Ray cluster, and the connection to the cluster.

All managers share one `_Connection`. The first manager that finds none connects. When
the last one leaves, the connection ends, if it was made here.

`_Connection._lock` guards which managers use the connection. Connecting and
disconnecting happen under it, no code of the user's does (I7). `RayBackend._lock` also
guards the nodes that were lost.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from tasker._sync.callback_runner import CallbackRunner
from tasker._sync.clock import monotonic
from tasker._sync.guarded_logger import GuardedLogger
from tasker._sync.locks import new_lock
from tasker._tasks.unrun import refuse
from tasker.errors import ConfigError, shown
from tasker.placement.base import Backend, Settings
from tasker.placement.ray.actor import CONTROL, THREADS, ResourceActor
from tasker.placement.ray.proxy import ActorProxy
from tasker.placement.remote.backend import RemoteBackend
from tasker.slot import Slot

__all__ = ["RayBackend"]

# The oldest Ray that can keep actors away from a node.
OLDEST = (2, 50)
# A node that was lost gets no actors for so long. Ray itself was seen to place actors
# on a dead node for 14 s; the rest of the time is a guess.
AVOID_NODE_S = 60.0
# The strategies that leave the choice of the node to Ray.
_ANYWHERE = (None, "DEFAULT", "SPREAD")
# A label that every node has.
_NODE = "ray.io/node-id"


class RayBackend(RemoteBackend):
    """The actors of one manager. It is the `Cluster` of their proxies."""

    def __init__(
        self,
        settings: Settings,
        lost: Callable[[Any], None],
        address: str | None,
        grace: float,
        options: dict[str, Any],
    ) -> None:
        super().__init__(settings, lambda name, slot: ActorProxy(name, grace, lost, self, slot))
        environment = options.get("runtime_env")
        # The function of the slot that makes it.
        self._environment_of: Callable[[Slot], object] | None = None
        if callable(environment):
            self._environment_of = options.pop("runtime_env")
        self._options = options
        # The nodes that were lost, and when.
        self._lost_nodes: dict[str, float] = {}
        # What the cluster had when an actor was last made.
        self._resources: dict[str, float] = {}
        self.ray: Any = _import_ray()
        self._runner = CallbackRunner(
            f"{self._name}-ray", GuardedLogger(logging.getLogger("tasker"))
        )

        _connection.join(self, self.ray, address, self._create_timeout)
        try:
            self._class = _actor_class(self.ray)
            self._check_options()
        except BaseException:
            _connection.leave(self, self.ray)
            raise

    def closed(self) -> None:
        super().closed()
        _connection.leave(self, self.ray)

    def _check_options(self) -> None:
        try:
            # Ray checks most of them here.
            self._class.options(**self._options)
        except Exception as error:
            raise ConfigError(
                f"placement: Ray refuses the options {shown(self._options)}: {error}"
            ) from error

    # -- called by proxies (proxy.Cluster) ---------------------------------------------

    def is_connected(self) -> bool:
        return bool(self.ray.is_initialized())

    def new_actor(self, slot: Slot) -> Any:
        options = dict(self._options)
        if self._environment_of is not None:
            options["runtime_env"] = _checked(self._environment_of(slot))
        if not self.is_connected():
            raise ConnectionError("this process is not connected to Ray any more")

        now = monotonic()
        has = self.ray.cluster_resources()
        self._resources = {
            name: amount for name, amount in has.items() if not name.startswith("node:")
        }
        with self._lock:
            excluded = [
                node for node, when in self._lost_nodes.items() if now - when < AVOID_NODE_S
            ]
        if excluded and options.get("scheduling_strategy") in _ANYWHERE:
            options["label_selector"] = {
                _NODE: f"!in({','.join(excluded)})",
                **options.get("label_selector", {}),
            }

        return self._class.options(max_restarts=0, max_task_retries=0, **options).remote()

    def kill(self, actor: Any) -> None:
        self._runner.run(lambda: self.kill_now(actor))

    def kill_now(self, actor: Any) -> None:
        # The actor is dead.
        with contextlib.suppress(Exception):
            if self.is_connected():
                self.ray.kill(actor)

    def says_lost(self, error: BaseException) -> bool:
        kinds = self.ray.exceptions
        return isinstance(error, kinds.RayError) and not isinstance(error, kinds.RayTaskError)

    def drop(self, actor: Any, node: str, error: BaseException | None) -> None:
        # Nothing else tells a dead node from a dead process.
        if node and "its node has died" in str(error):
            with self._lock:
                self._lost_nodes[node] = monotonic()

        # It may still run.
        self.kill(actor)

    def lacking(self) -> str:
        wanted = self._options or "with Ray's defaults"
        return f"the cluster has given no actor {wanted} (it has {self._resources})"


def _checked(environment: object) -> object:
    refuse("runtime_env", environment)
    if not isinstance(environment, Mapping):
        raise ConfigError(f"runtime_env must return a mapping, not {shown(environment)}")

    return environment  # pyright: ignore[reportUnknownVariableType]


# -- the connection --------------------------------------------------------------------


class _Connection:
    """`inherited`: this process was forked from one that was connected."""

    def __init__(self, *, inherited: bool = False) -> None:
        self.inherited: bool = inherited
        self._lock = new_lock()
        self._users: set[Backend] = set()
        self._made_here = False

    def join(self, user: Backend, ray: Any, address: str | None, patience: float) -> None:
        """Connect if need be, and stay connected until `user` leaves."""
        if self.inherited:
            raise ConfigError(
                "placement=Ray() needs a process that was not forked from one that is connected "
                "to Ray"
            )
        with self._lock:
            if not ray.is_initialized():
                _connect(ray, address, patience)
                self._made_here = True
            elif address not in (None, "auto", "local"):
                _check_same(ray, address)
            self._users.add(user)

    def leave(self, user: Backend, ray: Any) -> None:
        """When the last one leaves, end the connection, if it was made here.

        A local cluster ends with it."""
        with self._lock:
            if user not in self._users:
                return
            self._users.discard(user)
            if not self._users and self._made_here:
                self._made_here = False
                ray.shutdown()


_connection = _Connection()


def _start_afresh() -> None:
    """In a forked child, which has none of the threads that a connection needs (R5)."""
    global _connection
    ray = sys.modules.get("ray")
    _connection = _Connection(
        inherited=_connection.inherited or (ray is not None and ray.is_initialized())
    )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)


def _connect(ray: Any, address: str | None, patience: float) -> None:
    options: dict[str, Any] = {"address": address}
    if address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options = {"address": "local", "include_dashboard": False}
    elif address not in ("auto", "local"):
        _reach(address, patience)

    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(configure_logging=False, **options)
    except Exception as error:
        raise ConfigError(f"address: no Ray cluster at {shown(address)}: {error}") from error
    finally:
        # Ray has replaced it.
        if main and handler is not None:
            signal.signal(signal.SIGTERM, handler)


def _check_same(ray: Any, address: str) -> None:
    """Raise `ConfigError` for another cluster: a process can be connected to one."""
    connected: str = ray.get_runtime_context().gcs_address
    if not address.startswith("ray://") and _resolved(address) != _resolved(connected):
        raise ConfigError(
            f"address: this process is connected to {connected}, "
            f"it cannot use {shown(address)} besides"
        )


def _resolved(address: str) -> tuple[str, str]:
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError):
        host = socket.gethostbyname(host)
    return host, port


def _reach(address: str, patience: float) -> None:
    """Raise `ConfigError` if nothing answers. Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=patience).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError(f"address: nothing answers at {shown(address)}: {error}") from error


def _import_ray() -> Any:
    try:
        ray: Any = import_module("ray")
    except ImportError:
        raise ConfigError(
            "placement=Ray() needs Ray: install the extra, tasker-pool[ray]"
        ) from None

    if tuple(int(part) for part in ray.__version__.split(".")[:2]) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        raise ConfigError(f"placement=Ray() needs Ray {wanted} or later, not {ray.__version__}")
    return ray


def _actor_class(ray: Any) -> Any:
    # Ray's tools show this name for the actors.
    class Tasker(ResourceActor):
        pass

    for name in CONTROL:
        setattr(Tasker, name, ray.method(concurrency_group="control")(getattr(ResourceActor, name)))
    # An event for each call would cost a twentieth of the call, and say no more than
    # "Tasker.run".
    return ray.remote(concurrency_groups={"control": THREADS}, enable_task_events=False)(Tasker)

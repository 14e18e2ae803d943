"""`Ray`: each worker's resource in an actor of a Ray cluster.

Ray places the actors, carries messages, watches the nodes and lets the cluster grow.
`cluster` is the connection, `proxy` one of the actors as its manager sees it, and
`actor` what runs in it. The first manager that uses Ray imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

from tasker import checks
from tasker._base.callables import check_callable
from tasker._base.record import explain_fields
from tasker.errors import ConfigError, shown
from tasker.placement.base import Backend, Settings
from tasker.slot import Slot

__all__ = ["Ray"]


@explain_fields
@dataclass(frozen=True, kw_only=True)
class Ray:
    """Each worker's resource lives in an actor of a Ray cluster, where its tasks run.

    Each worker has an actor of its own. Connects to the cluster at `address`, unless
    this process is connected already, and configures nothing there. `tasker` and the
    modules of your functions must be installed on its nodes, or come with the
    `runtime_env`. The fields below `grace` are Ray's own options of actors; `None`
    leaves each to Ray. Needs the extra `ray`. Raises `ConfigError` for a wrong field.
    Ray itself checks some of them, when a manager is made."""

    address: str | None = "auto"
    """The address of the cluster.

    "auto": the cluster that runs on this machine, or that `RAY_ADDRESS` names. `None`:
    a local one, for tests and laptops, which is shut down with the last manager that
    uses it."""
    grace: float | timedelta = 0.5
    """Seconds from the end of a task's context until its actor is killed."""
    num_cpus: float | None = None
    """How many CPUs of its node are reserved for each actor; fractions are allowed."""
    num_gpus: float | None = None
    """How many GPUs of its node are reserved for each actor; 0.25 lets four share one.

    In the actor CUDA_VISIBLE_DEVICES names them."""
    memory: float | None = None
    """Bytes of its node's memory that are reserved for each actor."""
    resources: Mapping[str, float] | None = None
    """How many of the resources that nodes name are reserved for each actor."""
    label_selector: Mapping[str, str] | None = None
    """Labels that a node must have."""
    scheduling_strategy: Any = None
    """"DEFAULT", "SPREAD", or a strategy from `ray.util.scheduling_strategies`."""
    runtime_env: Mapping[str, Any] | Callable[[Slot], Mapping[str, Any]] | None = None
    """What a node gets before an actor runs there.

    Packages, files, environment variables. A function of the slot gives each actor its
    own. It is called by the worker's thread, before the actor is made."""

    def __post_init__(self) -> None:
        checks.seconds("grace", self.grace)

        if self.address is not None and (not isinstance(self.address, str) or not self.address):
            raise ConfigError(
                f"address must be None or the address of a cluster, not {shown(self.address)}"
            )

        for name in ("num_cpus", "num_gpus", "memory"):
            value = getattr(self, name)
            if value is not None and not checks.is_amount(value):
                raise ConfigError(f"{name} must be None or a number, 0 or more, not {shown(value)}")

        environment: Any = self.runtime_env
        if callable(environment):
            check_callable(
                "runtime_env", environment, 1, given="the slot", thorough=True, error=ConfigError
            )
        elif not isinstance(environment, Mapping | None):
            raise ConfigError(
                "runtime_env must be None or a mapping, "
                f"or a function of the slot that returns one, not {shown(environment)}"
            )

        for name in ("resources", "label_selector"):
            if not isinstance(getattr(self, name), Mapping | None):
                raise ConfigError(
                    f"{name} must be None or a mapping, not {shown(getattr(self, name))}"
                )

        for name, amount in (self.resources or {}).items():
            if not isinstance(name, str) or not checks.is_amount(amount):
                raise ConfigError(
                    "resources must be None or map names to numbers, 0 or more, "
                    f"not {shown(self.resources)}"
                )

        if isinstance(self.scheduling_strategy, str) and self.scheduling_strategy not in (
            "DEFAULT",
            "SPREAD",
        ):
            raise ConfigError(
                'scheduling_strategy must be None, "DEFAULT", "SPREAD" or a strategy of Ray\'s, '
                f"not {shown(self.scheduling_strategy)}"
            )

    def open(self, settings: Settings, lost: Callable[[Any], None]) -> Backend:
        """A backend for one manager. Blocks until this process is connected.

        Raises `ConfigError` when Ray is missing or too old, when the cluster cannot be
        reached, when an option is wrong, when gevent or eventlet has made greenlets of
        threads, or when a hook that runs there cannot be pickled."""
        from tasker.placement.ray.cluster import RayBackend

        given = {each.name: getattr(self, each.name) for each in fields(self)}
        del given["address"], given["grace"]
        options = {name: value for name, value in given.items() if value is not None}
        grace = checks.patience("grace", self.grace)
        return RayBackend(settings, lost, self.address, grace, options)

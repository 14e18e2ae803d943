"""Pools of `run_task` by themselves, without an engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tasker._pool.resources import ResourcePool
from tasker._pool.slots import Slots


def resource_pool(
    size: int,
    create: Callable[[], Any],
    destroy: Callable[[Any, Any], object],
    empty: Callable[[], object],
    **options: Any,
) -> ResourcePool[Any]:
    """With slots of its own. `destroy` gets a resource and the error that broke it."""
    return ResourcePool(
        "pool",
        size,
        Slots(),
        lambda slot: create,
        lambda resource, slot, reason: destroy(resource, reason),
        empty,
        **options,
    )


def taken(slots: Slots) -> list[int]:
    """The indices that are not free."""
    return [index for index, entry in enumerate(slots._entries) if not isinstance(entry, int)]

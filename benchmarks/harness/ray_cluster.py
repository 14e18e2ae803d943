"""A local Ray cluster, and a manager whose resources live in its actors."""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from typing import Any

from tasker import Config, Ray, TaskManager

__all__ = ["gather", "local_cluster", "open_ray"]


def _no_op_on(resource: object) -> None: ...


def _item_on(resource: object, item: int) -> None: ...


@contextmanager
def local_cluster(cpus: int = 4) -> Any:
    """Start a cluster of this machine alone, and yield the module `ray`."""
    ray: Any = import_module("ray")
    ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        configure_logging=False,
        log_to_driver=False,
    )

    try:
        yield ray
    finally:
        ray.shutdown()


def open_ray(workers: int) -> TaskManager[object]:
    """A manager whose resources, plain objects, live in actors; it does not hire."""
    config = Config(
        on_create=object,
        on_destroy=_no_op_on,
        worker_count=workers,
        max_worker_count=workers,
        resource_pool_size=0,
        create_timeout=600.0,
        placement=Ray(num_cpus=0),
    )
    return TaskManager(config)


def gather(manager: TaskManager[object], count: int) -> None:
    """Submit so many no-op tasks, then gather all."""
    futures = [manager.submit(_item_on, number) for number in range(count)]
    # With this wait the thread is woken only once.
    manager.join()
    [future.result() for future in futures]

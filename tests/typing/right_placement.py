"""Programs with placements that both type checkers must accept; see `right.py`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, assert_type

from tasker import (
    Config,
    Placement,
    Processes,
    Ray,
    RemoteTaskError,
    TaskManager,
    Threads,
    WorkerLostError,
    current_resource,
)


class Connection:
    """The resource of these programs."""

    def ping(self) -> int:
        return 1

    def close(self) -> None:
        pass


def ping(db: Connection) -> int:
    return db.ping()


def a_placement_changes_no_type(m: TaskManager[Connection]) -> None:
    config = Config(
        on_create=Connection,
        on_destroy=Connection.close,
        worker_count=1,
        placement=Processes(grace=0.5),
    )
    assert_type(config, Config[Connection])
    assert_type(config.placement, Placement)
    elsewhere: Placement = Threads()
    Config(on_create=Connection, on_destroy=Connection.close, worker_count=1, placement=elsewhere)
    assert_type(m.queue_task(ping), int)
    assert_type(m.executor().submit(current_resource).result(), Any)


def the_errors_say_what_happened(m: TaskManager[Connection]) -> None:
    lost = WorkerLostError("gone", -9)
    assert_type(lost.exit_code, int | None)
    assert_type(lost.began, bool)
    failed = RemoteTaskError("ValueError: no", "ValueError", "Traceback ...")
    assert_type(failed.type_name, str)
    assert_type(failed.traceback, str)


def a_cluster_is_a_placement(m: TaskManager[Connection]) -> None:
    on_ray: Placement = Ray()
    Config(on_create=Connection, on_destroy=Connection.close, worker_count=1, placement=on_ray)
    Ray(
        address=None,
        grace=timedelta(seconds=2),
        num_cpus=1,
        num_gpus=0.5,
        memory=1 << 30,
        resources={"disk": 1},
    )
    Ray(
        address="10.0.0.7:6379",
        label_selector={"zone": "a"},
        scheduling_strategy="SPREAD",
        runtime_env={"pip": []},
    )
    Ray(runtime_env=lambda slot: {"env_vars": {"PORT": str(9000 + slot.index)}})
    assert_type(Ray().address, str | None)


def a_grace_is_a_time(m: TaskManager[Connection]) -> None:
    Processes(grace=timedelta(seconds=2))
    Processes(environment={"OMP_NUM_THREADS": "1"})
    Processes(environment=lambda slot: {"CUDA_VISIBLE_DEVICES": str(slot.index)})
    assert_type(Processes().grace, float | timedelta)

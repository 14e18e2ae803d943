"""A program: one pool over three simulated nodes. It grows and shrinks; one of them is taken away, another frozen.

python -m tests.placement.three_nodes
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from tasker import Config, Ray, TaskManager, TaskManagerKilledError, TaskTimeoutError
from tests.support.waiting import eventually

CPUS = 2  # of each node
FAST = {  # a node that does not answer is dead after two seconds
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 3,
}


def node_here() -> str:
    """Creates the resource: the identifier of its node."""
    node: str = import_module("ray").get_runtime_context().get_node_id()
    return node


def forget(resource: object) -> None:
    pass


def node_of(node: str) -> str:
    return node


def work(node: str, number: int) -> tuple[int, str]:
    time.sleep(0.1)
    return number, node


def stand(node: str) -> None:
    time.sleep(600)


def manager(worker_count: int, max_worker_count: int) -> TaskManager[str]:
    return TaskManager(
        Config(
            on_create=node_here,
            on_destroy=forget,
            worker_count=worker_count,
            max_worker_count=max_worker_count,
            resource_pool_size=0,
            burst_interval=0.2,
            placement=Ray(num_cpus=1),
        )
    )


def grow_and_shrink(nodes: int) -> None:
    """A backlog hires workers on every node; when it is gone they leave, and only then are the actors gone."""
    with manager(1, nodes * CPUS) as pool:
        futures = [pool.submit(work, number) for number in range(200)]
        results = [future.result() for future in futures]
        assert [number for number, _ in results] == list(range(200))
        seen = Counter(node for _, node in results)
        assert len(seen) == nodes, seen
        most = pool.metrics()
        eventually(lambda: pool.stats().active_workers == 1, "the burst workers to leave")
    print(
        f"grew over {len(seen)} nodes, tasks on each: {sorted(seen.values())}; shrank to 1 worker"
    )
    assert most.total_tasks_retried == 0


def lose_a_node(cluster: Any, nodes: dict[str, Any]) -> None:
    """Under load: every task ends, none is lost, and the pool is as large as before, elsewhere."""
    with manager(4, 4) as pool:
        assert pool.wait_ready(60)
        futures = [pool.submit(work, number) for number in range(400)]
        _, lost = futures[0].result()
        cluster.remove_node(nodes[lost], allow_graceful=False)
        results = [future.result(60) for future in futures]
        assert [number for number, _ in results] == list(range(400))
        tried_again = sum(future.attempts > 1 for future in futures)
        metrics = pool.metrics()
        assert (metrics.total_tasks_arrived, metrics.total_tasks_completed) == (400, 400)
        assert metrics.total_tasks_failed == metrics.total_tasks_cancelled == 0
        assert 1 <= tried_again <= CPUS, tried_again
        assert pool.wait_ready(60)
        eventually(lambda: pool.stats().idle_workers == 4, "all workers to be idle")
        here = {
            future.result(60)[1] for future in [pool.submit(work, number) for number in range(40)]
        }
        assert lost not in here
        assert pool.metrics().total_tasks_retried == tried_again
    print(
        f"lost a node: {tried_again} of 400 tasks were tried again, all completed, 4 workers on {len(here)} nodes"
    )


def freeze_a_node(nodes: dict[str, Any]) -> None:
    """Nothing there runs any more, and nobody knows it yet: deadlines and kill() free their callers all the same."""
    with manager(4, 4) as pool:
        assert pool.wait_ready(60)
        there = pool.queue_task(node_of)
        with frozen(nodes.pop(there)):
            late = [pool.submit(stand, timeout=1.0) for _ in range(4)]
            assert {type(future.exception(60)) for future in late} == {TaskTimeoutError}
            # the workers are free as well: all have an actor on another node
            eventually(
                lambda: pool.stats().idle_workers == 4, "other actors in place of the frozen ones"
            )
            here = {
                future.result(60)[1]
                for future in [pool.submit(work, number) for number in range(40)]
            }
            assert there not in here
    print(f"froze a node: 4 of 4 deadlines were kept, 4 workers on {len(here)} nodes")


def kill_with_a_frozen_node(nodes: dict[str, Any]) -> None:
    """No caller and no thread is left behind, though what runs there cannot be told to end."""
    pool = manager(4, 4)
    assert pool.wait_ready(60)
    stuck = [pool.submit(stand) for _ in range(4)]
    eventually(lambda: pool.stats().running_tasks == 4, "the tasks to run")
    with frozen(next(iter(nodes.values()))):
        report = pool.kill(0.1)
        assert {type(future.exception(0)) for future in stuck} == {TaskManagerKilledError}
    assert report.abandoned == (), report
    print(
        "killed a manager with actors on a frozen node: 4 of 4 callers are free, no thread is left"
    )


@contextmanager
def frozen(node: Any) -> Iterator[None]:
    """Each process of a node is stopped, and killed in the end."""
    processes = [info.process.pid for infos in node.all_processes.values() for info in infos]
    for process in processes:  # grows: their children follow
        os.kill(process, signal.SIGSTOP)
        for thread in Path(f"/proc/{process}/task").glob("*/children"):
            processes += map(int, thread.read_text().split())
    yield
    for process in processes:
        os.kill(process, signal.SIGKILL)


def main() -> None:
    ray: Any = import_module("ray")
    cluster = import_module("ray.cluster_utils").Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": FAST},
    )
    try:
        nodes = [cluster.add_node(num_cpus=CPUS) for _ in range(3)]
        ray.init(address=cluster.address, configure_logging=False, log_to_driver=False)
        grow_and_shrink(len(nodes))
        lose_a_node(cluster, {node.node_id: node for node in nodes})
        alive = {
            node.node_id: node for node in [*cluster.worker_nodes, cluster.add_node(num_cpus=CPUS)]
        }
        freeze_a_node(alive)
        kill_with_a_frozen_node(alive)
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()

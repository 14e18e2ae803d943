"""`python -m benchmarks.coordinator`: the cost of a manager with many actors on Ray.

It is the cost to the process of the manager. A line is printed for each number of
actors: the seconds until all are ready, the threads and the memory of this process, the
memory of an actor, the processor time of this process for a no-op task, and the tasks a
second.

All actors are on this machine, so they lower the rate. A coordinator on a machine of
its own would need the same processor time.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.harness.ray_cluster import gather, local_cluster, open_ray
from tasker import TaskManager

ACTORS = (2, 8, 32)
TASKS = 4_000
ROUNDS = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coordinator", description=__doc__)
    parser.add_argument("--actors", type=int, nargs="+", default=ACTORS, help="default: 2 8 32")
    options = parser.parse_args(arguments)
    print("actors    ready  threads      here  an actor  a task, CPU  tasks a second")
    with local_cluster():
        for actors in options.actors:
            print(_measured(actors), flush=True)

    return 0


def _measured(actors: int) -> str:
    threads, memory, started = _threads(), _megabytes(os.getpid()), time.monotonic()
    with open_ray(actors) as manager:
        if not manager.wait_ready(600):
            return f"{actors:>6} were not ready within 600 s"

        ready = time.monotonic() - started
        processes = {manager.submit(_process_of) for _ in range(20 * actors)}
        sizes = [_megabytes(process) for process in {future.result() for future in processes}]
        costs = [_cost(manager) for _ in range(ROUNDS)]
        microseconds, rate = (median(each) for each in zip(*costs, strict=True))
        threads, memory = _threads() - threads, _megabytes(os.getpid()) - memory

        return (
            f"{actors:>6} {ready:>6.1f} s {threads:>+8} {memory:>+6.0f} MB {median(sizes):>6.0f} MB"
            f" {microseconds:>9.0f} µs {rate:>15,.0f}"
        )


def _cost(manager: TaskManager[object]) -> tuple[float, float]:
    """Microseconds of this process's processor time a task, and tasks a second."""
    processor, started = time.process_time(), time.perf_counter()
    gather(manager, TASKS)
    return (time.process_time() - processor) / TASKS * 1e6, TASKS / (time.perf_counter() - started)


def _process_of(resource: object) -> int:
    # With this pause every actor gets a task.
    time.sleep(0.01)
    return os.getpid()


def _threads() -> int:
    """The threads of this process, with those of Ray."""
    return len(os.listdir("/proc/self/task"))


def _megabytes(process: int) -> float:
    """Memory that is this process's alone."""
    pages = Path(f"/proc/{process}/statm").read_text().split()
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    raise SystemExit(main())

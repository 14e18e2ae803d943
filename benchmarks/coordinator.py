"""`python -m benchmarks.coordinator`: what a manager costs the process that it is in,
with more and more actors on Ray.

Prints a line for each number of actors: seconds until all are ready; threads and memory
of this process; memory of an actor; what a no-op task takes of this process's processor
time, and how many there are a second. The actors are all on this machine, so the rate
is what they leave of it; the processor time is what a coordinator on a machine of its
own would need.
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
    """Returns the exit status."""
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
    time.sleep(0.01)  # so that every actor gets one
    return os.getpid()


def _threads() -> int:
    """Those of this process, Ray's too."""
    return len(os.listdir("/proc/self/task"))


def _megabytes(process: int) -> float:
    """Memory that is this process's alone."""
    pages = Path(f"/proc/{process}/statm").read_text().split()
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    raise SystemExit(main())

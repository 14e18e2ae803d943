"""`python -m benchmarks.black_hole`: one of eight workers fails at once.

On one resource each task fails after 1 ms. On the seven others it takes 100 ms and
succeeds. A line is printed for each load and way to run them: the tasks, those that
were lost, and the seconds until the resource was replaced. Under the load "full" tasks
always wait. Under "half" they come half as fast as the seven can do them.

The rival is the standard library's executor, whose threads have a resource each.
"""

from __future__ import annotations

import argparse
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any

from tasker import Config, Slot, TaskManager

WORKERS = 8
WAITING = 2 * WORKERS
SECONDS = 10.0
FAILS_AFTER_S = 0.001
TAKES_S = 0.1
HALF_A_SECOND = (WORKERS - 1) / TAKES_S / 2
LOADS = ("full", "half")

HEAD = f"{'load':<6}{'pool':<24}   tasks    lost  of all  replaced after"


class Resource:
    """One of a pool's; the first is bad."""

    def __init__(self, is_bad: bool) -> None:
        self.is_bad = is_bad
        self.gone_at: float | None = None

    def work(self) -> None:
        """Do one task."""
        time.sleep(FAILS_AFTER_S if self.is_bad else TAKES_S)
        if self.is_bad:
            raise RuntimeError("nothing works here")


# Submits a task, or waits for room, where so many wait.
Submit = Callable[[], "Future[Any]"]


@contextmanager
def ours(resources: list[Resource], eject_after: int | None) -> Iterator[Submit]:
    def create(slot: Slot) -> Resource:
        resources.append(Resource(is_bad=slot.index == slot.generation == 0))
        return resources[-1]

    def destroy(resource: Resource) -> None:
        resource.gone_at = time.monotonic()

    config = Config(
        on_create=create,
        on_destroy=destroy,
        worker_count=WORKERS,
        max_worker_count=WORKERS,
        queue_size=WAITING,
        eject_after=eject_after,
    )
    with TaskManager(config) as manager:
        manager.wait_ready()
        yield partial(manager.submit, Resource.work)


@contextmanager
def standard(resources: list[Resource]) -> Iterator[Submit]:
    here = threading.local()
    numbers = count()
    ready = threading.Barrier(WORKERS)
    room = threading.Semaphore(WORKERS + WAITING)

    def begin() -> None:
        here.resource = Resource(is_bad=next(numbers) == 0)
        resources.append(here.resource)
        ready.wait()

    def submit() -> Future[Any]:
        room.acquire()
        future = pool.submit(lambda: here.resource.work())
        future.add_done_callback(lambda _: room.release())
        return future

    with ThreadPoolExecutor(WORKERS) as pool:
        for future in [pool.submit(begin) for _ in range(WORKERS)]:
            future.result()
        yield submit


WAYS: dict[str, Callable[[list[Resource]], Any]] = {
    "ThreadPoolExecutor": standard,
    "tasker": partial(ours, eject_after=None),
    "tasker, eject_after=5": partial(ours, eject_after=5),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.black_hole", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each load; default: 10")
    options = parser.parse_args(arguments)

    print(HEAD)
    for load in LOADS:
        for name in WAYS:
            print(f"{load:<6}{name:<24}{_measured(name, load, options.seconds)}", flush=True)
    return 0


def _measured(way: str, load: str, seconds: float) -> str:
    resources: list[Resource] = []
    with WAYS[way](resources) as submit:
        began = time.monotonic()
        futures = list(_stream(submit, load, began + seconds))
        lost = sum(future.exception() is not None for future in futures)
        gone_at = next(resource.gone_at for resource in resources if resource.is_bad)

    after = "never" if gone_at is None else f"{gone_at - began:.2f} s"
    return f"{len(futures):>8,}{lost:>8,}{lost / len(futures):>8.1%}{after:>16}"


def _stream(submit: Submit, load: str, until: float) -> Iterator[Future[Any]]:
    due = time.monotonic()
    while due < until:
        yield submit()
        due = time.monotonic() if load == "full" else due + 1 / HALF_A_SECOND
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    logging.getLogger("tasker").setLevel(logging.CRITICAL)
    raise SystemExit(main())

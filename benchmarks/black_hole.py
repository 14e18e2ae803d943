"""`python -m benchmarks.black_hole`: one of eight workers fails at once.

On one resource each task fails after 1 ms. On the seven others it takes 100 ms and
succeeds. A line is printed for each load, without `eject_after` and with it: the tasks,
those that were lost, and the seconds until the resource was replaced. Under the load
"full" tasks always wait. Under "half" they come half as fast as the seven can do them.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tasker import Config, Slot, TaskFuture, TaskManager

WORKERS = 8
SECONDS = 10.0
FAILS_AFTER_S = 0.001
TAKES_S = 0.1
HALF_A_SECOND = (WORKERS - 1) / TAKES_S / 2
LOADS = ("full", "half")

HEAD = "load  eject_after    tasks     lost  of all  replaced after"


class Resource:
    """Bad if it is the first one in the first slot."""

    def __init__(self, slot: Slot) -> None:
        self.is_bad = slot.index == slot.generation == 0
        self.gone_at: float | None = None

    def work(self) -> None:
        """Do one task."""
        time.sleep(FAILS_AFTER_S if self.is_bad else TAKES_S)
        if self.is_bad:
            raise RuntimeError("nothing works here")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.black_hole", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each load; default: 10")
    options = parser.parse_args(arguments)

    logging.getLogger("tasker").setLevel(logging.CRITICAL)
    print(HEAD)
    for load in LOADS:
        for eject_after in (None, 5):
            print(_measured(load, eject_after, options.seconds), flush=True)
    return 0


def _measured(load: str, eject_after: int | None, seconds: float) -> str:
    resources: list[Resource] = []

    def create(slot: Slot) -> Resource:
        resources.append(Resource(slot))
        return resources[-1]

    def destroy(resource: Resource) -> None:
        resource.gone_at = time.monotonic()

    config = Config(
        on_create=create,
        on_destroy=destroy,
        worker_count=WORKERS,
        max_worker_count=WORKERS,
        queue_size=2 * WORKERS,
        eject_after=eject_after,
    )
    with TaskManager(config) as manager:
        manager.wait_ready()
        began = time.monotonic()
        futures = list(_stream(manager, load, began + seconds))
        lost = sum(future.exception() is not None for future in futures)
        gone_at = next(resource.gone_at for resource in resources if resource.is_bad)

    after = "never" if gone_at is None else f"{gone_at - began:.2f} s"
    share = lost / len(futures)
    return f"{load:<4} {eject_after!s:>12} {len(futures):>8,} {lost:>8,} {share:>7.1%} {after:>15}"


def _stream(manager: TaskManager[Resource], load: str, until: float) -> Iterator[TaskFuture[Any]]:
    due = time.monotonic()
    while due < until:
        yield manager.submit(Resource.work)
        due = time.monotonic() if load == "full" else due + 1 / HALF_A_SECOND
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    raise SystemExit(main())

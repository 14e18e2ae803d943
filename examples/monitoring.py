"""Watch a burst: tasks pile up, the crew grows to its limit, works them off, and shrinks again.

    python examples/monitoring.py

`stats()` is the moment: how many workers there are, what they do, what waits. `metrics()` is the history: totals since
the beginning, how long tasks took and waited, rates over the last seconds. Both are cheap enough for every scrape of a
monitoring system, and neither resets anything by being read, so any number of readers may look.

What to look at:

- `queued_tasks` grows while `active_workers` is at its maximum: more arrives than can be done. Raise `max_worker_count`
  if the backend bears it, else bound the queue (`queue_size`), so that who submits has to wait.
- `average_wait_time` is what callers suffer from too few workers, `p95_execution_time` what the work itself costs.
- `creating_workers` stays above 0: resources cannot be made, or take long.
- `failure_rate` is what callers saw; `total_tasks_retried` is what they did not see: resources that broke.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tasker import Config, Context, TaskManager, background, with_cancel


class Session:
    """A session with a backend; what a worker owns. Whatever it is asked, it answers when the backend answers."""

    def __init__(self, backend: Context) -> None:
        self.backend = backend

    def close(self) -> None:
        pass


def ask(session: Session) -> None:
    session.backend.wait()  # for as long as the backend is overloaded
    time.sleep(0.01)


def show_stats(moment: str, manager: TaskManager[Session]) -> None:
    now = manager.stats()
    workers = f"{now.active_workers} workers ({now.burst_workers} burst, {now.idle_workers} idle)"
    print(f"{moment:<9} {workers}, {now.running_tasks} tasks running, {now.queued_tasks} waiting")


def show_metrics(manager: TaskManager[Session]) -> None:
    past = manager.metrics()
    print(
        f"totals    {past.total_tasks_arrived} arrived, {past.total_tasks_completed} completed",
        end=", ",
    )
    print(f"{past.total_tasks_failed} failed, {past.total_tasks_retried} retried")
    print(
        f"rates     {past.task_arrival_rate:.1f} arrived a second, {past.task_completion_rate:.1f} completed",
        end="",
    )
    print(f", success rate {past.success_rate:.0%}")
    print(f"seconds   waited {past.average_wait_time:.2f} on average", end=", ")
    print(
        f"ran {past.average_execution_time:.2f} on average, {past.p95_execution_time:.2f} at most in 95 of 100"
    )


def is_quiet(manager: TaskManager[Session]) -> bool:
    now = manager.stats()
    return now.active_workers == now.idle_workers == now.base_workers == 2


def wait_until(condition: Callable[[], bool], patience: float = 20.0) -> None:
    """Look every few milliseconds: that workers were hired or retired is nothing that one is told."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the crew did not become what it should")
        time.sleep(0.01)


def main() -> None:
    # A backend that is overloaded until we say otherwise makes the same burst every time. Who waits for this context
    # goes on once it is cancelled; leaving its `with` block does that too, should anything go wrong before.
    overloaded = with_cancel(background())
    config = Config(
        on_create=lambda: Session(overloaded),
        on_destroy=Session.close,
        worker_count=2,
        max_worker_count=6,
        burst_interval=0.05,  # seconds between two looks at the load
    )
    with TaskManager(config) as manager, overloaded:
        wait_until(lambda: is_quiet(manager))
        show_stats("quiet", manager)

        for _ in range(40):
            manager.queue_task_async(ask)
        wait_until(lambda: manager.stats().running_tasks == 6)
        show_stats("peak", manager)  # hired within a look or two, and no more than max_worker_count

        overloaded.cancel()
        manager.join()  # until nothing waits or runs
        show_metrics(manager)

        # Workers that were idle at every look of a whole second are retired, down to the base: a short pause between
        # two bursts costs no resources.
        wait_until(lambda: is_quiet(manager))
        show_stats("quiet", manager)


if __name__ == "__main__":
    main()

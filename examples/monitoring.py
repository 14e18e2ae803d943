"""Watch a burst: tasks pile up, workers are hired up to the limit, and retired again.

    python examples/monitoring.py

`stats()` shows the moment: how many workers there are, what they do, and how many tasks
wait. `metrics()` shows the history: totals since the beginning, how long tasks took and
waited, rates over the last seconds. Both are cheap enough for every scrape of a
monitoring system. Reading resets nothing, so any number of readers may look.

Look at these figures:

- `queued_tasks` grows while `active_workers` is at its maximum: more tasks arrive than
  can be done. Raise `max_worker_count` if the backend bears it. Otherwise bound the
  queue (`queue_size`), so that submitters have to wait.
- `average_wait_time` is the price of too few workers for callers. `p95_execution_time`
  is the price of the work itself.
- `creating_workers` stays above 0: resources cannot be made, or take long.
- `failure_rate` counts the failures that callers saw. `total_tasks_retried` counts
  those that they did not see: resources that broke.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tasker import Config, Context, TaskManager, background, with_cancel


class Session:
    """A session with a backend, which answers when the backend does.

    Each worker owns one.
    """

    def __init__(self, backend: Context) -> None:
        self.backend = backend

    def close(self) -> None:
        pass


def ask(session: Session) -> None:
    # Wait for as long as the backend is overloaded.
    session.backend.wait()
    time.sleep(0.01)


def show_stats(moment: str, manager: TaskManager[Session]) -> None:
    now = manager.stats()
    workers = f"{now.active_workers} workers ({now.burst_workers} burst, {now.idle_workers} idle)"
    print(f"{moment:<9} {workers}, {now.running_tasks} tasks running, {now.queued_tasks} waiting")


def show_metrics(manager: TaskManager[Session]) -> None:
    past = manager.metrics()
    print(
        f"totals    {past.total_tasks_arrived} arrived, {past.total_tasks_completed} completed,"
        f" {past.total_tasks_failed} failed, {past.total_tasks_retried} retried"
    )
    print(
        f"rates     {past.task_arrival_rate:.1f} arrived a second,"
        f" {past.task_completion_rate:.1f} completed, success rate {past.success_rate:.0%}"
    )
    print(
        f"seconds   waited {past.average_wait_time:.2f} on average,"
        f" ran {past.average_execution_time:.2f} on average,"
        f" {past.p95_execution_time:.2f} at most in 95 of 100"
    )


def is_quiet(manager: TaskManager[Session]) -> bool:
    now = manager.stats()
    return now.active_workers == now.idle_workers == now.base_workers == 2


def wait_until(condition: Callable[[], bool], patience: float = 20.0) -> None:
    """Look every few milliseconds: no call waits for workers to be hired or retired."""
    deadline = time.monotonic() + patience

    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the workers did not become as many as they should")

        time.sleep(0.01)


def main() -> None:
    # A backend that is overloaded until we cancel this makes the same burst every time.
    # Tasks that wait for this context go on once it is cancelled. Leaving its `with`
    # block cancels it too, in case of an error before.
    overloaded = with_cancel(background())
    config = Config(
        on_create=lambda: Session(overloaded),
        on_destroy=Session.close,
        worker_count=2,
        max_worker_count=6,
        # Seconds between two looks at the load.
        burst_interval=0.05,
    )
    with TaskManager(config) as manager, overloaded:
        wait_until(lambda: is_quiet(manager))
        show_stats("quiet", manager)

        for _ in range(40):
            manager.queue_task_async(ask)
        wait_until(lambda: manager.stats().running_tasks == 6)
        # Workers are hired within a look or two, and no more than max_worker_count.
        show_stats("peak", manager)

        overloaded.cancel()
        # Wait until no task waits or runs.
        manager.join()
        show_metrics(manager)

        # Workers that were idle at every look of a whole second are retired, down to
        # worker_count. A short pause between two bursts costs no resources.
        wait_until(lambda: is_quiet(manager))
        show_stats("quiet", manager)


if __name__ == "__main__":
    main()

"""Feed tasker's figures to your metrics system, here as text for Prometheus.

    python examples/custom_collector.py

tasker tells `Config.collector` of each task: when it is accepted, when it ends and how,
and when it is retried. A collector is any object with the five methods of
`MetricsCollector`. The one below keeps a counter for each outcome. It also keeps a
histogram of execution times, for which tasker's own `metrics()` has no place.

Many threads call it at once (those that submit and the workers), so it locks. Each task
waits for it, so it only counts. The text is made in the thread that asks for it. In a
service that is the handler of the path /metrics.
"""

from __future__ import annotations

import bisect
import itertools
import threading
import time
from collections.abc import Iterator

from tasker import Config, TaskLifecycleTimestamps, TaskManager, TaskMetrics, unhealthy_on

# The upper ends of the histogram's buckets. A last bucket holds the longer times.
BOUNDS_S = (0.01, 0.1, 1.0)


class PrometheusCollector:
    """A `MetricsCollector`: counters, and a histogram of completed tasks' times."""

    def __init__(self) -> None:
        # Guards all the fields below.
        self._lock = threading.Lock()
        self._arrived = 0
        self._retried = 0
        self._outcomes = {"completed": 0, "failed": 0}
        self._buckets = [0] * (len(BOUNDS_S) + 1)
        self._waited = 0.0
        self._ran = 0.0

    def record_arrival(self) -> None:
        with self._lock:
            self._arrived += 1

    def record_completion(self, stamps: TaskLifecycleTimestamps) -> None:
        ran = stamps.finished_at - stamps.started_at

        with self._lock:
            self._outcomes["completed"] += 1
            self._buckets[bisect.bisect_left(BOUNDS_S, ran)] += 1
            self._ran += ran
            self._waited += stamps.started_at - stamps.queued_at

    def record_failure(self, stamps: TaskLifecycleTimestamps) -> None:
        with self._lock:
            self._outcomes["failed"] += 1

    def record_retry(self) -> None:
        with self._lock:
            self._retried += 1

    def metrics(self) -> TaskMetrics:
        """`TaskManager.metrics()` returns this; a field that is left out is 0.

        A collector that only passes figures on returns None here. Then the manager
        returns its own figures.
        """
        with self._lock:
            completed, failed = self._outcomes["completed"], self._outcomes["failed"]
            ended = completed + failed

            return TaskMetrics(
                total_tasks_arrived=self._arrived,
                total_tasks_completed=completed,
                total_tasks_failed=failed,
                total_tasks_retried=self._retried,
                success_rate=completed / ended if ended else 0.0,
                failure_rate=failed / ended if ended else 0.0,
                average_execution_time=self._ran / completed if completed else 0.0,
                average_wait_time=self._waited / completed if completed else 0.0,
            )

    def text(self) -> str:
        """Return all figures, in the text format of Prometheus."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        with self._lock:
            outcomes, retried = dict(self._outcomes), self._retried
            counts, ran = list(itertools.accumulate(self._buckets)), self._ran

        yield "# TYPE tasks_total counter"
        for outcome, count in outcomes.items():
            yield f'tasks_total{{outcome="{outcome}"}} {count}'

        yield "# TYPE task_retries_total counter"
        yield f"task_retries_total {retried}"

        yield "# TYPE task_seconds histogram"
        # In this format each bucket counts those before it, too.
        for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), counts, strict=True):
            yield f'task_seconds_bucket{{le="{bound}"}} {count}'
        yield f"task_seconds_sum {ran:.3f}"
        yield f"task_seconds_count {counts[-1]}"


class Printer:
    """The resource. Page 13 jams the first printer that gets it."""

    jammed = False

    def print_page(self, page: int) -> None:
        if page < 1:
            # This is the task's own fault. It fails, and the printer is kept.
            raise ValueError(f"there is no page {page}")

        if page == 13 and not Printer.jammed:
            Printer.jammed = True
            # This costs the printer. The task is retried on another one.
            raise ConnectionError("paper jam")

        time.sleep(0.02)


def main() -> None:
    collector = PrometheusCollector()
    config = Config(
        on_create=Printer,
        on_destroy=lambda _: None,
        worker_count=4,
        check_health=unhealthy_on(ConnectionError),
        collector=collector,
    )
    with TaskManager(config) as manager:
        futures = [manager.queue_task_async(Printer.print_page, page) for page in range(21)]
        errors = [error for future in futures if (error := future.exception())]

    print("failed:", *errors)
    print(collector.text(), end="")
    print(f"success rate {manager.metrics().success_rate:.1%}")


if __name__ == "__main__":
    main()

"""Feed tasker's figures to a metrics system of your own, here as text that Prometheus can read.

    python examples/custom_collector.py

tasker tells `Config.collector` of each task: when it is accepted, when it ends and how, when it is retried. A collector
is any object with the five methods of `MetricsCollector`. The one below keeps a counter for each outcome and a
histogram of execution times, for which tasker's own `metrics()` has no place.

It is called by many threads at once (the submitters' and the workers'), so it locks; and each task waits for it, so it
only counts. Formatting is done by whoever asks, which in a service is the handler of the path /metrics.
"""

from __future__ import annotations

import bisect
import itertools
import threading
import time
from collections.abc import Iterator

from tasker import Config, TaskLifecycleTimestamps, TaskManager, TaskMetrics, unhealthy_on

BOUNDS = (
    0.01,
    0.1,
    1.0,
)  # seconds: upper ends of the histogram's buckets; a last one holds what took longer


class PrometheusCollector:
    """A `MetricsCollector`: counters, and a histogram of the seconds that completed tasks ran."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all that follows
        self._arrived = 0
        self._retried = 0
        self._outcomes = {"completed": 0, "failed": 0}
        self._buckets = [0] * (len(BOUNDS) + 1)
        self._waited = 0.0
        self._ran = 0.0

    def record_arrival(self) -> None:
        with self._lock:
            self._arrived += 1

    def record_completion(self, stamps: TaskLifecycleTimestamps) -> None:
        ran = stamps.finished_at - stamps.started_at
        with self._lock:
            self._outcomes["completed"] += 1
            self._buckets[bisect.bisect_left(BOUNDS, ran)] += 1
            self._ran += ran
            self._waited += stamps.started_at - stamps.queued_at

    def record_failure(self, stamps: TaskLifecycleTimestamps) -> None:
        with self._lock:
            self._outcomes["failed"] += 1

    def record_retry(self) -> None:
        with self._lock:
            self._retried += 1

    def metrics(self) -> TaskMetrics:
        """What `TaskManager.metrics()` returns from now on; a field that is left out is 0.

        A collector that only passes figures on returns None here, and the manager's own are kept."""
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
        """All figures, in the text format of Prometheus."""
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
        for bound, count in zip(
            (*map(str, BOUNDS), "+Inf"), counts, strict=True
        ):  # each holds the ones before it
            yield f'task_seconds_bucket{{le="{bound}"}} {count}'
        yield f"task_seconds_sum {ran:.3f}"
        yield f"task_seconds_count {counts[-1]}"


class Printer:
    """The resource. Page 13 jams the first printer that is given it."""

    jammed = False

    def print_page(self, page: int) -> None:
        if page < 1:
            raise ValueError(
                f"there is no page {page}"
            )  # the task's own fault: it fails, the printer is kept
        if page == 13 and not Printer.jammed:
            Printer.jammed = True
            raise ConnectionError("paper jam")  # costs the printer: the task is retried on another
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

"""Random programs against a manager whose resources break, with a tiny switch interval; the invariants hold at the end.

`TASKER_STRESS_SECONDS` sets how long (default 2), `TASKER_STRESS_SEED` repeats a run. The seed is printed."""

from __future__ import annotations

import concurrent.futures
import os
import random
import sys
import threading
import time

import pytest

from tasker import (
    QueueFullError,
    TaskManagerKilledError,
    TaskManagerShutdownError,
    TaskTimeoutError,
)
from tests.support.errors import Sick
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("TASKER_STRESS_SECONDS", "2"))
SEED = int(os.environ.get("TASKER_STRESS_SEED", str(random.SystemRandom().randrange(10**6))))


@pytest.fixture
def tiny_switch_interval():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.parametrize("bound", [0, 20])
@pytest.mark.usefixtures("tiny_switch_interval", "short_pauses")
def test_nothing_is_lost_whatever_happens_at_once(new_manager, factory, end, bound):
    print(f"TASKER_STRESS_SEED={SEED}")
    manager = new_manager(
        worker_count=2,
        max_worker_count=5,
        burst_interval=0.005,
        queue_size=bound,
        max_retries=2,
        resource_pool_size=0,
        burst_task_threshold=10,
    )
    runs: dict[int, int] = {}
    finished = threading.Event()

    def body(resource, number, chance):
        runs[number] = runs.get(number, 0) + 1
        if chance < 0.1:
            raise Sick
        if chance < 0.2:
            raise ValueError(number)
        if chance < 0.3:
            time.sleep(0.001)
        return number

    task = factory.use(body)
    records: list[tuple[concurrent.futures.Future, int, bool]] = []
    unexpected: list[BaseException] = []

    def producer(index):
        rng = random.Random(SEED * 100 + index)
        number = index * 10**7
        try:
            while not finished.is_set():
                number += 1
                chance, once = rng.random(), rng.random() < 0.3
                timeout = rng.choice([None, None, None, 0.0005, 0.005, 5.0])
                try:
                    if rng.random() < 0.1:
                        try:
                            assert manager.run_task(task, -1, 0.5) == -1
                        except (Sick, ValueError):
                            raise AssertionError from None
                        continue
                    future = manager.submit(
                        task,
                        number,
                        chance,
                        priority=rng.random() < 0.3,
                        once=once,
                        timeout=timeout,
                        queue_timeout=1.0,
                    )
                except QueueFullError:
                    continue
                records.append((future, number, once))
                if rng.random() < 0.2:
                    future.cancel()
        except TaskManagerShutdownError:
            pass
        except BaseException as error:
            unexpected.append(error)

    producers = [threading.Thread(target=producer, args=(index,)) for index in range(3)]
    for thread in producers:
        thread.start()
    deadline = time.monotonic() + SECONDS / 4
    arrived = 0
    while time.monotonic() < deadline:
        metrics, stats = manager.metrics(), manager.stats()
        assert metrics.total_tasks_arrived >= arrived
        arrived = metrics.total_tasks_arrived
        assert stats.active_workers <= 5
        assert min(stats.queued_tasks, stats.priority_tasks, stats.running_tasks) >= 0
    report = manager.stop() if end == "stop" else manager.kill(PATIENCE)
    finished.set()
    for thread in producers:
        thread.join(PATIENCE)
    assert unexpected == []
    assert report.abandoned == ()

    for future, number, once in records:
        assert future.done(), f"{future} was never settled"
        times = runs.get(number, 0)
        assert times <= (1 if once else 3)
        if future.cancelled():
            continue
        error = future.exception(0)
        assert isinstance(
            error, (Sick, ValueError, TaskTimeoutError, TaskManagerKilledError, type(None))
        )
        if error is None:
            assert future.result(0) == number
        if type(error) is Sick and not once and end == "stop" and times < 3:
            assert future._cancel_asked
    metrics = manager.metrics()
    ended = (
        metrics.total_tasks_completed + metrics.total_tasks_failed + metrics.total_tasks_cancelled
    )
    assert metrics.total_tasks_arrived == ended
    queue = manager._engine.queue
    assert queue._dead == {
        False: len(queue._main),
        True: len(queue._priority),
    }  # withdrawn after the last compaction
    assert queue._requeued == {False: 0, True: 0}
    assert queue.room.used() == 0

"""Where nothing happens the burst thread rests: it sleeps without a tick until something does, and misses nothing."""

from __future__ import annotations

import threading
import time

import pytest

import tasker._pool.housekeeper
import tasker._pool.metrics
from tasker._pool.metrics import RATE_WINDOW_S, Counters
from tasker._sync.parking import Parker, ParkingLot
from tasker.threadpool import ThreadPoolExecutor
from tests.support.waiting import PATIENCE, eventually


@pytest.fixture(autouse=True)
def soon_and_for_ever(monkeypatch):
    """It rests as soon as nothing is to be done, and nothing but the protocol ends the rest."""
    monkeypatch.setattr(tasker._pool.housekeeper, "QUIET_S", 0.0)
    monkeypatch.setattr(tasker._pool.housekeeper, "REST_S", threading.TIMEOUT_MAX)


def resting(manager):
    """The engine of a manager or a pool, once it rests."""
    engine = manager._task_engine if isinstance(manager, ThreadPoolExecutor) else manager._engine
    eventually(lambda: engine.queue.resting, "the burst thread to rest")
    return engine


class Ticks:
    """Counts the ticks of an engine from now on."""

    def __init__(self, engine):
        self.count, self.sample = 0, engine.counters.sample
        engine.counters.sample = self

    def __call__(self, now):
        self.count += 1
        return self.sample(now)


def stop_at_leisure(manager):
    threading.Thread(target=manager.stop, daemon=True).start()


STIRRING = {
    "a task": lambda manager: manager.submit(lambda resource: None),
    "a priority task": lambda manager: manager.submit(lambda resource: None, priority=True),
    "a task with a timeout": lambda manager: manager.submit(lambda resource: None, timeout=60),
    "run_task": lambda manager: manager.run_task(lambda resource: None),
    "map": lambda manager: list(manager.map(lambda resource, x: x, [1, 2])),
    "a lost resource": lambda manager: manager._engine.resource_lost(
        manager._engine.crew.members[0].resource
    ),
    "a job for another thread": lambda manager: manager._engine.run_in_other_thread([lambda: None]),
    "a worker that leaves": lambda manager: manager._engine.crew.members[0].dismiss(),
    "stop": stop_at_leisure,
    "kill": lambda manager: manager._engine.lifecycle.request_kill(PATIENCE),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STIRRING)
@pytest.mark.parametrize("options", [{}, {"queue_size": 3}, {"burst_interval": 0}], ids=repr)
def test_what_happens_ends_the_rest(new_manager, factory, name, options):
    factory.any_thread = True
    manager = new_manager(worker_count=3, **options)
    engine = resting(manager)
    ticks = Ticks(engine)
    STIRRING[name](manager)
    eventually(lambda: ticks.count or engine.lifecycle.has_ended(), "a tick")


@pytest.mark.slow
def test_one_that_waits_for_a_resource_ends_the_rest(new_manager):
    manager = new_manager(worker_count=1)
    engine = resting(manager)
    ticks = Ticks(engine)
    engine.crew.members[0].holds_resource = False  # so that there is something to wait for
    waiting = threading.Thread(target=manager.wait_ready, args=(PATIENCE,), daemon=True)
    waiting.start()
    eventually(lambda: ticks.count, "a tick")
    engine.crew.members[0].holds_resource = True
    waiting.join(PATIENCE)
    assert not waiting.is_alive()


@pytest.mark.parametrize("used", [False, True])
def test_a_pool_that_hires_when_needed_rests_and_is_stirred(used):
    with ThreadPoolExecutor(2) as pool:
        ticks = Ticks(resting(pool))
        if used:
            pool.submit(len, ()).result(PATIENCE)
            eventually(lambda: ticks.count, "the end of this rest")
            resting(pool)
            ticks.count = 0
        assert pool.submit(len, ()).result(PATIENCE) == 0
        eventually(lambda: ticks.count, "a tick")


@pytest.fixture
def no_thread_at_first(monkeypatch):
    """The next thread cannot be started; returns the list of those that could not."""
    start, failed = threading.Thread.start, []

    def start_later(thread):
        if not failed:
            failed.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    return lambda: monkeypatch.setattr(threading.Thread, "start", start_later) or failed


def test_a_pool_at_rest_hires_although_no_thread_could_be_started_at_first(no_thread_at_first):
    with ThreadPoolExecutor(1) as pool:
        resting(pool)
        failed = no_thread_at_first()
        assert pool.submit(len, ()).result(PATIENCE) == 0
        assert failed


def test_a_manager_at_rest_runs_a_job_although_no_thread_could_be_started_at_first(
    new_manager, no_thread_at_first
):
    engine = resting(new_manager())
    failed, ran = no_thread_at_first(), threading.Event()
    engine.run_in_other_thread([ran.set])
    assert ran.wait(PATIENCE)
    assert failed


@pytest.mark.slow
def test_a_pool_that_goes_to_rest_while_a_task_comes_misses_none(monkeypatch):
    """Each task needs a tick, as no thread can be started for it at first, and comes at another moment."""
    start, refusing = threading.Thread.start, []

    def start_later(thread):
        if thread.name.startswith("seldom_") and refusing:
            refusing.clear()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_later)
    with ThreadPoolExecutor(40, thread_name_prefix="seldom") as pool:
        queue, busy, gate = pool._task_engine.queue, [], threading.Event()
        for moment in range(12):
            for _ in range(moment):
                queue.stir()  # an end of the rest, and another beginning, soon
            refusing.append(True)
            busy.append(pool.submit(gate.wait, PATIENCE))
            eventually(busy[-1].running, "a thread for the task")
            assert not refusing
        gate.set()
        assert all(future.result(PATIENCE) for future in busy)


def test_a_wake_up_that_is_lost_at_rest_is_made_good(new_manager):
    manager = new_manager(worker_count=2)
    engine = resting(manager)

    class Idle(ParkingLot):
        """Where the first wake-up gets lost, as one does whose sender is interrupted."""

        lost = False

        def wake_one(self):
            if self.lost:
                super().wake_one()
            else:
                self.lost = bool(self.announced.pop())

    idle = Idle()
    idle.announced = engine.queue.idle.announced
    engine.queue.idle = idle
    assert manager.submit(lambda resource: "done").result(PATIENCE) == "done"
    assert idle.lost


def test_a_manager_does_not_rest_while_there_is_anything_to_see_to(new_manager, factory):
    factory.any_thread = True
    manager = new_manager(worker_count=1, max_worker_count=2, resource_pool_size=1)
    manager._engine.crew.hire(1)
    eventually(lambda: manager.stats().idle_workers == 2)
    engine = resting(manager)
    housekeeper, queue = engine.housekeeper, engine.queue
    assert housekeeper._is_quiet()

    gate, started = threading.Event(), threading.Event()
    running = manager.submit(lambda resource: (started.set(), gate.wait(PATIENCE)))
    assert started.wait(PATIENCE)
    assert not housekeeper._is_quiet()
    gate.set()
    running.result(PATIENCE)
    eventually(housekeeper._is_quiet)

    assert manager.run_task(lambda resource: housekeeper._is_quiet()) is False
    for holder, name, value in [
        (queue, "waking", True),
        (engine, "watchers", [Parker()]),
        (engine, "exiting", True),
        (engine.crew, "base", 3),
        (housekeeper, "scales", True),  # the second worker is to be retired
    ]:
        before = getattr(holder, name)
        setattr(holder, name, value)
        assert not housekeeper._is_quiet(), name
        setattr(holder, name, before)
        assert housekeeper._is_quiet()


def test_a_rest_is_no_time_without_resources(new_manager, monkeypatch):
    """`create_timeout` counts from the loss of the resources on, not from the last tick before the rest."""
    engine = resting(new_manager())
    housekeeper, watch, seen = engine.housekeeper, engine.housekeeper._watch_resources, []
    monkeypatch.setattr(
        housekeeper, "_watch_resources", lambda: (seen.append(housekeeper._held_at), watch())
    )
    began = time.monotonic()
    housekeeper._held_at = began - 1e6
    engine.queue.stir()
    eventually(lambda: seen, "a tick")
    assert seen[0] >= began


# -- rates ---------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.mark.parametrize("rest", [0.5, RATE_WINDOW_S - 1, 1e6])
def test_rates_after_a_rest_are_those_of_the_last_seconds(monkeypatch, rest):
    clock = Clock()
    monkeypatch.setattr(tasker._pool.metrics, "monotonic", clock.monotonic)
    figures = Counters(lambda: 0)
    shard = figures.new_shard()
    for _ in range(200):  # 20 s without a task
        clock.now += 0.1
        figures.sample(clock.now)
    clock.now += rest
    figures.rested(clock.now)
    for _ in range(50):
        shard.taken += 1
        shard.durations += (0.0, 0.1)
    clock.now += 0.1
    figures.sample(clock.now)
    metrics = figures.metrics()
    assert (
        metrics.task_completion_rate
        == metrics.task_arrival_rate
        == pytest.approx(50 / RATE_WINDOW_S, rel=0.1)
    )
    clock.now += RATE_WINDOW_S + 0.1
    assert figures.metrics().task_completion_rate == 0


def test_the_samples_of_many_rests_are_forgotten():
    figures = Counters(lambda: 0)
    for second in range(1000):
        figures.rested(1e6 + second)
        figures.sample(1e6 + second)
    assert len(figures._samples) < 100

"""What breaks again and again: workers pause, a task's attempts are spaced, and everybody else gets his turn."""

from __future__ import annotations

import threading
import time

import pytest

import tasker._pool.backoff
import tasker._pool.lifecycle
import tasker._sync.recurring
from tasker import ResourceCreationError, TaskManagerKilledError, TaskTimeoutError
from tasker._pool.backoff import Backoff
from tasker.errors import ContextCancelledError
from tests.support.errors import Sick
from tests.support.waiting import PATIENCE, eventually


def sick(resource):
    raise Sick


def is_waiting(manager):
    return sum(manager._engine.queue.waiting()) > 0


# -- workers ---------------------------------------------------------------------------------------------------------


def never_wakes_up(manager, worker):
    """Wake a pausing worker until it has slept on twice, as closing and healing do."""
    slept = []
    sleep = worker.parker.sleep

    class Parker(type(worker.parker)):
        __slots__ = ()

        def sleep(self, timeout=-1.0):
            slept.append(timeout)
            return sleep(timeout)

    worker.parker.__class__ = Parker
    while len(slept) < 3:
        manager._engine.crew.wake_all(manager._engine.queue.idle)
        time.sleep(0.001)


@pytest.mark.usefixtures("endless_pauses")
@pytest.mark.parametrize("closing", [False, True])
def test_a_worker_whose_creation_failed_sleeps_its_pause_out_whatever_wakes_it(
    new_manager, factory, log, closing
):
    factory.fail_next = [OSError("down")]
    manager = new_manager(worker_count=1, max_worker_count=1)
    future = manager.submit(lambda resource: 0)
    eventually(log.loud)
    if closing:
        manager._engine.lifecycle.request_stop()
    never_wakes_up(manager, manager._engine.crew.members[0])
    assert factory.created == []
    assert not future.done()
    manager.kill(0)
    assert isinstance(future.exception(0), TaskManagerKilledError)


@pytest.mark.usefixtures("endless_pauses")
def test_a_worker_whose_resource_broke_at_its_first_use_pauses(new_manager, factory):
    manager = new_manager(worker_count=1, max_worker_count=1)
    future = manager.submit(sick)
    eventually(lambda: manager.metrics().total_tasks_retried == 1)
    eventually(lambda: manager.stats().creating_workers == 1)
    never_wakes_up(manager, manager._engine.crew.members[0])
    assert len(factory.created) == len(factory.destroyed) == 1
    assert not future.done()


@pytest.mark.usefixtures("endless_pauses")
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_worker_that_pauses_leaves_when_there_is_nothing_left_to_do(new_manager, factory, end):
    manager = new_manager(worker_count=1, max_worker_count=1)
    assert isinstance(manager.submit(sick, once=True).exception(PATIENCE), Sick)
    assert getattr(manager, end)(PATIENCE).abandoned == ()
    assert len(factory.created) == 1


@pytest.mark.usefixtures("endless_pauses")
def test_a_kill_at_once_abandons_no_worker_that_only_pauses(new_manager, factory, monkeypatch):
    monkeypatch.setattr(tasker._pool.lifecycle, "_JOIN_S", PATIENCE)
    factory.fail_always = OSError("down")
    manager = new_manager(worker_count=32, max_worker_count=32)
    manager.submit(lambda resource: 0)
    eventually(lambda: all(worker.pausing for worker in manager._engine.crew.members))
    assert manager.kill(0).abandoned == ()


@pytest.mark.usefixtures("endless_pauses")
@pytest.mark.parametrize("proof", ["a result", "a healthy error", "a result for a collector"])
def test_a_resource_that_has_done_a_task_well_is_replaced_at_once(new_manager, proof):
    class Collector:
        def __getattr__(self, name):
            return lambda *_: None

    more = {"collector": Collector()} if proof.endswith("collector") else {}
    manager = new_manager(worker_count=1, max_worker_count=1, **more)
    for number in range(3):  # as often as it happens

        def work(resource):
            if proof == "a healthy error":
                raise ValueError

        assert isinstance(manager.submit(work).exception(PATIENCE), (ValueError, type(None)))
        assert isinstance(manager.submit(sick, once=True).exception(PATIENCE), Sick)
        assert manager.queue_task(lambda resource: resource.number, timeout=PATIENCE) == number + 1


def test_the_pause_grows_with_every_failure_whatever_its_kind(new_manager, factory, monkeypatch):
    asked = []
    monkeypatch.setattr(Backoff, "_pause", lambda backoff, failures: asked.append(failures) or 0.0)
    factory.fail_next = [OSError("down")]
    manager = new_manager(worker_count=1, max_worker_count=1, max_retries=0)
    for _ in range(2):
        assert isinstance(manager.submit(sick).exception(PATIENCE), Sick)
    factory.fail_next = [OSError("down"), OSError("down")]
    assert isinstance(manager.submit(sick).exception(PATIENCE), Sick)
    assert manager.queue_task(lambda resource: "well") == "well"
    assert asked[:6] == [1, 2, 3, 4, 5, 6]
    assert isinstance(manager.submit(sick).exception(PATIENCE), Sick)
    factory.fail_next = [OSError("down")]
    assert isinstance(manager.submit(sick).exception(PATIENCE), Sick)
    eventually(lambda: len(asked) > 6)
    assert asked[6] == 1, "the row ended with the task that was done well"


@pytest.mark.slow
def test_an_outage_is_told_once_for_all_workers_and_each_failure_as_debug(
    new_manager, factory, log, short_pauses, monkeypatch
):
    monkeypatch.setattr(tasker._sync.recurring, "INTERVALS_S", (1000.0,))
    factory.fail_always = OSError("down")
    manager = new_manager(worker_count=4, max_worker_count=4)
    again = "on_create raised, trying again: OSError: down"
    eventually(lambda: sum(level == "debug" and again in text for level, text in log.lines) > 40)
    (line,) = log.loud()
    assert line.endswith(f": {again}")
    manager.kill(0)


def test_resources_that_break_before_they_have_done_a_task_are_told_of(
    new_manager, log, short_pauses
):
    manager = new_manager(worker_count=1, max_worker_count=1)
    assert isinstance(manager.submit(sick, once=True).exception(PATIENCE), Sick)
    assert log.loud() == [], "one may be the fault of its task"
    assert isinstance(manager.submit(sick, once=True).exception(PATIENCE), Sick)
    eventually(log.loud)  # the caller is told first
    assert [
        line for line in log.loud() if "break before they have done a task" in line
    ] == log.loud()


@pytest.mark.slow
def test_tasks_wait_as_long_as_resources_can_be_made_even_if_they_break_between_two_ticks(
    new_manager, monkeypatch
):
    """create_timeout is for resources that cannot be made: here one is made and broken again and again."""
    monkeypatch.setattr(tasker._pool.backoff, "jitter", lambda: 0.0)
    monkeypatch.setattr(Backoff, "task_pause", lambda backoff, failures, attempts: 0.0)
    manager = new_manager(worker_count=1, max_worker_count=1, max_retries=10**6, create_timeout=0.3)
    engine, ticks, gate, accepted = manager._engine, [], threading.Event(), []
    watch = engine.housekeeper._watch_resources

    def watch_while_none_is_held():
        held = engine.backoff.made_at
        while (
            engine.crew.holding() or engine.backoff.made_at == held
        ):  # one was made since the last tick, and is gone
            if gate.is_set() or any(future.done() for future in accepted):
                break
            time.sleep(0)
        ticks.append(watch())

    def task(resource):
        if not gate.is_set():
            raise Sick
        return "well"

    monkeypatch.setattr(engine.housekeeper, "_watch_resources", watch_while_none_is_held)
    future = manager.submit(task)
    accepted.append(future)
    eventually(lambda: len(ticks) > 8 or future.done())  # for longer than create_timeout
    gate.set()
    assert future.result(PATIENCE) == "well"


# -- the pool --------------------------------------------------------------------------------------------------------


class Backend:
    """An `on_create` that fails until it `is_up`, and who is in it."""

    def __init__(self, factory, first_wave=1):
        self.create_one = factory.create
        self.is_up, self.lock = False, threading.Lock()
        # So many are in it before the first has failed: each of them may try.
        self.first_wave, self.calls = threading.Barrier(first_wave), 0
        self.tried, self.inside, self.most = [], 0, 0

    def create(self):
        with self.lock:
            self.tried.append(threading.current_thread())
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.calls += 1
            is_early = self.calls <= self.first_wave.parties
        if is_early:
            self.first_wave.wait(PATIENCE)
        time.sleep(0.002)  # so that others come in, if they may
        try:
            if not self.is_up:
                raise OSError("down")
            return self.create_one()
        finally:
            with self.lock:
                self.inside -= 1

    def forget(self):
        with self.lock:
            self.tried, self.most = [], 0


@pytest.mark.slow
@pytest.mark.usefixtures("short_pauses")
def test_in_an_outage_one_worker_at_a_time_tries_and_then_all_have_resources(new_manager, factory):
    backend = Backend(factory, first_wave=16)
    manager = new_manager(worker_count=16, max_worker_count=16, on_create=backend.create)
    futures = [manager.submit(lambda resource: resource.number) for _ in range(32)]
    # None is still about to try, as it was allowed to before the outage began.
    eventually(lambda: len(backend.tried) >= 16 and not backend.inside)
    backend.forget()
    eventually(lambda: len(backend.tried) > 10)
    assert backend.most == 1
    backend.is_up = True
    assert manager.wait_ready(PATIENCE)
    assert manager.stats().creating_workers == 0
    for future in futures:
        future.result(PATIENCE)


@pytest.mark.slow
@pytest.mark.usefixtures("short_pauses")
def test_an_on_create_that_hangs_in_an_outage_keeps_the_others_for_create_timeout(
    new_manager, factory
):
    gate, calls = threading.Event(), []

    def create():
        with factory._lock:
            calls.append(None)
            number = len(calls)
        if number <= 4:
            raise OSError("down")
        if number == 5:
            gate.wait(PATIENCE)
        return factory.create()

    manager = new_manager(worker_count=4, max_worker_count=4, on_create=create, create_timeout=0.2)
    eventually(lambda: manager.stats().idle_workers == 3)
    assert manager.stats().creating_workers == 1
    assert manager.queue_task(lambda resource: "well") == "well"
    gate.set()
    assert manager.wait_ready(PATIENCE)


@pytest.mark.slow
@pytest.mark.usefixtures("short_pauses")
def test_a_worker_that_is_lost_in_an_outage_takes_no_turn_with_it(
    new_manager, factory, monkeypatch
):
    """It falls at the moment at which its attempt has failed."""
    backend = Backend(factory)
    manager = new_manager(worker_count=4, max_worker_count=4, on_create=backend.create)
    eventually(lambda: len(backend.tried) > 6)
    failed, fell = Backoff.failed, []

    def fall(backoff, candidate, failures):
        if len(fell) < 2 and candidate in backoff._under_way:
            fell.append(candidate)
            raise MemoryError
        failed(backoff, candidate, failures)

    monkeypatch.setattr(Backoff, "failed", fall)
    eventually(lambda: len(fell) == 2)
    backend.forget()
    eventually(lambda: len(backend.tried) > 2)
    backend.is_up = True
    assert manager.wait_ready(PATIENCE)


def test_a_logger_that_blocks_the_worker_whose_attempt_failed_keeps_no_other_from_trying(
    new_manager, factory, log, short_pauses
):
    gate, failures = threading.Event(), []

    class Blocking(type(log)):
        def debug(self, msg, /, *args):
            if "on_create raised" in msg:
                failures.append(threading.current_thread())
                if len(failures) == 3:  # the first that is the pool's
                    gate.wait(PATIENCE)
            super().debug(msg, *args)

    factory.fail_next = [OSError("down")] * 3
    manager = new_manager(worker_count=2, max_worker_count=2, logger=Blocking())
    assert manager.queue_task(lambda resource: "well", timeout=PATIENCE / 2) == "well"
    gate.set()
    assert manager.wait_ready(PATIENCE)


@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.usefixtures("endless_pauses")
def test_all_that_wait_in_an_outage_leave_at_once(new_manager, factory, end):
    factory.fail_always = OSError("down")
    manager = new_manager(worker_count=8, max_worker_count=8)
    eventually(lambda: all(worker.pausing for worker in manager._engine.crew.members))
    report = getattr(manager, end)(PATIENCE)
    assert (report.abandoned, report.destroy_errors) == ((), 0)


@pytest.mark.usefixtures("endless_pauses")
def test_a_worker_that_is_hired_in_an_outage_does_not_try(new_manager, factory):
    factory.fail_always = OSError("down")
    manager = new_manager(worker_count=1, max_worker_count=3)
    eventually(lambda: all(worker.pausing for worker in manager._engine.crew.members))
    factory.fail_always = None
    assert manager._engine.crew.hire(2) == 2
    eventually(lambda: [worker.pausing for worker in manager._engine.crew.members] == [True] * 3)
    assert factory.created == []


def test_run_task_tells_of_the_resources_that_it_makes(new_manager, factory, monkeypatch):
    told = []
    monkeypatch.setattr(Backoff, "made_elsewhere", lambda backoff: told.append(None))
    factory.any_thread = True
    manager = new_manager(worker_count=1, resource_pool_size=1)
    for _ in range(3):
        manager.run_task(lambda resource: None)
    assert len(told) == 1, "the one that was made"
    factory.fail_always = OSError("down")
    with pytest.raises(Sick):
        manager.run_task(sick)
    with pytest.raises(ResourceCreationError):
        manager.run_task(sick)
    assert len(told) == 1


# -- tasks -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pausing(new_manager, factory, monkeypatch):
    """`pausing(**options)`: a manager with one worker, which is idle, and a task that waits for its next attempt."""
    monkeypatch.setattr(tasker._pool.backoff, "jitter", lambda: 0.0)
    monkeypatch.setattr(Backoff, "task_pause", lambda backoff, failures, attempts: 1000.0)

    def make_pausing(task=sick, manager_options=None, **options):
        manager = new_manager(worker_count=1, max_worker_count=1, **(manager_options or {}))
        future = manager.submit(task, **options)
        eventually(lambda: manager._engine.queue._later)
        eventually(lambda: manager.stats().idle_workers == 1)
        return manager, future

    return make_pausing


def end_its_pause(manager):
    queue = manager._engine.queue
    with queue._dead_lock:
        queue._later = [(0.0, task) for _, task in queue._later]


def sick_once():
    seen = []

    def task(resource):
        seen.append(resource)
        if len(seen) == 1:
            raise Sick
        return len(seen)

    return task


def adds_up(manager, **totals):
    metrics = manager.metrics()
    assert {name: getattr(metrics, f"total_tasks_{name}") for name in totals} == totals
    ended = (
        metrics.total_tasks_completed + metrics.total_tasks_failed + metrics.total_tasks_cancelled
    )
    assert metrics.total_tasks_arrived == ended
    assert manager._engine.queue.waiting() == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("priority", [False, True])
def test_a_task_that_pauses_is_waiting_and_others_run(pausing, priority):
    manager, future = pausing(sick_once(), priority=priority)
    assert not future.running()
    assert not future.done()
    stats = manager.stats()
    assert (stats.queued_tasks, stats.priority_tasks) == ((0, 1) if priority else (1, 0))
    assert manager.queue_task(lambda resource: "another") == "another"
    assert manager.join(0.01) is False
    end_its_pause(manager)
    assert future.result(PATIENCE) == future.attempts == 2
    assert manager.join(PATIENCE)
    adds_up(manager, arrived=2, completed=2, retried=1)


@pytest.mark.parametrize("stopping", [False, True])
def test_a_task_that_pauses_can_be_cancelled(pausing, stopping):
    manager, future = pausing()
    if stopping:
        manager._engine.lifecycle.request_stop()
    assert future.cancel()
    assert manager.stop().drained
    adds_up(manager, arrived=1, cancelled=1)


@pytest.mark.parametrize("stopping", [False, True])
def test_a_task_that_pauses_ends_at_its_deadline(pausing, stopping):
    manager, future = pausing(timeout=3600)
    if stopping:
        manager._engine.lifecycle.request_stop()
    future._expire()
    with pytest.raises(TaskTimeoutError):
        future.result(0)
    assert manager.stop().drained
    adds_up(manager, arrived=1, failed=1)


@pytest.mark.parametrize("stopping", [False, True])
def test_kill_ends_a_task_that_pauses(pausing, stopping):
    manager, future = pausing()
    if stopping:
        manager._engine.lifecycle.request_stop()
    assert manager.kill(PATIENCE).abandoned == ()
    assert isinstance(future.exception(0), TaskManagerKilledError)
    adds_up(manager, arrived=1, cancelled=1)


def test_stop_waits_for_a_task_that_pauses_and_does_not_shorten_its_pause(pausing, factory):
    manager, future = pausing(sick_once())
    stopper = threading.Thread(target=manager.stop)
    stopper.start()
    worker = manager._engine.crew.members[0]
    eventually(manager._engine.is_stopping)
    looks = []
    worker._look = lambda look=worker._look: looks.append(None) or look()
    eventually(lambda: len(looks) > 3)
    assert worker.parker.parked or len(looks) < 1000, (
        "a worker that has nothing to do but wait sleeps"
    )
    assert not future.done()
    assert future.attempts == 1
    end_its_pause(manager)
    stopper.join(PATIENCE)
    assert future.result(0) == 2
    adds_up(manager, arrived=1, completed=1, retried=1)


@pytest.mark.slow
def test_a_task_that_pauses_fails_when_no_resource_can_be_made(pausing, factory):
    manager, future = pausing(manager_options={"create_timeout": 0.2})
    factory.fail_always = OSError("down")
    assert isinstance(manager.submit(sick, once=True).exception(PATIENCE), Sick)
    with pytest.raises(ResourceCreationError, match="down"):
        future.result(PATIENCE)


def test_a_bounded_queue_keeps_its_room_for_others_while_a_task_pauses(pausing):
    manager, future = pausing(manager_options={"queue_size": 1})
    gate = threading.Event()
    eventually(manager.submit(lambda resource: gate.wait(PATIENCE)).running)
    manager.submit(lambda resource: 0, queue_timeout=0)
    gate.set()
    assert future.cancel()


def test_whoever_forks_finds_a_task_that_pauses_among_the_unfinished(pausing):
    manager, future = pausing()
    assert future in manager._engine.unfinished()
    manager.kill()


def test_a_task_that_is_settled_while_it_pauses_keeps_nothing_alive_for_long(pausing):
    manager, future = pausing()
    future._fail_from_outside(Sick(), ContextCancelledError())
    eventually(lambda: not manager._engine.queue._later)
    adds_up(manager, arrived=1, failed=1)


# -- what waits behind -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("priority", [False, True])
@pytest.mark.parametrize("slow", [False, True])
def test_tasks_that_break_every_resource_keep_nobody_behind_them_from_running(
    new_manager, factory, short_pauses, slow, priority
):
    """Also where it takes so long to make a resource that their pauses are over by then."""
    managers, poisons = [], 4

    def create():
        if slow and managers:
            queue = managers[0]._engine.queue
            eventually(lambda: not queue._later or queue.closed)
        return factory.create()

    often = 0.002  # seconds between two ticks
    manager = new_manager(
        worker_count=2,
        max_worker_count=2,
        max_retries=10**9,
        on_create=create,
        burst_interval=often,
    )
    managers.append(manager)
    poison = [manager.submit(sick, priority=priority) for _ in range(poisons)]
    others = [manager.submit(lambda resource, i: i, i, priority=priority) for i in range(20)]
    assert [future.result(PATIENCE) for future in others] == list(range(20))
    eventually(lambda: min(future.attempts for future in poison) > 2)
    manager.kill()

"""Shards, their merging, rates, and what it costs to look. The clock is the test's where time matters."""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
import signal
import threading
from types import SimpleNamespace

import pytest

import tasker._pool.metrics
import tasker._pool.reservoir
from tasker._pool.metrics import FULL_LENGTH, NOTHING, RATE_WINDOW_S, Counters, Shard, Totals
from tasker.snapshots import TaskMetrics
from tasker.stamps import TaskLifecycleTimestamps
from tests.support.quantiles import nearest_rank
from tests.support.waiting import PATIENCE, eventually

NEWEST = tasker._pool.metrics._KEPT_SAMPLES


@pytest.fixture
def clock(monkeypatch):
    """The clock by which rates are made."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(tasker._pool.metrics, "monotonic", lambda: clock.now)
    return clock


class Pool:
    """A collector and what it counts, as workers, callers and settlers would tell it."""

    def __init__(self, workers=1):
        self.waiting = 0
        self.collector = Counters(lambda: self.waiting)
        self.shards = [self.collector.new_shard() for _ in range(workers)]
        self.turn = itertools.cycle(self.shards)

    def succeed(self, *executions, waited=0.0):
        for ran in executions:
            shard = next(self.turn)
            shard.taken += 1
            durations = shard.fold()
            durations.append(waited)
            durations.append(ran)

    def fail(self, count=1):
        for _ in range(count):
            shard = next(self.turn)
            shard.taken += 1
            shard.count(failed=1)

    def metrics(self):
        return self.collector.metrics()


def arithmetic(metrics):
    return metrics.total_tasks_arrived == (
        metrics.total_tasks_completed + metrics.total_tasks_failed + metrics.total_tasks_cancelled
    )


# -- the figures ---------------------------------------------------------------------------------------------------


def test_every_field_is_zero_in_the_beginning_and_stays_so_while_nothing_happens(clock):
    pool = Pool()
    for _ in range(3):
        for field, value in dataclasses.asdict(pool.metrics()).items():
            assert value == 0, field
        clock.now += 7
        pool.collector.sample(clock.now)
    assert pool.metrics() == TaskMetrics()


def test_averages_extremes_and_counts_are_those_of_all_tasks():
    pool = Pool(workers=3)
    pool.succeed(0.5, 0.25, waited=1.0)
    pool.succeed(4.0, waited=4.0)
    metrics = pool.metrics()
    assert metrics.average_execution_time == pytest.approx(4.75 / 3)
    assert metrics.min_execution_time == 0.25
    assert metrics.max_execution_time == 4.0
    assert metrics.average_wait_time == pytest.approx(2.0)
    assert (metrics.total_tasks_arrived, metrics.total_tasks_completed) == (3, 3)
    assert (metrics.success_rate, metrics.failure_rate) == (1.0, 0.0)


def test_failures_have_no_part_in_the_times():
    pool = Pool()
    pool.succeed(2.0)
    pool.fail(3)
    metrics = pool.metrics()
    assert (
        metrics.average_execution_time
        == metrics.min_execution_time
        == metrics.max_execution_time
        == 2.0
    )
    assert (metrics.total_tasks_completed, metrics.total_tasks_failed) == (1, 3)
    assert (metrics.success_rate, metrics.failure_rate) == (0.25, 0.75)


def test_the_failure_rate_is_one_when_everything_fails():
    pool = Pool(workers=2)
    pool.fail(5)
    metrics = pool.metrics()
    assert (metrics.success_rate, metrics.failure_rate) == (0.0, 1.0)
    assert (
        metrics.min_execution_time,
        metrics.average_execution_time,
        metrics.p95_execution_time,
    ) == (0.0, 0.0, 0.0)
    assert arithmetic(metrics)


def test_what_scaling_goes_by_counts_failures_as_finished():
    pool = Pool(workers=2)
    pool.succeed(1.0)
    pool.fail(5)
    pool.waiting = 2
    assert pool.collector.progress() == (8, 6)


def test_what_scaling_goes_by_counts_nothing_that_no_worker_did():
    pool = Pool(workers=2)
    pool.succeed(1.0)
    pool.collector.completed_directly(1.0)
    pool.collector.failed_directly()
    pool.collector.failed_outside()
    pool.collector.never_taken()
    assert pool.collector.progress() == (2, 1), (
        "one came and was done, one came and timed out as it waited"
    )
    for shard in pool.shards:
        pool.collector.retire(shard)
    assert pool.collector.progress() == (2, 1)
    assert pool.metrics().total_tasks_arrived == 4
    assert arithmetic(pool.metrics())


def test_cancelled_tasks_count_neither_as_success_nor_as_failure():
    pool = Pool()
    pool.collector.never_taken()
    pool.collector.cancelled()
    metrics = pool.metrics()
    assert (metrics.total_tasks_arrived, metrics.total_tasks_cancelled) == (1, 1)
    assert (metrics.success_rate, metrics.failure_rate) == (0.0, 0.0)


@pytest.mark.parametrize("count", [1, 2, 10, 999])
def test_percentiles_are_those_of_all_shards_together_by_nearest_rank(count):
    pool = Pool(workers=4)
    rng = random.Random(count)
    executions = [rng.expovariate(10.0) for _ in range(count)]
    pool.succeed(*executions)
    metrics = pool.metrics()
    assert metrics.p95_execution_time == nearest_rank(executions, "0.95")
    assert metrics.p99_execution_time == nearest_rank(executions, "0.99")


def test_percentiles_follow_the_newest_executions_and_forget_the_old():
    pool = Pool()
    pool.succeed(*[9.0] * NEWEST)
    assert pool.metrics().p95_execution_time == 9.0
    pool.succeed(*[1.0] * NEWEST)
    metrics = pool.metrics()
    assert (metrics.p95_execution_time, metrics.p99_execution_time) == (1.0, 1.0)
    assert (metrics.min_execution_time, metrics.max_execution_time) == (1.0, 9.0)


def test_what_happens_outside_of_workers_counts_the_same():
    collector = Counters(lambda: 0)
    collector.completed_directly(3.0)
    collector.failed_directly()  # run_task
    collector.never_taken()
    collector.failed_outside()  # a timeout while queued
    collector.never_taken()
    collector.cancelled()
    metrics = collector.metrics()
    assert (
        metrics.total_tasks_completed,
        metrics.total_tasks_failed,
        metrics.total_tasks_cancelled,
    ) == (1, 2, 1)
    assert metrics.total_tasks_arrived == 4
    assert metrics.average_execution_time == metrics.p99_execution_time == 3.0
    assert collector.unfinished() == 0
    assert collector.totals().untaken == 2


def test_retries_are_counted_and_are_no_outcomes():
    pool = Pool()
    pool.shards[0].taken += 1
    pool.shards[0].count(retried=1)
    pool.shards[0].count(retried=1)
    assert pool.collector.unfinished() == 1
    assert pool.metrics().total_tasks_retried == 2
    pool.shards[0].count(failed=1)
    assert pool.collector.unfinished() == 0
    assert arithmetic(pool.metrics())


@pytest.mark.parametrize("field", ["failed", "retried", "cancelled", "untaken"])
def test_what_is_counted_adds_to_its_own_total_alone(field):
    shard = Shard()
    shard.count(**{field: 2})
    shard.count(**{field: 1})
    assert shard.totals() == NOTHING._replace(**{field: 3})


def test_a_snapshot_is_frozen_keyword_only_and_its_fields_say_their_units():
    metrics = TaskMetrics(p95_execution_time=1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        metrics.p95_execution_time = 2.0
    with pytest.raises(TypeError):
        TaskMetrics(1.0)
    assert len(dataclasses.fields(TaskMetrics)) == 15


def test_stamps_are_three_times_in_order():
    assert TaskLifecycleTimestamps._fields == ("queued_at", "started_at", "finished_at")


# -- shards --------------------------------------------------------------------------------------------------------


def test_folding_changes_nothing_that_is_seen():
    rng = random.Random(4)
    shard = Shard()
    durations = shard.durations
    waits, runs = [], []
    while len(durations) < FULL_LENGTH:
        assert shard.fold() is durations
        waits.append(rng.random())
        runs.append(rng.random())
        durations += (waits[-1], runs[-1])
    before = shard.totals(), shard.finished()
    after = shard.fold()
    assert after is shard.durations
    assert after is not durations
    assert after == []
    assert (shard.totals(), shard.finished()) == before
    totals = shard.totals()
    assert (totals.completed, totals.shortest, totals.longest) == (
        FULL_LENGTH // 2,
        min(runs),
        max(runs),
    )
    assert totals.waited == pytest.approx(sum(waits))
    assert totals.ran == pytest.approx(sum(runs))
    assert shard.fold() is after


def test_every_execution_is_read_once_and_in_order():
    rng = random.Random(5)
    shard, written, read = Shard(), [], []
    for i in range(30_000):
        shard.fold().extend((0.0, float(i)))
        written.append(float(i))
        if rng.random() < 0.002:
            read += shard.unread()
            assert read == written
    read += shard.unread()
    assert read == written
    assert shard.unread() == []


def test_a_reader_that_comes_late_gets_the_newest_executions():
    shard = Shard()
    for i in range(50_000):
        shard.fold().extend((0.0, float(i)))
    newest = shard.unread()
    assert NEWEST <= len(newest) <= NEWEST + FULL_LENGTH // 2
    assert newest == [float(i) for i in range(50_000 - len(newest), 50_000)]
    assert shard.unread() == []


def test_a_task_that_is_half_written_is_not_seen():
    pool = Pool()
    pool.succeed(1.0, 2.0)
    pool.shards[0].durations.append(
        5.0
    )  # it waited; how long it ran comes with the next step of its worker
    metrics = pool.metrics()
    assert metrics.total_tasks_completed == 2
    assert pool.shards[0].finished() == (2, 0)
    assert metrics.average_wait_time == 0.0
    pool.shards[0].durations.append(6.0)
    assert pool.metrics().total_tasks_completed == 3
    assert pool.metrics().max_execution_time == 6.0


def test_a_retired_shard_is_added_to_the_totals_exactly_once():
    pool = Pool(workers=3)
    pool.succeed(*(float(i) for i in range(1, 301)), waited=0.5)
    pool.fail(7)
    before, progress = pool.metrics(), pool.collector.progress()
    for shard in pool.shards:
        pool.collector.retire(shard)
        pool.collector.retire(shard)
        assert dataclasses.replace(
            pool.metrics(), task_arrival_rate=0, task_completion_rate=0
        ) == dataclasses.replace(before, task_arrival_rate=0, task_completion_rate=0)
        assert pool.collector.progress() == progress
        assert pool.collector.unfinished() == 0
    assert pool.collector._shards == [pool.collector._outside, pool.collector._direct]


def test_what_a_shard_held_unread_when_it_retired_is_part_of_the_percentiles():
    pool = Pool(workers=2)
    pool.succeed(*[1.0] * 10)
    pool.metrics()
    pool.turn = itertools.repeat(pool.shards[0])
    pool.succeed(*[5.0] * 10)
    pool.collector.retire(pool.shards[0])
    pool.collector.retire(pool.shards[0])
    assert pool.metrics().p95_execution_time == 5.0
    assert len(pool.collector._reservoir) == 20


# -- a reader among writers ----------------------------------------------------------------------------------------


def test_the_reader_shows_no_arrival_twice_and_takes_none_back():
    pool = Pool()
    pool.waiting = 5
    assert pool.metrics().total_tasks_arrived == 5
    pool.waiting -= 1  # a worker has taken one out of its lane, and has not counted it yet
    assert pool.metrics().total_tasks_arrived == 5
    assert pool.collector.progress() == (5, 0)
    pool.shards[0].taken += 1
    assert pool.metrics().total_tasks_arrived == 5


def test_a_task_that_moves_between_two_looks_of_the_reader_is_not_counted_twice():
    pool = Pool()
    pool.waiting = 1

    def moves_on_afterwards():
        # the reader has looked at the shards; what it sees waiting now may be taken at once
        waiting, pool.waiting = pool.waiting, 0
        pool.shards[0].taken += waiting
        return waiting

    pool.collector._waiting = moves_on_afterwards
    assert pool.metrics().total_tasks_arrived == 1
    assert pool.metrics().total_tasks_arrived == 1


def test_totals_only_grow_and_are_exact_at_rest_whatever_the_order_of_events():
    seed = int(os.environ.get("TASKER_SEED", "1"))
    rng = random.Random(seed)
    pool = Pool(workers=3)
    arrived, tasks, last = 0, [], dataclasses.asdict(pool.metrics())
    steps = {  # what happens to a task, one indivisible step after the other
        "succeeds": ["leave", "taken", "completed"],
        "fails": ["leave", "taken", "failed"],
        "is cancelled": ["leave", "untaken", "cancelled"],
        "times out": ["leave", "untaken", "failed outside"],
        "times out running": ["leave", "taken", "failed outside"],
    }
    growing = [name for name in last if name.startswith("total_")]
    for _ in range(3_000):
        if rng.random() < 0.3:
            arrived += 1
            pool.waiting += 1
            tasks.append((rng.choice(pool.shards), steps[rng.choice(list(steps))].copy()))
        elif tasks:
            task = shard, left = rng.choice(tasks)
            step = left.pop(0)
            if step == "leave":
                pool.waiting -= 1
            elif step == "taken":
                shard.taken += 1
            elif step == "completed":
                shard.fold().extend((0.5, 0.25))
            elif step == "failed":
                shard.count(failed=1)
            elif step == "untaken":
                pool.collector.never_taken()
            elif step == "cancelled":
                pool.collector.cancelled()
            else:
                pool.collector.failed_outside()
            if not left:
                tasks.remove(task)
        if rng.random() < 0.2:
            now = dataclasses.asdict(pool.metrics())
            assert all(now[name] >= last[name] for name in growing), f"seed {seed}"
            assert now["total_tasks_arrived"] <= arrived, f"seed {seed}"
            last = now
        if not tasks:
            assert pool.metrics().total_tasks_arrived == arrived, f"seed {seed}"
            assert arithmetic(pool.metrics()), f"seed {seed}"
            assert pool.collector.unfinished() == 0, f"seed {seed}"


def test_threads_that_write_while_others_read_lose_nothing():
    workers, count = 4, 3 * FULL_LENGTH
    pool = Pool(workers)
    failures, over = [], threading.Event()

    def work(shard):
        durations = shard.durations
        for i in range(count):
            shard.taken += 1
            if i % 100 == 0:
                shard.count(failed=1)
                continue
            durations.append(0.5)
            durations.append(1.0)
            if len(durations) >= FULL_LENGTH:
                durations = shard.fold()
        pool.collector.completed_directly(1.0)
        pool.collector.retire(shard)

    def read():
        last = (0, 0, 0)
        while not over.is_set():
            metrics = pool.metrics()
            now = (
                metrics.total_tasks_arrived,
                metrics.total_tasks_completed,
                metrics.total_tasks_failed,
            )
            if any(a < b for a, b in zip(now, last, strict=True)):
                failures.append((last, now))
            last = now

    threads = [threading.Thread(target=work, args=(shard,)) for shard in pool.shards]
    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads + readers:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    over.set()
    for thread in readers:
        thread.join(PATIENCE)
    assert failures == []
    metrics = pool.metrics()
    assert metrics.total_tasks_failed == workers * len(range(0, count, 100))
    assert metrics.total_tasks_arrived == workers * (count + 1)
    assert arithmetic(metrics)
    assert metrics.average_execution_time == 1.0


# -- rates ---------------------------------------------------------------------------------------------------------


def run_for(pool, clock, seconds, rate, tick=0.1, failing=False):
    """Let `rate` tasks a second pass, and tell the collector of every tick, as the burst thread does."""
    due = 0.0
    for _ in range(round(seconds / tick)):
        clock.now += tick
        due += rate * tick
        while due >= 1 - 1e-9:
            due -= 1
            pool.fail() if failing else pool.succeed(0.001)
        pool.collector.sample(clock.now)


def test_rates_are_those_of_a_recent_window_and_not_of_the_uptime(clock):
    pool = Pool()
    run_for(pool, clock, 5, rate=10)
    early = pool.metrics()
    assert early.task_arrival_rate == pytest.approx(10, rel=0.05)
    assert early.task_completion_rate == pytest.approx(10, rel=0.05)
    run_for(pool, clock, 3600, rate=2, tick=0.5)
    assert pool.metrics().task_arrival_rate == pytest.approx(2, rel=0.06)
    run_for(pool, clock, RATE_WINDOW_S + 1, rate=100)  # an hour of quiet does not weigh on it
    assert pool.metrics().task_arrival_rate == pytest.approx(100, rel=0.03)
    assert pool.metrics().task_completion_rate == pytest.approx(100, rel=0.03)
    run_for(pool, clock, RATE_WINDOW_S + 1, rate=0)
    assert pool.metrics().task_arrival_rate == 0.0
    assert pool.metrics().task_completion_rate == 0.0


def test_failures_arrive_and_do_not_complete(clock):
    pool = Pool()
    run_for(pool, clock, 20, rate=10, failing=True)
    assert pool.metrics().task_arrival_rate == pytest.approx(10, rel=0.05)
    assert pool.metrics().task_completion_rate == 0.0


def test_tasks_that_only_wait_have_arrived(clock):
    pool = Pool()
    pool.waiting = 40
    clock.now += 4
    assert pool.metrics().task_arrival_rate == pytest.approx(10)
    assert pool.metrics().task_completion_rate == 0.0


def test_rates_go_back_to_zero_even_when_nothing_is_sampled_any_more(clock):
    pool = Pool()
    run_for(pool, clock, 20, rate=10)
    clock.now += RATE_WINDOW_S + 1  # a starved burst thread
    assert pool.metrics().task_arrival_rate == 0.0


def test_what_is_as_old_as_the_window_is_no_part_of_the_rates_any_more(clock):
    pool = Pool()
    clock.now += 5
    pool.succeed(*[0.001] * 20)
    pool.collector.sample(clock.now)
    clock.now += RATE_WINDOW_S - 1
    assert pool.metrics().task_arrival_rate > 0.0
    clock.now += 1
    assert (pool.metrics().task_arrival_rate, pool.metrics().task_completion_rate) == (0.0, 0.0)


def test_rates_of_the_first_moment_are_no_wild_guesses(clock):
    pool = Pool()
    pool.succeed(0.001)
    metrics = pool.metrics()  # the clock has not moved since the beginning
    assert metrics.task_arrival_rate <= 100 / RATE_WINDOW_S
    assert metrics.task_completion_rate <= 100 / RATE_WINDOW_S


def test_a_worker_that_retires_does_not_shake_the_rates(clock):
    pool = Pool(workers=2)
    run_for(pool, clock, 20, rate=10)
    before = pool.metrics()
    pool.collector.retire(pool.shards[0])
    pool.turn = itertools.repeat(pool.shards[1])
    assert pool.metrics() == before
    run_for(pool, clock, 5, rate=10)
    assert pool.metrics().task_arrival_rate == pytest.approx(10, rel=0.05)


# -- cost ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_looking_touches_no_more_samples_after_many_tasks_than_after_some(monkeypatch):
    touched = []
    with_durations, unread, quantile = (
        Totals.with_durations,
        Shard.unread,
        tasker._pool.reservoir.Reservoir.extend,
    )
    monkeypatch.setattr(
        Totals,
        "with_durations",
        lambda self, durations: touched.append(len(durations)) or with_durations(self, durations),
    )
    monkeypatch.setattr(
        Shard, "unread", lambda self: touched.append(len(found := unread(self))) or found
    )
    monkeypatch.setattr(
        tasker._pool.reservoir.Reservoir,
        "extend",
        lambda self, samples: touched.append(len(samples)) or quantile(self, samples),
    )
    pool = Pool(workers=2)
    bound = len(pool.shards) * (FULL_LENGTH + 2 * (NEWEST + FULL_LENGTH // 2))

    def cost():
        touched.clear()
        pool.metrics()
        return sum(touched)

    pool.succeed(*[0.001] * 10)
    assert (
        cost() == 20 + 2 * 10
    )  # waits and executions for the totals, executions once for the percentiles
    assert cost() == 20
    pool.succeed(*[0.001] * 100_000)
    after_many = cost()
    assert after_many <= bound
    pool.succeed(*[0.001] * 200_000)
    assert cost() <= bound
    assert cost() <= len(pool.shards) * FULL_LENGTH  # nothing new: what is not folded yet
    for shard in pool.shards:
        pool.collector.retire(shard)
    assert cost() == 0


@pytest.mark.slow
def test_memory_is_bounded_however_many_tasks_and_ticks_and_workers(clock):
    pool = Pool()
    shard = pool.shards[0]
    for _ in range(200_000):
        shard.fold().extend((0.0, 0.001))
    _, past, durations = shard._published
    assert len(durations) <= FULL_LENGTH
    assert sum(map(len, past)) <= NEWEST
    for _ in range(50_000):
        clock.now += 0.001
        pool.collector.sample(clock.now)
    assert len(pool.collector._samples) <= 102
    for _ in range(1_000):
        pool.collector.retire(pool.collector.new_shard())
    assert len(pool.collector._shards) == 3
    pool.metrics()
    assert len(pool.collector._reservoir) == NEWEST


# -- signal handlers -----------------------------------------------------------------------------------------------


def interrupting(method, handler, monkeypatch):
    """Have `handler()` called once in the middle of a `Totals` method, as that of a signal might be."""
    original = getattr(Totals, method)
    armed = [handler]

    def interrupted(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        if armed:
            armed.pop()()
        return result

    monkeypatch.setattr(Totals, method, interrupted)


def test_a_count_from_a_signal_handler_in_the_middle_of_a_count_is_not_lost(monkeypatch):
    collector = Counters(lambda: 0)
    interrupting("_replace", collector.cancelled, monkeypatch)
    collector.failed_outside()
    totals = collector.totals()
    assert (totals.failed, totals.cancelled) == (1, 1)


def test_an_execution_from_a_signal_handler_does_not_come_between_the_two_durations_of_another():
    class Interrupted(list):
        def append(self, duration):
            super().append(duration)
            interrupt()

        def __iadd__(self, durations):
            super().__iadd__(durations)
            interrupt()
            return self

    def interrupt():
        if armed:
            armed.pop()
            collector.completed_directly(20.0)

    collector, armed = Counters(lambda: 0), [1]
    shard = collector._direct
    shard.durations = Interrupted()
    shard._published = (*shard._published[:2], shard.durations)
    collector.completed_directly(2.0)
    totals = collector.totals()
    assert (totals.completed, totals.waited, totals.ran) == (2, 0.0, 22.0)


@pytest.mark.parametrize("handler", ["failed_outside", "completed_directly", "metrics"])
def test_a_count_from_a_signal_handler_in_the_middle_of_a_fold_is_not_lost(handler, monkeypatch):
    collector = Counters(lambda: 0)
    for _ in range(FULL_LENGTH // 2):
        collector.completed_directly(1.0)
    calls = {
        "failed_outside": collector.failed_outside,
        "completed_directly": lambda: collector.completed_directly(1.0),
        "metrics": collector.metrics,
    }
    interrupting("with_durations", calls[handler], monkeypatch)
    collector.completed_directly(1.0)
    totals = collector.totals()
    assert totals.completed == FULL_LENGTH // 2 + 1 + (handler == "completed_directly")
    assert totals.failed == (handler == "failed_outside")
    assert totals.ran == totals.completed * 1.0


def test_percentiles_that_a_signal_handler_asks_for_while_they_are_made_are_those_of_before(
    monkeypatch,
):
    pool, armed, seen, extend = Pool(), [], [], tasker._pool.reservoir.Reservoir.extend

    def percentiles():
        metrics = pool.metrics()
        return metrics.p95_execution_time, metrics.p99_execution_time

    def interrupted(reservoir, samples):
        if armed:
            armed.pop()
            seen.append(percentiles())
        extend(reservoir, samples)

    monkeypatch.setattr(tasker._pool.reservoir.Reservoir, "extend", interrupted)
    for ran in (1.0, 2.0):
        pool.succeed(ran)
        armed.append(1)
        assert percentiles() == (ran, ran)
    assert seen == [(0.0, 0.0), (1.0, 1.0)]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX signals")
def test_a_storm_of_signals_that_count_and_look_loses_nothing():
    collector = Counters(lambda: 0)
    counts = {"completed": 0, "failed": 0, "cancelled": 0}

    def count():
        counts["completed"] += 1
        collector.completed_directly(3.0)
        counts["failed"] += 1
        collector.failed_directly()
        counts["cancelled"] += 1
        collector.never_taken()
        collector.cancelled()
        return collector.metrics()

    handled = []
    previous = signal.signal(signal.SIGALRM, lambda *_: handled.append(count()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        while len(handled) < 50:
            count()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    metrics = collector.metrics()
    assert metrics.total_tasks_completed == counts["completed"]
    assert metrics.total_tasks_failed == counts["failed"]
    assert metrics.total_tasks_cancelled == counts["cancelled"]
    assert arithmetic(metrics)
    assert metrics.average_execution_time == 3.0
    assert collector.unfinished() == 0


@pytest.mark.slow
def test_a_worker_that_is_held_up_with_a_dead_entry_in_its_hand_is_not_taken_for_a_wrong_count(
    new_manager, monkeypatch
):
    manager = new_manager(worker_count=1, max_worker_count=1)
    engine, gate, held, drops = (
        manager._engine,
        threading.Event(),
        threading.Event(),
        threading.Event(),
    )
    drop = engine.queue.drop

    def drop_late(task):
        held.set()
        assert drops.wait(PATIENCE)
        drop(task)

    monkeypatch.setattr(engine.queue, "drop", drop_late)
    monkeypatch.setattr(engine.queue, "compact", list)  # leaves it to the worker
    running, dead = manager.submit(lambda _: gate.wait(PATIENCE)), manager.submit(id)
    eventually(running.running)
    assert dead.cancel()
    gate.set()
    assert held.wait(PATIENCE)
    ticks = engine.housekeeper._beats
    eventually(lambda: engine.housekeeper._beats > ticks + 5)
    drops.set()
    assert manager.join(PATIENCE)
    assert manager.metrics().total_tasks_arrived == 2


@pytest.mark.slow
def test_dead_entries_that_an_error_has_counted_too_often_are_forgotten_where_nothing_runs(
    new_manager,
):
    manager = new_manager(worker_count=1, max_worker_count=1)
    manager.queue_task(id)
    manager._engine.queue._dead[True] += 1
    manager._engine.queue.stir()
    eventually(lambda: manager._engine.queue._dead == {False: 0, True: 0})

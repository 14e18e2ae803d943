"""`Backoff` by itself: how long pauses are, and who may try when. Time is a number here."""

from __future__ import annotations

import heapq
import itertools
import random
import threading
from itertools import accumulate
from types import SimpleNamespace

import pytest

import tasker._pool.backoff
from tasker._pool.backoff import FIRST_PAUSE_S, LONGEST_PAUSE_S, SPACING_S, Backoff, Candidate

PATIENT = 30.0  # create_timeout


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(tasker._pool.backoff, "monotonic", lambda: clock.now)
    return clock


@pytest.fixture
def whole_pauses(monkeypatch):
    monkeypatch.setattr(tasker._pool.backoff, "jitter", lambda: 1.0)


class Parker:
    """Counts the wake-ups that it gets."""

    woken = 0

    def wake(self):
        self.woken += 1


class Pool:
    """A backoff, and the candidates that hold a resource."""

    def __init__(self, clock, workers, create_timeout=PATIENT):
        self.clock, self.holders = clock, set()
        self.backoff = Backoff(create_timeout, lambda: bool(self.holders))
        self.workers = [Candidate(Parker()) for _ in range(workers)]
        self.failures = dict.fromkeys(self.workers, 0)

    def asks(self, *workers):
        return [self.backoff.may_try(worker) for worker in workers]

    def fails(self, *workers):
        for worker in workers:
            self.failures[worker] += 1
            self.backoff.failed(worker, self.failures[worker])

    def makes(self, *workers):
        for worker in workers:
            self.holders.add(worker)
            self.failures[worker] = 0
            self.backoff.made(worker)

    def loses(self, *workers):
        self.holders -= {*workers}

    def woken(self):
        """Whom the last event woke, by their numbers."""
        woken = [number for number, worker in enumerate(self.workers) if worker.parker.woken]
        for worker in self.workers:
            worker.parker.woken = 0
        return woken

    def in_an_outage(self):
        """The first of its workers is the one whose turn it is: it has failed last."""
        assert self.asks(*self.workers) == [0.0] * len(self.workers)
        self.fails(*self.workers)
        assert min(self.asks(*self.workers)) > 0
        self.woken()
        return self


# -- how long --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failures", "pause"),
    [
        (1, FIRST_PAUSE_S),
        (2, 2 * FIRST_PAUSE_S),
        (3, 4 * FIRST_PAUSE_S),
        (6, LONGEST_PAUSE_S),
        (10**6, LONGEST_PAUSE_S),
    ],
)
@pytest.mark.parametrize("why", ["not made", "not made, alone", "broke at once"])
def test_pauses_are_twice_as_long_after_each_failure_with_jitter(clock, failures, pause, why):
    pauses = []
    for _ in range(100):
        pool = Pool(clock, 2)
        one, other = pool.workers
        if why != "not made, alone":
            pool.makes(other)
        if why == "broke at once":
            pool.backoff.broke(one, failures)
        else:
            pool.asks(one)
            pool.backoff.failed(one, failures)
        pauses += pool.asks(one)
    assert pause / 2 <= min(pauses) + 1e-6
    assert max(pauses) <= pause + 1e-6
    assert len(set(pauses)) > 1


@pytest.mark.parametrize(
    ("failures", "attempts", "pause"),
    [
        (0, 1, 0.0),  # the resource had worked: it was stale
        (1, 1, 0.0),
        (0, 2, 2 * FIRST_PAUSE_S),
        (1, 2, 2 * FIRST_PAUSE_S),
        (2, 1, 2 * FIRST_PAUSE_S),  # an innocent task that meets an outage
        (3, 1, 4 * FIRST_PAUSE_S),
        (1, 3, 4 * FIRST_PAUSE_S),
        (0, 10**6, LONGEST_PAUSE_S),
    ],
)
def test_a_task_pauses_as_its_worker_does_or_longer_if_it_was_tried_more_often(
    failures, attempts, pause
):
    assert Backoff(PATIENT, bool).task_pause(failures, attempts) == pause


def test_the_attempts_of_a_task_with_three_retries_outlast_a_second():
    backoff = Backoff(PATIENT, bool)
    assert list(accumulate(backoff.task_pause(0, attempts) for attempts in (1, 2, 3)))[-1] > 1.0


@pytest.mark.parametrize("failures", [5, 50, 5000])
@pytest.mark.parametrize(
    ("create_timeout", "longest"),
    [(30.0, LONGEST_PAUSE_S), (1.0, 0.5), (0.01, FIRST_PAUSE_S), (float("inf"), LONGEST_PAUSE_S)],
)
def test_no_pause_is_longer_than_half_of_create_timeout(clock, create_timeout, longest, failures):
    pool = Pool(clock, 1, create_timeout)
    pool.backoff.failed(pool.workers[0], failures)
    assert pool.asks(*pool.workers)[0] <= longest + 1e-6
    assert pool.backoff.task_pause(failures, 1) <= longest


# -- all is well -----------------------------------------------------------------------------------------------------


def test_the_first_wave_tries_at_once(clock):
    pool = Pool(clock, 64)
    assert pool.asks(*pool.workers) == [0.0] * 64


def test_what_broke_after_a_task_done_well_is_made_again_at_once(clock):
    pool = Pool(clock, 3)
    pool.makes(*pool.workers)
    pool.loses(*pool.workers)
    assert pool.asks(*pool.workers) == [0.0] * 3


@pytest.mark.usefixtures("whole_pauses")
def test_a_worker_that_fails_while_others_hold_resources_pauses_by_itself(clock):
    pool = Pool(clock, 4)
    holder, failing, new, another = pool.workers
    pool.makes(holder)
    pool.fails(failing)
    assert pool.asks(new, failing) == pytest.approx([0.0, FIRST_PAUSE_S])
    clock.now += FIRST_PAUSE_S
    assert pool.asks(failing) == [0.0]
    pool.fails(failing)
    assert pool.asks(another, failing) == pytest.approx([0.0, 2 * FIRST_PAUSE_S])


@pytest.mark.usefixtures("whole_pauses")
def test_workers_that_have_paused_by_themselves_try_one_after_the_other(clock):
    pool = Pool(clock, 4)
    pool.makes(pool.workers[0])
    pool.fails(*pool.workers[1:3])
    pool.backoff.broke(pool.workers[3], 1)
    clock.now += FIRST_PAUSE_S
    asked = pool.asks(*pool.workers[1:])
    assert asked == pytest.approx([0.0, SPACING_S, 2 * SPACING_S])
    assert pool.asks(*pool.workers[2:]) == pytest.approx(asked[1:]), "a turn is taken once"
    clock.now += 2 * SPACING_S + 1e-6
    assert pool.asks(*pool.workers[2:]) == [0.0, 0.0]


@pytest.mark.usefixtures("whole_pauses")
def test_a_success_after_failures_ends_the_pauses_of_others(clock):
    pool = Pool(clock, 5)
    holder, failing, lazy, *others = pool.workers
    pool.makes(holder)
    pool.fails(failing, *others)
    pool.backoff.broke(lazy, 3)
    pool.asks(failing, lazy, *others)
    clock.now += FIRST_PAUSE_S
    assert pool.asks(failing) == [0.0]
    pool.fails(others[0])
    pool.asks(others[0])
    pool.makes(failing)
    assert pool.woken() == [3, 4]
    assert pool.asks(*others) == [0.0, 0.0]
    assert pool.asks(lazy)[0] > 0, "that one has shown nothing: its next resource may break, too"


@pytest.mark.usefixtures("whole_pauses")
def test_a_success_without_failures_ends_no_pause(clock):
    """A server that admits no more connections admits one again in the place of one that broke."""
    pool = Pool(clock, 3)
    holder, failing, stale = pool.workers
    pool.makes(holder, stale)
    pool.fails(failing)
    assert pool.asks(failing)[0] > 0
    pool.loses(stale)
    assert pool.asks(stale) == [0.0]
    pool.makes(stale)
    assert pool.woken() == []
    assert pool.asks(failing)[0] > 0


# -- an outage -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("whole_pauses")
def test_in_an_outage_one_worker_tries_and_the_pause_is_the_pools(clock):
    pool = Pool(clock, 8).in_an_outage()
    assert pool.asks(*pool.workers) == pytest.approx([FIRST_PAUSE_S] * 8), "the wave counts once"
    for failures in range(2, 5):
        clock.now += FIRST_PAUSE_S * 2 ** (failures - 2) + 1e-6
        prober, *others = pool.workers
        assert pool.asks(prober) == [0.0]
        assert pool.asks(*others) == pytest.approx([PATIENT] * 7)
        pool.fails(prober)
        assert pool.asks(*pool.workers) == pytest.approx([FIRST_PAUSE_S * 2 ** (failures - 1)] * 8)
        pool.workers = [*others, prober]  # whoever comes first


def test_an_attempt_from_before_the_outage_neither_counts_nor_blocks(clock):
    pool = Pool(clock, 3)
    one, slow, slower = pool.workers
    pool.asks(one, slow, slower)
    pool.fails(one)
    pause = pool.asks(one)[0]
    clock.now += pause
    assert pool.asks(one) == [0.0]
    pool.fails(slow)
    assert pool.asks(slow) == pytest.approx([PATIENT]), "one tries"
    pool.makes(slower)
    assert pool.asks(slow) == [0.0], "any success ends the outage"


def test_no_outage_begins_while_a_worker_holds_a_resource(clock):
    """It is looked at under the lock: a resource that is made meanwhile is reported afterwards."""
    pool = Pool(clock, 3)
    one, other, third = pool.workers
    reported = threading.Event()

    def holding():
        def make():
            pool.holders.add(other)
            pool.backoff.made(other)
            reported.set()

        before = bool(pool.holders)
        maker = threading.Thread(target=make)
        maker.start()
        while not pool.holders:
            pass
        return before

    pool.backoff._holding = holding
    pool.fails(one)
    assert reported.wait(10)
    assert pool.asks(third, one) == [0.0, 0.0]


@pytest.mark.parametrize("end", ["left", "hung"])
def test_another_tries_when_the_one_whose_turn_it_is(clock, end):
    pool = Pool(clock, 4).in_an_outage()
    clock.now += FIRST_PAUSE_S
    prober, *others = pool.workers
    assert pool.asks(prober) == [0.0]
    assert pool.asks(*others) == pytest.approx([PATIENT] * 3)
    if end == "left":
        pool.backoff.left(prober)
        assert pool.woken() == [1]
    else:
        clock.now += PATIENT
        pool.backoff.heal()
        assert pool.woken() == [1]
    assert pool.asks(others[0]) == [0.0]
    assert min(pool.asks(*others[1:])) > PATIENT / 2
    if end == "hung":
        pool.fails(prober)
        assert min(pool.asks(prober)) > PATIENT / 2, "it is too late to count"
    pool.makes(others[0])
    assert pool.asks(others[1]) == [0.0]


def test_the_tick_wakes_one_when_the_last_to_try_does_not_come_back(clock):
    """It is held up by the user's logger, say."""
    pool = Pool(clock, 3).in_an_outage()
    clock.now += FIRST_PAUSE_S
    pool.asks(*pool.workers)
    pool.fails(pool.workers[0])
    pool.backoff.heal()
    assert pool.woken() == [], "not before the pause is over"
    clock.now += 2 * FIRST_PAUSE_S
    pool.backoff.heal()
    assert pool.woken() == [1]


def test_a_worker_that_leaves_while_it_waits_takes_no_turn_with_it(clock):
    pool = Pool(clock, 3).in_an_outage()
    for worker in pool.workers[:2]:
        pool.backoff.left(worker)
    clock.now += FIRST_PAUSE_S
    assert pool.asks(pool.workers[2]) == [0.0]


def test_a_worker_that_is_hired_in_an_outage_waits_with_the_others(clock):
    pool = Pool(clock, 2).in_an_outage()
    assert pool.asks(Candidate(Parker()))[0] > 0


@pytest.mark.usefixtures("whole_pauses")
def test_what_run_task_makes_ends_the_long_pauses_of_an_outage(clock):
    pool = Pool(clock, 3).in_an_outage()
    for _ in range(4):
        clock.now += LONGEST_PAUSE_S
        assert pool.asks(pool.workers[0]) == [0.0]
        pool.fails(pool.workers[0])
    pause = pool.asks(*pool.workers)[0]
    assert pause > 2 * FIRST_PAUSE_S
    pool.backoff.made_elsewhere()
    assert pool.woken() == [1]
    assert pool.asks(*pool.workers) == pytest.approx([FIRST_PAUSE_S] * 3)
    clock.now += FIRST_PAUSE_S / 2
    pool.backoff.made_elsewhere()
    assert pool.asks(*pool.workers) == pytest.approx([FIRST_PAUSE_S / 2] * 3), "put off by none"
    clock.now += FIRST_PAUSE_S
    assert pool.asks(pool.workers[0]) == [0.0]
    pool.fails(pool.workers[0])
    assert pool.asks(*pool.workers) == pytest.approx([FIRST_PAUSE_S] * 3)


def test_what_run_task_makes_changes_nothing_when_all_is_well(clock):
    pool = Pool(clock, 2)
    pool.makes(pool.workers[0])
    pool.fails(pool.workers[1])
    pause = pool.asks(pool.workers[1])
    pool.backoff.made_elsewhere()
    assert pool.asks(pool.workers[1]) == pause


# -- recovery --------------------------------------------------------------------------------------------------------


def test_the_others_follow_in_doubling_steps(clock):
    pool = Pool(clock, 20).in_an_outage()
    clock.now += FIRST_PAUSE_S
    trying, waiting, steps = pool.workers[:1], pool.workers[1:], []
    assert pool.asks(*pool.workers).count(0.0) == 1
    while waiting:
        pool.makes(*trying)
        trying = [worker for worker in waiting if worker.parker.woken]
        pool.woken()
        steps.append(len(trying))
        asked = pool.asks(*waiting)
        assert [worker for worker, pause in zip(waiting, asked, strict=True) if not pause] == trying
        waiting = waiting[len(trying) :]
    assert steps == [2, 4, 8, 5]
    newcomers = [Candidate(Parker()) for _ in range(5)]
    assert pool.asks(*newcomers) == [0.0] * 5, "all is well again"


@pytest.mark.usefixtures("whole_pauses")
def test_a_failure_in_a_recovery_makes_room_for_the_next_and_pauses_by_itself(clock):
    pool = Pool(clock, 6).in_an_outage()
    clock.now += FIRST_PAUSE_S
    pool.asks(*pool.workers)
    pool.makes(pool.workers[0])
    assert pool.asks(*pool.workers[1:])[:3] == pytest.approx([0.0, 0.0, PATIENT])
    pool.woken()
    pool.fails(pool.workers[1])
    assert pool.woken() == [3]
    assert pool.asks(pool.workers[1]) == pytest.approx([2 * FIRST_PAUSE_S])
    assert pool.asks(*pool.workers[3:])[:2] == pytest.approx([0.0, PATIENT])


def test_an_outage_may_come_again_in_a_recovery(clock):
    pool = Pool(clock, 6).in_an_outage()
    clock.now += FIRST_PAUSE_S
    pool.asks(*pool.workers)
    pool.makes(pool.workers[0])
    assert pool.asks(*pool.workers[1:3]) == [0.0, 0.0]
    pool.loses(pool.workers[0])
    pool.fails(pool.workers[1])
    pause = pool.asks(*pool.workers[3:])
    assert min(pause) > 0
    pool.fails(pool.workers[2])
    assert pool.asks(*pool.workers[3:]) == pause, "that attempt was from before the outage"
    clock.now += max(pause)
    assert pool.asks(pool.workers[0], *pool.workers[3:]).count(0.0) == 1


def test_hung_attempts_hold_up_a_recovery_for_create_timeout_at_most(clock):
    pool = Pool(clock, 6).in_an_outage()
    clock.now += FIRST_PAUSE_S
    pool.asks(*pool.workers)
    pool.makes(pool.workers[0])
    assert pool.asks(*pool.workers[1:3]) == [0.0, 0.0]  # they hang
    left = pool.asks(*pool.workers[3:])
    assert left == pytest.approx([PATIENT] * 3)
    clock.now += PATIENT
    assert pool.asks(*pool.workers[3:]).count(0.0) == 2


# -- whole pools, in virtual time ------------------------------------------------------------------------------------


class Simulated:
    """Workers that make resources of a backend that is down until a time. All that happens is in a heap."""

    def __init__(self, clock, workers, takes, back_at, seed):
        self.clock, self.takes, self.back_at = clock, takes, clock.now + back_at
        self.random = random.Random(seed)
        self.pool = Pool(clock, 0)
        self.events, self.order = [], itertools.count()
        self.sleeping = {}
        self.began, self.attempts, self.under_way, self.most = clock.now, [], 0, 0
        self.ready_at = []
        for _ in range(workers):
            worker = Candidate(SimpleNamespace(wake=lambda: None))
            worker.parker.wake = lambda worker=worker: self.wakes(worker)
            self.pool.failures[worker] = 0
            self.at(clock.now, self.asks, worker)

    def at(self, when, what, worker):
        event = (when, next(self.order), what, worker)
        heapq.heappush(self.events, event)
        return event

    def wakes(self, worker):
        if self.sleeping.pop(worker, None) is not None:
            self.at(self.clock.now, self.asks, worker)

    def comes(self, worker, event_number):
        if self.sleeping.get(worker) == event_number:
            del self.sleeping[worker]
            self.asks(worker)

    def asks(self, worker):
        pause = self.pool.backoff.may_try(worker)
        if pause:
            self.sleeping[worker] = number = next(self.order)
            self.at(self.clock.now + pause, lambda worker, n=number: self.comes(worker, n), worker)
        else:
            self.attempts.append(self.clock.now)
            self.under_way += 1
            if self.clock.now > self.began:
                self.most = max(self.most, self.under_way)
            takes = self.takes * self.random.uniform(0.5, 1.5)
            self.at(self.clock.now + takes, self.ends, worker)

    def ends(self, worker):
        self.under_way -= 1
        if self.clock.now < self.back_at:
            self.pool.fails(worker)
            self.at(self.clock.now, self.asks, worker)
        else:
            self.pool.makes(worker)
            self.ready_at.append(self.clock.now)

    def run(self, until=None):
        while self.events and (until is None or self.events[0][0] < until):
            when, _, what, worker = heapq.heappop(self.events)
            self.clock.now = max(self.clock.now, when)
            what(worker)
        return self


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("takes", [0.001, 0.1])
def test_a_dead_backend_meets_as_many_attempts_of_64_workers_as_of_one(
    clock, monkeypatch, seed, takes
):
    monkeypatch.setattr("random.uniform", random.Random(seed).uniform)
    a_minute = {}
    for workers in (1, 8, 64):
        simulated = Simulated(clock, workers, takes, 10**9, seed).run(until=clock.now + 60.0)
        later = [when for when in simulated.attempts if when > simulated.began]
        assert len(simulated.attempts) - len(later) == workers, "the first wave, all at once"
        a_minute[workers] = len(later)
        assert simulated.most == 1
    assert a_minute[64] <= a_minute[1] * 1.3 + 1
    assert a_minute[8] <= a_minute[1] * 1.3 + 1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("back_at", [0.05, 1.0, 3.0, 30.0])
@pytest.mark.parametrize("workers", [1, 8, 64, 500])
def test_nine_tenths_of_the_pool_are_back_within_two_pauses(
    clock, monkeypatch, workers, back_at, seed
):
    monkeypatch.setattr("random.uniform", random.Random(seed).uniform)
    simulated = Simulated(clock, workers, 0.02, back_at, seed).run()
    assert len(simulated.ready_at) == workers
    took = simulated.ready_at[-(-workers * 9 // 10) - 1] - simulated.back_at
    assert took <= 2 * min(LONGEST_PAUSE_S, max(back_at, FIRST_PAUSE_S)) + 0.2
    assert simulated.pool.asks(Candidate(Parker())) == [0.0], "all is well again"

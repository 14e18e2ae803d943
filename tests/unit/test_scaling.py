"""Scaling: a table of decisions, and whole pools on a simulated clock, with no thread and no waiting."""

from __future__ import annotations

import heapq
import itertools
import os
import random
from collections import deque

import pytest

import tasker._pool.housekeeper
import tasker._pool.scaling
from tasker._pool.scaling import HORIZON_S, WINDOW_S, Limits, Sample, Sampler, decide

SEED = int(os.environ.get("TASKER_SEED", "1"))
NEVER = float("inf")


def sample(**counts):
    calm = {
        "arrival_rate": 0.0,
        "pace": 10.0,
        "backlog": 0,
        "workers": 4,
        "creating": 0,
        "idle": 0,
        "idle_low": 0,
    }
    return Sample(**{**calm, **counts})


# -- decisions -----------------------------------------------------------------------------------------------------

LIMITS = Limits(base=2, most=16)

HIRING = [  # what the sample shows beside a pace of ten tasks a second and four busy workers, and how many are hired
    ("nothing waits", {}, 0),
    ("what waits is cleared in time: 20 tasks in 0.5 s by 4 workers", {"backlog": 20}, 0),
    (
        "the same however many arrive: what waits is cleared in time",
        {"backlog": 20, "arrival_rate": 40.0},
        0,
    ),
    ("one more than that", {"backlog": 21}, 1),
    ("the arrivals are reckoned with, too", {"backlog": 21, "arrival_rate": 40.0}, 5),
    (
        "a load below the capacity makes nobody hire because of a few that wait",
        {"backlog": 3, "arrival_rate": 28.0},
        0,
    ),
    ("a backlog for more than there may be", {"backlog": 1000}, 12),
    ("somebody is idle: it is just being taken", {"backlog": 1000, "idle": 1}, 0),
    ("slow tasks: the one that waits gets a worker", {"backlog": 1, "pace": 0.1}, 1),
    ("slow tasks: never more are hired than tasks wait", {"backlog": 3, "pace": 0.1}, 3),
    ("slow tasks: a pace below one is a pace, too", {"backlog": 9, "pace": 0.5}, 9),
    ("no pace: twice as many", {"backlog": 100, "pace": 0.0}, 4),
    ("no pace: never more than tasks wait", {"backlog": 1, "pace": 0.0}, 1),
    ("no pace: never above the most", {"backlog": 100, "pace": 0.0, "workers": 12}, 4),
    (
        "stuck, whatever the pace was: twice as many",
        {"backlog": 100, "pace": 1e3, "stuck": True},
        4,
    ),
    ("stuck: never more than tasks wait", {"backlog": 1, "pace": 1e3, "stuck": True}, 1),
    (
        "stuck: those being created count",
        {"backlog": 1, "workers": 5, "creating": 1, "stuck": True},
        0,
    ),
    ("those being created count", {"backlog": 25, "workers": 8, "creating": 4}, 0),
    (
        "those being created count, without a pace as well",
        {"backlog": 3, "pace": 0.0, "workers": 7, "creating": 3},
        0,
    ),
    ("nobody holds a resource yet", {"backlog": 1, "pace": 0.0, "workers": 2, "creating": 2}, 0),
    (
        "nobody holds a resource yet, and many wait",
        {"backlog": 50, "pace": 0.0, "workers": 2, "creating": 2},
        2,
    ),
    ("at the most already", {"backlog": 1000, "workers": 16}, 0),
    ("below the base, and calm", {"workers": 1}, 1),
    ("below the base, and somebody idle", {"workers": 1, "idle": 1, "idle_low": 1}, 1),
]

RETIRING = [  # workers, creating, idle_low, and how many are kept
    ("all idle: the base is kept", 16, 0, 16, 2),
    ("one of the base is idle", 2, 0, 1, 2),
    ("all of the base are idle", 2, 0, 2, 2),
    ("nobody was idle for the whole window", 16, 0, 0, 16),
    ("half of those that were busy are kept beside them", 16, 0, 8, 12),
    ("two thirds busy stay as they are", 12, 0, 4, 12),
    ("a little less than two thirds", 13, 0, 5, 12),
    ("one busy", 16, 0, 15, 2),
    ("two busy", 16, 0, 14, 3),
    ("those being created are no base: they may never come", 16, 14, 2, 16),
    ("those being created are not retired", 16, 6, 10, 8),
]


def test_hiring_goes_by_what_the_workers_that_are_there_cannot_do_in_time():
    hired = {case: decide(sample(**seen), LIMITS) for case, seen, _ in HIRING}
    assert hired == {case: count for case, _, count in HIRING}


def test_retiring_goes_by_the_fewest_that_were_idle():
    kept = {
        case: workers
        + decide(sample(workers=workers, creating=creating, idle=low, idle_low=low), LIMITS)
        for case, workers, creating, low, _ in RETIRING
    }
    assert kept == {case: count for case, *_, count in RETIRING}


def test_a_backlog_above_the_threshold_hires_so_many_at_once():
    limits = Limits(base=2, most=16, threshold=10, threshold_hires=3)
    assert decide(sample(backlog=10), limits) == 0
    assert decide(sample(backlog=11), limits) == 3
    assert decide(sample(backlog=11, idle=2), limits) == 3
    assert decide(sample(backlog=11, workers=15), limits) == 1
    assert decide(sample(backlog=11, workers=16), limits) == 0
    assert decide(sample(backlog=100), limits) == 12  # the other rule wants more
    assert decide(sample(backlog=11), Limits(base=2, most=16, threshold=0, threshold_hires=3)) == 0


@pytest.mark.slow
def test_no_sample_ever_leads_out_of_the_limits():
    rng = random.Random(SEED)
    for _ in range(20_000):
        base = rng.randint(1, 8)
        limits = Limits(
            base=base,
            most=base + rng.randint(0, 16),
            threshold=rng.choice([0, 5]),
            threshold_hires=rng.randint(1, 30),
        )
        workers = rng.randint(0, limits.most)
        creating = rng.randint(0, workers)
        idle = rng.randint(0, workers - creating)
        seen = Sample(
            arrival_rate=rng.choice([0.0, rng.expovariate(0.1)]),
            pace=rng.choice([0.0, 1e-9, 1e9, rng.expovariate(1.0)]),
            backlog=rng.choice([0, 1, rng.randint(0, 10**6)]),
            workers=workers,
            creating=creating,
            idle=idle,
            idle_low=rng.randint(0, idle),
            stuck=rng.random() < 0.2,
        )
        delta = decide(seen, limits)
        assert min(workers, base) <= workers + delta <= limits.most, (seen, limits)
        assert workers >= base or delta >= base - workers, (seen, limits)
        if delta < 0:
            assert workers - creating + delta >= base, (
                seen,
                limits,
            )  # of those that hold a resource
            assert -delta <= seen.idle_low, (seen, limits)
            assert seen.backlog == 0, (seen, limits)


# -- the window ----------------------------------------------------------------------------------------------------


def tick(sampler, now, *, arrived=0, finished=0, backlog=0, workers=2, holding=2, idle=0):
    return sampler.tick(
        now,
        arrived=arrived,
        finished=finished,
        backlog=backlog,
        workers=workers,
        holding=holding,
        idle=idle,
    )


def test_rates_and_pace_are_those_of_the_window():
    sampler = Sampler(0.1, 100.0)
    for i in range(
        1, 51
    ):  # 20 arrive a second, two workers are busy half of the time and finish 20 a second
        seen = tick(sampler, 100 + i / 10, arrived=2 * i, finished=2 * i, idle=1)
    assert seen.arrival_rate == pytest.approx(20)
    assert seen.pace == pytest.approx(20)
    for i in range(51, 71):  # then nothing arrives for two seconds, and nothing is done
        seen = tick(sampler, 100 + i / 10, arrived=100, finished=100, idle=2)
    assert (seen.arrival_rate, seen.pace) == (0.0, 0.0)


def test_the_first_tick_counts_from_the_beginning_and_from_nothing():
    seen = tick(Sampler(0.1, 5.0), 5.1, arrived=2, finished=1, idle=1)
    assert seen.arrival_rate == pytest.approx(20)
    assert seen.pace == pytest.approx(
        1.5 / 0.05
    )  # the one that is busy now began somewhen in that tick


def test_ticks_further_apart_than_the_window_show_what_came_since_the_last():
    sampler = Sampler(0.1, 0.0)
    for i in range(1, 6):
        tick(sampler, 2.0 * i)
    assert tick(sampler, 12.0, arrived=10).arrival_rate == pytest.approx(5)


def test_the_pace_is_that_of_busy_workers_however_long_it_was_quiet_before():
    sampler = Sampler(0.1, 0.0)
    for i in range(1, 30):
        tick(sampler, i / 10, idle=2)
    # somewhen in the last tenth of a second 200 tasks of 50 ms came; four in a second would be a pace of two
    assert 10 < tick(sampler, 3.0, arrived=200, finished=4, backlog=194).pace < 60


def test_the_pace_counts_tasks_under_way_as_half_done():
    sampler = Sampler(0.1, 0.0)
    tick(sampler, 0.1, idle=2)
    seen = tick(sampler, 0.2, arrived=9, backlog=7)  # both busy for half of that tick, say
    assert seen.pace == pytest.approx(1 / 0.1)
    seen = tick(sampler, 0.3, arrived=9, backlog=7)
    assert seen.pace == pytest.approx(1 / 0.3)
    sampler = Sampler(0.1, 0.0)
    for i in range(1, 30):  # the same two for three seconds: no telling when they end
        seen = tick(sampler, i / 10, arrived=9, backlog=7)
    assert seen.pace == 0.0


def test_the_low_water_mark_needs_a_full_window():
    sampler = Sampler(0.1, 0.0)
    lows = [tick(sampler, i / 10, idle=2).idle_low for i in range(1, 15)]
    assert lows[:8] == [0] * 8
    assert lows[-1] == 2
    assert tick(sampler, 1.5, idle=1).idle_low == 1
    lows = [tick(sampler, i / 10, idle=2).idle_low for i in range(16, 28)]
    assert lows[:9] == [1] * 9  # for as long as that tick is in the window
    assert lows[-1] == 2


def test_counts_that_were_taken_at_different_moments_make_no_nonsense():
    sampler = Sampler(0.1, 0.0)
    seen = tick(
        sampler, 0.1, workers=2, holding=5, idle=7
    )  # some that were told to leave have not left
    assert (seen.workers, seen.creating, seen.idle) == (2, 0, 2)
    assert tick(sampler, 0.1).workers == 2  # and no time has passed
    assert tick(Sampler(0.1, 5.0), 5.0) is None


def test_a_late_tick_is_not_trusted():
    sampler = Sampler(0.1, 0.0)
    for i in range(1, 20):
        seen = tick(sampler, i / 10, arrived=10 * i, finished=10 * i, idle=1)
    assert seen.idle_low == 1
    # asleep for an hour; what came meanwhile says nothing of now, nor does it that a worker is idle
    assert tick(sampler, 3600.0, arrived=10**6, finished=500, backlog=10**6, idle=1) is None
    seen = tick(sampler, 3600.1, arrived=10**6 + 10, finished=510, idle=1)
    assert seen.arrival_rate == pytest.approx(100)
    assert seen.idle_low == 0  # the window begins anew


def test_a_tick_is_late_after_more_than_twice_the_interval():
    assert tick(Sampler(0.25, 0.0), 0.5) is not None
    assert tick(Sampler(0.25, 0.0), 0.515625) is None


def test_where_every_tick_is_late_they_are_trusted_after_all():
    sampler = Sampler(0.1, 0.0)
    seen = [tick(sampler, 0.3 * i, arrived=3 * i, finished=3 * i, backlog=50) for i in range(1, 10)]
    assert seen[0] is None
    assert all(each.arrival_rate == pytest.approx(10) for each in seen[1:])
    assert decide(sample(backlog=50, pace=seen[-1].pace, workers=2), LIMITS) > 0


def test_a_long_interval_has_a_long_window():
    sampler = Sampler(5.0, 0.0)
    assert [tick(sampler, 5.0 * i, idle=2).idle_low for i in range(1, 5)] == [0, 0, 2, 2]


# -- whole pools ---------------------------------------------------------------------------------------------------


class Pool:
    """Tasks, workers and ticks on a simulated clock, hired and retired by `Sampler` and `decide` as `Housekeeper` does it."""

    def __init__(self, base, most, *, interval=0.1, create=0.0, **threshold):
        self.limits = Limits(base=base, most=most, **threshold)
        self.sampler = Sampler(interval, 0.0)
        self.interval = interval
        self.create = create  # seconds that on_create takes
        self.now = 0.0
        self.events, self.order = [], itertools.count()
        self.backlog = deque()  # how long each waiting task will take
        self.arrived = self.finished = 0
        self.holding = self.idle = base
        self.creating = 0
        self.changes = []  # when, how many, workers then
        self.ticks = 0
        self.at(interval, self.tick)

    @property
    def workers(self):
        return self.holding + self.creating

    def at(self, when, what, *args):
        heapq.heappush(self.events, (when, next(self.order), what, args))

    def run(self, until):
        while self.events[0][0] <= until:
            self.now, _, what, args = heapq.heappop(self.events)
            what(*args)
        self.now = until

    def run_until(self, condition, limit):
        """Run until `condition()`, looked at every 10 ms, and for `limit` seconds at most; returns whether it came."""
        end = self.now + limit
        while not condition() and self.now < end:
            self.run(self.now + 0.01)
        return condition()

    def submit(self, when, seconds, count=1):
        for _ in range(count):
            self.at(when, self.arrive, seconds)

    def arrive(self, seconds):
        self.arrived += 1
        self.backlog.append(seconds)
        self.serve()

    def serve(self):
        while self.backlog and self.idle:
            self.idle -= 1
            seconds = self.backlog.popleft()
            if seconds != NEVER:
                self.at(self.now + seconds, self.finish)

    def finish(self):
        self.finished += 1
        self.idle += 1
        self.serve()

    def created(self):
        self.creating -= 1
        self.holding += 1
        self.idle += 1
        self.serve()

    def tick(self):
        self.ticks += 1
        self.at(self.now + self.interval, self.tick)
        seen = self.sampler.tick(
            self.now,
            arrived=self.arrived,
            finished=self.finished,
            backlog=len(self.backlog),
            workers=self.workers,
            holding=self.holding,
            idle=self.idle,
        )
        delta = 0 if seen is None else decide(seen, self.limits)
        for _ in range(delta):
            self.creating += 1
            self.at(self.now + self.create, self.created)
        if delta < 0:
            delta = -min(-delta, self.idle)
            self.idle += delta
            self.holding += delta
        if delta:
            self.changes.append((round(self.now, 3), delta, self.workers))
        assert self.limits.base <= self.workers <= self.limits.most
        assert self.holding >= self.limits.base


def submit_load(pool, seconds, load, until, spread=0.0, rng=None, start=0.0):
    """Tasks of `seconds` that keep `load` workers busy; each comes up to `spread` times the gap early or late."""
    gap, when = seconds / load, start + seconds / load / 3
    while when < until:
        pool.submit(when, seconds)
        when += gap * (1 + (rng.uniform(-spread, spread) if rng else 0.0))


MOMENTS = [
    0.0,
    0.0001,
    0.05,
    0.0999,
    0.1,
    3.0,
    3.0001,
    3.05,
    3.0999,
]  # in the beginning and later, before and after ticks


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_burst_is_answered_within_three_ticks_and_forgotten_within_two_seconds_of_quiet(moment):
    pool = Pool(2, 16)
    pool.run(moment)
    pool.submit(moment, 0.05, count=200)
    ticks = pool.ticks
    assert pool.run_until(lambda: pool.workers == 16, 1)
    assert pool.ticks - ticks <= 3
    assert pool.run_until(lambda: pool.finished == 200, 10)
    assert pool.run_until(lambda: pool.workers == 2, 2)
    pool.run(pool.now + 60)
    assert pool.workers == 2
    assert pool.changes[-1][2] == 2


@pytest.mark.slow
@pytest.mark.parametrize("base", [2, 4, 8])
@pytest.mark.parametrize("seconds", [0.005, 0.05, 0.5])
def test_a_steady_load_of_seventy_percent_changes_nothing(base, seconds):
    pool = Pool(base, base * 4)
    submit_load(pool, seconds, 0.7 * base, until=60)
    pool.run(60)
    assert pool.changes == []
    for seed in range(SEED, SEED + (2 if seconds < 0.05 else 10)):
        pool = Pool(base, base * 4)
        submit_load(pool, seconds, 0.7 * base, until=60, spread=0.5, rng=random.Random(seed))
        pool.run(60)
        assert pool.changes == [], f"seed {seed}"


@pytest.mark.parametrize("load", [3, 5, 8, 12])
@pytest.mark.parametrize("seconds", [0.01, 0.05, 0.5])
def test_a_steady_load_above_the_base_is_carried_and_then_left_alone(seconds, load):
    pool = Pool(2, 16)
    submit_load(pool, seconds, load, until=30, spread=0.3, rng=random.Random(SEED))
    pool.run(10)
    pool.changes.clear()
    pool.run(30)
    assert len(pool.backlog) * seconds / pool.workers <= HORIZON_S
    assert load <= pool.workers <= 2 * load
    assert len(pool.changes) <= 2  # no swinging


def test_a_load_that_moves_is_followed_up_and_down():
    pool = Pool(2, 16)
    sizes = []
    for step, load in enumerate((1, 10, 1, 14, 4, 1)):
        submit_load(pool, 0.05, load, start=10 * step, until=10 * (step + 1))
        pool.run(10 * (step + 1) - 0.05)
        sizes.append(pool.workers)
    assert sizes[0] == sizes[2] == sizes[5] == 2
    assert sizes[1] >= 10
    assert sizes[3] >= 14
    assert 4 <= sizes[4] <= 8


@pytest.mark.parametrize(("base", "count"), [(1, 2), (2, 3), (4, 5), (4, 7)])
def test_long_tasks_get_workers_even_if_only_one_waits(base, count):
    pool = Pool(base, 16)
    pool.submit(1.03, 10.0, count=count)
    assert pool.run_until(lambda: pool.arrived and not pool.backlog, 3.5)
    assert pool.workers == count
    pool.run(40)
    assert pool.workers == base


def test_a_long_task_that_comes_after_many_short_ones_gets_a_worker():
    pool = Pool(2, 16)
    submit_load(pool, 0.005, 0.5, until=5)
    pool.submit(5.0, 10.0, count=2)  # and now both workers are kept
    pool.submit(5.5, 0.005)
    pool.run(5.6)
    assert pool.run_until(lambda: not pool.backlog, 2)


def test_a_pool_in_which_every_task_fails_is_scaled_like_any_other():
    # a failure is an end like any other (test_metrics); here each comes at once, as when the backend refuses
    pool = Pool(2, 16)
    submit_load(pool, 0.001, 1.4, until=10)
    pool.run(10)
    assert pool.changes == []
    pool.submit(10.0, 0.05, count=400)  # it answers again
    assert pool.run_until(lambda: pool.workers == 16, 2)
    assert pool.run_until(lambda: pool.workers == 2, 10)


@pytest.mark.parametrize(("count", "seconds"), [(200, 0.5), (3, 10.0), (1000, 0.01)])
def test_a_slow_creation_is_not_answered_by_hiring_again(count, seconds):
    pool = Pool(2, 16, create=5.0)
    pool.submit(1.0, seconds, count=count)
    pool.run(5.9)  # nobody that was hired has come
    hired = sum(delta for _, delta, _ in pool.changes)
    assert 0 < hired <= min(14, count - 2)
    if count < 14:
        assert (
            pool.workers == count
        )  # one for each: neither the first nor the later ticks hire more
    assert pool.run_until(lambda: pool.finished == count, 60)
    assert pool.run_until(lambda: pool.workers == 2, 10)


def test_idle_base_workers_are_not_retired_while_others_are_being_created():
    pool = Pool(2, 16, create=5.0)
    pool.submit(1.0, 0.01, count=200)
    assert pool.run_until(lambda: pool.creating > 0, 2)
    assert pool.run_until(lambda: pool.finished == 200, 2)
    while pool.creating:
        pool.run(pool.now + 0.1)
        assert pool.holding >= 2  # tick() asserts it, too
    assert pool.run_until(lambda: pool.workers == 2, 2)


def test_a_pool_without_any_throughput_stays_within_its_limit_and_moves_again_when_it_can():
    pool = Pool(2, 16)
    pool.submit(1.0, NEVER, count=40)
    pool.run(60)
    assert pool.workers == 16
    assert len(pool.backlog) == 24
    pool.backlog.clear()
    for _ in range(16):  # whatever held them lets go
        pool.at(60.0, pool.finish)
    pool.run(63)
    assert pool.workers == 2
    pool.submit(63.0, 0.05, count=200)
    assert pool.run_until(lambda: pool.workers == 16, 0.5)


def test_a_pool_that_is_half_stuck_still_scales_for_the_rest():
    pool = Pool(2, 16)
    pool.submit(1.0, NEVER)  # one worker is lost to it for good
    submit_load(pool, 0.05, 4.0, start=2.0, until=30)
    pool.run(30)
    assert pool.workers >= 5
    assert len(pool.backlog) * 0.05 / (pool.workers - 1) <= HORIZON_S
    pool.run(35)
    assert pool.workers == 2


def test_a_pool_at_its_limit_with_base_as_the_most_never_changes():
    pool = Pool(4, 4)
    pool.submit(0.5, 0.05, count=500)
    pool.submit(20, NEVER, count=50)
    pool.run(60)
    assert pool.changes == []


@pytest.mark.slow
def test_random_loads_never_leave_the_limits_and_always_end_at_the_base():
    for seed in range(SEED, SEED + 25):
        rng = random.Random(seed)
        base = rng.randint(1, 6)
        pool = Pool(
            base,
            base + rng.randint(0, 12),
            interval=rng.choice([0.02, 0.1, 0.5]),
            create=rng.choice([0.0, 0.3, 5.0]),
            threshold=rng.choice([0, 20]),
            threshold_hires=2,
        )
        when = 0.0
        for _ in range(rng.randint(1, 30)):
            when += rng.expovariate(2.0)
            pool.submit(
                when, rng.choice([0.001, 0.05, 0.5, 3.0]), count=rng.choice([1, 2, 10, 100])
            )
        pool.run(when)  # tick() checks the limits
        assert pool.run_until(
            lambda pool=pool: pool.finished == pool.arrived and not pool.creating, 2_000
        ), f"seed {seed}"
        pool.run(pool.now + 5)
        assert pool.workers == base, f"seed {seed}"


def test_the_threshold_rule_hires_again_at_every_tick_while_the_backlog_stays():
    for threshold, sizes in ((0, [2, 2]), (5, [4, 6]), (9, [2, 4]), (11, [2, 2])):
        pool = Pool(2, 8, threshold=threshold, threshold_hires=2)
        pool.submit(0.95, 0.06, count=11)  # of itself no reason to hire
        pool.submit(1.05, 0.06, count=6)
        pool.run(1.0)
        seen = [pool.workers]
        pool.run(1.1)
        assert [*seen, pool.workers] == sizes


def test_late_ticks_do_not_make_a_steady_load_swing():
    rng = random.Random(SEED)
    pool = Pool(4, 16)
    submit_load(pool, 0.05, 2.8, until=60)
    pool.events = [event for event in pool.events if event[2] != pool.tick]
    heapq.heapify(pool.events)
    tick_again = pool.at
    pool.at = lambda when, what, *args: tick_again(
        when + (rng.choice([0.0, 0.0, 0.05, 0.3, 2.0]) if what == pool.tick else 0.0), what, *args
    )
    pool.at(0.1, pool.tick)
    pool.run(60)
    assert pool.ticks > 50
    assert pool.changes == []


def test_the_thread_and_the_simulation_decide_by_the_same_code():
    assert tasker._pool.housekeeper.Sampler is Sampler
    assert tasker._pool.housekeeper.decide is decide
    assert tasker._pool.scaling.WINDOW_S == WINDOW_S < 2.0

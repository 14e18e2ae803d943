"""The graph of waits against a world that is played: what still waits when all that can end has ended is stuck."""

from __future__ import annotations

import os
import random
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION

import pytest

from tasker._tasks.deadlock import (
    Closing,
    Outcomes,
    Ready,
    Rest,
    Seat,
    Stuck,
    Wait,
    Waits,
    look_again,
)

SEED = int(os.environ.get("TASKER_SEED", "1"))
WORLDS = int(os.environ.get("TASKER_WORLDS", "6000"))

AWAITED = ("all", "any", "error", "seat", "ready", "rest", "closing")
UNTIL = {"all": ALL_COMPLETED, "any": FIRST_COMPLETED, "error": FIRST_EXCEPTION}


class Task:
    _exception = _context = None

    def __init__(self, pool, deadline):
        self._engine = pool
        self._deadline = 1.0 if deadline else None
        self.waits = True  # in its lane
        self.ended = False

    def done(self):
        return self.ended

    def _waits_for_start(self):
        return self.waits and not self.ended


class Worker:
    def __init__(self, rng):
        self.task = None
        self.holds_resource = rng.random() < 0.7
        self.creating = (
            not self.holds_resource and rng.random() < 0.7
        )  # or it destroys its last one
        self.dismissed = rng.random() < 0.1


class Loan:
    def __init__(self, owner):
        self.owner = owner
        self.outer = None


class Pool:
    """A manager as the graph sees it."""

    def __init__(self, rng):
        self.members = [Worker(rng) for _ in range(rng.randint(0, 3))]
        self.at_base = rng.randint(1, 3)
        self.capacity = rng.randint(1, 2)
        self.killed = rng.random() < 0.05
        self.closing = self.killed or rng.random() < 0.3
        self.hires = rng.random() < 0.2
        self.hopeless = rng.random() < 0.5
        self.lane = [Task(self, rng.random() < 0.1) for _ in range(rng.randint(0, 3))]

    def workers(self):
        return self.members

    def base(self):
        return self.at_base

    def waiting(self):
        return self.lane

    def has_room(self):
        return self.killed or len(self.lane) < self.capacity

    def is_closing(self):
        return self.closing

    def is_killed(self):
        return self.killed

    def may_hire(self):
        return self.hires

    def is_hopeless(self):
        return self.hopeless


class World:
    """Some managers, whose workers run tasks. Some of these wait, one for what concerns those of others."""

    def __init__(self, rng):
        self.pools = [Pool(rng) for _ in range(rng.randint(1, 3))]
        workers = [worker for pool in self.pools for worker in pool.members]
        for pool in self.pools:
            for worker in pool.members:
                if worker.holds_resource and rng.random() < 0.9:
                    worker.task = Task(pool, rng.random() < 0.05)
                    worker.task.waits = False
        self.tasks = [task for pool in self.pools for task in pool.lane]
        self.tasks += [worker.task for worker in workers if worker.task is not None]
        for task in self.tasks:
            if not task.waits and rng.random() < 0.05:
                task.ended = True  # a callback of it waits
        self.waits = Waits()
        self.kinds = {}
        for worker in workers:
            if rng.random() < 0.9:
                self.announce(rng, worker)
        for number in range(rng.randint(0, 1)):  # a thread in `run_task`
            self.announce(rng, f"thread {number}")

    def announce(self, rng, waiter):
        kind = rng.choice(AWAITED[:3] if self.tasks and rng.random() < 0.6 else AWAITED[3:])
        pool = rng.choice(self.pools)
        if kind in UNTIL:
            of = rng.choices(self.tasks, k=rng.randint(1, 3))
            awaited = Outcomes(of, UNTIL[kind])
        else:
            of = pool
            awaited = {"seat": Seat, "ready": Ready, "rest": Rest, "closing": Closing}[kind](pool)
        wait = Wait(awaited, bool)
        wait.task = getattr(waiter, "task", None)
        if rng.random() < 0.2 or not isinstance(waiter, Worker):
            wait._loan = Loan(rng.choice(self.pools))
        self.waits.begin(waiter, wait)
        self.kinds[waiter] = kind, of

    def play(self, *, hopes):
        """Who waits when everything has ended that can."""
        waiting = dict(self.kinds)
        ended = {
            task
            for task in self.tasks
            if task.ended or task._deadline is not None or task._engine.killed
        }
        ended_before = {task for task in self.tasks if task.ended}
        moved = True
        while moved:
            before = len(waiting), len(ended)
            for pool in self.pools:
                awake = [worker for worker in pool.members if worker not in waiting]
                ended.update(worker.task for worker in awake if worker.task is not None)
                takers = [worker for worker in awake if not worker.dismissed]
                hope = hopes and not pool.hopeless and (takers or pool.hires)
                if pool.killed or hope or any(worker.holds_resource for worker in takers):
                    ended.update(pool.lane)
            for waiter, (kind, of) in list(waiting.items()):
                if self.is_over(kind, of, waiting, ended, ended_before):
                    del waiting[waiter]
            moved = before != (len(waiting), len(ended))
        return set(waiting)

    def is_over(self, kind, of, waiting, ended, ended_before):
        if kind == "all":
            return ended.issuperset(of)
        if kind == "any":
            return not ended.isdisjoint(of)
        if kind == "error":  # whatever ends may end so, but for what has ended already
            return ended.issuperset(of) or any(
                task in ended and task not in ended_before for task in of
            )
        held_up = [worker for worker in of.members if worker in waiting]
        if kind == "seat":
            return of.has_room() or any(task in ended for task in of.lane)
        if kind == "ready":
            got = [
                worker for worker in of.members if worker.holds_resource or worker not in waiting
            ]
            return of.closing or len(of.members) < of.at_base or len(got) >= of.at_base
        lanes_empty = ended.issuperset(of.lane)
        if kind == "rest":
            return of.killed or (
                lanes_empty and not any(worker.holds_resource for worker in held_up)
            )
        held_up = [worker for worker in held_up if not worker.creating]
        borrowed = any(
            self.waits.waits[waiter]._loan is not None
            and self.waits.waits[waiter]._loan.owner is of
            for waiter in waiting
        )
        return of.killed or (lanes_empty and not held_up and not borrowed)


@pytest.mark.slow
@pytest.mark.parametrize("hopes", [True, False], ids=["hoping", "without hope"])
def test_what_is_stuck_is_what_still_waits_when_everything_that_can_end_has_ended(hopes):
    rng = random.Random(SEED)
    seen = {}
    for number in range(WORLDS):
        world = World(rng)
        stuck = Stuck(world.waits, hopes=hopes).waits
        assert set(stuck) == world.play(hopes=hopes), f"world {number} of seed {SEED}"
        for waiter in world.kinds:
            kind = world.kinds[waiter][0]
            seen[kind, waiter in stuck] = seen.get((kind, waiter in stuck), 0) + 1
    assert min(seen.values()) > WORLDS / 100, seen
    assert len(seen) == 2 * len(AWAITED)


def test_a_wait_that_may_end_although_all_others_are_stuck_is_in_no_circle():
    """The look that a new wait begins with is cheaper than the whole graph, and misses nothing."""
    rng = random.Random(SEED)
    for _ in range(WORLDS // 3):
        world = World(rng)
        stuck = Stuck(world.waits)
        assert not [
            waiter for waiter in stuck.waits if world.waits.waits[waiter].may_end(world.waits)
        ]


def test_a_look_ends_one_wait_of_a_circle_and_leaves_the_others_to_that(monkeypatch):
    pool = Pool(random.Random(SEED))
    pool.killed = False
    workers, woken = [Worker(random.Random(SEED)) for _ in range(3)], []
    for worker in workers:
        worker.task = Task(pool, deadline=False)
        worker.task.waits = False
    waits = Waits()
    for number, worker in enumerate(workers):
        wait = Wait(
            Outcomes((workers[number - 1].task,)), lambda number=number: woken.append(number)
        )
        wait.task = worker.task
        waits.begin(worker, wait)
    monkeypatch.setattr("tasker._tasks.deadlock._announced", waits)
    look_again(workers)
    look_again(workers)  # before the thread has left its wait
    assert woken == [2, 2], "the youngest, until it has heard"
    assert [wait.stuck is not None for wait in waits.waits.values()] == [False, False, True]
    assert not Stuck(waits).waits, "that wait ends, and so all may"

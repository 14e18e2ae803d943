"""The parking protocol: announce, look, sleep. Every interleaving of one waiter and one maker is played through."""

from __future__ import annotations

import contextlib
import itertools
import signal
import sys
import threading
from collections import deque
from types import SimpleNamespace

import pytest

import tasker._tasks.future
from tasker._sync import parking
from tasker._sync.parking import Parker, ParkingLot, _EventLock, _taken_lock, copy_of
from tests.support.waiting import PATIENCE, eventually


class Nap(Parker):
    """A parker whose sleep is a function of the test."""

    def __init__(self, sleep=lambda parker, timeout: False):
        super().__init__()
        self.naps = []
        self.how = sleep

    def sleep(self, timeout=-1.0):
        self.naps.append(timeout)
        return self.how(self, timeout)


def pending(parker):
    """Whether a wake-up lies in the parker, ending the next sleep at once; takes it out."""
    return Parker.sleep(parker, 0)


# -- the parker ------------------------------------------------------------------------------------------------------


def test_a_wake_up_sent_before_sleeping_counts_and_several_are_one():
    parker = Parker()
    parker.wake()
    parker.wake()
    assert parker.sleep() is True
    assert parker.sleep(0) is False


def test_a_sleeper_is_woken_by_another_thread():
    parker, seen = Parker(), []
    thread = threading.Thread(target=lambda: seen.append(parker.sleep(PATIENCE)))
    thread.start()
    parker.wake()
    thread.join(PATIENCE)
    assert seen == [True]


# -- what a parker sleeps on, with the GIL and without ----------------------------------------------------------------

SLEEPERS = [
    _taken_lock,
    pytest.param(
        _EventLock, marks=pytest.mark.skipif(sys.version_info < (3, 13), reason="no event")
    ),
]


@pytest.fixture(params=SLEEPERS, ids=["lock", "event"])
def sleeper(request):
    return request.param()


def release(sleeper):
    with contextlib.suppress(RuntimeError):  # a lock that is free
        sleeper.release()


def test_several_releases_before_a_sleep_end_that_one_and_no_other(sleeper):
    for _ in range(3):
        release(sleeper)
        release(sleeper)
        assert sleeper.acquire(timeout=-1) is True
        assert sleeper.acquire(timeout=0) is False
        assert sleeper.acquire(timeout=0.001) is False


def test_two_threads_wake_each_other_again_and_again(sleeper):
    answers = type(sleeper)() if type(sleeper) is _EventLock else _taken_lock()

    def answer():
        for _ in range(100):
            assert sleeper.acquire(timeout=PATIENCE)
            release(answers)

    thread = threading.Thread(target=answer)
    thread.start()
    for _ in range(100):
        release(sleeper)
        assert answers.acquire(timeout=PATIENCE)
    thread.join(PATIENCE)


def test_an_error_from_a_signal_handler_ends_a_sleep_and_the_next_one_is_as_good(sleeper):
    def interrupt(number, frame):
        raise KeyboardInterrupt

    def sleep():
        timer.start()
        sleeper.acquire(timeout=PATIENCE)

    timer = threading.Timer(
        0.01, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)
    )
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            sleep()
        timer.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert sleeper.acquire(timeout=0) is False
    release(sleeper)
    assert sleeper.acquire(timeout=-1) is True


# -- announce, look, sleep -----------------------------------------------------------------------------------------


def test_what_is_there_already_is_found_without_sleeping_and_nothing_stays_behind():
    parking, parker = ParkingLot(), Nap()
    assert parking.park(parker, lambda: "thing") == "thing"
    assert parker.naps == []
    assert not parking.announced
    assert parker.parked is False
    assert not pending(parker)


def test_the_parker_is_announced_before_the_first_look():
    parking, parker, announced = ParkingLot(), Nap(), []
    parking.park(parker, lambda: announced.append(tuple(parking.announced)))
    assert announced[0] == (parker,)


def test_a_wake_up_between_announcing_and_sleeping_is_not_lost():
    parking, parker = ParkingLot(), Nap(Parker.sleep)
    things = deque()

    def look():
        found = things.popleft() if things else None
        if not found and not parker.naps:  # just after the look that found nothing
            things.append("thing")
            parking.wake_one()
        return found

    assert parking.park(parker, look) == "thing"
    assert parker.naps == [-1.0]


def test_who_finds_something_consumes_the_wake_up_that_was_sent_to_him():
    parking, parker = ParkingLot(), Nap(Parker.sleep)

    def look():
        parking.wake_one()
        return "thing"

    assert parking.park(parker, look) == "thing"
    assert not pending(parker)  # the next sleep is a real one


def test_who_finds_something_does_not_wait_for_ever_for_a_wake_up_that_never_comes():
    parking, parker = ParkingLot(), Nap()

    def look():
        assert parking.take_longest() is parker  # taken by somebody who dies before he wakes it
        return "thing"

    assert parking.park(parker, look) == "thing"
    assert len(parker.naps) == 1
    assert 0 < parker.naps[0] < 1


def test_a_wake_up_that_comes_too_late_costs_a_look_and_leaves_no_announcement():
    parking, parker = ParkingLot(), Nap()

    def look():
        parking.announced.pop()
        return "thing"

    assert parking.park(parker, look) == "thing"
    parker.wake()  # by whoever took the announcement
    looks = []
    parker.how = Parker.sleep
    assert parking.park(parker, lambda: looks.append(1)) is None
    assert len(looks) == 2
    assert (
        not parking.announced
    )  # listed twice after the next time, it would get wake-ups meant for others


def test_a_timeout_takes_the_announcement_back():
    parking, parker, looks = ParkingLot(), Parker(), []
    assert parking.park(parker, lambda: looks.append(1), 0) is None
    assert len(looks) == 2
    assert not parking.announced
    assert parker.parked is False


def test_a_wake_up_that_meets_a_timeout_is_passed_on():
    parking = ParkingLot()
    other = Parker()
    parking.announced.append(other)

    def time_out(parker, timeout):
        assert (
            parking.announced.pop() is parker
        )  # somebody takes it to wake it, and it times out before that
        return False

    assert parking.park(Nap(time_out), lambda: None, 1.0) is None
    assert pending(other)
    assert not parking.announced


def test_an_interrupt_while_sleeping_leaves_nothing_behind_and_passes_a_wake_up_on():
    parking, other = ParkingLot(), Parker()

    def interrupt(parker, timeout):
        raise KeyboardInterrupt

    parker = Nap(interrupt)
    with pytest.raises(KeyboardInterrupt):
        parking.park(parker, lambda: None)
    assert not parking.announced
    assert parker.parked is False

    def woken_and_interrupted(parker, timeout):
        parking.announced.remove(parker)
        raise KeyboardInterrupt

    parking.announced.append(other)
    with pytest.raises(KeyboardInterrupt):
        parking.park(Nap(woken_and_interrupted), lambda: None)
    assert pending(other)


def test_parked_is_true_only_while_asleep_and_watchers_are_told_before():
    parking, states = ParkingLot(), []
    parker = Nap(lambda parker, timeout: states.append(("sleep", parker.parked)) or True)
    parking.watch = lambda: states.append(("watch", parker.parked))
    parking.park(parker, lambda: states.append(("look", parker.parked)))
    assert states == [("look", False), ("watch", True), ("sleep", True), ("look", False)]


# -- waking --------------------------------------------------------------------------------------------------------


def test_the_last_to_come_is_woken_first_and_the_longest_idle_is_retired_first():
    parking, parkers = ParkingLot(), [Parker() for _ in range(4)]
    parking.announced.extend(parkers)
    parking.wake_one()
    assert [pending(parker) for parker in parkers] == [False, False, False, True]
    assert parking.take_longest() is parkers[0]
    assert not pending(parkers[0])  # taken, not woken
    parking.wake_all()
    assert [pending(parker) for parker in parkers] == [False, True, True, False]
    assert parking.take_longest() is None
    parking.wake_one()
    parking.wake_all()


def test_waking_all_ends_although_those_that_are_woken_announce_themselves_again_at_once():
    parking, woken = ParkingLot(), []

    class Eager(Parker):
        """Of a thread that looks as soon as it is woken, finds nothing, and announces itself again."""

        def wake(self):
            woken.append(self)
            assert len(woken) < 100, "there is no end of it"
            parking.announced.append(self)

    parkers = [Eager() for _ in range(4)]
    parking.announced.extend(parkers)
    parking.wake_all()
    assert woken == parkers
    assert list(parking.announced) == parkers


def test_the_stranded_are_found_without_searching_all_announcements_for_each_sleeper():
    parking = ParkingLot()

    class Announcements(deque):
        def __contains__(self, parker):
            raise AssertionError("searched for one parker")

    parkers = [Parker() for _ in range(4)]
    for parker in parkers:
        parker.parked = True
    parking.announced = Announcements(parkers[1:])
    parking.wake_stranded(parkers)
    assert [pending(parker) for parker in parkers] == [True, False, False, False]


def take_and_append(lane, start):
    start.wait(PATIENCE)
    for item in range(1000, 1500):
        lane.popleft()
        lane.append(item)


def test_a_deque_is_copied_while_others_change_it():
    busy = deque(range(1000))

    class Changing(deque):
        """One that always changes while it is copied, as may be without the GIL."""

        def __iter__(self):
            raise RuntimeError("deque mutated during iteration")

        def __getitem__(self, place):
            if place % 10 == 0:
                self.popleft()
            if place % 5 == 0:
                self.append(2000 + place)
            return super().__getitem__(place)

    assert copy_of(busy) == [*range(1000)]
    lane = Changing(busy)
    copied = copy_of(lane)
    assert lane[0] > 0, "nothing was taken meanwhile"
    assert copied == sorted({*copied}), "one is there twice, or the order is another"
    assert {*range(lane[0], 1000)} <= {*copied}, "some are missing that were there all the time"

    for _ in range(20):
        lane, start = deque(range(1000)), threading.Barrier(2)
        thread = threading.Thread(target=take_and_append, args=(lane, start))
        thread.start()
        start.wait(PATIENCE)
        while thread.is_alive():
            copied = copy_of(lane)
            assert len(copied) == len({*copied})
            assert {*range(500, 1000)} <= {*copied}
        thread.join(PATIENCE)
    assert copy_of(lane) == [*range(500, 1500)]


def test_a_thread_at_the_cold_end_is_woken_last_and_retired_first():
    parking, parkers = ParkingLot(), [Parker() for _ in range(3)]
    parking.announced.extend(parkers)
    parking.go_to_cold_end(parkers[1])
    parking.wake_one()
    assert [pending(parker) for parker in parkers] == [False, False, True]
    assert parking.take_longest() is parkers[1]


def test_a_thread_that_is_about_to_be_woken_is_not_announced_a_second_time():
    parking, parker = ParkingLot(), Parker()
    parking.go_to_cold_end(parker)
    assert list(parking.announced) == []


def test_only_sleepers_whose_announcement_is_gone_count_as_stranded():
    parking = ParkingLot()
    awake, listed, stranded = Parker(), Parker(), Parker()
    listed.parked = stranded.parked = True
    parking.announced.append(listed)
    parking.wake_stranded([awake, listed, stranded])
    assert [pending(parker) for parker in (awake, listed, stranded)] == [False, False, True]
    assert list(parking.announced) == [listed]


def test_a_stranded_sleeper_comes_back():
    parking, parker, seen = ParkingLot(), Parker(), []
    things = deque()
    thread = threading.Thread(
        target=lambda: seen.append(
            parking.park(parker, lambda: things.popleft() if things else None)
        )
    )
    thread.start()
    eventually(lambda: parker.parked)
    things.append("thing")
    parking.announced.pop()  # and now a Ctrl-C, before the wake-up
    parking.wake_stranded([parker])
    thread.join(PATIENCE)
    assert seen == ["thing"]


# -- every interleaving --------------------------------------------------------------------------------------------

MOMENTS = ("start", "announced", "looked", "taking back", "watched", "asleep")


class Played:
    """One waiter in this thread, and one maker whose steps are played at given moments of the waiter's."""

    def __init__(self, schedule):
        self.parking = ParkingLot()
        self.parking.announced = Announced(self)
        self.parking.watch = lambda: self.reach("watched")
        self.things = deque()
        self.parker = Nap(self.sleep)
        self.taken = None
        self.steps = deque(zip(schedule, (self.make, self.take, self.wake), strict=True))

    def make(self):
        self.things.append("thing")

    def take(self):
        if self.parking.announced:
            self.taken = self.parking.announced.pop()

    def wake(self):
        if self.taken is not None:
            self.taken.wake()

    def reach(self, moment):
        while self.steps and MOMENTS.index(self.steps[0][0]) <= MOMENTS.index(moment):
            self.steps.popleft()[1]()

    def look(self):
        found = self.things.popleft() if self.things else None
        self.reach("looked")
        return found

    def sleep(self, parker, timeout):
        self.reach("asleep")  # all that is left happens now
        woken = pending(parker)
        assert woken or timeout >= 0, "asleep for ever"
        return woken


class Announced(deque):
    """The announcements, which tell when the waiter gets to them."""

    def __init__(self, played):
        super().__init__()
        self.played = played

    def append(self, parker):
        super().append(parker)
        self.played.reach("announced")

    def remove(self, parker):
        self.played.reach("taking back")
        super().remove(parker)


def test_no_interleaving_of_a_waiter_and_a_maker_loses_a_wake_up():
    schedules = [*itertools.combinations_with_replacement(MOMENTS, 3)]
    assert len(schedules) == 56
    for schedule in schedules:
        played = Played(schedule)
        played.reach("start")
        found = None
        for _ in range(3):  # a waiter woken for nothing looks again
            found = played.parking.park(played.parker, played.look)
            if found is not None:
                break
        assert found == "thing", schedule
        played.reach("asleep")
        assert not played.parking.announced, schedule
        # one wake-up at most is under way, sent to a waiter that had found the thing by itself
        pending(played.parker)
        assert not pending(played.parker), schedule


@pytest.mark.parametrize("consumers", [1, 4])
def test_threads_that_park_take_everything_that_others_make(consumers):
    parking, things, taken = ParkingLot(), deque(), []
    count, producers = 400, 2
    over = object()

    def look():
        try:
            return things.popleft()
        except IndexError:
            return None

    def consume():
        parker = Parker()
        while True:
            thing = look() or parking.park(parker, look)
            if thing is over:
                return
            if thing is not None:
                taken.append(thing)

    def put(thing):
        things.append(thing)
        if parking.announced:
            parking.wake_one()

    def produce(number):
        for i in range(1, count + 1):
            put((number, i))

    threads = [threading.Thread(target=consume) for _ in range(consumers)]
    makers = [threading.Thread(target=produce, args=(i,)) for i in range(producers)]
    for thread in threads + makers:
        thread.start()
    for maker in makers:
        maker.join(PATIENCE)
    for _ in threads:
        put(over)
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "asleep for ever"
    assert sorted(taken) == [
        (number, i) for number in range(producers) for i in range(1, count + 1)
    ]


# -- giving way ----------------------------------------------------------------------------------------------------


@pytest.fixture
def way(monkeypatch):
    """The times at which a thread gave way, by a clock on which that takes as long as is put into `took`."""
    clock, took, gave = [1000.0], [0.0], []

    def give():
        gave.append(clock[0])
        clock[0] += took[0]

    monkeypatch.setattr(parking, "_yield", give)
    monkeypatch.setattr(parking, "_give_way_from", 0.0)
    monkeypatch.setattr(parking, "_pause", 1.0)
    monkeypatch.setattr(parking, "monotonic", lambda: clock[0])
    return SimpleNamespace(clock=clock, took=took, gave=gave)


def test_a_thread_gives_way_each_time_as_long_as_that_is_short(way):
    for _ in range(5):
        parking.give_way()
    assert len(way.gave) == 5


@pytest.mark.slow
def test_where_it_takes_long_to_give_way_it_is_done_more_and_more_seldom(way):
    way.took[0] = 0.003  # a slice of another program's
    while way.clock[0] < 1100.0:
        parking.give_way()
        way.clock[0] += 0.0001  # what else the thread does
    pauses = [later - sooner - 0.003 for sooner, later in itertools.pairwise(way.gave)]
    assert pauses == pytest.approx(
        [0.003 * min(2**number, 256) for number in range(len(pauses))], abs=0.0005
    )
    assert len(way.gave) * 0.003 < 1.0  # in 100 seconds


def test_as_soon_as_it_is_short_again_to_give_way_it_is_done_each_time(way):
    way.took[0] = 0.003
    for _ in range(20):
        way.clock[0] += 10.0
        parking.give_way()
    way.took[0] = 0.0
    way.clock[0] += 10.0
    for _ in range(20):
        parking.give_way()
    assert len(way.gave) == 40
    way.took[0] = 0.003
    parking.give_way()
    way.clock[0] += 0.004
    parking.give_way()
    assert len(way.gave) == 42  # and what took long before is forgotten


def test_what_is_there_after_giving_way_is_not_slept_for(way, monkeypatch):
    line, parker, found = parking.ParkingLot(), parking.Parker(), []
    monkeypatch.setattr(parking, "_yield", lambda: (found.append("task"), line.wake_one()))
    assert line.park(parker, lambda: found[0] if found else None, 0.0) == "task"
    assert not line.announced
    assert not parker._lock.acquire(timeout=0)  # the wake-up is used up: the next sleep is a sleep


def test_a_caller_whose_task_ends_while_it_gives_way_makes_nothing_to_sleep_on(
    new_manager, monkeypatch
):
    made, manager = [], new_manager(worker_count=1)
    manager.wait_ready(PATIENCE)
    done = threading.Event()
    monkeypatch.setattr(
        tasker._tasks.future, "new_sleep_lock", lambda: made.append(1) or parking.new_sleep_lock()
    )
    monkeypatch.setattr(tasker._tasks.future, "give_way", lambda: done.wait(PATIENCE))
    future = manager.submit(lambda resource: "result")
    future.add_done_callback(lambda future: done.set())
    assert future.result() == "result"
    assert made == []


def test_a_caller_who_only_looks_gives_way_to_nobody(new_manager, way):
    gate = threading.Event()
    future = new_manager(worker_count=1).submit(lambda resource: gate.wait(PATIENCE))
    eventually(future.running)
    before = len(way.gave)
    with pytest.raises(TimeoutError):
        future.result(0)
    assert len(way.gave) == before
    gate.set()
    assert future.result(PATIENCE)

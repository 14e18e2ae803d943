"""`Room` by itself: seats, the line, and what becomes of those that leave it."""

from __future__ import annotations

import contextlib
import random
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

import tasker._sync.room
from tasker._sync.parking import Parker
from tasker._sync.room import ABSENT_S, Room
from tests.support.bytecodes import Interrupter
from tests.support.waiting import PATIENCE, eventually


@pytest.fixture
def full():
    """A room of one seat, which `first` has."""
    room = Room(1)
    assert room.enter("first", 0)
    return room


class Place:
    """A coroutine's place in the line, or a thread's; counts how often it is woken."""

    def __init__(self, loop=None):
        self.loop = loop
        self.woken = 0

    def wake(self):
        self.woken += 1


class Clock:
    """A clock of the test's, by which parkers sleep. Each sleep ends with the next of `events`, or by its timeout."""

    def __init__(self, *events):
        self.now = 1000.0
        self.events = list(events)  # after how many seconds, and what happens then

    def monotonic(self):
        return self.now

    def sleep(self, parker, timeout=-1.0):
        assert timeout == -1 or 0 < timeout <= threading.TIMEOUT_MAX
        after, happen = self.events[0] if self.events else (float("inf"), None)
        if 0 < timeout < after and timeout < threading.TIMEOUT_MAX:
            self.now += timeout
            return False
        assert happen is not None, "nobody would ever wake it"
        self.events.pop(0)
        self.now += after
        happen()
        return True


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(tasker._sync.room, "monotonic", clock.monotonic)
    monkeypatch.setattr(Parker, "sleep", lambda parker, timeout=-1.0: clock.sleep(parker, timeout))
    return clock


def spurious():
    """A wake-up for nothing."""


def close(room):
    room.closed = True
    room.heal()


# -- seats ---------------------------------------------------------------------------------------------------------


def test_a_seat_is_taken_and_freed_once_however_often_that_is_said():
    room = Room(2)
    assert room.enter("a", 0)
    assert room.enter("b", 0)
    assert not room.enter("c", 0)
    assert str(room) == "2 of 2 waiting"
    room.leave("a")
    room.leave("a")
    assert room.enter("c", 0)
    assert not room.enter("d", 0)


@pytest.mark.parametrize(
    ("timeout", "wakes", "waited"),
    [
        pytest.param(5.0, [], None, id="nobody leaves"),
        pytest.param(5.0, [2.0, 2.0], None, id="woken for nothing, the deadline stays"),
        pytest.param(5.0, [2.0, 2.5, "room"], 4.75, id="room in time"),
        pytest.param(0.5, ["room"], 0.25, id="room within less than a second"),
        pytest.param(None, [1e6, 1e9, "room"], 1e6 + 1e9 + 0.25, id="as long as it takes"),
        pytest.param(float("inf"), [1e6, "room"], 1e6 + 0.25, id="infinite"),
        pytest.param(5.0, [1.0, "close"], 1.25, id="closed"),
        pytest.param(None, ["close"], 0.25, id="closed, without a timeout"),
    ],
)
def test_a_thread_waits_for_room_until_its_deadline(full, clock, timeout, wakes, waited):
    what = {"room": (0.25, lambda: full.leave("first")), "close": (0.25, lambda: close(full))}
    clock.events += [what.get(wake) or (wake, spurious) for wake in wakes]
    assert full.enter("second", timeout) is (waited is not None)
    assert clock.now == 1000.0 + (timeout if waited is None else waited)
    full.leave("first")
    full.leave("second")
    assert not full.is_wanted()
    assert full.used() == 0


# -- the line ------------------------------------------------------------------------------------------------------


def test_threads_and_coroutines_are_served_in_the_order_in_which_they_came(full):
    served, threads = [], []

    def enter(number):
        assert full.enter(number, PATIENCE)
        served.append(number)

    for number in range(12):
        if number % 3 == 2:
            place = Place(loop="a loop")
            place.wake = lambda number=number, place=place: full.in_turn(
                place, lambda: enter(number)
            )
            full.line_up(place)
        else:
            threads.append(threading.Thread(target=enter, args=(number,)))
            threads[-1].start()
            eventually(lambda number=number: len(full._line) == number + 1)
    full.leave("first")
    for number in range(12):
        eventually(lambda number=number: len(served) == number + 1)
        full.leave(number)
    for thread in threads:
        thread.join(PATIENCE)
    assert served == list(range(12))


def test_a_newcomer_does_not_take_the_seat_of_one_that_is_called_and_has_yet_to_wake_up(full):
    waiting = Place()
    full.line_up(waiting)
    full.leave("first")
    assert waiting.woken == 1
    assert not full.enter("newcomer", 0)
    assert full.in_turn(waiting, lambda: full.enter("waited", 0))
    assert full.used() == 1
    assert not full.is_wanted()


def test_a_newcomer_does_not_take_a_free_seat_for_which_others_wait():
    room = Room(1)
    room._line.append(Place())  # it has yet to look for a seat
    assert not room.enter("newcomer", 0)


def test_those_who_wait_are_woken_when_they_are_called_and_not_before(full):
    places = [Place() for _ in range(100)]
    for place in places:
        full.line_up(place)
    for _ in range(3):
        full.heal()
    assert sum(place.woken for place in places) == 0
    full.leave("first")
    assert [place.woken for place in places[:2]] == [1, 0]


def test_room_that_is_made_before_a_thread_is_in_the_line_is_not_missed(full):
    take, looked = full._take, []

    def take_and_be_overtaken(task, place):
        found = take(task, place)
        if not looked:
            looked.append(found)
            full.leave("first")
        return found

    full._take = take_and_be_overtaken
    assert full.enter("second", None)
    assert looked == [False]
    assert not full.is_wanted()


def test_what_was_closed_before_a_coroutine_is_in_the_line_wakes_it(full):
    close(full)
    place = Place(loop="a loop")
    full.line_up(place)
    assert place.woken == 1


# -- those who leave -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("called", [True, False])
def test_the_seat_of_one_that_leaves_when_it_is_called_goes_to_the_next(full, called):
    places = [Place(), Place()]
    for place in places:
        full.line_up(place)
    if called:
        full.leave("first")
    full.give_up(places[0])
    full.give_up(places[0])
    assert [place.woken for place in places] == [called, called]
    full.leave("first")
    assert full.in_turn(places[1], lambda: full.enter("second", 0))
    assert not full.is_wanted()


def test_a_thread_that_is_called_at_its_deadline_has_its_seat(full, clock):
    def free_too_late(parker, timeout):
        clock.now += timeout
        full.leave("first")
        return False

    clock.sleep = free_too_late
    assert full.enter("second", 1.0)
    assert full.used() == 1
    assert not full.is_wanted()


def test_a_submission_in_turn_that_fails_gives_its_seat_to_the_next(full):
    places = [Place(), Place()]
    for place in places:
        full.line_up(place)
    full.leave("first")
    with pytest.raises(ZeroDivisionError):
        full.in_turn(places[0], lambda: 1 / 0)
    assert places[1].woken == 1
    assert full._turns == {}


def test_a_loop_that_does_not_run_loses_its_turn_and_its_coroutines_leave_the_line(full, clock):
    absent = [Place(loop="absent") for _ in range(3)]
    other = Place(loop="another")
    for place in (*absent, other):
        full.line_up(place)
    full.leave("first")
    clock.now += ABSENT_S
    full.heal()
    assert other.woken == 0
    clock.now += 0.001
    full.heal()
    assert other.woken >= 1
    assert all(place.woken for place in absent), "they are to line up again when they can"
    assert not full.in_turn(absent[0], lambda: full.enter("late", 0))
    assert full.in_turn(other, lambda: full.enter("second", 0))
    assert not full.is_wanted()


def test_a_thread_never_loses_its_turn(full, clock):
    thread = Place()
    full.line_up(thread)
    full.leave("first")
    clock.now += 1e9
    full.heal()
    assert full.in_turn(thread, lambda: full.enter("second", 0))


# -- what interrupts ------------------------------------------------------------------------------------------------


def test_a_seat_that_was_freed_and_not_given_away_is_given_away_by_the_tick(full):
    place = Place()
    full.line_up(place)
    full._holders.remove("first")  # and now a Ctrl-C
    full.heal()
    assert place.woken == 1


def test_a_thread_that_was_called_and_not_woken_is_woken_by_the_tick(full):
    place = Place()
    full.line_up(place)
    full._holders.remove("first")
    with full._lock:
        full._call()  # and now a Ctrl-C
    assert place.woken == 0
    full.heal()
    assert place.woken == 1


def test_a_signal_handler_that_interrupts_its_own_thread_in_the_middle_of_it_does_not_wait(full):
    with full._lock:
        assert not full.enter("handler's", None)
    assert not full.is_wanted()


class Interrupted(Interrupter):
    """Calls a function where the other raises."""

    def __init__(self, moment: int, handler: Callable[[], object]) -> None:
        super().__init__(moment, everywhere=False)
        self.handler = handler

    def pass_moment(self, frame):
        with contextlib.suppress(KeyboardInterrupt):
            super().pass_moment(frame)
            return
        self.handler()


traced = pytest.mark.skipif(
    sys.gettrace() is not None, reason="a debugger or a coverage tool traces this thread"
)


@traced
@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("ends", ["room", "timeout"])
def test_an_interrupt_at_every_moment_of_a_wait_loses_no_seat(monkeypatch, ends):
    moment, where = 0, "the beginning"
    while where is not None:
        moment += 1
        room = Room(1)
        assert room.enter("first", 0)

        def sleep(parker, timeout, room=room):
            if ends == "room":
                room.leave("first")

        monkeypatch.setattr(Parker, "sleep", sleep)
        with (
            contextlib.suppress(KeyboardInterrupt),
            Interrupter(moment, everywhere=False) as interrupter,
        ):
            room.enter("second", None if ends == "room" else 1e-9)
        where = interrupter.where
        room.leave("second")  # as who submits does then
        room.leave("first")
        room.heal()
        assert not room.is_wanted(), where
        assert room.used() == 0, where
    assert moment > 10, "no trace function was called"


@traced
@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("what", ["free another", "submit"])
def test_a_signal_handler_at_every_moment_of_a_handover_loses_no_seat(what):
    moment, where = 0, "the beginning"
    while where is not None:
        moment += 1
        room, places = Room(2), [Place() for _ in range(3)]
        for each in ("a", "b"):
            assert room.enter(each, 0)
        for place in places:
            room.line_up(place)
        handlers = {"free another": partial(room.leave, "b"), "submit": partial(room.enter, "c", 0)}
        with Interrupted(moment, handlers[what]) as interrupter:
            room.leave("a")
        where = interrupter.where
        room.leave("b")
        assert [place.woken > 0 for place in places[:2]] == [True, True], where
        assert room.used() == sum(place.woken > 0 for place in places), where
        for place in places:
            room.give_up(place)
        assert room.used() == 0, where
    assert moment > 10, "no trace function was called"


def test_a_thread_whose_parker_is_woken_by_others_gives_up_its_place(full):
    parker = Parker()
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(full.enter, "second", None, parker)
        eventually(lambda: full._line)
        parker.wake()
        assert not waiting.result(PATIENCE)
    assert not full._line
    full.leave("first")
    assert full.enter("third", 0)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("capacity", [1, 3])
def test_no_more_than_there_is_room_for_are_in_it_whoever_comes_and_goes(capacity):
    room, seed = Room(capacity), random.randrange(1 << 30)
    print(f"seed {seed}")
    inside, most, entered = set(), [], []

    def come_and_go(number):
        rng = random.Random(seed + number)
        for turn in range(200):
            task = (number, turn)
            if room.enter(task, rng.choice([0, 0.0001, 0.001, None, None])):
                inside.add(task)
                most.append(len(inside))
                entered.append(task)
                inside.discard(task)  # before the seat is free
                room.leave(task)
                if rng.random() < 0.3:
                    room.leave(task)

    threads = [threading.Thread(target=come_and_go, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "waits for ever"
    assert max(most) <= capacity
    assert len(entered) >= 8 * 200 // 4
    assert room.used() == 0
    assert not room.is_wanted()

"""A seat that is freed goes to the one that waits longest, whatever comes between: no seat is lost, nor given twice."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

import tasker._sync.room
from tasker._sync.room import Room
from tests.support.exploring import World, catches, exhaust, sample

pytestmark = pytest.mark.slow


class Seats(list[Any]):
    """As a set or a dictionary, whose changes frontrun does not see."""

    def add(self, item):
        if item not in self:
            self.append(item)

    def remove(self, item):
        try:
            super().remove(item)
        except ValueError:
            raise KeyError(item) from None

    def __setitem__(self, item, since):
        self.add(item)

    def items(self):
        return [(item, 0.0) for item in self]

    def pop(self, item, default):
        with contextlib.suppress(KeyError):
            self.remove(item)


class Handover(World):
    """One that frees its seat, and one that wants it."""

    threads = ("free", "want")
    capacity = 1

    def __init__(self):
        super().__init__()
        self.room = tasker._sync.room.Room(self.capacity)
        self.room._holders, self.room._called = Seats(), Seats()
        for number in range(self.capacity):
            assert self.room.enter(f"first {number}", 0)
        self.entered = []

    def free(self):
        self.room.leave("first 0")

    def want(self):
        self.enter("want")

    def enter(self, name, timeout=None):
        if self.room.enter(name, timeout):
            self.entered.append(name)
            self.room.leave(name)

    def check(self):
        assert self.entered == ["want"]
        assert self.room.used() == self.capacity - 1
        assert not self.room.is_wanted()


class TwoWant(Handover):
    """One that frees its seat, and two that want it one after the other."""

    threads = ("free", "want", "want_too")

    def want_too(self):
        self.enter("want_too")

    def check(self):
        assert sorted(self.entered) == ["want", "want_too"]
        assert self.room.used() == 0
        assert not self.room.is_wanted()


class TwoFree(TwoWant):
    """Two that free a seat each, and two that want one."""

    threads = ("free", "free_too", "want", "want_too")
    capacity = 2

    def free_too(self):
        self.room.leave("first 1")


class Impatient(Handover):
    """One that frees its seat, and one that may leave at the very moment at which it is its own."""

    def want(self):
        self.enter("want", 1.0)

    def check(self):
        assert self.room.used() == 0
        assert not self.room.is_wanted()


class ImpatientAndPatient(TwoWant):
    """The same, and one behind it that waits as long as it takes."""

    def want(self):
        self.enter("want", 1.0)

    def check(self):
        assert "want_too" in self.entered
        assert self.room.used() == 0
        assert not self.room.is_wanted()


class Closing(Handover):
    """One that waits for a seat, and the closing."""

    threads = ("close", "want")

    def close(self):
        self.room.closed = True
        self.room.heal()

    def check(self):
        assert self.entered == ["want"]  # for its `put` to refuse
        assert not self.room._called


@pytest.mark.parametrize("world", [Handover, Closing])
def test_one_that_waits_for_room_gets_it_or_hears_of_the_end(world):
    exhaust(world)


def test_all_that_wait_for_room_get_it_one_after_the_other():
    exhaust(TwoWant, preemptions=1)


def test_one_that_leaves_when_it_is_called_loses_no_seat():
    exhaust(Impatient, clock="explored")


@pytest.mark.parametrize("world", [TwoWant, TwoFree])
def test_no_seat_is_lost_whatever_the_schedule(world):
    sample(world, 100)


def test_no_seat_is_lost_by_those_that_leave_whatever_the_schedule():
    sample(ImpatientAndPatient, 100, clock="explored")


def line_up_without_a_second_look(self, place):
    self._line.append(place)


def give_up_without_giving_on(self, place):
    with self._lock:
        self._unlist(place)
        self._called.pop(place, None)


def leave_that_looks_first(self, task):
    waited = bool(self._line)
    self._holders.remove(task)
    if waited:
        self._call_next()


@pytest.mark.parametrize(
    ("name", "broken"),
    [("line_up", line_up_without_a_second_look), ("leave", leave_that_looks_first)],
)
def test_a_handover_that_forgets_one_that_waits_is_caught(monkeypatch, name, broken):
    monkeypatch.setattr(Room, name, broken)
    assert catches(Handover)


def test_one_that_leaves_when_it_is_called_and_keeps_the_seat_is_caught(monkeypatch):
    monkeypatch.setattr(Room, "give_up", give_up_without_giving_on)
    assert catches(ImpatientAndPatient, clock="explored", preemptions=2)

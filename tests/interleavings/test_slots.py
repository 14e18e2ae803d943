"""Slots: an index is given to another resource only when the last one in it is destroyed."""

from __future__ import annotations

import pytest

from tasker import Reason, Slot
from tasker._pool.resources import ResourcePool
from tasker._pool.slots import Slots
from tests.support.exploring import World, catches, exhaust, sample
from tests.support.pools import taken

pytestmark = pytest.mark.slow

hand_back = ResourcePool.hand_back


class DestroyAndMake(World):
    """One caller destroys its resource while another one makes one."""

    threads = ("destroy", "make")

    def __init__(self):
        super().__init__()
        self.made = []
        self.living = []
        self.seen = []
        self.clashes = []
        self.slots = Slots()
        self.pool = ResourcePool("pool", 0, self.slots, self.maker, self.end, lambda: None)
        self.loan = self.pool.borrow()

    def maker(self, slot):
        def create():
            if slot.index in self.living:
                self.clashes.append(slot.index)
            self.living.append(slot.index)
            self.seen.append(slot)
            return slot.index

        return create

    def end(self, index, slot, reason):
        self.living.remove(index)

    def destroy(self):
        self.pool.hand_back(self.loan, healthy=False)

    def make(self):
        self.made.append(self.pool.borrow())

    def check(self):
        for loan in self.made:
            self.pool.hand_back(loan, healthy=False)
        assert self.clashes == self.living == taken(self.slots) == []
        assert max(slot.index for slot in self.seen) < len(self.threads)
        assert len({(slot.index, slot.generation) for slot in self.seen}) == len(self.seen)


class DestroyAndMakeTwo(DestroyAndMake):
    threads = ("destroy", "make", "make_another")

    def make_another(self):
        self.make()


class Owner:
    def __init__(self):
        self.slot = None


class TakeTwo(World):
    """Two take a slot at once, and a third one is freed meanwhile."""

    threads = ("first", "second", "free")

    def __init__(self):
        super().__init__()
        self.slots = Slots()
        self.owners = [Owner(), Owner(), Owner()]
        self.slots.take(self.owners[2], "third", Reason.HIRED)

    def first(self):
        self.slots.take(self.owners[0], "first", Reason.HIRED)

    def second(self):
        self.slots.take(self.owners[1], "second", Reason.HIRED)

    def free(self):
        self.slots.free(self.owners[2])

    def check(self):
        indices = sorted(owner.slot.index for owner in self.owners[:2])
        assert indices in ([0, 1], [1, 2])
        assert taken(self.slots) == indices


def take_that_looks_before_it_locks(self, owner, worker, reason):
    index, generation = self._smallest()
    slot = Slot(index=index, worker=worker, generation=generation, reason=reason)
    with self._lock:
        owner.slot = self._entries[index] = slot
    return slot


def hand_back_that_frees_before_it_destroys(self, loan, *, healthy):
    self._slots.free(loan)
    hand_back(self, loan, healthy=healthy)


def test_an_index_is_not_given_before_its_last_resource_is_destroyed():
    exhaust(DestroyAndMake, preemptions=1)


def test_those_that_take_at_once_get_the_smallest_that_are_free():
    exhaust(TakeTwo)


def test_no_index_is_shared_whatever_the_schedule():
    sample(DestroyAndMakeTwo, 40)


@pytest.mark.parametrize(
    ("world", "where", "name", "broken"),
    [
        (TakeTwo, Slots, "take", take_that_looks_before_it_locks),
        (DestroyAndMake, ResourcePool, "hand_back", hand_back_that_frees_before_it_destroys),
    ],
)
def test_a_slot_that_is_given_too_early_is_caught(monkeypatch, world, where, name, broken):
    monkeypatch.setattr(where, name, broken)
    assert catches(world, preemptions=1)

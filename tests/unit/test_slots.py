"""`Slots` by itself: the smallest index, generations, and signals at any bytecode."""

from __future__ import annotations

import contextlib
import random
import sys
import threading

import pytest

from tasker import Reason, Slot
from tasker._pool.slots import Slots
from tests.support.bytecodes import Interrupter
from tests.support.pools import taken
from tests.support.waiting import PATIENCE


class Owner:
    """What has a slot, or none."""

    slot: Slot | None = None


def take(slots, reason=Reason.HIRED):
    owner = Owner()
    slots.take(owner, "worker", reason)
    return owner


def test_the_smallest_free_index_is_given():
    slots = Slots()
    owners = [take(slots) for _ in range(4)]
    assert [owner.slot.index for owner in owners] == [0, 1, 2, 3]
    for index in (2, 1):
        slots.free(owners[index])
    assert [take(slots).slot.index for _ in range(3)] == [1, 2, 4]


def test_a_slot_says_who_makes_a_resource_and_why():
    owner = Owner()
    given = Slots().take(owner, "tasker-worker-7", Reason.BROKEN)
    assert given is owner.slot
    assert given == Slot(index=0, worker="tasker-worker-7", generation=0, reason=Reason.BROKEN)


def test_a_generation_is_the_number_of_resources_before_in_this_slot():
    slots = Slots()
    other = take(slots)
    for generation in range(3):
        owner = take(slots)
        assert (owner.slot.index, owner.slot.generation) == (1, generation)
        slots.free(owner)
    slots.free(other)
    assert take(slots).slot.generation == 1


def test_an_attempt_that_has_made_no_resource_does_not_count():
    slots = Slots()
    for _ in range(3):
        owner = take(slots)
        assert owner.slot.generation == 0
        slots.free(owner, unused=True)


def test_an_owner_frees_its_slot_once():
    slots = Slots()
    first = take(slots)
    slots.free(first)
    second = take(slots)
    slots.free(first)
    assert taken(slots) == [second.slot.index]
    assert take(slots).slot.index == 1


def test_threads_that_take_at_the_same_time_get_different_indices():
    slots, barrier = Slots(), threading.Barrier(4)
    rounds, clashes = 200, []
    living: set[int] = set()

    def use():
        chance = random.Random(threading.current_thread().name)
        barrier.wait(PATIENCE)
        for _ in range(rounds):
            owner = take(slots)
            index = owner.slot.index
            if index in living or index > 3:
                clashes.append(index)
            living.add(index)
            if chance.random() < 0.5:
                threading.Event().wait(0)
            living.discard(index)
            slots.free(owner)

    threads = [threading.Thread(target=use, name=str(number)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert clashes == []
    assert taken(slots) == []


untraced = pytest.mark.skipif(
    sys.gettrace() is not None, reason="a debugger or a coverage tool traces this thread"
)


@untraced
@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("what", ["take", "free"])
def test_an_interrupt_anywhere_leaves_each_taken_index_with_its_owner(what):
    moment, interrupted = 0, True
    while interrupted:
        moment += 1
        slots, owner = Slots(), Owner()
        others = [take(slots)]
        if what == "free":
            slots.take(owner, "worker", Reason.HIRED)
        with (
            Interrupter(moment, everywhere=False) as interrupter,
            contextlib.suppress(KeyboardInterrupt),
        ):
            if what == "take":
                slots.take(owner, "worker", Reason.HIRED)
            else:
                slots.free(owner)
        interrupted = interrupter.where is not None
        owners = others if owner.slot is None else [*others, owner]
        assert taken(slots) == [each.slot.index for each in owners], interrupter.where
        slots.free(owner)
        assert taken(slots) == [0], interrupter.where
    assert moment > 2, "no trace function was called"


@untraced
@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("what", ["take", "free"])
@pytest.mark.parametrize("all_taken", [True, False])
def test_a_signal_handler_may_take_and_free_in_the_middle_of_either(what, all_taken):
    class Handler(Interrupter):
        def act(self):
            self.kept = take(slots)
            slots.free(take(slots))

    moment, interrupted = 0, True
    while interrupted:
        moment += 1
        slots, owner = Slots(), Owner()
        others = [take(slots), take(slots), take(slots)]
        if not all_taken:
            slots.free(others.pop(1))
        if what == "free":
            slots.take(owner, "worker", Reason.HIRED)
        with Handler(moment, everywhere=False) as handler:
            if what == "take":
                slots.take(owner, "worker", Reason.HIRED)
            else:
                slots.free(owner)
        interrupted = handler.where is not None
        owners = [*others, owner, *([handler.kept] if interrupted else [])]
        assert taken(slots) == sorted(each.slot.index for each in owners if each.slot is not None)
    assert moment > 2, "no trace function was called"

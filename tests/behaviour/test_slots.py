"""Slots: which of a manager's resources one is, and who may ask."""

from __future__ import annotations

import contextlib
import os
import random
import threading

import pytest

from tasker import (
    Config,
    Reason,
    ResourceCreationError,
    Slot,
    TaskManager,
    TaskTimeoutError,
    current_slot,
)
from tasker.testing import ManualClock
from tests.support.errors import Sick
from tests.support.pools import taken
from tests.support.threads import in_another_thread
from tests.support.waiting import PATIENCE, eventually

AFTER = 3.0  # seconds
SEED = int(os.environ.get("TASKER_STRESS_SEED", str(random.SystemRandom().randrange(10**6))))


class Slotted:
    """Makes resources by their slots, and keeps who lives."""

    def __init__(self, factory):
        self.factory = factory
        self.made: list[Slot] = []
        self.living: dict[int, Slot] = {}
        self.slots: dict[int, Slot] = {}

    def create(self, slot):
        if slot.index in self.living:
            self.factory.misuses.append(f"{slot} is another one's")
        self.made.append(slot)
        made = self.factory.create()
        self.living[slot.index] = self.slots[made.number] = slot
        return made

    def destroy(self, resource):
        self.factory.destroy(resource)
        del self.living[self.slots[resource.number].index]


@pytest.fixture
def slotted(factory):
    factory.any_thread = True
    return Slotted(factory)


@pytest.fixture
def manager_of(new_manager, slotted):
    """`manager_of(workers, **options)`: a manager whose `on_create` takes the slot."""

    def make(workers, **options):
        options = {"on_create": slotted.create, "on_destroy": slotted.destroy, **options}
        manager = new_manager(worker_count=workers, **options)
        assert manager.wait_ready(PATIENCE)
        return manager

    return make


def fail(resource):
    raise Sick


def slot_of(*_):
    return current_slot()


# -- what a slot says ----------------------------------------------------------------------


def test_workers_have_the_smallest_indices_and_their_names(manager_of, slotted):
    manager_of(3, name="pool")
    assert sorted(slotted.living) == [0, 1, 2]
    assert {slot.worker for slot in slotted.made} == {f"pool-worker-{n}" for n in (1, 2, 3)}
    assert {(slot.generation, slot.reason) for slot in slotted.made} == {(0, Reason.HIRED)}


@pytest.mark.usefixtures("no_pauses")
def test_one_that_breaks_is_replaced_in_its_slot(manager_of, slotted):
    manager = manager_of(1, max_retries=0)
    for _ in range(2):
        assert isinstance(manager.submit(fail).exception(PATIENCE), Sick)
    eventually(lambda: len(slotted.living) == 1 and len(slotted.made) == 3)
    assert [(slot.index, slot.generation, slot.reason) for slot in slotted.made] == [
        (0, 0, Reason.HIRED),
        (0, 1, Reason.BROKEN),
        (0, 2, Reason.BROKEN),
    ]


@pytest.mark.usefixtures("no_pauses")
def test_an_attempt_that_fails_frees_its_slot_and_is_no_generation(manager_of, slotted, factory):
    factory.fail_next = [OSError("down"), OSError("down")]
    manager_of(1)
    assert [(slot.index, slot.generation) for slot in slotted.made] == [(0, 0)] * 3


def test_run_task_has_a_slot_for_what_it_makes_and_frees_it(manager_of, slotted):
    manager = manager_of(1)
    for generation in range(2):
        slot = manager.run_task(slot_of)
        assert (slot.index, slot.generation, slot.reason) == (1, generation, Reason.CALL)
        assert slot.worker == threading.current_thread().name
    assert [*slotted.living] == [0]


@pytest.mark.parametrize("size", [1, None])
def test_an_idle_resource_of_run_task_keeps_its_slot(manager_of, slotted, size):
    manager = manager_of(1, resource_pool_size=size)
    slots = [manager.run_task(slot_of) for _ in range(3)]
    assert len(set(slots)) == 1
    assert sorted(slotted.living) == [0, 1]
    with pytest.raises(Sick):
        manager.run_task(fail)
    assert manager.run_task(slot_of) == slots[0].__replace__(generation=1)
    assert len(slotted.living) == 2


def test_a_thread_that_ends_frees_the_slot_of_what_it_kept(manager_of, slotted):
    manager = manager_of(1, resource_pool_size=None)
    assert in_another_thread(lambda: manager.run_task(slot_of)).index == 1
    eventually(lambda: taken(manager._engine.slots) == [0])
    assert manager.run_task(slot_of).index == 1


def test_a_creation_for_run_task_that_fails_frees_its_slot(manager_of, factory):
    manager = manager_of(1)
    factory.fail_next = [OSError("down")]
    with pytest.raises(ResourceCreationError):
        manager.run_task(slot_of)
    slot = manager.run_task(slot_of)
    assert (slot.index, slot.generation) == (1, 0)


# -- when an index is free -----------------------------------------------------------------


@pytest.mark.usefixtures("no_pauses")
def test_an_index_is_not_free_before_on_destroy_has_returned(manager_of, slotted):
    destroying, gate = threading.Event(), threading.Event()

    def destroy(resource):
        destroying.set()
        gate.wait(PATIENCE)
        slotted.destroy(resource)

    manager = manager_of(1, max_retries=0, on_destroy=destroy)
    assert isinstance(manager.submit(fail).exception(PATIENCE), Sick)
    assert destroying.wait(PATIENCE)
    seen = []

    def look(resource):
        seen.append(current_slot().index)
        gate.set()

    manager.run_task(look)
    assert seen == [1]
    eventually(lambda: [*slotted.living] == [0])


@pytest.mark.usefixtures("no_pauses")
def test_an_on_destroy_that_raises_frees_the_index(manager_of, slotted):
    def destroy(resource):
        slotted.destroy(resource)
        raise OSError("gone already")

    manager = manager_of(1, max_retries=0, on_destroy=destroy)
    assert isinstance(manager.submit(fail).exception(PATIENCE), Sick)
    eventually(lambda: [slot.index for slot in slotted.made] == [0, 0])


def test_a_worker_that_was_dismissed_frees_its_slot(manager_of, slotted):
    manager = manager_of(1, max_worker_count=3)
    manager._engine.crew.hire(2)
    eventually(lambda: sorted(slotted.living) == [0, 1, 2])
    eventually(lambda: manager.stats().idle_workers == 3)
    manager._engine.crew.retire(2, manager._engine.queue.idle)
    eventually(lambda: len(taken(manager._engine.slots)) == 1)
    manager._engine.crew.hire(2)
    eventually(lambda: sorted(slotted.living) == [0, 1, 2])


def test_an_abandoned_worker_keeps_its_slot_until_it_returns(manager_of, slotted):
    manager = manager_of(1, max_worker_count=2, abandon_after=AFTER)
    began, gate = threading.Event(), threading.Event()

    def stuck(resource):
        began.set()
        assert gate.wait(PATIENCE)

    with ManualClock() as clock:
        future = manager.submit(stuck, timeout=1)
        assert began.wait(PATIENCE)
        clock.advance(1)
        clock.advance(AFTER)
        assert isinstance(future.exception(PATIENCE), TaskTimeoutError)
        assert manager.submit(slot_of).result(PATIENCE).index == 1
        assert sorted(slotted.living) == [0, 1]
        gate.set()
        eventually(lambda: taken(manager._engine.slots) == [1])
        assert manager.run_task(slot_of).index == 0


@pytest.mark.slow
@pytest.mark.usefixtures("no_pauses", "hasty")
@pytest.mark.parametrize("size", [0, 2, None])
def test_in_a_crowd_no_two_share_an_index_and_indices_stay_small(
    manager_of, slotted, factory, size
):
    print(f"TASKER_STRESS_SEED={SEED}")
    chance, workers, callers = random.Random(f"{SEED} {size}"), 4, 3
    manager = manager_of(
        2,
        max_worker_count=workers,
        burst_interval=0.001,
        max_retries=1,
        resource_pool_size=size,
    )

    def work(resource, sick):
        if sick:
            raise Sick

    def call():
        mine = random.Random(threading.current_thread().name)
        for _ in range(100):
            with contextlib.suppress(Sick, ResourceCreationError):
                manager.run_task(work, mine.random() < 0.3)

    threads = [threading.Thread(target=call, name=f"{SEED} {n}") for n in range(callers)]
    for thread in threads:
        thread.start()
    for _ in range(300):
        manager.submit(work, chance.random() < 0.3)
        if chance.random() < 0.1:
            factory.fail_next.append(OSError("down"))
    for thread in threads:
        thread.join(PATIENCE)
    assert manager.join(PATIENCE)
    manager.stop()

    assert {slot.reason for slot in slotted.made} >= {Reason.HIRED, Reason.BROKEN}
    idle = callers if size is None else size
    assert max(slot.index for slot in slotted.made) < workers + callers + idle
    assert len({(slot.index, slot.generation) for slot in slotted.slots.values()}) == len(
        factory.created
    )
    assert slotted.living == {}
    assert taken(manager._engine.slots) == []


# -- which hooks get it --------------------------------------------------------------------


@pytest.mark.parametrize(
    "create",
    [
        lambda slot=None: slot,
        lambda *slot: slot or None,
        lambda *, slot=None: slot,
    ],
)
def test_an_on_create_that_does_not_require_an_argument_gets_none(create):
    with TaskManager(Config(on_create=create, on_destroy=id, worker_count=1)) as manager:
        assert manager.submit(lambda resource: resource).result(PATIENCE) is None
        assert manager.run_task(lambda resource: resource) is None


class Model:
    def __init__(self, slot):
        self.slot = slot


def test_a_class_whose_constructor_requires_an_argument_gets_the_slot():
    with TaskManager(Config(on_create=Model, on_destroy=id, worker_count=1)) as manager:
        assert manager.submit(lambda model: model.slot.index).result(PATIENCE) == 0


@pytest.mark.parametrize("asks", [True, False])
def test_a_context_manager_is_made_with_the_slot_if_its_factory_requires_it(asks):
    @contextlib.contextmanager
    def of_slot(slot):
        yield slot.index
        assert current_slot() == slot

    @contextlib.contextmanager
    def plain():
        yield current_slot().index

    config = Config.from_context_manager(of_slot if asks else plain, worker_count=1)
    with TaskManager(config) as manager:
        assert manager.submit(lambda index: index).result(PATIENCE) == 0
        assert manager.run_task(lambda index: index) == 1
        assert manager.stop().destroy_errors == 0


# -- who may ask ---------------------------------------------------------------------------


def test_a_task_knows_its_slot_however_it_runs(manager_of, slotted):
    manager = manager_of(1, max_worker_count=1)
    assert manager.submit(slot_of).result(PATIENCE) == slotted.made[0]
    assert manager.executor().submit(slot_of).result(PATIENCE) == slotted.made[0]
    assert [*manager.map(slot_of, range(2))] == slotted.made * 2
    assert manager.run_task(slot_of) == slotted.made[1]


def test_outside_of_tasks_and_hooks_there_is_none(manager_of):
    manager = manager_of(1)
    manager.run_task(slot_of)
    with pytest.raises(RuntimeError, match="outside of a task and of a hook"):
        current_slot()


@pytest.mark.usefixtures("no_pauses")
def test_all_hooks_know_the_slot(manager_of, slotted):
    told = {}

    def hook(name, result=None):
        def run(*args):
            told.setdefault(name, []).append(current_slot())
            return result

        return run

    def create(slot):
        hook("on_create")()
        return slotted.create(slot)

    def destroy(resource):
        hook("on_destroy")()
        slotted.destroy(resource)

    manager = manager_of(
        1,
        max_retries=0,
        on_create=create,
        on_destroy=destroy,
        on_reset=hook("on_reset"),
        check_health=hook("check_health", False),
    )
    assert manager.submit(slot_of).result(PATIENCE) == slotted.made[0]
    with pytest.raises(Sick):
        manager.run_task(fail)
    eventually(lambda: told.get("on_reset"))
    assert isinstance(manager.submit(fail).exception(PATIENCE), Sick)
    eventually(lambda: len(slotted.made) == 3)
    manager.stop()

    first, called, second = slotted.made
    assert told["on_create"] == slotted.made
    assert told["on_reset"][0] == first
    assert told["check_health"] == [called, first]
    assert told["on_destroy"] == [called, first, second]


def test_a_run_task_inside_of_a_hook_or_a_task_has_a_slot_of_its_own(new_manager, manager_of):
    inner = new_manager(worker_count=2)
    assert inner.wait_ready(PATIENCE)
    seen = []

    def ask():
        seen.append((current_slot().index, inner.run_task(slot_of).index, current_slot().index))

    def create(slot):
        ask()
        return slot

    outer = manager_of(1, on_create=create, on_destroy=lambda resource: ask())
    outer.run_task(lambda resource: ask())
    outer.submit(lambda resource: ask()).result(PATIENCE)
    outer.stop()
    assert seen == [(0, 2, 0), *[(1, 2, 1)] * 3, *[(0, 2, 0)] * 2]


def test_calls_of_the_drop_in_have_slots(executor):
    both = threading.Barrier(2)

    def call():
        both.wait(PATIENCE)
        return current_slot().index

    assert {future.result(PATIENCE) for future in [executor.submit(call) for _ in (1, 2)]} == {0, 1}

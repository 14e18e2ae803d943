"""`keepalive` checks the idle resources of `run_task`, too, and not all resources at the same moment."""

from __future__ import annotations

import math
import threading
from itertools import pairwise

import pytest

from tasker import current_slot
from tasker.slot import Slot
from tests.support.checking import Check
from tests.support.errors import Sick
from tests.support.snippets import run_python
from tests.support.threads import in_another_thread
from tests.support.waiting import PATIENCE, eventually


@pytest.fixture
def check():
    check = Check()
    yield check
    for gate in check.gates.values():
        gate.set()


@pytest.fixture
def kept(new_manager, check, clock, factory):
    """`kept(**options)`: a manager that keeps resources for `run_task`, as a rule number 0, in slot 0.

    That one is due after `keepalive` to the second. The resource of its worker is never due, and no check is late, as
    a clock that is advanced moves past a check that is under way."""
    factory.any_thread = True

    def kept(**options):
        manager = new_manager(
            **{"worker_count": 1, "max_worker_count": 1, "resource_pool_size": 1}
            | {"on_check": check, "keepalive": 30, "check_timeout": 1000, **options}
        )
        eventually(lambda: manager.stats().idle_workers == 1, "an idle worker")
        never_due(manager)
        return manager

    return kept


def never_due(manager):
    """Leave the resources of its workers alone."""
    for worker in manager._engine.crew.members:
        worker._proved_at = math.inf


def number(resource):
    return resource.number


def is_kept(manager, count=1):
    """What was checked is back."""
    pool = manager._engine.pool
    eventually(lambda: (pool.out, pool.available) == (0, count), f"{count} idle")


# -- what is checked, and when -----------------------------------------------------------------------------------------


def test_an_idle_resource_of_run_task_is_checked_again_and_again(kept, check, clock):
    manager = kept()
    clock.advance(29)
    assert (check.calls, manager._engine.pool.out) == ([], 0)
    for done in range(1, 4):
        clock.advance(30 if done > 1 else 1)
        assert check.begun.acquire(timeout=PATIENCE)
        is_kept(manager)
        assert check.calls == [0] * done
    workers = {worker.thread.ident for worker in manager._engine.crew.members}
    assert workers.isdisjoint(check.threads)
    assert threading.get_ident() not in check.threads


def test_a_call_is_a_proof_and_so_is_a_check(kept, check, clock):
    manager = kept(check_after=10)
    clock.advance(20)
    assert manager.run_task(number) == 0
    assert check.calls == [0], "before it was borrowed"
    clock.advance(29)
    assert check.calls == [0]
    assert check.begun.acquire(timeout=PATIENCE)
    clock.advance(1)
    assert check.begun.acquire(timeout=PATIENCE)
    is_kept(manager)
    clock.advance(9)
    assert manager.run_task(number) == 0
    assert check.calls == [0, 0]


def test_a_keepalive_may_be_shorter_than_check_after(kept, check, clock):
    manager = kept(check_after=1000)
    clock.advance(30)
    assert check.begun.acquire(timeout=PATIENCE)
    is_kept(manager)


def test_what_a_caller_has_is_not_checked(kept, check, clock):
    manager = kept()
    seen = manager.run_task(lambda resource: (clock.advance(100), [*check.calls]))
    assert seen[1] == []
    assert manager.run_task(number) == 0


def test_all_that_are_due_are_checked(kept, check, clock):
    manager = kept(resource_pool_size=4)
    clock.advance(30)
    for _ in range(4):
        assert check.begun.acquire(timeout=PATIENCE)
    is_kept(manager, 4)
    assert sorted(check.calls) == [0, 1, 2, 3]


def test_what_is_handed_back_later_and_is_due_earlier_is_checked_in_time(kept, check, clock):
    manager = kept(resource_pool_size=2)
    assert manager.run_task(lambda resource: (clock.advance(30), resource.number)[1]) == 1
    assert check.begun.acquire(timeout=PATIENCE)
    is_kept(manager, 2)
    assert check.calls == [0]
    clock.advance(26.3)
    assert check.begun.acquire(timeout=PATIENCE)
    is_kept(manager, 2)
    assert check.calls == [0, 1]


def test_a_suspect_is_checked_at_the_next_look(kept, check, clock):
    manager = kept(resource_pool_size=2)

    def breaks(resource):
        raise Sick

    with pytest.raises(Sick):
        manager.run_task(breaks)
    clock.advance(24)
    assert check.begun.acquire(timeout=PATIENCE)
    is_kept(manager)


def test_what_belongs_to_the_thread_that_made_it_is_checked_when_that_borrows_it(
    new_manager, check, clock, factory
):
    manager = new_manager(worker_count=1, resource_pool_size=None, on_check=check, keepalive=30)
    eventually(lambda: manager.stats().idle_workers == 1, "an idle worker")
    never_due(manager)
    made = manager.run_task(number)
    clock.advance(1000)
    assert made not in check.calls
    assert manager.run_task(number) == made
    assert check.threads[check.calls.index(made)] == threading.get_ident()
    manager.stop()


@pytest.mark.parametrize("size", [0, None])
def test_where_nothing_is_shared_no_time_is_set(kept, clock, size):
    kept(resource_pool_size=size)
    assert clock.deadlines == 1, "that of the worker"


def test_a_check_knows_the_slot_of_its_resource(new_manager, clock, factory):
    factory.any_thread = True
    seen = []

    def on_check(resource):
        seen.append((resource.number, current_slot().index))

    new_manager(worker_count=1, resource_pool_size=1, on_check=on_check, keepalive=30)
    clock.advance(30)
    eventually(lambda: (0, 0) in seen, "the check")


# -- what does not pass ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", [False, Sick("gone"), SystemExit(3)], ids=repr)
def test_what_does_not_pass_is_destroyed_before_a_caller_comes(
    kept, check, clock, factory, log, verdict
):
    check.verdicts[0] = verdict
    manager = kept()
    clock.advance(30)
    eventually(lambda: not factory.created[0].alive, "its end")
    is_kept(manager, 0)
    assert manager.run_task(number) == 2
    told = log.telling(of="did not pass its check and is replaced")
    assert "run_task" in told[0]


def test_no_caller_waits_for_a_check(kept, check, clock, factory):
    manager = kept()
    check.gates[0] = threading.Event()
    clock.advance(30)
    assert check.begun.acquire(timeout=PATIENCE)
    assert manager.run_task(number) == 2
    check.gates[0].set()
    eventually(lambda: not factory.created[0].alive, "the end of what is one too many")
    is_kept(manager)
    assert manager.run_task(number) == 2


@pytest.mark.slow
def test_a_check_that_hangs_holds_up_no_other(kept, check, clock):
    manager = kept(resource_pool_size=3)
    check.gates = {resource: threading.Event() for resource in range(2)}
    clock.advance(30)
    for _ in range(3):
        assert check.begun.acquire(timeout=PATIENCE)
    eventually(lambda: manager._engine.pool.available == 1, "the third one")
    assert sorted(check.calls) == [0, 1, 2]


# -- checks that hang, and closing -------------------------------------------------------------------------------------


@pytest.fixture
def hanging(kept, check, clock):
    """`hanging(**options)`: a manager whose only kept resource is in a check that hangs."""

    def hanging(**options):
        manager = kept(**{"check_timeout": 5, **options})
        check.gates[0] = threading.Event()
        clock.advance(30)
        assert check.begun.acquire(timeout=PATIENCE)
        return manager

    return hanging


def test_a_check_that_takes_too_long_is_given_up_and_its_resource_destroyed_when_it_returns(
    hanging, check, clock, factory, log
):
    manager = hanging(check_timeout=7)
    pool = manager._engine.pool
    clock.advance(6.9)
    assert (pool.out, pool.given_up()) == (1, ())
    clock.advance(0.1)
    assert (pool.out, pool.given_up()) == (0, ("tasker-keepalive",))
    eventually(lambda: log.telling(of="has not returned within 7 s (check_timeout)"), "the log")
    check.gates[0].set()
    eventually(lambda: not factory.created[0].alive, "the end of the resource")
    eventually(lambda: pool.given_up() == (), "the end of its thread")
    assert manager.stop().drained


@pytest.mark.slow
def test_a_stop_does_not_wait_for_what_was_given_up_and_names_its_thread(
    hanging, check, clock, factory
):
    manager = hanging()
    clock.advance(5)
    report = in_another_thread(manager.stop)
    assert (report.abandoned, report.drained) == (("tasker-keepalive",), False)
    check.gates[0].set()
    eventually(lambda: factory.live == 0, "the end of the resource")


@pytest.mark.slow
def test_a_stop_waits_for_a_check_until_its_time_is_up(hanging, check, clock, factory):
    manager = hanging()
    manager._engine.lifecycle.request_stop()
    eventually(lambda: not manager._engine.crew.members, "the end of the worker")
    assert not manager.closed
    clock.advance(5)
    assert in_another_thread(manager.stop).abandoned == ("tasker-keepalive",)
    check.gates[0].set()
    eventually(lambda: factory.live == 0, "the end of the resource")


def test_a_stop_during_a_check_that_passes_destroys_the_resource(hanging, check, factory):
    manager = hanging()
    manager._engine.lifecycle.request_stop()
    check.gates[0].set()
    report = manager.stop()
    assert (report.drained, report.abandoned) == (True, ())
    assert factory.live == 0


def test_a_kill_without_time_does_not_wait_for_a_check(hanging, check, factory):
    manager = hanging()
    report = in_another_thread(lambda: manager.kill(0))
    assert report.abandoned == ("tasker-keepalive",)
    check.gates[0].set()
    eventually(lambda: factory.live == 0, "the end of the resource")


def test_a_kill_aborts_a_check(hanging, check, factory):
    aborted = []

    def abort(resource):
        aborted.append(resource.number)
        check.gates[0].set()

    manager = hanging(on_abort=abort)
    assert manager.kill(PATIENCE).abandoned == ()
    assert aborted == [0]
    assert factory.live == 0


def test_a_check_that_takes_too_long_is_aborted(hanging, check, clock, factory):
    manager = hanging(on_abort=lambda resource: check.gates[0].set())
    clock.advance(5)
    eventually(lambda: not factory.created[0].alive, "the end of the resource")
    assert manager.stop().drained


@pytest.mark.slow
def test_no_more_checks_hang_than_resources_may_be_idle(new_manager, clock, factory):
    factory.any_thread = True
    gate, begun = threading.Event(), []

    def on_check(resource):
        if threading.current_thread().name == "tasker-keepalive":
            begun.append(resource.number)
            gate.wait(PATIENCE)

    manager = new_manager(
        worker_count=1, max_worker_count=1, resource_pool_size=2, on_check=on_check, keepalive=30
    )
    eventually(lambda: manager.stats().idle_workers == 1, "an idle worker")
    never_due(manager)
    pool = manager._engine.pool
    try:
        clock.advance(30)
        eventually(lambda: len(begun) == 2, "two that hang")
        clock.advance(5)
        barrier = threading.Barrier(2)
        callers = [
            threading.Thread(
                target=manager.run_task, args=(lambda resource: barrier.wait(PATIENCE),)
            )
            for _ in range(2)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(PATIENCE)
        assert pool.available == 2
        clock.advance(60)
        eventually(lambda: not manager._engine.keepalive.runner.waits(), "the threads")
        eventually(manager._engine.keepalive.runner.is_clean, "their end")
        assert len(begun) == 2
    finally:
        gate.set()
    eventually(lambda: pool.given_up() == (), "the end of both")
    manager._engine.keepalive._look()  # as if the timer had just fired
    eventually(lambda: len(begun) == 4, "the others")
    is_kept(manager, 2)


def test_a_check_may_stop_its_manager(new_manager, clock, factory):
    factory.any_thread = True
    stopped = threading.Event()

    def on_check(resource):
        manager.stop()
        stopped.set()

    manager = new_manager(worker_count=1, resource_pool_size=1, on_check=on_check, keepalive=30)
    clock.advance(30)
    assert stopped.wait(PATIENCE)
    assert manager.stop().drained


def test_a_closed_manager_sets_no_time_any_more(kept, clock):
    manager = kept()
    assert clock.deadlines == 2
    manager.stop()
    assert clock.deadlines == 0
    manager._engine.keepalive._look()  # as if the timer had just fired
    assert clock.deadlines == 0


@pytest.mark.slow
@pytest.mark.parametrize("check_timeout", [0.2, 1000])
def test_the_interpreter_exits_although_a_check_hangs(check_timeout):
    ran = run_python(
        f"""
        gate, begun = threading.Event(), threading.Event()

        def check(resource):
            if threading.current_thread().name == "tasker-keepalive":
                begun.set()
                gate.wait()

        config = Config(
            on_create=object, on_destroy=repr, worker_count=1, resource_pool_size=1,
            on_check=check, keepalive=0.1, check_timeout={check_timeout})
        manager = TaskManager(config)
        begun.wait()
        print(manager.queue_task(lambda resource: 7))
        """
    )
    assert (ran.stdout, ran.returncode) == ("7\n", 0)


# -- not all at the same moment ----------------------------------------------------------------------------------------


def slots(count):
    return [Slot(index=index, worker="worker") for index in range(count)]


@pytest.mark.parametrize("count", [2, 8, 64])
def test_checks_are_spread_over_a_fifth_of_keepalive_and_none_is_late(kept, count):
    checks = kept()._engine.checks
    due = sorted(checks.kept_alive_at(1000.0, slot) for slot in slots(count))
    assert due[-1] == 1030.0, "none later"
    assert due[0] >= 1000.0 + checks.shortest_keepalive() == 1024.0
    assert min(late - early for early, late in pairwise(due)) > 6.0 / count / 2


def test_idle_workers_are_not_checked_all_at_once(new_manager, clock):
    checked = []

    def on_check(resource):
        checked.append(resource.number)

    def is_due(worker):
        return manager._engine.checks.is_to_be_kept_alive(worker._proved_at, worker.slot)

    manager = new_manager(worker_count=16, max_worker_count=16, on_check=on_check, keepalive=30)
    eventually(lambda: manager.stats().idle_workers == 16, "idle workers")
    clock.advance(24)
    most = 0
    for _ in range(61):
        before = len(checked)
        clock.advance(0.1)
        eventually(lambda: not any(map(is_due, manager._engine.crew.members)), "the checks")
        most = max(most, len(checked) - before)
    assert (len(checked), len({*checked})) == (16, 16)
    assert most <= 2

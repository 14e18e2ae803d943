"""`on_check`: an idle resource shows that it is well before it takes a task, and while it is idle."""

from __future__ import annotations

import contextlib
import threading

import pytest

import tasker._pool.checking
import tasker._pool.housekeeper
from tasker import Config, ResourceCreationError
from tasker.slot import Reason
from tests.support.checking import Check
from tests.support.errors import Sick
from tests.support.waiting import PATIENCE, eventually


@pytest.fixture
def check():
    check = Check()
    yield check
    for gate in check.gates.values():
        gate.set()


@pytest.fixture
def checked(new_manager, check, clock):
    """`checked(**options)`: a manager whose workers are idle, as a rule one."""

    def checked(**options):
        manager = new_manager(
            **{"worker_count": 1, "max_worker_count": options.get("worker_count", 1)}
            | {"on_check": check, **options}
        )
        are_idle(manager)
        return manager

    return checked


@pytest.fixture
def no_healing(monkeypatch):
    """No tick makes good what the workers leave undone."""
    monkeypatch.setattr(tasker._pool.housekeeper.Housekeeper, "_heal", lambda self: None)


def are_idle(manager):
    eventually(lambda: manager.stats().idle_workers == manager.stats().base_workers, "idle workers")


def nearest(manager):
    """The idle worker that is woken first."""
    engine = manager._engine
    parker = engine.queue.idle.announced[-1]
    (worker,) = [worker for worker in engine.crew.members if worker.parker is parker]
    return worker


def number(resource):
    return resource.number


# -- when --------------------------------------------------------------------------------------------------------------


def test_what_was_idle_for_long_is_checked_before_its_next_task(checked, check, clock):
    manager = checked(check_after=5)
    clock.advance(4.9)
    assert (manager.queue_task(number), check.calls) == (0, [])
    are_idle(manager)
    clock.advance(5)
    seen = manager.queue_task(lambda resource: [*check.calls])
    assert seen == check.calls == [0]
    assert check.threads == [manager.queue_task(lambda resource: resource.thread)]


def test_a_check_after_of_zero_checks_whatever_was_idle_at_all(checked, check):
    manager = checked(check_after=0)
    for done in range(1, 4):
        assert manager.queue_task(number) == 0
        assert check.calls == [0] * done
        are_idle(manager)


def test_the_default_is_a_second(checked, check, clock):
    manager = checked()
    clock.advance(0.9)
    manager.queue_task(number)
    assert check.calls == []
    are_idle(manager)
    clock.advance(1)
    manager.queue_task(number)
    assert check.calls == [0]


@pytest.mark.parametrize("check_after", [0, 1])
def test_a_busy_pool_never_checks(checked, check, clock, check_after):
    manager = checked(check_after=check_after, keepalive=1)
    gate, begun = threading.Event(), threading.Event()

    def task(resource):
        begun.set()
        gate.wait(PATIENCE)

    futures = [manager.submit(task) for _ in range(20)]
    assert begun.wait(PATIENCE)
    del check.calls[:]
    clock.advance(100)
    gate.set()
    assert manager.join(PATIENCE)
    assert all(future.done() for future in futures)
    assert check.calls == []


@pytest.mark.usefixtures("no_healing")
def test_a_cancelled_task_is_no_proof(checked, check, clock):
    manager = checked(check_after=5)
    queue = manager._engine.queue
    for _ in range(3):
        clock.advance(2)
        queue.waking = True  # as if a worker was on its way
        manager.submit(number).cancel()
        queue.waking = False
        queue.idle.wake_all()
        eventually(lambda: not queue.entries(), "the worker to drop it")
        are_idle(manager)
    assert manager.queue_task(number) == 0
    assert check.calls == [0]


# -- what does not pass ------------------------------------------------------------------------------------------------


async def later(resource): ...


def lazily(resource):
    yield


class Unreadable(Exception):
    def refuse(self, *args):
        raise SystemExit("an exception that cannot be read")

    __str__ = __repr__ = refuse
    __notes__ = __cause__ = __context__ = __traceback__ = property(refuse, refuse)


UNWELL = {
    "False": False,
    "an error": Sick("gone"),
    "SystemExit": SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "StopIteration": StopIteration(),
    "an exception that cannot be read": Unreadable(),
}


@pytest.mark.parametrize("verdict", UNWELL)
@pytest.mark.usefixtures("endless_pauses")
def test_a_check_that_fails_replaces_the_resource_at_once_and_costs_the_task_no_attempt(
    checked, check, clock, factory, log, verdict
):
    check.verdicts[0] = UNWELL[verdict]
    manager = checked()
    worker = manager._engine.crew.members[0]
    clock.advance(2)
    future = manager.submit(number)
    assert (future.result(PATIENCE), future.attempts) == (1, 1)
    assert (check.calls, worker._reason) == ([0], Reason.CHECK)
    assert [resource.alive for resource in factory.created] == [False, True]
    assert worker.thread.is_alive()
    (told,) = log.loud()
    assert "did not pass its check and is replaced" in told
    metrics = manager.metrics()
    assert (metrics.total_tasks_completed, metrics.total_tasks_retried) == (1, 0)


@pytest.mark.parametrize("make", [later, lazily])
def test_a_check_that_only_makes_what_would_have_to_be_run_fails(
    checked, check, clock, log, make, recwarn
):
    check.verdicts[0] = make(None)
    manager = checked()
    clock.advance(2)
    assert manager.queue_task(number) == 1
    assert "on_check returned a " in log.loud()[0]
    assert [*recwarn] == []


@pytest.mark.parametrize("verdict", [None, 0, "", (), True])
def test_only_false_itself_says_that_a_resource_is_not_well(checked, check, clock, verdict):
    check.verdicts[0] = verdict
    manager = checked()
    clock.advance(2)
    assert (manager.queue_task(number), check.calls) == (0, [0])


def test_what_broke_a_resource_in_its_check_reaches_its_exit(new_manager, check, clock):
    exits = []

    class Session(contextlib.AbstractContextManager):
        number = 0

        def __exit__(self, kind, error, traceback):
            exits.append(error)

    hooks = Config.from_context_manager(Session, worker_count=1)
    for verdict in (Sick("gone"), False):
        check.verdicts[0] = verdict
        manager = new_manager(
            worker_count=1,
            max_worker_count=1,
            on_check=check,
            on_create=hooks.on_create,
            on_destroy=hooks.on_destroy,
        )
        are_idle(manager)
        clock.advance(2)
        manager.queue_task(number)
        assert manager.stop().drained
    assert exits[0].args == ("gone",)
    assert exits[2].args == ("on_check returned False",)
    assert exits[1::2] == [None, None]


def test_many_failed_checks_are_one_warning(checked, check, clock, log):
    check.verdicts = dict.fromkeys(range(4), Sick("gone"))
    manager = checked(worker_count=4, keepalive=1)
    clock.advance(1)
    # In this order: a worker that has not woken yet is idle, too.
    eventually(lambda: len(check.calls) == 4 and manager.stats().idle_workers == 4, "four others")
    assert len(log.loud()) == 1
    assert len(log.telling(of="did not pass its check")) == 5


# -- one task, one check -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tasks", [1, 2, 10])
def test_so_many_tasks_have_no_more_of_the_idle_workers_check(
    checked, check, clock, tasks, monkeypatch
):
    monkeypatch.setattr(tasker._pool.checking, "PATIENCE_S", 1000.0)  # no claim is over too early
    manager = checked(worker_count=32)
    queue = manager._engine.queue
    clock.advance(2)
    gate = threading.Event()
    check.gates = dict.fromkeys(range(32), gate)
    queue.waking = True  # as if one was on its way when the first task came
    futures = [manager.submit(number) for _ in range(tasks)]
    queue.idle.wake_all()
    for _ in range(tasks):
        assert check.begun.acquire(timeout=PATIENCE)
    gate.set()
    assert len({future.result(PATIENCE) for future in futures}) <= tasks
    are_idle(manager)
    assert len(check.calls) <= tasks


@pytest.mark.usefixtures("no_pauses")
def test_a_task_that_meets_dead_connections_is_served_by_the_first_that_is_well(
    checked, check, clock, factory
):
    check.verdicts = dict.fromkeys(range(8), False)
    manager = checked(worker_count=8, max_retries=0)
    clock.advance(2)
    futures = [manager.submit(number) for _ in range(100)]
    assert all(future.result(PATIENCE) >= 8 for future in futures)
    assert {future.attempts for future in futures} == {1}
    # A new one that another worker has got before the last dead one is found is a suspect, and checked in its turn.
    dead = [each for each in check.calls if each < 8]
    assert len(dead) == len(set(dead))


@pytest.mark.usefixtures("no_healing")
def test_another_takes_the_task_of_a_worker_that_makes_a_resource_after_a_failed_check(
    checked, check, clock, factory, monkeypatch
):
    manager = checked(worker_count=2)
    clock.advance(2)
    dead = nearest(manager).resource.number
    check.verdicts[dead] = False
    gate, create = threading.Event(), factory.create
    monkeypatch.setattr(manager._engine.backend, "create", lambda: gate.wait(PATIENCE) and create())
    try:
        assert manager.submit(number).result(PATIENCE) == 1 - dead
    finally:
        gate.set()
    assert check.calls == [dead, 1 - dead]


# -- checks that hang --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_task_waits_for_a_check_that_hangs(checked, check, clock):
    manager = checked(worker_count=3)
    clock.advance(2)
    check.gates = {resource: threading.Event() for resource in range(3)}
    future = manager.submit(number)
    assert check.begun.acquire(timeout=PATIENCE)
    assert check.begun.acquire(timeout=PATIENCE), "a second worker after a moment"
    second = check.calls[1]
    check.gates[second].set()
    assert future.result(PATIENCE) == second


def test_a_check_that_took_too_long_has_failed_whatever_it_returns(checked, check, clock, log):
    manager = checked(check_timeout=7)
    worker = manager._engine.crew.members[0]
    check.gates[0] = threading.Event()
    clock.advance(2)
    future = manager.submit(number)
    assert check.begun.acquire(timeout=PATIENCE)
    clock.advance(6.9)
    assert manager.stats().creating_workers == 0
    clock.advance(0.1)
    assert manager.stats().creating_workers == 1
    check.verdicts[0] = True
    check.gates[0].set()
    assert (future.result(PATIENCE), future.attempts) == (1, 1)
    assert (worker._reason, worker.checks_too_long) == (Reason.CHECK, False)
    eventually(lambda: log.telling(of="has not returned within 7 s (check_timeout)"), "the log")


@pytest.mark.parametrize(
    "stuck", [{"on_abort": number}, {"abandon_after": 5}], ids=["on_abort", "abandon_after"]
)
def test_a_check_whose_time_is_up_before_it_begins_has_failed(new_manager, check, factory, stuck):
    factory.any_thread = True
    manager = new_manager(
        worker_count=1, on_check=check, check_after=0, check_timeout=1e-9, **stuck
    )
    are_idle(manager)
    (worker,) = manager._engine.crew.members
    future = manager.submit(number)
    assert (future.result(PATIENCE), future.attempts) == (1, 1)
    assert (worker._reason, manager._engine.crew.members) == (Reason.CHECK, (worker,))

    first = manager.run_task(number)
    assert manager.run_task(number) > first
    assert (check.calls, factory.created[first].alive) == ([], False)


@pytest.mark.slow
def test_where_all_checks_hang_tasks_fail_after_create_timeout_and_stop_names_the_threads(
    checked, check, clock, factory
):
    manager = checked(create_timeout=0.1)
    check.gates[0] = threading.Event()
    clock.advance(2)
    future = manager.submit(number)
    assert check.begun.acquire(timeout=PATIENCE)
    clock.advance(5)
    error = future.exception(PATIENCE)
    assert type(error) is ResourceCreationError
    assert "on_check has not returned" in str(error)
    assert manager.stop().abandoned == ("tasker-worker-1",)
    check.gates[0].set()
    eventually(lambda: not factory.created[0].alive, "the end of the resource")


@pytest.mark.slow
def test_a_check_that_hangs_does_not_hold_up_kill(checked, check, clock, factory):
    manager = checked()
    check.gates[0] = threading.Event()
    clock.advance(2)
    future = manager.submit(number)
    assert check.begun.acquire(timeout=PATIENCE)
    report = manager.kill(0)
    assert (report.abandoned, report.cancelled) == (("tasker-worker-1",), 1)
    assert future.done()
    check.gates[0].set()
    eventually(lambda: not factory.created[0].alive, "the end of the resource")


# -- while nothing happens ---------------------------------------------------------------------------------------------


def test_an_idle_resource_is_checked_again_and_again(checked, check, clock):
    manager = checked(keepalive=30)
    clock.advance(29)
    assert check.calls == []
    for done in range(1, 4):
        clock.advance(30 if done > 1 else 1)
        assert check.begun.acquire(timeout=PATIENCE)
        are_idle(manager)
        assert check.calls == [0] * done


def test_without_keepalive_an_idle_resource_is_left_alone(checked, check, clock):
    manager = checked()
    assert clock.deadlines == 0
    clock.advance(10**6)
    assert check.calls == []
    assert manager.stats().idle_workers == 1


def test_a_check_that_keeps_a_resource_alive_is_its_proof(checked, check, clock):
    manager = checked(keepalive=30, check_after=10)
    clock.advance(30)
    assert check.begun.acquire(timeout=PATIENCE)
    are_idle(manager)
    clock.advance(9)
    assert manager.queue_task(number) == 0
    assert check.calls == [0]


@pytest.mark.usefixtures("endless_pauses")
def test_one_that_died_while_idle_is_replaced_before_a_task_comes(checked, check, clock, factory):
    check.verdicts[0] = False
    manager = checked(keepalive=30)
    clock.advance(30)
    eventually(lambda: len(factory.created) == 2, "another resource")
    are_idle(manager)
    assert manager.queue_task(number) == 1
    assert check.calls == [0]


def test_a_task_that_comes_while_its_only_worker_checks_is_run_by_it(checked, check, clock):
    manager = checked(keepalive=30)
    check.gates[0] = threading.Event()
    clock.advance(30)
    assert check.begun.acquire(timeout=PATIENCE)
    future = manager.submit(number)
    check.gates[0].set()
    assert future.result(PATIENCE) == 0
    assert check.calls == [0]


@pytest.mark.usefixtures("no_healing")
def test_a_task_is_not_meant_for_a_worker_that_checks(checked, check):
    manager = checked(worker_count=2, keepalive=30)
    worker = nearest(manager)
    check.gates[worker.resource.number] = threading.Event()
    worker._proved_at -= 30
    worker._wake_if_idle()
    assert check.begun.acquire(timeout=PATIENCE)
    assert manager.submit(number).result(PATIENCE) != worker.resource.number


@pytest.mark.slow
@pytest.mark.parametrize(("verdict", "rests"), [(True, True), (False, False)])
def test_the_burst_thread_rests_through_quick_checks_and_hears_of_failed_ones(
    checked, check, clock, monkeypatch, verdict, rests
):
    monkeypatch.setattr(tasker._pool.housekeeper, "QUIET_S", 0.0)
    monkeypatch.setattr(tasker._pool.housekeeper, "REST_S", threading.TIMEOUT_MAX)
    monkeypatch.setattr(tasker._pool.checking, "PATIENCE_S", 1000.0)
    check.verdicts[0] = verdict
    manager = checked(keepalive=30)
    queue = manager._engine.queue
    eventually(lambda: queue.resting, "the burst thread to rest")
    # Not `wake_housekeeper`: it is not called if a tick is on its way by chance.
    ended = []
    monkeypatch.setattr(queue, "stir", lambda: ended.append(1))
    clock.advance(30)
    assert check.begun.acquire(timeout=PATIENCE)
    are_idle(manager)
    assert (ended == []) is rests
    monkeypatch.undo()
    queue.wake_housekeeper()


@pytest.mark.slow
def test_a_check_that_hangs_ends_the_rest(checked, check, clock, monkeypatch):
    monkeypatch.setattr(tasker._pool.housekeeper, "QUIET_S", 0.0)
    monkeypatch.setattr(tasker._pool.housekeeper, "REST_S", threading.TIMEOUT_MAX)
    manager = checked(worker_count=2, keepalive=30)
    queue = manager._engine.queue
    eventually(lambda: queue.resting, "the burst thread to rest")
    check.gates = {resource: threading.Event() for resource in range(2)}
    clock.advance(30)
    eventually(lambda: not queue.resting, "the end of the rest")


# -- the resources of run_task -----------------------------------------------------------------------------------------


def test_run_task_checks_what_was_idle_for_long_in_the_callers_thread(
    checked, check, clock, factory
):
    factory.any_thread = True
    manager = checked(resource_pool_size=1, check_after=5)
    first = manager.run_task(number)
    clock.advance(4)
    assert (manager.run_task(number), check.calls) == (first, [])
    clock.advance(5)
    assert (manager.run_task(number), check.calls) == (first, [first])
    assert check.threads == [threading.get_ident()]


@pytest.mark.parametrize("verdict", [False, Sick("gone"), StopIteration()], ids=repr)
def test_run_task_destroys_what_does_not_pass_and_takes_another(
    checked, check, clock, factory, log, verdict
):
    factory.any_thread = True
    manager = checked(resource_pool_size=3)
    idle = sorted(resource.number for resource in factory.created)[:3]
    check.verdicts = {idle[2]: verdict, idle[1]: verdict}
    clock.advance(2)
    assert manager.run_task(number) == idle[0]
    assert check.calls == [idle[2], idle[1], idle[0]]
    assert manager.stats().available_resources == 1
    assert [factory.created[each].alive for each in idle] == [True, False, False]
    assert len(log.loud()) == 1

    check.verdicts[idle[0]] = verdict
    clock.advance(2)
    assert manager.run_task(number) == len(factory.created) - 1
    assert check.calls[3:] == [idle[0]]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_check_of_run_task_is_raised_and_its_resource_destroyed(
    checked, check, clock, factory, interrupt
):
    factory.any_thread = True
    manager = checked(resource_pool_size=None)
    first = manager.run_task(number)
    check.verdicts[first] = interrupt()
    clock.advance(2)
    with pytest.raises(interrupt):
        manager.run_task(number)
    assert not factory.created[first].alive
    assert manager._engine.pool.out == manager._engine.pool.available == 0
    assert manager.run_task(number) > first


# -- closing and faults ------------------------------------------------------------------------------------------------


def test_what_waits_is_checked_for_when_the_manager_stops(checked, check, clock):
    manager = checked(worker_count=2)
    check.gates = {resource: threading.Event() for resource in range(2)}
    clock.advance(2)
    futures = [manager.submit(number) for _ in range(5)]
    assert check.begun.acquire(timeout=PATIENCE)
    manager._engine.lifecycle.request_stop()
    for gate in check.gates.values():
        gate.set()
    assert manager.stop().drained
    assert {future.result(PATIENCE) for future in futures} <= {0, 1}


def test_a_check_may_use_its_manager(new_manager):
    seen = []

    def on_check(resource):
        if not seen:
            seen.append(manager.submit(number))
            manager.stop()

    manager = new_manager(worker_count=1, max_worker_count=1, on_check=on_check, check_after=0)
    are_idle(manager)
    assert manager.submit(number).result(PATIENCE) == 0
    assert seen[0].result(PATIENCE) == 0
    assert manager.stop().drained


@pytest.mark.slow
def test_a_claim_that_is_never_given_up_costs_no_task(checked, check, clock):
    """A claim that is never given up, as that of a worker that fell."""
    manager = checked(worker_count=2)
    clock.advance(2)
    manager._engine.queue.waking = True
    future = manager.submit(number)
    assert manager._engine.checks.claim("one that has fallen")
    manager._engine.queue.waking = False
    assert future.result(PATIENCE) in (0, 1)

"""One resource broke, so others may be broken: who gets the retry, whose resource is replaced, and that nobody waits
for ever."""

from __future__ import annotations

import threading
import time

import pytest

import tasker._pool.suspicion
from tasker import TaskManagerKilledError
from tests.support.errors import Sick
from tests.support.waiting import PATIENCE, eventually


class Server:
    """What the resources are connected to. A restart breaks the connections of that time."""

    def __init__(self, factory):
        self.factory = factory
        self.dead = 0  # resources up to this number

    def restart(self):
        self.dead = len(self.factory.created)

    def call(self, resource, answer=None):
        if resource.number < self.dead:
            raise Sick(resource.number)
        return answer

    def call_and_restart(self, resource):
        """The last answer of a connection that dies in the same restart as others before."""
        answer = self.call(resource)
        self.restart()
        return answer


@pytest.fixture
def server(factory):
    return Server(factory)


@pytest.fixture
def pool_of(new_manager, no_pauses, monkeypatch, request):
    """`pool_of(count)`: a manager so many workers of which are idle.

    A tick in the moment in which a worker gives its resource up, or has just got one, has an idle suspect replaced. So
    ticks replace none here, unless the test asks for `ticks_replace`."""
    if "ticks_replace" not in request.fixturenames:
        monkeypatch.setattr(tasker._pool.suspicion, "_is_able", lambda worker: True)

    def pool_of(count, **options):
        manager = new_manager(worker_count=count, max_worker_count=count, **options)
        eventually(lambda: manager.stats().idle_workers == count)
        return manager

    return pool_of


@pytest.fixture
def ticks_replace():
    """See `pool_of`."""


class Poison:
    """A task that breaks each resource that it meets."""

    def __init__(self):
        self.met = []

    def __call__(self, resource):
        self.met.append(resource.number)
        raise Sick(resource.number)


class Held:
    """A task that keeps its resource until `gate` is set."""

    def __init__(self, manager, then=lambda resource: resource.number, **options):
        self.gate, self.began, self.then = threading.Event(), threading.Event(), then
        self.future = manager.submit(self, **options)
        assert self.began.wait(PATIENCE)

    def __call__(self, resource):
        self.began.set()
        self.gate.wait(PATIENCE)
        return self.then(resource)

    def end(self):
        self.gate.set()
        return self.future.result(PATIENCE)


def sick_once(then="well"):
    """A task that breaks its first resource, and lists those that it met."""
    met = []

    def task(resource):
        met.append(resource.number)
        if len(met) == 1:
            raise Sick(resource.number)
        return then

    task.met = met
    return task


def end_wave(manager, clock):
    """Let a second pass in which nothing breaks."""
    suspicion = manager._engine.suspicion
    clock.advance(1.0)
    eventually(lambda: suspicion.past == suspicion.last)


def a_tick_later(manager):
    """Wait until the burst thread has seen all that is the case now."""
    housekeeper, beats = manager._engine.housekeeper, manager._engine.housekeeper._beats
    eventually(lambda: housekeeper._beats >= beats + 2)


class Creations:
    """From now on each creation waits at a gate of its own."""

    def __init__(self, manager):
        self._gates = []
        self._create = manager._engine.backend.create
        manager._engine.backend.create = self

    def __call__(self):
        self._gates.append(gate := threading.Event())
        gate.wait(PATIENCE)
        return self._create()

    def begun(self, number):
        """Wait for the first creation to begin, say (0)."""
        eventually(lambda: len(self._gates) > number)

    def let(self, number):
        """Let it go on when it has begun."""
        self.begun(number)
        self._gates[number].set()


def numbers(manager):
    """Those of the workers' resources; -1 for a worker that has none."""
    return sorted(getattr(worker.resource, "number", -1) for worker in manager._engine.crew.members)


# -- all of them die ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", [0, 8, 16])
def test_no_task_fails_when_all_connections_die_at_once_and_the_backend_is_well(
    pool_of, server, busy
):
    manager = pool_of(16, max_retries=1)
    held = [Held(manager, server.call) for _ in range(busy)]
    server.restart()
    futures = [manager.submit(server.call, number) for number in range(1000)]
    for each in held:
        each.gate.set()
    assert [future.result(PATIENCE) for future in futures] == list(range(1000))
    assert [each.future.result(PATIENCE) for each in held] == [None] * busy
    assert max(future.attempts for future in futures) <= 2


def test_no_task_fails_where_tasks_come_one_by_one_and_two_of_them_notice(pool_of, server, clock):
    manager = pool_of(16, max_retries=1)
    for number in range(16):
        manager.submit(server.call, number).result(PATIENCE)
    server.restart()
    futures = []
    for number in range(100):
        futures.append(manager.submit(server.call, number))
        assert futures[-1].result(PATIENCE) == number
    assert 1 <= sum(future.attempts == 2 for future in futures) <= 2


def test_tasks_that_run_at_most_once_fail_on_a_dead_connection_and_no_more_than_there_are(
    pool_of, server
):
    manager = pool_of(16)
    server.restart()
    futures = [manager.submit(server.call, once=True) for _ in range(1000)]
    errors = [error for future in futures if (error := future.exception(PATIENCE)) is not None]
    assert 1 <= len(errors) <= 16
    assert {type(error) for error in errors} == {Sick}
    assert len({error.args for error in errors}) == len(errors)
    assert {future.attempts for future in futures} == {1}


@pytest.mark.parametrize("stopping", [False, True])
def test_no_task_fails_when_connections_die_while_tasks_run(pool_of, server, stopping):
    # a task may meet one that died a round ago, and one that dies in this round
    manager = pool_of(4, max_retries=2)
    futures = []
    for round_ in range(20):
        futures += [manager.submit(server.call, round_) for _ in range(20)]
        server.restart()
        if not stopping or round_ < 19:
            assert manager.join(PATIENCE)
    assert manager.stop().drained
    assert [future.exception(0) for future in futures] == [None] * 400


# -- who gets the retry -----------------------------------------------------------------------------------------------


def test_a_retry_goes_to_the_new_resource_and_not_to_an_idle_older_one(pool_of, clock):
    manager = pool_of(4)
    for number in range(5):
        task = sick_once()
        assert manager.submit(task).result(PATIENCE) == "well"
        assert task.met[1] == 4 + number, "not the newest resource"
        manager.submit(lambda resource: None).result(PATIENCE)
        clock.advance(2)


def test_a_suspect_that_has_finished_a_task_gets_the_retry_while_none_can_be_made(
    pool_of, factory, clock
):
    manager = pool_of(2)
    other = Held(manager)
    factory.fail_always = OSError("down")
    task = sick_once()
    future = manager.submit(task)
    eventually(lambda: manager.metrics().total_tasks_retried == 1)
    end_wave(manager, clock)
    assert not future.done()
    other.end()  # its own end is the proof
    assert future.result(PATIENCE) == "well"
    assert task.met == [1 - other.future.result(0), other.future.result(0)]


def test_an_error_that_does_not_break_a_suspect_is_a_proof(pool_of, factory, clock):
    manager = pool_of(2)

    def fail(resource):
        raise ValueError

    other = Held(manager, fail)
    factory.fail_always = OSError("down")
    future = manager.submit(sick_once())
    eventually(lambda: manager.metrics().total_tasks_retried == 1)
    end_wave(manager, clock)
    other.gate.set()
    assert future.result(PATIENCE) == "well"


@pytest.mark.parametrize("priority", [False, True])
@pytest.mark.parametrize("queue_size", [0, 2])
def test_a_suspect_passes_over_a_retry_and_gets_it_when_it_has_finished_a_task(
    pool_of, factory, clock, priority, queue_size
):
    manager = pool_of(2, queue_size=queue_size)
    factory.fail_always = OSError("down")
    order = []
    retry = manager.submit(sick_once(), priority=priority)
    retry.add_done_callback(lambda _: order.append("retry"))
    eventually(lambda: manager.metrics().total_tasks_retried == 1)
    end_wave(manager, clock)

    passes_over = Held(manager, lambda resource: order.append("behind it"), priority=priority)
    last = manager.submit(lambda resource: order.append("last"), priority=priority)
    assert (retry.done(), sum(manager._engine.queue.waiting())) == (False, 2)
    passes_over.end()
    last.result(PATIENCE)
    assert retry.result(PATIENCE) == "well"
    assert order == ["behind it", "retry", "last"]


@pytest.mark.parametrize("end", ["cancel", "timeout"])
def test_a_retry_that_ends_while_it_waits_leaves_nothing_behind(pool_of, factory, end):
    manager = pool_of(2)
    factory.fail_always = OSError("down")
    retry = manager.submit(sick_once(), timeout=3600)
    eventually(lambda: manager.metrics().total_tasks_retried == 1)
    retry.cancel() if end == "cancel" else retry._expire()
    assert retry.done()
    assert manager.queue_task(lambda resource: "goes on", timeout=PATIENCE) == "goes on"
    queue = manager._engine.queue
    assert manager.join(PATIENCE)
    assert (queue.waiting(), queue.retries(), queue._excluding) == ((0, 0), 0, False)


def test_the_loss_of_trust_ends_with_the_resource(pool_of, factory):
    manager = pool_of(3)
    assert manager.submit(sick_once()).result(PATIENCE) == "well"
    suspects = [worker for worker in manager._engine.crew.members if worker.is_suspect()]
    assert sorted(worker.resource.number for worker in suspects) == [0, 1]
    for worker in suspects:
        worker.condemn(manager._engine.suspicion.last)
    eventually(lambda: not any(worker.is_suspect() for worker in suspects))
    eventually(lambda: numbers(manager) == [3, 4, 5])


# -- a wave -----------------------------------------------------------------------------------------------------------


def test_no_task_fails_where_a_connection_answers_once_more_before_it_dies_like_another(
    pool_of, server, clock
):
    manager = pool_of(4, max_retries=1)
    held = [Held(manager, server.call) for _ in range(3)]
    creations = Creations(manager)
    first = manager.submit(sick_once())
    eventually(lambda: manager.metrics().total_tasks_retried == 1)
    held[0].then = server.call_and_restart
    held[0].end()
    creations.let(0)
    assert first.result(PATIENCE) == "well"
    eventually(lambda: manager.stats().idle_workers == 2)
    for each in held[1:]:
        each.gate.set()
    # theirs, and the one that died when it had answered
    for number in range(1, 4):
        creations.let(number)
    assert [each.future.result(PATIENCE) for each in held] == [None] * 3


def test_a_task_that_is_finished_in_the_wave_is_no_proof(pool_of, clock):
    manager = pool_of(2)
    other = Held(manager)
    creations = Creations(manager)
    task = sick_once()
    future = manager.submit(task)
    eventually(lambda: manager.metrics().total_tasks_retried == 1)
    older = other.end()
    for _ in range(3):
        clock.advance(0.3)
        assert manager.submit(number_of).result(PATIENCE) == older
    a_tick_later(manager)
    assert not future.done()
    creations.let(0)
    assert future.result(PATIENCE) == "well"
    assert task.met[1] not in (0, 1)


def test_what_was_finished_in_the_wave_is_no_proof_when_that_is_over(pool_of, factory, clock):
    manager = pool_of(2)
    other = Held(manager)
    factory.fail_always = OSError("down")
    order = []
    future = manager.submit(sick_once())
    future.add_done_callback(lambda _: order.append("retry"))
    eventually(lambda: manager.metrics().total_tasks_retried == 1)
    other.end()
    end_wave(manager, clock)
    a_tick_later(manager)
    assert not future.done()
    manager.submit(lambda resource: order.append("proof")).result(PATIENCE)
    assert future.result(PATIENCE) == "well"
    eventually(lambda: order == ["proof", "retry"])


def test_a_wave_lasts_until_none_has_broken_for_a_second(pool_of, factory, clock):
    manager = pool_of(3)
    others = [Held(manager, sick_once()), Held(manager)]
    factory.fail_always = OSError("down")
    futures = [others[0].future, manager.submit(sick_once())]
    eventually(lambda: manager.metrics().total_tasks_retried == 1)
    clock.advance(0.9)
    others[0].gate.set()
    eventually(lambda: manager.metrics().total_tasks_retried == 2)
    clock.advance(0.9)
    a_tick_later(manager)
    older = others[1].end()
    assert manager.submit(number_of).result(PATIENCE) == older
    assert not any(future.done() for future in futures)
    end_wave(manager, clock)
    assert manager.submit(number_of).result(PATIENCE) == older
    assert [future.result(PATIENCE) for future in futures] == ["well"] * 2


def test_a_new_resource_is_for_what_broke_before_it_was_begun_whatever_breaks_later(pool_of, clock):
    manager = pool_of(3)
    first, later, third = Held(manager, sick_once()), Held(manager, sick_once()), Held(manager)
    creations = Creations(manager)
    first.gate.set()
    eventually(lambda: manager.metrics().total_tasks_retried == 1)

    gate = threading.Event()
    urgent = manager.submit(lambda resource: gate.wait(PATIENCE), priority=True)
    creations.let(0)
    eventually(urgent.running)
    later.gate.set()
    eventually(lambda: manager.metrics().total_tasks_retried == 2)

    gate.set()
    assert first.future.result(PATIENCE) == "well"
    a_tick_later(manager)
    assert not later.future.done()
    creations.let(1)
    assert later.future.result(PATIENCE) == "well"
    third.end()


def test_a_resource_whose_creation_had_begun_before_is_a_suspect(pool_of, clock):
    manager = pool_of(2)
    other = Held(manager, sick_once())
    creations = Creations(manager)
    assert isinstance(manager.submit(Poison(), once=True).exception(PATIENCE), Sick)
    creations.begun(0)
    other.gate.set()
    creations.let(0)
    eventually(lambda: manager.stats().idle_workers == 1)
    a_tick_later(manager)
    assert not other.future.done()
    creations.let(1)
    assert other.future.result(PATIENCE) == "well"


# -- poison and plague ------------------------------------------------------------------------------------------------


def test_a_task_that_breaks_every_resource_fails_alone_and_costs_no_others(pool_of, clock):
    manager = pool_of(8, max_retries=3)
    poison = Poison()
    future = manager.submit(poison)
    assert isinstance(future.exception(PATIENCE), Sick)
    assert future.attempts == len(set(poison.met)) == 4
    eventually(lambda: manager.stats().idle_workers == 8)
    untouched = {*range(8)} - {*poison.met}
    assert len(untouched) == 7
    assert untouched <= {*numbers(manager)}


@pytest.mark.parametrize("count", [2, 5])
def test_several_such_tasks_at_once_cost_the_idle_others_once(pool_of, clock, factory, count):
    manager = pool_of(16, max_retries=3)
    poisons = [Poison() for _ in range(count)]
    futures = [manager.submit(poison) for poison in poisons]
    assert {type(future.exception(PATIENCE)) for future in futures} == {Sick}
    assert {future.attempts for future in futures} == {4}
    eventually(lambda: manager.stats().idle_workers == 16)
    assert len(factory.created) <= 16 + 4 * count + 15


def test_poison_without_end_is_one_plague(pool_of, clock, factory):
    manager = pool_of(4, max_retries=0)
    for _ in range(50):
        assert isinstance(manager.submit(Poison()).exception(PATIENCE), Sick)
        clock.advance(0.9)
    eventually(lambda: manager.stats().idle_workers == 4)
    assert len(factory.created) <= 4 + 50 + 3


def break_one(manager):
    """Have a task break a resource once it has been made: the newest, if none is busy."""
    eventually(lambda: manager.stats().idle_workers == 8)
    assert isinstance(manager.submit(Poison(), once=True).exception(PATIENCE), Sick)


def test_idle_resources_are_replaced_when_a_second_one_breaks_within_a_second(pool_of, clock, log):
    manager = pool_of(8)
    break_one(manager)
    clock.advance(1.0)
    break_one(manager)
    eventually(lambda: min(numbers(manager)) >= 8)
    eventually(lambda: log.telling(of="one after the other, idle ones that are replaced: 7"))


def test_a_worker_that_makes_a_resource_is_none_of_those_that_are_replaced(pool_of, clock, log):
    manager = pool_of(8)
    creations = Creations(manager)
    for number in range(2):
        assert isinstance(manager.submit(Poison(), once=True).exception(PATIENCE), Sick)
        creations.begun(number)
    eventually(lambda: log.telling(of="one after the other, idle ones that are replaced: 6"))
    for number in range(8):
        creations.let(number)
    eventually(lambda: manager.stats().idle_workers == 8)
    assert min(numbers(manager)) >= 8


def test_idle_resources_are_kept_when_the_second_one_breaks_later(pool_of, clock):
    manager = pool_of(8)
    for _ in range(3):
        break_one(manager)
        clock.advance(1.1)
    eventually(lambda: manager.stats().idle_workers == 8)
    assert sum(number < 8 for number in numbers(manager)) == 7


def test_a_plague_leaves_those_that_have_proved_to_be_well_and_those_that_are_busy(pool_of, clock):
    manager = pool_of(4)
    busy = [Held(manager) for _ in range(2)]
    assert isinstance(manager.submit(Poison(), once=True).exception(PATIENCE), Sick)
    proved = busy[0].end()
    assert isinstance(manager.submit(Poison(), once=True).exception(PATIENCE), Sick)
    eventually(lambda: manager.stats().idle_workers == 3)
    still_busy = busy[1].end()
    eventually(lambda: manager.stats().idle_workers == 4)
    assert still_busy in numbers(manager)
    assert proved in numbers(manager) or len(numbers(manager)) == 4


def test_what_breaks_in_run_task_makes_workers_suspects_and_counts(pool_of, server, clock):
    manager = pool_of(4)
    server.restart()
    for _ in range(2):
        with pytest.raises(Sick):
            manager.run_task(Poison())
    eventually(lambda: min(numbers(manager), default=0) >= 4)


@pytest.mark.usefixtures("endless_pauses")
def test_a_resource_that_is_replaced_as_a_suspect_has_not_failed(new_manager, factory, clock):
    manager = new_manager(worker_count=4, max_worker_count=4, max_retries=0)
    eventually(lambda: manager.stats().idle_workers == 4)
    for _ in range(2):
        assert isinstance(manager.submit(Poison()).exception(PATIENCE), Sick)
    # the two that were broken pause for ever, the two that were suspects do not
    eventually(lambda: len(factory.created) == 6 and manager.stats().idle_workers == 2)
    eventually(lambda: manager.stats().creating_workers == 2)


# -- run_task -------------------------------------------------------------------------------------------------------


def number_of(resource):
    return resource.number


@pytest.mark.parametrize("shared", [False, True])
def test_an_idle_resource_of_run_task_is_destroyed_by_its_next_borrower_in_a_plague(
    pool_of, factory, clock, shared
):
    factory.any_thread = shared
    manager = pool_of(8, resource_pool_size=2 if shared else None)
    old = {manager.run_task(number_of) for _ in range(3)}
    assert manager.stats().available_resources == (2 if shared else 1)
    break_one(manager)
    assert manager.run_task(number_of) in old, "one breakage is no plague"
    assert manager.run_task(number_of) in old
    break_one(manager)
    assert manager.run_task(number_of) in old, "it has done a task since the first breakage"
    if shared:
        with pytest.raises(Sick):
            manager.run_task(Poison())
        assert manager.run_task(number_of) not in old, "the other one was condemned"
    assert manager.stop(PATIENCE).drained


@pytest.mark.parametrize("shared", [False, True])
def test_idle_resources_of_run_task_that_were_condemned_are_destroyed_by_who_may_use_them(
    pool_of, factory, clock, shared
):
    factory.any_thread = shared
    manager = pool_of(8, resource_pool_size=3 if shared else None)
    old = manager.run_task(number_of)
    break_one(manager)
    break_one(manager)
    assert old in {resource.number for resource in factory.created if resource.alive}
    new = manager.run_task(number_of)
    assert new > 10
    assert manager.stats().available_resources == 1
    assert manager.run_task(number_of) == new
    assert manager.stop(PATIENCE).drained


# -- with a check ---------------------------------------------------------------------------------------------------


class Check:
    """An `on_check` that writes down which resources it was called with. Those up to `dead` do not pass."""

    def __init__(self):
        self.dead = 0
        self.asked = []

    def __call__(self, resource):
        self.asked.append(resource.number)
        return resource.number >= self.dead


def test_a_suspect_is_checked_before_its_next_task_and_none_is_replaced(pool_of, clock, factory):
    check = Check()
    manager = pool_of(8, on_check=check, check_after=3600)
    break_one(manager)
    break_one(manager)
    eventually(lambda: manager.stats().idle_workers == 8)
    assert check.asked == []
    assert len(factory.created) == 10

    held = [Held(manager) for _ in range(8)]
    for each in held:
        each.end()
    assert sorted(check.asked) == sorted({*numbers(manager)} - {9})
    assert len({*check.asked}) == len(check.asked) == 7


def test_no_task_meets_a_dead_connection_but_the_first_where_there_is_a_check(
    pool_of, server, clock
):
    check = Check()
    manager = pool_of(8, on_check=check, check_after=3600)
    server.restart()
    check.dead = 8
    assert isinstance(manager.submit(server.call, once=True).exception(PATIENCE), Sick)
    futures = [manager.submit(server.call, number, once=True) for number in range(100)]
    assert [future.result(PATIENCE) for future in futures] == list(range(100))


def test_a_suspect_that_passes_its_check_gets_the_retry_while_none_can_be_made(
    pool_of, factory, clock
):
    check = Check()
    manager = pool_of(2, on_check=check, check_after=3600)
    factory.fail_always = OSError("down")
    task = sick_once()
    future = manager.submit(task)
    eventually(lambda: manager.metrics().total_tasks_retried == 1)
    a_tick_later(manager)
    assert not future.done(), "a check in the wave is no proof"
    assert check.asked == []
    end_wave(manager, clock)
    assert future.result(PATIENCE) == "well"
    assert {*task.met} == {0, 1}
    assert check.asked == task.met[1:]


def test_a_check_in_the_wave_is_for_the_next_task_only(pool_of, clock):
    check = Check()
    manager = pool_of(2, on_check=check, check_after=3600)
    other = Held(manager)
    assert isinstance(manager.submit(Poison(), once=True).exception(PATIENCE), Sick)
    older = other.end()

    def use_both():
        eventually(lambda: manager.stats().idle_workers == 2)
        for each in [Held(manager) for _ in range(2)]:
            each.end()

    for checks in range(1, 4):
        use_both()
        assert check.asked == [older] * checks
    end_wave(manager, clock)
    for _ in range(3):
        use_both()
        assert check.asked == [older] * 4


def test_an_idle_suspect_of_run_task_is_checked(pool_of, factory, clock):
    check = Check()
    factory.any_thread = True
    manager = pool_of(8, resource_pool_size=1, on_check=check, check_after=3600)
    first = manager.run_task(number_of)
    break_one(manager)
    assert (manager.run_task(number_of), check.asked) == (first, [first])
    assert (manager.run_task(number_of), check.asked) == (first, [first])


# -- nobody waits for ever --------------------------------------------------------------------------------------------


def test_a_suspect_gets_the_retry_when_the_server_gives_no_more_resources(pool_of, factory):
    manager = pool_of(2, create_timeout=0.2)
    factory.fail_always = OSError("too many connections")
    task = sick_once()
    assert manager.submit(task).result(PATIENCE) == "well"
    assert len({*task.met}) == 2


def test_a_resource_whose_last_call_was_aborted_gets_the_retry_in_the_end(pool_of, factory):
    gates = {0: threading.Event(), 1: threading.Event()}
    manager = pool_of(2, create_timeout=0.2, on_abort=lambda resource: gates[resource.number].set())
    futures = [
        manager.submit(lambda resource: gates[resource.number].wait(PATIENCE)) for _ in gates
    ]
    for future in futures:
        eventually(future.running)
    for future in futures:
        future.cancel()
        assert future.result(PATIENCE)
    factory.fail_always = OSError("too many connections")
    task = sick_once()
    assert manager.submit(task).result(PATIENCE) == "well"


@pytest.mark.usefixtures("ticks_replace")
def test_a_retry_does_not_wait_for_an_urgent_task_that_has_taken_the_new_resource(pool_of, factory):
    manager = pool_of(3)
    creating, gate = threading.Event(), threading.Event()
    create = factory.create

    def create_slowly():
        creating.set()
        gate.wait(PATIENCE)
        return create()

    manager._engine.backend.create = create_slowly
    task = sick_once()
    future = manager.submit(task)
    assert creating.wait(PATIENCE)
    others = [Held(manager) for _ in range(2)]
    urgent = threading.Event()
    first = manager.submit(lambda resource: urgent.wait(PATIENCE), priority=True)
    gate.set()
    eventually(first.running)
    assert not future.done()
    # here both suspects are busy; one that becomes idle has proved to be well
    others[0].end()
    assert future.result(PATIENCE) == "well"
    urgent.set()
    others[1].end()


class Fallen(BaseException):
    """Ends a worker."""


@pytest.mark.usefixtures("ticks_replace")
@pytest.mark.parametrize("stopping", [False, True])
def test_an_idle_suspect_is_replaced_when_no_worker_is_on_its_way_to_a_resource(
    pool_of, monkeypatch, stopping
):
    manager = pool_of(3)
    broken = Held(manager, Poison())
    if not stopping:
        monkeypatch.setattr(manager._engine, "heal_crew", lambda: manager._engine.crew.bury())
    (worker,) = [worker for worker in manager._engine.crew.members if worker.task is not None]

    def fall():
        raise Fallen

    monkeypatch.setattr(worker, "_create", fall)
    broken.then = sick_once()
    broken.gate.set()
    if stopping:
        manager._engine.lifecycle.request_stop()
    assert broken.future.result(PATIENCE) == "well"


def test_stop_runs_a_retry_that_waits(pool_of, factory):
    manager = pool_of(2)
    factory.fail_next = [OSError("down")] * 3
    future = manager.submit(sick_once())
    assert manager.stop(PATIENCE).drained
    assert future.result(0) == "well"


def test_stop_lets_a_suspect_run_a_retry_in_the_end(pool_of, factory):
    manager = pool_of(2, create_timeout=0.2)
    factory.fail_always = OSError("down")
    future = manager.submit(sick_once())
    eventually(lambda: manager.metrics().total_tasks_retried == 1)
    assert manager.stop(PATIENCE).drained
    assert future.result(0) == "well"


def test_kill_ends_a_retry_that_waits(pool_of, factory):
    manager = pool_of(2)
    factory.fail_always = OSError("down")
    future = manager.submit(sick_once())
    eventually(lambda: manager.metrics().total_tasks_retried == 1)
    assert manager.kill(PATIENCE).abandoned == ()
    assert isinstance(future.exception(0), TaskManagerKilledError)


def test_a_task_that_waits_for_a_retry_gets_its_result(pool_of, factory):
    manager = pool_of(2, create_timeout=0.3)

    def wait_for_another(resource):
        factory.fail_always = OSError("down")
        inner = manager.submit(sick_once())
        eventually(lambda: manager.metrics().total_tasks_retried == 1)
        factory.fail_always = None
        return inner.result(PATIENCE)

    assert manager.submit(wait_for_another).result(PATIENCE) == "well"


def test_suspects_that_can_take_nothing_sleep(pool_of, factory):
    manager = pool_of(4, burst_interval=0)
    factory.fail_always = OSError("down")
    future = manager.submit(sick_once())
    eventually(lambda: manager.metrics().total_tasks_retried == 1)
    looks = []
    for worker in manager._engine.crew.members:
        worker._look = lambda look=worker._look: looks.append(time.monotonic()) or look()
    housekeeper, beats = manager._engine.housekeeper, manager._engine.housekeeper._beats
    eventually(lambda: housekeeper._beats >= beats + 5)
    assert len(looks) <= 10 * (housekeeper._beats - beats + 1) * 4
    factory.fail_always = None
    assert future.result(PATIENCE) == "well"

"""`Supervisor`: a supervised task looks to its user like any other."""

from __future__ import annotations

import threading
import traceback

import pytest

from tasker import Context, TaskManagerKilledError, current_context, current_resource
from tasker._pool.supervisor import Supervisor
from tests.support.errors import Sick
from tests.support.waiting import PATIENCE, eventually


@pytest.fixture(params=["as it is", "supervised"])
def manager(request, new_manager):
    """A manager that calls tasks as they are, and one that supervises them."""
    options = {} if request.param == "as it is" else {"on_abort": repr}
    return new_manager(worker_count=1, max_worker_count=1, **options)


def divide(resource, number):
    return 1 // number


def plain(number):
    return 1 // number


def names(error):
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


# -- what the user sees ----------------------------------------------------------------------------------------------


def test_a_task_gets_what_it_asks_for(manager):
    assert manager.queue_task(divide, 1) == 1
    resource = manager.queue_task(lambda resource: [resource])[0]
    assert manager.queue_task(lambda ctx, resource, n: (resource, n), 7) == (resource, 7)
    assert manager.queue_task(lambda ctx, resource: isinstance(ctx, Context))
    assert manager.queue_task(lambda ctx, resource: ctx is current_context())
    assert manager.queue_task(lambda resource: current_resource() is resource)
    assert manager.queue_task(lambda resource: manager.current_resource() is resource)


def test_a_run_task_gets_what_it_asks_for(manager):
    assert manager.run_task(divide, 1) == 1
    assert manager.run_task(lambda ctx, resource, n: (ctx is current_context(), n), 7) == (True, 7)
    assert manager.run_task(lambda resource: manager.current_resource() is resource)
    with pytest.raises(ZeroDivisionError):
        manager.run_task(divide, 0)


def test_map_and_an_executor_call_the_function(manager):
    assert list(manager.map(divide, [1, 1, 2], chunksize=2)) == [1, 1, 0]
    assert list(manager.map(lambda ctx, resource, n: n, [1, 2])) == [1, 2]
    with manager.executor() as pool:
        assert pool.submit(plain, number=2).result(PATIENCE) == 0
        assert list(pool.map(plain, [1, 2], chunksize=2)) == [1, 0]


def test_the_traceback_begins_with_the_users_function(manager):
    error = manager.submit(divide, 0).exception(PATIENCE)
    assert names(error) == ["divide"]
    with manager.executor() as pool:
        assert names(pool.submit(plain, 0).exception(PATIENCE)) == ["plain"]


def test_a_call_with_an_argument_too_many_says_whether_it_got_a_context(manager):
    def forwards(*args, **keywords):
        return takes_one(*args)

    def takes_one(resource):
        raise AssertionError

    [note] = manager.submit(forwards, 7).exception(PATIENCE).__notes__
    assert "the resource and 1 more argument, and without a context" in note


def test_a_task_whose_iterator_is_used_up_is_not_retried(manager):
    def breaks(resource, numbers, *more):
        next(numbers)
        raise Sick

    future = manager.submit(breaks, iter([1, 2]))
    [note] = [line for line in notes(future) if "not retried" in line]
    assert "argument 1 is an iterator (list_iterator)" in note
    assert future.attempts == 1


def test_a_task_whose_first_argument_is_a_tuple_is_retried(manager, no_pauses):
    def breaks(resource, numbers, *more):
        raise Sick

    future = manager.submit(breaks, (1, 2))
    assert type(future.exception(PATIENCE)) is Sick
    assert future.attempts == 4
    assert manager.submit(breaks, (iter(()),), {}).exception(PATIENCE)


def notes(future):
    return getattr(future.exception(PATIENCE), "__notes__", [])


def test_a_result_that_is_the_resource_is_reported_with_the_users_function(manager, log):
    def leaks(resource):
        return resource

    manager.queue_task(leaks)
    manager.run_task(leaks)
    [told] = log.telling("returned its resource")
    assert "leaks" in told


def test_a_coroutine_is_refused_with_the_users_function(manager):
    async def fetch():
        pass

    def fetches(resource):
        return fetch()

    for call in (manager.queue_task, manager.run_task):
        with pytest.raises(TypeError, match="fetches"):
            call(fetches)


def test_an_executor_finds_its_call_in_the_queue(manager):
    began, gate = threading.Event(), threading.Event()
    with manager.executor() as pool:
        pool.submit(lambda: (began.set(), gate.wait(PATIENCE)))
        assert began.wait(PATIENCE)
        pool.submit(plain, 2)
        item = pool._work_queue.get(block=False)
        gate.set()
    assert item.task[:2] == (plain, (2,)) if hasattr(item, "task") else item.fn is plain


def test_a_wait_that_never_ends_names_the_users_function(manager):
    def waits(resource):
        return manager.submit(divide, 1).result()

    with pytest.raises(Exception, match=r"waits on .* waits for divide"):
        manager.queue_task(waits)


# -- supervisions ----------------------------------------------------------------------------------------------------


class Recorded:
    """A supervision that records when it begins and ends."""

    def __init__(self, log, name, trouble=None):
        self.log, self.name, self.trouble = log, name, trouble

    def begin(self):
        self.log.append(f"{self.name} begins")
        if self.trouble is not None:
            raise self.trouble

    def end(self, error):
        self.log.append(f"{self.name} ends after {type(error).__name__}")


def supervised(new_manager, *kinds):
    manager = new_manager(worker_count=1, on_abort=repr)
    manager._engine.supervisor.kinds[:] = kinds
    return manager


def test_supervisions_begin_in_order_and_end_the_other_way_round(new_manager):
    events = []
    manager = supervised(
        new_manager,
        lambda *call: Recorded(events, "first"),
        lambda *call: None,
        lambda *call: Recorded(events, "second"),
    )
    manager.queue_task(lambda resource: events.append("task"))
    assert events == [
        "first begins",
        "second begins",
        "task",
        "second ends after NoneType",
        "first ends after NoneType",
    ]
    events.clear()
    assert manager.submit(divide, 0).exception(PATIENCE)
    assert events[-1] == "first ends after ZeroDivisionError"


def test_a_supervision_knows_the_call(new_manager):
    calls = []
    manager = supervised(new_manager, lambda *call: calls.append(call))
    resource = manager.queue_task(lambda ctx, resource: (ctx, resource))[1]
    manager.run_task(divide, 1)
    [first, second] = calls
    assert first[1] is resource
    assert first[3] in manager._engine.crew.members
    assert second[2:] == (divide, None)


def test_a_supervision_that_fails_to_begin_costs_the_task_its_call_and_no_worker(new_manager):
    events = []
    manager = supervised(
        new_manager,
        lambda *call: Recorded(events, "first"),
        lambda *call: Recorded(events, "second", MemoryError("no memory")),
    )
    assert type(manager.submit(divide, 1).exception(PATIENCE)) is MemoryError
    assert events[-2:] == ["second ends after MemoryError", "first ends after MemoryError"]


def test_a_call_whose_context_has_ended_is_not_made(new_manager):
    manager = new_manager(worker_count=1, on_abort=repr)
    supervisor: Supervisor = manager._engine.supervisor
    ran = []

    def cancels(context, resource):
        context.cancel()
        supervisor.call(context, resource, lambda resource: ran.append("ran"))

    assert type(manager.submit(cancels).exception(PATIENCE)).__name__ == "ContextCancelledError"
    assert ran == []


def test_a_hook_that_takes_too_long_is_aborted(new_manager):
    gate = threading.Event()
    manager = new_manager(worker_count=1, on_abort=lambda resource: gate.set())
    supervisor: Supervisor = manager._engine.supervisor

    def stuck(resource):
        assert gate.wait(PATIENCE)

    def calls(resource):
        supervisor.call_hook(None, "resource", stuck, timeout=0.01)
        supervisor.call_hook(None, 0, plain, timeout=PATIENCE)

    with pytest.raises(ZeroDivisionError):
        manager.run_task(calls)
    eventually(manager._engine.runner.idle)


@pytest.mark.parametrize("form", ["submit", "run_task"])
def test_a_call_that_a_kill_keeps_from_beginning_is_killed(new_manager, form):
    begins, ran = threading.Event(), []

    def until_its_end(context, *call):
        begins.set()
        assert context.wait(PATIENCE)

    manager = supervised(new_manager, until_its_end)
    outcomes: list[BaseException | None] = []

    def run():
        try:
            manager.run_task(ran.append)
        except BaseException as error:
            outcomes.append(error)

    caller = threading.Thread(target=run)
    if form == "run_task":
        caller.start()
    else:
        future = manager.submit(ran.append)
    assert begins.wait(PATIENCE)
    manager.kill()
    if form == "run_task":
        caller.join(PATIENCE)
    else:
        outcomes.append(future.exception(PATIENCE))
    assert [type(error) for error in outcomes] == [TaskManagerKilledError]
    assert not ran

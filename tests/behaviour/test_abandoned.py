"""A thread that does not return after its context has ended is abandoned, and another worker takes its place."""

from __future__ import annotations

import threading

import pytest

from tasker import (
    Config,
    ContextCancelledError,
    TaskManager,
    TaskManagerKilledError,
    TaskTimeoutError,
)
from tasker._pool.abandonment import Abandonment
from tests.support.errors import Sick
from tests.support.snippets import needs_fork, run_python
from tests.support.waiting import PATIENCE, eventually

AFTER = 3.0


class Stuck:
    """Tasks that hear nothing, until all are let go."""

    def __init__(self):
        self.gate = threading.Event()
        self.inside = []
        self.error = None

    def __call__(self, resource):
        self.inside.append((threading.current_thread(), resource))
        assert self.gate.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        return "returned"

    def let_go(self):
        self.gate.set()
        for thread, _ in self.inside:
            thread.join(PATIENCE)

    def await_inside(self, count=1):
        eventually(lambda: len(self.inside) == count, f"{count} stuck")


@pytest.fixture
def stuck():
    stuck = Stuck()
    yield stuck
    stuck.gate.set()


@pytest.fixture
def manager(new_manager, clock, stuck):
    manager = new_manager(worker_count=1, max_worker_count=2, abandon_after=AFTER)
    yield manager
    stuck.gate.set()
    eventually(lambda: abandoned(manager) == 0)
    if manager.closed:
        stuck.let_go()


def abandoned(manager):
    return manager.stats().abandoned_workers


def abandon(manager, clock, stuck):
    """Have one worker abandoned; returns the future of its task."""
    before, inside = abandoned(manager), len(stuck.inside)
    future = manager.submit(stuck, timeout=1)
    stuck.await_inside(inside + 1)
    clock.advance(1)
    assert abandoned(manager) == before
    clock.advance(AFTER)
    assert abandoned(manager) == before + 1
    return future


# -- it is replaced --------------------------------------------------------------------------------------------------


def test_a_worker_whose_task_does_not_return_is_replaced(manager, clock, stuck, factory):
    future = abandon(manager, clock, stuck)
    assert type(future.exception(0)) is TaskTimeoutError
    [(thread, resource)] = stuck.inside

    other = manager.queue_task(lambda resource: (threading.current_thread(), [resource]))
    assert other[0] is not thread
    assert other[1] != [resource]
    stats = manager.stats()
    assert (stats.active_workers, stats.abandoned_workers) == (1, 1)
    assert thread.is_alive()


def test_one_that_returns_takes_no_other_task_and_destroys_its_resource(manager, clock, stuck):
    abandon(manager, clock, stuck)
    [(thread, _)] = stuck.inside
    waits = threading.Event()
    manager.submit(lambda resource: waits.wait(PATIENCE))
    following = manager.submit(lambda resource: threading.current_thread())
    stuck.gate.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert not following.done()
    assert abandoned(manager) == 0
    waits.set()
    assert following.result(PATIENCE) is not thread
    assert manager.stop(PATIENCE).drained


def test_one_that_returns_in_time_serves_on(manager, clock, stuck):
    future = manager.submit(stuck, timeout=1)
    stuck.await_inside()
    clock.advance(1)
    stuck.gate.set()
    assert future.exception(PATIENCE)
    thread = manager.queue_task(lambda resource: threading.current_thread())
    clock.advance(AFTER)
    assert thread is stuck.inside[0][0]
    assert manager.queue_task(lambda resource: threading.current_thread()) is thread
    assert abandoned(manager) == 0
    assert clock.deadlines == 0


def test_a_cancelled_task_that_is_abandoned_gets_an_outcome(manager, clock, stuck):
    future = manager.submit(stuck)
    stuck.await_inside()
    assert not future.cancel()
    clock.advance(AFTER)
    error = future.exception(PATIENCE)
    assert type(error) is ContextCancelledError
    assert "did not return within 3 s (abandon_after)" in str(error)
    assert manager.queue_task(lambda resource: 7) == 7


def test_it_holds_up_the_end_until_its_task_has_an_outcome_and_the_log_a_line(
    manager, clock, stuck, monkeypatch
):
    future = manager.submit(stuck)
    stuck.await_inside()
    future.cancel()
    crew, seen = manager._engine.crew, []

    def noting(name, method):
        def noted(*args):
            method(*args)
            seen.append((name, len(crew.members), len(crew.abandoned)))

        return noted

    monkeypatch.setattr(Abandonment, "_log", noting("log", Abandonment._log))
    settle = noting("outcome", future._fail_from_outside)
    monkeypatch.setattr(future, "_fail_from_outside", settle, raising=False)
    clock.advance(AFTER)
    assert seen == [("log", 1, 1), ("outcome", 1, 1)]
    eventually(lambda: len(crew.members) == 1 and crew.members[0].thread not in stuck.inside[0])


def test_a_task_that_is_abandoned_is_not_retried(manager, clock, stuck):
    def cancels(context, resource):
        context.cancel()
        return stuck(resource)

    stuck.error = Sick("much too late")
    future = manager.submit(cancels)
    stuck.await_inside()
    clock.advance(AFTER)
    stuck.gate.set()
    assert type(future.exception(PATIENCE)) is ContextCancelledError
    eventually(lambda: abandoned(manager) == 0)
    assert manager.stop(PATIENCE).drained
    assert future.attempts == 1
    assert len(stuck.inside) == 1


def test_without_abandon_after_a_worker_waits_for_its_task(new_manager, clock, stuck):
    manager = new_manager(worker_count=1, max_worker_count=1, on_abort=repr)
    future = manager.submit(stuck, timeout=1)
    stuck.await_inside()
    clock.advance(10_000)
    assert abandoned(manager) == 0
    stuck.gate.set()
    assert type(future.exception(PATIENCE)) is TaskTimeoutError
    assert manager.queue_task(lambda resource: threading.current_thread()) is stuck.inside[0][0]


def test_a_caller_of_run_task_is_not_abandoned(manager, clock, stuck):
    def cancels(context, resource):
        context.cancel()
        return stuck(resource)

    caller = threading.Thread(target=lambda: manager.run_task(cancels))
    caller.start()
    stuck.await_inside()
    clock.advance(10_000)
    assert abandoned(manager) == 0
    stuck.gate.set()
    caller.join(PATIENCE)


def test_an_abort_that_blocks_is_abandoned_with_its_task(new_manager, clock, stuck):
    manager = new_manager(worker_count=1, max_worker_count=1, abandon_after=AFTER, on_abort=stuck)
    future = manager.submit(lambda context, resource: (context.cancel(), stuck.await_inside()))
    stuck.await_inside()
    clock.wait_for_deadlines()
    clock.advance(AFTER)
    assert type(future.exception(PATIENCE)) is ContextCancelledError
    assert abandoned(manager) == 1
    assert manager.queue_task(lambda resource: 7) == 7
    stuck.let_go()
    eventually(lambda: abandoned(manager) == 0)


def test_a_hook_that_is_stuck_is_abandoned(manager, clock, stuck):
    supervisor = manager._engine.supervisor

    def calls_hook(resource):
        [worker] = manager._engine.crew.members
        supervisor.call_hook(worker, resource, stuck, timeout=1.0)

    future = manager.submit(calls_hook)
    stuck.await_inside()
    clock.advance(1)
    clock.advance(AFTER)
    assert abandoned(manager) == 1
    assert manager.queue_task(lambda resource: 7) == 7
    stuck.gate.set()
    future.exception(PATIENCE)
    eventually(lambda: abandoned(manager) == 0)


def test_a_check_that_is_stuck_is_abandoned(new_manager, clock, stuck):
    manager = new_manager(
        worker_count=1, max_worker_count=1, on_check=stuck, check_timeout=7, abandon_after=AFTER
    )
    manager.queue_task(lambda resource: 7)
    eventually(lambda: manager.stats().idle_workers)
    clock.advance(2)
    future = manager.submit(lambda resource: threading.current_thread())
    stuck.await_inside()
    clock.advance(7)
    assert abandoned(manager) == 0
    clock.advance(AFTER)
    assert abandoned(manager) == 1
    assert future.result(PATIENCE) is not stuck.inside[0][0]
    assert future.attempts == 1
    stuck.let_go()
    assert abandoned(manager) == 0


# -- how many ---------------------------------------------------------------------------------------------------------


def test_no_more_are_abandoned_than_there_may_be_workers(manager, clock, stuck, log):
    for _ in range(2):
        abandon(manager, clock, stuck)
    third = manager.submit(stuck, timeout=1)
    stuck.await_inside(3)
    clock.advance(1 + 2 * AFTER)
    assert type(third.exception(0)) is TaskTimeoutError
    assert abandoned(manager) == 2
    assert manager.stats().running_tasks == 1

    eventually(lambda: log.telling("keeps its worker"))
    assert (
        "threads abandoned already: 2, the most (max_worker_count)"
        in log.telling("keeps its worker")[0]
    )
    assert "threads abandoned now: 1" in log.telling("abandoned, as it has not returned")[0]


def test_when_one_comes_back_another_that_is_stuck_is_abandoned(manager, clock, stuck):
    first = threading.Event()

    def returns_first(resource):
        stuck.inside.append((threading.current_thread(), resource))
        assert first.wait(PATIENCE)

    manager.submit(returns_first, timeout=1)
    stuck.await_inside()
    clock.advance(1)
    clock.advance(AFTER)
    abandon(manager, clock, stuck)
    manager.submit(stuck, timeout=1)
    stuck.await_inside(3)
    clock.advance(1 + AFTER)
    assert manager.stats().running_tasks == 1

    first.set()
    eventually(lambda: abandoned(manager) == 1)
    clock.advance(AFTER)
    assert abandoned(manager) == 2
    assert manager.queue_task(lambda resource: 7) == 7


# -- what others see -------------------------------------------------------------------------------------------------


def test_each_task_is_counted_once(manager, clock, stuck):
    abandon(manager, clock, stuck)
    manager.queue_task(lambda resource: 7)
    assert manager.join(PATIENCE)
    during = manager.metrics()
    stuck.gate.set()
    eventually(lambda: abandoned(manager) == 0)
    for metrics in (during, manager.metrics()):
        assert (
            metrics.total_tasks_arrived,
            metrics.total_tasks_completed,
            metrics.total_tasks_failed,
        ) == (2, 1, 1)


def test_an_abandoned_thread_is_still_inside_of_its_task(new_manager, clock, stuck):
    manager = new_manager(worker_count=1, max_worker_count=1, abandon_after=AFTER, queue_size=1)
    found = []

    def looks(context, resource):
        stuck(resource)
        found.append(manager.current_resource() is resource)
        found.append(context.cancelled())
        # It waits neither for room in the queue, nor for the end.
        try:
            manager.submit(len)
        except Exception as error:
            found.append(type(error).__name__)
        found.append(manager.stop().drained)

    manager.submit(looks, timeout=1)
    stuck.await_inside()
    clock.advance(1)
    clock.advance(AFTER)
    busy, go = threading.Event(), threading.Event()
    manager.submit(lambda resource: (busy.set(), go.wait(PATIENCE)))
    assert busy.wait(PATIENCE)
    waits = manager.submit(lambda resource: 7)
    stuck.gate.set()
    eventually(lambda: len(found) == 4)
    assert found == [True, True, "QueueFullError", False]
    # Before the manager closes, which waits for no abandoned thread.
    stuck.let_go()
    eventually(lambda: abandoned(manager) == 0)
    go.set()
    assert waits.result(PATIENCE) == 7


def test_a_task_that_waits_for_an_abandoned_one_gets_its_outcome(new_manager, clock, stuck):
    manager = new_manager(worker_count=2, max_worker_count=2, abandon_after=AFTER)
    future = manager.submit(stuck)
    stuck.await_inside()
    waits = manager.submit(lambda resource: future.exception())
    future.cancel()
    clock.advance(AFTER)
    assert type(waits.result(PATIENCE)) is ContextCancelledError
    stuck.let_go()


def test_what_an_abandoned_thread_destroys_ends_with_its_context(new_manager, clock, stuck):
    ends = []

    class Session:
        def __enter__(self):
            return self

        def __exit__(self, kind, error, trace):
            ends.append(kind)

    config = Config.from_context_manager(
        Session, worker_count=1, max_worker_count=1, abandon_after=AFTER
    )
    with TaskManager(config) as manager:
        abandon(manager, clock, stuck)
        stuck.gate.set()
        eventually(lambda: abandoned(manager) == 0)
        manager.queue_task(id)  # the other worker has a resource by then
    assert [kind and kind.__name__ for kind in ends] == ["DeadlineExceededError", None]


# -- the end ---------------------------------------------------------------------------------------------------------


def test_stop_does_not_wait_for_an_abandoned_thread_and_names_it(manager, clock, stuck, log):
    abandon(manager, clock, stuck)
    name = stuck.inside[0][0].name
    report = manager.stop(PATIENCE)
    assert (report.drained, report.abandoned) == (False, (name,))
    assert report.failed == 1
    stuck.let_go()
    assert manager.stop() == report


def test_a_stop_that_waits_for_a_stuck_task_goes_on_when_it_is_abandoned(manager, clock, stuck):
    manager.submit(stuck, timeout=1)
    last = manager.submit(lambda resource: 7)
    stuck.await_inside()
    reports = []
    stopping = threading.Thread(target=lambda: reports.append(manager.stop()))
    stopping.start()
    eventually(lambda: manager._engine.is_stopping())
    clock.advance(1)
    clock.advance(AFTER)
    stopping.join(PATIENCE)
    assert last.result(0) == 7
    assert len(reports[0].abandoned) == 1


def test_one_that_has_come_back_before_the_end_is_forgotten(manager, clock, stuck):
    abandon(manager, clock, stuck)
    stuck.gate.set()
    eventually(lambda: abandoned(manager) == 0)
    report = manager.stop(PATIENCE)
    assert (report.drained, report.abandoned) == (True, ())


def test_kill_names_an_abandoned_thread_and_abandons_no_other_by_itself(manager, clock, stuck):
    abandon(manager, clock, stuck)
    future = manager.submit(stuck)
    stuck.await_inside(2)
    killing = threading.Thread(target=manager.kill, args=(PATIENCE,))
    killing.start()
    clock.wait_for_deadlines()
    clock.advance(AFTER)
    assert abandoned(manager) == 1
    assert not future.done()
    report = manager.kill(0)
    killing.join(PATIENCE)
    assert type(future.exception(0)) is TaskManagerKilledError
    assert sorted(report.abandoned) == sorted(thread.name for thread, _ in stuck.inside)


@pytest.mark.slow
def test_the_interpreter_exits_with_an_abandoned_thread():
    ran = run_python(
        """
        gate = threading.Event()
        config = Config(on_create=object, on_destroy=repr, worker_count=1, abandon_after=0.1)
        manager = TaskManager(config)
        manager.submit(lambda resource: gate.wait(), timeout=0.1).exception()
        while not manager.stats().abandoned_workers:
            time.sleep(0.001)
        print(manager.queue_task(lambda resource: 7))
        """,
        timeout=20,
    )
    assert (ran.stdout, ran.returncode) == ("7\n", 0)
    assert "abandoned, as it has not returned 0.1 s" in ran.stderr


@needs_fork
@pytest.mark.slow
def test_a_child_that_an_abandoned_task_forks_ends_with_it():
    ran = run_python(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        gate, children = threading.Event(), []

        def forks(resource):
            gate.wait()
            children.append(os.fork())

        config = Config(
            on_create=object, on_destroy=lambda resource: print("destroyed", flush=True), worker_count=1,
            max_worker_count=1, abandon_after=0.1)
        manager = TaskManager(config)
        manager.submit(forks, timeout=0.1).exception()
        while not manager.stats().abandoned_workers:
            time.sleep(0.001)
        gate.set()
        while manager.stats().abandoned_workers:
            time.sleep(0.001)
        print(os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]), flush=True)
        """
    )
    assert ran.stdout == "destroyed\n0\ndestroyed\n"

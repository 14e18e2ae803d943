"""Submitting, waiting and looking: the contract of `TaskManager` while nothing goes wrong."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from concurrent.futures import Future

import pytest

from tasker import (
    Config,
    ConfigError,
    PoolDeadlockError,
    QueueFullError,
    TaskFuture,
    TaskManager,
    TaskMetrics,
    TaskStats,
    background,
    with_value,
)
from tests.support.waiting import PATIENCE, eventually

KINDS = ("", "_once", "_with_priority", "_with_priority_once")


@pytest.mark.parametrize("kind", KINDS)
def test_blocking_methods_return_the_result_of_the_task(new_manager, kind):
    manager = new_manager()
    method = getattr(manager, f"queue_task{kind}")
    assert method(lambda resource, a, b: (resource.alive, a, b), 1, "x") == (True, 1, "x")


@pytest.mark.parametrize("kind", KINDS)
def test_blocking_methods_raise_the_task_s_own_exception(new_manager, kind):
    error = LookupError("mine")

    def fail(resource):
        raise error

    with pytest.raises(LookupError) as caught:
        getattr(new_manager(), f"queue_task{kind}")(fail)
    assert caught.value is error
    assert not hasattr(error, "__notes__")


@pytest.mark.parametrize("kind", KINDS)
def test_async_methods_return_a_standard_future(new_manager, kind):
    future = getattr(new_manager(), f"queue_task{kind}_async")(lambda resource: [1])
    assert isinstance(future, TaskFuture)
    assert isinstance(future, Future)
    assert future.result(PATIENCE) == [1]
    assert future.attempts == 1


@pytest.mark.parametrize("kind", KINDS)
def test_callback_methods_call_back_once_with_result_or_error(new_manager, kind):
    manager = new_manager()
    calls = []
    error = ValueError("mine")

    def fail(resource):
        raise error

    method = getattr(manager, f"queue_task{kind}_with_callback")
    assert method(lambda resource, x: x + 1, lambda *outcome: calls.append(outcome), 1) is None
    manager.join(PATIENCE)
    method(fail, lambda *outcome: calls.append(outcome))
    manager.join(PATIENCE)
    assert calls == [(2, None), (None, error)]


def test_a_callback_never_runs_in_the_submitter_s_thread(new_manager):
    manager = new_manager()
    threads = []
    for _ in range(300):
        manager.queue_task_with_callback(
            lambda resource: 0, lambda *_: threads.append(threading.current_thread())
        )
    assert manager.join(PATIENCE)
    assert len(threads) == 300
    assert threading.current_thread() not in threads


def test_the_same_callable_can_be_submitted_again_and_again(new_manager):
    manager = new_manager()
    task = lambda resource, x: x  # noqa: E731
    assert [manager.queue_task(task, i) for i in range(50)] == list(range(50))


def test_a_task_that_requires_one_more_argument_gets_a_context_first(new_manager):
    manager = new_manager(ctx=with_value(background(), "user", "anna"))
    seen = manager.queue_task(
        lambda ctx, resource, x: (ctx.value("user"), ctx.deadline(), ctx.err(), x), 7
    )
    assert seen == ("anna", None, None, 7)
    assert manager.queue_task(lambda resource, x=3: x) == 3
    assert manager.queue_task(functools.partial(lambda ctx, resource: ctx.cancelled())) is False
    assert manager.run_task(lambda ctx, resource: ctx.remaining()) is None


def test_a_task_with_a_timeout_sees_its_deadline(new_manager):
    before = time.monotonic()
    deadline = new_manager().queue_task(lambda ctx, resource: ctx.deadline(), timeout=100)
    assert before + 100 <= deadline <= time.monotonic() + 100


@pytest.mark.parametrize(
    "bad",
    [None, 5, "name", lambda: 0, lambda ctx, r, a, b: 0, lambda r, *, key: 0],
    ids=["None", "int", "str", "takes nothing", "wants too much", "wants a keyword"],
)
def test_what_cannot_be_called_is_refused_at_submission(new_manager, bad):
    manager = new_manager()
    for method in (
        manager.submit,
        manager.queue_task,
        manager.queue_task_with_priority_async,
        manager.run_task,
    ):
        with pytest.raises(TypeError):
            method(bad)
    assert manager.metrics().total_tasks_arrived == 0


def test_coroutine_functions_are_refused_with_a_hint(new_manager):
    async def task(resource):
        raise AssertionError

    manager = new_manager()
    for method in (manager.submit, manager.run_task):
        with pytest.raises(TypeError, match="asyncio"):
            method(task)


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), "5", True, []], ids=repr)
def test_a_wrong_timeout_is_refused_at_submission(new_manager, wrong):
    manager = new_manager()
    with pytest.raises(ConfigError, match="timeout"):
        manager.submit(lambda resource: 0, timeout=wrong)
    assert manager.metrics().total_tasks_arrived == 0


def test_a_wrong_queue_timeout_is_refused_at_submission(new_manager):
    with pytest.raises(ConfigError, match="queue_timeout"):
        new_manager().submit(lambda resource: 0, queue_timeout=-1)


def test_a_callback_that_cannot_be_called_is_refused_at_submission(new_manager):
    with pytest.raises(TypeError, match="callback"):
        new_manager().queue_task_with_callback(lambda resource: 0, None)


def test_only_a_config_makes_a_manager():
    with pytest.raises(ConfigError, match="Config"):
        TaskManager({"worker_count": 1})


def test_base_workers_run_truly_at_the_same_time(new_manager):
    rendezvous = threading.Barrier(4)
    manager = new_manager(worker_count=4, max_worker_count=4)
    futures = [manager.submit(lambda resource: rendezvous.wait(PATIENCE)) for _ in range(4)]
    assert sorted(future.result(PATIENCE) for future in futures) == [0, 1, 2, 3]


def test_priority_goes_before_main_and_each_lane_is_first_in_first_out(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=1)
    gate, order = threading.Event(), []
    manager.submit(lambda resource: gate.wait(PATIENCE))
    for i in range(5):
        manager.submit(lambda resource, i: order.append(("main", i)), i)
    for i in range(5):
        manager.submit(lambda resource, i: order.append(("priority", i)), i, priority=True)
    gate.set()
    assert manager.join(PATIENCE)
    assert order == [("priority", i) for i in range(5)] + [("main", i) for i in range(5)]


def test_join_waits_for_tasks_and_their_callbacks(new_manager):
    manager = new_manager()
    gate, called = threading.Event(), []

    def callback(result, error):
        gate.wait(PATIENCE)
        called.append(result)

    manager.queue_task_with_callback(lambda resource: 5, callback)
    assert manager.join(0.01) is False
    gate.set()
    assert manager.join(PATIENCE) is True
    assert called == [5]
    assert manager.join(0) is True
    assert manager.queue_task(lambda resource: "still open") == "still open"


def test_join_from_an_own_task_is_refused_instead_of_waiting_for_itself(new_manager):
    manager = new_manager()
    with pytest.raises(PoolDeadlockError, match="join"):
        manager.queue_task(lambda resource: manager.join())


def test_wait_ready_waits_for_the_resources_of_the_base_workers(new_manager, factory):
    gate = threading.Event()

    def create():
        gate.wait(PATIENCE)
        return factory.create()

    manager = new_manager(worker_count=3, on_create=create)
    assert manager.wait_ready(0.01) is False
    assert manager.stats().creating_workers == 3
    gate.set()
    assert manager.wait_ready(PATIENCE) is True
    assert manager.stats().creating_workers == 0
    assert factory.live == 3


def test_stats_say_what_each_worker_and_lane_does(new_manager, factory):
    factory.any_thread = True  # the pool's resource is destroyed by whoever closes
    manager = new_manager(worker_count=2, max_worker_count=2, resource_pool_size=1)
    assert manager.wait_ready(PATIENCE)
    eventually(lambda: manager.stats().idle_workers == 2)
    assert manager.stats() == TaskStats(
        base_workers=2, active_workers=2, idle_workers=2, available_resources=1
    )
    gate = threading.Event()
    for _ in range(2):
        manager.submit(lambda resource: gate.wait(PATIENCE))
    eventually(lambda: manager.stats().running_tasks == 2)
    for _ in range(3):
        manager.submit(lambda resource: 0)
    manager.submit(lambda resource: 0, priority=True)
    assert manager.stats() == TaskStats(
        base_workers=2,
        active_workers=2,
        running_tasks=2,
        queued_tasks=3,
        priority_tasks=1,
        available_resources=1,
    )
    gate.set()
    assert manager.join(PATIENCE)
    eventually(lambda: manager.stats().idle_workers == 2)


def test_metrics_equal_reality(new_manager):
    manager = new_manager(worker_count=3)
    assert manager.metrics() == TaskMetrics()

    def fail(resource):
        raise KeyError

    futures = [manager.submit(lambda resource: 0) for _ in range(40)] + [
        manager.submit(fail) for _ in range(10)
    ]
    for future in futures:
        future.exception(PATIENCE)
    manager.run_task(lambda resource: 0)
    metrics = manager.metrics()
    assert metrics.total_tasks_arrived == 51
    assert metrics.total_tasks_completed == 41
    assert metrics.total_tasks_failed == 10
    assert metrics.total_tasks_cancelled == metrics.total_tasks_retried == 0
    assert metrics.success_rate == pytest.approx(41 / 51)
    assert metrics.failure_rate == pytest.approx(10 / 51)
    assert (
        0
        < metrics.min_execution_time
        <= metrics.average_execution_time
        <= metrics.max_execution_time
    )
    assert metrics.p95_execution_time <= metrics.p99_execution_time <= metrics.max_execution_time


def test_a_result_is_recorded_before_whoever_waits_for_it_is_woken(new_manager):
    manager = new_manager()
    for done in range(1, 200):
        manager.queue_task(lambda resource: 0)
        assert manager.metrics().total_tasks_completed == done


@pytest.mark.parametrize("fails", [False, True])
def test_a_callback_finds_its_task_counted(new_manager, fails):
    manager = new_manager()
    gate, seen = threading.Event(), []

    def task(resource):
        gate.wait(PATIENCE)
        if fails:
            raise ValueError

    def callback(result, error):
        metrics = manager.metrics()
        seen.append((metrics.total_tasks_completed, metrics.total_tasks_failed))

    manager.queue_task_with_callback(task, callback)
    gate.set()
    assert manager.join(PATIENCE)
    assert seen == [(0, 1) if fails else (1, 0)]


@pytest.mark.slow
def test_a_backlog_grows_the_pool_and_quiet_shrinks_it_to_its_base(new_manager, factory):
    manager = new_manager(worker_count=2, max_worker_count=6, burst_interval=0.02)
    gate = threading.Event()
    futures = [manager.submit(lambda resource: gate.wait(PATIENCE)) for _ in range(60)]
    eventually(lambda: manager.stats().active_workers == 6)
    assert manager.stats().burst_workers == 4
    gate.set()
    for future in futures:
        assert future.result(PATIENCE)
    eventually(lambda: manager.stats().active_workers == 2)
    assert factory.live == 2


@pytest.mark.slow
def test_an_interval_of_zero_turns_scaling_off(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=8, burst_interval=0)
    gate = threading.Event()
    futures = [manager.submit(lambda resource: gate.wait(PATIENCE)) for _ in range(30)]
    ticks = manager._engine.counters._samples
    seen = len(ticks)
    eventually(lambda: len(ticks) > seen + 3)
    assert manager.stats().active_workers == 1
    gate.set()
    assert all(future.result(PATIENCE) for future in futures)


def test_the_threshold_rule_hires_its_number_at_once(new_manager):
    manager = new_manager(
        worker_count=1, burst_task_threshold=3, burst_worker_count=2, burst_interval=0.02
    )
    gate = threading.Event()
    futures = [manager.submit(lambda resource: gate.wait(PATIENCE)) for _ in range(20)]
    eventually(lambda: manager.stats().active_workers == 3)
    gate.set()
    assert all(future.result(PATIENCE) for future in futures)


def test_a_full_queue_refuses_at_once_or_waits_for_room(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=1, queue_size=2)
    started, gate = threading.Event(), threading.Event()
    first = manager.submit(lambda resource: started.set() or gate.wait(PATIENCE))
    assert started.wait(PATIENCE)
    waiting = [
        manager.submit(lambda resource: "main"),
        manager.submit(lambda resource: "priority", priority=True),
    ]
    with pytest.raises(QueueFullError, match="2 of 2 waiting, 1 of 1 workers busy"):
        manager.submit(lambda resource: 0, queue_timeout=0)
    with pytest.raises(QueueFullError):
        manager.submit(lambda resource: 0, queue_timeout=0.01)
    assert manager.metrics().total_tasks_arrived == 3
    accepted = []
    thread = threading.Thread(
        target=lambda: accepted.append(manager.queue_task(lambda resource: "waited"))
    )
    thread.start()
    eventually(lambda: manager._engine.queue.room._line)
    gate.set()
    thread.join(PATIENCE)
    assert accepted == ["waited"]
    assert [first.result(PATIENCE), *(f.result(PATIENCE) for f in waiting)] == [
        True,
        "main",
        "priority",
    ]


def test_a_cancelled_task_gives_its_seat_back_at_once(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=1, queue_size=1)
    started, gate = threading.Event(), threading.Event()
    manager.submit(lambda resource: started.set() or gate.wait(PATIENCE))
    assert started.wait(PATIENCE)
    for _ in range(100):
        assert manager.submit(lambda resource: 0, queue_timeout=0).cancel()
    last = manager.submit(lambda resource: "last", queue_timeout=0)
    gate.set()
    assert last.result(PATIENCE) == "last"


def test_a_task_that_meets_a_full_queue_of_its_own_manager_is_refused_at_once(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=1, queue_size=1)

    def task(resource):
        manager.submit(lambda resource: 0)
        with pytest.raises(QueueFullError):
            manager.submit(lambda resource: 0)
        return "refused"

    assert manager.submit(task).result(PATIENCE) == "refused"


def test_a_task_may_submit_to_its_own_manager_without_waiting(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=1)
    inner = manager.queue_task(lambda resource: manager.submit(lambda resource: "inner"))
    assert inner.result(PATIENCE) == "inner"


def test_nested_blocking_waits_work_up_to_one_less_than_the_workers(new_manager):
    manager = new_manager(worker_count=4, max_worker_count=4)

    def nest(resource, depth):
        return 0 if depth == 0 else 1 + manager.queue_task(nest, depth - 1)

    assert manager.queue_task(nest, 3) == 3


def test_user_objects_are_told_of_every_event(new_manager):
    class Collector:
        def __init__(self):
            self.events = []
            self.answer = None

        def record_arrival(self):
            self.events.append("arrival")

        def record_completion(self, stamps):
            assert stamps.queued_at <= stamps.started_at <= stamps.finished_at
            self.events.append("completion")

        def record_failure(self, stamps):
            assert stamps.queued_at <= stamps.started_at <= stamps.finished_at
            self.events.append("failure")

        def record_retry(self):
            self.events.append("retry")

        def metrics(self):
            return self.answer

    collector = Collector()
    manager = new_manager(collector=collector)
    manager.queue_task(lambda resource: 0)
    with contextlib.suppress(KeyError):
        manager.queue_task(lambda resource: {}[0])
    manager.run_task(lambda resource: 0)
    assert sorted(collector.events) == ["arrival"] * 3 + ["completion"] * 2 + ["failure"]
    assert manager.metrics().total_tasks_completed == 2
    collector.answer = TaskMetrics(total_tasks_completed=99)
    assert manager.metrics() is collector.answer


def test_one_resource_is_shared_with_nobody_whatever_the_load(new_manager, factory):
    manager = new_manager(worker_count=3, max_worker_count=8, burst_interval=0.01)
    task = factory.use(lambda resource, x: x * 2)
    futures = [manager.submit(task, i, priority=i % 3 == 0) for i in range(3000)]
    assert [future.result(PATIENCE) for future in futures] == [i * 2 for i in range(3000)]


def test_repr_names_the_manager_and_its_state(new_manager):
    manager = new_manager(name="printer")
    assert "printer" in repr(manager)
    assert "open" in repr(manager)
    manager.stop()
    assert "closed" in repr(manager)


def test_a_manager_is_closed_when_all_of_it_has_ended(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=1)
    started, gate = threading.Event(), threading.Event()
    task = manager.submit(lambda resource: (started.set(), gate.wait(PATIENCE), manager.stop()))
    assert started.wait(PATIENCE)
    assert not manager.closed
    stopper = threading.Thread(target=manager.stop)
    stopper.start()
    eventually(lambda: "stopping" in repr(manager))
    assert not manager.closed
    gate.set()
    assert not task.result(PATIENCE)[2].drained  # from inside, stop() does not wait
    stopper.join(PATIENCE)
    assert manager.closed
    assert manager.stop().drained
    assert manager.closed


def test_a_manager_is_closed_after_a_kill_that_leaves_a_thread_behind(new_manager, factory):
    manager = new_manager(worker_count=1, max_worker_count=1)
    started, gate = threading.Event(), threading.Event()
    manager.submit(lambda resource: (started.set(), gate.wait(PATIENCE)))
    assert started.wait(PATIENCE)
    report = manager.kill(0.0)
    assert manager.closed
    assert len(report.abandoned) == 1
    gate.set()
    eventually(lambda: factory.live == 0, "the end of the thread")


def test_closed_cannot_be_set(new_manager):
    with pytest.raises(AttributeError):
        new_manager().closed = True


def test_thread_names_carry_the_manager_s_name(new_manager):
    manager = new_manager(name="printer")
    assert manager.queue_task(lambda resource: threading.current_thread().name).startswith(
        "printer-worker-"
    )


def test_config_is_kept_as_given():
    config = Config(on_create=list, on_destroy=lambda r: None, worker_count=1)
    with TaskManager(config) as manager:
        assert manager.queue_task(lambda resource: resource) == []
    assert config.max_worker_count is None
    assert config.resource_pool_size is None


def test_the_log_names_the_callback_that_raised(new_manager, log):
    def note_delivery(result, error):
        raise LookupError

    manager = new_manager()
    manager.queue_task_with_callback(lambda resource: 1, note_delivery)
    manager.stop()
    (line,) = log.loud()
    assert "note_delivery" in line.splitlines()[0]

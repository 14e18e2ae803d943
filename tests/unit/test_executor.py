"""Executors on workers of tasker's: calls and `map`, on a manager's view and on the pool; and how a view closes."""

from __future__ import annotations

import concurrent.futures
import functools
import gc
import itertools
import operator
import os
import signal
import threading
import time
import traceback
import weakref
from concurrent.futures import Executor

import pytest

from tasker import (
    Config,
    PoolDeadlockError,
    QueueFullError,
    TaskFuture,
    TaskManager,
    TaskManagerShutdownError,
)
from tasker._sync.parking import gil_enabled
from tasker._tasks.wrapping import users_function, users_traceback
from tasker.executor import _call
from tasker.threadpool import ThreadPoolExecutor
from tests.support.errors import Sick
from tests.support.waiting import PATIENCE, eventually


def collected(reference):
    gc.collect()
    return reference() is None


class Instance:
    def __call__(self, x):
        return ("called", x)

    def method(self, x):
        return ("method", x)


# -- submit ------------------------------------------------------------------------------------------------------------


def test_submit_calls_the_function_with_its_arguments_alone(executor):
    def call(*args, **kwargs):
        return args, kwargs

    future = executor.submit(call, 1, self=2, fn=3)
    assert isinstance(future, TaskFuture)
    assert future.result(PATIENCE) == ((1,), {"self": 2, "fn": 3})
    assert executor.submit(call).result(PATIENCE) == ((), {})


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (functools.partial(operator.add, 1), 8),
        (functools.partial(Instance().method), ("method", 7)),
        (Instance(), ("called", 7)),
        (Instance().method, ("method", 7)),
        (str, "7"),
        (abs, 7),
        (lambda x, y=1: (x, y), (7, 1)),
    ],
)
def test_anything_that_can_be_called_is_submitted_and_mapped(executor, fn, expected):
    assert executor.submit(fn, 7).result(PATIENCE) == expected
    assert list(executor.map(fn, [7])) == [expected]


async def coroutine_function():
    pass


async def asynchronous_generator():
    yield


class AsynchronousInstance:
    async def __call__(self):
        pass

    async def method(self):
        pass


@pytest.mark.parametrize(
    "fn",
    [
        coroutine_function,
        functools.partial(coroutine_function),
        AsynchronousInstance(),
        AsynchronousInstance().method,
        functools.partial(AsynchronousInstance().method),
    ],
)
def test_coroutine_functions_are_refused_with_a_hint(executor, fn):
    for refused in (lambda: executor.submit(fn), lambda: executor.map(fn, [])):
        with pytest.raises(TypeError, match=r"must not be the coroutine function .*asyncio\.run"):
            refused()


def generator():
    yield


class GeneratorInstance:
    def __call__(self):
        yield

    def method(self):
        yield


@pytest.mark.parametrize(
    "fn",
    [
        generator,
        asynchronous_generator,
        functools.partial(generator),
        GeneratorInstance(),
        GeneratorInstance().method,
        functools.partial(GeneratorInstance().method),
    ],
)
def test_generator_functions_are_refused_with_a_hint(executor, fn):
    for refused in (
        lambda: executor.submit(fn),
        lambda: executor.map(fn, []),
        lambda: executor.map(fn, [], chunksize=2),
    ):
        with pytest.raises(
            TypeError, match=r"must not be the (asynchronous )?generator function .* return a list"
        ):
            refused()


def test_a_generator_function_whose_decorator_returns_a_list_is_accepted(executor):
    @functools.wraps(generator)
    def listed():
        return list(generator())

    assert executor.submit(listed).result(PATIENCE) == [None]
    assert executor.submit(GeneratorInstance).result(PATIENCE).method is not None


@pytest.mark.parametrize("value", [None, 7, "fn", Ellipsis])
def test_what_is_not_callable_is_refused_at_the_call(executor, value):
    with pytest.raises(TypeError, match="fn must be callable, not "):
        executor.submit(value)
    with pytest.raises(TypeError, match="fn must be callable, not "):
        executor.map(value, [])


def test_what_the_call_raises_reaches_the_caller_as_it_is(executor):
    error = LookupError("mine")

    def call():
        raise error

    with pytest.raises(LookupError) as caught:
        executor.submit(call).result(PATIENCE)
    assert caught.value is error
    assert traceback.extract_tb(error.__traceback__)[-1].name == "call"


def test_a_wrapper_of_ours_shows_the_function_that_it_calls(executor):
    assert users_function(_call, (divmod, (1, 0), None)) is divmod
    assert users_function(divmod, (1, 0)) is divmod
    assert users_function(_call, None) is _call  # emptied meanwhile
    assert users_function(None, None) is None

    def call(n):
        raise LookupError

    error = executor.submit(call, 1).exception(PATIENCE)
    assert error.__traceback__.tb_frame.f_code is call.__code__
    assert users_traceback(error.__traceback__) is error.__traceback__
    assert users_traceback(None) is None


def test_nothing_of_a_call_is_kept_when_it_is_over(executor):
    instance = Instance()
    gone = weakref.ref(instance)
    executor.submit(instance.method, 1).result(PATIENCE)
    del instance
    eventually(lambda: collected(gone), "the end of the callable")


# -- map ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [1, 2, 3, 100])
@pytest.mark.parametrize("buffersize", [None, 1, 2, 100])
def test_map_yields_the_results_in_order(executor, chunksize, buffersize):
    results = executor.map(
        pow, range(20), itertools.repeat(2), chunksize=chunksize, buffersize=buffersize
    )
    assert list(results) == [n * n for n in range(20)]
    assert next(results, "ended") == "ended"


def test_map_over_nothing_ends_at_once(executor):
    assert list(executor.map(abs, [])) == list(executor.map(abs)) == []
    assert list(executor.map(abs, [], chunksize=9, buffersize=1)) == []


def test_map_ends_with_its_shortest_iterable(executor):
    assert list(executor.map(operator.add, itertools.count(), [10, 20])) == [10, 21]


def test_map_submits_everything_at_the_call(executor):
    done = []
    executor.map(done.append, range(10))
    executor.shutdown(wait=True)
    assert sorted(done) == list(range(10))


@pytest.mark.parametrize("chunksize", [1, 5])
def test_a_map_whose_iterator_was_never_asked_runs_all_the_same(executor, chunksize, block):
    gate, done = block(executor, 2), []
    executor.map(done.append, range(10), chunksize=chunksize)
    gc.collect()
    gate.set()
    executor.shutdown(wait=True)
    assert sorted(done) == list(range(10))


def test_with_a_buffersize_items_are_taken_as_results_are(executor):
    taken = []

    def items():
        for n in itertools.count():
            taken.append(n)
            yield n

    results = executor.map(str, items(), buffersize=3)
    assert taken == [0, 1, 2]
    assert next(results) == "0"
    assert taken == [0, 1, 2, 3]
    assert next(results) == "1"
    assert taken == [0, 1, 2, 3, 4]
    results.close()
    assert next(results, "ended") == "ended"


def test_a_buffered_map_takes_chunks(executor):
    items = iter(range(100))
    results = executor.map(str, items, chunksize=5, buffersize=2)
    assert next(items) == 10
    results.close()


def test_an_executor_that_is_kept_by_its_buffered_map_alone_goes_on():
    pool = ThreadPoolExecutor(2)
    results = pool.map(str, range(10), buffersize=2)
    del pool
    gc.collect()
    assert list(results) == [str(n) for n in range(10)]


@pytest.mark.parametrize("chunksize", [1, 2, 4])
@pytest.mark.parametrize("buffersize", [None, 4])
def test_map_raises_in_the_place_of_the_call_that_raised_and_ends(executor, chunksize, buffersize):
    results = executor.map(
        divmod, [1, 1, 1, 1], [2, 3, 0, 5], chunksize=chunksize, buffersize=buffersize
    )
    assert next(results) == (0, 1)
    assert next(results) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert next(results, "ended") == "ended"


def test_the_timeout_counts_from_the_call_of_map(executor, block):
    gate = block(executor, 2)
    started = time.monotonic()
    results = executor.map(abs, [1, 2], timeout=0.05)
    while time.monotonic() < started + 0.06:
        time.sleep(0.01)
    with pytest.raises(TimeoutError):
        next(results)
    gate.set()
    assert next(results, "ended") == "ended"


@pytest.mark.parametrize("timeout", [0, -1, 0.01])
@pytest.mark.parametrize("chunksize", [1, 2])
def test_a_timeout_cancels_what_has_not_started(executor, block, timeout, chunksize):
    gate, called = block(executor, 2), []
    with pytest.raises(TimeoutError):
        next(executor.map(called.append, range(4), timeout=timeout, chunksize=chunksize))
    gate.set()
    executor.shutdown(wait=True)
    assert called == []


def test_a_map_with_time_enough_yields_all(executor):
    assert list(executor.map(abs, range(3), timeout=PATIENCE)) == [0, 1, 2]
    assert list(executor.map(abs, range(3), timeout=float("inf"), chunksize=2)) == [0, 1, 2]


@pytest.mark.parametrize("chunksize", [1, 3])
@pytest.mark.parametrize("asked", [False, True])
def test_closing_the_iterator_cancels_the_rest(executor, block, chunksize, asked):
    called = []
    results = executor.map(called.append, [0], chunksize=chunksize) if asked else None
    gate = block(executor, 2)
    results = executor.map(called.append, range(1, 10), chunksize=chunksize)
    if asked:
        threading.Timer(0.01, gate.set).start()
        next(results)
        gate = block(executor, 2)
    before = len(called)
    results.close()
    gate.set()
    executor.shutdown(wait=True)
    assert len(called) == before if not asked else True
    assert next(results, "ended") == "ended"


def test_dropping_an_iterator_half_way_cancels_the_rest(executor, block):
    gate, called = threading.Event(), []

    def call(n):
        called.append(n)
        if n:
            gate.wait(PATIENCE)
        return n

    results = executor.map(call, range(20))
    assert next(results) == 0
    eventually(lambda: len(called) == 3, "both workers to be busy")
    del results
    gate.set()
    executor.shutdown(wait=True)
    assert sorted(called) == [0, 1, 2]


def test_a_chunk_that_runs_when_its_map_is_given_up_ends_with_the_call_that_it_is_in(executor):
    gate, begun, called = threading.Event(), threading.Event(), []

    def call(n):
        called.append(n)
        begun.set()
        gate.wait(PATIENCE)

    results = executor.map(call, range(10), chunksize=10)
    assert begun.wait(PATIENCE)
    results.close()
    gate.set()
    executor.shutdown(wait=True)
    assert called == [0]


@pytest.mark.parametrize("chunksize", [1, 2])
def test_an_iterable_that_raises_ends_the_map_and_cancels_the_rest(executor, block, chunksize):
    gate, called = block(executor, 2), []

    def items():
        yield from range(4)
        raise LookupError("of the iterable")

    with pytest.raises(LookupError, match="of the iterable"):
        executor.map(called.append, items(), chunksize=chunksize)
    gate.set()
    executor.shutdown(wait=True)
    assert called == []


def test_an_iterable_that_raises_later_ends_the_iteration(executor):
    def items():
        yield from range(3)
        raise LookupError("of the iterable")

    results = executor.map(str, items(), buffersize=2)
    assert next(results) == "0"
    with pytest.raises(LookupError, match="of the iterable"):
        next(results)
    assert next(results, "ended") == "ended"


@pytest.mark.parametrize("chunksize", [1, 2])
def test_no_result_is_kept_by_the_iterator(executor, chunksize):
    for result in executor.map(lambda n: Instance(), range(6), chunksize=chunksize):
        gone = weakref.ref(result)
        del result
        eventually(lambda gone=gone: collected(gone), "the end of the result")


@pytest.mark.skipif(
    not gil_enabled(), reason="without the GIL, collecting may be left to the collector"
)
@pytest.mark.parametrize("chunksize", [1, 2])
@pytest.mark.usefixtures("no_collection")
def test_a_failed_map_leaves_no_reference_cycle(executor, chunksize):
    class Mine(Exception):
        pass

    def call(n):
        raise Mine

    with pytest.raises(Mine) as caught:
        list(executor.map(call, range(3), chunksize=chunksize))
    gone = weakref.ref(caught.value)
    del caught
    executor.shutdown(wait=True)
    eventually(lambda: gone() is None, "the end of the exception")


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ({"buffersize": 2.0}, TypeError("buffersize must be an integer or None")),
        ({"buffersize": "1"}, TypeError("buffersize must be an integer or None")),
        ({"buffersize": 0}, ValueError("buffersize must be None or > 0")),
        ({"buffersize": -1}, ValueError("buffersize must be None or > 0")),
        ({"chunksize": 0}, ValueError("chunksize must be 1 or more, not 0")),
        ({"chunksize": 1.5}, TypeError("chunksize must be an integer, not 1.5")),
        ({"chunksize": True}, TypeError("chunksize must be an integer, not True")),
        ({"timeout": "1"}, TypeError(None)),
    ],
)
def test_wrong_arguments_of_map_are_refused_before_anything_is_taken(executor, option, error):
    items = iter([1])
    with pytest.raises(type(error)) as caught:
        executor.map(abs, items, **option)
    assert error.args[0] in (None, str(caught.value))
    assert next(items) == 1


def test_stop_iteration_from_a_call_does_not_pass_for_the_end(executor):
    def call(n):
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        list(executor.map(call, range(3)))


# -- the view ----------------------------------------------------------------------------------------------------------


def test_a_call_has_the_resource_of_its_worker_at_hand(new_manager, factory):
    manager = new_manager(worker_count=1, max_worker_count=1)
    assert (
        manager.executor().submit(manager.current_resource).result(PATIENCE) is factory.created[0]
    )


def test_a_view_is_a_standard_executor(new_manager):
    view = new_manager().executor()
    assert isinstance(view, Executor)
    done, _ = concurrent.futures.wait([view.submit(abs, -1)], PATIENCE)
    assert [future.result() for future in done] == [1]
    assert [
        future.result()
        for future in concurrent.futures.as_completed([view.submit(abs, -2)], PATIENCE)
    ] == [2]


def test_closing_a_view_leaves_the_manager_and_other_views_open(new_manager):
    manager = new_manager()
    other = manager.executor()
    with manager.executor() as view:
        future = view.submit(abs, -1)
    assert future.result(0) == 1
    assert manager.queue_task(lambda resource: "open") == "open"
    assert other.submit(abs, -2).result(PATIENCE) == 2


def test_a_closed_view_refuses_in_the_standard_words(new_manager):
    view = new_manager().executor()
    view.shutdown()
    view.shutdown()
    for submit in (lambda: view.submit(abs, 1), lambda: view.map(abs, [1])):
        with pytest.raises(
            RuntimeError, match=r"^cannot schedule new futures after shutdown$"
        ) as caught:
            submit()
        assert type(caught.value) is RuntimeError


def test_a_view_of_a_closed_manager_says_that_it_is_the_manager_that_is_closed(new_manager):
    manager = new_manager()
    view = manager.executor()
    manager.stop()
    with pytest.raises(TaskManagerShutdownError):
        view.submit(abs, 1)
    view.shutdown()


def test_closing_waits_for_the_views_own_calls_alone(new_manager, block):
    manager = new_manager(worker_count=2, max_worker_count=2)
    view, gate, own = manager.executor(), block(manager.executor(), 1), threading.Event()
    future = view.submit(own.wait, PATIENCE)
    threading.Timer(0.01, own.set).start()
    view.shutdown()
    assert future.result(0)
    assert manager.stats().running_tasks == 1
    gate.set()


def test_cancel_futures_cancels_the_views_own_waiting_calls_alone(new_manager, block):
    manager = new_manager(worker_count=1, max_worker_count=1)
    view, gate, called = manager.executor(), block(manager.executor(), 1), []
    own = [view.submit(called.append, n) for n in range(3)]
    own[1].add_done_callback(lambda done: called.append("called back"))
    others = manager.submit(lambda resource: "the manager's")
    view.shutdown(cancel_futures=True)
    assert [future.cancelled() for future in own] == [True] * 3
    gate.set()
    assert others.result(PATIENCE) == "the manager's"
    assert called == ["called back"]


def test_closing_without_waiting_lets_the_calls_end(new_manager, block):
    manager = new_manager(worker_count=1, max_worker_count=1)
    view = manager.executor()
    gate = block(view, 1)
    future = view.submit(abs, -1)
    view.shutdown(wait=False)
    assert not future.done()
    gate.set()
    assert future.result(PATIENCE) == 1


def test_closing_a_view_in_one_of_its_own_calls_raises_instead_of_hanging(new_manager, block):
    manager = new_manager(worker_count=1, max_worker_count=1)
    view = manager.executor()
    gate = block(manager.executor(), 1)
    future = view.submit(view.shutdown)
    gate.set()  # in a task it would not wait for a submission that is under way
    with pytest.raises(
        PoolDeadlockError,
        match=r"ManagerExecutor\.shutdown on .* waits for ManagerExecutor\.shutdown",
    ):
        future.result(PATIENCE)
    with pytest.raises(RuntimeError, match="after shutdown"):
        view.submit(abs, 1)


def test_closing_a_view_in_a_task_of_its_manager_waits_for_its_calls(new_manager):
    manager = new_manager(worker_count=2, max_worker_count=2)

    def task(resource):
        with manager.executor() as view:
            future = view.submit(abs, -1)
        return future.result(0)

    assert manager.queue_task(task) == 1


def test_a_call_of_one_manager_that_stops_another_waits_for_it(new_manager, block):
    view, other = new_manager().executor(), new_manager()
    gate = block(other.executor(), 1)
    threading.Timer(0.01, gate.set).start()
    assert view.submit(other.stop).result(PATIENCE).drained
    assert next(view.map(lambda stop: stop().drained, [other.stop], chunksize=2))


class Collector:
    """Says nothing, and has `arrived` called with every arrival."""

    def __init__(self, arrived):
        self.record_arrival = arrived

    def record_completion(self, stamps):
        pass

    record_failure = record_completion

    def record_retry(self):
        pass

    def metrics(self):
        return None


def test_a_submission_that_began_before_the_closing_is_waited_for(new_manager):
    inside, gate, seen, futures = threading.Event(), threading.Event(), [], []

    def arrived():
        inside.set()
        gate.wait(PATIENCE)

    view = new_manager(collector=Collector(arrived)).executor()
    submitter = threading.Thread(target=lambda: futures.append(view.submit(abs, -1)))
    submitter.start()
    assert inside.wait(PATIENCE)
    closer = threading.Thread(
        target=lambda: (view.shutdown(), seen.append([f.result(0) for f in futures]))
    )
    closer.start()
    eventually(lambda: view._closed and view._closers, "the closer to wait")
    gate.set()
    submitter.join(PATIENCE)
    closer.join(PATIENCE)
    assert seen in (
        [[1]],
        [[]],
    )  # the submission may have been over before its thread had noted the future
    assert futures[0].result(0) == 1


def test_a_submission_that_is_under_way_when_all_is_cancelled_is_cancelled_too(new_manager, block):
    manager_arrivals, inside, gate = [], threading.Event(), threading.Event()

    def arrived():
        manager_arrivals.append(1)
        if len(manager_arrivals) == 2:
            inside.set()
            gate.wait(PATIENCE)

    manager = new_manager(worker_count=1, max_worker_count=1, collector=Collector(arrived))
    view, futures = manager.executor(), []
    busy = block(manager.executor(), 1)
    submitter = threading.Thread(target=lambda: futures.append(view.submit(abs, -1)))
    submitter.start()
    assert inside.wait(PATIENCE)
    view.shutdown(wait=False, cancel_futures=True)
    gate.set()
    submitter.join(PATIENCE)
    assert futures[0].cancelled()
    busy.set()


def test_a_shutdown_that_interrupts_a_submission_of_its_own_thread_does_not_wait_for_it(
    new_manager,
):
    views = []
    manager = new_manager(
        collector=Collector(lambda: views[0].shutdown())
    )  # as a signal handler would
    views.append(manager.executor())
    assert views[0].submit(abs, -1).result(PATIENCE) == 1
    views[0].shutdown()


@pytest.mark.parametrize("round_number", range(5))
def test_many_that_submit_while_it_closes_are_either_refused_or_waited_for(
    new_manager, round_number
):
    view, begin, accepted = new_manager(worker_count=2).executor(), threading.Barrier(5), []

    def submit():
        begin.wait(PATIENCE)
        try:
            while True:
                accepted.append(view.submit(abs, -1))
        except RuntimeError:
            pass

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    begin.wait(PATIENCE)
    eventually(lambda: len(accepted) > 10 * round_number)
    view.shutdown()
    unfinished = [future for future in tuple(accepted) if not future.done()]
    for thread in threads:
        thread.join(PATIENCE)
    assert unfinished == []
    assert all(future.result(0) == 1 for future in accepted)
    assert not view._futures
    assert not view._entering


def test_a_full_queue_makes_a_submitter_wait_and_refuses_the_managers_own_calls(new_manager, block):
    manager = new_manager(worker_count=1, max_worker_count=1, queue_size=1)
    view = manager.executor()

    def fill():
        view.submit(abs, -1)
        view.submit(abs, -2)

    with pytest.raises(QueueFullError):
        view.submit(fill).result(PATIENCE)
    gate = block(view, 1)
    futures = [view.submit(abs, -1)]
    threading.Timer(0.01, gate.set).start()
    futures.append(view.submit(abs, -2))
    view.shutdown()
    assert [future.result(0) for future in futures] == [1, 2]


def test_finished_futures_are_not_kept(new_manager):
    view = new_manager().executor()
    future = view.submit(Instance)
    future.result(PATIENCE)
    gone = weakref.ref(future)
    del future
    eventually(lambda: gone() is None, "the end of the future")


def test_closing_does_not_pass_for_interest_in_a_failure(new_manager, log):
    with new_manager().executor() as view:
        view.submit(divmod, 1, 0)
    eventually(
        lambda: gc.collect() is not None and "ZeroDivisionError" in str(log.loud()),
        "the failure in the log",
    )


def test_what_a_given_up_map_had_found_is_not_logged(new_manager, log, block):
    view = new_manager(worker_count=2, max_worker_count=2).executor()
    with pytest.raises(ZeroDivisionError):
        list(view.map(divmod, itertools.repeat(1, 50), itertools.repeat(0)))
    view.shutdown()
    gc.collect()
    assert log.loud() == []


def test_a_chunk_goes_on_with_the_call_that_broke_its_resource(new_manager, factory):
    called = []

    def call(n):
        called.append(n)
        if called.count(2) == 1 and n == 2:
            raise Sick
        return n

    manager = new_manager(worker_count=1, max_worker_count=1)
    assert list(manager.executor().map(call, range(5), chunksize=5)) == list(range(5))
    assert called == [0, 1, 2, 2, 3, 4]
    assert len(factory.created) == 2


def test_a_manager_of_which_only_a_view_is_left_goes_on_until_that_is_gone(factory):
    config = Config(on_create=factory.create, on_destroy=factory.destroy, worker_count=1)
    view = TaskManager(config).executor()
    gc.collect()
    assert view.submit(abs, -1).result(PATIENCE) == 1
    del view
    eventually(lambda: factory.live == 0, "the end of the manager")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_in_a_forked_child_a_view_closes_without_waiting_for_threads_that_do_not_exist(new_manager):
    inside, gate, arrivals = threading.Event(), threading.Event(), []

    def arrived():
        arrivals.append(1)
        if len(arrivals) == 3:
            inside.set()
            gate.wait(PATIENCE)

    view = new_manager(worker_count=1, max_worker_count=1, collector=Collector(arrived)).executor()
    view.submit(gate.wait, PATIENCE)
    waiting = view.submit(abs, -1)
    submitter = threading.Thread(target=view.submit, args=(abs, -2))
    submitter.start()
    assert inside.wait(PATIENCE)
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(30)  # ends a child that hangs
            view.shutdown()
            waiting.cancel()
        finally:
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    gate.set()
    submitter.join(PATIENCE)
    assert waiting.result(PATIENCE) == 1

"""What the standard `ThreadPoolExecutor` keeps to itself, on executors of ours, and a `submit` that others replaced."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import queue
import subprocess
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import thread as standard_module
from concurrent.futures.thread import BrokenThreadPool
from types import FunctionType
from unittest import mock

import pytest

import tasker.executor
from tasker import TaskFuture
from tasker._tasks import standard
from tasker.threadpool import ThreadPoolExecutor
from tests.support.waiting import PATIENCE, eventually

Standard = concurrent.futures.ThreadPoolExecutor
original = Standard.submit
span = contextvars.ContextVar("span", default="none")


# -- a `submit` that others replaced -----------------------------------------------------------------------------------


class Instrumentation:
    """Has the submitter's context variables go along, as tracers do, and keeps what it saw."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, object]] = []
        self.futures: list[object] = []
        self.refused: list[BaseException] = []

    def submit(self, call_original, pool, fn, args, kwargs):
        self.calls.append((pool, fn))
        context = contextvars.copy_context()

        def within(*args, **kwargs):
            return context.run(fn, *args, **kwargs)

        try:
            future = call_original(pool, within, *args, **kwargs)
        except BaseException as error:
            self.refused.append(error)
            raise
        self.futures.append(future)
        return future


def assigned(instrumentation: Instrumentation) -> Callable[[], None]:
    """As Sentry does it: another function stands there."""
    before = Standard.submit

    @functools.wraps(before)
    def submit(self, fn, *args, **kwargs):
        return instrumentation.submit(before, self, fn, args, kwargs)

    Standard.submit = submit
    return lambda: setattr(Standard, "submit", before)


class Wrapper:
    """As wrapt does it, and with it OpenTelemetry: an object stands there that looks like the function."""

    def __init__(self, instrumentation: Instrumentation, wrapped) -> None:
        self.instrumentation = instrumentation
        self.wrapped = wrapped

    def __get__(self, pool, kind=None):
        def submit(fn, /, *args, **kwargs):
            return self.instrumentation.submit(self.wrapped, pool, fn, args, kwargs)

        return functools.wraps(self.wrapped)(submit)

    def __getattr__(self, name):
        return getattr(self.wrapped, name)


def wrapped(instrumentation: Instrumentation) -> Callable[[], None]:
    before = Standard.submit
    Standard.submit = Wrapper(instrumentation, before)
    return lambda: setattr(Standard, "submit", before)


def in_place(instrumentation: Instrumentation) -> Callable[[], None]:
    """As ddtrace does it: the same function, but its code calls the wrapper with a copy of it."""
    code = original.__code__
    inner = FunctionType(
        code, original.__globals__, "<wrapped>", original.__defaults__, original.__closure__
    )
    original.__globals__["_test_wrapper"] = lambda pool, fn, args, kwargs: instrumentation.submit(
        inner, pool, fn, args, kwargs
    )

    def submit(self, fn, /, *args, **kwargs):
        return _test_wrapper(self, fn, args, kwargs)  # noqa: F821

    original.__code__ = submit.__code__.replace(
        co_filename=code.co_filename, co_name=code.co_name, co_qualname=code.co_qualname
    )

    def undo():
        original.__code__ = code
        del original.__globals__["_test_wrapper"]

    return undo


@pytest.fixture(params=[assigned, wrapped, in_place], ids=lambda how: how.__name__)
def instrumentation(request) -> Iterator[Instrumentation]:
    instrumentation = Instrumentation()
    undo = request.param(instrumentation)
    yield instrumentation
    undo()
    tasker.executor.look()
    assert tasker.executor._plain is original


def test_calls_go_by_what_stands_in_the_place_of_the_standard_submit(instrumentation, executor):
    span.set("parent")
    assert executor.submit(span.get).result(PATIENCE) == "parent"
    assert executor.submit(lambda *args, **kwargs: (args, kwargs), 1, b=2).result(PATIENCE) == (
        (1,),
        {"b": 2},
    )
    assert [pool for pool, fn in instrumentation.calls] == [executor, executor]


def test_map_goes_by_it_too(instrumentation, executor):
    span.set("parent")
    assert list(executor.map(lambda n: (n, span.get()), range(7), chunksize=3)) == [
        (n, "parent") for n in range(7)
    ]
    assert len(instrumentation.calls) == 7


def test_so_do_calls_of_an_event_loop(instrumentation, executor):
    async def main():
        span.set("parent")
        return await asyncio.get_running_loop().run_in_executor(executor, span.get)

    assert asyncio.run(main()) == "parent"


def test_it_is_given_the_very_task_that_the_submitter_gets(instrumentation, executor):
    async def awaited():
        return await executor.submit(pow, 2, 5)

    assert asyncio.run(awaited()) == 32
    future = executor.submit(divmod, 1, 0)
    assert type(future) is TaskFuture
    assert future is instrumentation.futures[-1]
    called = threading.Event()
    future.add_done_callback(lambda done: called.set())
    assert called.wait(PATIENCE)
    assert type(future.exception(0)) is ZeroDivisionError
    assert concurrent.futures.wait([executor.submit(int)], PATIENCE).not_done == set()


def test_it_is_told_of_a_refusal(instrumentation, executor):
    executor.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown") as refused:
        executor.submit(int)
    assert instrumentation.refused == [refused.value]


def test_a_broken_pool_refuses_by_it(instrumentation, caplog):
    with ThreadPoolExecutor(1, initializer=divmod, initargs=(1, 0)) as pool:
        with pytest.raises(BrokenThreadPool):
            pool.submit(int).result(PATIENCE)
        eventually(lambda: pool._broken, "the pool to be broken")
        with pytest.raises(BrokenThreadPool):
            pool.submit(int)
    assert [type(error) for error in instrumentation.refused] == [BrokenThreadPool]


def test_the_waiting_can_be_cancelled(instrumentation, executor, block):
    gate = block(executor, 2)
    futures = [executor.submit(int) for _ in range(4)]
    assert futures[0].cancel()
    executor.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in futures)
    gate.set()
    executor.shutdown()


def test_what_is_no_function_is_refused_before_it(instrumentation, executor):
    with pytest.raises(TypeError, match="fn must be callable"):
        executor.submit(5)
    assert instrumentation.calls == []


def test_a_submission_that_waits_for_room_holds_up_no_other_pool(
    instrumentation, new_manager, block
):
    manager = new_manager(worker_count=1, max_worker_count=1, queue_size=1)
    view = manager.executor()
    gate = block(view, 1)
    view.submit(int)
    submitter = threading.Thread(target=view.submit, args=(int,))
    submitter.start()
    eventually(manager._engine.queue.room.is_wanted, "the submitter to wait for room")
    assert not standard_module._global_shutdown_lock.locked()
    with Standard(1) as pool:
        assert pool.submit(int).result(PATIENCE) == 0
    gate.set()
    submitter.join(PATIENCE)
    assert not submitter.is_alive()


def item_for(fn, *args):
    return standard.WorkItem(concurrent.futures.Future(), (fn, args, {}))


def test_what_was_put_before_an_interrupt_is_not_submitted(executor):
    item = item_for(abs, -1)

    def submit():
        with executor._shutdown_lock:
            executor._work_queue.put(item)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        submit()
    assert type(item.future) is concurrent.futures.Future
    assert standard.entrance_here(executor) is None


def test_after_an_interrupt_on_the_way_into_it_the_thread_is_not_in_it(executor):
    entrance = executor._shutdown_lock
    entrance.__enter__()
    del entrance  # the block that would leave it has not begun
    item = item_for(abs, -1)
    executor._work_queue.put(item)
    assert item.future.result(PATIENCE) == 1


def test_one_that_returns_something_else_may_do_so(executor):
    """A test's mock, say, that calls at once."""
    with mock.patch.object(Standard, "submit") as submit:
        submit.return_value = "theirs"
        assert executor.submit(int, "5") == "theirs"
    submit.assert_called_once_with(int, "5")
    assert executor.submit(int, "5").result(PATIENCE) == 5


def test_when_it_is_gone_calls_go_their_own_way_again(executor):
    for how in (assigned, wrapped):
        instrumentation = Instrumentation()
        undo = how(instrumentation)
        executor.submit(int).result(PATIENCE)
        undo()
        executor.submit(int).result(PATIENCE)
        assert len(instrumentation.calls) == 1
        assert tasker.executor._plain is original


EARLY = """
import concurrent.futures
Standard, calls = concurrent.futures.ThreadPoolExecutor, []
original = Standard.submit

def submit(self, fn, *args):
    calls.append(fn)
    return original(self, fn, *args)

Standard.submit = submit
import tasker
with tasker.ThreadPoolExecutor(1) as pool:
    assert pool.submit(pow, 2, 3).result() == 8
    Standard.submit = original
    assert pool.submit(pow, 2, 3).result() == 8
assert tasker.executor._plain is original
assert calls == [pow], calls
"""


@pytest.mark.slow
def test_one_that_was_there_before_tasker_is_heeded_and_can_go():
    program = subprocess.run(
        [sys.executable, "-c", EARLY], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert program.returncode == 0, program.stderr


def test_calls_that_leave_the_process_go_without(new_manager):
    """What tracers make of a function refers to things of this process."""
    lock = threading.Lock()
    before = Standard.submit
    with mock.patch.object(
        Standard,
        "submit",
        lambda self, fn, *args: before(self, lambda *args: lock and fn(*args), *args),
    ):
        view = new_manager(worker_count=1, max_worker_count=1).executor()
        assert view.submit(pow, 2, 3).result(PATIENCE) == 8
        with mock.patch.object(view._task_engine, "packs", True):  # as one of child processes
            assert view._submits_itself()
            with mock.patch.object(view, "_accept_task") as accept:
                view.submit(pow, 2, 3)
    accept.assert_called_once()


# -- a `submit` of a subclass or of one executor -----------------------------------------------------------------------


def test_map_calls_a_submit_that_a_subclass_has(block):
    class Pool(ThreadPoolExecutor):
        def submit(self, fn, /, *args, **kwargs):
            return super().submit(contextvars.copy_context().run, fn, *args, **kwargs)

    span.set("parent")
    with Pool(2) as pool:
        assert list(pool.map(lambda n: (n, span.get()), range(5), chunksize=2)) == [
            (n, "parent") for n in range(5)
        ]
        results = pool.map(abs, iter(range(100)), buffersize=3)
        assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
        results.close()
        gate = block(pool, 2)
        with pytest.raises(TimeoutError):
            list(pool.map(abs, range(3), timeout=0.01))
        gate.set()


def test_a_subclass_may_give_its_attributes_the_names_that_one_of_the_standard_class_may(block):
    class Pool(ThreadPoolExecutor):
        def __init__(self, workers):
            super().__init__(workers)
            self._engine = self._results = self._waiting = self._queue = self._tasks = (
                self._futures
            ) = "its own"

        def _accept(self):
            raise AssertionError

    with Pool(2) as pool:
        assert pool.submit(pow, 2, 3).result(PATIENCE) == 8
        assert list(pool.map(abs, range(-5, 0), chunksize=2)) == [5, 4, 3, 2, 1]
        gate = block(pool, 2)
        pool.submit(int)
        assert pool._work_queue.get_nowait().fn is int
        assert repr(pool).endswith("open: 2 of 2 threads, 0 waiting>")
        gate.set()
        assert pool._engine == "its own"


def test_map_calls_a_submit_that_was_assigned(executor):
    """As tqdm's thread_map does, which shows with each call how far it is."""
    calls = Counter()
    submit = executor.submit

    def counting(fn, *args):
        calls[fn] += 1
        return submit(fn, *args)

    executor.submit = counting
    assert list(executor.map(abs, range(-10, 0), chunksize=5)) == list(range(10, 0, -1))
    assert calls == {abs: 10}
    del executor.submit
    assert list(executor.map(abs, range(-10, 0))) == list(range(10, 0, -1))
    assert calls == {abs: 10}


def test_map_takes_futures_of_another_kind(executor):
    made = []

    def submit(fn, *args):
        made.append(concurrent.futures.Future())
        if args[0] < 2:
            made[-1].set_result(fn(*args))
        if args[0] == 2:
            made[-1].set_exception(ArithmeticError())
        return made[-1]

    executor.submit = submit
    results = executor.map(str, range(5))
    assert [next(results), next(results)] == ["0", "1"]
    with pytest.raises(ArithmeticError):
        next(results)
    assert [future.cancelled() for future in made] == [False, False, False, True, True]
    del executor.submit


def test_a_submit_that_is_a_copy_of_the_standard_one_works():
    """For a bounded queue, say, many have copied it into a subclass."""

    class Pool(ThreadPoolExecutor):
        def submit(self, fn, /, *args, **kwargs):
            with self._shutdown_lock:
                if self._shutdown:
                    raise RuntimeError("closed")
                future = concurrent.futures.Future()
                if hasattr(self, "_resolve_work_item_task") and hasattr(
                    Standard, "prepare_context"
                ):
                    item = standard_module._WorkItem(
                        future, self._resolve_work_item_task(fn, args, kwargs)
                    )
                else:
                    item = standard_module._WorkItem(future, fn, args, kwargs)
                self._work_queue.put(item)
                self._adjust_thread_count()
                return future

    with Pool(2) as pool:
        assert pool.submit(pow, 2, 3).result(PATIENCE) == 8
        assert list(pool.map(pow, range(5), range(5))) == [1, 1, 4, 27, 256]
        assert 1 <= len(pool._threads) <= 2
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(pow, 2, 3)


# -- _work_queue -------------------------------------------------------------------------------------------------------


def test_the_length_of_the_queue_is_that_of_the_calls_that_wait(executor, block):
    assert (executor._work_queue.qsize(), executor._work_queue.empty()) == (0, True)
    gate = block(executor, 2)
    futures = [executor.submit(int) for _ in range(5)]
    assert (executor._work_queue.qsize(), executor._work_queue.empty()) == (5, False)
    futures[3].cancel()
    assert executor._work_queue.qsize() == 4
    gate.set()
    concurrent.futures.wait(futures, PATIENCE)
    assert executor._work_queue.qsize() == 0


def test_what_is_taken_out_is_the_oldest_call_and_is_cancelled(executor, block):
    gate = block(executor, 2)
    futures = [executor.submit(pow, 2, exp=number) for number in range(5)]
    told = []
    futures[0].add_done_callback(told.append)
    futures[1].cancel()
    items = [executor._work_queue.get(block=False)]
    assert told == [futures[0]]
    items += [executor._work_queue.get_nowait(), executor._work_queue.get()]
    assert [item.future for item in items] == [futures[0], futures[2], futures[3]]
    assert all(item.future.cancelled() for item in items)
    assert [item.fn(*item.args, **item.kwargs) for item in items] == [1, 4, 8]
    assert items[0].task == (items[0].fn, items[0].args, items[0].kwargs)
    with pytest.raises(RuntimeError, match=r"item\.fn"):
        items[0].run()
    gate.set()
    assert futures[4].result(PATIENCE) == 16


def test_where_none_waits_nobody_waits_for_one(executor):
    for take in (executor._work_queue.get_nowait, lambda: executor._work_queue.get(False)):
        with pytest.raises(queue.Empty):
            take()
    for arguments in ({}, {"timeout": 1}):
        with pytest.raises(RuntimeError, match="block=False"):
            executor._work_queue.get(**arguments)


@pytest.mark.slow
def test_a_long_queue_is_drained_as_long_as_it_is(executor, block):
    """Each look lists all that waits: one for each call would take minutes here."""
    gate = block(executor, 2)
    futures = [executor.submit(int) for _ in range(20_000)]
    with mock.patch.object(
        type(executor), "_waiting_tasks", autospec=True, side_effect=type(executor)._waiting_tasks
    ) as looked:
        for future in futures:
            assert executor._work_queue.get_nowait().future is future
        with pytest.raises(queue.Empty):
            executor._work_queue.get_nowait()
    assert looked.call_count == 2
    gate.set()


def test_a_chunk_of_a_map_is_taken_out_as_one_call(executor, block):
    gate = block(executor, 2)
    results = executor.map(pow, (2, 3), (3, 2), chunksize=2)
    item = executor._work_queue.get_nowait()
    assert item.fn(*item.args, **item.kwargs) == [8, 9]
    with pytest.raises(concurrent.futures.CancelledError):
        next(results)
    gate.set()


def test_from_the_queue_of_a_view_its_own_calls_alone_are_taken(new_manager, block):
    manager = new_manager(worker_count=1, max_worker_count=1)
    view, other = manager.executor(), manager.executor()
    gate = block(view, 1)
    another = other.submit(int), manager.submit(lambda resource: 0)
    mine = view.submit(int)
    assert view._work_queue.qsize() == 1
    assert view._work_queue.get_nowait().future is mine
    assert view._work_queue.qsize() == 0
    gate.set()
    assert [future.result(PATIENCE) for future in another] == [0, 0]


def test_the_queue_keeps_neither_its_pool_nor_the_tasks_that_it_has_listed(no_collection):
    pool = ThreadPoolExecutor(1)
    gate = threading.Event()
    pool.submit(gate.wait, PATIENCE)
    futures = [pool.submit(threading.Event) for _ in range(3)]
    waiting = pool._work_queue
    assert waiting is pool._work_queue
    waiting.get_nowait()
    gate.set()
    references = [
        weakref.ref(pool),
        weakref.ref(futures[2].result(PATIENCE)),
        weakref.ref(futures[2]),
    ]
    del pool, futures
    eventually(
        lambda: not any(reference() for reference in references), "all of it to be collected"
    )
    assert waiting.qsize() == 0
    with pytest.raises(queue.Empty):
        waiting.get_nowait()
    with pytest.raises(RuntimeError, match="gone"):
        waiting.put(item_for(int))


def test_a_work_item_may_be_put_and_none_is_ignored(executor):
    future = concurrent.futures.Future()
    item = mock.Mock(
        spec=["future", "fn", "args", "kwargs"], future=future, fn=pow, args=(2,), kwargs={"exp": 3}
    )
    executor._work_queue.put(None)
    executor._work_queue.put_nowait(item)
    assert type(future) is TaskFuture
    assert future.result(PATIENCE) == 8


def with_callback():
    future = concurrent.futures.Future()
    future.add_done_callback(print)
    return future


def finished():
    future = concurrent.futures.Future()
    future.set_result(1)
    return future


@pytest.mark.parametrize(
    "future", [with_callback(), finished(), None, type("Mine", (concurrent.futures.Future,), {})()]
)
def test_a_work_item_whose_future_is_not_new_is_refused(executor, future):
    with pytest.raises(TypeError, match="must be a new"):
        executor._work_queue.put(standard.WorkItem(future, (int, (), {})))
    assert executor.submit(int).result(PATIENCE) == 0


# -- attributes that are read, and those that are set ------------------------------------------------------------------


def test_what_can_be_read_is_what_the_standard_class_has(executor, block):
    gate = block(executor, 2)
    assert executor._max_workers == 2
    assert len(executor._threads) == 2
    assert all(
        thread.is_alive() and thread.name.startswith(executor._thread_name_prefix)
        for thread in executor._threads
    )
    assert (executor._broken, executor._shutdown) == (False, False)
    gate.set()
    executor.shutdown()
    assert executor._shutdown is True


FIXED = sorted(standard._FIXED)


@pytest.mark.parametrize("name", FIXED)
def test_to_set_what_would_have_no_effect_is_refused(executor, name):
    with pytest.raises(AttributeError, match=f"{name} of a .*Executor of tasker's cannot be set"):
        setattr(executor, name, None)
    assert executor.submit(int).result(PATIENCE) == 0


@pytest.mark.parametrize(
    "name", ["_create_worker_context", "_idle_semaphore", "_initargs", "_initializer"]
)
def test_what_is_not_there_says_so(executor, name):
    with pytest.raises(AttributeError, match=f"{name} of a .*Executor of tasker's is not there"):
        getattr(executor, name)
    assert not hasattr(executor, name)


def test_all_that_the_standard_class_keeps_in_an_instance_is_there_or_says_that_it_is_not(executor):
    with Standard(1) as pool:
        names = set(vars(pool)) - {"_max_workers"}
    assert names <= set(FIXED)
    missing = {name for name in names if not hasattr(executor, name)}
    assert missing <= {"_create_worker_context", "_idle_semaphore", "_initargs", "_initializer"}


def test_the_threads_are_not_to_be_added_to(executor):
    with pytest.raises(AttributeError):
        executor._threads.add(threading.current_thread())


def test_other_attributes_may_be_set(executor):
    executor.mine = 5
    assert executor.mine == 5
    with pytest.raises(AttributeError, match="has no attribute '_theirs'"):
        executor._theirs  # noqa: B018


# -- _max_workers and _adjust_thread_count -----------------------------------------------------------------------------


def test_a_pool_becomes_bigger_at_once_for_the_calls_that_wait(block):
    with ThreadPoolExecutor(2) as pool:
        gate = block(pool, 2)
        meeting = threading.Barrier(4)
        waiting = [pool.submit(meeting.wait, PATIENCE) for _ in range(3)]
        pool._max_workers += 3
        assert pool._max_workers == 5
        meeting.wait(PATIENCE)
        concurrent.futures.wait(waiting, PATIENCE)
        assert len(pool._threads) == 5
        gate.set()


def test_a_pool_that_is_made_smaller_keeps_its_threads_and_hires_no_more(block):
    with ThreadPoolExecutor(3) as pool:
        gate = block(pool, 2)
        pool._max_workers = 1
        future = pool.submit(int)
        assert len(pool._threads) == 2
        gate.set()
        assert future.result(PATIENCE) == 0


@pytest.mark.parametrize(
    ("number", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError), ("4", TypeError)]
)
def test_a_wrong_number_of_workers_is_refused(number, error):
    with ThreadPoolExecutor(2) as pool:
        with pytest.raises(error):
            pool._max_workers = number
        assert pool._max_workers == 2


def test_a_closed_pool_does_not_become_bigger():
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    pool._max_workers = 4
    assert pool._threads == set()


def test_a_view_says_how_many_workers_its_manager_may_have_and_takes_no_other_number(new_manager):
    assert (
        new_manager(worker_count=2, max_worker_count=6).executor()._max_workers == 2
    )  # it does not scale: burst_interval=0
    view = new_manager(worker_count=2, max_worker_count=6, burst_interval=1.0).executor()
    assert view._max_workers == 6
    with pytest.raises(AttributeError, match="max_worker_count"):
        view._max_workers = 8


def test_an_adjustment_of_a_subclass_is_called_at_each_submission_and_can_refuse_it():
    class Pool(ThreadPoolExecutor):
        called = 0

        def _adjust_thread_count(self):
            self.called += 1
            if self.called == 3:
                raise OSError("no")

    with Pool(1) as pool:
        assert list(pool.map(abs, (-1, -2))) == [1, 2]
        with pytest.raises(OSError, match="no"):
            pool.submit(abs, -3)
        assert pool.submit(abs, -4).result(PATIENCE) == 4
        assert pool.called == 4


def test_the_recipe_for_daemon_threads_says_that_it_cannot_work():
    class Pool(ThreadPoolExecutor):
        def _adjust_thread_count(self):
            if self._idle_semaphore.acquire(timeout=0):
                return

    with (
        Pool(1) as pool,
        pytest.raises(AttributeError, match="_idle_semaphore of a Pool of tasker's is not there"),
    ):
        pool.submit(int)


def test_threads_can_be_started_before_there_is_work():
    with ThreadPoolExecutor(2) as pool:
        pool._adjust_thread_count()
        assert len(pool._threads) == 1
        eventually(lambda: pool._task_engine.queue.idle.announced, "the worker to be idle")
        pool._adjust_thread_count()
        assert len(pool._threads) == 1
    pool._adjust_thread_count()
    assert pool._threads == set()


def test_a_pool_with_an_adjustment_is_collected_when_it_is_forgotten(no_collection):
    class Pool(ThreadPoolExecutor):
        def _adjust_thread_count(self):
            super()._adjust_thread_count()

    pool = Pool(1)
    assert pool.submit(abs, -1).result(PATIENCE) == 1
    gone = weakref.ref(pool)
    del pool
    assert gone() is None


# -- where a ThreadPoolExecutor is asked for ---------------------------------------------------------------------------


def test_a_view_is_taken_as_the_default_executor_of_a_loop(new_manager):
    manager = new_manager(worker_count=2)

    async def main():
        asyncio.get_running_loop().set_default_executor(manager.executor())
        resource = await asyncio.to_thread(manager.current_resource)
        return resource, await asyncio.gather(*(asyncio.to_thread(abs, -n) for n in range(50)))

    resource, numbers = asyncio.run(main())
    assert resource is not None
    assert numbers == list(range(50))
    assert (
        manager.submit(lambda resource: 5).result(PATIENCE) == 5
    )  # the loop has closed the view alone

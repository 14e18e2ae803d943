"""The drop-in ThreadPoolExecutor: what the standard library's own tests do not ask (see test_standard_tests)."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import logging
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures.thread import BrokenThreadPool
from functools import partial

import pytest

import tasker._pool.worker
from tasker import Config, PoolDeadlockError, TaskManager
from tasker._tasks.future import new_task
from tasker.threadpool import OnDemandEngine, ThreadPoolExecutor
from tests.support.snippets import run_python
from tests.support.waiting import PATIENCE, eventually

Standard = concurrent.futures.ThreadPoolExecutor


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    gate = threading.Event()
    yield gate
    gate.set()


def occupy(pool, gate, workers=1):
    """Keep so many workers busy until the gate is open."""
    busy = threading.Barrier(workers + 1)

    def call():
        busy.wait(PATIENCE)
        gate.wait(PATIENCE)
        return "released"

    futures = [pool.submit(call) for _ in range(workers)]
    busy.wait(PATIENCE)
    return futures


# -- what it is --------------------------------------------------------------------------------------------------------


def test_it_passes_for_the_standard_one():
    with ThreadPoolExecutor(2) as pool:
        assert isinstance(pool, Standard)
        assert pool.submit(pow, 2, 8).result(PATIENCE) == 256


def test_its_default_is_as_many_workers_as_the_standard_ones():
    with ThreadPoolExecutor() as ours, Standard() as standard:
        assert ours._max_workers == standard._max_workers


@pytest.mark.parametrize(
    ("args", "options"),
    [
        ((0,), {}),
        ((-1,), {}),
        (("4",), {}),
        ((1,), {"initializer": 5}),
        ((1,), {"initializer": "print"}),
    ],
)
def test_wrong_arguments_are_refused_in_the_standard_words(args, options):
    with pytest.raises((TypeError, ValueError)) as standard:
        Standard(*args, **options)
    with pytest.raises((TypeError, ValueError)) as ours:
        ThreadPoolExecutor(*args, **options)
    assert (type(ours.value), str(ours.value)) == (type(standard.value), str(standard.value))


def test_half_a_worker_is_refused():
    with pytest.raises(TypeError, match="integer"):
        ThreadPoolExecutor(2.5)


def test_it_says_how_it_is(gate):
    pool = ThreadPoolExecutor(2, "crawler")
    assert repr(pool) == "<ThreadPoolExecutor 'crawler' open: 0 of 2 threads, 0 waiting>"
    occupy(pool, gate, 2)
    pool.submit(abs, -1)
    assert repr(pool) == "<ThreadPoolExecutor 'crawler' open: 2 of 2 threads, 1 waiting>"
    gate.set()
    pool.shutdown()
    assert repr(pool) == "<ThreadPoolExecutor 'crawler' closed: 0 of 2 threads, 0 waiting>"


def test_calls_do_not_see_their_submitters_context_variables():
    variable = contextvars.ContextVar("variable", default="the default")
    variable.set("the submitter's")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(variable.get).result(PATIENCE) == "the default"
        pool.submit(variable.set, "another call's").result(PATIENCE)
        assert variable.get() == "the submitter's"


# -- what the standard class lets subclasses override, from 3.14 on ----------------------------------------------------

with_contexts = pytest.mark.skipif(
    not hasattr(Standard, "prepare_context"), reason="new in Python 3.14"
)


class Noted:
    """A worker context: notes what is done to it, and where."""

    def __init__(self, journal, initializer, initargs):
        self.journal = journal
        self.begin = partial(initializer, *initargs)

    def note(self, *what):
        self.journal.append((*what, threading.get_ident()))

    def initialize(self):
        self.begin()
        self.note("initialize")

    def finalize(self):
        self.note("finalize")

    def run(self, packed):
        self.note("run", packed)
        (fn, args, kwargs), kind = packed
        assert kind == "packed"
        return fn(*args, **kwargs)


class NotedPool(ThreadPoolExecutor):
    @classmethod
    def prepare_context(cls, initializer, initargs, *, journal):
        def pack(fn, args, kwargs):
            if fn is print:
                raise LookupError("not here")
            return (fn, args, kwargs), "packed"

        return lambda: Noted(journal, initializer, initargs), pack


def noted_pool(journal, begin=int):
    return NotedPool(1, initializer=begin, journal=journal)


def fail(error):
    raise error


@with_contexts
def test_a_context_of_a_subclass_runs_the_calls_of_its_thread():
    journal = []
    with noted_pool(journal) as pool:
        thread = pool.submit(threading.get_ident).result(PATIENCE)
        assert pool.submit(pow, 2, exp=3).result(PATIENCE) == 8
        assert list(pool.map(abs, [-1, -2, -3], chunksize=2)) == [1, 2, 3]
        error = LookupError("mine")
        assert pool.submit(fail, error).exception(PATIENCE) is error
        with pytest.raises(LookupError, match="not here"):
            pool.submit(print)
    calls = [
        (threading.get_ident, (), {}),
        (pow, (2,), {"exp": 3}),
        *((abs, (-n,), {}) for n in (1, 2, 3)),
    ]
    runs = [("run", (call, "packed"), thread) for call in [*calls, (fail, (error,), {})]]
    assert journal == [("initialize", thread), *runs, ("finalize", thread)]


@with_contexts
def test_a_context_of_a_subclass_gets_what_has_replaced_the_standard_submit(monkeypatch):
    original = Standard.submit
    monkeypatch.setattr(
        Standard, "submit", lambda self, fn, *args: original(self, lambda: [fn(*args)])
    )
    journal = []
    with noted_pool(journal) as pool:
        assert pool.submit(pow, 2, 3).result(PATIENCE) == [8]
        assert list(pool.map(abs, [-1])) == [[1]]
    assert [what for what, *_ in journal] == ["initialize", "run", "run", "finalize"]


@with_contexts
def test_a_call_for_a_context_of_a_subclass_is_taken_out_as_it_was_packed(gate):
    with noted_pool([]) as pool:
        occupy(pool, gate)
        future = pool.submit(pow, 2, 3)
        assert pool._work_queue.get_nowait().task == ((pow, (2, 3), {}), "packed")
        assert future.cancelled()
        gate.set()


@with_contexts
def test_a_context_that_cannot_be_initialized_breaks_the_pool_and_is_not_finalized(monkeypatch):
    class Broken(BrokenThreadPool):
        pass

    monkeypatch.setattr(NotedPool, "BROKEN", Broken)
    journal = []
    with noted_pool(journal, begin=partial(fail, LookupError())) as pool:
        with pytest.raises(Broken, match="initializer failed"):
            pool.submit(int).result(PATIENCE)
        with pytest.raises(Broken, match="initializer failed"):
            pool.submit(int)
    assert journal == []


@pytest.mark.skipif(hasattr(Standard, "prepare_context"), reason="of Python 3.11 to 3.13")
def test_before_3_14_a_prepare_context_is_nothing_special():
    pool_class = type("Mine", (ThreadPoolExecutor,), {"prepare_context": fail})
    with pool_class(1) as pool:
        assert pool.submit(pow, 2, 3).result(PATIENCE) == 8


def test_a_subclass_says_what_a_broken_pool_raises():
    class Broken(BrokenThreadPool):
        pass

    pool_class = type("Mine", (ThreadPoolExecutor,), {"BROKEN": Broken})
    with pool_class(1, initializer=fail, initargs=[LookupError()]) as pool:
        assert type(pool.submit(int).exception(PATIENCE)) is Broken


def test_arguments_that_it_does_not_have_are_refused():
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'workers'"):
        ThreadPoolExecutor(workers=3)


# -- threads -----------------------------------------------------------------------------------------------------------


def test_threads_are_named_as_the_standard_ones_are():
    def name():
        return threading.current_thread().name

    with ThreadPoolExecutor(1, "crawler") as pool:
        assert pool.submit(name).result(PATIENCE) == "crawler_0"
    with ThreadPoolExecutor(1) as pool, ThreadPoolExecutor(1) as another:
        first, second = (p.submit(name).result(PATIENCE).rpartition("_") for p in (pool, another))
        assert first[0].startswith("ThreadPoolExecutor-")
        assert first[2] == second[2] == "0"
        assert int(second[0].rpartition("-")[2]) == int(first[0].rpartition("-")[2]) + 1


@pytest.fixture
def no_tick(monkeypatch):
    """Nothing is made good by the burst thread."""
    monkeypatch.setattr(OnDemandEngine, "heal_crew", lambda engine: None)


def test_a_thread_is_started_when_a_call_comes_and_nobody_is_idle(gate, no_tick):
    with ThreadPoolExecutor(3) as pool:
        assert pool._threads == set()
        occupy(pool, gate, 1)
        assert len(pool._threads) == 1
        occupy(pool, gate, 1)
        assert len(pool._threads) == 2
        gate.set()


def test_an_idle_thread_is_used_again():
    with ThreadPoolExecutor(3) as pool:
        for _ in range(5):
            pool.submit(abs, -1).result(PATIENCE)
            eventually(lambda: pool._task_engine.queue.idle.announced, "the worker to be idle")
        assert len(pool._threads) == 1


def test_as_many_idle_threads_as_calls_are_woken(gate, no_tick):
    with ThreadPoolExecutor(5) as pool:
        occupy(pool, gate, 3)
        gate.set()
        eventually(
            lambda: len(pool._task_engine.queue.idle.announced) == 3, "three workers to be idle"
        )
        barrier = threading.Barrier(4)
        futures = [pool.submit(barrier.wait, PATIENCE) for _ in range(4)]
        assert sorted(future.result(PATIENCE) for future in futures) == [0, 1, 2, 3]
        assert len(pool._threads) == 4


def test_an_idle_thread_is_woken_by_a_call_of_its_own_and_by_no_other_thread(gate, no_tick):
    with ThreadPoolExecutor(2) as pool:
        occupy(pool, gate, 2)
        gate.set()
        queue, late = (
            pool._task_engine.queue,
            new_task(pool._task_engine, lambda resource: "ran", (), False, 0.0),
        )
        eventually(lambda: len(queue.idle.announced) == 2, "two workers to be idle")
        queue._main.append(late)
        queue.wake_next()
        assert len(queue.idle.announced) == 2
        pool.submit(abs, -1)
        assert late.result(PATIENCE) == "ran"


def test_there_are_never_more_threads_than_allowed_however_many_submit(gate):
    pool, begin, most = ThreadPoolExecutor(3), threading.Barrier(4), []

    def submit():
        begin.wait(PATIENCE)
        for _ in range(50):
            pool.submit(gate.wait, PATIENCE)
            most.append(len(pool._threads))

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert max(most) == len(pool._threads) == 3
    gate.set()
    pool.shutdown()


def test_a_call_for_which_no_thread_can_be_started_is_accepted_and_runs_when_one_can(monkeypatch):
    start, refused = tasker._pool.worker.Worker.start, threading.Event()

    def fail(worker):
        refused.set()
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(tasker._pool.worker.Worker, "start", fail)
    with ThreadPoolExecutor(2) as pool:
        future = pool.submit(abs, -1)
        assert refused.is_set()
        monkeypatch.setattr(tasker._pool.worker.Worker, "start", start)
        assert future.result(PATIENCE) == 1


def test_the_tick_starts_no_thread_for_a_call_that_another_one_is_about_to_take(gate):
    with ThreadPoolExecutor(3, initializer=gate.wait, initargs=(PATIENCE,)) as pool:
        future = pool.submit(abs, -1)
        for _ in range(5):
            pool._task_engine.heal_crew()
        assert len(pool._threads) == 1
        gate.set()
        assert future.result(PATIENCE) == 1


def test_a_call_that_waits_for_one_more_of_a_full_pool_raises_instead_of_hanging():
    with ThreadPoolExecutor(1) as pool, pytest.raises(PoolDeadlockError):
        pool.submit(lambda: pool.submit(abs, -1).result()).result(PATIENCE)


def test_a_call_may_wait_for_another_as_long_as_a_thread_can_be_started():
    with ThreadPoolExecutor(2) as pool:
        assert pool.submit(lambda: pool.submit(abs, -1).result()).result(PATIENCE) == 1


def test_a_call_may_wait_for_another_for_which_no_thread_could_be_started_yet(monkeypatch):
    start = tasker._pool.worker.Worker.start

    def fail(worker):
        raise RuntimeError("can't start new thread")

    def call():
        monkeypatch.setattr(tasker._pool.worker.Worker, "start", fail)
        future = pool.submit(abs, -1)
        threading.Timer(
            0.01, monkeypatch.setattr, (tasker._pool.worker.Worker, "start", start)
        ).start()
        return future.result()

    with ThreadPoolExecutor(2) as pool:
        assert pool.submit(call).result(PATIENCE) == 1


# -- the initializer ---------------------------------------------------------------------------------------------------


def test_the_initializer_runs_once_in_each_thread_before_its_first_call(gate):
    initialized, here = [], threading.local()

    def initialize(value):
        initialized.append(threading.get_ident())
        here.value = value

    def call(barrier):
        barrier.wait(PATIENCE)
        return here.value

    with ThreadPoolExecutor(3, initializer=initialize, initargs=("initialized",)) as pool:
        for _ in range(2):
            barrier = threading.Barrier(3)
            futures = [pool.submit(call, barrier) for _ in range(3)]
            assert [future.result(PATIENCE) for future in futures] == ["initialized"] * 3
        assert len(initialized) == len(set(initialized)) == 3


def test_the_initializer_sees_nobodys_context_variables():
    variable = contextvars.ContextVar("variable", default="the default")
    variable.set("the submitter's")
    seen = []
    with ThreadPoolExecutor(1, initializer=lambda: seen.append(variable.get())) as pool:
        pool.submit(abs, 1).result(PATIENCE)
    assert seen == ["the default"]


@pytest.fixture
def half_broken(gate, caplog):
    """A pool with one busy worker, waiting calls, and a second worker whose initializer is about to raise."""
    caplog.set_level(logging.CRITICAL, "concurrent.futures")
    numbers, proceed = iter(range(2)), threading.Event()

    def initialize():
        if next(numbers):
            proceed.wait(PATIENCE)
            raise LookupError("of the initializer")

    pool = ThreadPoolExecutor(2, initializer=initialize)
    running = occupy(pool, gate)
    waiting = [pool.submit(abs, -1) for _ in range(5)]
    yield pool, running[0], waiting, proceed
    gate.set()
    pool.shutdown()


BROKEN = "A thread initializer failed, the thread pool is not usable anymore"


def test_an_initializer_that_raises_breaks_the_pool(half_broken, gate, caplog):
    pool, running, waiting, proceed = half_broken
    assert pool._broken is False
    proceed.set()
    for future in waiting:
        with pytest.raises(BrokenThreadPool, match=BROKEN):
            future.result(PATIENCE)
    for refused in (lambda: pool.submit(abs, 1), lambda: pool.map(abs, [1])):
        with pytest.raises(BrokenThreadPool, match=BROKEN):
            refused()
    assert pool._broken
    assert "broken" in repr(pool)
    gate.set()
    assert running.result(PATIENCE) == "released"
    pool.shutdown()
    with pytest.raises(BrokenThreadPool, match=BROKEN):
        pool.submit(abs, 1)
    (record,) = (record for record in caplog.records if record.name == "concurrent.futures")
    assert (record.levelname, record.getMessage()) == ("CRITICAL", "Exception in initializer:")
    assert record.exc_info[0] is LookupError


def test_who_waits_for_calls_of_a_pool_that_breaks_is_woken(half_broken):
    _, _, waiting, proceed = half_broken
    called = threading.Event()
    waiting[0].add_done_callback(lambda done: called.set())
    threading.Timer(0.01, proceed.set).start()
    done, not_done = concurrent.futures.wait(waiting, PATIENCE)
    assert done == set(waiting)
    assert not not_done
    assert called.wait(PATIENCE)


def test_no_call_runs_in_a_thread_whose_initializer_raised(caplog):
    caplog.set_level(logging.CRITICAL, "concurrent.futures")
    ran = []

    def initialize():
        raise SystemExit

    pool = ThreadPoolExecutor(1, initializer=initialize)
    engine = pool._task_engine
    fail_waiting, late = engine.queue.fail_waiting, new_task(engine, ran.append, (), False, 0.0)

    def fail_before_one_comes(
        *args,
    ):  # somebody puts a task who looked at the queue before it closed
        engine.queue.fail_waiting = fail_waiting
        fail_waiting(*args)
        engine.queue._main.append(late)

    engine.queue.fail_waiting = fail_before_one_comes
    for future in (pool.submit(ran.append, 1), late):
        with pytest.raises(BrokenThreadPool):
            future.result(PATIENCE)
    pool.shutdown()
    assert ran == []


# -- shutting down -----------------------------------------------------------------------------------------------------


def test_after_shutdown_calls_are_refused_in_the_standard_words():
    messages = set()
    for pool in (ThreadPoolExecutor(1), Standard(1)):
        pool.shutdown()
        pool.shutdown(wait=False)
        for refused in (pool.submit, lambda fn, *args, pool=pool: pool.map(fn, args)):
            with pytest.raises(RuntimeError) as caught:
                refused(abs, 1)
            assert type(caught.value) is RuntimeError
            messages.add(str(caught.value))
    assert len(messages) == 1


def test_shutdown_waits_for_all_that_was_accepted_and_for_the_threads(gate):
    pool = ThreadPoolExecutor(2)
    futures = occupy(pool, gate, 2) + [pool.submit(abs, -1) for _ in range(50)]
    threads, step = pool._threads, pool._task_engine.lifecycle.step

    def slow_step(began):
        over = step(began)
        time.sleep(0.02 * over)  # the thread that has closed everything is slow to end
        return over

    pool._task_engine.lifecycle.step = slow_step
    threading.Timer(0.01, gate.set).start()
    pool.shutdown()
    assert all(future.done() for future in futures)
    assert not any(thread.is_alive() for thread in (*threads, pool._task_engine.housekeeper.thread))
    assert pool._threads == set()


def test_shutdown_without_waiting_lets_the_work_go_on(gate):
    pool = ThreadPoolExecutor(1)
    running = occupy(pool, gate)
    waiting = [pool.submit(abs, -1) for _ in range(5)]
    pool.shutdown(wait=False)
    assert not running[0].done()
    gate.set()
    assert [future.result(PATIENCE) for future in waiting] == [1] * 5
    pool.shutdown()


def test_cancel_futures_cancels_what_waits_and_wakes_who_waits_for_it(gate):
    pool = ThreadPoolExecutor(1)
    running = occupy(pool, gate)
    waiting = [pool.submit(abs, -1) for _ in range(5)]
    woken, called = [], []
    waiting[0].add_done_callback(lambda done: called.append(threading.current_thread()))
    waiter = threading.Thread(
        target=lambda: woken.append(concurrent.futures.wait(waiting, PATIENCE))
    )
    waiter.start()
    eventually(lambda: waiting[-1]._waiters, "the waiter to wait")
    pool.shutdown(wait=False, cancel_futures=True)
    waiter.join(PATIENCE)
    assert woken == [(set(waiting), set())]
    assert all(future.cancelled() for future in waiting)
    assert called == [threading.main_thread()]
    gate.set()
    assert running[0].result(PATIENCE) == "released"
    pool.shutdown()
    assert pool._task_engine.queue._dead == {False: 0, True: 0}


def test_shutdown_in_one_of_the_pools_own_calls_begins_and_does_not_hang():
    pool = ThreadPoolExecutor(2)
    with pytest.raises(RuntimeError, match="cannot join current thread"):
        pool.submit(pool.shutdown).result(PATIENCE)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(abs, 1)
    pool.shutdown()


@pytest.mark.parametrize("outer", ["pool", "view", "task"])
def test_a_pool_inside_of_another_ones_call_is_waited_for(new_manager, outer):
    def call(*resource):
        with ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(abs, -n) for n in range(50)]
        return all(future.done() for future in futures) and pool._threads == set()

    if outer == "pool":
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(call).result(PATIENCE)
    elif outer == "view":
        assert new_manager().executor().submit(call).result(PATIENCE)
    else:
        assert new_manager().queue_task(call)


def test_many_that_submit_while_it_closes_are_either_refused_or_served():
    pool, begin, accepted = ThreadPoolExecutor(2), threading.Barrier(5), []

    def submit():
        begin.wait(PATIENCE)
        try:
            while True:
                accepted.append(pool.submit(abs, -1))
        except RuntimeError:
            pass

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    begin.wait(PATIENCE)
    eventually(lambda: len(accepted) > 100)
    pool.shutdown()
    for thread in threads:
        thread.join(PATIENCE)
    assert all(future.result(0) == 1 for future in accepted)


def test_a_forgotten_pool_finishes_its_work_and_ends_its_threads(gate):
    pool = ThreadPoolExecutor(2)
    futures = [*occupy(pool, gate), pool.submit(abs, -1)]
    threads, gone = pool._threads, weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None
    gate.set()
    assert [future.result(PATIENCE) for future in futures] == ["released", 1]
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


# -- asyncio -----------------------------------------------------------------------------------------------------------


def test_it_serves_as_the_default_executor_of_a_loop():
    variable = contextvars.ContextVar("variable", default="the default")

    async def main():
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2, "mine"))
        variable.set("the submitter's")
        name = await asyncio.get_running_loop().run_in_executor(
            None, lambda: threading.current_thread().name
        )
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(divmod, 1, 0)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.to_thread(next, iter(()))
        return (
            name,
            await asyncio.to_thread(variable.get),
            await asyncio.gather(*(asyncio.to_thread(abs, -n) for n in range(100))),
        )

    name, seen, numbers = asyncio.run(main())
    assert name.startswith("mine_")
    assert seen == "the submitter's"
    assert numbers == list(range(100))


# -- the process -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_interpreter_exit_finishes_all_work_however_long_it_takes():
    done = run_python("""
        import tasker._pool.exit_and_fork
        from tasker.threadpool import ThreadPoolExecutor

        tasker._pool.exit_and_fork.EXIT_TIMEOUT_S = 0.0  # what managers are given
        pool = ThreadPoolExecutor(1)
        forgotten = ThreadPoolExecutor(1)
        for executor in (pool, forgotten):
            executor.submit(time.sleep, 0.2)
            for _ in range(3):
                executor.submit(os.write, 1, b"done\\n")
        del executor, forgotten
        print("end of main", flush=True)
    """)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["end of main", *["done"] * 6]


@pytest.mark.slow
def test_what_is_submitted_when_the_main_thread_has_ended_is_refused_in_the_standard_words():
    program = """
        from {module} import ThreadPoolExecutor

        pool = ThreadPoolExecutor(1)
        shut = ThreadPoolExecutor(1)
        shut.shutdown()

        def submit():
            threading.main_thread().join()
            for executor in (pool, shut):
                try:
                    while True:  # the standard one accepts until it is told
                        executor.submit(abs, 1)
                except RuntimeError as error:
                    print(type(error).__name__, error, flush=True)

        threading.Thread(target=submit).start()
    """
    ours, standard = (
        run_python(program.format(module=module))
        for module in ("tasker.threadpool", "concurrent.futures")
    )
    assert ours.stdout.splitlines() == standard.stdout.splitlines()
    assert "interpreter shutdown" in ours.stdout
    assert (ours.returncode, ours.stderr) == (0, "")


@pytest.mark.slow
def test_interpreter_exit_does_not_wait_for_what_nobody_can_run():
    done = run_python("""
        import logging
        import tasker._pool.worker
        from tasker.threadpool import ThreadPoolExecutor

        logging.getLogger("tasker").setLevel(logging.CRITICAL)

        def fail(worker):
            raise RuntimeError("can't start new thread")

        tasker._pool.worker.Worker.start = fail
        pool = ThreadPoolExecutor(1)
        future = pool.submit(print, "ran")
        future.add_done_callback(lambda done: print(type(done.exception()).__name__, flush=True))
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "TaskManagerKilledError\n", "")


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(signal, "pthread_kill"), reason="no signal can be sent to a thread here"
)
def test_ctrl_c_ends_the_waiting_at_interpreter_exit():
    done = run_python("""
        import atexit, signal
        import tasker._pool.exit_and_fork
        from tasker.threadpool import ThreadPoolExecutor

        tasker._pool.exit_and_fork.EXIT_TIMEOUT_S = 0.1
        signal.signal(signal.SIGINT, signal.default_int_handler)
        interrupted = threading.Event()
        atexit.register(interrupted.set)

        def call():
            while not pool._task_engine.exiting:
                time.sleep(0.001)
            while not interrupted.wait(0.05):  # a signal that comes just before the waiting is not noticed in it
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            threading.Event().wait()

        pool = ThreadPoolExecutor(1)
        pool.submit(call)
    """)
    assert "KeyboardInterrupt" in done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_is_refused_and_shuts_down_without_waiting(gate):
    with ThreadPoolExecutor(1) as pool:
        occupy(pool, gate)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                signal.alarm(30)  # ends a child that hangs
                try:
                    pool.submit(abs, 1)
                except RuntimeError as error:
                    status = 7 if type(error) is RuntimeError and "forked" in str(error) else 2
                pool.shutdown(cancel_futures=True)
                with ThreadPoolExecutor(1) as own:
                    own.submit(abs, 1).result(PATIENCE)
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        gate.set()


def test_its_threads_are_not_taken_for_those_of_a_manager(factory):
    config = Config(
        on_create=factory.create, on_destroy=factory.destroy, worker_count=1, burst_interval=0
    )
    with TaskManager(config) as manager, ThreadPoolExecutor(1) as pool:
        assert (
            pool.submit(manager.queue_task, lambda resource: resource.number).result(PATIENCE) == 0
        )
        assert manager.queue_task(lambda resource: pool.submit(abs, -1).result()) == 1

"""`CallbackRunner`: user code runs elsewhere, in order, on one thread, and a job that blocks or fails holds up no other."""

from __future__ import annotations

import gc
import threading
import weakref
from types import SimpleNamespace

import pytest

import tasker._sync.callback_runner
from tasker._sync.callback_runner import STUCK_S, CallbackRunner
from tasker._sync.guarded_logger import GuardedLogger, line_of
from tests.support.waiting import PATIENCE, eventually


@pytest.fixture
def clock(monkeypatch):
    """The clock by which a `CallbackRunner` finds that a job is stuck."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(tasker._sync.callback_runner, "monotonic", lambda: clock.now)
    return clock


@pytest.fixture
def runner(log):
    runner = CallbackRunner("aside", GuardedLogger(log))
    yield runner
    eventually(runner.idle, "the end of all jobs")
    assert runner.busy() == []
    assert not runner.waits()


class Blocked:
    """A job that has started and waits."""

    def __init__(self, runner, name="blocked", ran=None):
        self.started, self.go = threading.Event(), threading.Event()
        self.name, self.ran = name, [] if ran is None else ran
        self.thread = None
        runner.run(self)

    def __call__(self):
        self.thread = threading.current_thread()
        self.started.set()
        self.go.wait(PATIENCE)
        self.ran.append(self.name)


def test_jobs_run_in_order_on_one_daemon_thread_that_ends(runner):
    ran = []
    for i in range(20):
        runner.run(
            *(lambda i=i, j=j: ran.append((i, j, threading.current_thread())) for j in range(3))
        )
    eventually(runner.idle)
    assert [entry[:2] for entry in ran] == [(i, j) for i in range(20) for j in range(3)]
    threads = {thread for *_, thread in ran}
    assert threading.current_thread() not in threads
    assert all(thread.daemon and thread.name == "aside" for thread in threads)
    eventually(lambda: not any(thread.is_alive() for thread in threads))


def test_run_of_nothing_starts_nothing(runner):
    runner.run()
    assert runner._runner is None
    assert runner.idle()


def test_a_new_thread_takes_over_after_the_last_has_ended(runner):
    ran = []
    for i in range(10):
        runner.run(lambda i=i: ran.append(i))
        eventually(runner.idle)
    assert ran == list(range(10))


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
def test_a_job_that_raises_is_logged_and_the_next_runs(runner, log, error):
    def fail():
        raise error

    ran = []
    runner.run(fail, lambda: ran.append(1))
    eventually(runner.idle)
    assert ran == [1]
    assert len(log.loud()) == 1
    assert f"aside: a job raised: {line_of(error)}\n" in log.loud()[0]


def test_a_logger_that_raises_ends_nothing(runner, log):
    log._keep = None
    ran = []
    runner.run(lambda: 1 / 0, lambda: ran.append(1))
    eventually(runner.idle)
    assert ran == [1]


def test_it_says_who_is_busy_and_whether_the_caller_is(runner):
    assert runner.idle()
    job = Blocked(runner)
    assert job.started.wait(PATIENCE)
    assert not runner.idle()
    assert not runner.waits()
    assert runner.busy() == ["aside"]
    assert not runner.runs_this_thread()
    seen = []
    runner.run(lambda: seen.append(runner.runs_this_thread()))
    assert runner.waits()
    job.go.set()
    eventually(runner.idle)
    assert seen == [True]


def test_a_job_may_add_jobs_and_heal(runner):
    ran = []
    runner.run(
        lambda: (runner.heal(), runner.run(lambda: ran.append("inner")), ran.append("outer"))
    )
    eventually(runner.idle)
    assert ran == ["outer", "inner"]


def test_a_job_that_blocks_is_passed_by_once_it_has_had_its_time(runner, clock):
    ran = []
    first = Blocked(runner, "first", ran)
    assert first.started.wait(PATIENCE)
    second = Blocked(runner, "second", ran)
    for _ in range(20):
        runner.heal()  # however often it is said
    clock.now += STUCK_S * 0.9
    runner.heal()
    assert runner.busy() == ["aside"]
    assert not second.started.is_set()
    clock.now += STUCK_S * 0.2
    runner.heal()
    assert second.started.wait(PATIENCE)
    assert second.thread is not first.thread
    second.go.set()
    eventually(lambda: ran == ["second"])
    first.go.set()
    eventually(lambda: ran == ["second", "first"])


def test_every_job_that_blocks_costs_one_thread_and_the_rest_run(runner, clock):
    blocked = [Blocked(runner) for _ in range(5)]
    done = threading.Event()
    runner.run(done.set)
    for job in blocked:
        assert job.started.wait(PATIENCE)
        clock.now += 2 * STUCK_S
        runner.heal()
    assert done.wait(PATIENCE)
    assert len({job.thread for job in blocked}) == 5
    for job in blocked:
        job.go.set()


def test_a_thread_that_was_replaced_takes_no_more_jobs(runner, clock):
    ran = []
    first = Blocked(runner, "first", ran)
    assert first.started.wait(PATIENCE)
    second = Blocked(runner, "second", ran)
    clock.now += 2 * STUCK_S
    runner.heal()
    assert second.started.wait(PATIENCE)
    runner.run(lambda: ran.append(threading.current_thread()))
    first.go.set()
    eventually(lambda: runner.busy() == ["aside"])
    assert ran == ["first"]  # the third job waits for the second, as it should
    second.go.set()
    eventually(runner.idle)
    assert ran == ["first", "second", second.thread]


def test_healing_without_need_does_nothing(runner, clock):
    runner.heal()
    job = Blocked(runner)
    assert job.started.wait(PATIENCE)
    clock.now += 1000 * STUCK_S
    runner.heal()  # it blocks, but nothing waits behind it
    assert runner._runner is job.thread
    job.go.set()


def test_jobs_whose_thread_could_not_start_run_when_it_can(runner, monkeypatch):
    start = threading.Thread.start

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    ran = []
    runner.run(lambda: ran.append(1))
    runner.run(lambda: ran.append(2))
    runner.heal()
    assert ran == []
    assert not runner.idle()
    assert runner.busy() == []
    monkeypatch.setattr(threading.Thread, "start", start)
    runner.heal()
    eventually(runner.idle)
    assert ran == [1, 2]


def test_a_thread_that_comes_although_its_start_was_interrupted_does_nothing(runner, monkeypatch):
    new, late = tasker._sync.callback_runner.new_thread, []

    def new_thread(target, name):
        thread = new(target, name)
        start = thread.start

        def interrupted():
            start()
            raise KeyboardInterrupt

        if not late:
            late.append(thread)
            # It does not look alive before it has begun.
            monkeypatch.setattr(thread, "is_alive", lambda: False)
            monkeypatch.setattr(thread, "start", interrupted)
        return thread

    monkeypatch.setattr(tasker._sync.callback_runner, "new_thread", new_thread)
    ran = []
    with pytest.raises(KeyboardInterrupt):
        runner.run(lambda: ran.append(threading.current_thread()))
    runner.heal()
    eventually(runner.idle)
    assert len(ran) == 1
    assert ran != late


def test_run_here_runs_what_waits_in_the_calling_thread_past_a_job_that_is_stuck(runner):
    ran = []
    stuck = Blocked(runner, "stuck", ran)
    assert stuck.started.wait(PATIENCE)
    runner.run(
        lambda: ran.append(threading.current_thread()), lambda: 1 / 0, lambda: ran.append("last")
    )
    runner.run_here()
    assert ran == [threading.current_thread(), "last"]
    assert not runner.waits()
    stuck.go.set()
    eventually(runner.idle)
    runner.run(lambda: ran.append("afterwards"))
    eventually(runner.idle)
    assert ran[2:] == ["stuck", "afterwards"]


def test_a_job_that_comes_while_the_thread_ends_is_not_left_behind(runner):
    ran = []

    class SigningOff:
        """The lock under which the thread signs off: before that it found no job, now there is one."""

        def __init__(self, lock):
            self.lock = lock

        def __enter__(self):
            self.lock.acquire()
            if threading.current_thread() is first.thread and len(ran) == 1:
                ran.append("late")
                runner._jobs.append(
                    lambda: ran.append("seen")
                )  # whoever put it found a thread that still runs

        def __exit__(self, *_):
            self.lock.release()

    first = Blocked(runner, "first", ran)
    assert first.started.wait(PATIENCE)
    runner._lock = SigningOff(runner._lock)
    first.go.set()
    eventually(lambda: ran == ["first", "late", "seen"])


def test_finished_jobs_are_not_kept(runner):
    class Thing:
        def __call__(self):
            pass

    thing = Thing()
    watch = weakref.ref(thing)
    second = threading.Event()
    runner.run(thing, lambda: second.wait(PATIENCE))
    del thing

    def gone():
        gc.collect()
        return watch() is None

    eventually(gone)
    second.set()


# -- a thread for one job ----------------------------------------------------------------------------------------------


def test_jobs_that_run_apart_hold_up_nobody_however_long_they_block(runner, clock):
    began, go, ran = threading.Semaphore(0), threading.Event(), threading.Event()

    def blocks():
        began.release()
        assert go.wait(PATIENCE)

    for _ in range(3):
        runner.run_apart(blocks)
    runner.run(ran.set)
    for _ in range(3):
        assert began.acquire(timeout=PATIENCE)
    assert ran.wait(PATIENCE)
    assert not runner.idle()
    assert len(runner.busy()) >= 3
    go.set()


def test_a_job_that_runs_apart_knows_its_runner(runner):
    found = []
    runner.run_apart(lambda: found.append(runner.runs_this_thread()))
    eventually(lambda: found == [True])


def test_a_job_that_runs_apart_and_raises_is_logged(runner, log):
    runner.run_apart(lambda: 1 / 0)
    eventually(lambda: log.telling("a job raised"))


def test_without_threads_a_job_does_not_run_apart(runner, monkeypatch):
    threads, new = [], tasker._sync.callback_runner.new_thread

    def new_thread(target, name, args=()):
        thread = new(target, name, args)
        if args:

            def start():
                raise RuntimeError("can't start new thread")

            thread.start = start
        return thread

    monkeypatch.setattr(tasker._sync.callback_runner, "new_thread", new_thread)
    runner.run_apart(lambda: threads.append(threading.current_thread().name))
    eventually(lambda: threads == ["aside"])
    eventually(runner.idle)


@pytest.mark.parametrize("begins", [False, True])
def test_a_start_apart_that_is_interrupted_leaves_no_thread_behind(
    runner, log, monkeypatch, begins
):
    new, ran = tasker._sync.callback_runner.new_thread, []

    def new_thread(target, name, args=()):
        thread = new(target, name, args)
        start = thread.start

        def interrupted():
            if begins:
                start()
            raise SystemExit

        if args:
            monkeypatch.setattr(thread, "start", interrupted)
        return thread

    monkeypatch.setattr(tasker._sync.callback_runner, "new_thread", new_thread)
    runner.run_apart(lambda: ran.append(1))
    eventually(lambda: log.telling(of="a job raised"))
    eventually(runner.idle)
    assert ran == [1] * begins


def test_a_job_that_has_run_apart_is_let_go_of(runner):
    class Job:
        def __call__(self):
            pass

    job = Job()
    reference = weakref.ref(job)
    runner.run_apart(job)
    del job
    eventually(lambda: gc.collect() >= 0 and reference() is None)

"""`Context` among threads: waits, locks, signal handlers, forks."""

from __future__ import annotations

import os
import random
import signal
import threading

import pytest

import tasker._sync.timer
import tasker._tasks.context
from tasker import (
    background,
    with_cancel,
    with_timeout,
)
from tests.support.contexts import needs_signals, told_by
from tests.support.locks import HastyLock, HookedLock
from tests.support.snippets import needs_fork, printed_by
from tests.support.threads import in_another_thread
from tests.support.waiting import PATIENCE, eventually

# -- wait ----------------------------------------------------------------------------------------------------------


def test_wait_says_whether_the_context_is_done():
    ctx = with_cancel(background())
    assert ctx.wait(0) is False
    assert ctx.wait(0.001) is False
    ctx.cancel()
    assert ctx.wait(0) is True
    assert ctx.wait() is True
    assert told_by(ctx).sleepers == []


@pytest.mark.parametrize("end", ["cancel", "parent", "deadline"])
def test_wait_wakes_early_when_the_context_is_done(end):
    timeouts = [None, 3600, float("inf"), 10**30]
    parent = with_cancel(background())
    ctx = with_timeout(parent, 0.05 if end == "deadline" else 3600)
    seen = []
    threads = [
        threading.Thread(target=lambda timeout=t: seen.append(ctx.wait(timeout))) for t in timeouts
    ]
    for thread in threads:
        thread.start()
    if end != "deadline":
        eventually(lambda: len(told_by(ctx).sleepers) == len(threads))
        (parent if end == "parent" else ctx).cancel()
    for thread in threads:
        thread.join(PATIENCE)
    assert seen == [True] * len(threads)
    assert told_by(ctx).sleepers == []


def test_wait_without_a_timeout_sleeps_until_the_context_is_done_however_long_that_takes(
    monkeypatch,
):
    ctx = with_cancel(background())
    seen = []
    thread = threading.Thread(target=lambda: seen.append(ctx.wait()))
    with monkeypatch.context() as patch:
        patch.setattr(tasker._tasks.context, "new_sleep_lock", HastyLock)
        assert ctx.wait(3600) is False
        thread.start()
        eventually(lambda: told_by(ctx).sleepers or seen)
    ctx.cancel()
    thread.join(PATIENCE)
    assert seen == [True]


@pytest.mark.parametrize("moment", ["taken", "released"])
def test_an_end_just_before_or_just_after_the_announcement_of_a_sleeper_is_not_lost(moment):
    ctx = with_cancel(background())
    ctx._lock = HookedLock(ctx.cancel, moment)
    assert in_another_thread(ctx.wait) is True
    assert told_by(ctx).sleepers == []


@needs_signals
def test_an_exception_from_a_signal_handler_ends_wait_and_leaves_no_sleeper():
    def interrupt(*_):
        raise KeyboardInterrupt

    def wait_interrupted():
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        ctx.wait(PATIENCE)

    ctx = with_cancel(background())
    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            wait_interrupted()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert told_by(ctx).sleepers == []
    assert not ctx.cancelled()


# -- threads, signals, forks ---------------------------------------------------------------------------------------


def test_a_context_made_while_its_parent_ends_is_ended():
    parent = with_cancel(background())
    parent._lock = HookedLock(parent.cancel)
    assert with_cancel(parent).cancelled()
    assert told_by(parent).children == {}


def test_nobody_is_forgotten_when_many_threads_derive_wait_and_register_while_one_cancels():
    seed = int(os.environ.get("TASKER_SEED", "1"))
    rng = random.Random(seed)
    for round_ in range(int(os.environ.get("TASKER_ROUNDS", "60"))):
        parent = with_cancel(background())
        barrier = threading.Barrier(5)
        made, called, waited = [], [], []

        def derive(parent=parent, barrier=barrier, made=made):
            barrier.wait(PATIENCE)
            for i in range(20):
                made.append(with_cancel(parent) if i % 2 else with_timeout(parent, 3600))

        def register(parent=parent, barrier=barrier, called=called):
            barrier.wait(PATIENCE)
            for i in range(20):
                parent.on_done(lambda i=i: called.append(i))

        def wait(parent=parent, barrier=barrier, waited=waited):
            barrier.wait(PATIENCE)
            waited.append(parent.wait())

        threads = [threading.Thread(target=target) for target in (derive, derive, register, wait)]
        for thread in threads:
            thread.start()
        barrier.wait(PATIENCE)
        for _ in range(rng.randrange(200)):
            pass
        parent.cancel()
        for thread in threads:
            thread.join(PATIENCE)
        what = f"seed {seed}, round {round_}"
        assert len(made) == 40, what
        assert all(context.cancelled() for context in made), what
        assert sorted(called) == list(range(20)), what
        assert waited == [True], what
        assert told_by(parent).children == {}, what


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs POSIX signals")
@pytest.mark.parametrize("interrupted", ["cancel", "on_done", "take_back", "derive", "wait"])
def test_a_signal_handler_may_do_anything_to_the_context_that_its_thread_is_changing(interrupted):
    for handler_does in ("cancel", "cancel parent", "on_done", "derive", "wait", "remaining"):
        change_and_interrupt(interrupted, handler_does)


def change_and_interrupt(interrupted, handler_does):
    parent = with_cancel(background())
    ctx = with_timeout(parent, 3600)
    calls, handled = [], []
    take_back = ctx.on_done(lambda: calls.append("taken back"))
    ctx.on_done(lambda: calls.append("kept"))

    def handler(*_):
        {
            "cancel": ctx.cancel,
            "cancel parent": parent.cancel,
            "on_done": lambda: ctx.on_done(lambda: calls.append("handler")),
            "derive": lambda: with_timeout(ctx, 1800),
            "wait": lambda: ctx.wait(0),
            "remaining": ctx.remaining,
        }[handler_does]()
        handled.append(1)

    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        ctx._lock = HookedLock(lambda: signal.raise_signal(signal.SIGUSR1))
        result = {
            "cancel": ctx.cancel,
            "on_done": lambda: ctx.on_done(lambda: calls.append("interrupted")),
            "take_back": take_back,
            "derive": lambda: with_cancel(ctx),
            "wait": lambda: ctx.wait(0),
        }[interrupted]()
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert handled == [1]
    ended = handler_does.startswith("cancel") or interrupted == "cancel"
    assert ctx.cancelled() is ended
    if interrupted == "derive":
        assert result.cancelled() is ended
    if interrupted == "wait":
        assert result is ended
    parent.cancel()
    expected = ["kept"]
    expected += ["taken back"] * (interrupted != "take_back" or result is False)
    expected += ["interrupted"] * (interrupted == "on_done")
    expected += ["handler"] * (handler_does == "on_done")
    assert sorted(calls) == sorted(expected)


@needs_signals
def test_a_storm_of_signals_loses_no_callback_and_locks_nothing_up():
    contexts = []
    handled = []

    def handler(*_):
        ctx = with_timeout(background(), 3600)
        ctx.on_done(lambda: handled.append(1))
        ctx.cancel()
        if contexts:
            contexts[-1].cancel()

    calls = []
    previous = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        while len(handled) < 30:
            ctx = with_timeout(background(), 3600)
            contexts.append(ctx)
            ctx.on_done(lambda: calls.append(1))
            ctx.wait(0)
            with_cancel(ctx)
            ctx.cancel()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert len(calls) == len(contexts)
    assert all(ctx.cancelled() for ctx in contexts)


@pytest.mark.slow
@needs_fork
def test_deadlines_pass_and_callbacks_run_in_a_forked_child():
    out = printed_by("""
        import os, threading, warnings
        from tasker import *
        import tasker._sync.timer
        release, busy = threading.Event(), threading.Event()
        keeps_the_thread = with_timeout(background(), 3600)
        keeps_the_thread.on_done(lambda: (busy.set(), release.wait(20)))
        tasker._sync.timer.at(0.0, keeps_the_thread._deadline_passed)
        assert busy.wait(20)
        with_timeout(background(), 3600)
        tasker._sync.timer._timer._lock.acquire()  # as another thread might hold it at this moment
        child = os.fork()
        if child == 0:
            try:
                called = threading.Event()
                blocked, ctx = with_timeout(background(), 3600), with_timeout(background(), 3600)
                blocked.on_done(lambda: threading.Event().wait(60))  # holds up no other, here as in the parent
                ctx.on_done(called.set)
                tasker._sync.timer.at(0.0, blocked._deadline_passed)
                tasker._sync.timer.at(0.0, ctx._deadline_passed)
                assert with_timeout(background(), 0.001).wait(20)
                os._exit(0 if ctx.wait(20) and called.wait(20) else 1)
            finally:
                os._exit(2)
        tasker._sync.timer._timer._lock.release()
        print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        release.set()
        print("parent", with_timeout(background(), 0.001).wait(20))
    """)
    assert out.split() == ["child", "0", "parent", "True"]

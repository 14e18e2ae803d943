"""`Context`: the contract of Go's package `context`, and what Python adds to it (threads, signals, forks, locks)."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref

import pytest

import tasker._sync.timer
import tasker._tasks.context
from tasker import (
    ConfigError,
    ContextCancelledError,
    DeadlineExceededError,
    TaskerError,
    TaskManagerKilledError,
    background,
    with_cancel,
    with_deadline,
    with_timeout,
    with_value,
)
from tasker._tasks.context import Context, ManagerValues, check_may_begin, new_task_context
from tasker.testing import ManualClock
from tests.support.contexts import MAKERS, live_entries, pass_deadline, told_by
from tests.support.locks import HookedLock
from tests.support.snippets import printed_by
from tests.support.threads import in_another_thread
from tests.support.waiting import PATIENCE, eventually

# -- the root ------------------------------------------------------------------------------------------------------


def test_background_is_never_done_and_has_no_deadline_and_no_values():
    root = background()
    assert root is background()
    assert not root.cancelled()
    assert (root.err(), root.cause(), root.deadline(), root.remaining(), root.value("key")) == (
        None,
    ) * 5
    assert root.wait(0) is False
    root.raise_if_done()
    assert root.stopping() is False


def test_background_cannot_be_cancelled_by_anything():
    with pytest.raises(TypeError, match="with_cancel"):
        background().cancel()
    with background() as root:
        assert root is background()
    assert not background().cancelled()


def test_background_keeps_neither_callbacks_nor_contexts_made_from_it():
    class Thing:
        def __call__(self):
            raise AssertionError("background is never done")

    thing = Thing()
    watch = weakref.ref(thing)
    taken_back = background().on_done(thing)
    child = with_cancel(background())
    assert told_by(background()).children == {}
    assert taken_back() is True
    del thing, taken_back, child
    gc.collect()
    assert watch() is None


# -- being done ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", MAKERS)
def test_a_new_context_is_live_until_it_is_cancelled(make):
    ctx = make(background())
    assert not ctx.cancelled()
    assert ctx.err() is None
    assert ctx.cause() is None
    ctx.raise_if_done()
    ctx.cancel()
    assert ctx.cancelled()
    assert type(ctx.err()) is ContextCancelledError


def test_cancelling_again_changes_nothing():
    ctx = with_cancel(background())
    calls = []
    ctx.on_done(lambda: calls.append(1))
    first = ValueError("first")
    ctx.cancel(first)
    error = ctx.err()
    ctx.cancel()
    ctx.cancel(ValueError("second"))
    assert ctx.err() is error
    assert ctx.cause() is first
    assert calls == [1]


@pytest.mark.parametrize("make", MAKERS)
def test_cancellation_flows_down_and_never_up(make):
    parent = with_cancel(background())
    ctx = make(parent)
    sibling = make(parent)
    child = make(ctx)
    grandchild = make(child)
    ctx.cancel()
    assert [c.cancelled() for c in (parent, sibling, ctx, child, grandchild)] == [
        False,
        False,
        True,
        True,
        True,
    ]
    parent.cancel()
    assert sibling.cancelled()


def test_a_child_that_ends_by_itself_while_its_parent_ends_keeps_no_other_alive():
    parent = with_cancel(background())
    children = [with_cancel(parent) for _ in range(3)]
    why = OSError()
    children[0]._lock = HookedLock(lambda: children[0].cancel(why))
    parent.cancel()
    assert [child.cancelled() for child in children] == [True] * 3
    assert children[0].cause() is why


@pytest.mark.parametrize("make", MAKERS)
def test_what_is_made_from_an_ended_context_is_ended_for_the_same_reason(make):
    parent = with_cancel(background())
    cause = OSError("gone")
    parent.cancel(cause)
    child = make(parent)
    assert child.err() is parent.err()
    assert child.cause() is cause
    assert told_by(parent).children == {}
    assert child._entry is None


def test_err_says_how_and_cause_says_why():
    why = OSError("the client hung up")
    ctx = with_cancel(background())
    child = with_cancel(ctx)
    ctx.cancel(why)
    assert type(ctx.err()) is type(child.err()) is ContextCancelledError
    assert ctx.cause() is child.cause() is why
    assert "cancelled" in str(ctx.err())


def test_without_a_given_cause_the_cause_is_the_error():
    cancelled, late = with_cancel(background()), with_timeout(background(), 0)
    cancelled.cancel()
    assert cancelled.cause() is cancelled.err()
    assert late.cause() is late.err()
    assert isinstance(late.err(), DeadlineExceededError)


def test_the_errors_are_tasker_errors_and_a_passed_deadline_is_a_timeout():
    assert issubclass(ContextCancelledError, TaskerError)
    assert issubclass(DeadlineExceededError, TaskerError)
    assert issubclass(DeadlineExceededError, TimeoutError)
    assert not issubclass(ContextCancelledError, TimeoutError)


def test_leaving_a_with_block_cancels_and_lets_errors_through():
    with with_cancel(background()) as ctx:
        assert not ctx.cancelled()
    assert ctx.cancelled()
    with pytest.raises(KeyError), with_timeout(background(), 3600) as ctx:
        raise KeyError
    assert type(ctx.err()) is ContextCancelledError
    assert ctx.cause() is ctx.err()


def test_raise_if_done_raises_a_fresh_instance_from_the_cause():
    why = OSError("why")
    ctx = with_cancel(background())
    ctx.cancel(why)
    raised = []
    for _ in range(2):
        with pytest.raises(ContextCancelledError) as caught:
            ctx.raise_if_done()
        raised.append(caught.value)
    assert raised[0] is not raised[1]
    assert ctx.err() not in raised
    assert [error.__cause__ for error in raised] == [why, why]
    assert ctx.err().__traceback__ is None  # the one that all share stays clean


def test_raise_if_done_says_that_a_deadline_passed():
    with pytest.raises(DeadlineExceededError, match="deadline") as caught:
        with_timeout(background(), 0).raise_if_done()
    assert caught.value.__cause__ is None


def test_repr_says_the_state_and_the_time_left():
    ctx = with_timeout(background(), 3600)
    assert repr(ctx).startswith("<Context live, 3")
    ctx.cancel()
    assert "ContextCancelledError" in repr(ctx)
    assert repr(with_cancel(background())) == "<Context live>"


# -- deadlines -----------------------------------------------------------------------------------------------------


def test_a_deadline_is_never_later_than_the_parents():
    now = time.monotonic()
    with with_deadline(background(), now + 1000) as parent:
        assert with_cancel(parent).deadline() == now + 1000
        assert with_value(parent, 1, 2).deadline() == now + 1000
        assert with_deadline(parent, now + 2000).deadline() == now + 1000
        assert with_timeout(parent, 5000).deadline() == now + 1000
        assert with_deadline(parent, now + 500).deadline() == now + 500
        assert with_deadline(with_deadline(parent, now + 500), now + 700).deadline() == now + 500


def test_an_inherited_deadline_takes_no_entry_of_its_own_in_the_timer():
    with with_timeout(background(), 3600) as parent:
        before = len(live_entries())
        children = [
            with_cancel(parent),
            with_timeout(parent, 7200),
            with_deadline(parent, parent.deadline()),
        ]
        assert len(live_entries()) == before
        earlier = with_timeout(parent, 1800)
        assert len(live_entries()) == before + 1
    assert all(child.cancelled() for child in [*children, earlier])


def test_an_infinite_timeout_is_no_deadline():
    forever = (float("inf"), 10**400)  # the second is too large for a float
    for ctx in (
        make(background(), seconds) for make in (with_timeout, with_deadline) for seconds in forever
    ):
        assert ctx.deadline() is None
        assert ctx.remaining() is None


def test_remaining_counts_down_and_stops_at_zero():
    with ManualClock() as clock, with_timeout(background(), 60) as ctx:
        assert ctx.deadline() == clock.now() + 60
        assert ctx.remaining() == pytest.approx(60)
        clock.advance(59.5)
        assert ctx.remaining() == pytest.approx(0.5)
        child = with_cancel(ctx)
        clock.advance(1.5)
        assert (ctx.remaining(), child.remaining()) == (0.0, 0.0)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: with_timeout(background(), 0), id="no time"),
        pytest.param(lambda: with_deadline(background(), time.monotonic() - 3600), id="past"),
        pytest.param(lambda: with_deadline(background(), float("-inf")), id="long past"),
        pytest.param(
            lambda: with_deadline(background(), -(10**400)), id="too long past for a float"
        ),
    ],
)
def test_a_deadline_that_has_passed_already_ends_the_context_at_once(make):
    with ManualClock() as clock:
        ctx = make()
        assert isinstance(ctx.err(), DeadlineExceededError)
        assert clock.deadlines == 0


def test_a_passing_deadline_ends_the_context_and_those_below_it():
    with with_cancel(background()) as parent:
        ctx = with_timeout(parent, 0.01)
        child = with_cancel(with_value(ctx, 1, 2))
        assert child.wait(PATIENCE) is True
        assert isinstance(child.err(), DeadlineExceededError)
        assert ctx.err() is child.err()
        assert not parent.cancelled()
        eventually(
            lambda: told_by(parent).children == {}
        )  # the timer thread gets to it after it has woken us


def test_the_earlier_of_two_deadlines_ends_a_context():
    with with_timeout(background(), 3600) as parent:
        child = with_timeout(parent, 0.01)
        assert child.wait(PATIENCE)
        assert not parent.cancelled()
    ctx = with_timeout(background(), 0.01)
    child = with_timeout(ctx, 3600)
    assert child.wait(PATIENCE)
    assert isinstance(child.err(), DeadlineExceededError)


def test_nothing_of_the_users_runs_on_the_timer_thread():
    ctx = with_timeout(background(), 3600)
    child = with_cancel(ctx)
    threads, both = [], threading.Semaphore(0)

    def note():
        threads.append(threading.current_thread())
        both.release()

    def fail():
        note()
        raise OSError

    ctx.on_done(fail)
    child.on_done(note)
    pass_deadline(ctx)
    assert both.acquire(timeout=PATIENCE)
    assert both.acquire(timeout=PATIENCE)
    assert tasker._sync.timer._timer._thread not in threads
    assert threading.current_thread() not in threads
    assert {thread.name for thread in threads} == {"tasker-context"}


def test_a_callback_that_blocks_holds_up_neither_deadlines_nor_other_callbacks():
    release, freed = threading.Event(), threading.Event()
    entered = threading.Event()

    def block():
        entered.set()
        freed.set() if release.wait(PATIENCE) else None

    first, late = with_timeout(background(), 3600), with_timeout(background(), 3600)
    first.on_done(block)
    late.on_done(release.set)  # only this one lets the first go on
    pass_deadline(first)
    assert entered.wait(PATIENCE)
    pass_deadline(late)
    assert late.wait(PATIENCE)
    assert freed.wait(PATIENCE)
    eventually(tasker._sync.timer.runner.idle)


def test_cancelling_takes_the_deadline_out_of_the_timer():
    before = len(live_entries())
    ctx = with_timeout(background(), 3600)
    assert len(live_entries()) == before + 1
    ctx.cancel()
    assert len(live_entries()) == before


def test_ten_thousand_cancelled_deadlines_do_not_stay_in_the_timer():
    before = tasker._sync.timer._timer.waiting()
    contexts = [with_timeout(background(), 3600) for _ in range(10_000)]
    eventually(lambda: tasker._sync.timer._timer.waiting() >= 10_000)
    for ctx in contexts:
        ctx.cancel()
    eventually(
        lambda: tasker._sync.timer._timer.waiting() <= before + 2 * tasker._sync.timer._BATCH
    )


def test_a_context_that_ends_while_its_deadline_is_set_leaves_no_entry_behind(monkeypatch):
    parent = with_cancel(background())
    entries = []
    at = tasker._sync.timer.at

    def at_and_cancel(when, fire):
        entries.append(at(when, fire))
        parent.cancel()
        return entries[0]

    monkeypatch.setattr(tasker._sync.timer, "at", at_and_cancel)
    ctx = with_timeout(parent, 3600)
    assert ctx.cancelled()
    assert entries[0]._fire is None


@pytest.mark.slow
def test_there_is_one_timer_thread_for_all_deadlines_and_none_before_the_first():
    names = printed_by("""
        import threading
        from tasker import *
        def names():
            # the one that lets go of what has fired comes and goes
            print(*sorted(thread.name for thread in threading.enumerate() if thread.name != "tasker-context"))
        ctx = with_value(with_cancel(background()), 1, 2)
        ctx.wait(0.001)
        ctx.cancel()
        with_timeout(background(), float("inf"))
        names()
        kept = [with_timeout(background(), 60 + i) for i in range(200)]
        names()
        for ctx in kept:
            ctx.cancel()
        assert with_timeout(background(), 0.001).wait(20)
        names()
    """).splitlines()
    assert names == ["MainThread", "MainThread tasker-timer", "MainThread tasker-timer"]


# -- values --------------------------------------------------------------------------------------------------------


def test_the_nearest_value_of_a_key_is_found_first():
    outer = with_value(background(), "user", "ann")
    middle = with_cancel(with_value(outer, "tenant", 7))
    inner = with_value(middle, "user", "bob")
    leaf = with_timeout(inner, 3600)
    assert [c.value("user") for c in (outer, middle, inner, leaf)] == ["ann", "ann", "bob", "bob"]
    assert leaf.value("tenant") == 7
    assert outer.value("tenant") is None
    assert leaf.value("nobody") is None
    leaf.cancel()
    assert leaf.value("user") == "bob"  # being done takes nothing away


def test_keys_are_compared_as_dictionaries_do_and_none_hides_what_is_above():
    class Key:
        def __eq__(self, other):
            return isinstance(other, Key)

        def __hash__(self):
            return 1

    ctx = with_value(with_value(background(), Key(), "found"), ("a", 1), "tuple")
    assert ctx.value(Key()) == "found"
    assert ctx.value(("a", 1)) == "tuple"
    assert with_value(ctx, Key(), None).value(Key()) is None


def test_tasks_inherit_the_values_of_the_managers_context_alone():
    with with_timeout(with_value(background(), "key", "value"), 3600) as parent:
        ctx = with_cancel(ManagerValues(parent, lambda: False))
        assert ctx.value("key") == "value"
        assert ctx.deadline() is None
        parent.cancel()
        assert not ctx.cancelled()
        assert (
            parent._followers is ctx._parent._followers is None
        )  # nor does what never ends keep what may


# -- callbacks -----------------------------------------------------------------------------------------------------


def test_callbacks_run_once_in_order_and_in_the_thread_that_cancels():
    ctx = with_cancel(background())
    first, second = with_cancel(ctx), with_cancel(ctx)
    calls = []
    for name, context in (("b1", second), ("1", ctx), ("a1", first), ("2", ctx), ("a2", first)):
        context.on_done(lambda name=name: calls.append((name, threading.current_thread())))
    in_another_thread(ctx.cancel)
    ctx.cancel()
    assert [name for name, _ in calls] == ["1", "2", "a1", "a2", "b1"]
    assert len({thread for _, thread in calls}) == 1
    assert calls[0][1] is not threading.current_thread()


def test_a_callback_sees_the_context_done_and_those_below_it_too():
    ctx = with_cancel(background())
    child = with_cancel(ctx)
    seen = []
    why = OSError()
    ctx.on_done(lambda: seen.append((ctx.cancelled(), child.cancelled(), ctx.cause())))
    ctx.cancel(why)
    assert seen == [(True, True, why)]


def test_on_done_of_an_ended_context_calls_at_once_and_here():
    ctx = with_cancel(background())
    ctx.cancel()
    calls = []
    take_back = ctx.on_done(lambda: calls.append(threading.current_thread()))
    assert calls == [threading.current_thread()]
    assert take_back() is False


def test_a_callback_that_is_taken_back_in_time_never_runs():
    ctx = with_cancel(background())
    calls = []
    take_back = ctx.on_done(lambda: calls.append("taken back"))
    late = ctx.on_done(lambda: calls.append("kept"))
    assert take_back() is True
    assert take_back() is False
    ctx.cancel()
    assert calls == ["kept"]
    assert late() is False


def test_taking_back_one_of_two_equal_callbacks_leaves_the_other():
    class Equal:
        def __init__(self, name):
            self.name = name

        def __call__(self):
            calls.append(self.name)

        def __eq__(self, other):
            raise AssertionError("callbacks are compared by identity")

        __hash__ = None

    ctx = with_cancel(background())
    calls = []
    same = Equal("same")
    take_back = ctx.on_done(same)
    ctx.on_done(same)
    other = ctx.on_done(Equal("other"))
    assert take_back() is True
    assert take_back() is False  # and not the second registration of the same
    assert other() is True
    ctx.cancel()
    assert calls == ["same"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(1)])
def test_a_callback_that_raises_is_logged_and_the_rest_run(error, caplog):
    def fail():
        raise error

    def use():
        ctx = with_cancel(background())
        ctx.on_done(fail)
        with_cancel(ctx).on_done(lambda: calls.append(1))
        ctx.cancel()
        assert calls == [1]
        assert len(caplog.records) == 1
        assert repr(error).partition("(")[0] in caplog.text
        ctx.on_done(fail)  # done already: here, and guarded as well
        assert len(caplog.records) == 2

    calls = []
    with caplog.at_level(logging.DEBUG, "tasker"):  # as the second one is told
        in_another_thread(use)  # in the main one the last two are raised


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_an_interrupt_that_comes_in_a_callback_is_raised_when_the_rest_has_run(error, caplog):
    """A signal handler raises in the main thread, wherever that is."""

    def fail():
        raise error

    ctx = with_cancel(background())
    calls = []
    ctx.on_done(fail)
    with_cancel(ctx).on_done(lambda: calls.append(1))
    with_cancel(ctx).on_done(fail)
    with_cancel(ctx).on_done(lambda: calls.append(2))
    with pytest.raises(type(error)):
        ctx.cancel()
    assert calls == [1, 2]
    with pytest.raises(type(error)):
        ctx.on_done(fail)
    assert caplog.records == []


def test_a_logger_that_raises_does_not_keep_the_rest_from_running():
    def broken(record):
        raise OSError("disk full")

    logger = logging.getLogger("tasker")
    logger.addFilter(broken)
    try:
        ctx = with_cancel(background())
        calls = []
        ctx.on_done(lambda: 1 / 0)
        ctx.on_done(lambda: calls.append(1))
        ctx.cancel()
    finally:
        logger.removeFilter(broken)
    assert calls == [1]


@pytest.mark.parametrize("how", ["cancel", "parent", "deadline"])
def test_callbacks_run_under_no_lock(how):
    parent = with_cancel(background())
    ctx = with_timeout(parent, 3600)
    child = with_cancel(ctx)
    results, done = [], threading.Event()

    def use_everything():
        calls = []
        for context in (ctx, child):
            context.cancel()
            context.wait()
            context.on_done(lambda: calls.append(1))()
            assert with_cancel(context).cancelled()
        with with_timeout(parent, 3600) as other:
            other.on_done(lambda: calls.append(2))
        parent.cancel()
        return calls

    def callback():
        results.append(use_everything())
        results.append(in_another_thread(use_everything))
        done.set()

    child.on_done(callback)
    {"cancel": ctx.cancel, "parent": parent.cancel, "deadline": lambda: pass_deadline(ctx)}[how]()
    assert done.wait(PATIENCE)
    assert results == [[1, 1, 2]] * 2


# -- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", MAKERS)
def test_cancelling_frees_a_child_from_its_parent(make):
    with with_cancel(background()) as parent:
        child = make(parent)
        assert list(told_by(parent).children) == [child]
        watch = weakref.ref(child)
        child.cancel()
        assert told_by(parent).children == {}
        del child
        gc.collect()
        assert watch() is None


def test_a_parent_keeps_a_live_child_until_it_is_done():
    parent = with_cancel(background())
    calls = []
    with_cancel(parent).on_done(lambda: calls.append(1))
    gc.collect()
    parent.cancel()
    assert calls == [1]


def test_an_ended_context_keeps_neither_callbacks_nor_children():
    class Thing:
        def __call__(self):
            pass

    ctx = with_timeout(background(), 3600)
    thing, child = Thing(), with_cancel(ctx)
    watches = [weakref.ref(thing), weakref.ref(child)]
    ctx.on_done(thing)
    ctx.cancel()
    del thing, child
    gc.collect()
    assert [watch() for watch in watches] == [None, None]


def test_chains_of_five_thousand_contexts_end_are_asked_and_die_without_recursion():
    root = ctx = with_value(background(), "root", "found")
    for i in range(5_000):
        ctx = with_value(ctx, i, i) if i % 2 else with_cancel(ctx)
    deep = with_timeout(ctx, 3600)
    assert deep.value("root") == "found"
    assert deep.value("nobody") is None
    assert deep.stopping() is False
    calls = []
    deep.on_done(lambda: calls.append(1))
    root.cancel()
    assert deep.cancelled()
    assert calls == [1]
    watch = weakref.ref(ctx)
    del ctx, deep, root
    gc.collect()
    assert watch() is None


# -- tasks' contexts, wrong arguments ------------------------------------------------------------------------------


def test_stopping_is_asked_of_the_manager_through_any_number_of_derived_contexts():
    draining = []
    task = new_task_context(
        ManagerValues(with_value(background(), "key", "value"), lambda: bool(draining))
    )
    derived = with_value(with_cancel(task), "other", 1)
    assert not task.stopping()
    assert not derived.stopping()
    assert derived.value("key") == "value"
    draining.append(1)
    assert task.stopping()
    assert derived.stopping()
    assert not with_cancel(background()).stopping()


def test_a_tasks_context_has_its_own_deadline_and_all_values_of_the_managers():
    manager = ManagerValues(
        with_value(with_value(background(), "", "empty"), "key", "value"), lambda: False
    )
    task = new_task_context(manager, time.monotonic() + 60)
    assert (task.value(""), task.value("key"), task.value("other")) == ("empty", "value", None)
    assert with_timeout(task, 3600).deadline() == task.deadline()
    assert 0 < task.remaining() <= 60
    assert new_task_context(manager).deadline() is None


def test_wrong_arguments_are_refused_by_name_and_change_nothing():
    parents = "parent must be a Context"
    table = [
        *(
            (lambda p=p: with_cancel(p), TypeError, parents)
            for p in (None, 0, "background", background, Context)
        ),
        *((lambda p=p: with_value(p, "k", 1), TypeError, parents) for p in (None, 0)),
        *((lambda p=p: with_timeout(p, 1), TypeError, parents) for p in (None, 0)),
        *((lambda p=p: with_deadline(p, 1e9), TypeError, parents) for p in (None, 0)),
        *(
            (lambda s=s: with_timeout(background(), s), ConfigError, "seconds must be")
            for s in (-1, -0.001, float("nan"), float("-inf"), None, "1", True, 1j)
        ),
        *(
            (lambda t=t: with_deadline(background(), t), TypeError, "monotonic must be a time")
            for t in (float("nan"), None, "1", True, 1j)
        ),
        (lambda: with_value(background(), None, 1), TypeError, "key must not be None"),
        *(
            (lambda t=t: with_cancel(background()).wait(t), ConfigError, "timeout must be")
            for t in (-1, float("nan"), "1", True)
        ),
        *(
            (lambda c=c: with_cancel(background()).on_done(c), TypeError, "callback must be")
            for c in (None, 1, "f")
        ),
        *(
            (lambda c=c: background().on_done(c), TypeError, "callback must be")
            for c in (None, 1, "f")
        ),
        *(
            (
                lambda c=c: with_cancel(background()).cancel(c),
                TypeError,
                "cause must be an exception",
            )
            for c in ("why", OSError, 1)
        ),
    ]
    before = len(live_entries())
    for call, error, says in table:
        with pytest.raises(error, match=says):
            call()
    assert len(live_entries()) == before


def test_a_refused_cause_leaves_the_context_live():
    ctx = with_cancel(background())
    with pytest.raises(TypeError):
        ctx.cancel("why")
    assert not ctx.cancelled()


class EndsWhenLookedAt:
    """A context that a kill ends while it is looked at."""

    def __init__(self):
        self.context = with_cancel(background())

    def err(self):
        try:
            return self.context.err()
        finally:
            self.context.cancel(TaskManagerKilledError("killed"))

    def cause(self):
        try:
            return self.context.cause()
        finally:
            self.context.cancel(TaskManagerKilledError("killed"))

    def raise_if_done(self):
        self.context.raise_if_done()


def test_a_call_begins_or_is_killed_when_a_kill_comes_as_that_is_decided():
    context = EndsWhenLookedAt()
    check_may_begin(context)
    with pytest.raises(TaskManagerKilledError, match="killed"):
        check_may_begin(context)

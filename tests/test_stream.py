"""`TaskManager.map`: its window, its ends, its errors, chunks, and all the places from which it may be asked."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import gc
import itertools
import operator
import os
import signal
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Iterator

import pytest

import tasker
from tasker import (
    Config,
    ConfigError,
    ContextCancelledError,
    PoolDeadlockError,
    QueueFullError,
    TaskManager,
    TaskManagerKilledError,
    TaskManagerShutdownError,
    TaskTimeoutError,
    current_context,
    deadlock,
)
from tasker.parking import gil_enabled
from tasker.signature import wants_context
from tasker.testing import ManualClock
from tests.conftest import PATIENCE, Sick, eventually
from tests.test_interrupts import Interrupter

ORDERS = pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
CHUNKS = pytest.mark.parametrize("chunksize", [1, 3])
KINDS = [{"ordered": True}, {"ordered": False}, {"chunksize": 3}, {"chunksize": 3, "ordered": False}]
EVERY_KIND = pytest.mark.parametrize("kind", KINDS, ids=["ordered", "unordered", "chunks", "chunks unordered"])


class Failure(Exception):
    pass


class InputError(Exception):
    pass


def double(resource, item):
    return item * 2


def fail(resource, item):
    raise Failure(item)


def fail_at(*bad, error=Failure):
    def function(resource, item):
        if item in bad:
            raise error(item)
        return item

    return function


class Input:
    """An input that counts what is taken of it; `error` is raised after the last."""

    def __init__(self, items, error=None):
        self.items = iter(items)
        self.error = error
        self.taken = 0

    def __iter__(self):
        return self

    def __next__(self):
        for item in self.items:
            self.taken += 1
            return item
        if self.error is not None:
            raise self.error
        raise StopIteration


class Hold:
    """A function that returns at once for the items in `free`, and for others when its context is cancelled."""

    def __init__(self, *free):
        self.free = free
        self.started = []
        self.cancelled = []
        self.holds = threading.Event()

    def __call__(self, ctx, resource, item):
        self.started.append(item)
        if item not in self.free:
            self.holds.set()
            assert ctx.wait(PATIENCE), "the context was not cancelled"
            self.cancelled.append(item)
        return item


@contextlib.contextmanager
def deadline_passes_once(hold, seconds):
    """As soon as an item is held so many seconds pass, and no more: deadlines set from then on, too, have time."""
    with ManualClock() as clock:
        passing = in_thread(lambda: hold.holds.wait(PATIENCE) and clock.advance(seconds))
        yield
        passing.join(PATIENCE)


class Gated:
    """A function that waits at a gate."""

    def __init__(self):
        self.gate = threading.Event()
        self.runs = threading.Event()
        self.started = []

    def __call__(self, resource, item):
        self.started.append(item)
        self.runs.set()
        assert self.gate.wait(PATIENCE)
        return item


class Sickly:
    """A function that breaks the resource at an item so many times. Counts the runs of each item."""

    def __init__(self, times):
        self.left = dict(times)
        self.runs = Counter()
        self.resources = {}

    def __call__(self, resource, item):
        self.runs[item] += 1
        assert not resource.broken
        self.resources.setdefault(item, []).append(resource)
        if self.left.get(item, 0):
            self.left[item] -= 1
            resource.broken = True
            raise Sick(item)
        return item


@pytest.fixture
def gated():
    gated = Gated()
    yield gated
    gated.gate.set()


def take(stream, count):
    return list(itertools.islice(stream, count))


def until_error(stream):
    """What a stream hands out before it raises, and what it raises."""
    results = []
    try:
        results.extend(stream)  # keeps what came before
    except BaseException as error:
        return results, error
    return results, None


def in_thread(fn):
    thread = threading.Thread(target=fn)
    thread.start()
    return thread


# -- what it is ------------------------------------------------------------------------------------------------------


@EVERY_KIND
@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_every_item_has_its_result(make, kind, count):
    results = list(make(worker_count=3).map(double, range(count), **kind))
    assert (results if kind.get("ordered", True) else sorted(results)) == [2 * i for i in range(count)]


@CHUNKS
def test_the_context_comes_first_if_the_function_requires_it(make, chunksize):
    manager = make()

    def with_context(ctx, resource, item):
        assert ctx is current_context()
        assert resource is manager.current_resource()
        return item

    assert list(manager.map(with_context, "abcd", chunksize=chunksize)) == list("abcd")


@CHUNKS
def test_a_default_is_left_alone(make, chunksize):
    assert list(make().map(lambda resource, item, more=1: item + more, [1, 2], chunksize=chunksize)) == [2, 3]


def test_items_may_be_anything_that_can_be_iterated(make):
    class Old:
        def __getitem__(self, index):
            return "xyz"[index]

    manager = make()
    for items in ("xyz", ["x", "y", "z"], dict.fromkeys("xyz"), iter("xyz"), (c for c in "xyz"), Old()):
        assert list(manager.map(lambda _, item: item, items)) == ["x", "y", "z"]


def test_a_stream_is_an_iterator(make):
    stream = make().map(double, range(4))
    assert isinstance(stream, Iterator)
    assert next(stream) == 0
    assert list(stream) == [2, 4, 6]
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(stream)


def test_a_stream_is_the_input_of_another(make):
    manager = make()
    stream = manager.map(double, manager.map(double, range(50)))
    assert len(stream) == 50
    assert list(stream) == [4 * i for i in range(50)]


@ORDERS
def test_results_come_in_the_order_of_the_items_or_as_they_are_there(make, ordered, gated):
    def first_waits(resource, item):
        return gated(resource, item) if item == 0 else item

    stream = make(worker_count=2).map(first_waits, range(5), ordered=ordered)
    if not ordered:
        assert sorted(take(stream, 4)) == [1, 2, 3, 4]
    gated.gate.set()
    assert list(stream) == ([0, 1, 2, 3, 4] if ordered else [0])


def test_the_function_runs_in_the_variables_of_whoever_asks(make):
    variable = contextvars.ContextVar("variable", default=0)
    variable.set(1)
    assert list(make().map(lambda _, item: variable.get() + item, range(3))) == [1, 2, 3]


def test_priority_items_overtake(make, gated):
    manager = make(worker_count=1, max_worker_count=1)
    ran = []
    manager.submit(gated, None)
    assert gated.runs.wait(PATIENCE)
    main = manager.map(lambda _, item: ran.append(item), "ab")
    urgent = manager.map(lambda _, item: ran.append(item), "cd", priority=True)
    gated.gate.set()
    assert list(main) == list(urgent) == [None, None]
    assert ran == list("cdab")


# -- the window ------------------------------------------------------------------------------------------------------


def filled(taken, handed_out, window, chunksize):
    """How much is taken when all that there is room for is."""
    while window - (taken - handed_out) >= chunksize:
        taken += chunksize
    return taken


@ORDERS
@pytest.mark.parametrize("chunksize", [1, 2, 5])
@pytest.mark.parametrize("window", [None, 1, 2, 5, 11])
def test_exactly_so_many_items_are_taken_and_not_handed_out(make, ordered, chunksize, window):
    if window is not None and window < chunksize:
        pytest.skip("refused")
    manager = make(worker_count=2, max_worker_count=3)
    items = Input(itertools.count())
    stream = manager.map(double, items, max_in_flight=window, ordered=ordered, chunksize=chunksize)
    window = window or 4 * 3 * chunksize
    taken = filled(0, 0, window, chunksize)
    assert items.taken == taken, "at the call"
    for asked in range(40):
        taken = filled(taken, asked, window, chunksize)
        next(stream)
        assert items.taken == taken
        assert taken - asked <= window
    stream.close()
    assert items.taken == taken


@ORDERS
@CHUNKS
def test_items_that_end_in_errors_take_as_much_room_as_others(make, ordered, chunksize):
    items = Input(range(30))
    stream = make().map(fail, items, max_in_flight=7, ordered=ordered, chunksize=chunksize, return_exceptions=True)
    for asked in range(30):
        assert items.taken - asked <= 7
        assert isinstance(next(stream), Failure)
    assert items.taken == 30
    assert list(stream) == []


@EVERY_KIND
def test_nothing_is_taken_while_nobody_asks(make, kind):
    manager = make()
    items = Input(itertools.count())
    stream = manager.map(double, items, max_in_flight=6, **kind)
    assert manager.join(PATIENCE)
    assert items.taken == 6
    stream.close()


@EVERY_KIND
def test_an_endless_input_is_no_difficulty(make, kind):
    stream = make().map(double, itertools.count(), **kind)
    assert len(take(stream, 500)) == 500
    stream.close()


def test_the_input_is_not_asked_again_after_its_end(make):
    class Ends:
        asked = 0

        def __iter__(self):
            return self

        def __next__(self):
            self.asked += 1
            assert self.asked <= 4
            if self.asked == 4:
                raise StopIteration
            return self.asked

    for kind in KINDS:
        assert sorted(make().map(double, Ends(), **kind)) == [2, 4, 6]


def test_a_window_of_any_size_is_taken(make):
    manager = make()
    for size in (sys.maxsize, 10**400):
        assert list(manager.map(double, range(3), max_in_flight=size)) == [0, 2, 4]
        assert list(manager.map(double, range(3), chunksize=size)) == [0, 2, 4]


# -- how it ends -----------------------------------------------------------------------------------------------------


def close(stream):
    stream.close()


def close_twice(stream):
    stream.close()
    stream.close()


def leave_block(stream):
    with stream as same:
        assert same is stream


def leave_block_by_error(stream):
    with contextlib.suppress(Failure), stream:
        raise Failure


ENDS = {"closed": close, "closed twice": close_twice, "left": leave_block, "left by an error": leave_block_by_error}


@pytest.mark.parametrize("asked", [0, 1], ids=["never asked", "asked once"])
@pytest.mark.parametrize("end", [*ENDS, "dropped"])
@EVERY_KIND
def test_whoever_ends_it_cancels_what_is_left(make, kind, end, asked):
    manager = make(worker_count=1, max_worker_count=1)
    size = kind.get("chunksize", 1)
    hold = Hold(*range(size))
    items = Input(itertools.count())
    stream = manager.map(hold, items, max_in_flight=4 * size, **kind)
    assert take(stream, asked) == list(range(asked))
    assert hold.holds.wait(PATIENCE)
    if end == "dropped":
        del stream
    else:
        ENDS[end](stream)
    assert manager.join(PATIENCE)
    assert hold.started == list(range(size + 1)), "what was queued has started"
    assert hold.cancelled == [size]
    assert items.taken == 4 * size
    assert manager.metrics().total_tasks_cancelled == 2
    if end != "dropped":
        assert list(stream) == []


@EVERY_KIND
def test_a_loop_that_is_left_cancels_what_is_left(make, kind):
    manager = make(worker_count=1, max_worker_count=1)
    size = kind.get("chunksize", 1)
    hold = Hold(*range(size))
    for result in manager.map(hold, itertools.count(), **kind):
        assert result == 0
        break
    assert manager.join(PATIENCE)
    assert hold.started in ([*range(size)], [*range(size + 1)])


@EVERY_KIND
def test_an_error_that_leaves_ends_it_and_cancels_what_is_left(make, kind):
    manager = make(worker_count=1, max_worker_count=1)
    hold = Hold()

    def function(ctx, resource, item):
        return fail(resource, item) if item == 0 else hold(ctx, resource, item)

    items = Input(itertools.count())
    stream = manager.map(function, items, max_in_flight=12, **kind)
    with pytest.raises(Failure):
        next(stream)
    assert list(stream) == []
    assert manager.join(PATIENCE)
    assert hold.started == hold.cancelled
    assert len(hold.started) <= 1
    assert items.taken == 12


@EVERY_KIND
def test_an_interrupt_from_the_input_ends_it_at_once(make, kind):
    """As Ctrl-C while an item is made."""
    manager = make(worker_count=1, max_worker_count=1)
    size = kind.get("chunksize", 1)
    hold = Hold(*range(size))
    stream = manager.map(hold, Input(range(4 * size), KeyboardInterrupt()), max_in_flight=4 * size, **kind)
    assert hold.holds.wait(PATIENCE)
    with pytest.raises(KeyboardInterrupt):
        take(stream, size + 1)
    assert list(stream) == []
    assert manager.join(PATIENCE)
    assert hold.started == list(range(size + 1))
    assert hold.cancelled == [size]


@pytest.fixture
def ctrl_c():
    """SIGINT raises KeyboardInterrupt, also where the tests are a job in the background, which ignores it."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signal can be sent to a thread here")
@ORDERS
@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_it_sleeps_ends_it(make, ordered):
    manager = make(worker_count=1, max_worker_count=1)
    main, asked = threading.get_ident(), threading.Event()

    def items():
        yield from range(3)
        asked.set()  # by next(), which returns nothing before the interrupt
        yield 3

    cancelled = []

    def function(ctx, resource, item):
        if item:
            assert asked.wait(PATIENCE)
            for _ in range(int(PATIENCE)):
                signal.pthread_kill(main, signal.SIGINT)
                if ctx.wait(1.0):
                    break  # else it came between Python's last look for signals and the sleep, and was not seen
            cancelled.append(ctx.cancelled())
        return item

    stream = manager.map(function, items(), max_in_flight=3, ordered=ordered)
    assert next(stream) == 0
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    assert list(stream) == []
    assert manager.join(PATIENCE)
    assert cancelled == [True]


@pytest.mark.skipif(sys.gettrace() is not None, reason="a debugger or a coverage tool traces this thread")
@pytest.mark.usefixtures("no_collection")
@ORDERS
@CHUNKS
def test_ctrl_c_at_every_moment_of_asking_cancels_what_is_left(make, ordered, chunksize):
    # a short tick: it wakes the worker whose wake-up was interrupted
    manager = make(worker_count=1, max_worker_count=1, burst_interval=0.002)
    assert manager.wait_ready(PATIENCE)
    moment, interrupted = 0, True
    while interrupted:
        moment += 1
        first, second, running = range(chunksize), range(chunksize, 2 * chunksize), 2 * chunksize
        in_between = range(4 * chunksize, 5 * chunksize)  # what is being submitted may have been accepted
        hold = Hold(*first, *second, *in_between)
        stream = manager.map(hold, itertools.count(), max_in_flight=4 * chunksize, ordered=ordered, chunksize=chunksize)
        results = iter(stream)
        assert take(results, chunksize) == list(first)
        assert hold.holds.wait(PATIENCE)
        with Interrupter(moment, everywhere=False) as interrupter, contextlib.suppress(KeyboardInterrupt):
            assert next(results) == second[0]
        interrupted = interrupter.where is not None
        if interrupted:
            assert list(results) == [], interrupter.where
        stream.close()
        assert manager.join(PATIENCE), interrupter.where
        assert hold.cancelled[:1] == [running], interrupter.where
        assert set(hold.started) <= {*first, *second, running, *in_between}, interrupter.where
        m = manager.metrics()
        assert m.total_tasks_arrived == m.total_tasks_completed + m.total_tasks_failed + m.total_tasks_cancelled
    assert moment > 5, "no trace function was called"


@pytest.mark.skipif(sys.gettrace() is not None, reason="a debugger or a coverage tool traces this thread")
@pytest.mark.usefixtures("no_collection")
@ORDERS
@CHUNKS
def test_ctrl_c_at_every_moment_of_the_call_cancels_what_is_left(make, ordered, chunksize):
    manager = make(worker_count=1, max_worker_count=1, burst_interval=0.002)
    started = []

    def run(resource, item):
        started.append(item)

    moment, interrupted = 0, True
    while interrupted:
        moment += 1
        gated = Gated()
        manager.submit(gated, None)
        assert gated.runs.wait(PATIENCE)
        started.clear()
        options = {"max_in_flight": 2 * chunksize, "ordered": ordered, "chunksize": chunksize}
        stream = None
        with Interrupter(moment, everywhere=False) as interrupter, contextlib.suppress(KeyboardInterrupt):
            stream = manager.map(run, itertools.count(), **options)
        interrupted = interrupter.where is not None
        interrupter.last.clear()  # or its frames would keep the stream
        if stream is not None:
            stream.close()
        gated.gate.set()
        assert manager.join(PATIENCE), interrupter.where
        # nothing, or what was being submitted and had been accepted
        assert started in ([], [*range(chunksize)], [*range(chunksize, 2 * chunksize)]), interrupter.where
        m = manager.metrics()
        assert m.total_tasks_arrived == m.total_tasks_completed + m.total_tasks_failed + m.total_tasks_cancelled
    assert started == []
    assert moment > 15, "no trace function was called"


# -- errors ----------------------------------------------------------------------------------------------------------


@EVERY_KIND
def test_an_items_error_is_raised_in_its_place(make, kind):
    results, error = until_error(make().map(fail_at(5), range(50), **kind))
    assert isinstance(error, Failure)
    assert error.args == (5,)
    if kind.get("ordered", True):
        assert results == [0, 1, 2, 3, 4]
    assert 5 not in results


@EVERY_KIND
def test_exceptions_are_handed_out_in_their_place_if_asked_for(make, kind):
    results = list(make().map(fail_at(0, 5, 6, 7, 19), range(20), return_exceptions=True, **kind))
    plain = [item.args[0] if isinstance(item, Failure) else item for item in results]
    if not kind.get("ordered", True):
        plain.sort()
    assert plain == list(range(20))
    assert {item.args[0] for item in results if isinstance(item, Failure)} == {0, 5, 6, 7, 19}


def test_the_traceback_of_an_items_error_ends_in_the_function(make):
    for kind in KINDS:
        with pytest.raises(Failure) as raised:
            list(make().map(fail, range(3), **kind))
        assert raised.traceback[-1].name == "fail"
        assert "_run_chunk" not in [entry.name for entry in raised.traceback]


@EVERY_KIND
def test_results_come_before_the_error_of_the_input(make, kind):
    stream = make().map(double, Input(range(7), InputError()), max_in_flight=3, **kind)
    results, error = until_error(stream)
    assert sorted(results) == [0, 2, 4, 6, 8, 10, 12]
    assert isinstance(error, InputError)
    assert list(stream) == []


@EVERY_KIND
def test_an_error_of_the_input_before_there_is_an_item_is_raised_at_the_call(make, kind):
    with pytest.raises(InputError):
        make().map(double, Input([], InputError()), **kind)


@EVERY_KIND
def test_an_items_error_comes_before_that_of_the_input(make, kind):
    _, error = until_error(make().map(fail, Input(range(4), InputError()), **kind))
    assert isinstance(error, Failure)


@EVERY_KIND
def test_of_an_input_that_has_raised_the_results_may_be_left_alone(make, kind):
    stream = make().map(double, Input(range(4), InputError()), max_in_flight=60, **kind)
    next(stream)
    stream.close()
    assert list(stream) == []


@EVERY_KIND
def test_a_closed_manager_refuses_at_the_call(make, kind):
    manager = make()
    manager.stop()
    items = Input(range(9))
    with pytest.raises(TaskManagerShutdownError):
        manager.map(double, items, **kind)
    assert items.taken <= kind.get("chunksize", 1)


@EVERY_KIND
def test_results_come_before_the_refusal_of_a_manager_that_was_stopped_meanwhile(make, kind):
    manager = make()
    stream = manager.map(double, itertools.count(), max_in_flight=6, **kind)
    first = next(stream)
    assert manager.stop().drained
    results, error = until_error(stream)
    assert sorted([first, *results]) == [0, 2, 4, 6, 8, 10]
    assert isinstance(error, TaskManagerShutdownError)


def test_what_is_refused_between_two_looks_at_the_closing_is_never_waited_for(make, gated):
    """The queue closes while a submission is under way: its arrival is told, yet nothing of it is in flight."""
    manager = make(worker_count=1, max_worker_count=1)
    queue = manager._engine.queue
    stream = manager.map(gated, itertools.count(), max_in_flight=2, ordered=False)
    put = queue.put

    def close_then_put(task):
        queue.put = put
        gated.gate.set()
        manager._engine.lifecycle.request_stop()
        eventually(lambda: queue.closed)
        put(task)

    gated.gate.set()
    assert next(stream) == 0
    queue.put = close_then_put
    results, error = until_error(stream)
    assert results == [1]
    assert isinstance(error, TaskManagerShutdownError)


class Falsy(Exception):  # as an empty collection
    def __len__(self):
        return 0


@EVERY_KIND
def test_an_error_that_is_false_is_an_error(make, kind):
    with pytest.raises(Falsy):
        list(make().map(fail_at(2, error=Falsy), range(4), **kind))
    with pytest.raises(Falsy):
        list(make().map(double, Input(range(4), Falsy()), **kind))


@EVERY_KIND
def test_a_stop_iteration_of_an_item_does_not_pass_for_the_end(make, kind):
    with pytest.raises(RuntimeError, match="StopIteration") as raised:
        list(make().map(fail_at(2, error=StopIteration), range(4), **kind))
    assert isinstance(raised.value.__cause__, StopIteration)


def test_a_failure_of_what_was_in_flight_is_not_logged(make, log):
    manager = make()
    with pytest.raises(Failure):
        list(manager.map(fail, range(20)))
    gc.collect()
    assert manager.join(PATIENCE)
    assert log.loud() == []


# -- retries, timeouts, chunks ---------------------------------------------------------------------------------------


@ORDERS
@CHUNKS
def test_an_item_that_broke_its_resource_runs_again_on_another_and_no_other_does(make, ordered, chunksize):
    function = Sickly({1: 1, 4: 2})
    manager = make(worker_count=1, max_worker_count=1)
    results = list(manager.map(function, range(7), ordered=ordered, chunksize=chunksize))
    assert sorted(results) == list(range(7))
    assert function.runs == {0: 1, 1: 2, 2: 1, 3: 1, 4: 3, 5: 1, 6: 1}
    assert len(set(function.resources[4])) == 3
    if chunksize == 3:  # the rest of a chunk follows on the new resource
        assert function.resources[2] == function.resources[1][1:]
    assert manager.metrics().total_tasks_retried == 3


@ORDERS
@CHUNKS
def test_once_an_item_that_broke_its_resource_does_not_run_again(make, ordered, chunksize):
    function = Sickly({1: 1, 4: 1})
    options = {"once": True, "ordered": ordered, "chunksize": chunksize, "return_exceptions": True}
    results = list(make().map(function, range(7), **options))
    assert function.runs == dict.fromkeys(range(7), 1)
    assert Counter(type(result) for result in results) == {int: 5, Sick: 2}


@ORDERS
def test_no_item_of_a_chunk_runs_again_because_of_another_one(make, ordered):
    runs = Counter()

    def function(resource, item):
        runs[item] += 1
        if item % 3 == 1:
            raise Failure(item)
        return item

    results = list(make().map(function, range(50), chunksize=10, ordered=ordered, return_exceptions=True))
    assert len(results) == 50
    assert set(runs.values()) == {1}


def test_a_chunk_ends_with_the_first_error_if_that_leaves(make):
    ran = []

    def function(resource, item):
        ran.append(item)
        return fail_at(2)(resource, item)

    manager = make(worker_count=1, max_worker_count=1)
    results, error = until_error(manager.map(function, range(5), chunksize=5))
    assert (results, error.args, ran) == ([0, 1], (2,), [0, 1, 2])


def test_nothing_more_is_taken_while_the_results_before_an_error_are_handed_out(make):
    items = Input(itertools.count())
    stream = make(worker_count=1, max_worker_count=1).map(fail_at(2), items, chunksize=3, max_in_flight=4)
    assert until_error(stream)[0] == [0, 1]
    assert items.taken == 3


@ORDERS
def test_a_last_chunk_may_be_short(make, ordered):
    manager = make()
    assert sorted(manager.map(double, range(11), chunksize=4, ordered=ordered)) == [2 * i for i in range(11)]
    assert manager.metrics().total_tasks_completed == 3


def test_the_timeout_is_an_items(make):
    manager = make(worker_count=1, max_worker_count=1)
    hold = Hold(0, 2)
    with deadline_passes_once(hold, 1):
        results = list(manager.map(hold, range(3), timeout=1, max_in_flight=1, return_exceptions=True))
    assert [type(result) for result in results] == [int, TaskTimeoutError, int]


@ORDERS
def test_an_item_that_waits_too_long_never_starts(make, ordered, gated):
    manager = make(worker_count=1, max_worker_count=1)
    manager.submit(gated, "first")
    assert gated.runs.wait(PATIENCE)
    results = list(manager.map(gated, range(3), timeout=0.01, ordered=ordered, return_exceptions=True))
    assert [type(result) for result in results] == [TaskTimeoutError] * 3
    gated.gate.set()
    assert manager.join(PATIENCE)
    assert gated.started == ["first"]


@ORDERS
def test_the_timeout_of_a_chunk_hits_the_item_that_runs_then(make, ordered):
    hold = Hold(0, 2, 3)
    manager = make(worker_count=1, max_worker_count=1)
    with deadline_passes_once(hold, 4):
        results = list(manager.map(hold, range(4), timeout=1, chunksize=4, ordered=ordered, return_exceptions=True))
    assert [type(result) for result in results] == [int, TaskTimeoutError, int, int]
    assert hold.started == [0, 1, 2, 3]
    hold = Hold(0)
    with deadline_passes_once(hold, 4), pytest.raises(TaskTimeoutError):
        list(manager.map(hold, range(4), timeout=1, chunksize=4, ordered=ordered))
    assert manager.join(PATIENCE)
    assert hold.started == [0, 1]


def test_what_an_item_of_a_chunk_returns_too_late_is_not_handed_out(make):
    """Nor does the next item get the timeout in its place."""
    manager = make(worker_count=1, max_worker_count=1)
    engine, (worker,) = manager._engine, manager._engine.crew.members
    record_failure = engine.record_failure

    def let_the_item_return_first(*args, **named):  # its context has ended, its future has not
        eventually(lambda: worker.seat.parked)
        record_failure(*args, **named)

    engine.record_failure = let_the_item_return_first
    hold = Hold(0, 2)
    with deadline_passes_once(hold, 3):
        results = list(manager.map(hold, range(3), timeout=1, chunksize=3, return_exceptions=True))
    assert [type(result) for result in results] == [int, TaskTimeoutError, int]
    assert hold.started == [0, 1, 2]


def test_a_chunk_has_the_time_of_all_its_items(make):
    manager = make()

    def time_left(ctx, resource, item):
        return ctx.remaining()

    remaining = list(manager.map(time_left, range(4), timeout=1000, chunksize=4))
    assert all(3000 < left <= 4000 for left in remaining)


@pytest.mark.parametrize("order", ["in order", "as they come"])
def test_the_rest_of_a_chunk_that_is_refused_ends_the_stream(make, gated, order):
    """In the order of the input before anything beyond the gap; otherwise when all else is handed out."""
    ordered = order == "in order"
    manager = make(worker_count=2, max_worker_count=2)

    def function(resource, item):
        if item == 1:
            gated(resource, item)
            raise Failure(item)
        return item

    stream = manager.map(function, range(6), chunksize=3, ordered=ordered, return_exceptions=True)
    assert gated.runs.wait(PATIENCE)
    eventually(lambda: manager.metrics().total_tasks_completed == 1)
    stopper = in_thread(manager.stop)
    eventually(lambda: "stopping" in repr(manager))
    gated.gate.set()
    stopper.join(PATIENCE)
    results, error = until_error(stream)
    assert isinstance(error, TaskManagerShutdownError)
    numbers = [-1 if isinstance(result, Failure) else result for result in results]
    assert numbers == ([0, -1] if ordered else [3, 4, 5, 0, -1])


# -- its length ------------------------------------------------------------------------------------------------------


@EVERY_KIND
def test_it_has_a_length_when_its_input_has_one(make, kind):
    manager = make()
    for items in ([1, 2, 3], "abc", {1, 2, 3}, range(3)):
        stream = manager.map(double, items, **kind)
        assert len(stream) == 3
        assert bool(stream)
        next(stream)
        assert len(stream) == 3, "that of all items"
        assert len(list(stream)) == 2
        assert len(stream) == 3
    empty = manager.map(double, [], **kind)
    assert len(empty) == 0
    assert not empty
    assert list(empty) == []


class BoundlessDataset:
    def __iter__(self):
        return iter(range(3))

    def __len__(self):
        raise TypeError("this kind of dataset has no length")


@pytest.mark.parametrize("items", [iter("abc"), BoundlessDataset(), range(10**30)], ids=["iterator", "own", "huge"])
def test_it_has_none_when_its_input_has_none(make, items):
    stream = make().map(double, items)
    with pytest.raises(TypeError, match=r"TaskStream.* has no len"):
        len(stream)
    assert bool(stream)
    assert operator.length_hint(stream, 7) == 7
    assert len(take(stream, 3)) == 3
    stream.close()


def test_the_length_is_that_before_anything_was_taken(make):
    class Shrinking:
        def __init__(self):
            self.left = [1, 2, 3]

        def __len__(self):
            return len(self.left)

        def __iter__(self):
            while self.left:
                yield self.left.pop()

    assert len(make().map(double, Shrinking())) == 3


def test_an_input_whose_length_fails_is_refused_before_anything_is_taken(make):
    class Broken(Input):
        def __len__(self):
            raise InputError

    items = Broken(range(3))
    with pytest.raises(InputError):
        make().map(double, items)
    assert items.taken == 0


@EVERY_KIND
def test_tqdm_shows_a_full_bar(make, kind):
    tqdm = pytest.importorskip("tqdm")
    tqdm.tqdm.monitor_interval = 0  # no thread of its own
    manager = make()
    with open(os.devnull, "w") as nowhere:
        bar = tqdm.tqdm(manager.map(double, range(20), **kind), file=nowhere)
        assert bar.total == 20
        assert sorted(bar) == [2 * i for i in range(20)]
        assert bar.n == 20
        assert tqdm.tqdm(manager.map(double, iter("abc"), **kind), file=nowhere).total is None


# -- wrong arguments (the values are in test_bad_input) --------------------------------------------------------------


def test_wrong_arguments_are_refused_before_anything_is_taken(make):
    manager = make()
    items = Input(itertools.count())
    for options in ({"chunksize": 0}, {"max_in_flight": 0}, {"timeout": 0}, {"ordered": 1}, {"priority": None}):
        (name,) = options
        with pytest.raises(ConfigError, match=f"{name} must be .*, not {options[name]}"):
            manager.map(double, items, **options)
    with pytest.raises(TypeError, match=r"cannot be called with the resource and 1 more argument"):
        manager.map(lambda resource: 0, items)
    with pytest.raises(TypeError, match="tiemout"):
        manager.map(double, items, tiemout=1)
    assert items.taken == 0
    assert manager.metrics().total_tasks_arrived == 0


def test_a_window_smaller_than_a_chunk_is_refused(make):
    with pytest.raises(ConfigError, match=r"max_in_flight must be None or at least chunksize \(3\), not 2"):
        make().map(double, [1], max_in_flight=2, chunksize=3)


@pytest.mark.parametrize("items", [5, None, list, double, len])
def test_what_cannot_be_iterated_is_refused_by_name(make, items):
    with pytest.raises(TypeError, match=r"items must be iterable, not "):
        make().map(double, items)


def test_an_input_whose_own_iter_fails_says_so_itself(make):
    class Broken:
        def __iter__(self):
            raise TypeError("my own")

    with pytest.raises(TypeError, match="my own"):
        make().map(double, Broken())


# -- where it may be asked -------------------------------------------------------------------------------------------


@EVERY_KIND
def test_a_task_may_map_on_its_own_manager(make, kind):
    manager = make(worker_count=2)

    def parent(_):
        return sorted(manager.map(double, range(50), **kind))

    assert manager.submit(parent).result(PATIENCE) == [2 * i for i in range(50)]


@EVERY_KIND
def test_a_task_that_maps_where_no_worker_is_left_is_told(make, kind):
    manager = make(worker_count=1, max_worker_count=1)
    ran = []

    def parent(_):
        list(manager.map(lambda _, item: ran.append(item), range(50), **kind))

    with pytest.raises(PoolDeadlockError, match="parent on"):
        manager.submit(parent).result(PATIENCE)
    assert manager.join(PATIENCE)
    assert ran == [], "what it submitted is cancelled"


@EVERY_KIND
def test_of_tasks_that_all_map_one_is_told_and_the_others_are_served(make, kind):
    manager = make(worker_count=3, max_worker_count=3)
    all_run = threading.Barrier(3)

    def parent(_):
        all_run.wait(PATIENCE)
        try:
            return len(list(manager.map(double, range(20), **kind)))
        except PoolDeadlockError:
            return "told"

    outcomes = [future.result(PATIENCE) for future in [manager.submit(parent) for _ in range(3)]]
    assert set(outcomes) == {20, "told"}
    assert 1 <= outcomes.count("told") <= 2  # who is told frees a worker; until it is idle the next is told as well


@ORDERS
def test_items_that_wait_for_the_task_that_maps_are_told(make, ordered):
    manager = make(worker_count=3, max_worker_count=3)
    known, futures = threading.Event(), []

    def child(_, item):
        known.wait(PATIENCE)
        return futures[0].result()

    def parent(_):
        return list(manager.map(child, range(2), ordered=ordered))

    futures.append(manager.submit(parent))
    eventually(lambda: manager.stats().running_tasks == 3)
    known.set()
    with pytest.raises(PoolDeadlockError):
        futures[0].result(PATIENCE)


@EVERY_KIND
def test_no_alarm_while_another_worker_can_be_hired(make, kind):
    manager = make(worker_count=1, max_worker_count=2, burst_interval=0.01)

    def parent(_):
        return sorted(manager.map(double, range(50), **kind))

    assert manager.submit(parent).result(PATIENCE) == [2 * i for i in range(50)]


def test_a_wait_for_a_stream_is_over_when_it_is(make):
    manager = make(worker_count=2)
    for kind in KINDS:
        manager.submit(lambda _, kind=kind: list(manager.map(double, range(50), **kind))).result(PATIENCE)
    assert deadlock._announced.waits == {}


@EVERY_KIND
def test_a_task_of_another_manager_may_map(make, kind):
    here, there = make(worker_count=1, max_worker_count=1), make(worker_count=1, max_worker_count=1)
    future = here.submit(lambda _: sorted(there.map(double, range(30), **kind)))
    assert future.result(PATIENCE) == [2 * i for i in range(30)]


@EVERY_KIND
def test_a_bounded_queue_may_be_smaller_than_the_window(make, kind):
    manager = make(worker_count=2, queue_size=1)
    assert sorted(manager.map(double, range(100), max_in_flight=50, **kind)) == [2 * i for i in range(100)]
    assert manager._engine.queue.room.used() == 0


def test_in_a_task_a_full_queue_refuses_after_the_results_of_what_it_had_room_for(make, gated):
    """A task cannot wait for room of its own manager's."""
    manager = make(worker_count=2, max_worker_count=2, queue_size=2)

    def parent(_):
        manager.submit(gated, "other worker")
        assert gated.runs.wait(PATIENCE)
        stream = manager.map(double, range(9), max_in_flight=9)
        gated.gate.set()
        return until_error(stream)

    results, error = manager.submit(parent).result(PATIENCE)
    assert results == [0, 2]
    assert isinstance(error, QueueFullError)


@EVERY_KIND
def test_a_kill_ends_whoever_asks(make, kind):
    manager = make(worker_count=1, max_worker_count=1)
    hold = Hold()
    outcome = []
    stream = manager.map(hold, itertools.count(), **kind)
    consumer = in_thread(lambda: outcome.append(until_error(stream)))
    assert hold.holds.wait(PATIENCE)
    assert manager.kill(PATIENCE).abandoned == ()
    consumer.join(PATIENCE)
    assert not consumer.is_alive()
    # the one that ran has seen its context end, and returned
    ((results, error),) = outcome
    assert results in ([], [0])
    assert isinstance(error, (TaskManagerKilledError, TaskManagerShutdownError, ContextCancelledError))
    assert hold.started == [0]


@EVERY_KIND
def test_a_kill_that_abandons_a_task_ends_whoever_asks(make, kind, gated, factory):
    manager = make(worker_count=1, max_worker_count=1)
    outcome = []
    stream = manager.map(gated, itertools.count(), **kind)
    consumer = in_thread(lambda: outcome.append(until_error(stream)))
    assert gated.runs.wait(PATIENCE)
    assert manager.kill(0).abandoned
    consumer.join(PATIENCE)
    ((results, error),) = outcome
    assert results == []
    assert isinstance(error, TaskManagerKilledError)
    gated.gate.set()
    eventually(lambda: factory.live == 0)


@EVERY_KIND
def test_a_stop_lets_whoever_asks_have_all_that_was_accepted(make, kind, gated):
    manager = make(worker_count=1, max_worker_count=1)
    outcome = []
    stream = manager.map(gated, itertools.count(), max_in_flight=6, **kind)
    consumer = in_thread(lambda: outcome.append(until_error(stream)))
    assert gated.runs.wait(PATIENCE)
    stopper = in_thread(manager.stop)
    eventually(lambda: "stopping" in repr(manager))
    gated.gate.set()
    consumer.join(PATIENCE)
    stopper.join(PATIENCE)
    ((results, error),) = outcome
    assert sorted(results) == [0, 1, 2, 3, 4, 5]
    assert isinstance(error, TaskManagerShutdownError)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@EVERY_KIND
def test_in_a_forked_child_a_stream_raises_or_ends(make, kind, gated):
    manager = make(worker_count=1, max_worker_count=1)
    stream = manager.map(gated, itertools.count(), **kind)
    other = manager.map(gated, range(5), return_exceptions=True, **kind)
    third = manager.map(gated, itertools.count(), **kind)
    assert gated.runs.wait(PATIENCE)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(30)  # ends a child that hangs
            first = until_error(stream)
            second = until_error(other)
            third.close()
            assert first[0] == []
            assert isinstance(first[1], TaskManagerShutdownError)
            assert 1 <= len(second[0]) <= 5
            assert isinstance(second[1], TaskManagerShutdownError)
            assert all(isinstance(error, TaskManagerShutdownError) for error in second[0])
            code = 7
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    gated.gate.set()
    assert sorted(other) == [0, 1, 2, 3, 4]
    stream.close()
    third.close()


def test_several_streams_share_a_manager(make):
    manager = make(worker_count=3)
    streams = [manager.map(double, itertools.count(), max_in_flight=5, **kind) for kind in KINDS[:2] for _ in range(3)]
    found = [[] for _ in streams]
    for _ in range(100):
        for stream, results in zip(streams, found, strict=True):
            results.append(next(stream))
    for stream, results in zip(streams, found, strict=True):
        stream.close()
        assert len(set(results)) == 100
        assert max(results) < 2 * 105
    assert found[0] == found[1] == [2 * i for i in range(100)]


def test_several_threads_have_streams_of_one_manager(make):
    manager = make(worker_count=3)
    kinds = KINDS * 2
    found = {}

    def consume(number):
        found[number] = sorted(manager.map(double, range(300), **kinds[number]))

    threads = [in_thread(lambda number=number: consume(number)) for number in range(len(kinds))]
    for thread in threads:
        thread.join(PATIENCE)
    assert found == {number: [2 * i for i in range(300)] for number in range(len(kinds))}


@ORDERS
def test_a_second_thread_that_asks_meanwhile_is_told(make, gated, ordered):
    manager = make(worker_count=1, max_worker_count=1)
    asked = threading.Event()

    def items():
        yield from range(2)
        asked.set()
        yield 2

    stream = manager.map(
        lambda resource, item: gated(resource, item) if item else 0, items(), max_in_flight=2, ordered=ordered
    )
    assert next(stream) == 0
    results = []
    consumer = in_thread(lambda: results.extend(stream))
    assert asked.wait(PATIENCE)
    for use in (stream.__next__, stream.close):
        with pytest.raises(ValueError, match="already executing"):
            use()
    gated.gate.set()
    consumer.join(PATIENCE)
    assert results == [1, 2]


def test_an_input_may_use_the_manager(make):
    manager = make()

    def items():
        for number in range(20):
            yield manager.queue_task(double, number)

    assert list(manager.map(double, items())) == [4 * i for i in range(20)]


def test_a_callable_whose_signature_cannot_be_read_is_a_function(make):
    manager = make(on_create=lambda: 7, on_destroy=lambda resource: None)
    assert list(manager.map(operator.add, range(3))) == [7, 8, 9]
    assert list(manager.map(max, [1, 9], chunksize=2)) == [7, 9]


# -- memory ----------------------------------------------------------------------------------------------------------

# The collector is off, so whatever dies, dies because nobody refers to it. See test_memory for free-threaded builds.


class Thing:
    """Something that a weak reference can watch."""


class Heavy(Exception):
    pass


class Watch:
    def __init__(self):
        self.references = []

    def __call__(self, thing):
        self.references.append(weakref.ref(thing))
        return thing

    def alive(self):
        return [reference() for reference in self.references if reference() is not None]

    def count(self):
        return sum(reference() is not None for reference in self.references)

    def things(self, count, *, fails=False):
        for _ in range(count):
            yield self(Thing())
        if fails:
            raise self(Heavy(self(Thing())))


def at_rest(manager):
    """The workers have turned to something else: free-threaded builds free some of what they made only then."""
    if not gil_enabled() and not manager._engine.is_stopping():
        for _ in manager._engine.crew.members:
            manager.queue_task_with_callback(lambda resource: None, lambda result, error: None)
    return all(worker.seat.parked for worker in manager._engine.crew.members)


@pytest.mark.usefixtures("no_collection")
@EVERY_KIND
def test_a_result_is_freed_as_soon_as_its_consumer_lets_go_of_it(make, kind):
    manager = make()
    stream = manager.map(lambda resource, item: Thing(), itertools.count(), max_in_flight=6, **kind)
    for _ in range(40):
        assert manager.join(PATIENCE)  # or a worker may be about to let go of it
        result = weakref.ref(next(stream))
        if gil_enabled():
            assert result() is None
        else:
            eventually(lambda result=result: at_rest(manager) and result() is None)
    stream.close()


@pytest.mark.usefixtures("no_collection")
@EVERY_KIND
def test_an_error_that_is_handed_out_is_freed_as_soon_as_its_consumer_lets_go_of_it(make, kind):
    manager = make()

    def function(resource, item):
        raise Heavy

    stream = manager.map(function, itertools.count(), max_in_flight=6, return_exceptions=True, **kind)
    for _ in range(20):
        assert manager.join(PATIENCE)
        error = weakref.ref(next(stream))
        eventually(lambda error=error: at_rest(manager) and error() is None)
    stream.close()


@pytest.mark.usefixtures("no_collection")
@EVERY_KIND
def test_no_more_items_are_kept_than_the_window_has(make, kind):
    manager = make()
    watch = Watch()
    stream = manager.map(lambda resource, item: None, watch.things(1000), max_in_flight=6, **kind)
    for number, _ in enumerate(stream):
        if number % 100 == 0:
            eventually(lambda: at_rest(manager) and watch.count() <= 7)  # and the one that the input may hold
    eventually(lambda: at_rest(manager) and watch.count() <= 1)


def item_fails(manager, watch, kind):
    def function(resource, item):
        local = watch(Thing())
        raise watch(Heavy(item, local))

    with pytest.raises(Heavy):
        list(manager.map(function, watch.things(20), **kind))


def some_items_fail(manager, watch, kind):
    def function(resource, item):
        raise watch(Heavy(item))

    assert len(list(manager.map(function, watch.things(20), return_exceptions=True, **kind))) == 20


def input_fails(manager, watch, kind):
    with pytest.raises(Heavy):
        list(manager.map(lambda resource, item: watch(Thing()), watch.things(20, fails=True), **kind))


def input_fails_and_nobody_looks(manager, watch, kind):
    stream = manager.map(lambda resource, item: watch(Thing()), watch.things(6, fails=True), **kind)
    next(stream)
    stream.close()


def input_fails_at_once(manager, watch, kind):
    with pytest.raises(Heavy):
        manager.map(lambda resource, item: None, watch.things(0, fails=True), **kind)


def refused(manager, watch, kind):
    stream = manager.map(lambda resource, item: watch(Thing()), watch.things(100), **kind)
    manager.stop()
    with pytest.raises(TaskManagerShutdownError):
        list(stream)


def broken_resources(manager, watch, kind):
    def function(resource, item):
        raise watch(Sick(item))

    with pytest.raises(Sick):
        list(manager.map(function, watch.things(20), **kind))


def closed_with_results_in_it(manager, watch, kind):
    stream = manager.map(lambda resource, item: watch(Thing()), watch.things(20), **kind)
    next(stream)
    manager.join(PATIENCE)
    stream.close()


def dropped_while_one_runs(manager, watch, kind):
    running = threading.Event()

    def function(ctx, resource, item):
        running.set()
        ctx.wait(PATIENCE)
        return watch(Thing())

    stream = manager.map(function, watch.things(20), **kind)
    assert running.wait(PATIENCE)
    del stream


def deadlocked(manager, watch, kind):
    def parent(resource):
        for _ in manager.map(lambda resource, item: watch(Thing()), watch.things(20), **kind):
            pass

    assert isinstance(manager.submit(parent).exception(PATIENCE), PoolDeadlockError)


MISHAPS = [
    item_fails,
    some_items_fail,
    input_fails,
    input_fails_and_nobody_looks,
    input_fails_at_once,
    refused,
    broken_resources,
    closed_with_results_in_it,
    dropped_while_one_runs,
    deadlocked,
]


@pytest.mark.usefixtures("no_collection")
@EVERY_KIND
@pytest.mark.parametrize("mishap", MISHAPS, ids=lambda mishap: mishap.__name__)
def test_all_of_a_stream_is_freed_with_it(make, kind, mishap):
    manager = make(worker_count=1, max_worker_count=1, max_retries=1)
    watch = Watch()
    mishap(manager, watch, kind)
    assert watch.references, "the test watches nothing"
    try:
        eventually(lambda: at_rest(manager) and not watch.count())
    finally:
        assert watch.alive() == []


@pytest.mark.usefixtures("no_collection")
@EVERY_KIND
def test_a_kept_error_keeps_nothing_of_the_other_tasks(make, kind):
    """Its traceback holds the frames of the stream."""
    manager = make(worker_count=1, max_worker_count=1)
    watch = Watch()
    _, error = until_error(manager.map(fail, watch.things(60), **kind))
    # those of its own task, the last that was taken, and the one that the input may hold
    eventually(lambda: at_rest(manager) and watch.count() <= kind.get("chunksize", 1) + 2)
    assert isinstance(error, Failure)


@pytest.mark.usefixtures("no_collection")
@EVERY_KIND
def test_a_kept_error_keeps_nothing_of_a_task_that_ends_after_it(make, kind):
    manager = make(worker_count=2, max_worker_count=2)
    watch = Watch()
    others, failed = threading.Event(), threading.Event()

    def work(resource, item):
        if item.number:
            others.set()
            failed.wait(PATIENCE)
        else:
            others.wait(PATIENCE)
        raise watch(Heavy())

    def numbered():
        for number, thing in enumerate(watch.things(6)):
            thing.number = number
            yield thing
        del thing

    _, error = until_error(manager.map(work, numbered(), max_in_flight=6, **kind))
    failed.set()
    eventually(lambda: at_rest(manager) and watch.count() <= kind.get("chunksize", 1) + 2)
    assert isinstance(error, Heavy)


def test_a_manager_of_which_only_a_stream_is_left_goes_on_until_that_is_over(factory):
    config = Config(on_create=factory.create, on_destroy=factory.destroy, worker_count=1)
    for options in ({}, {"ordered": False}):
        stream = TaskManager(config).map(double, range(50), **options)
        gc.collect()
        assert sorted(stream) == [2 * i for i in range(50)]
        eventually(lambda: factory.live == 0, "the end of the manager")


def test_a_function_is_asked_once_for_a_stream_whether_it_wants_a_context(make, monkeypatch):
    asked = []

    def ask(fn, given):
        asked.append(fn)
        return wants_context(fn, given)

    for module in (tasker.stream, tasker.engine):
        monkeypatch.setattr(module, "wants_context", ask)
    manager = make(worker_count=1, max_worker_count=1)
    fn = functools.partial(pow, 2)  # which takes the resource's place in vain
    results = manager.map(fn, range(50), return_exceptions=True)
    assert [type(result) for result in results] == [TypeError] * 50
    assert list(manager.map(lambda ctx, resource, item: item, range(50), ordered=False, chunksize=7))
    assert len(asked) == 2

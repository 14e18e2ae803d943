"""How a stream ends: closed, left, interrupted, forgotten, with its manager."""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading

import pytest

from tests.support.bytecodes import Interrupter
from tests.support.streams import (
    CHUNKS,
    EVERY_KIND,
    ORDERS,
    Failure,
    Gated,
    Hold,
    Input,
    fail,
    take,
)
from tests.support.waiting import PATIENCE


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


ENDS = {
    "closed": close,
    "closed twice": close_twice,
    "left": leave_block,
    "left by an error": leave_block_by_error,
}


@pytest.mark.parametrize("asked", [0, 1], ids=["never asked", "asked once"])
@pytest.mark.parametrize("end", [*ENDS, "dropped"])
@EVERY_KIND
def test_whoever_ends_it_cancels_what_is_left(new_manager, kind, end, asked):
    manager = new_manager(worker_count=1, max_worker_count=1)
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
def test_a_loop_that_is_left_cancels_what_is_left(new_manager, kind):
    manager = new_manager(worker_count=1, max_worker_count=1)
    size = kind.get("chunksize", 1)
    hold = Hold(*range(size))
    for result in manager.map(hold, itertools.count(), **kind):
        assert result == 0
        break
    assert manager.join(PATIENCE)
    assert hold.started in ([*range(size)], [*range(size + 1)])


@EVERY_KIND
def test_an_error_that_leaves_ends_it_and_cancels_what_is_left(new_manager, kind):
    manager = new_manager(worker_count=1, max_worker_count=1)
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
def test_an_interrupt_from_the_input_ends_it_at_once(new_manager, kind):
    """As Ctrl-C while an item is made."""
    manager = new_manager(worker_count=1, max_worker_count=1)
    size = kind.get("chunksize", 1)
    hold = Hold(*range(size))
    stream = manager.map(
        hold, Input(range(4 * size), KeyboardInterrupt()), max_in_flight=4 * size, **kind
    )
    assert hold.holds.wait(PATIENCE)
    with pytest.raises(KeyboardInterrupt):
        take(stream, size + 1)
    assert list(stream) == []
    assert manager.join(PATIENCE)
    assert hold.started == list(range(size + 1))
    assert hold.cancelled == [size]


@ORDERS
def test_ctrl_c_while_it_sleeps_ends_it(new_manager, ctrl_c, ordered):
    manager = new_manager(worker_count=1, max_worker_count=1)
    asked = threading.Event()

    def items():
        yield from range(3)
        asked.set()  # by next(), which returns nothing before the interrupt
        yield 3

    cancelled = []

    def function(ctx, resource, item):
        if item:
            assert asked.wait(PATIENCE)
            ctrl_c.press()
            cancelled.append(ctx.wait(PATIENCE) and ctx.cancelled())
        return item

    stream = manager.map(function, items(), max_in_flight=3, ordered=ordered)
    assert next(stream) == 0
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    assert list(stream) == []
    assert manager.join(PATIENCE)
    assert cancelled == [True]


@pytest.mark.skipif(
    sys.gettrace() is not None, reason="a debugger or a coverage tool traces this thread"
)
@pytest.mark.usefixtures("no_collection")
@ORDERS
@CHUNKS
def test_ctrl_c_at_every_moment_of_asking_cancels_what_is_left(new_manager, ordered, chunksize):
    # a short tick: it wakes the worker whose wake-up was interrupted
    manager = new_manager(worker_count=1, max_worker_count=1, burst_interval=0.002)
    assert manager.wait_ready(PATIENCE)
    moment, interrupted = 0, True
    while interrupted:
        moment += 1
        first, second, running = range(chunksize), range(chunksize, 2 * chunksize), 2 * chunksize
        in_between = range(
            4 * chunksize, 5 * chunksize
        )  # what is being submitted may have been accepted
        hold = Hold(*first, *second, *in_between)
        stream = manager.map(
            hold,
            itertools.count(),
            max_in_flight=4 * chunksize,
            ordered=ordered,
            chunksize=chunksize,
        )
        results = iter(stream)
        assert take(results, chunksize) == list(first)
        assert hold.holds.wait(PATIENCE)
        with (
            Interrupter(moment, everywhere=False) as interrupter,
            contextlib.suppress(KeyboardInterrupt),
        ):
            assert next(results) == second[0]
        interrupted = interrupter.where is not None
        if interrupted:
            assert list(results) == [], interrupter.where
        stream.close()
        assert manager.join(PATIENCE), interrupter.where
        assert hold.cancelled[:1] == [running], interrupter.where
        assert set(hold.started) <= {*first, *second, running, *in_between}, interrupter.where
        m = manager.metrics()
        assert (
            m.total_tasks_arrived
            == m.total_tasks_completed + m.total_tasks_failed + m.total_tasks_cancelled
        )
    assert moment > 5, "no trace function was called"


@pytest.mark.skipif(
    sys.gettrace() is not None, reason="a debugger or a coverage tool traces this thread"
)
@pytest.mark.usefixtures("no_collection")
@ORDERS
@CHUNKS
def test_ctrl_c_at_every_moment_of_the_call_cancels_what_is_left(new_manager, ordered, chunksize):
    manager = new_manager(worker_count=1, max_worker_count=1, burst_interval=0.002)
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
        with (
            Interrupter(moment, everywhere=False) as interrupter,
            contextlib.suppress(KeyboardInterrupt),
        ):
            stream = manager.map(run, itertools.count(), **options)
        interrupted = interrupter.where is not None
        interrupter.last.clear()  # or its frames would keep the stream
        if stream is not None:
            stream.close()
        gated.gate.set()
        assert manager.join(PATIENCE), interrupter.where
        # nothing, or what was being submitted and had been accepted
        assert started in ([], [*range(chunksize)], [*range(chunksize, 2 * chunksize)]), (
            interrupter.where
        )
        m = manager.metrics()
        assert (
            m.total_tasks_arrived
            == m.total_tasks_completed + m.total_tasks_failed + m.total_tasks_cancelled
        )
    assert started == []
    assert moment > 15, "no trace function was called"

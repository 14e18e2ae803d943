"""What a stream has handed out, or never will, is freed."""

from __future__ import annotations

import functools
import gc
import itertools
import threading
import weakref

import pytest

import tasker._pool.engine
import tasker.window
from tasker import (
    Config,
    PoolDeadlockError,
    TaskManager,
    TaskManagerShutdownError,
)
from tasker._sync.parking import gil_enabled
from tasker._tasks.signature import wants_context
from tests.support.errors import Sick
from tests.support.streams import (
    EVERY_KIND,
    Failure,
    double,
    fail,
    until_error,
)
from tests.support.waiting import PATIENCE, eventually

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
    return all(worker.parker.parked for worker in manager._engine.crew.members)


@pytest.mark.usefixtures("no_collection")
@EVERY_KIND
def test_a_result_is_freed_as_soon_as_its_consumer_lets_go_of_it(new_manager, kind):
    manager = new_manager()
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
def test_an_error_that_is_handed_out_is_freed_as_soon_as_its_consumer_lets_go_of_it(
    new_manager, kind
):
    manager = new_manager()

    def function(resource, item):
        raise Heavy

    stream = manager.map(
        function, itertools.count(), max_in_flight=6, return_exceptions=True, **kind
    )
    for _ in range(20):
        assert manager.join(PATIENCE)
        error = weakref.ref(next(stream))
        eventually(lambda error=error: at_rest(manager) and error() is None)
    stream.close()


@pytest.mark.usefixtures("no_collection")
@EVERY_KIND
def test_no_more_items_are_kept_than_the_window_has(new_manager, kind):
    manager = new_manager()
    watch = Watch()
    stream = manager.map(lambda resource, item: None, watch.things(1000), max_in_flight=6, **kind)
    for number, _ in enumerate(stream):
        if number % 100 == 0:
            eventually(
                lambda: at_rest(manager) and watch.count() <= 7
            )  # and the one that the input may hold
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
        list(
            manager.map(lambda resource, item: watch(Thing()), watch.things(20, fails=True), **kind)
        )


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


@pytest.mark.slow
@pytest.mark.usefixtures("no_collection")
@EVERY_KIND
@pytest.mark.parametrize("mishap", MISHAPS, ids=lambda mishap: mishap.__name__)
def test_all_of_a_stream_is_freed_with_it(new_manager, kind, mishap):
    manager = new_manager(worker_count=1, max_worker_count=1, max_retries=1)
    watch = Watch()
    mishap(manager, watch, kind)
    assert watch.references, "the test watches nothing"
    try:
        eventually(lambda: at_rest(manager) and not watch.count())
    finally:
        assert watch.alive() == []


@pytest.mark.usefixtures("no_collection")
@EVERY_KIND
def test_a_kept_error_keeps_nothing_of_the_other_tasks(new_manager, kind):
    """Its traceback holds the frames of the stream."""
    manager = new_manager(worker_count=1, max_worker_count=1)
    watch = Watch()
    _, error = until_error(manager.map(fail, watch.things(60), **kind))
    # those of its own task, the last that was taken, and the one that the input may hold
    eventually(lambda: at_rest(manager) and watch.count() <= kind.get("chunksize", 1) + 2)
    assert isinstance(error, Failure)


@pytest.mark.usefixtures("no_collection")
@EVERY_KIND
def test_a_kept_error_keeps_nothing_of_a_task_that_ends_after_it(new_manager, kind):
    manager = new_manager(worker_count=2, max_worker_count=2)
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


def test_a_function_is_asked_once_for_a_stream_whether_it_wants_a_context(new_manager, monkeypatch):
    asked = []

    def ask(fn, given):
        asked.append(fn)
        return wants_context(fn, given)

    for module in (tasker.window, tasker._pool.engine):
        monkeypatch.setattr(module, "wants_context", ask)
    manager = new_manager(worker_count=1, max_worker_count=1)
    fn = functools.partial(pow, 2)  # which takes the resource's place in vain
    results = manager.map(fn, range(50), return_exceptions=True)
    assert [type(result) for result in results] == [TypeError] * 50
    assert list(
        manager.map(lambda ctx, resource, item: item, range(50), ordered=False, chunksize=7)
    )
    assert len(asked) == 2

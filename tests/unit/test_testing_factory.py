"""`ResourceFactory`: what it records, what it has fail, and what it refuses."""

from __future__ import annotations

import sqlite3
import threading

import pytest

from tasker import (
    Config,
    ConfigError,
    TaskManager,
    current_slot,
    unhealthy_on,
)
from tasker.testing import DummyResource, ResourceFactory
from tasker.testing.factory import numbered
from tests.support.errors import Sick
from tests.support.threads import run_in_thread
from tests.support.waiting import PATIENCE

# -- the resource factory ------------------------------------------------------------------------------------------


def test_a_life_without_misuse_is_recorded_and_passes_the_check():
    resources = ResourceFactory()
    config = Config(
        on_create=resources.create, on_destroy=resources.destroy, worker_count=1, max_worker_count=1
    )
    with TaskManager(config) as manager:
        assert manager.queue_task(resources.use(lambda resource, x: (resource.number, x)), 7) == (
            0,
            7,
        )
        assert manager.queue_task(resources.use(lambda ctx, resource: ctx.cancelled())) is False
    resources.check()
    (resource,) = resources.created
    record = resources.record(resource)
    assert resources.destroyed == [resource]
    assert (resources.live, record.number, record.users) == (0, 0, [])
    worker = record.made_in
    assert (worker.name, record.used_in, record.destroyed_in) == (
        "tasker-worker-1",
        {worker: 2},
        worker,
    )
    assert not resource.alive


def test_a_real_resource_is_made_and_freed():
    resources = ResourceFactory(lambda: sqlite3.connect(":memory:"), sqlite3.Connection.close)
    config = Config(on_create=resources.create, on_destroy=resources.destroy, worker_count=2)
    with TaskManager(config) as manager:
        assert manager.queue_task(resources.use(lambda db: db.execute("select 1").fetchone())) == (
            1,
        )
    resources.check()
    with pytest.raises(sqlite3.ProgrammingError):
        resources.created[0].execute("select 1")


def destroyed_twice(resources, resource):
    resources.destroy(resource)
    resources.destroy(resource)


def used_after_destroy(resources, resource):
    resources.destroy(resource)
    resources.use(lambda resource: None)(resource)


def used_in_another_thread(resources, resource):
    run_in_thread(lambda: resources.use(lambda resource: None)(resource))
    resources.destroy(resource)


def destroyed_in_another_thread(resources, resource):
    run_in_thread(lambda: resources.destroy(resource))


def used_by_two(resources, resource):
    resources.any_thread = True
    with resources.using(resource):
        run_in_thread(lambda: resources.use(lambda resource: None)(resource))
    resources.destroy(resource)


def destroyed_while_used(resources, resource):
    with resources.using(resource):
        resources.destroy(resource)


@pytest.mark.parametrize(
    ("misuse", "words"),
    [
        (destroyed_twice, "was destroyed twice, the second time in MainThread"),
        (used_after_destroy, "was used in MainThread after it was destroyed"),
        (used_in_another_thread, "was used in another thread, other"),
        (destroyed_in_another_thread, "was destroyed in another thread, other"),
        (used_by_two, "was used by two at once, MainThread and other"),
        (destroyed_while_used, "was destroyed in MainThread while MainThread used it"),
        (lambda resources, resource: None, "was never destroyed"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_check_names_a_misuse(misuse, words):
    resources = ResourceFactory()
    good = resources.create()
    misuse(resources, resources.create())
    resources.destroy(good)
    with pytest.raises(AssertionError) as caught:
        resources.check()
    assert (
        str(caught.value) == f"resources were misused:\n  resource 1 (made in MainThread) {words}"
    )


def test_a_resource_that_is_destroyed_twice_is_freed_once():
    freed = []
    resources = ResourceFactory(object, freed.append)
    destroyed_twice(resources, resources.create())
    assert len(freed) == 1
    assert resources.live == 0


def test_resources_that_may_change_threads_are_told_so():
    resources = ResourceFactory(any_thread=True)
    resource = resources.create()
    used_in_another_thread(resources, resource)
    resources.check()
    assert [thread.name for thread in resources.record(resource).used_in] == ["other"]


def test_one_thread_may_use_a_resource_while_it_uses_it():
    resources = ResourceFactory()
    resource = resources.create()
    with resources.using(resource) as same:
        resources.use(lambda resource: None)(same)
    resources.destroy(resource)
    resources.check()


def outcomes(fn, calls):
    """Of each call: whether it raised."""
    told = []
    for _ in range(calls):
        try:
            fn()
        except OSError:
            told.append("fails")
        else:
            told.append("works")
    return " ".join(told)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "fails works works works"),
        ({"nth": 3}, "works works fails works"),
        ({"nth": 2, "times": 2}, "works fails fails works"),
        ({"nth": 2, "times": None}, "works fails fails fails"),
    ],
)
def test_the_nth_call_from_now_fails_when_told_to(options, expected):
    resources = ResourceFactory()
    first = resources.create()
    resources.fail_create(OSError("down"), **options)
    assert outcomes(resources.create, 4) == expected
    resources.destroy(first)
    resources.fail_destroy(OSError("down"), **options)
    resources.fail_create(None)
    made = [resources.create() for _ in range(4)]
    told = outcomes(lambda: resources.destroy(made.pop(0)), 4)
    assert told == expected
    assert not any(resource.alive for resource in resources.destroyed)  # those that failed, too
    resources.fail_destroy(None)
    for resource in resources.created:
        if resource.alive:
            resources.destroy(resource)
    resources.check()


def test_failures_that_were_asked_for_are_forgotten():
    resources = ResourceFactory()
    resources.fail_create(OSError("down"), times=None)
    resources.fail_create(OSError("down"), nth=2)
    assert outcomes(resources.create, 2) == "fails fails"
    resources.fail_create(None)
    assert outcomes(resources.create, 2) == "works works"


def generator():
    yield


async def coroutine():
    pass


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda f: f.fail_create("down"),
            TypeError,
            "error must be an exception or None, not 'down'",
        ),
        (
            lambda f: f.fail_create(OSError(), nth=0),
            ConfigError,
            "nth must be a whole number, 1 or more, not 0",
        ),
        (
            lambda f: f.fail_destroy(OSError(), times=0),
            ConfigError,
            "times must be None or a whole number, 1 or more, not 0",
        ),
        (
            lambda f: ResourceFactory(lambda host, port: port),
            TypeError,
            "make must be a function that can be called with no arguments, or with a Slot, not ",
        ),
        (
            lambda f: ResourceFactory(object, lambda: None),
            TypeError,
            "free must be None or a function that can be called with the resource, not ",
        ),
        (lambda f: f.destroy(3), ValueError, "3 was not made by this factory"),
        (lambda f: f.record(3), ValueError, "3 was not made by this factory"),
        (lambda f: f.use(lambda x: x)(3), ValueError, "3 was not made by this factory"),
        (
            lambda f: f.use(coroutine),
            TypeError,
            f"fn must be a plain function, not the coroutine function {coroutine}: workers are threads",
        ),
        (
            lambda f: f.use(generator),
            TypeError,
            f"fn must be a plain function, not the generator function {generator}: return a list",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(call, error, words):
    with pytest.raises(error) as caught:
        call(ResourceFactory())
    assert str(caught.value).startswith(words)


def test_one_object_is_not_two_resources():
    shared = object()
    resources = ResourceFactory(lambda: shared)
    resources.create()
    with pytest.raises(ValueError, match="a second time: each call must return another one"):
        resources.create()
    resources.destroy(shared)
    assert resources.create() is shared
    resources.destroy(shared)
    resources.check()


def test_what_makes_resources_for_slots_gets_the_slot():
    resources = ResourceFactory(lambda slot: [slot])
    config = Config(on_create=resources.create, on_destroy=resources.destroy, worker_count=1)
    with TaskManager(config) as manager:
        assert manager.queue_task(lambda resource: resource == [current_slot()])
        assert manager.run_task(lambda resource: resource == [current_slot()])
    assert [slot.index for [slot] in resources.created] == [0, 1]
    resources.check()
    with pytest.raises(RuntimeError, match="outside of a task and of a hook"):
        resources.create()


def test_a_check_and_a_reset_are_uses_as_a_task_is():
    resources = ResourceFactory()
    config = Config(
        on_create=resources.create,
        on_destroy=resources.destroy,
        worker_count=1,
        on_check=resources.use(lambda resource: resource.alive),
        check_after=0,
        on_reset=resources.use(lambda resource: resource.number),
    )
    with TaskManager(config) as manager:
        manager.wait_ready(PATIENCE)
        manager.queue_task(resources.use(lambda resource: None))
    (resource,) = resources.created
    assert sum(resources.record(resource).used_in.values()) == 3
    resources.check()


def test_what_make_raises_makes_no_resource():
    def make():
        raise OSError("down")

    resources = ResourceFactory(make)
    with pytest.raises(OSError, match="down"):
        resources.create()
    resources.check()


@pytest.mark.slow
def test_a_manager_heals_what_the_factory_breaks():
    resources = ResourceFactory()
    resources.fail_destroy(OSError("stuck"))
    config = Config(
        on_create=resources.create,
        on_destroy=resources.destroy,
        worker_count=1,
        max_worker_count=1,
        check_health=unhealthy_on(Sick),
    )
    with TaskManager(config) as manager:
        assert manager.wait_ready(PATIENCE)
        resources.fail_create(OSError("down"), times=2)

        def task(resource):
            if resource.number == 0:
                raise Sick
            return resource.number

        assert manager.queue_task(resources.use(task)) == 1
    assert manager.stop().destroy_errors == 1
    resources.check()


def test_a_recorded_task_of_one_manager_may_wait_for_the_end_of_another(new_manager, factory):
    other = new_manager(name="other")
    assert new_manager().queue_task(factory.use(lambda resource: other.stop())).drained


def test_numbers_are_given_once_whatever_threads_ask():
    make = numbered(DummyResource)
    made, start = [], threading.Barrier(4)

    def call():
        start.wait(PATIENCE)
        made.extend(make().number for _ in range(500))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(made) == list(range(2000))

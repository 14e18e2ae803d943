"""What is said where it is not clear how a function is called."""

from __future__ import annotations

import functools
import gc
import sys
import warnings
import weakref
from unittest.mock import patch

import pytest

from tasker import Context, Processes
from tasker._sync.parking import gil_enabled
from tasker._tasks import hints
from tests.support.waiting import PATIENCE

NAME = "patched"


def wrapper_of(fn):
    """A wrapper that says nothing of what it wraps."""

    def wrapper(*args):
        return fn(*args)

    return wrapper


def listens(ctx, resource): ...
def takes_one(resource): ...
def takes_two(resource, number): ...


def fails_inside(ctx, resource):
    return takes_two(resource)


def wrapped_and_asking(*args):
    return takes_one(*args)


wrapped_and_asking.__wrapped__ = listens
WITH = "tasker: the task was called with a context, the resource and 0 more arguments: a parameter called 'ctx' asks"
WITHOUT = "tasker: the task was called with the resource and 0 more arguments, and without a context. Its first"


def notes_of(call):
    with pytest.raises(TypeError) as caught:
        call()
    return getattr(caught.value, "__notes__", [])


# -- a note on the error of a call ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "note"),
    [
        (wrapped_and_asking, WITH),  # it gets a context that it does not expect
        (
            patch(f"{__name__}.NAME")(lambda ctx, resource: 0),
            WITH,
        ),  # which forgets the mock that it gets
        (wrapper_of(listens), WITHOUT),
        (wrapper_of(wrapper_of(listens)), WITHOUT),
        (functools.partial(wrapper_of(takes_two)), WITHOUT),
    ],
    ids=["unwanted", "patched", "wanted", "wrapped twice", "partial"],
)
def test_an_error_of_the_call_itself_says_whether_a_context_was_passed_and_why(
    new_manager, fn, note
):
    manager = new_manager()
    for call in (
        lambda: manager.queue_task(fn),
        lambda: manager.submit(fn).result(PATIENCE),
        lambda: manager.run_task(fn),
    ):
        (said,) = notes_of(call)
        assert said.startswith(note)


def test_the_same_is_said_of_an_item_of_a_map(new_manager):
    manager = new_manager()
    for chunksize in (1, 2):
        (said,) = notes_of(
            lambda size=chunksize: list(manager.map(wrapper_of(takes_one), [1, 2], chunksize=size))
        )
        assert said.startswith(WITHOUT.replace("0 more arguments", "1 more argument"))


@pytest.mark.slow
def test_the_same_is_said_where_the_call_is_made_elsewhere(new_manager):
    manager = new_manager(
        placement=Processes(), on_create=dict, on_destroy=dict.clear, worker_count=1
    )
    (said,) = notes_of(lambda: manager.queue_task(wrapped_and_asking))
    assert said.startswith(WITH)
    (said,) = notes_of(lambda: list(manager.map(forgets_an_argument, [1, 2], chunksize=2)))
    assert said.startswith(WITHOUT.replace("0 more arguments", "1 more argument"))


def forgets_an_argument(*args):
    return takes_one(*args)


def test_errors_from_inside_of_a_function_and_other_errors_get_no_note(new_manager):
    manager = new_manager()

    def adds(*args):
        return 1 + "1"

    def calls_wrongly(*args):
        return fails_inside(*args)

    for fn in (fails_inside, functools.partial(fails_inside), adds, lambda resource: len(5)):
        assert notes_of(lambda fn=fn: manager.queue_task(fn)) == []
    calls_wrongly.__wrapped__ = listens
    assert notes_of(lambda: manager.queue_task(calls_wrongly)) == []
    with manager.executor() as view:
        assert notes_of(lambda: view.submit(wrapper_of(takes_two), 1).result(PATIENCE)) == []


# -- options that the function has parameters for ------------------------------------------------------------------


def fetcher():
    """A function that nobody was warned of yet."""
    names = {}
    exec("def fetch(resource, url, timeout=30, *, once=False): return url, timeout", names)
    return names["fetch"]


SAYS = r"timeout= is an option of tasker's here: fetch\(\) does not get it, and has a parameter 'timeout' of its own"


def test_an_option_that_the_function_has_a_parameter_for_is_warned_of_once_at_the_callers_line(
    new_manager,
):
    manager = new_manager()
    fetch = fetcher()
    with pytest.warns(UserWarning, match=SAYS) as told:
        assert manager.queue_task(fetch, "url", timeout=PATIENCE) == ("url", 30)
    assert [each.filename for each in told] == [__file__]
    manager.queue_task(fetch, "url", timeout=PATIENCE)  # warnings are errors here
    with pytest.warns(UserWarning, match="once= is an option"):
        manager.submit(fetch, "url", timeout=PATIENCE, once=True).result(PATIENCE)


async def awaited(manager, fn, *args, **options):
    return await manager.asubmit(fn, *args, **options)


def test_every_way_of_submitting_with_options_warns(new_manager):
    import asyncio

    manager = new_manager()
    ways = [
        lambda fn: manager.queue_task_async(fn, "url", timeout=PATIENCE).result(PATIENCE),
        lambda fn: manager.queue_task_with_priority(fn, "url", timeout=PATIENCE),
        lambda fn: manager.queue_task_with_callback(
            fn, lambda result, error: None, "url", timeout=PATIENCE
        ),
        lambda fn: manager.submit(fn, "url", timeout=PATIENCE).result(PATIENCE),
        lambda fn: asyncio.run(awaited(manager, fn, "url", timeout=PATIENCE)),
    ]
    for way in ways:
        with pytest.warns(UserWarning, match=SAYS) as told:
            way(fetcher())
        assert [each.filename for each in told] == [__file__]


def test_where_warnings_are_errors_nothing_is_accepted_each_time(new_manager):
    manager = new_manager()
    fetch = fetcher()
    for _ in range(2):
        with pytest.raises(UserWarning, match=SAYS):
            manager.queue_task_async(fetch, "url", timeout=PATIENCE)
    manager.join(PATIENCE)
    assert manager.metrics().total_tasks_arrived == 0


def test_functions_that_are_called_through_others_are_warned_of(new_manager):
    manager = new_manager()

    class Client:
        def get(self, resource, timeout=1): ...

    def decorated(fn):
        @functools.wraps(fn)
        def wrapper(*args, **options):
            return fn(*args, **options)

        return wrapper

    def listener(ctx, resource, timeout=1): ...

    for fn in (
        Client().get,
        decorated(lambda resource, *, timeout=1: 0),
        functools.partial(fetcher(), url=1),
        listener,
    ):
        with pytest.raises(UserWarning, match="timeout= is an option"):
            manager.queue_task(fn, timeout=PATIENCE)


def test_there_is_no_warning_where_it_is_clear_what_is_meant(new_manager):
    manager = new_manager()
    fetch = fetcher()

    def anything(resource, **options):
        timeout = resource
        return timeout is resource

    def by_position_alone(resource, timeout=1, /): ...

    manager.queue_task(fetch, "url", 10, timeout=PATIENCE)
    manager.queue_task(functools.partial(fetch, timeout=10), "url", timeout=PATIENCE)
    manager.queue_task(lambda resource: fetch(resource, "url", timeout=10), timeout=PATIENCE)
    manager.queue_task(anything, timeout=PATIENCE)
    manager.queue_task(by_position_alone, timeout=PATIENCE)
    manager.queue_task(repr, timeout=PATIENCE)
    manager.submit(fetch, "url", timeout=None, once=False).result(PATIENCE)
    with pytest.raises(TypeError, match="'url' is missing"):
        manager.queue_task(fetch, timeout=PATIENCE)


@pytest.mark.skipif(
    sys.version_info < (3, 14) and not gil_enabled(), reason="there code lives for ever"
)
def test_who_was_warned_of_a_function_does_not_keep_it(new_manager):
    fetch = fetcher()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        new_manager().queue_task(fetch, "url", timeout=PATIENCE)
    assert hints._warned.get(fetch.__code__) == {"timeout"}
    reference = weakref.ref(fetch.__code__)
    del fetch
    gc.collect()
    assert reference() is None


def test_the_annotation_alone_is_enough_for_the_parameter_to_be_the_contexts(new_manager):
    def listener(c: Context, resource: object, timeout: float = 1) -> float:
        return timeout

    with pytest.raises(UserWarning, match="timeout= is an option"):
        new_manager().queue_task(listener, timeout=PATIENCE)
    assert new_manager().queue_task(listener, 3.0, timeout=PATIENCE) == 3.0

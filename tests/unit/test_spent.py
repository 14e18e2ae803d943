"""A task whose argument an attempt has used up is not retried: another one would find the rest, and succeed with it."""

from __future__ import annotations

import functools
import io
import sys
import threading
from unittest.mock import MagicMock

import pytest

from tasker._tasks.spent import spent_argument
from tests.support.errors import Sick
from tests.support.waiting import PATIENCE


class Countdown:
    """An iterator of the user's."""

    def __init__(self):
        self.left = 3

    def __iter__(self):
        raise AssertionError("the user's code was called")

    def __next__(self):
        self.left -= 1
        if self.left < 0:
            raise StopIteration
        return self.left


class Again:
    """Each iteration of it is a new one."""

    def __iter__(self):
        return iter([1, 2])


def numbers():
    yield from (1, 2)


def read(resource, first, values):
    next(iter(values))
    raise Sick


SPENT = {
    "list_iterator": lambda path: iter([1, 2]),
    "generator": lambda path: numbers(),
    "map": lambda path: map(str, [1, 2]),
    "Countdown": lambda path: Countdown(),
    "TextIOWrapper": lambda path: path.open(),
    "BufferedReader": lambda path: path.open("rb"),
    "FileIO": lambda path: path.open("rb", buffering=0),
    "BufferedRandom": lambda path: path.open("rb+"),
    "BytesIO": lambda path: io.BytesIO(b"a\nb\n"),
}


@pytest.mark.parametrize("kind", SPENT)
def test_a_task_with_an_iterator_as_its_argument_is_not_retried_and_says_so(
    new_manager, tmp_path, kind
):
    path = tmp_path / "lines"
    path.write_text("a\nb\n")
    manager = new_manager(worker_count=1, max_worker_count=1)
    values = SPENT[kind](path)
    attempts = []

    def use(resource, first, values):
        attempts.append(next(values))
        raise Sick

    future = manager.submit(use, 1, values)
    error = future.exception(PATIENCE)
    assert isinstance(error, Sick)
    assert error.__notes__ == [f"tasker: not retried: argument 2 is an iterator ({kind})"]
    assert (future.attempts, len(attempts)) == (1, 1)
    assert manager.metrics().total_tasks_retried == 0
    if hasattr(values, "close"):
        values.close()


AGAIN = {
    "list": [1, 2],
    "tuple": (1, 2),
    "range": range(2),
    "dict": {1: 2},
    "str": "12",
    "iterable": Again(),
    "mock": MagicMock(),
    "None": None,
    "lock": threading.Lock(),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", AGAIN)
def test_what_can_be_used_again_does_not_keep_a_task_from_its_retries(new_manager, kind):
    manager = new_manager(worker_count=1, max_worker_count=1, max_retries=1)
    attempts = []

    def use(resource, values):
        attempts.append(values)
        if len(attempts) < 2:
            raise Sick
        return "recovered"

    assert manager.submit(use, AGAIN[kind]).result(PATIENCE) == "recovered"


def test_a_file_that_can_only_be_written_is_no_such_argument(tmp_path):
    path = tmp_path / "written"
    with path.open("w") as text, path.open("wb") as binary, path.open("wb", buffering=0) as raw:
        assert spent_argument(print, (text, binary, raw, sys.__stdout__, sys.__stderr__)) is None
    detached = io.TextIOWrapper(io.BytesIO())
    detached.detach()
    assert spent_argument(print, (detached,)) == "argument 1 is an iterator (TextIOWrapper)"


def test_code_of_the_users_is_not_asked():
    class Meta(type):
        def __getattribute__(cls, name):
            raise AssertionError("the user's code was called")

    class Strange(metaclass=Meta):
        pass

    assert (
        spent_argument(print, (Strange(), Countdown())) == "argument 2 is an iterator (Countdown)"
    )


def test_a_task_that_was_settled_and_emptied_meanwhile_has_no_argument():
    assert spent_argument(None, None) is None


@pytest.mark.slow
def test_a_task_that_is_not_to_be_retried_anyway_has_no_note(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=1, max_retries=0)
    assert not hasattr(manager.submit(read, 1, iter([1])).exception(PATIENCE), "__notes__")
    manager = new_manager(worker_count=1, max_worker_count=1)
    once = manager.submit(read, 1, iter([1]), once=True).exception(PATIENCE)
    healthy = manager.submit(lambda resource, values: 1 / 0, iter([1])).exception(PATIENCE)
    assert not hasattr(once, "__notes__")
    assert not hasattr(healthy, "__notes__")


NAMED = {
    "argument 1 of the partial": functools.partial(
        lambda values, resource: read(resource, 1, values), iter([1])
    ),
    "argument 'values' of the partial": functools.partial(
        functools.partial(
            lambda resource, *, values, first: read(resource, first, values), values=iter([1])
        ),
        first=2,
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_arguments_of_partials_are_looked_at(new_manager, name):
    future = new_manager(worker_count=1, max_worker_count=1).submit(NAMED[name])
    assert future.exception(PATIENCE).__notes__ == [
        f"tasker: not retried: {name} is an iterator (list_iterator)"
    ]
    assert future.attempts == 1


def test_arguments_of_an_executors_calls_are_looked_at(new_manager):
    def call(first, values=None):
        next(values or first)
        raise Sick

    with new_manager(worker_count=1, max_worker_count=1).executor() as pool:
        futures = [pool.submit(call, iter([1])), pool.submit(call, 1, values=iter([1]))]
        notes = [future.exception(PATIENCE).__notes__ for future in futures]
    assert notes == [
        ["tasker: not retried: argument 1 is an iterator (list_iterator)"],
        ["tasker: not retried: argument 'values' is an iterator (list_iterator)"],
    ]
    assert [future.attempts for future in futures] == [1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("chunksize", [1, 2])
def test_of_items_that_are_iterators_only_the_one_that_failed_counts(new_manager, chunksize):
    manager, attempts = new_manager(worker_count=1, max_worker_count=1), []

    def use(resource, item):
        attempts.append(item)
        if item == "sick" and attempts.count(item) < 2:
            raise Sick
        return item if isinstance(item, str) else list(item)

    # an iterator behind the item that failed has not been read
    assert list(manager.map(use, ["sick", iter([1]), "well"], chunksize=chunksize)) == [
        "sick",
        [1],
        "well",
    ]
    assert attempts.count("sick") == 2

    def spoil(resource, item):
        attempts.append(next(item))
        raise Sick

    del attempts[:]
    results = list(
        manager.map(
            spoil, [iter([1, 2]), iter([3, 4])], chunksize=chunksize, return_exceptions=True
        )
    )
    assert attempts == [1, 3]
    for error in results:
        assert error.__notes__ == ["tasker: not retried: argument 1 is an iterator (list_iterator)"]


@pytest.mark.parametrize("chunksize", [1, 2])
def test_of_an_executors_map_too(new_manager, chunksize):
    attempts = []

    def spoil(item, other):
        attempts.append(next(item))
        raise Sick

    with new_manager(worker_count=1, max_worker_count=1).executor() as pool:
        results = pool.map(spoil, [iter([1, 2])], [iter([3])], chunksize=chunksize)
        with pytest.raises(Sick) as caught:
            next(results)
    assert attempts == [1]
    assert caught.value.__notes__ == [
        "tasker: not retried: argument 1 is an iterator (list_iterator)"
    ]

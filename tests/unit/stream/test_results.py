"""`TaskManager.map`: its results, its window, its length, and the arguments that it refuses."""

from __future__ import annotations

import contextvars
import itertools
import operator
import os
import sys
from collections.abc import Iterator

import pytest

from tasker import (
    ConfigError,
    current_context,
)
from tests.support.streams import (
    CHUNKS,
    EVERY_KIND,
    KINDS,
    ORDERS,
    Failure,
    Input,
    InputError,
    double,
    fail,
    take,
)
from tests.support.waiting import PATIENCE

# -- what it is ------------------------------------------------------------------------------------------------------


@EVERY_KIND
@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_every_item_has_its_result(new_manager, kind, count):
    results = list(new_manager(worker_count=3).map(double, range(count), **kind))
    assert (results if kind.get("ordered", True) else sorted(results)) == [
        2 * i for i in range(count)
    ]


@CHUNKS
def test_the_context_comes_first_if_the_function_requires_it(new_manager, chunksize):
    manager = new_manager()

    def with_context(ctx, resource, item):
        assert ctx is current_context()
        assert resource is manager.current_resource()
        return item

    assert list(manager.map(with_context, "abcd", chunksize=chunksize)) == list("abcd")


@CHUNKS
def test_a_default_is_left_alone(new_manager, chunksize):
    assert list(
        new_manager().map(lambda resource, item, more=1: item + more, [1, 2], chunksize=chunksize)
    ) == [2, 3]


def test_items_may_be_anything_that_can_be_iterated(new_manager):
    class Old:
        def __getitem__(self, index):
            return "xyz"[index]

    manager = new_manager()
    for items in (
        "xyz",
        ["x", "y", "z"],
        dict.fromkeys("xyz"),
        iter("xyz"),
        (c for c in "xyz"),
        Old(),
    ):
        assert list(manager.map(lambda _, item: item, items)) == ["x", "y", "z"]


def test_a_stream_is_an_iterator(new_manager):
    stream = new_manager().map(double, range(4))
    assert isinstance(stream, Iterator)
    assert next(stream) == 0
    assert list(stream) == [2, 4, 6]
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(stream)


def test_a_stream_is_the_input_of_another(new_manager):
    manager = new_manager()
    stream = manager.map(double, manager.map(double, range(50)))
    assert len(stream) == 50
    assert list(stream) == [4 * i for i in range(50)]


@ORDERS
def test_results_come_in_the_order_of_the_items_or_as_they_are_there(new_manager, ordered, gated):
    def first_waits(resource, item):
        return gated(resource, item) if item == 0 else item

    stream = new_manager(worker_count=2).map(first_waits, range(5), ordered=ordered)
    if not ordered:
        assert sorted(take(stream, 4)) == [1, 2, 3, 4]
    gated.gate.set()
    assert list(stream) == ([0, 1, 2, 3, 4] if ordered else [0])


def test_the_function_runs_in_the_variables_of_whoever_asks(new_manager):
    variable = contextvars.ContextVar("variable", default=0)
    variable.set(1)
    assert list(new_manager().map(lambda _, item: variable.get() + item, range(3))) == [1, 2, 3]


def test_priority_items_overtake(new_manager, gated):
    manager = new_manager(worker_count=1, max_worker_count=1)
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
def test_exactly_so_many_items_are_taken_and_not_handed_out(
    new_manager, ordered, chunksize, window
):
    if window is not None and window < chunksize:
        pytest.skip("refused")
    manager = new_manager(worker_count=2, max_worker_count=3)
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
def test_items_that_end_in_errors_take_as_much_room_as_others(new_manager, ordered, chunksize):
    items = Input(range(30))
    stream = new_manager().map(
        fail, items, max_in_flight=7, ordered=ordered, chunksize=chunksize, return_exceptions=True
    )
    for asked in range(30):
        assert items.taken - asked <= 7
        assert isinstance(next(stream), Failure)
    assert items.taken == 30
    assert list(stream) == []


@EVERY_KIND
def test_nothing_is_taken_while_nobody_asks(new_manager, kind):
    manager = new_manager()
    items = Input(itertools.count())
    stream = manager.map(double, items, max_in_flight=6, **kind)
    assert manager.join(PATIENCE)
    assert items.taken == 6
    stream.close()


@EVERY_KIND
def test_an_endless_input_is_no_difficulty(new_manager, kind):
    stream = new_manager().map(double, itertools.count(), **kind)
    assert len(take(stream, 500)) == 500
    stream.close()


def test_the_input_is_not_asked_again_after_its_end(new_manager):
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
        assert sorted(new_manager().map(double, Ends(), **kind)) == [2, 4, 6]


def test_a_window_of_any_size_is_taken(new_manager):
    manager = new_manager()
    for size in (sys.maxsize, 10**400):
        assert list(manager.map(double, range(3), max_in_flight=size)) == [0, 2, 4]
        assert list(manager.map(double, range(3), chunksize=size)) == [0, 2, 4]


# -- its length ------------------------------------------------------------------------------------------------------


@EVERY_KIND
def test_it_has_a_length_when_its_input_has_one(new_manager, kind):
    manager = new_manager()
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


@pytest.mark.parametrize(
    "items", [iter("abc"), BoundlessDataset(), range(10**30)], ids=["iterator", "own", "huge"]
)
def test_it_has_none_when_its_input_has_none(new_manager, items):
    stream = new_manager().map(double, items)
    with pytest.raises(TypeError, match=r"TaskStream.* has no len"):
        len(stream)
    assert bool(stream)
    assert operator.length_hint(stream, 7) == 7
    assert len(take(stream, 3)) == 3
    stream.close()


def test_the_length_is_that_before_anything_was_taken(new_manager):
    class Shrinking:
        def __init__(self):
            self.left = [1, 2, 3]

        def __len__(self):
            return len(self.left)

        def __iter__(self):
            while self.left:
                yield self.left.pop()

    assert len(new_manager().map(double, Shrinking())) == 3


def test_an_input_whose_length_fails_is_refused_before_anything_is_taken(new_manager):
    class Broken(Input):
        def __len__(self):
            raise InputError

    items = Broken(range(3))
    with pytest.raises(InputError):
        new_manager().map(double, items)
    assert items.taken == 0


@EVERY_KIND
def test_tqdm_shows_a_full_bar(new_manager, kind):
    tqdm = pytest.importorskip("tqdm")
    tqdm.tqdm.monitor_interval = 0  # no thread of its own
    manager = new_manager()
    with open(os.devnull, "w") as nowhere:
        bar = tqdm.tqdm(manager.map(double, range(20), **kind), file=nowhere)
        assert bar.total == 20
        assert sorted(bar) == [2 * i for i in range(20)]
        assert bar.n == 20
        assert tqdm.tqdm(manager.map(double, iter("abc"), **kind), file=nowhere).total is None


# -- wrong arguments (the values are in test_bad_input) --------------------------------------------------------------


def test_wrong_arguments_are_refused_before_anything_is_taken(new_manager):
    manager = new_manager()
    items = Input(itertools.count())
    for options in (
        {"chunksize": 0},
        {"max_in_flight": 0},
        {"timeout": 0},
        {"ordered": 1},
        {"priority": None},
    ):
        (name,) = options
        with pytest.raises(ConfigError, match=f"{name} must be .*, not {options[name]}"):
            manager.map(double, items, **options)
    with pytest.raises(TypeError, match=r"cannot be called with the resource and 1 more argument"):
        manager.map(lambda resource: 0, items)
    with pytest.raises(TypeError, match="tiemout"):
        manager.map(double, items, tiemout=1)
    assert items.taken == 0
    assert manager.metrics().total_tasks_arrived == 0


def test_a_window_smaller_than_a_chunk_is_refused(new_manager):
    with pytest.raises(
        ConfigError, match=r"max_in_flight must be None or at least chunksize \(3\), not 2"
    ):
        new_manager().map(double, [1], max_in_flight=2, chunksize=3)


@pytest.mark.parametrize("items", [5, None, list, double, len])
def test_what_cannot_be_iterated_is_refused_by_name(new_manager, items):
    with pytest.raises(TypeError, match=r"items must be iterable, not "):
        new_manager().map(double, items)


def test_an_input_whose_own_iter_fails_says_so_itself(new_manager):
    class Broken:
        def __iter__(self):
            raise TypeError("my own")

    with pytest.raises(TypeError, match="my own"):
        new_manager().map(double, Broken())

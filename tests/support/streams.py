"""What streams are made of in tests: inputs, tasks, and the kinds of streams."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import Counter

import pytest

from tasker.testing import ManualClock
from tests.support.errors import Sick
from tests.support.waiting import PATIENCE

ORDERS = pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
CHUNKS = pytest.mark.parametrize("chunksize", [1, 3])
KINDS = [
    {"ordered": True},
    {"ordered": False},
    {"chunksize": 3},
    {"chunksize": 3, "ordered": False},
]
EVERY_KIND = pytest.mark.parametrize(
    "kind", KINDS, ids=["ordered", "unordered", "chunks", "chunks unordered"]
)


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

"""What a callable is, told without `inspect` where that is possible: as `inspect` tells it."""

from __future__ import annotations

import functools
import inspect
import sys
from types import FunctionType
from typing import Any
from unittest import mock

import pytest

from tasker._base import callables
from tasker._base.callables import (
    ASYNC_GENERATOR,
    COROUTINE,
    GENERATOR,
    deferred_kind,
    plainly_takes,
)
from tasker._sync.guarded_logger import _takes_exc_info
from tasker._tasks.hooks import takes_resource
from tasker._tasks.signature import wants_context


class Made:
    def plain(self, a):
        return a

    async def coroutine(self): ...

    @classmethod
    def of_class(cls, a):
        return a


class Called:
    async def __call__(self): ...


def plain(a, b):
    return a, b


async def coroutine(): ...


async def async_generator():
    yield


def generator():
    yield


def decorated(*args):
    return plain(*args)


functools.update_wrapper(decorated, plain)


@pytest.mark.parametrize(
    "name", [name for name in vars(callables) if name.lstrip("_").startswith("CO_")]
)
def test_the_flags_are_those_of_inspect(name):
    assert getattr(callables, name) == getattr(inspect, name.lstrip("_"))


def test_what_only_makes_something_is_told():
    kinds = {COROUTINE: coroutine, ASYNC_GENERATOR: async_generator, GENERATOR: generator}
    for kind, function in kinds.items():
        for form in (
            function,
            functools.partial(function),
            functools.partial(functools.partial(function), key=1),
        ):
            assert deferred_kind(form) == kind
    for bound in (
        Made().coroutine,
        functools.partial(Made().coroutine),
        Called(),
        mock.AsyncMock(),
    ):
        assert deferred_kind(bound) == COROUTINE
    for form in (
        plain,
        Made,
        Made().plain,
        Made.of_class,
        len,
        [].append,
        list.append,
        functools.partial(plain),
        1,
    ):
        assert deferred_kind(form) == ""


@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="a function can be marked from Python 3.12 on"
)
def test_a_function_that_is_marked_as_a_coroutine_function_is_one():
    marked: Any = inspect.markcoroutinefunction(FunctionType(plain.__code__, {}))
    assert deferred_kind(marked) == deferred_kind(functools.partial(marked)) == COROUTINE
    with pytest.raises(TypeError, match="a coroutine function"):
        wants_context(inspect.markcoroutinefunction(Marked()), 1)


class Marked:
    def __call__(self, resource): ...


def test_what_plainly_takes_some_arguments_can_be_called_with_them():
    forms = [
        plain,
        Made().plain,
        Made.plain,
        Made.of_class,
        decorated,
        len,
        Made,
        lambda *a: a,
        lambda a, *, b: a,
    ]
    forms += [
        functools.partial(plain, 1),
        functools.partial(plain, b=1),
        functools.partial(Made().plain),
    ]
    if sys.version_info >= (3, 14):
        forms += [
            functools.partial(plain, functools.Placeholder, 1),
            functools.partial(plain, functools.Placeholder, 1),
        ]
    for form in forms:
        for given in range(4):
            if plainly_takes(form, given):
                inspect.signature(form).bind(*[None] * given)
    assert plainly_takes(plain, 2)
    assert plainly_takes(Made().plain, 1)
    assert plainly_takes(functools.partial(plain, 1), 1)


@pytest.mark.skipif(
    sys.version_info < (3, 14), reason="a partial has placeholders from Python 3.14 on"
)
def test_a_placeholder_is_no_argument():
    three = FunctionType((lambda a, b, c: None).__code__, {})
    assert not plainly_takes(functools.partial(three, functools.Placeholder, 1), 1)


@pytest.mark.parametrize(
    ("check", "takes"),
    [
        (lambda error: True, False),
        (lambda error, resource: True, True),
        (lambda error, resource=None: True, False),
        (functools.partial(plain, 1), False),
        (plain, True),
        (Made().plain, False),
        (decorated, True),
    ],
)
def test_a_check_takes_the_resource_if_it_needs_two_arguments(check, takes):
    assert takes_resource(check) is takes


class Log:
    def plain(self, msg, *args): ...
    def named(self, msg, *args, exc_info=None): ...
    def by_position(self, msg, exc_info, /): ...
    def any(self, msg, *args, **more): ...

    @functools.wraps(any)
    def wrapped(self, *args): ...


@pytest.mark.parametrize(
    ("name", "takes"),
    [("plain", False), ("named", True), ("by_position", False), ("any", True), ("wrapped", True)],
)
def test_whether_a_logger_takes_exc_info_is_told(name, takes):
    for method in (getattr(Log(), name), functools.partial(getattr(Log(), name))):
        assert _takes_exc_info(method) is takes
